/* A figure as a script for gnuplot: two panels side by side. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "host/plot.h"

/* Fixed colours, which also differ for people who see few of them (Okabe and Ito, 2008). */
static const char *const colours[PLOT_RUNS_MAX] = {"#0072B2", "#D55E00", "#009E73", "#CC79A7",
                                                   "#E69F00", "#56B4E9", "#000000", "#888888"};
/* Shapes, for those who see none: circle, square, triangle, ... filled. */
static const int shapes[PLOT_RUNS_MAX] = {7, 5, 9, 11, 13, 15, 6, 4};

enum {
    SHAPES = 30,      /* on a curve; more would touch */
    COMMON_MAX = 4,   /* entries of the legend that belong to no curve */
    PANEL_LEAST = 90, /* pixels that a legend leaves a panel */
    /* in pixels */
    CHARACTER_WIDTH = 9,
    LABELS_WIDTH = 62, /* of an axis, at least */
    SAMPLE_WIDTH = 60,
    LINE_HEIGHT = 19,
    TITLES_HEIGHT = 70, /* the picture's and a panel's */
    AXIS_HEIGHT = 62    /* what stands below an axis */
};

#define RING 2.2 /* around the best point */

bool plot_parse_size(const char *value, unsigned *width, unsigned *height) {
    char number[8];
    size_t first = strcspn(value, "x");
    uint64_t across, down;
    if (first >= sizeof number || value[first] != 'x') {
        return false;
    }
    memcpy(number, value, first);
    number[first] = '\0';
    if (!text_parse_u64(number, &across) || !text_parse_u64(value + first + 1, &down) ||
        across < PLOT_WIDTH_MIN || across > PLOT_SIZE_MAX || down < PLOT_HEIGHT_MIN ||
        down > PLOT_SIZE_MAX) {
        return false;
    }
    *width = (unsigned)across;
    *height = (unsigned)down;
    return true;
}

/* A name, its beginning left out where there is no room for it. */
static void append_cut(const char *name, size_t characters, struct text *out) {
    struct text cut = {0};
    size_t width = plot_name_width(name);
    plot_append_name(name, width < characters ? width : characters, false, &cut);
    gnuplot_append_quoted(out, cut.bytes == NULL ? "" : cut.bytes);
    out->failed = out->failed || cut.failed;
    text_free(&cut);
}

/* ---- data ------------------------------------------------------------------------------------ */

/* An empty line is a gap. */
static void append_data(const struct plot_panel *panel, size_t number, struct text *out) {
    for (size_t i = 0; i < panel->curve_count; i++) {
        const struct plot_series *series = &panel->curves[i].series;
        text_printf(out, "$panel%zu_%zu << END\n", number, i);
        for (size_t j = 0; j < series->count; j++) {
            struct plot_point point = series->points[j];
            if (isfinite(point.y)) {
                text_printf(out, "%.9g %.9g\n", point.x, point.y);
            } else {
                text_printf(out, "\n");
            }
        }
        text_printf(out, "END\n");
    }
}

/* ---- axes ------------------------------------------------------------------------------------ */

static void append_axis(char name, const struct plot_axis *axis, struct text *out) {
    double hair = axis->is_log ? 1e-6 : 0; /* gnuplot leaves out a tick where such an axis begins */
    text_printf(out, "%s logscale %c\n", axis->is_log ? "set" : "unset", name);
    text_printf(out, "set %crange [%.9g:%.9g]\nset %ctics (", name, axis->low * (1 - hair),
                axis->high * (1 + hair), name);
    for (size_t i = 0; i < axis->tick_count; i++) {
        text_printf(out, "%s'%s' %.9g", i == 0 ? "" : ", ", axis->labels[i], axis->ticks[i]);
    }
    text_printf(out, ")\n");
}

/* ---- marks ----------------------------------------------------------------------------------- */

static void append_marks(const struct plot_figure *figure, const struct plot_panel *panel,
                         struct text *out) {
    text_printf(out, "unset arrow\nunset label\n");
    for (size_t i = 0; i < panel->mark_count; i++) {
        const struct plot_mark *mark = &panel->marks[i];
        const char *colour = colours[mark->colour];
        if (mark->kind == PLOT_MARK_RESTART) {
            text_printf(out,
                        "set arrow from first %.9g, graph 0 to first %.9g, graph 1 nohead back "
                        "lw 1.2 dt 3 lc rgb '%s'\n",
                        mark->x, mark->x, figure->run_count == 1 ? "#444444" : colour);
        } else if (mark->kind == PLOT_MARK_LEVEL) {
            text_printf(out,
                        "set arrow from graph 0, first %.9g to graph 1, first %.9g nohead front "
                        "lw 1.5 dt 2 lc rgb '%s'\n"
                        "set label '%s' at graph 1.02, first %.9g left front "
                        "tc rgb '%s'\n",
                        mark->y, mark->y, colour, mark->label, mark->y, colour);
        }
    }
}

