/* From runs to panels: what is drawn, on which axes. */
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/plot.h"

enum {
    CURVE_POINTS = 512, /* of one curve; more than a picture has pixels between marks */
    CURVES_A_RUN = 3,
    LEVELS_A_RUN = 2
};

/* ---- making ---------------------------------------------------------------------------------- */

void plot_figure_free(struct plot_figure *figure) {
    for (size_t p = 0; p < PLOT_PANELS; p++) {
        struct plot_panel *panel = &figure->panels[p];
        for (size_t i = 0; panel->curves != NULL && i < panel->curve_count; i++) {
            plot_series_free(&panel->curves[i].series);
        }
        free(panel->curves);
        free(panel->marks);
    }
    *figure = (struct plot_figure){0};
}

static enum status add_panel(struct plot_figure *figure, const char *title, const char *short_title,
                             struct plot_panel **out, struct error *err) {
    assert(figure->panel_count < PLOT_PANELS);
    struct plot_panel *panel = &figure->panels[figure->panel_count++];
    size_t marks = PLOT_RESTARTS_MAX + LEVELS_A_RUN + 1;
    panel->title = title;
    panel->short_title = short_title;
    panel->curves = calloc(PLOT_RUNS_MAX * CURVES_A_RUN, sizeof *panel->curves);
    panel->marks = calloc(PLOT_RUNS_MAX * marks, sizeof *panel->marks);
    CHECK(panel->curves != NULL && panel->marks != NULL, err, STATUS_MEMORY,
          "no memory for a drawing");
    *out = panel;
    return STATUS_OK;
}

static void add_mark(struct plot_panel *panel, struct plot_mark mark) {
    panel->marks[panel->mark_count++] = mark;
}

/* Epochs finished at `step`: straight lines between what is known, and on as it went last. */
static double epoch_at(const struct plot_run *run, double step) {
    const struct plot_point *ends = run->epoch_ends.points;
    size_t count = run->epoch_ends.count, at = 0;
    assert(count > 0);
    while (at < count && ends[at].x < step) {
        at++;
    }
    size_t second = at < count ? at : count - 1;
    struct plot_point to = ends[second], from = {0, 0};
    if (second > 0) {
        from = ends[second - 1];
    } else if (to.y > 1 && count > 1) { /* it went on from somewhere else */
        from = to;
        to = ends[1];
    }
    return to.x > from.x ? from.y + (step - from.x) * (to.y - from.y) / (to.x - from.x) : to.y;
}

static double place_x(const struct plot_figure *figure, const struct plot_run *run, double step) {
    return figure->in_epochs ? epoch_at(run, step) : step;
}

/* A curve of `from`'s points; none where no value is finite. */
static enum status add_curve(const struct plot_figure *figure, const struct plot_run *run,
                             const struct plot_series *from, size_t points,
                             const struct plot_curve *like, struct plot_panel *panel,
                             struct error *err) {
    struct plot_curve *curve = &panel->curves[panel->curve_count];
    bool finite = false;
    *curve = *like;
    TRY(plot_series_init(&curve->series, points, from->merge, err));
    for (size_t i = 0; i < from->count; i++) {
        double x = place_x(figure, run, from->points[i].x);
        plot_series_add(&curve->series, x, from->points[i].y);
        finite = finite || isfinite(from->points[i].y);
    }
    if (finite) {
        panel->curve_count++;
    } else {
        plot_series_free(&curve->series);
    }
    return STATUS_OK;
}

/* ---- names ----------------------------------------------------------------------------------- */

/* Length of the directory part that all runs share, slash included. */
static size_t shared_directory(const struct plot_run *runs, size_t count) {
    size_t shared = 0;
    for (size_t at = 0; count > 1 && runs[0].directory[at] != '\0'; at++) {
        for (size_t i = 1; i < count; i++) {
            if (runs[i].directory[at] != runs[0].directory[at]) {
                return shared;
            }
        }
        shared =
            runs[0].directory[at] == '/' && runs[0].directory[at + 1] != '\0' ? at + 1 : shared;
    }
    return shared;
}

/* Lines that stand as close as the curves' points would only hide them: they are counted then. */
static void label_restarts(struct plot_figure *figure, const struct plot_run *runs) {
    uint64_t count = 0;
    for (size_t i = 0; i < figure->run_count; i++) {
        count += runs[i].restart_count;
    }
    figure->restarts_counted = count > PLOT_RESTARTS_MAX;
    if (figure->restarts_counted) {
        snprintf(figure->restart_label, sizeof figure->restart_label, "%llu restarts",
                 (unsigned long long)count);
    } else {
        snprintf(figure->restart_label, sizeof figure->restart_label, count > 0 ? "restart" : "");
    }
}

