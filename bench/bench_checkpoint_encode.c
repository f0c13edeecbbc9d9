/* How fast a state becomes the bytes of a file, beside zstd alone on the same state. */
#include <assert.h>
#include <stdlib.h>
#include <zstd.h>

#include "bench/bench_checkpoint.h"
#include "host/base/stop.h"

/* zstd alone: one thread, pieces as long as our frames, no checksum, the output is forgotten. */
struct alone {
    ZSTD_CCtx *zstd;
    uint8_t *out;
    size_t capacity;
};

static enum status forget(void *context, const void *bytes, size_t size, struct error *err) {
    (void)context, (void)bytes, (void)size, (void)err;
    return STATUS_OK;
}

static enum status encode(struct checkpoint_encoder *encoder, const struct checkpoint *state,
                          double *seconds, double *bytes, struct error *err) {
    uint64_t size;
    double begin = bench_clock_now();
    TRY(checkpoint_encode(encoder, state->tensors, state->tensor_count, NULL, 0, forget, NULL,
                          &size, NULL, err));
    *seconds = bench_clock_now() - begin;
    *bytes = (double)size;
    return STATUS_OK;
}

static enum status compress_tensor(const struct alone *alone, const struct tensor_view *tensor,
                                   double *bytes, struct error *err) {
    const uint8_t *at = tensor->data;
    for (uint64_t left = tensor_known_bytes(tensor); left > 0;) {
        size_t n = left < CHECKPOINT_FRAME_BYTES ? (size_t)left : CHECKPOINT_FRAME_BYTES;
        size_t result = ZSTD_compress2(alone->zstd, alone->out, alone->capacity, at, n);
        CHECK(!ZSTD_isError(result), err, STATUS_INTERNAL, "zstd cannot compress: %s",
              ZSTD_getErrorName(result));
        *bytes += (double)result;
        at += n;
        left -= n;
    }
    return STATUS_OK;
}

static enum status compress(const struct alone *alone, const struct checkpoint *state,
                            double *seconds, double *bytes, struct error *err) {
    double begin = bench_clock_now();
    *bytes = 0;
    for (size_t i = 0; i < state->tensor_count; i++) {
        TRY(compress_tensor(alone, &state->tensors[i], bytes, err));
    }
    *seconds = bench_clock_now() - begin;
    return STATUS_OK;
}

/* In turns; the first round, which touches new memory, does not count. */
static enum status measure(struct checkpoint_encoder *encoder, const struct alone *alone,
                           const struct checkpoint *state, struct checkpoint_encoding *out,
                           struct error *err) {
    for (unsigned round = 0; round <= out->repeats; round++) {
        double ours, theirs;
        CHECK(stop_signal() == 0, err, STATUS_STOPPED, "stopped by a signal");
        TRY(encode(encoder, state, &ours, &out->bytes, err));
        TRY(compress(alone, state, &theirs, &out->zstd_bytes, err));
        if (round > 0) {
            out->speed[round - 1] = out->raw_bytes / ours;
            out->zstd_speed[round - 1] = out->raw_bytes / theirs;
            out->share[round - 1] = theirs / ours;
        }
    }
    return STATUS_OK;
}

static enum status prepare_and_measure(const struct checkpoint *state,
                                       const struct options *options, struct alone *alone,
                                       struct checkpoint_encoder **encoder,
                                       struct checkpoint_encoding *out, struct error *err) {
    out->level = (int)options->compression_level;
    out->threads = (unsigned)options->compression_threads;
    out->raw_bytes = 0;
    for (size_t i = 0; i < state->tensor_count; i++) {
        out->raw_bytes += (double)tensor_known_bytes(&state->tensors[i]);
    }
    TRY(checkpoint_encoder_create(out->level, out->threads, encoder, err));
    alone->capacity = ZSTD_compressBound(CHECKPOINT_FRAME_BYTES);
    alone->out = malloc(alone->capacity);
    alone->zstd = ZSTD_createCCtx();
    CHECK(alone->out != NULL && alone->zstd != NULL, err, STATUS_MEMORY,
          "out of memory for a benchmark");
    size_t result = ZSTD_CCtx_setParameter(alone->zstd, ZSTD_c_compressionLevel, out->level);
    CHECK(!ZSTD_isError(result), err, STATUS_INTERNAL, "zstd refuses level %d", out->level);
    return measure(*encoder, alone, state, out, err);
}

enum status checkpoint_encoding_run(struct checkpoint_trainee *trainee,
                                    const struct checkpoint_plan *plan, unsigned repeats,
                                    struct checkpoint_encoding *out, struct error *err) {
    struct checkpoint *state;
    struct checkpoint_encoder *encoder = NULL;
    struct alone alone = {0};
    assert(repeats > 0 && repeats <= BENCH_REPEATS_MAX);
    out->repeats = repeats;
    TRY(checkpoint_restore_read(trainee, &state, err));
    enum status status = prepare_and_measure(state, plan->options, &alone, &encoder, out, err);
    checkpoint_encoder_free(encoder);
    ZSTD_freeCCtx(alone.zstd);
    free(alone.out);
    checkpoint_free(state);
    return status;
}