/* ---- curves ---------------------------------------------------------------------------------- */

static void append_curve_style(const struct plot_curve *curve, double point, struct text *out) {
    const char *colour = colours[curve->colour];
    int shape = shapes[curve->colour];
    size_t interval = (curve->series.count + SHAPES - 1) / SHAPES;
    switch (curve->line) {
    case PLOT_LINE_FAINT:
        text_printf(out, "with lines lw 1 lc rgb '#B0%s'", colour + 1);
        return;
    case PLOT_DOTS:
        text_printf(out, "with points pt %d ps %.2f lc rgb '#40%s'", shape, 0.6 * point,
                    colour + 1);
        return;
    case PLOT_LINE_DASHED:
        text_printf(out, "with linespoints lw 1.6 dt (8,5) lc rgb '%s'", colour);
        break;
    default:
        text_printf(out, "with linespoints lw 2.2 lc rgb '%s'", colour);
        break;
    }
    text_printf(out, " pt %d ps %.2f pi %zu", shape,
                (curve->line == PLOT_LINE_SOLID ? 0.8 : 0.5) * point, interval);
}

/* A ring around the best point. */
static void append_best(const struct plot_panel *panel, double point, struct text *out) {
    for (size_t i = 0; i < panel->mark_count; i++) {
        const struct plot_mark *mark = &panel->marks[i];
        if (mark->kind == PLOT_MARK_BEST) {
            text_printf(out,
                        ", '+' using (%.9g):(%.9g) every ::::0 with points pt 6 ps %.2f lw 2 "
                        "lc rgb '%s' notitle",
                        mark->x, mark->y, RING * point, colours[mark->colour]);
        }
    }
}

/* ---- legend: one below both panels ----------------------------------------------------------- */

/* Lines that stand in the legend only: what is drawn in the colours of several runs, in grey. */
static size_t list_common(const struct plot_figure *figure, const char *styles[COMMON_MAX],
                          const char *names[COMMON_MAX]) {
    size_t count = 0;
    if (figure->run_count > 1 && figure->in_epochs) {
        styles[count] = "lines lw 2.2";
        names[count++] = "validation";
        styles[count] = "lines lw 1.6 dt (8,5)";
        names[count++] = "training";
    }
    if (figure->best_label[0] != '\0') {
        styles[count] = "points pt 6 ps 1.6 lw 2";
        names[count++] = figure->best_label;
    }
    if (figure->restart_label[0] != '\0') {
        styles[count] = figure->restarts_counted ? "points ps 0" : "lines lw 1.2 dt 3";
        names[count++] = figure->restart_label;
    }
    return count;
}

/* How the legend is laid out: gnuplot makes all columns as wide as the widest. */
struct legend {
    size_t columns, rows;
    size_t characters; /* that a name has room for */
};

static struct legend plan_legend(const struct plot_figure *figure, unsigned width,
                                 unsigned height) {
    const char *styles[COMMON_MAX], *names[COMMON_MAX];
    const struct plot_panel *panel = &figure->panels[0];
    size_t longest = 0, count = list_common(figure, styles, names);
    for (size_t i = 0; i < count; i++) {
        size_t size = strlen(names[i]);
        longest = size > longest ? size : longest;
    }
    for (size_t i = 0; i < panel->curve_count; i++) {
        const char *name = panel->curves[i].name;
        size_t size = name == NULL ? 0 : plot_name_width(name);
        longest = size > longest ? size : longest;
        count += size > 0;
    }
    size_t most = (height - TITLES_HEIGHT - AXIS_HEIGHT - PANEL_LEAST) / LINE_HEIGHT; /* rows */
    size_t least = (count + most - 1) / most,
           fit = width / (longest * CHARACTER_WIDTH + SAMPLE_WIDTH);
    struct legend legend = {.columns = fit < least ? least : fit > count ? count : fit};
    legend.rows = (count + legend.columns - 1) / legend.columns;
    legend.characters = (width / legend.columns - SAMPLE_WIDTH) / CHARACTER_WIDTH;
    return legend;
}

/* ---- panels ---------------------------------------------------------------------------------- */

struct layout {
    double point; /* size of a mark; SVG has larger ones */
    unsigned width, height;
    struct legend legend;
};

/* Of the levels, which stand at the right. */
static size_t longest_level(const struct plot_panel *panel) {
    size_t longest = 0;
    for (size_t i = 0; i < panel->mark_count; i++) {
        size_t size = strlen(panel->marks[i].label);
        longest = size > longest ? size : longest;
    }
    return longest;
}

