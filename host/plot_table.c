/* What stands below a drawing: a line per run, and what could not be drawn. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "host/plot.h"

/* ---- names ----------------------------------------------------------------------------------- */

static bool is_continuation(char byte) {
    return ((unsigned char)byte & 0xC0) == 0x80;
}

size_t plot_name_width(const char *name) {
    size_t width = 0;
    for (; *name != '\0'; name++) {
        width += !is_continuation(*name);
    }
    return width;
}

void plot_append_name(const char *name, size_t width, bool plain, struct text *out) {
    size_t has = plot_name_width(name), left = has < width ? width - has : 0;
    if (has > width) {
        text_printf(out, "...");
        for (has += 3; has > width; has--) {
            do {
                name++;
            } while (is_continuation(*name));
        }
    }
    for (; *name != '\0'; name++) {
        bool ascii = (unsigned char)*name < 0x80;
        if (ascii || !plain) {
            text_append(out, name, 1);
        } else if (!is_continuation(*name)) {
            text_append(out, "?", 1);
        }
    }
    text_printf(out, "%*s", (int)left, "");
}

/* Columns of the letter and the name, before the `others`; none where a single run's name stands
 * above. */
static size_t name_width(const struct plot_figure *figure, const struct plot_style *style,
                         size_t others) {
    enum { LETTER = 2, LEAST = 8 };
    size_t taken = others + LETTER, longest = strlen("run");
    size_t room = style->columns > taken + LEAST ? style->columns - taken : LEAST;
    for (size_t i = 0; i < figure->run_count; i++) {
        size_t width = plot_name_width(figure->names[i]);
        longest = width > longest ? width : longest;
    }
    return figure->run_count == 1 ? 0 : LETTER + (longest < room ? longest : room);
}

static void begin_row(const struct plot_figure *figure, size_t run, size_t width,
                      const struct plot_style *style, struct text *out) {
    if (width > 0) {
        text_printf(out, "%c ", (char)('A' + (int)run));
        plot_append_name(figure->names[run], width - 2, style->plain, out);
    }
}

static void begin_head(size_t width, const char *name, struct text *out) {
    text_printf(out, "%-*s", (int)width, width > 0 ? name : "");
}

const char *plot_panel_title(const struct plot_figure *figure, const struct plot_panel *panel,
                             size_t characters) {
    for (size_t i = 0; i < figure->panel_count; i++) {
        if (strlen(figure->panels[i].title) > characters) {
            return panel->short_title;
        }
    }
    return panel->title;
}

/* What all runs have in common; a single run's whole name. */
void plot_print_title(const struct plot_figure *figure, const struct plot_style *style,
                      struct text *out) {
    if (figure->title[0] != '\0') {
        plot_append_name(figure->title, plot_name_width(figure->title), style->plain, out);
        text_printf(out, "\n");
    }
}

/* ---- curves ---------------------------------------------------------------------------------- */

/* Why a run's last start ended. One that trains and one that was killed look the same. */
static const char *end_of(const struct plot_run *run) {
    return run->end[0] == '\0' ? "no end logged" : run->end;
}

static void append_metric(double value, int width, struct text *out) {
    if (isfinite(value)) {
        text_printf(out, fabs(value) < 1e4 ? "%*.4f" : "%*.4g", width, value);
    } else {
        text_printf(out, "%*s", width, "-");
    }
}

/* The best epoch, or else the last one. */
static void append_curves_row(const struct plot_run *run, const struct plot_choice *choice,
                              bool validated, struct text *out) {
    const struct epoch_row *row;
    enum metric metric = choice->has_metric ? choice->metric : run->monitor;
    const struct best_tracker *best = plot_run_best(run, metric, &row);
    text_printf(out, "%7" PRIu64 " %8" PRIu64, run->epoch_count, run->last_step);
    if (best == NULL) {
        row = &run->last_row;
        text_printf(out, "%6s", "-");
    } else {
        text_printf(out, " %5" PRIu64, best->best_epoch + 1);
    }
    append_metric(validated ? row->val_loss : row->loss, 10, out);
    append_metric(validated ? row->val_accuracy : row->accuracy, 14, out);
    text_printf(out, "  %s\n", end_of(run));
}

static void append_gaps(const struct plot_figure *figure, const struct plot_run *run, size_t index,
                        const struct plot_style *style, struct text *out) {
    if (run->gaps > 0) {
        plot_append_name(figure->names[index], plot_name_width(figure->names[index]), style->plain,
                         out);
        text_printf(out, ": %" PRIu64 " %s not finite, the first at step %.0f: shown as gaps\n",
                    run->gaps, run->gaps == 1 ? "loss is" : "losses are", run->first_gap);
    }
}

void plot_print_curves_table(const struct plot_figure *figure, const struct plot_run *runs,
                             const struct plot_choice *choice, const struct plot_style *style,
                             struct text *out) {
    enum { OTHERS = 7 + 9 + 6 + 10 + 14 + 2 + 14 };
    size_t width = name_width(figure, style, OTHERS);
    bool validated = false;
    for (size_t i = 0; i < figure->run_count; i++) {
        validated = validated || runs[i].has_validation;
    }
    begin_head(width, "  run", out);
    text_printf(out, "%7s%9s%6s%10s%14s  %s\n", "epochs", "steps", "best",
                validated ? "val_loss" : "loss", validated ? "val_accuracy" : "accuracy", "ended");
    for (size_t i = 0; i < figure->run_count; i++) {
        begin_row(figure, i, width, style, out);
        append_curves_row(&runs[i], choice, validated, out);
    }
    for (size_t i = 0; i < figure->run_count; i++) {
        append_gaps(figure, &runs[i], i, style, out);
    }
}

/* ---- saves ----------------------------------------------------------------------------------- */

static void append_time(double value, struct text *out) {
    if (isnan(value)) {
        text_printf(out, "%8s", "-");
    } else {
        text_printf(out, value < 100 ? "%8.1f" : value < 9999999.5 ? "%8.0f" : "%8.1e", value);
    }
}

static void append_spread(struct plot_spread *spread, struct text *out) {
    text_printf(out, "  ");
    append_time(plot_spread_percentile(spread, 50), out);
    append_time(plot_spread_percentile(spread, 99), out);
    append_time(spread->max, out);
}

void plot_print_saves_table(const struct plot_figure *figure, struct plot_run *runs,
                            const struct plot_style *style, struct text *out) {
    enum { OTHERS = 8 + 7 + 2 * (2 + 3 * 8) };
    size_t width = name_width(figure, style, OTHERS);
    begin_head(width, "  run", out);
    text_printf(out, "%15s  %24s  %24s\n", "", "stands still, us", "durable after, ms");
    begin_head(width, "", out);
    text_printf(out, "%8s%7s  %8s%8s%8s  %8s%8s%8s\n", "saves", "failed", "p50", "p99", "max",
                "p50", "p99", "max");
    for (size_t i = 0; i < figure->run_count; i++) {
        begin_row(figure, i, width, style, out);
        text_printf(out, "%8" PRIu64 " %6" PRIu64, runs[i].stall_spread.seen, runs[i].saves_failed);
        append_spread(&runs[i].stall_spread, out);
        append_spread(&runs[i].durable_spread, out);
        text_printf(out, "\n");
    }
}
