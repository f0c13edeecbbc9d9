#include "bench/bench_ops_sections.h"

#include "bench/bench_lengths.h"
#include "bench/bench_ops_count.h"
#include "bench/bench_saves.h"

static void fill_uniform(uint32_t *lengths, uint32_t count, uint32_t length) {
    for (uint32_t i = 0; i < count; i++) {
        lengths[i] = length;
    }
}

/* ---- sections ---- */

/* Per time step: the difference between T and 2 T steps, over T. With one sequence it is the
 * latency of a step alone; with more, also what grows with the tokens: the rows' words, dW_hh. */
static void derive_per_step(struct ops_group *group) {
    for (size_t first = 0; first + OPS_LSTM_SUBJECTS < group->count;
         first += 2 * OPS_LSTM_SUBJECTS) {
        size_t twice = first + OPS_LSTM_SUBJECTS;
        double steps = (double)group->entries[first].rig->batch.length[0];
        double backward[2][BENCH_REPEATS_MAX], out[BENCH_REPEATS_MAX];
        ops_group_backward(group, first, backward[0]);
        ops_group_backward(group, twice, backward[1]);
        ops_group_difference(group, "forward per step", twice, group->samples[twice + OPS_FORWARD],
                             group->samples[first + OPS_FORWARD], steps, out);
        ops_group_difference(group, "inference per step", twice,
                             group->samples[twice + OPS_INFERENCE],
                             group->samples[first + OPS_INFERENCE], steps, out);
        ops_group_difference(group, "backward per step", twice, backward[1], backward[0], steps,
                             out);
    }
}

static enum status measure_time_steps(struct ops_bench *bench, uint32_t hidden, uint32_t sequences,
                                      struct ops_group *group, struct error *err) {
    struct model_shape shape = bench->sizes.shape;
    shape.hidden = hidden;
    uint32_t lengths[OPS_SEQUENCES_MAX];
    for (size_t v = 0; v < OPS_VARIANTS; v++) {
        for (uint32_t times = 1; times <= 2 && group->backends[v] != NULL; times++) {
            struct bench_rig *rig;
            fill_uniform(lengths, sequences, times * bench->sizes.steps);
            TRY(ops_group_rig(group, v, &shape, lengths, sequences, &rig, err));
            ops_group_add_lstm(group, v, "uniform", rig);
        }
    }
    TRY(ops_group_run(group, err));
    derive_per_step(group);
    return STATUS_OK;
}

static enum status section_time_steps(struct ops_bench *bench, struct error *err) {
    for (uint32_t h = 0; h < bench->sizes.hidden_count; h++) {
        for (size_t b = 0; b < 2; b++) {
            uint32_t hidden = bench->sizes.hidden[h];
            struct ops_group *group =
                ops_group_open(bench, "recurrence", hidden, OPS_VARIANT_RECURRENCE);
            CHECK(group != NULL, err, STATUS_MEMORY, "out of memory");
            enum status status =
                measure_time_steps(bench, hidden, bench->sizes.step_batch[b], group, err);
            ops_group_close(group);
            TRY(status);
        }
    }
    return STATUS_OK;
}

/* Forward and backward of some batches, given by name and lengths, on every variant. */
static enum status measure_batches(struct ops_group *group, const struct ops_batch *cases,
                                   size_t count, struct error *err) {
    struct ops_bench *bench = group->bench;
    struct model_shape shape = bench->sizes.shape;
    for (size_t v = 0; v < OPS_VARIANTS; v++) {
        for (size_t i = 0; i < count && group->backends[v] != NULL; i++) {
            struct bench_rig *rig;
            TRY(ops_group_rig(group, v, &shape, cases[i].lengths, cases[i].sequences, &rig, err));
            ops_group_add_lstm(group, v, cases[i].name, rig);
        }
    }
    TRY(ops_group_run(group, err));
    for (size_t first = 0; first < group->count; first += OPS_LSTM_SUBJECTS) {
        double out[BENCH_REPEATS_MAX];
        ops_group_backward(group, first, out);
    }
    return STATUS_OK;
}

static enum status measure_cases(struct ops_bench *bench, const char *section,
                                 const struct ops_batch *cases, size_t count, struct error *err) {
    struct ops_group *group =
        ops_group_open(bench, section, bench->sizes.shape.hidden, OPS_VARIANT_ALWAYS);
    CHECK(group != NULL, err, STATUS_MEMORY, "out of memory");
    enum status status = measure_batches(group, cases, count, err);
    ops_group_close(group);
    return status;
}