static void name_runs(struct plot_figure *figure, const struct plot_run *runs, size_t count) {
    size_t shared = shared_directory(runs, count);
    figure->run_count = count;
    for (size_t i = 0; i < count; i++) {
        const char *name = runs[i].directory;
        name = strlen(name) > shared ? name + shared : name;
        text_escape(name, strlen(name), figure->names[i], sizeof figure->names[i]);
    }
    if (count == 1) {
        snprintf(figure->title, sizeof figure->title, "%s", figure->names[0]);
    } else {
        text_escape(runs[0].directory, shared > 1 ? shared - 1 : shared, figure->title,
                    sizeof figure->title);
    }
    label_restarts(figure, runs);
}

/* ---- curves ---------------------------------------------------------------------------------- */

static void key_of(const struct plot_figure *figure, size_t run, const char *alone,
                   struct plot_curve *curve) {
    if (figure->run_count == 1) {
        snprintf(curve->key, sizeof curve->key, "%s", alone);
        curve->letter = alone[0];
    } else {
        snprintf(curve->key, sizeof curve->key, "%c", (char)('A' + (int)run));
        curve->letter = (char)('A' + (int)run);
    }
}

/* The colours of one run are those of training and validation; several runs have one each. */
static struct plot_curve training_curve(struct plot_figure *figure, size_t run, bool is_last) {
    struct plot_curve curve = {.colour = (unsigned)run, .line = PLOT_LINE_DASHED};
    key_of(figure, run, "training", &curve);
    if (figure->run_count > 1 && !is_last) {
        curve.letter = (char)('a' + (int)run);
        curve.key[0] = '\0';
        curve.picture_only = figure->run_count > 2;
    }
    curve.name = figure->run_count == 1 ? "training" : is_last ? figure->names[run] : NULL;
    return curve;
}

static struct plot_curve validation_curve(struct plot_figure *figure, size_t run) {
    bool alone = figure->run_count == 1;
    struct plot_curve curve = {.colour = alone ? 1 : (unsigned)run,
                               .line = PLOT_LINE_SOLID,
                               .name = alone ? "validation" : figure->names[run]};
    key_of(figure, run, "validation", &curve);
    return curve;
}

/* Batches are shown behind a single run; alone where there is no or one epoch to look at. */
static enum status add_step_losses(struct plot_figure *figure, const struct plot_run *run,
                                   size_t index, struct plot_panel *panel, struct error *err) {
    bool alone = figure->run_count == 1;
    if (!alone && figure->in_epochs) {
        return STATUS_OK;
    }
    struct plot_curve curve = {.colour = (unsigned)index,
                               .line = figure->in_epochs ? PLOT_LINE_FAINT : PLOT_LINE_SOLID,
                               .picture_only = run->epoch_count > 1,
                               .name = alone ? "training, by batch" : figure->names[index]};
    key_of(figure, index, "batches", &curve);
    return add_curve(figure, run, &run->step_loss, PLOT_FAINT_POINTS, &curve, panel, err);
}

static enum status add_metric(struct plot_figure *figure, const struct plot_run *run, size_t index,
                              enum metric training, enum metric validation,
                              struct plot_panel *panel, struct error *err) {
    if (!figure->in_epochs) {
        return STATUS_OK; /* an epoch of one run beside the batches of another says nothing */
    }
    struct plot_curve curve = training_curve(figure, index, !run->has_validation);
    TRY(add_curve(figure, run, &run->epochs[training], CURVE_POINTS, &curve, panel, err));
    if (run->has_validation) {
        curve = validation_curve(figure, index);
        TRY(add_curve(figure, run, &run->epochs[validation], CURVE_POINTS, &curve, panel, err));
    }
    return STATUS_OK;
}

static void add_restarts(const struct plot_figure *figure, const struct plot_run *run, size_t index,
                         struct plot_panel *panel) {
    for (size_t i = 0; i < run->restart_count && !figure->restarts_counted; i++) {
        add_mark(panel, (struct plot_mark){.kind = PLOT_MARK_RESTART,
                                           .x = place_x(figure, run, run->restarts[i]),
                                           .colour = (unsigned)index});
    }
}

static enum metric chosen(const struct plot_run *run, const struct plot_choice *choice) {
    return choice->has_metric ? choice->metric : run->monitor;
}

