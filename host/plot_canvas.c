#include "host/plot_canvas.h"

#include <stdlib.h>
#include <string.h>

/* ---- characters ------------------------------------------------------------------------------ */

static const char *const glyphs[PLOT_GLYPH_COUNT][2] = {
    [PLOT_GLYPH_NONE] = {" ", " "},       [PLOT_GLYPH_VERTICAL] = {"│", "|"},
    [PLOT_GLYPH_TICK_LEFT] = {"┤", "+"},  [PLOT_GLYPH_CORNER] = {"└", "+"},
    [PLOT_GLYPH_HORIZONTAL] = {"─", "-"}, [PLOT_GLYPH_TICK_BELOW] = {"┬", "+"},
    [PLOT_GLYPH_RESTART] = {"┊", ":"},    [PLOT_GLYPH_LEVEL] = {"╌", "-"},
    [PLOT_GLYPH_BEST] = {"◆", "*"},
};

const char *plot_glyph_text(enum plot_glyph glyph, bool plain) {
    return glyphs[glyph][plain ? 1 : 0];
}

/* U+2800 and eight bits: the left column from above has bits 0, 1, 2, 6, the right one 3, 4, 5, 7.
 */
static const unsigned char braille_bits[4][2] = {
    {0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}};

static void append_braille(unsigned dots, struct text *out) {
    char bytes[3] = {(char)0xE2, (char)(0xA0 | dots >> 6), (char)(0x80 | (dots & 0x3F))};
    text_append(out, bytes, sizeof bytes);
}

/* ---- drawing --------------------------------------------------------------------------------- */

enum status plot_canvas_init(struct plot_canvas *canvas, unsigned columns, unsigned rows,
                             bool plain, bool letters, struct error *err) {
    letters = letters || plain;
    *canvas = (struct plot_canvas){.columns = columns,
                                   .rows = rows,
                                   .dots_x = letters ? 1 : 2,
                                   .dots_y = letters ? 1 : 4,
                                   .plain = plain,
                                   .letters = letters};
    canvas->cells = calloc((size_t)columns * rows, sizeof *canvas->cells);
    CHECK(canvas->cells != NULL, err, STATUS_MEMORY, "no memory for a drawing of %u by %u", columns,
          rows);
    for (size_t i = 0; i < (size_t)columns * rows; i++) {
        canvas->cells[i].colour = PLOT_COLOUR_PLAIN;
    }
    return STATUS_OK;
}

void plot_canvas_free(struct plot_canvas *canvas) {
    free(canvas->cells);
    *canvas = (struct plot_canvas){0};
}

/* NULL outside. */
static struct plot_cell *cell_at(const struct plot_canvas *canvas, int row, int column) {
    bool inside = row >= 0 && column >= 0 && (unsigned)row < canvas->rows &&
                  (unsigned)column < canvas->columns;
    return inside ? &canvas->cells[(size_t)row * canvas->columns + (size_t)column] : NULL;
}

void plot_canvas_text(struct plot_canvas *canvas, int row, int column, unsigned colour,
                      const char *ascii) {
    for (; *ascii != '\0'; ascii++, column++) {
        struct plot_cell *cell = cell_at(canvas, row, column);
        if (cell != NULL) {
            *cell = (struct plot_cell){
                .letter = *ascii, .is_text = true, .colour = (unsigned char)colour};
        }
    }
}

void plot_canvas_glyph(struct plot_canvas *canvas, int row, int column, unsigned colour,
                       enum plot_glyph glyph) {
    struct plot_cell *cell = cell_at(canvas, row, column);
    if (cell != NULL) {
        *cell = (struct plot_cell){.glyph = (unsigned char)glyph, .colour = (unsigned char)colour};
    }
}

bool plot_canvas_is_free(const struct plot_canvas *canvas, int row, int column) {
    const struct plot_cell *cell = cell_at(canvas, row, column);
    return cell != NULL && cell->dots == 0 && cell->glyph == PLOT_GLYPH_NONE && !cell->is_text;
}

