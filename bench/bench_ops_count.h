/* bench_ops_count.h - floating-point operations of the operations of a step, counted on paper.
 *
 * Counted is what the mathematics of ops.h cannot do without, a multiply-add as two: the products
 * with W_hh and its gradient, over tokens that are there (never padding); the products of the
 * embedding's gradients over the different words of the batch; the products of the head. Not
 * counted: elementwise work, the sum of the gates of a word, and the product of the embedding with
 * W_ih in lstm_forward, whose size depends on the way a backend does it. Their time is in the rates
 * all the same.
 *
 * THREADS: no shared state.
 */
#ifndef CAIRN_BENCH_BENCH_OPS_COUNT_H
#define CAIRN_BENCH_BENCH_OPS_COUNT_H

#include "bench/bench_rig.h"

#ifdef __cplusplus
extern "C" {
#endif

double bench_ops_count_forward(const struct bench_rig *rig);  /* h W_hh: 8 H^2 a token, direction */
double bench_ops_count_backward(const struct bench_rig *rig); /* dh, dW_hh: 16 H^2 */
double bench_ops_count_embedding_grad(const struct bench_rig *rig); /* dE, dW_ih: 16 H E a word */
double bench_ops_count_head(const struct bench_rig *rig);           /* logits, d_final_state, dW */

#ifdef __cplusplus
}
#endif
#endif