/* Runs that watched different metrics have the words in common. */
static void label_best(struct plot_figure *figure, enum metric metric) {
    char label[sizeof figure->best_label];
    snprintf(label, sizeof label, "best epoch by %s", metric_name(metric));
    bool same = figure->best_label[0] == '\0' || strcmp(figure->best_label, label) == 0;
    snprintf(figure->best_label, sizeof figure->best_label, "%s", same ? label : "best epoch");
}

/* The best epoch stands on both panels, on the validation curve where the run has one. */
static void add_best(struct plot_figure *figure, const struct plot_run *run, size_t index,
                     const struct plot_choice *choice, enum metric training, enum metric validation,
                     struct plot_panel *panel) {
    const struct epoch_row *row;
    enum metric metric = chosen(run, choice);
    const struct best_tracker *best = plot_run_best(run, metric, &row);
    if (best == NULL || !figure->in_epochs) {
        return;
    }
    bool on_training = !run->has_validation || metric == training;
    double value = metric_value(on_training ? training : validation, row);
    if (!isfinite(value)) {
        return;
    }
    unsigned colour = figure->run_count > 1 ? (unsigned)index : on_training ? 0 : 1;
    add_mark(panel, (struct plot_mark){.kind = PLOT_MARK_BEST,
                                       .x = place_x(figure, run, (double)best->best_step),
                                       .y = value,
                                       .colour = colour});
    label_best(figure, metric);
}

static enum status add_panel_of(struct plot_figure *figure, const struct plot_run *runs,
                                const struct plot_choice *choice, bool is_loss, struct error *err) {
    enum metric training = is_loss ? METRIC_LOSS : METRIC_ACCURACY;
    enum metric validation = is_loss ? METRIC_VAL_LOSS : METRIC_VAL_ACCURACY;
    struct plot_panel *panel = NULL;
    TRY(add_panel(figure,
                  is_loss ? "loss: binary cross-entropy (nats per example)"
                          : "accuracy (share of examples that are right)",
                  is_loss ? "loss (nats per example)" : "accuracy", &panel, err));
    panel->is_share = !is_loss;
    for (size_t i = 0; is_loss && i < figure->run_count; i++) {
        TRY(add_step_losses(figure, &runs[i], i, panel, err));
    }
    for (size_t i = 0; i < figure->run_count; i++) {
        add_restarts(figure, &runs[i], i, panel);
        TRY(add_metric(figure, &runs[i], i, training, validation, panel, err));
        add_best(figure, &runs[i], i, choice, training, validation, panel);
    }
    if (panel->curve_count == 0) { /* not measured yet, or not finite */
        free(panel->curves);
        free(panel->marks);
        *panel = (struct plot_panel){0};
        figure->panel_count--;
    }
    return STATUS_OK;
}

static enum status refuse_empty(const struct plot_figure *figure, const char *why,
                                struct error *err) {
    return error_set(err, STATUS_INPUT, "nothing to draw in %s%s: %s", figure->names[0],
                     figure->run_count > 1 ? " and the others" : "", why);
}

static enum status make_curves(const struct plot_run *runs, const struct plot_choice *choice,
                               struct plot_figure *figure, struct error *err) {
    TRY(add_panel_of(figure, runs, choice, true, err));
    TRY(add_panel_of(figure, runs, choice, false, err));
    if (figure->panel_count == 0) {
        return refuse_empty(figure,
                            "no epoch and no step (--log-step-count-steps) has been logged yet, or "
                            "no loss is finite",
                            err);
    }
    plot_axis_fit(figure);
    return STATUS_OK;
}

enum status plot_figure_curves(const struct plot_run *runs, size_t count,
                               const struct plot_choice *choice, struct plot_figure *out,
                               struct error *err) {
    assert(count > 0 && count <= PLOT_RUNS_MAX);
    *out = (struct plot_figure){.in_epochs = true};
    for (size_t i = 0; i < count; i++) {
        out->in_epochs = out->in_epochs && runs[i].epoch_count > 0;
    }
    out->x_label = out->in_epochs ? "epoch" : "step";
    name_runs(out, runs, count);
    enum status status = make_curves(runs, choice, out, err);
    if (status != STATUS_OK) {
        plot_figure_free(out);
    }
    return status;
}

/* ---- saves ----------------------------------------------------------------------------------- */

