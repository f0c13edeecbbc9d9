/* checkpoint_frames.c - a checkpoint's content as zstd frames, made on one thread or on several.
 *
 * THREADS: a slot belongs to the lane that claimed its piece until it is ready, then to the caller
 * until the piece is taken. A piece may be claimed when the one that had the slot before is taken.
 */
#include "io/checkpoint_frames.h"

#include <assert.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include <zstd.h>

#include "host/base/parallel.h"
#include "io/checkpoint_layout.h"

enum {
    STORE_BELOW_LEVEL = 3,
    SAMPLE_BYTES = 64 << 10, /* of a piece, in slices that lie evenly in it */
    SAMPLE_SLICES = 16
};

struct lane {
    ZSTD_CCtx *zstd;
    uint8_t *piece; /* [CHECKPOINT_FRAME_BYTES] for one that lies in more tensors than one */
};

struct slot {
    uint8_t *bytes; /* [capacity] */
    struct checkpoint_frame frame;
    enum status status; /* OK, or there is no frame, and why */
    struct error err;
    bool ready;
};

struct checkpoint_frames {
    unsigned threads, slot_count;
    bool may_store;
    size_t capacity;    /* of a slot */
    struct lane *lanes; /* [threads] */
    struct slot *slots; /* [slot_count] */
    double cpu_seconds;

    /* The run. Constant while it lasts: */
    const struct tensor_view *tensors;
    uint64_t data_bytes, pieces;
    checkpoint_take take;
    void *context;
    /* Guarded by the mutex, as is slot.ready: */
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool has_mutex, has_changed;
    uint64_t claimed, taken; /* pieces */
    bool ended;
    /* The caller's lane alone: how the run went, and why. */
    enum status status;
    struct error err;
};

/* ---- one piece ------------------------------------------------------------------------------- */

static size_t piece_bytes(const struct checkpoint_frames *frames, uint64_t index) {
    uint64_t left = frames->data_bytes - index * CHECKPOINT_FRAME_BYTES;
    return left < CHECKPOINT_FRAME_BYTES ? (size_t)left : CHECKPOINT_FRAME_BYTES;
}

/* The `size` bytes of content from `offset`: where they are, or gathered into `into`. */
static const uint8_t *gather(const struct checkpoint_frames *frames, uint64_t offset, size_t size,
                             uint8_t *into) {
    const struct tensor_view *tensor = frames->tensors;
    uint64_t bytes = tensor_known_bytes(tensor);
    for (; offset >= bytes; bytes = tensor_known_bytes(tensor)) {
        offset -= bytes;
        tensor++;
    }
    if (size <= bytes - offset) {
        return (const uint8_t *)tensor->data + offset;
    }
    for (size_t filled = 0;;) {
        size_t n = bytes - offset < size - filled ? (size_t)(bytes - offset) : size - filled;
        if (n > 0) {
            memcpy(into + filled, (const uint8_t *)tensor->data + offset, n);
        }
        filled += n;
        if (filled == size) {
            return into;
        }
        bytes = tensor_known_bytes(++tensor);
        offset = 0;
    }
}

/* Would the piece shrink by less than an eighth? Judged by a sample of it. */
static bool is_better_stored(struct lane *lane, const uint8_t *piece, size_t size, uint8_t *scratch,
                             size_t scratch_bytes) {
    enum { SLICE = SAMPLE_BYTES / SAMPLE_SLICES };
    if (size < 4 * (size_t)SAMPLE_BYTES) {
        return false;
    }
    uint8_t *sample = scratch, *compressed = scratch + SAMPLE_BYTES;
    for (size_t i = 0; i < SAMPLE_SLICES; i++) {
        memcpy(sample + i * SLICE, piece + size / SAMPLE_SLICES * i, SLICE);
    }
    size_t result =
        ZSTD_compress2(lane->zstd, compressed, scratch_bytes - SAMPLE_BYTES, sample, SAMPLE_BYTES);
    return !ZSTD_isError(result) && result > SAMPLE_BYTES / 8 * 7;
}

/* A zstd frame of raw blocks (RFC 8878, 3.1.1): a single segment with a content size of four bytes
 * and a checksum. */
static size_t store(const uint8_t *piece, size_t size, uint8_t *out) {
    uint8_t *at = out;
    layout_put32(at, LAYOUT_FRAME_MAGIC);
    at[4] = LAYOUT_STORED_DESCRIPTOR;
    layout_put32(at + 5, (uint32_t)size);
    at += 9;
    for (size_t done = 0; done < size; done += LAYOUT_BLOCK_BYTES) {
        size_t n = size - done < LAYOUT_BLOCK_BYTES ? size - done : LAYOUT_BLOCK_BYTES;
        uint32_t last = done + n == size; /* and type 0, raw, in the two bits above */
        uint32_t header = (uint32_t)n << 3 | last;
        at[0] = (uint8_t)header;
        at[1] = (uint8_t)(header >> 8);
        at[2] = (uint8_t)(header >> 16);
        memcpy(at + 3, piece + done, n);
        at += 3 + n;
    }
    layout_put32(at, (uint32_t)XXH64(piece, size, 0));
    return (size_t)(at + LAYOUT_CHECKSUM_BYTES - out);
}