static enum status section_batch(struct ops_bench *bench, struct error *err) {
    for (uint32_t i = 0; i < bench->sizes.batch_count; i++) {
        struct ops_batch one = {.name = "uniform", .sequences = bench->sizes.batch[i]};
        fill_uniform(one.lengths, one.sequences, bench->sizes.steps);
        TRY(measure_cases(bench, "batch", &one, 1, err));
    }
    return STATUS_OK;
}

/* A batch in random order; and of the 64 that a window of 4096 sorted by length makes, one of about
 * the mean length. */
struct ops_batch bench_ops_random_batch(const struct ops_sizes *sizes) {
    struct ops_batch one = {.name = "imdb", .sequences = sizes->batch_size};
    bench_lengths_fill(0.0, 1.0, sizes->divisor, one.lengths, one.sequences);
    return one;
}

struct ops_batch bench_ops_window_batch(const struct ops_sizes *sizes) {
    struct ops_batch one = {.name = "window", .sequences = sizes->batch_size};
    bench_lengths_fill(42.0 / 64.0, 43.0 / 64.0, sizes->divisor, one.lengths, one.sequences);
    return one;
}

/* A ragged batch beside uniform ones of its longest review (what a padded implementation computes)
 * and of its number of tokens (what it would be without raggedness). */
static enum status section_ragged(struct ops_bench *bench, struct error *err) {
    struct ops_batch cases[4] = {bench_ops_random_batch(&bench->sizes),
                                 {.name = "same longest"},
                                 {.name = "same tokens"},
                                 bench_ops_window_batch(&bench->sizes)};
    uint32_t B = cases[0].sequences, tokens = 0;
    for (uint32_t i = 0; i < B; i++) {
        tokens += cases[0].lengths[i];
    }
    cases[1].sequences = cases[2].sequences = B;
    fill_uniform(cases[1].lengths, B, cases[0].lengths[0]);
    fill_uniform(cases[2].lengths, B, (tokens + B / 2) / B);
    return measure_cases(bench, "ragged", cases, 4, err);
}

/* The operations beside the recurrence, with a vocabulary that takes the table path and with one
 * that takes the plain path. */
static enum status measure_operations(struct ops_group *group, const struct model_shape *shape,
                                      struct error *err) {
    struct ops_batch batch = bench_ops_window_batch(&group->bench->sizes);
    for (size_t v = 0; v < OPS_VARIANTS; v++) {
        if (group->backends[v] == NULL) {
            continue;
        }
        struct bench_rig *rig;
        TRY(ops_group_rig(group, v, shape, batch.lengths, batch.sequences, &rig, err));
        ops_group_add_lstm(group, v, batch.name, rig);
        ops_group_add(group, "embedding_grad", v, batch.name, rig, bench_rig_embedding_grad, 1,
                      bench_ops_count_embedding_grad(rig));
        ops_group_add(group, "head_forward_backward", v, batch.name, rig, bench_rig_head,
                      group->bench->repeated, bench_ops_count_head(rig));
        ops_group_add(group, "global_norm + adam_step", v, batch.name, rig, bench_rig_update,
                      group->bench->repeated, 0.0);
    }
    return ops_group_run(group, err);
}

static enum status section_operations(struct ops_bench *bench, struct error *err) {
    const struct ops_sizes *sizes = &bench->sizes;
    const uint32_t vocabularies[2] = {sizes->shape.vocabulary, sizes->large_vocabulary};
    for (size_t i = 0; i < 2 && vocabularies[i] > 0; i++) {
        struct model_shape shape = sizes->shape;
        shape.vocabulary = vocabularies[i];
        struct ops_group *group =
            ops_group_open(bench, "operations", sizes->shape.hidden, OPS_VARIANT_ALWAYS);
        CHECK(group != NULL, err, STATUS_MEMORY, "out of memory");
        enum status status = measure_operations(group, &shape, err);
        ops_group_close(group);
        TRY(status);
    }
    return STATUS_OK;
}

