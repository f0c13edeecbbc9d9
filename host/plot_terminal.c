/* A figure as characters. */
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/plot.h"
#include "host/plot_canvas.h"

enum {
    COLUMNS_MIN = 40,
    BESIDE_COLUMNS = 110, /* from here on two panels lie side by side */
    ROWS_BESIDE = 14,
    ROWS_BELOW = 10,
    ROWS_MIN = 5,     /* of a panel, where the terminal is low */
    LINES_AROUND = 5, /* title, legend, head of the table, path of the picture, prompt */
    FRAME_ROWS = 3,   /* title, axis, its labels */
    GAP = 2,
    KEYS_MAX = 3 * PLOT_RUNS_MAX + 2 /* curves and levels */
};

/* Where a panel lies on the canvas. */
struct frame {
    struct plot_canvas *canvas;
    const struct plot_panel *panel;
    int left, top;     /* of the area with the curves, in cells */
    int columns, rows; /* of it */
    int key_column;    /* right of it */
    const char *x_label;
};

/* ---- coordinates ----------------------------------------------------------------------------- */

static double between(double value, double low, double high) {
    return value < low ? low : value > high ? high : value;
}

static int dot_x(const struct frame *frame, double x) {
    int dots = frame->columns * (int)frame->canvas->dots_x;
    double place = between(plot_axis_place(&frame->panel->x, x), 0, 1);
    return frame->left * (int)frame->canvas->dots_x + (int)lround(place * (dots - 1));
}

static int dot_y(const struct frame *frame, double y) {
    int dots = frame->rows * (int)frame->canvas->dots_y;
    double place = between(plot_axis_place(&frame->panel->y_printed, y), 0, 1);
    return frame->top * (int)frame->canvas->dots_y + (int)lround((1 - place) * (dots - 1));
}

static int column_of(const struct frame *frame, double x) {
    return dot_x(frame, x) / (int)frame->canvas->dots_x;
}

static int row_of(const struct frame *frame, double y) {
    return dot_y(frame, y) / (int)frame->canvas->dots_y;
}

/* ---- axes ------------------------------------------------------------------------------------ */

static void draw_y_axis(const struct frame *frame) {
    const struct plot_axis *axis = &frame->panel->y_printed;
    for (int row = 0; row < frame->rows; row++) {
        plot_canvas_glyph(frame->canvas, frame->top + row, frame->left - 1, PLOT_COLOUR_DIM,
                          PLOT_GLYPH_VERTICAL);
    }
    int taken = frame->top + frame->rows;
    for (size_t i = 0; i < axis->tick_count; i++) {
        int row = row_of(frame, axis->ticks[i]), size = (int)strlen(axis->labels[i]);
        if (row >= taken) { /* more ticks than rows */
            continue;
        }
        taken = row;
        plot_canvas_glyph(frame->canvas, row, frame->left - 1, PLOT_COLOUR_DIM,
                          PLOT_GLYPH_TICK_LEFT);
        plot_canvas_text(frame->canvas, row, frame->left - 2 - size, PLOT_COLOUR_PLAIN,
                         axis->labels[i]);
    }
}

/* A label that would touch the one before it is left out. */
static void draw_x_axis(const struct frame *frame) {
    const struct plot_axis *axis = &frame->panel->x;
    int row = frame->top + frame->rows, taken = frame->left - 2;
    plot_canvas_glyph(frame->canvas, row, frame->left - 1, PLOT_COLOUR_DIM, PLOT_GLYPH_CORNER);
    for (int column = 0; column < frame->columns; column++) {
        plot_canvas_glyph(frame->canvas, row, frame->left + column, PLOT_COLOUR_DIM,
                          PLOT_GLYPH_HORIZONTAL);
    }
    for (size_t i = 0; i < axis->tick_count; i++) {
        int column = column_of(frame, axis->ticks[i]), size = (int)strlen(axis->labels[i]);
        int first = column - size / 2;
        plot_canvas_glyph(frame->canvas, row, column, PLOT_COLOUR_DIM, PLOT_GLYPH_TICK_BELOW);
        if (first > taken + 1 && first + size <= frame->left + frame->columns + size / 2 + 1) {
            plot_canvas_text(frame->canvas, row + 1, first, PLOT_COLOUR_PLAIN, axis->labels[i]);
            taken = first + size;
        }
    }
    int label = frame->left + frame->columns + 1;
    plot_canvas_text(frame->canvas, row + 1, label > taken + 1 ? label : taken + 1, PLOT_COLOUR_DIM,
                     frame->x_label);
}

/* ---- curves and marks ------------------------------------------------------------------------ */

