/* batcher.h - which examples make up batch k of epoch e, prepared ahead of the trainer.
 *
 * Order is a pure function of (seed, epoch) and the options, so a position is one number:
 *   full:    all examples permuted
 *   buffer:  tf.data's shuffle with a buffer of so many examples, drawn anew each epoch
 *   none:    base order
 *   window > 0: windows of that many examples (rounded up to a multiple of the batch size) are
 *            sorted by descending length (stable), cut into batches, and, unless shuffle is none, all
 *            batches of the epoch are permuted
 *   window 0: batches are cut in plain order
 * One short batch per epoch at most, which is trained. Inside a batch the sequences are sorted by
 * descending length, as kernels/ops.h asks.
 *
 * Usage:
 *     TRY(batcher_create(&options, &corpus, &batcher, err));
 *     TRY(batcher_start(batcher, epoch, position, err));
 *     while ((batch = batcher_next(batcher)) != NULL) {        NULL: the epoch ends
 *         ...
 *         batcher_recycle(batcher, batch);
 *     }
 *     batcher_free(batcher);
 *
 * THREADS: batcher_create starts one thread that fills batches ahead (two circulate); all calls
 * come from the trainer's thread. The corpus must outlive the batcher.
 */
#ifndef CAIRN_HOST_BATCHER_H
#define CAIRN_HOST_BATCHER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/base/status.h"
#include "host/corpus.h"
#include "host/options.h"
#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

struct batcher_options {
    enum shuffle_mode shuffle;
    uint64_t shuffle_buffer;
    uint64_t bucket_window;
    uint64_t batch_size;
    uint64_t seed;
};

/* What the options of a command say. Pure. */
struct batcher_options batcher_options_of(const struct options *options);

/* Host memory owned by the batcher. `view.tokens` is the corpus' own array (host). */
struct batch {
    struct batch_view view;
    uint64_t index;     /* position in the epoch, from 0 */
    uint32_t *examples; /* [B] index of each example in the corpus */
    uint64_t *first;    /* what view.first, .length, .label point to */
    uint32_t *length;
    uint8_t *label;
    uint64_t request; /* private: which batcher_start it was prepared for */
};

struct batcher;

MUST_USE enum status batcher_create(const struct batcher_options *options,
                                    const struct corpus *corpus, struct batcher **out,
                                    struct error *err);

/* Batches of an epoch. */
uint64_t batcher_steps_per_epoch(const struct batcher *batcher);

/* Upper bounds over all epochs and orders, for workspaces: B, N (the longest examples in one
 * batch), T. */
void batcher_limits(const struct batcher *batcher, uint32_t *sequences, uint64_t *total_tokens,
                    uint32_t *longest);

/* Begin (or change to) `epoch` at batch `position` (at most steps_per_epoch); the first batches are
 * prepared in the background. A batch that the trainer still holds must be recycled before.
 * STATUS_CORRUPT for a position beyond the epoch (it came from a checkpoint). */
MUST_USE enum status batcher_start(struct batcher *batcher, uint64_t epoch, uint64_t position,
                                   struct error *err);

/* The next batch of the epoch, in order; NULL at its end. Blocks until it is prepared. */
struct batch *batcher_next(struct batcher *batcher);
void batcher_recycle(struct batcher *batcher, struct batch *batch);

void batcher_free(struct batcher *batcher);

/* The order itself, for tests and for the thread: example indices of epoch `epoch`, batch after
 * batch, into `order` [examples]; `starts` [steps_per_epoch + 1] where each batch begins. Inside a
 * batch sorted by descending length. Pure. STATUS_MEMORY. */
MUST_USE enum status batcher_order(const struct batcher_options *options,
                                   const struct corpus *corpus, uint64_t epoch, uint32_t *order,
                                   uint64_t *starts, struct error *err);

/* For evaluation: sort the example indices in `order` [count] by descending length, equal ones by
 * index. */
void batcher_sort_by_length(const struct corpus *corpus, uint32_t *order, size_t count);

#ifdef __cplusplus
}
#endif
#endif
