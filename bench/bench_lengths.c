#include "bench/bench_lengths.h"

#include <math.h>
#include <stddef.h>

/* The points that are not published (1, 5, 25, 75 and 99.9 %) are chosen so that the mean comes out
 * as published. */
static const struct {
    double quantile, length;
} points[] = {{0.0, 10},  {0.01, 40},  {0.05, 65},  {0.25, 123},   {0.5, 174}, {0.75, 272},
              {0.9, 457}, {0.95, 595}, {0.99, 910}, {0.999, 1250}, {1.0, 2469}};

double bench_lengths_quantile(double quantile) {
    size_t last = sizeof points / sizeof points[0] - 1, at = 0;
    while (at + 1 < last && quantile > points[at + 1].quantile) {
        at++;
    }
    double part =
        (quantile - points[at].quantile) / (points[at + 1].quantile - points[at].quantile);
    double low = log(points[at].length), high = log(points[at + 1].length);
    return exp(low + fmin(fmax(part, 0.0), 1.0) * (high - low));
}

void bench_lengths_fill(double low, double high, uint32_t divisor, uint32_t *out, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        double quantile = low + (high - low) * ((double)(count - 1 - i) + 0.5) / (double)count;
        double length = bench_lengths_quantile(quantile) / (double)divisor;
        out[i] = length < 1.0 ? 1 : (uint32_t)lround(length);
    }
}