static void draw_dot(struct plot_canvas *canvas, int x, int y, struct plot_pen *pen) {
    enum { DASH_DOTS = 2 }; /* drawn, then as many left out */
    bool skipped = pen->dashed && !canvas->letters && pen->travelled / DASH_DOTS % 2 == 1;
    pen->travelled++;
    if (x < 0 || y < 0 || skipped) {
        return;
    }
    int across = (int)canvas->dots_x, down = (int)canvas->dots_y;
    struct plot_cell *cell = cell_at(canvas, y / down, x / across);
    if (cell == NULL || cell->glyph != PLOT_GLYPH_NONE || cell->is_text) {
        return;
    }
    cell->dots |= canvas->letters ? 1 : braille_bits[y % down][x % across];
    cell->letter = pen->letter;
    cell->colour = (unsigned char)pen->colour;
}

/* Bresenham (1965). */
void plot_canvas_line(struct plot_canvas *canvas, int x0, int y0, int x1, int y1,
                      struct plot_pen *pen) {
    int dx = abs(x1 - x0), dy = -abs(y1 - y0), error = dx + dy;
    int step_x = x0 < x1 ? 1 : -1, step_y = y0 < y1 ? 1 : -1;
    for (;;) {
        draw_dot(canvas, x0, y0, pen);
        if (x0 == x1 && y0 == y1) {
            return;
        }
        int twice = 2 * error;
        if (twice >= dy) {
            error += dy;
            x0 += step_x;
        }
        if (twice <= dx) {
            error += dx;
            y0 += step_y;
        }
    }
}

/* ---- output ---------------------------------------------------------------------------------- */

static void append_cell(const struct plot_canvas *canvas, const struct plot_cell *cell,
                        struct text *out) {
    if (cell->is_text || (canvas->letters && cell->dots != 0)) {
        text_append(out, &cell->letter, 1);
    } else if (cell->dots != 0) {
        append_braille(cell->dots, out);
    } else {
        text_printf(out, "%s", plot_glyph_text(cell->glyph, canvas->plain));
    }
}

/* The runs' colours are those of the pictures (Okabe and Ito, 2008), as near as a terminal comes.
 */
static void append_colour(unsigned colour, enum terminal_colours colours, struct text *out) {
    static const char *const many[] = {"38;5;32",  "38;5;166", "38;5;36",  "38;5;175", "38;5;214",
                                       "38;5;117", "39",       "38;5;245", "39",       "38;5;245"};
    static const char *const few[] = {"34", "31", "32", "35", "33", "36", "39", "90", "39", "90"};
    if (colours != TERMINAL_COLOURS_NONE) {
        text_printf(out, "\033[%sm", (colours == TERMINAL_COLOURS_256 ? many : few)[colour]);
    }
}

static bool is_blank(const struct plot_cell *cell) {
    return cell->dots == 0 && cell->glyph == PLOT_GLYPH_NONE &&
           (!cell->is_text || cell->letter == ' ');
}

static void write_row(const struct plot_canvas *canvas, unsigned row, enum terminal_colours colours,
                      struct text *out) {
    const struct plot_cell *cells = &canvas->cells[(size_t)row * canvas->columns];
    unsigned end = canvas->columns, colour = PLOT_COLOUR_PLAIN;
    while (end > 0 && is_blank(&cells[end - 1])) {
        end--;
    }
    for (unsigned i = 0; i < end; i++) {
        if (cells[i].colour != colour && !is_blank(&cells[i])) {
            colour = cells[i].colour;
            append_colour(colour, colours, out);
        }
        append_cell(canvas, &cells[i], out);
    }
    if (colour != PLOT_COLOUR_PLAIN) {
        append_colour(PLOT_COLOUR_PLAIN, colours, out);
    }
    text_append(out, "\n", 1);
}

void plot_canvas_write(const struct plot_canvas *canvas, enum terminal_colours colours,
                       struct text *out) {
    for (unsigned row = 0; row < canvas->rows; row++) {
        write_row(canvas, row, colours, out);
    }
}
