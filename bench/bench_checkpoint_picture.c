/* Throughput lost against the interval: with characters, and as a PNG by gnuplot.
 *
 * The axis is logarithmic and ends at 0.01 %. Where a median is less, or by chance below nothing,
 * no loss was measured: in the PNG its mark is hollow, stands on the axis and has no line to it. */
#include <math.h>
#include <string.h>

#include "bench/bench_checkpoint_report.h"
#include "host/gnuplot.h"

#define LEAST_PERCENT 0.01
#define MOST_PERCENT 100.0

static struct bench_spread lost_percent(const struct checkpoint_case *cell, size_t interval,
                                        enum checkpoint_mode mode) {
    struct bench_spread lost =
        checkpoint_cell_spread(cell, interval, mode, offsetof(struct checkpoint_round, lost), 100);
    lost.median = fmax(lost.median, LEAST_PERCENT);
    lost.min = fmax(lost.min, LEAST_PERCENT);
    lost.max = fmax(lost.max, LEAST_PERCENT);
    return lost;
}

/* No loss was measured. */
static bool is_below(const struct checkpoint_case *cell, size_t interval,
                     enum checkpoint_mode mode) {
    return lost_percent(cell, interval, mode).median <= LEAST_PERCENT;
}

static bool is_drawn(const struct checkpoint_case *cell, enum checkpoint_mode mode) {
    return cell->modes[mode] && checkpoint_mode_saves(mode);
}

bool checkpoint_picture_shows(const struct checkpoint_case *cell) {
    bool saves = false;
    for (enum checkpoint_mode mode = 0; mode < CHECKPOINT_MODES; mode++) {
        saves = saves || is_drawn(cell, mode);
    }
    return saves && cell->interval_count > 1 && cell->modes[CHECKPOINT_OFF];
}

/* ---- characters ------------------------------------------------------------------------------ */

enum { ROWS_PER_DECADE = 4, DECADES = 4, ROWS = ROWS_PER_DECADE * DECADES + 1, COLUMN = 9 };

static const char marks[CHECKPOINT_MODES] = {
    [CHECKPOINT_SYNC] = 's',       [CHECKPOINT_SYNC_ZSTD] = 'S', [CHECKPOINT_ASYNC] = 'a',
    [CHECKPOINT_ASYNC_ZSTD] = 'A', [CHECKPOINT_DIRECT] = 'd',    [CHECKPOINT_DIRECT_ZSTD] = 'D',
};

static size_t row_of(double percent) {
    double row = log10(percent / LEAST_PERCENT) * ROWS_PER_DECADE;
    return row <= 0 ? 0 : row >= ROWS - 1 ? ROWS - 1 : (size_t)lround(row);
}

/* One line of the picture, without its axis: the marks of an interval that share it stand side by
 * side. */
static void print_row(const struct checkpoint_case *cell, size_t row, FILE *out) {
    for (size_t interval = 0; interval < cell->interval_count; interval++) {
        int width = 0;
        for (enum checkpoint_mode mode = 0; mode < CHECKPOINT_MODES; mode++) {
            if (is_drawn(cell, mode) && row_of(lost_percent(cell, interval, mode).median) == row) {
                fputc(marks[mode], out);
                width++;
            }
        }
        fprintf(out, "%*s", COLUMN - width, "");
    }
    fputc('\n', out);
}

void checkpoint_picture_print(const struct checkpoint_case *cell, FILE *out) {
    if (!checkpoint_picture_shows(cell)) {
        return;
    }
    fprintf(out, "\n  %s, %s state: throughput lost, %%\n", cell->place, cell->state);
    for (size_t row = ROWS; row-- > 0;) {
        if (row % ROWS_PER_DECADE == 0) {
            double percent = LEAST_PERCENT * pow(10, (double)row / ROWS_PER_DECADE);
            fprintf(out, " %s%6.4g |  ", row == 0 ? "<=" : "  ", percent);
        } else {
            fprintf(out, "         |  ");
        }
        print_row(cell, row, out);
    }
    fprintf(out, "         +");
    for (size_t i = 0; i < COLUMN * cell->interval_count; i++) {
        fputc('-', out);
    }
    fprintf(out, "\n    every   ");
    for (size_t interval = 0; interval < cell->interval_count; interval++) {
        char every[24];
        fprintf(out, "%-*s", COLUMN, checkpoint_interval_name(cell, interval, every));
    }
    fprintf(out, "steps\n   ");
    for (enum checkpoint_mode mode = 0; mode < CHECKPOINT_MODES; mode++) {
        if (is_drawn(cell, mode)) {
            fprintf(out, " %c = %s", marks[mode], checkpoint_mode_name(mode));
        }
    }
    fputc('\n', out);
}