static void draw_curve(const struct frame *frame, const struct plot_curve *curve) {
    struct plot_pen pen = {.colour =
                               curve->line == PLOT_LINE_FAINT ? PLOT_COLOUR_DIM : curve->colour,
                           .letter = curve->letter,
                           .dashed = curve->line == PLOT_LINE_DASHED};
    bool joined = false; /* to the point before */
    int last_x = 0, last_y = 0;
    for (size_t i = 0; i < curve->series.count; i++) {
        struct plot_point point = curve->series.points[i];
        if (!isfinite(point.y)) {
            joined = false;
            continue;
        }
        int x = dot_x(frame, point.x), y = dot_y(frame, point.y);
        plot_canvas_line(frame->canvas, joined ? last_x : x, joined ? last_y : y, x, y, &pen);
        joined = curve->line != PLOT_DOTS;
        last_x = x;
        last_y = y;
    }
}

/* Behind the curves. */
static void draw_lines(const struct frame *frame) {
    for (size_t i = 0; i < frame->panel->mark_count; i++) {
        const struct plot_mark *mark = &frame->panel->marks[i];
        int row = row_of(frame, mark->y), column = column_of(frame, mark->x);
        for (int at = 0; mark->kind == PLOT_MARK_LEVEL && at < frame->columns; at++) {
            if (plot_canvas_is_free(frame->canvas, row, frame->left + at)) {
                plot_canvas_glyph(frame->canvas, row, frame->left + at, mark->colour,
                                  PLOT_GLYPH_LEVEL);
            }
        }
        for (int at = 0; mark->kind == PLOT_MARK_RESTART && at < frame->rows; at++) {
            if (plot_canvas_is_free(frame->canvas, frame->top + at, column)) {
                plot_canvas_glyph(frame->canvas, frame->top + at, column, PLOT_COLOUR_DIM,
                                  PLOT_GLYPH_RESTART);
            }
        }
    }
}

static void draw_best(const struct frame *frame) {
    for (size_t i = 0; i < frame->panel->mark_count; i++) {
        const struct plot_mark *mark = &frame->panel->marks[i];
        if (mark->kind == PLOT_MARK_BEST) {
            plot_canvas_glyph(frame->canvas, row_of(frame, mark->y), column_of(frame, mark->x),
                              mark->colour, PLOT_GLYPH_BEST);
        }
    }
}

/* ---- keys at the right ----------------------------------------------------------------------- */

struct key {
    const char *text;
    double y;
    int row;
    unsigned colour;
};

static int compare_keys(const void *a, const void *b) {
    const struct key *first = a, *second = b;
    int order = (first->y < second->y) - (first->y > second->y);
    return order != 0 ? order : strcmp(first->text, second->text);
}

/* The highest first. */
static size_t list_keys(const struct frame *frame, struct key keys[KEYS_MAX]) {
    const struct plot_panel *panel = frame->panel;
    size_t count = 0;
    for (size_t i = 0; i < panel->curve_count; i++) {
        const struct plot_curve *curve = &panel->curves[i];
        size_t last = curve->series.count;
        while (last > 0 && !isfinite(curve->series.points[last - 1].y)) {
            last--;
        }
        if (last > 0 && !curve->picture_only && curve->key[0] != '\0') {
            assert(count < KEYS_MAX);
            keys[count++] = (struct key){.text = curve->key,
                                         .y = curve->series.points[last - 1].y,
                                         .colour = curve->line == PLOT_LINE_FAINT ? PLOT_COLOUR_DIM
                                                                                  : curve->colour};
        }
    }
    for (size_t i = 0; i < panel->mark_count; i++) {
        if (panel->marks[i].kind == PLOT_MARK_LEVEL) {
            assert(count < KEYS_MAX);
            keys[count++] = (struct key){.text = panel->marks[i].label,
                                         .y = panel->marks[i].y,
                                         .colour = panel->marks[i].colour};
        }
    }
    qsort(keys, count, sizeof *keys, compare_keys);
    return count;
}

/* Each key on a row of its own, in the order of the values, as near to its own row as that allows:
 * in the middle between where it would be if the keys above, and if those below, did not move. */
static void place_keys(const struct frame *frame, struct key *keys, size_t count) {
    int next = frame->top, downwards[KEYS_MAX];
    for (size_t i = 0; i < count; i++) {
        int wanted = row_of(frame, keys[i].y), last = frame->top + frame->rows - (int)(count - i);
        downwards[i] = wanted > next ? wanted : next;
        downwards[i] = downwards[i] < last ? downwards[i] : last;
        next = downwards[i] + 1;
    }
    next = frame->top + frame->rows - 1;
    for (size_t i = count; i-- > 0;) {
        int wanted = row_of(frame, keys[i].y), first = frame->top + (int)i;
        int upwards = wanted < next ? wanted : next;
        upwards = upwards > first ? upwards : first;
        next = upwards - 1;
        keys[i].row = (downwards[i] + upwards) / 2;
    }
}

static void draw_keys(const struct frame *frame) {
    struct key keys[KEYS_MAX];
    size_t count = list_keys(frame, keys);
    place_keys(frame, keys, count);
    for (size_t i = 0; i < count; i++) {
        plot_canvas_text(frame->canvas, keys[i].row, frame->key_column, keys[i].colour,
                         keys[i].text);
    }
}

