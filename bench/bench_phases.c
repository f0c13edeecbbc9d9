#include "bench/bench_phases.h"

#include <assert.h>
#include <stdbool.h>
#include <string.h>

#include "bench/bench_clock.h"

const char *bench_phase_name(enum bench_phase phase) {
    static const char *const names[BENCH_PHASE_COUNT] = {
        [BENCH_PHASE_WORDS] = "words",         [BENCH_PHASE_FORWARD] = "forward",
        [BENCH_PHASE_HEAD] = "head",           [BENCH_PHASE_BACKWARD] = "backward",
        [BENCH_PHASE_EMBEDDING] = "embedding", [BENCH_PHASE_UPDATE] = "update",
    };
    assert((unsigned)phase < BENCH_PHASE_COUNT);
    return names[phase];
}

static struct bench_phases *phases_of(struct backend *be) {
    return (struct bench_phases *)(void *)(uintptr_t)be->table;
}

/* ---- one operation ------------------------------------------------------------------------ */

static enum status idle(struct bench_phases *phases, struct error *err) {
    return phases->original->stream_synchronize(phases->be, BACKEND_STREAM_COMPUTE, err);
}

/* Operations in flight belong to whoever enqueued them: the clock starts on an idle stream. */
static enum status begin(struct bench_phases *phases, double *at, struct error *err) {
    TRY(idle(phases, err));
    *at = bench_clock_now();
    return STATUS_OK;
}

/* `status`: what the operation returned. */
static enum status end(struct bench_phases *phases, enum bench_phase phase, double begun,
                       enum status status, struct error *err) {
    TRY(status);
    TRY(idle(phases, err));
    phases->seconds[phase] += bench_clock_now() - begun;
    phases->calls[phase]++;
    return STATUS_OK;
}

static enum status lstm_forward(struct backend *be, const struct lstm_args *args,
                                struct error *err) {
    struct bench_phases *phases = phases_of(be);
    double at, words = phases->seconds[BENCH_PHASE_WORDS];
    TRY(begin(phases, &at, err));
    TRY(end(phases, BENCH_PHASE_FORWARD, at, phases->original->lstm_forward(be, args, err), err));
    phases->seconds[BENCH_PHASE_FORWARD] -= phases->seconds[BENCH_PHASE_WORDS] - words;
    return STATUS_OK;
}

static enum status head_forward_backward(struct backend *be, const struct head_args *args,
                                         struct error *err) {
    struct bench_phases *phases = phases_of(be);
    double at;
    TRY(begin(phases, &at, err));
    return end(phases, BENCH_PHASE_HEAD, at, phases->original->head_forward_backward(be, args, err),
               err);
}

static enum status lstm_backward(struct backend *be, const struct lstm_args *args,
                                 struct error *err) {
    struct bench_phases *phases = phases_of(be);
    double at;
    TRY(begin(phases, &at, err));
    return end(phases, BENCH_PHASE_BACKWARD, at, phases->original->lstm_backward(be, args, err),
               err);
}

static enum status embedding_grad(struct backend *be, const struct lstm_args *args,
                                  struct error *err) {
    struct bench_phases *phases = phases_of(be);
    double at;
    TRY(begin(phases, &at, err));
    return end(phases, BENCH_PHASE_EMBEDDING, at, phases->original->embedding_grad(be, args, err),
               err);
}

static enum status global_norm(struct backend *be, const struct norm_args *args,
                               struct error *err) {
    struct bench_phases *phases = phases_of(be);
    double at;
    TRY(begin(phases, &at, err));
    return end(phases, BENCH_PHASE_UPDATE, at, phases->original->global_norm(be, args, err), err);
}

static enum status adam_step(struct backend *be, const struct adam_args *args, struct error *err) {
    struct bench_phases *phases = phases_of(be);
    double at;
    TRY(begin(phases, &at, err));
    return end(phases, BENCH_PHASE_UPDATE, at, phases->original->adam_step(be, args, err), err);
}

/* A recording would launch what it recorded, past the functions above. */
static enum status replay(struct backend *be, struct backend_recording **recording,
                          enum status (*enqueue)(void *context, struct error *err), void *context,
                          struct error *err) {
    (void)be, (void)recording;
    return enqueue(context, err);
}

/* ---- ranges ------------------------------------------------------------------------------- */

/* The checkpoint writer has ranges too. */
static bool is_owner(const struct bench_phases *phases) {
    return pthread_equal(pthread_self(), phases->owner) != 0;
}

static void range_begin(struct backend *be, const char *name) {
    struct bench_phases *phases = phases_of(be);
    phases->original->range_begin(be, name);
    if (!is_owner(phases)) {
        return;
    }
    if (phases->words_depth > 0) {
        phases->words_depth++;
    } else if (strcmp(name, "words") == 0) {
        phases->words_depth = 1;
        phases->words_begin = bench_clock_now();
    }
}

static void range_end(struct backend *be) {
    struct bench_phases *phases = phases_of(be);
    if (is_owner(phases) && phases->words_depth > 0 && --phases->words_depth == 0) {
        phases->seconds[BENCH_PHASE_WORDS] += bench_clock_now() - phases->words_begin;
        phases->calls[BENCH_PHASE_WORDS]++;
    }
    phases->original->range_end(be);
}

/* ---- begin and end ------------------------------------------------------------------------ */

void bench_phases_begin(struct bench_phases *out, struct backend *be) {
    *out = (struct bench_phases){
        .table = *be->table, .be = be, .original = be->table, .owner = pthread_self()};
    struct backend_table *table = &out->table;
    table->lstm_forward = lstm_forward;
    table->head_forward_backward = head_forward_backward;
    table->lstm_backward = lstm_backward;
    table->embedding_grad = embedding_grad;
    table->global_norm = global_norm;
    table->adam_step = adam_step;
    table->replay = replay;
    table->range_begin = range_begin;
    table->range_end = range_end;
    be->table = table;
}

void bench_phases_end(struct bench_phases *phases) {
    assert(phases->be->table == &phases->table);
    phases->be->table = phases->original;
}
