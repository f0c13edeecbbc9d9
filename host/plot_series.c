/* Series of points in bounded memory. */
#include <assert.h>
#include <math.h>
#include <stdlib.h>

#include "host/plot.h"

enum status plot_series_init(struct plot_series *series, size_t capacity, enum plot_merge merge,
                             struct error *err) {
    assert(capacity > 0 && capacity % 2 == 0);
    *series = (struct plot_series){.capacity = capacity, .merge = merge, .stride = 1};
    series->points = calloc(capacity, sizeof *series->points);
    series->weights = calloc(capacity, sizeof *series->weights);
    if (series->points == NULL || series->weights == NULL) {
        plot_series_free(series);
        return error_set(err, STATUS_MEMORY, "no memory for a curve of %zu points", capacity);
    }
    return STATUS_OK;
}

void plot_series_free(struct plot_series *series) {
    free(series->points);
    free(series->weights);
    *series = (struct plot_series){0};
}

/* Put (x, y) into point `at`, which holds `values` values so far. */
static void merge_into(struct plot_series *series, size_t at, double values, double x, double y,
                       double more_values, double weight) {
    struct plot_point *point = &series->points[at];
    double *sum = &series->weights[at];
    if (series->merge == PLOT_MERGE_MAX) {
        if (weight > 0 && (!(*sum > 0) || y > point->y)) {
            *point = (struct plot_point){x, y};
        }
    } else {
        point->x += (x - point->x) * more_values / (values + more_values);
        if (weight > 0) {
            point->y = *sum > 0 ? point->y + (y - point->y) * weight / (*sum + weight) : y;
        }
    }
    *sum += weight;
}

static void halve(struct plot_series *series) {
    double values = (double)series->stride;
    for (size_t i = 0; i < series->capacity / 2; i++) {
        struct plot_point second = series->points[2 * i + 1];
        double weight = series->weights[2 * i + 1];
        series->points[i] = series->points[2 * i];
        series->weights[i] = series->weights[2 * i];
        merge_into(series, i, values, second.x, second.y, values, weight);
    }
    series->count = series->capacity / 2;
    series->stride *= 2;
    series->pending = series->stride;
}

void plot_series_add(struct plot_series *series, double x, double y) {
    if (series->count == series->capacity && series->pending == series->stride) {
        halve(series);
    }
    if (series->count == 0 || series->pending == series->stride) {
        series->points[series->count] = (struct plot_point){x, isfinite(y) ? y : (double)NAN};
        series->weights[series->count++] = isfinite(y) ? 1 : 0;
        series->pending = 1;
        return;
    }
    merge_into(series, series->count - 1, (double)series->pending, x, y, 1, isfinite(y) ? 1 : 0);
    series->pending++;
}
