/* bench_lengths.h - made-up batches whose lengths look like those of the IMDB reviews.
 *
 * The distribution is a quantile function through published points of the 25,000 training reviews
 * (shortest 10, median 174, mean 233, 90 % below 457, 95 % 595, 99 % 910, longest 2469 tokens),
 * straight lines in the logarithm of the length between them. Nothing is drawn: sequence i of B
 * takes the quantile in the middle of the i-th of B equal parts, so that every machine gets the
 * same batch.
 */
#ifndef CAIRN_BENCH_BENCH_LENGTHS_H
#define CAIRN_BENCH_BENCH_LENGTHS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Tokens of the review that is longer than the part `quantile` (0 to 1) of all. Pure. */
double bench_lengths_quantile(double quantile);

/* Lengths [count], descending: equal parts of the quantiles from `low` to `high`, divided by
 * `divisor` (1, or more for a small test) and at least 1. 0 to 1 is a batch in random order;
 * 0.5 to 0.516 one of the 64 batches of a sorted window. */
void bench_lengths_fill(double low, double high, uint32_t divisor, uint32_t *out, uint32_t count);

#ifdef __cplusplus
}
#endif
#endif