/* ---- gnuplot --------------------------------------------------------------------------------- */

enum { COLUMNS_MAX = 3 }; /* panels beside each other */

/* Fixed colours, which also differ for people who see few of them (Okabe and Ito, 2008). */
static const char *const colours[CHECKPOINT_MODES] = {
    [CHECKPOINT_OFF] = "#999999",    [CHECKPOINT_COPY] = "#000000",
    [CHECKPOINT_SYNC] = "#D55E00",   [CHECKPOINT_SYNC_ZSTD] = "#E69F00",
    [CHECKPOINT_ASYNC] = "#0072B2",  [CHECKPOINT_ASYNC_ZSTD] = "#009E73",
    [CHECKPOINT_DIRECT] = "#CC79A7", [CHECKPOINT_DIRECT_ZSTD] = "#56B4E9",
};

/* Is a loss measured at so many intervals, or (`below`) is none? */
static size_t count_points(const struct checkpoint_case *cell, enum checkpoint_mode mode,
                           bool below) {
    size_t count = 0;
    for (size_t interval = 0; interval < cell->interval_count; interval++) {
        count += is_below(cell, interval, mode) == below;
    }
    return count;
}

/* The points of one mode of which a loss is measured, or (`below`) is not; of a line, all of them,
 * with a gap where it is not. */
static void write_points(const struct checkpoint_case *cell, enum checkpoint_mode mode, bool line,
                         bool below, struct text *script) {
    for (size_t interval = 0; interval < cell->interval_count; interval++) {
        struct bench_spread lost = lost_percent(cell, interval, mode);
        bool is_one = is_below(cell, interval, mode) == below;
        /* A little to the side, so that the ranges of two modes do not hide each other. */
        double x = (double)interval + 0.05 * ((double)mode - CHECKPOINT_ASYNC + 0.5);
        if (is_one) {
            text_printf(script, "%.3f %.6g %.6g %.6g\n", x, lost.median, lost.min, lost.max);
        } else if (line) {
            text_printf(script, "%.3f NaN\n", x);
        }
    }
    text_printf(script, "END\n");
}

static void write_data(const struct checkpoint_case *cell, size_t number, struct text *script) {
    for (enum checkpoint_mode mode = 0; mode < CHECKPOINT_MODES; mode++) {
        if (is_drawn(cell, mode)) {
            text_printf(script, "$line%zu_%d << END\n", number, (int)mode);
            write_points(cell, mode, true, false, script);
            text_printf(script, "$full%zu_%d << END\n", number, (int)mode);
            write_points(cell, mode, false, false, script);
            text_printf(script, "$hollow%zu_%d << END\n", number, (int)mode);
            write_points(cell, mode, false, true, script);
        }
    }
}

static void write_mode(const struct checkpoint_case *cell, size_t number, enum checkpoint_mode mode,
                       const char **separator, struct text *script) {
    static const struct {
        const char *data;
        int mark;
    } kinds[] = {{"full", 7}, {"hollow", 6}};
    bool named = false;
    if (count_points(cell, mode, false) > 1) {
        text_printf(script, "%s$line%zu_%d using 1:2 with lines lc rgb '%s' lw 2 notitle",
                    *separator, number, (int)mode, colours[mode]);
        *separator = ", ";
    }
    for (int below = 0; below < 2; below++) { /* gnuplot wants no empty data */
        if (count_points(cell, mode, below == 1) == 0) {
            continue;
        }
        text_printf(
            script, "%s$%s%zu_%d using 1:2:3:4 with yerrorbars lc rgb '%s' lw 1.5 pt %d ps 1.2 ",
            *separator, kinds[below].data, number, (int)mode, colours[mode], kinds[below].mark);
        text_printf(script, named ? "notitle" : "title '%s'", checkpoint_mode_name(mode));
        named = true;
        *separator = ", ";
    }
}

