/* cpu_workspace.h - how the CPU kernels divide the workspace of a batch.
 *
 * The division is a pure function of shape and batch, so that every op of one batch finds the same
 * places. Row n of a per-token array belongs to token n of the batch, counted through the sequences
 * in order: sequence b has rows offset[b] to offset[b] + length[b] - 1, in reading order for both
 * directions.
 *
 * THREADS: plain values; written by the thread that calls the op, read by its tasks.
 */
#ifndef CAIRN_KERNELS_CPU_WORKSPACE_H
#define CAIRN_KERNELS_CPU_WORKSPACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    CPU_SLICE = 16, /* sequences that one task carries through time; also rows per product task */
    CPU_PACK_COLUMNS = 64 /* a packed matrix' columns are padded to a multiple of this */
};

struct cpu_workspace {
    /* the head's own */
    float *hidden;    /* [B, D] after the ReLU */
    float *d_hidden;  /* [B, D] */
    float *d_logit;   /* [B] */
    float *head_pack; /* dense.weight, packed one way or the other */

    /* the words of the batch */
    uint64_t *offset;    /* [B] row of each sequence's first token */
    uint32_t *distinct;  /* [1] U, number of distinct words */
    uint32_t *words;     /* [min(V, N)] distinct words in order of first sight */
    uint32_t *word_slot; /* [V] place in `words`; UINT32_MAX when absent */
    uint32_t *slot;      /* [N] place in `words` of each token */

    /* per direction */
    float *table[2];   /* [U, 4H] W_ih E + b of each word; later the sums of their gate gradients */
    float *pack_ih[2]; /* W_ih, packed one way or the other */
    float *pack_hh[2]; /* W_hh likewise */
    float *scratch;    /* [2 * slices, CPU_SLICE * 6H] states and gates of a slice */

    /* per direction and token, only when training */
    float *gates[2];   /* [N, 4H] i, f, g, o; lstm_backward turns them into gradients of z */
    float *cells[2];   /* [N, H] c before the step */
    float *hiddens[2]; /* [N, H] h before the step */
};

/* Bytes that a workspace of `sequences` and `tokens` takes; SIZE_MAX when it does not fit. */
size_t cpu_workspace_bytes(const struct model_shape *shape, uint32_t sequences, uint64_t tokens,
                           bool training);

/* Bytes of the head's own part, which comes first: the fused kernels put their own behind it. */
size_t cpu_workspace_head_bytes(const struct model_shape *shape, uint32_t sequences);

/* Divide `memory`, which has at least that many bytes and is aligned to 64. */
struct cpu_workspace cpu_workspace_make(void *memory, const struct model_shape *shape,
                                        uint32_t sequences, uint64_t tokens, bool training);

#ifdef __cplusplus
}
#endif
#endif
