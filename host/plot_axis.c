/* Axes and their ticks. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/plot.h"

enum {
    X_TICKS = 8,
    Y_TICKS = 7,
    Y_TICKS_PRINTED = 5,
    LOG_FROM = 5 /* largest over smallest time */
};

/* ---- labels ---------------------------------------------------------------------------------- */

/* Thousands and millions are written short where the axis is long, with one unit for all ticks. */
static void label_ticks(struct plot_axis *axis, double step) {
    double largest = fmax(fabs(axis->low), fabs(axis->high));
    double unit = largest >= 2e9 ? 1e9 : largest >= 2e6 ? 1e6 : largest >= 2e4 ? 1e3 : 1;
    const char *letter = unit >= 1e9 ? "G" : unit >= 1e6 ? "M" : unit >= 1e3 ? "k" : "";
    int decimals = (int)fmax(0, ceil(-log10(step / unit) - 1e-9));
    bool readable = largest < 1e12 && decimals <= 6;
    for (size_t i = 0; i < axis->tick_count; i++) {
        double value = axis->ticks[i];
        if (fabs(value) < step / 2) { /* also -0 */
            snprintf(axis->labels[i], sizeof axis->labels[i], "0");
        } else if (!readable) {
            snprintf(axis->labels[i], sizeof axis->labels[i], "%.3g", value);
        } else {
            snprintf(axis->labels[i], sizeof axis->labels[i], "%.*f%s", decimals, value / unit,
                     letter);
        }
    }
}

/* ---- linear ---------------------------------------------------------------------------------- */

/* The next of 1, 2, 5, 10, 20, ... times a power of ten that is not less than `least`. */
static double round_step(double least) {
    double power = pow(10, floor(log10(least)));
    double factor = least / power;
    return power * (factor <= 1 + 1e-9 ? 1 : factor <= 2 + 1e-9 ? 2 : factor <= 5 + 1e-9 ? 5 : 10);
}

/* The first and last tick as numbers of steps. An axis that is widened ends at a tick or half-way
 * between two. */
static void count_steps(struct plot_axis *axis, const struct plot_axis *asked, bool widen,
                        double step, double *first, double *last) {
    axis->low = widen ? floor(2 * asked->low / step + 1e-9) * step / 2 : asked->low;
    axis->high = widen ? ceil(2 * asked->high / step - 1e-9) * step / 2 : asked->high;
    *first = ceil(axis->low / step - 1e-9);
    *last = floor(axis->high / step + 1e-9);
}

void plot_axis_init(struct plot_axis *axis, double low, double high, bool widen, bool whole,
                    size_t most) {
    struct plot_axis asked = {.low = low, .high = high};
    double room = fmax(fabs(low), fabs(high)) * 1e-6;
    if (high - low <= room) { /* one value: it stands in the middle */
        double half = whole ? 0.5 : low != 0 ? fabs(low) * 0.1 : 0.5;
        asked.low -= half;
        asked.high += half;
    }
    most = most < 2 ? 2 : most > PLOT_TICKS_MAX ? PLOT_TICKS_MAX : most;
    double first, last, step = round_step((asked.high - asked.low) / (double)most);
    step = whole ? fmax(step, 1) : step;
    *axis = (struct plot_axis){0};
    count_steps(axis, &asked, widen, step, &first, &last);
    while (last - first + 1 > (double)most) {
        step = round_step(step * 1.5);
        count_steps(axis, &asked, widen, step, &first, &last);
    }
    for (double i = first; i <= last; i++) {
        axis->ticks[axis->tick_count++] = i * step;
    }
    label_ticks(axis, step);
}

/* ---- logarithmic ----------------------------------------------------------------------------- */

static const double log_factors[] = {1, 2, 5};

/* Tick number `i`: 1, 2, 5, 10, 20, ... from 10^0. */
static double log_tick(long i) {
    long decade = (i >= 0 ? i : i - 2) / 3;
    return log_factors[i - 3 * decade] * pow(10, (double)decade);
}

static void label_log_tick(double value, char *out, size_t capacity) {
    double unit = value >= 1e12  ? 1
                  : value >= 1e9 ? 1e9
                  : value >= 1e6 ? 1e6
                  : value >= 1e4 ? 1e3
                                 : 1;
    const char *letter = unit >= 1e9 ? "G" : unit >= 1e6 ? "M" : unit >= 1e3 ? "k" : "";
    snprintf(out, capacity, value >= 1e12 ? "%.0e%s" : "%g%s", value / unit, letter);
}

static void add_log_ticks(struct plot_axis *axis, long first, long last, long stride) {
    for (long i = first; i <= last && axis->tick_count < PLOT_TICKS_MAX; i++) {
        if (i % stride == 0) {
            double value = log_tick(i);
            axis->ticks[axis->tick_count] = value;
            label_log_tick(value, axis->labels[axis->tick_count++], sizeof axis->labels[0]);
        }
    }
}