/* Microseconds and milliseconds that have more than four digits are written in the next unit. */
static void add_level(struct plot_panel *panel, struct plot_spread *spread, unsigned percent,
                      bool is_stall) {
    static const char *const units[] = {"us", "ms", "s"};
    double value = plot_spread_percentile(spread, percent);
    struct plot_mark mark = {.kind = PLOT_MARK_LEVEL, .y = value, .colour = percent == 50 ? 1 : 2};
    size_t unit = is_stall ? 0 : 1;
    for (; value >= 9999.5 && unit < 2; unit++) {
        value /= 1000;
    }
    snprintf(mark.label, sizeof mark.label,
             value >= 999.5 && value < 1e7 ? "p%u %.0f %s" : "p%u %.3g %s", percent, value,
             units[unit]);
    add_mark(panel, mark);
}

/* The smallest time that is not nothing; infinite where there is none. */
static double least_time(const struct plot_panel *panel) {
    double least = INFINITY;
    for (size_t i = 0; i < panel->curve_count; i++) {
        const struct plot_series *series = &panel->curves[i].series;
        for (size_t j = 0; j < series->count; j++) {
            double y = series->points[j].y;
            least = y > 0 && y < least ? y : least;
        }
    }
    return least;
}

/* Times stand on a logarithmic axis, since the rare slow save is the one that matters; nothing is
 * shown as the smallest time there is. Where there is no other time the axis begins at 0. */
static void make_positive(struct plot_panel *panel) {
    double least = least_time(panel);
    panel->is_log = isfinite(least);
    if (!panel->is_log) {
        return;
    }
    for (size_t i = 0; i < panel->curve_count; i++) {
        struct plot_series *series = &panel->curves[i].series;
        for (size_t j = 0; j < series->count; j++) {
            double *y = &series->points[j].y;
            *y = *y <= 0 ? least : *y;
        }
    }
    for (size_t i = 0; i < panel->mark_count; i++) {
        double *y = &panel->marks[i].y;
        *y = *y <= 0 ? least : *y;
    }
}

/* What a dot is. */
static const char *name_dots(struct plot_figure *figure, const struct plot_series *from) {
    uint64_t merged =
        from->stride *
        (from->count > CURVE_POINTS ? (from->count + CURVE_POINTS - 1) / CURVE_POINTS : 1);
    snprintf(figure->dots_name, sizeof figure->dots_name,
             merged > 1 ? "the largest of some %llu saves" : "each save",
             (unsigned long long)merged);
    return figure->dots_name;
}

static enum status add_times(struct plot_figure *figure, struct plot_run *runs, bool is_stall,
                             struct error *err) {
    struct plot_panel *panel = NULL;
    TRY(add_panel(
        figure, is_stall ? "training stands still for a save (us)" : "a save is durable after (ms)",
        is_stall ? "stall (us)" : "durable after (ms)", &panel, err));
    for (size_t i = 0; i < figure->run_count; i++) {
        struct plot_run *run = &runs[i];
        const struct plot_series *from = is_stall ? &run->stall_us : &run->durable_ms;
        struct plot_curve curve = {.colour = (unsigned)i, .line = PLOT_DOTS};
        curve.name = figure->run_count == 1 ? name_dots(figure, from) : figure->names[i];
        curve.letter = figure->run_count == 1 ? 'o' : (char)('A' + (int)i);
        add_restarts(figure, run, i, panel);
        TRY(add_curve(figure, run, from, CURVE_POINTS, &curve, panel, err));
    }
    if (figure->run_count == 1 && panel->curve_count > 0) {
        struct plot_spread *spread = is_stall ? &runs->stall_spread : &runs->durable_spread;
        add_level(panel, spread, 50, is_stall);
        add_level(panel, spread, 99, is_stall);
    }
    make_positive(panel);
    return STATUS_OK;
}

static enum status make_saves(struct plot_run *runs, struct plot_figure *figure,
                              struct error *err) {
    bool any = false;
    for (size_t i = 0; i < figure->run_count; i++) {
        any = any || runs[i].stall_us.count > 0;
    }
    if (!any) {
        return refuse_empty(figure, "no save has been logged yet", err);
    }
    TRY(add_times(figure, runs, true, err));
    TRY(add_times(figure, runs, false, err));
    plot_axis_fit(figure);
    return STATUS_OK;
}

enum status plot_figure_saves(struct plot_run *runs, size_t count, struct plot_figure *out,
                              struct error *err) {
    assert(count > 0 && count <= PLOT_RUNS_MAX);
    *out = (struct plot_figure){.x_label = "step"};
    name_runs(out, runs, count);
    enum status status = make_saves(runs, out, err);
    if (status != STATUS_OK) {
        plot_figure_free(out);
    }
    return status;
}
