/* fused.h - the pieces of the fused kernels, one set per instruction set (reference.h, CPU_SYMBOL).
 *
 * fused_words.c    words of the batch, their table W_ih E + b, and its gradients
 * fused_forward.c  the recurrence
 * fused_backward.c its gradients, dW_hh and db
 * fused_pack.c     weights into the order the loops read them in
 * fused.c          the table of operations
 *
 * The three recurrent products (h W_hh; dz W_hh; dz h summed over tokens) multiply factors as
 * factors.h has them: fp32, or bf16 where the sources are compiled with FUSED_BF16.
 *
 * The mathematics is that of ops.h and reference.c; what differs is where the numbers are while
 * they are worked on. A task carries one direction of one slice through time, a block of units after
 * the other, so that a block's weights stay in the nearest cache. Memory is slower than arithmetic
 * here: the forward pass keeps 5 numbers per unit and token and writes them past the caches, the
 * backward pass fetches them ahead of time and computes the rest again, and gate gradients never
 * leave the cache: dW_hh, db and the sums per word take them up chunk by chunk.
 *
 * Results do not depend on threads: what a task sums is fixed by the batch (FUSED_SLICE, FUSED_CHUNK)
 * and tasks' sums are added in the order of the slices.
 *
 * THREADS: as reference.h.
 */
#ifndef CAIRN_KERNELS_CPU_FUSED_H
#define CAIRN_KERNELS_CPU_FUSED_H

#include "kernels/cpu/cpu_pool.h"
#include "kernels/cpu/fused_workspace.h"
#include "kernels/cpu/reference.h"
#include "kernels/cpu/simd.h"

enum { GATE_LANES = 4 * SIMD_LANES }; /* floats of a block of units, all gates */

/* One call: the arguments and the divided workspace. */
struct fused_job {
    const struct lstm_args *args;
    struct fused_workspace ws;
};

/* One direction of one slice. */
struct fused_slice {
    uint32_t dir, index, count;
    uint64_t first;         /* sequence of the batch */
    uint64_t tokens;        /* in the whole slice */
    const uint32_t *length; /* [count] descending */
    const uint64_t *offset; /* [count] */
    float *kept;            /* [tokens, ..] when training */
    float *scratch;
};

static inline struct fused_slice fused_slice_make(const struct fused_job *job, uint32_t task) {
    const struct batch_view *batch = &job->args->batch;
    const struct fused_workspace *ws = &job->ws;
    struct fused_slice s = {.dir = task % 2, .index = task / 2};
    s.first = (uint64_t)s.index * FUSED_SLICE;
    uint64_t left = batch->sequences - s.first;
    s.count = left < FUSED_SLICE ? (uint32_t)left : FUSED_SLICE;
    s.length = batch->length + s.first;
    s.offset = ws->offset + s.first;
    uint32_t last = s.count - 1;
    s.tokens = s.offset[last] + s.length[last] - s.offset[0];
    if (job->args->training) {
        s.kept = ws->kept[s.dir] + s.offset[0] * FUSED_KEPT * ws->units;
    }
    s.scratch = ws->states + task * ws->scratch;
    return s;
}

/* Index in the batch of the token that sequence b of the slice reads at step t. */
ALWAYS_INLINE uint64_t fused_token(const struct fused_slice *s, uint32_t b, uint32_t t) {
    return s->offset[b] + (s->dir == 0 ? t : s->length[b] - 1 - t);
}

/* In this order. The first one also numbers the words and packs what fused_forward multiplies by. */
void CPU_SYMBOL(fused_words_table)(struct cpu_pool *pool, const struct fused_job *job);
void CPU_SYMBOL(fused_forward)(struct cpu_pool *pool, const struct fused_job *job);
void CPU_SYMBOL(fused_backward)(struct cpu_pool *pool, const struct fused_job *job);
void CPU_SYMBOL(fused_words_gradients)(struct cpu_pool *pool, const struct fused_job *job);

/* Pack W [4H, depth] as [blocks, depth, GATE_LANES]: the columns of a block's gates side by side.
 * With RECURRENT_TERMS as `terms`, as factors (factors.h), [blocks, factors_depth(depth),
 * GATE_LANES]; with 1 as numbers. */
void CPU_SYMBOL(fused_pack_gates)(float *to, const float *w, size_t H, size_t depth, int terms);

/* Pack W [4H, columns] as [blocks, groups, GATE_LANES, group], a group being tile_columns() of
 * `padded` columns: a block's gates are the depth, and as factors [.., GATE_LANES / terms, group]. */
void CPU_SYMBOL(fused_pack_depth)(float *to, const float *w, size_t H, size_t columns,
                                  size_t padded, int terms);

/* The way back: rows in gate order [4 units, padded] to [4H, columns]. */
void CPU_SYMBOL(fused_unpack)(float *to, const float *sums, size_t H, size_t columns,
                              size_t padded);

#endif