void plot_axis_init_log(struct plot_axis *axis, double low, double high) {
    *axis = (struct plot_axis){.is_log = true};
    long first = 3 * (long)floor(log10(low)), last = 3 * (long)ceil(log10(high)) + 1;
    while (log_tick(first + 1) <= low * (1 + 1e-9)) {
        first++;
    }
    while (log_tick(last - 1) >= high * (1 - 1e-9) && last - 1 > first) {
        last--;
    }
    axis->low = log_tick(first);
    axis->high = log_tick(last);
    /* All of them on a short axis, else one in every decade or few. */
    long stride = last - first <= 7 ? 1 : 3 * (1 + (last - first) / (3 * 8));
    add_log_ticks(axis, first, last, stride);
}

/* ---- places ---------------------------------------------------------------------------------- */

double plot_axis_place(const struct plot_axis *axis, double value) {
    if (axis->is_log) {
        double least = axis->low * 1e-3;
        return log(fmax(value, least) / axis->low) / log(axis->high / axis->low);
    }
    return (value - axis->low) / (axis->high - axis->low);
}

size_t plot_axis_label_width(const struct plot_axis *axis) {
    size_t longest = 0;
    for (size_t i = 0; i < axis->tick_count; i++) {
        size_t size = strlen(axis->labels[i]);
        longest = size > longest ? size : longest;
    }
    return longest;
}

/* ---- the axes of a figure -------------------------------------------------------------------- */

struct range {
    double low, high;
};

static void widen(struct range *range, double value) {
    if (isfinite(value)) {
        range->low = fmin(range->low, value);
        range->high = fmax(range->high, value);
    }
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Losses of single batches are noise around the curves: their extremes do not make the axis. */
static void widen_faint(struct range *range, const struct plot_series *series) {
    double values[PLOT_FAINT_POINTS];
    size_t count = 0;
    for (size_t i = 0; i < series->count && count < PLOT_FAINT_POINTS; i++) {
        if (isfinite(series->points[i].y)) {
            values[count++] = series->points[i].y;
        }
    }
    if (count > 0) {
        qsort(values, count, sizeof *values, compare_doubles);
        widen(range, values[count / 20]);
        widen(range, values[count - 1 - count / 20]);
    }
}

static struct range y_range(const struct plot_panel *panel, bool printed) {
    struct range range = {INFINITY, -INFINITY};
    for (size_t i = 0; i < panel->curve_count; i++) {
        const struct plot_curve *curve = &panel->curves[i];
        if (printed && curve->picture_only) {
            continue;
        }
        if (curve->line == PLOT_LINE_FAINT) {
            widen_faint(&range, &curve->series);
            continue;
        }
        for (size_t j = 0; j < curve->series.count; j++) {
            widen(&range, curve->series.points[j].y);
        }
    }
    for (size_t i = 0; i < panel->mark_count; i++) {
        if (panel->marks[i].kind == PLOT_MARK_LEVEL) {
            widen(&range, panel->marks[i].y);
        }
    }
    return range.low <= range.high ? range : y_range(panel, false);
}

static struct range x_range(const struct plot_figure *figure) {
    struct range range = {INFINITY, -INFINITY};
    for (size_t p = 0; p < figure->panel_count; p++) {
        const struct plot_panel *panel = &figure->panels[p];
        for (size_t i = 0; i < panel->curve_count; i++) {
            const struct plot_series *series = &panel->curves[i].series;
            for (size_t j = 0; j < series->count; j++) {
                widen(&range, series->points[j].x);
            }
        }
        for (size_t i = 0; i < panel->mark_count; i++) {
            if (panel->marks[i].kind == PLOT_MARK_RESTART) {
                widen(&range, panel->marks[i].x);
            }
        }
    }
    /* From the start, unless the run went on from far away. */
    range.low = range.low < (range.high + range.low) / 4 + 1 ? 0 : range.low;
    return range;
}

static void make_y_axis(const struct plot_panel *panel, bool printed, size_t ticks,
                        struct plot_axis *axis) {
    struct range range = y_range(panel, printed);
    if (panel->is_log && range.high >= LOG_FROM * range.low) {
        plot_axis_init_log(axis, range.low, range.high);
    } else { /* a little room, so that no mark stands on the frame; but none beyond 0 and 1 */
        double span = range.high - range.low;
        double around = range.low == 0 ? 0.5 : fmax(0.05 * fabs(range.low), 0.01); /* one value */
        double room = span > 0 ? 0.03 * span : around;
        double low = range.low >= 0 ? fmax(range.low - room, 0) : range.low - room;
        double high = panel->is_share ? fmin(range.high + room, 1) : range.high + room;
        plot_axis_init(axis, low, high, true, false, ticks);
    }
}

void plot_axis_fit(struct plot_figure *figure) {
    struct range x = x_range(figure);
    for (size_t p = 0; p < figure->panel_count; p++) {
        struct plot_panel *panel = &figure->panels[p];
        plot_axis_init(&panel->x, x.low, x.high, false, true, X_TICKS);
        make_y_axis(panel, false, Y_TICKS, &panel->y);
        make_y_axis(panel, true, Y_TICKS_PRINTED, &panel->y_printed);
    }
}
