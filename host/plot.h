/* plot.h - learning curves and saves of training runs, in a terminal and as a picture.
 *
 * Three stages, so that both drawings show the same and the last two know no files:
 *
 *     history.jsonl --plot_run_read--> struct plot_run    what happened, in bounded memory
 *     runs --plot_figure_*-->          struct plot_figure panels, curves, marks, axes with ticks
 *     figure --plot_print-->           characters         braille or plain (plot_terminal.c)
 *     figure --plot_script-->          gnuplot's input    PNG or SVG (plot_picture.c)
 *
 * A curve that has more points than can be drawn is merged: neighbours become one point, by their
 * mean (losses) or their largest (stalls), so that the history may be as long as it likes. Values
 * that are not finite are gaps, and counted. The x axis counts finished epochs, or steps where a
 * run has not finished one.
 *
 * Usage:
 *     TRY(plot_run_read(&file_posix, "runs/a", &runs[0], err));
 *     plot_figure_curves(runs, 1, &choice, &figure, err);
 *     TRY(plot_print(&figure, &style, &text, err));
 *     plot_figure_free(&figure);
 *     plot_run_free(&runs[0]);
 *
 * THREADS: main thread; plot_run_read polls the stop flag.
 */
#ifndef CAIRN_HOST_PLOT_H
#define CAIRN_HOST_PLOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/base/text.h"
#include "host/callbacks.h"
#include "host/gnuplot.h"
#include "host/terminal.h"
#include "io/file.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    PLOT_RUNS_MAX = 8,       /* as many colours as can be told apart */
    PLOT_SERIES_MAX = 4096,  /* points of one curve in memory */
    PLOT_RESTARTS_MAX = 40,  /* lines in a panel; more would hide the curves */
    PLOT_SAMPLE_MAX = 65536, /* saves that percentiles look at, as the trainer's own */
    PLOT_FAINT_POINTS = 100, /* of losses of single batches: few, so that their mean shows */
    PLOT_TICKS_MAX = 16,
    PLOT_PANELS = 2,
    PLOT_WIDTH_MIN = 640, /* of a picture, in pixels: titles and legend have room */
    PLOT_HEIGHT_MIN = 300,
    PLOT_SIZE_MAX = 8000
};

/* ---- series: points in bounded memory (plot_series.c) ---- */

struct plot_point {
    double x, y; /* y is NaN where none of the merged values was finite */
};

enum plot_merge { PLOT_MERGE_MEAN, PLOT_MERGE_MAX };

struct plot_series {
    struct plot_point *points; /* owned */
    double *weights;           /* finite values behind each point; owned */
    size_t count, capacity;    /* capacity is even */
    enum plot_merge merge;
    uint64_t stride;  /* values that make a point */
    uint64_t pending; /* values in the last point */
};

MUST_USE enum status plot_series_init(struct plot_series *series, size_t capacity,
                                      enum plot_merge merge, struct error *err);
void plot_series_free(struct plot_series *series); /* zeroed is fine */
/* Append; a series that is full halves itself first. `x` is finite. */
void plot_series_add(struct plot_series *series, double x, double y);

/* ---- what a history tells (plot_history.c) ---- */

/* Of one kind of value of all saves. Percentiles by nearest rank, of all values or, beyond
 * PLOT_SAMPLE_MAX, of evenly spaced ones. */
struct plot_spread {
    double *sample; /* owned; sorted by plot_spread_percentile */
    size_t count;
    uint64_t seen, stride;
    double max;
    bool sorted;
};
double plot_spread_percentile(struct plot_spread *spread, unsigned percent); /* NaN when empty */

struct plot_run {
    char *directory; /* as given, without slashes at its end; owned */
    /* x is the global step everywhere. */
    struct plot_series step_loss;
    struct plot_series epochs[METRIC_COUNT];
    struct plot_series epoch_ends; /* y: epochs finished at that step */
    struct plot_series stall_us, durable_ms;
    struct plot_spread stall_spread, durable_spread;
    uint64_t saves_failed;
    double restarts[PLOT_RESTARTS_MAX]; /* steps from which it went on; the first ones */
    uint64_t restart_count;             /* of all, also those beyond the array */
    uint64_t epoch_count, last_step;
    bool has_start, has_steps, has_validation;
    struct epoch_row last_row;
    /* The best epoch by each metric in each direction (0 min, 1 max), as the best file's. */
    struct best_tracker best[METRIC_COUNT][2];
    struct epoch_row best_rows[METRIC_COUNT][2];
    enum metric monitor; /* what the run itself watched */
    enum monitor_mode mode;
    uint64_t gaps;    /* values of losses that were not finite */
    double first_gap; /* step of the first */
    char end[32];     /* why the last start ended; "": it has not, or was killed */
};

/* Read DIR/history.jsonl. STATUS_INPUT when it is missing; STATUS_DATA naming the line when one is
 * damaged (a last line without its end is one that is being written, and left out when it does not
 * parse); STATUS_IO, STATUS_STOPPED, STATUS_MEMORY. On failure nothing is to be freed. */
MUST_USE enum status plot_run_read(const struct file_table *files, const char *directory,
                                   struct plot_run *out, struct error *err);
void plot_run_free(struct plot_run *run);

/* The best epoch by `metric` (the run's own mode where that is the run's own metric); NULL where
 * there is none. *row: its metrics. */
const struct best_tracker *plot_run_best(const struct plot_run *run, enum metric metric,
                                         const struct epoch_row **row);

/* ---- axes (plot_axis.c) ---- */

struct plot_axis {
    double low, high; /* what is drawn; low < high, and > 0 on a logarithmic axis */
    bool is_log;
    size_t tick_count;
    double ticks[PLOT_TICKS_MAX]; /* ascending, within low and high */
    char labels[PLOT_TICKS_MAX][16];
};

