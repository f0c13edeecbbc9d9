/* A made-up state of any size beside steps that only keep a core busy. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/bench_checkpoint.h"
#include "host/base/rng.h"

enum {
    PARTS = 3, /* weights, m, v */
    TENSORS_MAX = 100,
    ROW = 256,                   /* numbers with one deviation */
    TENSOR_FLOATS_MAX = 4 << 20, /* a part is cut into tensors of about so many */
    NORMALS = 1 << 20,           /* drawn once: longer than zstd looks back in a frame */
    CALIBRATIONS = 5
};

struct synthetic {
    struct checkpoint_trainee base; /* first */
    float *state;                   /* device memory */
    struct snapshot_source sources[PARTS * TENSORS_MAX];
    size_t source_count;
    uint64_t rounds; /* of arithmetic in a step */
    volatile double sink;
};

static struct synthetic *synthetic_of(struct checkpoint_trainee *self) {
    return (struct synthetic *)self;
}

/* ---- steps ----------------------------------------------------------------------------------- */

/* A chain in which every operation needs the one before it: the time depends on the clock only. */
static void work(struct synthetic *synthetic, uint64_t rounds) {
    double x = synthetic->sink;
    for (uint64_t i = 0; i < rounds; i++) {
        x = x * 0.9999999 + 1e-7;
    }
    synthetic->sink = x;
}

static void calibrate(struct synthetic *synthetic, double step_seconds) {
    const uint64_t trial = 5000000;
    double best = INFINITY;
    for (int i = 0; i < CALIBRATIONS; i++) {
        double begin = bench_clock_now();
        work(synthetic, trial);
        double seconds = bench_clock_now() - begin;
        best = seconds < best ? seconds : best;
    }
    synthetic->rounds = (uint64_t)((double)trial * step_seconds / best) + 1;
}

static enum status rewind_steps(struct checkpoint_trainee *self, struct error *err) {
    (void)self, (void)err;
    return STATUS_OK;
}

static enum status make_step(struct checkpoint_trainee *self, struct error *err) {
    (void)err;
    struct synthetic *synthetic = synthetic_of(self);
    work(synthetic, synthetic->rounds);
    if (self->writer != NULL) {
        writer_settle(self->writer); /* here an update would change the state */
    }
    self->step++;
    return STATUS_OK;
}

/* ---- saves ----------------------------------------------------------------------------------- */

static enum status save(struct checkpoint_trainee *self, enum save_outcome *outcome,
                        struct error *err) {
    struct synthetic *synthetic = synthetic_of(self);
    struct save_request request;
    char name[64], step[24];
    request.step = self->step;
    request.must = false;
    request.after_id = 0;
    request.target_count = request.metadata_count = 1;
    request.targets[0].ring = true;
    request.targets[0].weights_only = false;
    store_checkpoint_name(self->step, name);
    CHECK(file_join_path(request.targets[0].path, sizeof request.targets[0].path,
                         store_directory(self->store), name),
          err, STATUS_OUTPUT, "--dir: the path of %s is too long", name);
    snprintf(step, sizeof step, "%" PRIu64, self->step);
    request.metadata[0] = (struct metadata_pair){"step", step};
    return writer_save(self->writer, synthetic->sources, synthetic->source_count, &request, outcome,
                       err);
}

static void heard(struct checkpoint_trainee *self, const struct save_result *result) {
    (void)self, (void)result;
}

static enum status load(struct checkpoint_trainee *self, const struct checkpoint *from,
                        struct error *err) {
    struct synthetic *synthetic = synthetic_of(self);
    struct backend *be = self->be;
    for (size_t i = 0; i < synthetic->source_count; i++) {
        const struct tensor_view *want = &synthetic->sources[i].view;
        const struct tensor_view *have = tensor_find(from->tensors, from->tensor_count, want->name);
        uint64_t bytes = 0, found = 0;
        CHECK(have != NULL && tensor_bytes(have, &found) && tensor_bytes(want, &bytes) &&
                  bytes == found,
              err, STATUS_MISFIT, "tensor %s is not in the checkpoint", want->name);
        TRY(be->table->copy(be, want->data, have->data, (size_t)bytes, BACKEND_STREAM_COMPUTE,
                            err));
    }
    return be->table->stream_synchronize(be, BACKEND_STREAM_COMPUTE, err);
}

/* ---- the state ------------------------------------------------------------------------------- */

/* A number from `low` to `high`, evenly in the logarithm. */
static double draw_deviation(struct rng *rng, double low, double high) {
    return low * pow(high / low, rng_uniform(rng));
}

