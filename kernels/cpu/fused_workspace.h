/* fused_workspace.h - how the fused kernels divide the workspace of a batch.
 *
 * Units are padded to whole vectors of `lanes` floats and dealt out in blocks of `lanes` units. The
 * four gates of a block lie side by side, so that row j of a matrix over gates [4H, ..] stands at
 * block * 4 lanes + gate * lanes + unit: "in gate order" below. Padding holds zeros.
 *
 * A slice is FUSED_SLICE sequences of the batch. What a direction of a slice keeps per token lies
 * in the order in which time passes, step after step, and within a step sequence after sequence of
 * those still running: written front to back by the forward pass, read back to front by the other.
 *
 * The division is a pure function of shape, lanes and batch, so that every op of one batch finds
 * the same places. The head's part is that of cpu_workspace.h.
 *
 * THREADS: plain values; written by the thread that calls the op, read by its tasks.
 */
#ifndef CAIRN_KERNELS_CPU_FUSED_WORKSPACE_H
#define CAIRN_KERNELS_CPU_FUSED_WORKSPACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    FUSED_SLICE = 16, /* sequences that one task carries through time: 64 at once are hardly faster,
                         and fewer leave more tasks to more threads */
    FUSED_CHUNK = 64, /* rows whose gate gradients are kept in cache for dW; at least a slice */
    FUSED_KEPT = 5    /* vectors kept per block of units and token: i, f, g, o and c */
};

struct fused_workspace {
    size_t units;   /* H rounded up to whole vectors */
    size_t inputs;  /* E likewise */
    size_t blocks;  /* vectors in `units` */
    size_t slices;  /* of the batch */
    size_t scratch; /* floats per slice and direction */

    /* the words of the batch */
    uint64_t *offset;    /* [B] index of each sequence's first token in the batch */
    uint32_t *distinct;  /* [1] U, number of distinct words */
    uint32_t *words;     /* [U] distinct words in order of first sight */
    uint32_t *word_slot; /* [V] place in `words`; UINT32_MAX when absent */
    uint32_t *slot;      /* [N] place in `words` of each token */

    /* the same for each slice by itself, only when training */
    uint64_t *slice_first; /* [slices + 1] index in slice_words of each slice's first word */
    uint32_t *slice_words; /* [slice_first[slices]] place in `words` of each slice's words */
    uint32_t *slice_slot;  /* [N] place among its slice's words of each token */

    float *states;    /* [2 * slices, scratch] what a task carries along */
    float *embedding; /* [U, inputs] rows of `words` */

    /* per direction */
    float *bias[2];    /* [4 units] in gate order */
    float *pack_ih[2]; /* W_ih, packed one way or the other; later the sums of dW_ih */
    float *pack_hh[2]; /* W_hh likewise */
    float *table[2];   /* [blocks, U, 4 lanes] W_ih E + b of each word; later their gradients */
    float *kept[2];    /* of each step [blocks, running, FUSED_KEPT, lanes], only when training */
    float *sums[2];    /* gate gradients of each slice's words, only when training */
};

/* Bytes that a workspace of `sequences` and `tokens` takes; SIZE_MAX when it does not fit. */
size_t fused_workspace_bytes(const struct model_shape *shape, uint32_t lanes, uint32_t sequences,
                             uint64_t tokens, bool training);

/* Divide `memory`, which has at least that many bytes and is aligned to 64. */
struct fused_workspace fused_workspace_make(void *memory, const struct model_shape *shape,
                                            uint32_t lanes, uint32_t sequences, uint64_t tokens,
                                            bool training);

#ifdef __cplusplus
}
#endif
#endif