/* Ticks at 1, 2 or 5 times a power of ten, at most `most` (from 2) on a linear axis. `low` and
 * `high` may be equal. `widen`: the axis ends at ticks or half-way between two. `whole`: no
 * ticks between whole numbers. */
void plot_axis_init(struct plot_axis *axis, double low, double high, bool widen, bool whole,
                    size_t most);
/* low > 0. */
void plot_axis_init_log(struct plot_axis *axis, double low, double high);
size_t plot_axis_label_width(const struct plot_axis *axis); /* characters of the longest label */
/* From 0 (low) to 1 (high); less or more outside. */
double plot_axis_place(const struct plot_axis *axis, double value);

/* ---- figures (plot_figure.c) ---- */

enum plot_line {
    PLOT_LINE_SOLID,
    PLOT_LINE_DASHED, /* the training curve */
    PLOT_LINE_FAINT,  /* losses of single batches, behind the others */
    PLOT_DOTS
};

struct plot_curve {
    char key[16];     /* at the curve's end in a terminal */
    const char *name; /* in the picture's legend; borrowed from the figure; NULL: none */
    char letter;      /* where there is no braille */
    unsigned colour;  /* 0 to PLOT_RUNS_MAX - 1 */
    enum plot_line line;
    bool picture_only; /* too much for characters */
    struct plot_series series;
};

enum plot_mark_kind { PLOT_MARK_RESTART, PLOT_MARK_BEST, PLOT_MARK_LEVEL };

struct plot_mark {
    enum plot_mark_kind kind;
    double x, y; /* RESTART has x only, LEVEL y only */
    unsigned colour;
    char label[32]; /* of LEVEL: "p50 97.1 us" */
};

struct plot_panel {
    const char *title, *short_title; /* quantity and unit; static */
    bool is_log;                     /* y */
    bool is_share;                   /* y is at most 1 */
    struct plot_axis x, y;
    struct plot_axis y_printed; /* of the curves that characters show */
    struct plot_curve *curves;  /* owned */
    size_t curve_count;
    struct plot_mark *marks; /* owned */
    size_t mark_count;
};

struct plot_figure {
    const char *x_label; /* static */
    bool in_epochs;      /* x counts epochs, else steps */
    char title[512];
    char names[PLOT_RUNS_MAX][256]; /* of the runs, short where several lie side by side */
    char best_label[48];            /* "best epoch by val_loss"; "" when none is marked */
    char dots_name[48];             /* "each save" */
    char restart_label[48];         /* "restart", or "57 restarts" without lines; "": none */
    bool restarts_counted;          /* the latter */
    size_t run_count;
    struct plot_panel panels[PLOT_PANELS];
    size_t panel_count;
};

struct plot_choice {
    bool has_metric; /* else what each run watched */
    enum metric metric;
};

/* Loss and accuracy. STATUS_INPUT when there is nothing to draw yet, STATUS_MEMORY. The figure
 * borrows nothing from the runs. plot_figure_free only after success. */
MUST_USE enum status plot_figure_curves(const struct plot_run *runs, size_t count,
                                        const struct plot_choice *choice, struct plot_figure *out,
                                        struct error *err);
/* Stall and time until durable of each save. Sorts the runs' samples. */
MUST_USE enum status plot_figure_saves(struct plot_run *runs, size_t count, struct plot_figure *out,
                                       struct error *err);
void plot_figure_free(struct plot_figure *figure);
/* Part of making a figure (plot_axis.c): the axes of its panels, from all that stands on them. */
void plot_axis_fit(struct plot_figure *figure);

/* ---- drawing ---- */

struct plot_style {
    unsigned columns;
    unsigned
        rows;   /* of the terminal: the drawing becomes lower to fit with its table; 0: unknown */
    bool plain; /* ASCII only */
    enum terminal_colours colours;
};

/* Append the figure as lines of at most style->columns characters (at least 40). Curves are letters
 * where there is no braille, and where several runs have no colours. STATUS_MEMORY. */
MUST_USE enum status plot_print(const struct plot_figure *figure, const struct plot_style *style,
                                struct text *out, struct error *err);
/* Append the last characters of a name that is longer than `width` after three dots, and blanks
 * behind a shorter one. What is not ASCII is a question mark where `plain`. */
void plot_append_name(const char *name, size_t width, bool plain, struct text *out);
size_t plot_name_width(const char *name); /* characters */

/* The panel's title, short where not all panels' titles fit into `characters`. */
const char *plot_panel_title(const struct plot_figure *figure, const struct plot_panel *panel,
                             size_t characters);

/* Append what stands above it: the name of a run, or the directory that several lie in. */
void plot_print_title(const struct plot_figure *figure, const struct plot_style *style,
                      struct text *out);
/* Append what stands below it: a line per run, and what could not be drawn. */
void plot_print_curves_table(const struct plot_figure *figure, const struct plot_run *runs,
                             const struct plot_choice *choice, const struct plot_style *style,
                             struct text *out);
void plot_print_saves_table(const struct plot_figure *figure, struct plot_run *runs,
                            const struct plot_style *style, struct text *out);

/* Append the script that draws the figure; gnuplot_draw runs it. */
void plot_script(const struct plot_figure *figure, enum gnuplot_format format, unsigned width,
                 unsigned height, struct text *out);

/* "1000x420" in pixels, PLOT_WIDTH_MIN x PLOT_HEIGHT_MIN to 8000x8000; for --size. */
bool plot_parse_size(const char *value, unsigned *width, unsigned *height);

#ifdef __cplusplus
}
#endif
#endif