static enum status make_frame(struct checkpoint_frames *frames, struct lane *lane,
                              const uint8_t *piece, size_t size, struct slot *slot,
                              struct error *err) {
    size_t result;
    if (frames->may_store && is_better_stored(lane, piece, size, slot->bytes, frames->capacity)) {
        result = store(piece, size, slot->bytes);
    } else {
        result = ZSTD_compress2(lane->zstd, slot->bytes, frames->capacity, piece, size);
    }
    CHECK(!ZSTD_isError(result), err, STATUS_INTERNAL, "zstd cannot compress a frame: %s",
          ZSTD_getErrorName(result));
    slot->frame = (struct checkpoint_frame){
        .bytes = slot->bytes,
        .size = result,
        .content_bytes = size,
        .checksum = layout_get32(slot->bytes + result - LAYOUT_CHECKSUM_BYTES)};
    return STATUS_OK;
}

enum status checkpoint_frames_make(struct checkpoint_frames *frames, const void *content,
                                   size_t size, struct checkpoint_frame *out, struct error *err) {
    assert(size <= CHECKPOINT_FRAME_BYTES);
    TRY(make_frame(frames, &frames->lanes[0], content, size, &frames->slots[0], err));
    *out = frames->slots[0].frame;
    return STATUS_OK;
}

/* ---- a run ----------------------------------------------------------------------------------- */

static bool may_claim_locked(const struct checkpoint_frames *frames) {
    return frames->claimed < frames->pieces && frames->claimed < frames->taken + frames->slot_count;
}

/* Claim the next piece and make its frame. The mutex is held before and after, not meanwhile. */
static void make_next_locked(struct checkpoint_frames *frames, struct lane *lane) {
    uint64_t index = frames->claimed++;
    struct slot *slot = &frames->slots[index % frames->slot_count];
    pthread_mutex_unlock(&frames->mutex);
    size_t size = piece_bytes(frames, index);
    const uint8_t *piece = gather(frames, index * CHECKPOINT_FRAME_BYTES, size, lane->piece);
    slot->status = make_frame(frames, lane, piece, size, slot, &slot->err);
    pthread_mutex_lock(&frames->mutex);
    slot->ready = true;
    pthread_cond_broadcast(&frames->changed);
}

/* Hand over the frame whose turn it is. As above. */
static void take_next_locked(struct checkpoint_frames *frames, struct slot *slot) {
    pthread_mutex_unlock(&frames->mutex);
    if (slot->status != STATUS_OK) {
        frames->status = slot->status;
        frames->err = slot->err;
    } else {
        frames->status = frames->take(frames->context, &slot->frame, &frames->err);
    }
    pthread_mutex_lock(&frames->mutex);
    slot->ready = false;
    frames->taken++;
    pthread_cond_broadcast(&frames->changed);
}

/* The caller takes what is ready, and makes frames itself while nothing is. */
static void run_caller_locked(struct checkpoint_frames *frames) {
    while (frames->taken < frames->pieces && frames->status == STATUS_OK) {
        struct slot *slot = &frames->slots[frames->taken % frames->slot_count];
        if (slot->ready) {
            take_next_locked(frames, slot);
        } else if (may_claim_locked(frames)) {
            make_next_locked(frames, &frames->lanes[0]);
        } else {
            pthread_cond_wait(&frames->changed, &frames->mutex);
        }
    }
    frames->ended = true;
    pthread_cond_broadcast(&frames->changed);
}

static void run_helper_locked(struct checkpoint_frames *frames, struct lane *lane) {
    while (!frames->ended && frames->claimed < frames->pieces) {
        if (may_claim_locked(frames)) {
            make_next_locked(frames, lane);
        } else {
            pthread_cond_wait(&frames->changed, &frames->mutex);
        }
    }
}

static void run_lane(void *context, unsigned index) {
    struct checkpoint_frames *frames = context;
    pthread_mutex_lock(&frames->mutex);
    if (index == 0) {
        run_caller_locked(frames);
    } else {
        run_helper_locked(frames, &frames->lanes[index]);
    }
    pthread_mutex_unlock(&frames->mutex);
}

enum status checkpoint_frames_run(struct checkpoint_frames *frames,
                                  const struct tensor_view *tensors, size_t tensor_count,
                                  checkpoint_take take, void *context, struct error *err) {
    uint64_t data_bytes = 0;
    for (size_t i = 0; i < tensor_count; i++) {
        data_bytes += tensor_known_bytes(&tensors[i]);
    }
    frames->tensors = tensors;
    frames->data_bytes = data_bytes;
    frames->pieces = layout_data_frames(data_bytes);
    frames->take = take;
    frames->context = context;
    frames->claimed = frames->taken = 0;
    frames->ended = false;
    frames->status = STATUS_OK;
    frames->err = (struct error){STATUS_OK, ""};
    for (size_t i = 0; i < frames->slot_count; i++) {
        frames->slots[i].ready = false;
    }
    unsigned lanes = frames->pieces < frames->threads ? (unsigned)frames->pieces : frames->threads;
    frames->cpu_seconds += parallel_run(lanes, run_lane, frames);
    if (frames->status != STATUS_OK && err != NULL) {
        *err = frames->err;
    }
    return frames->status;
}

