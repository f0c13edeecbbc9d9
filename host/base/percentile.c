#include "host/base/percentile.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void percentile_sort(double *values, size_t count) {
    if (count > 1) {
        qsort(values, count, sizeof values[0], compare_doubles);
    }
}

double percentile_of(const double *sorted, size_t count, unsigned percent) {
    assert(percent >= 1 && percent <= 100);
    return count == 0 ? (double)NAN : sorted[(count * percent + 99) / 100 - 1];
}
