/* plot_canvas.h - a sheet of characters to draw on.
 *
 * A cell holds a character, or dots: braille has two by four of them in a cell, letters one, shown
 * as that of the curve that was there last. Coordinates begin at the left and at the top. What lies
 * outside is not drawn.
 *
 * Usage:
 *     TRY(plot_canvas_init(&canvas, 80, 12, plain, letters, err));
 *     plot_canvas_text(&canvas, 0, 2, "loss");
 *     plot_canvas_line(&canvas, from, to, &pen);
 *     plot_canvas_write(&canvas, TERMINAL_COLOURS_256, &out);
 *     plot_canvas_free(&canvas);
 *
 * THREADS: one at a time.
 */
#ifndef CAIRN_HOST_PLOT_CANVAS_H
#define CAIRN_HOST_PLOT_CANVAS_H

#include <stdbool.h>

#include "host/base/text.h"
#include "host/terminal.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    PLOT_COLOUR_PLAIN = 8, /* the terminal's own; 0 to 7 are the runs' */
    PLOT_COLOUR_DIM = 9
};

enum plot_glyph {
    PLOT_GLYPH_NONE,
    PLOT_GLYPH_VERTICAL,
    PLOT_GLYPH_TICK_LEFT,
    PLOT_GLYPH_CORNER,
    PLOT_GLYPH_HORIZONTAL,
    PLOT_GLYPH_TICK_BELOW,
    PLOT_GLYPH_RESTART,
    PLOT_GLYPH_LEVEL,
    PLOT_GLYPH_BEST,
    PLOT_GLYPH_COUNT
};

/* UTF-8, or one ASCII character. Static. */
const char *plot_glyph_text(enum plot_glyph glyph, bool plain);

struct plot_cell {
    unsigned char dots;  /* braille bits; letters: 1 */
    unsigned char glyph; /* goes before dots */
    char letter;         /* goes before both, or stands for dots */
    bool is_text;
    unsigned char colour;
};

struct plot_canvas {
    unsigned columns, rows;
    unsigned dots_x, dots_y; /* of a cell */
    bool plain;              /* ASCII only */
    bool letters;            /* for curves, instead of braille */
    struct plot_cell *cells; /* [rows, columns]; owned */
};

/* Plain characters have no braille: they are drawn with letters in any case. */
MUST_USE enum status plot_canvas_init(struct plot_canvas *canvas, unsigned columns, unsigned rows,
                                      bool plain, bool letters, struct error *err);
void plot_canvas_free(struct plot_canvas *canvas);

void plot_canvas_text(struct plot_canvas *canvas, int row, int column, unsigned colour,
                      const char *ascii);
void plot_canvas_glyph(struct plot_canvas *canvas, int row, int column, unsigned colour,
                       enum plot_glyph glyph);
/* Nothing drawn there yet? */
bool plot_canvas_is_free(const struct plot_canvas *canvas, int row, int column);

struct plot_pen {
    unsigned colour;
    char letter;
    bool dashed;
    unsigned travelled; /* dots so far, for the dashes */
};

/* From (x0, y0) to (x1, y1), in dots. */
void plot_canvas_line(struct plot_canvas *canvas, int x0, int y0, int x1, int y1,
                      struct plot_pen *pen);

/* Append all rows without the blanks at their ends. */
void plot_canvas_write(const struct plot_canvas *canvas, enum terminal_colours colours,
                       struct text *out);

#ifdef __cplusplus
}
#endif
#endif