static void write_panel(const struct checkpoint_case *cell, size_t number, struct text *script) {
    text_printf(script, "set title '%s state, saved to %s'\nset xtics (", cell->state,
                cell->in_memory ? "memory (tmpfs)" : "a disk, with fsync");
    for (size_t interval = 0; interval < cell->interval_count; interval++) {
        char every[24];
        text_printf(script, "%s'%s' %zu", interval == 0 ? "" : ", ",
                    checkpoint_interval_name(cell, interval, every), interval);
    }
    text_printf(script, ")\nset xrange [-0.4:%.1f]\nplot ", (double)cell->interval_count - 0.6);
    const char *separator = "";
    for (enum checkpoint_mode mode = 0; mode < CHECKPOINT_MODES; mode++) {
        if (is_drawn(cell, mode)) {
            write_mode(cell, number, mode, &separator, script);
        }
    }
    text_printf(script, "\nunset label\n");
}

/* A line below the panels; they have room for two. */
static void write_caption_line(const char *line, int pixels, unsigned height, struct text *script) {
    text_printf(script, "set label ");
    gnuplot_append_quoted(script, line);
    text_printf(script, " at screen 0.5, screen %.4f center\n", (double)pixels / height);
}

/* What the picture shows, whatever the machine. */
static void write_caption(const struct checkpoint_case *const *cases, size_t count,
                          const struct checkpoint_plan *plan, unsigned height,
                          struct text *script) {
    char line[200], real[100] = "", made_up[60] = "";
    const char *data = strrchr(plan->options->data, '/');
    for (size_t i = 0; i < count; i++) {
        if (cases[i]->epoch_steps > 0) {
            snprintf(real, sizeof real, "real state: trained on %.60s",
                     data == NULL ? plan->options->data : data + 1);
        } else {
            snprintf(made_up, sizeof made_up, "made-up states: beside steps of %g ms",
                     plan->step_seconds * 1e3);
        }
    }
    snprintf(line, sizeof line,
             "median of %u repeat%s, bars from least to most; hollow on the axis: no loss measured",
             plan->repeats, plan->repeats == 1 ? "" : "s");
    write_caption_line(line, 36, height, script);
    snprintf(line, sizeof line, "%s%s%s", real, real[0] == '\0' || made_up[0] == '\0' ? "" : "; ",
             made_up);
    write_caption_line(line, 14, height, script);
}

static void write_script(const struct checkpoint_case *const *cases, size_t count,
                         const struct checkpoint_plan *plan, struct text *script) {
    for (size_t i = 0; i < count; i++) {
        write_data(cases[i], i, script);
    }
    size_t columns = count < COLUMNS_MAX ? count : COLUMNS_MAX;
    size_t rows = (count + columns - 1) / columns;
    unsigned height = (unsigned)(40 + 620 * rows);
    gnuplot_begin(script, GNUPLOT_PNG, (unsigned)(80 + 720 * columns), height);
    text_printf(script, "set multiplot layout %zu,%zu\n", rows, columns);
    write_caption(cases, count, plan, height, script);
    text_printf(script,
                "set logscale y\nset yrange [%g:%g]\n"
                "set ytics ('<= 0.01' 0.01, '0.1' 0.1, '1' 1, '10' 10, '100' 100)\n"
                "set ylabel 'training throughput lost, %%' offset 1\n"
                "set xlabel 'steps between two saves'\n"
                "set grid ytics lt 1 lw 1 lc rgb '#D0D0D0'\nset border 3\nset tics nomirror\n"
                "set key above horizontal maxrows 1\nset lmargin 12\nset rmargin 3\n"
                "set tmargin 3.5\nset bmargin 7.5\n",
                LEAST_PERCENT, MOST_PERCENT);
    for (size_t i = 0; i < count; i++) {
        write_panel(cases[i], i, script);
    }
    text_printf(script, "unset multiplot\n");
}

enum status checkpoint_picture_draw(const struct checkpoint_case *const *cases, size_t count,
                                    const struct checkpoint_plan *plan, bool *drawn,
                                    struct error *err) {
    struct text script = {0};
    write_script(cases, count, plan, &script);
    enum status status = gnuplot_draw(&script, plan->options->plot, drawn, err);
    text_free(&script);
    return status == STATUS_OK ? status : error_prefix(err, status, "--plot");
}