/* ---- panels ---------------------------------------------------------------------------------- */

static size_t longest_key(const struct plot_panel *panel) {
    size_t longest = 0;
    for (size_t i = 0; i < panel->curve_count; i++) {
        size_t size = panel->curves[i].picture_only ? 0 : strlen(panel->curves[i].key);
        longest = size > longest ? size : longest;
    }
    for (size_t i = 0; i < panel->mark_count; i++) {
        size_t size = strlen(panel->marks[i].label);
        longest = size > longest ? size : longest;
    }
    return longest;
}

static void draw_panel(struct plot_canvas *canvas, const struct plot_figure *figure,
                       const struct plot_panel *panel, int left, int top, int columns, int rows) {
    size_t keys = longest_key(panel), labels = plot_axis_label_width(&panel->y_printed);
    keys = keys > strlen(figure->x_label) ? keys : strlen(figure->x_label);
    struct frame frame = {.canvas = canvas,
                          .panel = panel,
                          .left = left + (int)labels + 2,
                          .top = top + 1,
                          .rows = rows,
                          .x_label = figure->x_label};
    frame.columns = left + columns - frame.left - (int)keys - 1;
    frame.key_column = frame.left + frame.columns + 1;
    plot_canvas_text(canvas, top, left + 1, PLOT_COLOUR_PLAIN,
                     plot_panel_title(figure, panel, (size_t)columns - 1));
    draw_y_axis(&frame);
    draw_x_axis(&frame);
    for (size_t i = 0; i < panel->curve_count; i++) {
        if (!panel->curves[i].picture_only) {
            draw_curve(&frame, &panel->curves[i]);
        }
    }
    draw_lines(&frame);
    draw_best(&frame);
    draw_keys(&frame);
}

/* What the marks mean. */
static void append_legend(const struct plot_figure *figure, const struct plot_canvas *canvas,
                          struct text *out) {
    size_t before = out->size;
    if (figure->restarts_counted) {
        text_printf(out, "  %s", figure->restart_label);
    } else if (figure->restart_label[0] != '\0') {
        text_printf(out, "  %s %s", plot_glyph_text(PLOT_GLYPH_RESTART, canvas->plain),
                    figure->restart_label);
    }
    if (figure->best_label[0] != '\0') {
        text_printf(out, "  %s %s", plot_glyph_text(PLOT_GLYPH_BEST, canvas->plain),
                    figure->best_label);
    }
    if (figure->run_count == 2 && figure->in_epochs) {
        text_printf(out, canvas->letters ? "  small letters: training" : "  dotted: training");
    }
    text_printf(out, out->size > before ? "\n" : "");
}

/* Rows of each of `panels` one below another. The least is enough for the keys of all runs. */
static unsigned rows_of(const struct plot_figure *figure, const struct plot_style *style,
                        bool beside, unsigned panels) {
    unsigned most = beside ? ROWS_BESIDE : ROWS_BELOW;
    unsigned taken = LINES_AROUND + (unsigned)figure->run_count + panels * FRAME_ROWS;
    unsigned fit = style->rows > taken ? (style->rows - taken) / panels : 0;
    unsigned least = figure->run_count > ROWS_MIN ? (unsigned)figure->run_count : ROWS_MIN;
    return style->rows == 0 || fit > most ? most : fit < least ? least : fit;
}

static void draw_panels(struct plot_canvas *canvas, const struct plot_figure *figure, bool beside,
                        int rows) {
    int columns = (int)canvas->columns;
    for (size_t i = 0; i < figure->panel_count; i++) {
        const struct plot_panel *panel = &figure->panels[i];
        if (beside) {
            int half = (columns - GAP) / 2;
            draw_panel(canvas, figure, panel, (int)i * (half + GAP), 0, half, rows);
        } else {
            draw_panel(canvas, figure, panel, 0, (int)i * (rows + FRAME_ROWS), columns, rows);
        }
    }
}

enum status plot_print(const struct plot_figure *figure, const struct plot_style *style,
                       struct text *out, struct error *err) {
    unsigned columns = style->columns < COLUMNS_MIN ? COLUMNS_MIN : style->columns;
    bool beside = figure->panel_count > 1 && columns >= BESIDE_COLUMNS;
    bool letters = figure->run_count > 1 && style->colours == TERMINAL_COLOURS_NONE;
    unsigned panels = beside ? 1 : (unsigned)figure->panel_count;
    unsigned rows = rows_of(figure, style, beside, panels);
    struct plot_canvas canvas;
    TRY(plot_canvas_init(&canvas, columns, (rows + FRAME_ROWS) * panels, style->plain, letters,
                         err));
    draw_panels(&canvas, figure, beside, (int)rows);
    plot_canvas_write(&canvas, style->colours, out);
    append_legend(figure, &canvas, out);
    plot_canvas_free(&canvas);
    return STATUS_OK;
}
