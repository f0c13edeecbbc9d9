#include "bench/bench_saves.h"

#include <pthread.h>
#include <stdlib.h>

#include "bench/bench_clock.h"
#include "host/base/queue.h"
#include "io/snapshot.h"

enum { PARTS = 3, SOURCES = PARTS * MODEL_TENSORS };

struct bench_saves {
    struct bench_rig *rig;
    struct snapshot_pool *pool;
    struct queue *filled;
    struct snapshot_source sources[SOURCES];
    struct bench_saves_counts counts;
    pthread_t drainer;
    bool has_drainer;
    struct error failure; /* the drainer's first; read after it was joined or all slots are free */
};

/* The writer's place. */
static void *drain(void *context) {
    struct bench_saves *saves = context;
    struct snapshot_slot *slot;
    while ((slot = queue_pop(saves->filled)) != NULL) {
        struct error err = {0};
        if (snapshot_wait(slot, &err) != STATUS_OK && saves->failure.status == STATUS_OK) {
            saves->failure = err;
        }
        snapshot_release(slot);
    }
    return NULL;
}

/* Weights and both moments, as in a checkpoint. */
static void list_sources(struct bench_saves *saves) {
    const struct model *model = saves->rig->model;
    float *const parts[PARTS] = {model->weights, model->m, model->v};
    const char *const prefixes[PARTS] = {"", "adam.m.", "adam.v."};
    for (size_t p = 0; p < PARTS; p++) {
        struct tensor_view views[MODEL_TENSORS];
        model_views(model, prefixes[p], parts[p], views);
        for (size_t i = 0; i < MODEL_TENSORS; i++) {
            saves->sources[p * MODEL_TENSORS + i] =
                (struct snapshot_source){views[i], SNAPSHOT_DEVICE, false};
        }
    }
}

static enum status open_saves(struct bench_saves *saves, struct error *err) {
    const struct model *model = saves->rig->model;
    list_sources(saves);
    saves->counts.bytes = model->state_bytes;
    TRY(snapshot_pool_create(saves->rig->be, model->state, model->state_bytes, 0, false,
                             &saves->pool, err));
    TRY(queue_create(SNAPSHOT_SLOTS, &saves->filled, err));
    saves->has_drainer = pthread_create(&saves->drainer, NULL, drain, saves) == 0;
    CHECK(saves->has_drainer, err, STATUS_MEMORY, "cannot start a thread");
    return STATUS_OK;
}

enum status bench_saves_create(struct bench_rig *rig, struct bench_saves **out, struct error *err) {
    *out = NULL;
    struct bench_saves *saves = calloc(1, sizeof *saves);
    CHECK(saves != NULL, err, STATUS_MEMORY, "out of memory for a benchmark");
    saves->rig = rig;
    enum status status = open_saves(saves, err);
    if (status != STATUS_OK) {
        bench_saves_free(saves);
        return status;
    }
    *out = saves;
    return STATUS_OK;
}

void bench_saves_free(struct bench_saves *saves) {
    if (saves == NULL) {
        return;
    }
    if (saves->filled != NULL) {
        queue_close(saves->filled);
    }
    if (saves->has_drainer) {
        pthread_join(saves->drainer, NULL);
    }
    queue_free(saves->filled);
    snapshot_pool_free(saves->pool);
    free(saves);
}

enum status bench_saves_step(void *context, struct error *err) {
    struct bench_saves *saves = context;
    TRY(bench_rig_step(saves->rig, err));
    double begin = bench_clock_now();
    struct snapshot_slot *slot = snapshot_acquire(saves->pool);
    if (slot == NULL) {
        saves->counts.skipped++;
        return STATUS_OK;
    }
    enum status status = snapshot_fill(slot, saves->sources, SOURCES, err);
    double seconds = bench_clock_now() - begin;
    if (status != STATUS_OK) {
        snapshot_release(slot);
        return status;
    }
    saves->counts.taken++;
    saves->counts.stall_seconds += seconds;
    if (seconds > saves->counts.stall_seconds_max) {
        saves->counts.stall_seconds_max = seconds;
    }
    (void)queue_push(saves->filled, slot);
    return STATUS_OK;
}

enum status bench_saves_whole(void *context, struct error *err) {
    struct bench_saves *saves = context;
    struct snapshot_slot *slot = snapshot_acquire_wait(saves->pool);
    enum status status = snapshot_fill(slot, saves->sources, SOURCES, err);
    if (status == STATUS_OK) {
        status = snapshot_wait(slot, err);
    }
    snapshot_release(slot);
    return status;
}

enum status bench_saves_finish(void *context, struct error *err) {
    struct bench_saves *saves = context;
    TRY(bench_rig_finish(saves->rig, err));
    struct snapshot_slot *slots[SNAPSHOT_SLOTS];
    for (size_t i = 0; i < SNAPSHOT_SLOTS; i++) {
        slots[i] = snapshot_acquire_wait(saves->pool);
    }
    for (size_t i = 0; i < SNAPSHOT_SLOTS; i++) {
        snapshot_release(slots[i]);
    }
    CHECK(saves->failure.status == STATUS_OK, err, saves->failure.status, "%s",
          saves->failure.message);
    return STATUS_OK;
}

struct bench_saves_counts bench_saves_count(const struct bench_saves *saves) {
    return saves->counts;
}