double checkpoint_frames_cpu_seconds(struct checkpoint_frames *frames) {
    double seconds = frames->cpu_seconds;
    frames->cpu_seconds = 0;
    return seconds;
}

unsigned checkpoint_frames_threads(const struct checkpoint_frames *frames) {
    return frames->threads;
}

/* ---- create and free ------------------------------------------------------------------------- */

static enum status set_parameter(ZSTD_CCtx *zstd, ZSTD_cParameter parameter, int value,
                                 struct error *err) {
    size_t result = ZSTD_CCtx_setParameter(zstd, parameter, value);
    CHECK(!ZSTD_isError(result), err, STATUS_CONFIG, "zstd refuses compression setting %d: %s",
          value, ZSTD_getErrorName(result));
    return STATUS_OK;
}

static enum status create_lane(struct checkpoint_frames *frames, struct lane *lane, int level,
                               struct error *err) {
    lane->zstd = ZSTD_createCCtx();
    lane->piece = calloc(1, CHECKPOINT_FRAME_BYTES);
    CHECK(lane->zstd != NULL && lane->piece != NULL, err, STATUS_MEMORY,
          "no memory for compressing checkpoints");
    TRY(set_parameter(lane->zstd, ZSTD_c_compressionLevel, level, err));
    TRY(set_parameter(lane->zstd, ZSTD_c_checksumFlag, 1, err));
    TRY(set_parameter(lane->zstd, ZSTD_c_contentSizeFlag, 1, err));
    /* zstd allocates its tables at the first frame: let that happen now. */
    size_t size = ZSTD_compress2(lane->zstd, frames->slots[0].bytes, frames->capacity, lane->piece,
                                 CHECKPOINT_FRAME_BYTES);
    CHECK(!ZSTD_isError(size), err, STATUS_MEMORY, "compressing checkpoints cannot be prepared: %s",
          ZSTD_getErrorName(size));
    return STATUS_OK;
}

static enum status create_parts(struct checkpoint_frames *frames, int level, struct error *err) {
    frames->has_mutex = pthread_mutex_init(&frames->mutex, NULL) == 0;
    frames->has_changed = pthread_cond_init(&frames->changed, NULL) == 0;
    frames->lanes = calloc(frames->threads, sizeof frames->lanes[0]);
    frames->slots = calloc(frames->slot_count, sizeof frames->slots[0]);
    CHECK(frames->has_mutex && frames->has_changed && frames->lanes != NULL &&
              frames->slots != NULL,
          err, STATUS_MEMORY, "no memory for compressing checkpoints");
    for (size_t i = 0; i < frames->slot_count; i++) {
        frames->slots[i].bytes = malloc(frames->capacity);
        CHECK(frames->slots[i].bytes != NULL, err, STATUS_MEMORY,
              "no memory for a frame of a checkpoint");
    }
    for (size_t i = 0; i < frames->threads; i++) {
        TRY(create_lane(frames, &frames->lanes[i], level, err));
    }
    return STATUS_OK;
}

enum status checkpoint_frames_create(int level, unsigned threads, struct checkpoint_frames **out,
                                     struct error *err) {
    CHECK(level >= -7 && level <= 19, err, STATUS_CONFIG,
          "compression level %d: a level from -7 to 19 is needed", level);
    CHECK(threads >= 1 && threads <= PARALLEL_LANES_MAX, err, STATUS_CONFIG,
          "%u compression threads: from 1 to %d are possible", threads, (int)PARALLEL_LANES_MAX);
    struct checkpoint_frames *frames = calloc(1, sizeof *frames);
    CHECK(frames != NULL, err, STATUS_MEMORY, "no memory for compressing checkpoints");
    frames->threads = threads;
    frames->slot_count = threads == 1 ? 1 : threads + 1; /* one more, so that lanes seldom wait */
    frames->may_store = level < STORE_BELOW_LEVEL && level != 0; /* 0 is zstd's default, 3 */
    frames->capacity = ZSTD_compressBound(CHECKPOINT_FRAME_BYTES);
    enum status status = create_parts(frames, level, err);
    if (status != STATUS_OK) {
        checkpoint_frames_free(frames);
        return status;
    }
    *out = frames;
    return STATUS_OK;
}

void checkpoint_frames_free(struct checkpoint_frames *frames) {
    if (frames == NULL) {
        return;
    }
    for (size_t i = 0; frames->lanes != NULL && i < frames->threads; i++) {
        ZSTD_freeCCtx(frames->lanes[i].zstd);
        free(frames->lanes[i].piece);
    }
    for (size_t i = 0; frames->slots != NULL && i < frames->slot_count; i++) {
        free(frames->slots[i].bytes);
    }
    free(frames->lanes);
    free(frames->slots);
    if (frames->has_changed) {
        pthread_cond_destroy(&frames->changed);
    }
    if (frames->has_mutex) {
        pthread_mutex_destroy(&frames->mutex);
    }
    free(frames);
}