/* Whole training steps, as `cairn train` enqueues them. */
static enum status measure_steps(struct ops_group *group, struct error *err) {
    const struct ops_sizes *sizes = &group->bench->sizes;
    const struct ops_batch cases[2] = {bench_ops_random_batch(sizes),
                                       bench_ops_window_batch(sizes)};
    struct model_shape shape = sizes->shape;
    for (size_t v = 0; v < OPS_VARIANTS; v++) {
        for (size_t i = 0; i < 2 && group->backends[v] != NULL; i++) {
            struct bench_rig *rig;
            TRY(ops_group_rig(group, v, &shape, cases[i].lengths, cases[i].sequences, &rig, err));
            ops_group_add(group, "training step", v, cases[i].name, rig, bench_rig_step, 1, 0.0);
        }
    }
    return ops_group_run(group, err);
}

static enum status section_step(struct ops_bench *bench, struct error *err) {
    struct ops_group *group =
        ops_group_open(bench, "step", bench->sizes.shape.hidden, OPS_VARIANT_STEP);
    CHECK(group != NULL, err, STATUS_MEMORY, "out of memory");
    enum status status = measure_steps(group, err);
    ops_group_close(group);
    return status;
}

static void report_saves(struct ops_group *group, const struct bench_saves *saves) {
    struct bench_saves_counts counts = bench_saves_count(saves);
    const struct {
        const char *op, *unit;
        double value;
    } rows[] = {
        {"host time of a save, mean", NULL,
         counts.taken > 0 ? counts.stall_seconds / (double)counts.taken : 0.0},
        {"host time of a save, largest", NULL, counts.stall_seconds_max},
        {"snapshots taken", "count", (double)counts.taken},
        {"snapshots skipped", "count", (double)counts.skipped},
        {"bytes of a snapshot", "bytes", (double)counts.bytes},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct ops_entry entry = group->entries[0];
        entry.op = rows[i].op;
        entry.unit = rows[i].unit;
        entry.samples = &rows[i].value;
        entry.repeats = 1;
        entry.times = counts.taken;
        ops_report_add(group->bench->report, &entry);
    }
}

/* Steps with a snapshot after each and steps without, of one and the same model in turn. */
static enum status measure_saves(struct ops_group *group, struct error *err) {
    const struct ops_sizes *sizes = &group->bench->sizes;
    struct ops_batch batch = bench_ops_window_batch(sizes);
    struct model_shape shape = sizes->shape;
    struct bench_rig *rig;
    struct bench_saves *saves;
    size_t v = 0;
    while (v < OPS_VARIANTS && group->backends[v] == NULL) {
        v++;
    }
    CHECK(v < OPS_VARIANTS, err, STATUS_DEVICE, "there are no kernels to measure");
    TRY(ops_group_rig(group, v, &shape, batch.lengths, batch.sequences, &rig, err));
    TRY(bench_saves_create(rig, &saves, err));
    ops_group_add(group, "step without a save", v, batch.name, rig, bench_rig_step, 1, 0.0);
    ops_group_add(group, "step with a save", v, batch.name, rig, bench_saves_step, 1, 0.0);
    ops_group_add(group, "a snapshot by itself", v, batch.name, rig, bench_saves_whole, 1, 0.0);
    for (size_t i = 1; i < group->count; i++) {
        group->subjects[i].context = saves;
        group->subjects[i].finish = bench_saves_finish;
    }
    enum status status = ops_group_run(group, err);
    if (status == STATUS_OK) {
        double out[BENCH_REPEATS_MAX];
        ops_group_difference(group, "a save costs a step", 1, group->samples[1], group->samples[0],
                             1.0, out);
        report_saves(group, saves);
    }
    bench_saves_free(saves);
    return status;
}

static enum status section_save(struct ops_bench *bench, struct error *err) {
    struct ops_group *group =
        ops_group_open(bench, "save", bench->sizes.shape.hidden, OPS_VARIANT_ALWAYS);
    CHECK(group != NULL, err, STATUS_MEMORY, "out of memory");
    enum status status = measure_saves(group, err);
    ops_group_close(group);
    return status;
}

const struct ops_section bench_ops_sections[] = {
    {"recurrence", section_time_steps, bench_ops_cpu_recurrence},
    {"batch", section_batch, section_batch},
    {"ragged", section_ragged, section_ragged},
    {"operations", section_operations, NULL},
    {"step", section_step, section_step},
    {"save", section_save, section_save},
    {NULL, NULL, NULL},
};
