/* percentile.h - the value that so many per cent of all do not exceed.
 *
 *     percentile_sort(seconds, n);
 *     double p50 = percentile_of(seconds, n, 50), most = percentile_of(seconds, n, 100);
 *
 * THREADS: any. */
#ifndef CAIRN_HOST_BASE_PERCENTILE_H
#define CAIRN_HOST_BASE_PERCENTILE_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Ascending; numbers only, no NaN. */
void percentile_sort(double *values, size_t count);

/* By nearest rank: the smallest of `sorted` that at least `percent` (from 1 to 100) per cent of
 * them do not exceed. NaN when there are none. */
double percentile_of(const double *sorted, size_t count, unsigned percent);

#ifdef __cplusplus
}
#endif
#endif