/* Borders of panel `number`, in shares of the picture. */
static void append_margins(const struct plot_figure *figure, size_t number,
                           const struct layout *layout, struct text *out) {
    double width = layout->width, height = layout->height;
    double half = width / (double)figure->panel_count, left = half * (double)number;
    const struct plot_panel *panel = &figure->panels[number];
    double labels =
        fmax(LABELS_WIDTH, (double)(plot_axis_label_width(&panel->y) * CHARACTER_WIDTH) + 16);
    double levels = (double)(longest_level(panel) * CHARACTER_WIDTH) + 24;
    double below = AXIS_HEIGHT + LINE_HEIGHT * (double)layout->legend.rows;
    text_printf(out,
                "set lmargin at screen %.4f\nset rmargin at screen %.4f\n"
                "set tmargin at screen %.4f\nset bmargin at screen %.4f\n",
                (left + labels) / width, (left + half - levels) / width, 1 - TITLES_HEIGHT / height,
                below / height);
}

static void append_panel(const struct plot_figure *figure, size_t number,
                         const struct layout *layout, struct text *out) {
    const struct plot_panel *panel = &figure->panels[number];
    size_t room = layout->width / figure->panel_count / CHARACTER_WIDTH;
    const char *title = plot_panel_title(figure, panel, room);
    append_margins(figure, number, layout, out);
    append_axis('x', &panel->x, out);
    append_axis('y', &panel->y, out);
    append_marks(figure, panel, out);
    text_printf(out, "set title '%s'\nset xlabel '%s' offset 0,0.5\nplot ", title, figure->x_label);
    for (size_t i = 0; i < panel->curve_count; i++) {
        text_printf(out, "%s$panel%zu_%zu using 1:2 ", i == 0 ? "" : ", ", number, i);
        append_curve_style(&panel->curves[i], layout->point, out);
        text_printf(out, " notitle");
    }
    append_best(panel, layout->point, out);
    text_printf(out, "\n");
}

/* A plot of nothing, as wide as the picture, so that its key has room for several columns. */
static void append_legend(const struct plot_figure *figure, const struct layout *layout,
                          struct text *out) {
    const struct plot_panel *panel = &figure->panels[0];
    const char *styles[COMMON_MAX], *names[COMMON_MAX], *separator = "";
    size_t count = list_common(figure, styles, names);
    text_printf(out,
                "set lmargin at screen 0\nset rmargin at screen 1\nset bmargin at screen 0\n"
                "set tmargin at screen %.4f\nunset title\nunset xlabel\nunset border\n"
                "unset tics\nunset arrow\nunset label\nunset logscale\n"
                "set key center center horizontal maxcols %zu samplen 3\nplot [0:1][0:1] ",
                (LINE_HEIGHT * (double)layout->legend.rows + 8) / layout->height,
                layout->legend.columns);
    for (size_t i = 0; i < panel->curve_count; i++) {
        if (panel->curves[i].name != NULL) {
            text_printf(out, "%sNaN ", separator);
            append_curve_style(&panel->curves[i], layout->point, out);
            text_printf(out, " title ");
            append_cut(panel->curves[i].name, layout->legend.characters, out);
            separator = ", ";
        }
    }
    for (size_t i = 0; i < count; i++) {
        text_printf(out, "%sNaN with %s lc rgb '#444444' title ", separator, styles[i]);
        bool cut = names[i] == figure->best_label && strlen(names[i]) > layout->legend.characters;
        append_cut(cut ? "best epoch" : names[i], layout->legend.characters, out);
        separator = ", ";
    }
    text_printf(out, "\n");
}

void plot_script(const struct plot_figure *figure, enum gnuplot_format format, unsigned width,
                 unsigned height, struct text *out) {
    struct layout layout = {.point = format == GNUPLOT_SVG ? 0.65 : 1,
                            .width = width,
                            .height = height,
                            .legend = plan_legend(figure, width, height)};
    gnuplot_begin(out, format, width, height);
    for (size_t i = 0; i < figure->panel_count; i++) {
        append_data(&figure->panels[i], i, out);
    }
    text_printf(out,
                "set grid ytics back lt 1 lw 1 lc rgb '#E0E0E0'\nset border 3 lc rgb '#444444'\n"
                "set tics nomirror tc rgb '#000000'\nset samples 2\nunset key\n"
                "set multiplot title ");
    append_cut(figure->title, width / CHARACTER_WIDTH, out);
    text_printf(out, "\n");
    for (size_t i = 0; i < figure->panel_count; i++) {
        append_panel(figure, i, &layout, out);
    }
    append_legend(figure, &layout, out);
    text_printf(out, "unset multiplot\n");
}