/* One row of each part; its normal numbers begin somewhere in the table. */
static void fill_row(struct rng *rng, const float *normals, float *const part[PARTS], size_t at,
                     size_t count) {
    float weight = (float)draw_deviation(rng, 0.01, 0.1);
    float moment = (float)draw_deviation(rng, 1e-5, 1e-3);
    size_t from = (size_t)rng_below(rng, NORMALS - 2 * ROW);
    for (size_t i = 0; i < count; i++) {
        float m = normals[from + ROW + i] * moment;
        part[0][at + i] = normals[from + i] * weight;
        part[1][at + i] = m;
        part[2][at + i] = m * m + 1e-12F;
    }
}

static enum status fill_state(struct synthetic *synthetic, size_t part_floats, struct error *err) {
    size_t bytes = synthetic->base.region_bytes;
    float *normals = malloc(NORMALS * sizeof *normals), *host = malloc(bytes);
    enum status status = STATUS_OK;
    if (normals == NULL || host == NULL) {
        status = error_set(err, STATUS_MEMORY, "no memory for a state of %zu bytes", bytes);
    } else {
        struct rng rng = rng_make(1, RNG_STREAM_INIT, 0);
        float *const part[PARTS] = {host, host + part_floats, host + 2 * part_floats};
        for (size_t i = 0; i < NORMALS; i++) {
            normals[i] = (float)rng_normal(&rng);
        }
        for (size_t at = 0; at < part_floats; at += ROW) {
            fill_row(&rng, normals, part, at, part_floats - at < ROW ? part_floats - at : ROW);
        }
        struct backend *be = synthetic->base.be;
        status = be->table->copy(be, synthetic->state, host, bytes, BACKEND_STREAM_COMPUTE, err);
        if (status == STATUS_OK) {
            status = be->table->stream_synchronize(be, BACKEND_STREAM_COMPUTE, err);
        }
    }
    free(normals);
    free(host);
    return status;
}

static void list_sources(struct synthetic *synthetic, size_t part_floats) {
    static const char *const prefixes[PARTS] = {"", "adam.m.", "adam.v."};
    size_t tensors = (part_floats + TENSOR_FLOATS_MAX - 1) / TENSOR_FLOATS_MAX;
    tensors = tensors < 4 ? 4 : tensors > TENSORS_MAX ? TENSORS_MAX : tensors;
    for (size_t p = 0; p < PARTS; p++) {
        for (size_t i = 0; i < tensors; i++) {
            size_t from = part_floats * i / tensors, to = part_floats * (i + 1) / tensors;
            uint64_t length = to - from;
            char name[48];
            snprintf(name, sizeof name, "%slayer%zu.weight", prefixes[p], i);
            synthetic->sources[synthetic->source_count++] = (struct snapshot_source){
                tensor_make(name, DTYPE_F32, synthetic->state + p * part_floats + from, 1, &length),
                SNAPSHOT_DEVICE, .steady = true};
        }
    }
}

static void free_synthetic(struct checkpoint_trainee *self) {
    struct synthetic *synthetic = synthetic_of(self);
    store_close(self->store);
    self->be->table->device_free(self->be, synthetic->state);
    free(synthetic);
}

static enum status open_state(struct synthetic *synthetic, size_t part_floats, double step_seconds,
                              const char *directory, struct error *err) {
    struct checkpoint_trainee *base = &synthetic->base;
    /* One checkpoint stays beside the one being written: they are large. */
    const struct store_options store_options = {.keep_max = 1};
    struct error warning = {0};
    base->region_bytes = PARTS * part_floats * sizeof(float);
    base->state_bytes = (double)base->region_bytes;
    TRY(store_open(&file_posix, directory, &store_options, &base->store, &warning, err));
    TRY(base->be->table->device_alloc(base->be, base->region_bytes, (void **)&synthetic->state,
                                      err));
    base->region = synthetic->state;
    TRY(fill_state(synthetic, part_floats, err));
    list_sources(synthetic, part_floats);
    calibrate(synthetic, step_seconds);
    return STATUS_OK;
}

enum status checkpoint_synthetic_create(struct backend *be, double megabytes, double step_seconds,
                                        const char *directory, struct checkpoint_trainee **out,
                                        struct error *err) {
    struct synthetic *synthetic = calloc(1, sizeof *synthetic);
    CHECK(synthetic != NULL, err, STATUS_MEMORY, "out of memory for a benchmark");
    synthetic->base = (struct checkpoint_trainee){
        .be = be,
        .made_up = true,
        .rewind = rewind_steps,
        .make_step = make_step,
        .save = save,
        .heard = heard,
        .load = load,
        .free = free_synthetic,
    };
    size_t part_floats = (size_t)(megabytes * 1e6 / (PARTS * sizeof(float)));
    enum status status = open_state(synthetic, part_floats, step_seconds, directory, err);
    if (status != STATUS_OK) {
        free_synthetic(&synthetic->base);
        return status;
    }
    *out = &synthetic->base;
    return STATUS_OK;
}
