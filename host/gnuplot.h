/* gnuplot.h - one picture by gnuplot: the script goes in, a whole file comes out.
 *
 * gnuplot is a program that need not be there (Debian: gnuplot-nox). It gets the script on its
 * standard input, reads no file of the user's settings, and its standard output is what becomes the
 * file: no path of ours ever stands in a script, where a `|` in front of it would be a command.
 * The file is published as any other of Cairn's (temporary name, fsync, rename), so that a picture
 * is whole or not there, and an old one stays when drawing fails.
 *
 * Usage:
 *     struct text script = {0};
 *     gnuplot_begin(&script, GNUPLOT_PNG, 1000, 400);
 *     text_printf(&script, "set title ");
 *     gnuplot_append_quoted(&script, name);
 *     ...
 *     TRY(gnuplot_draw(&script, "curves.png", &drawn, err));
 *
 * THREADS: main thread.
 */
#ifndef CAIRN_HOST_GNUPLOT_H
#define CAIRN_HOST_GNUPLOT_H

#include <stdbool.h>

#include "host/base/text.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What to install where there is none, for messages. */
#define GNUPLOT_MISSING "gnuplot is not installed (Debian: apt-get install gnuplot-nox)"

enum gnuplot_format { GNUPLOT_PNG, GNUPLOT_SVG };

/* By the end of a file's name, ".png" or ".svg" in any case; false for others. */
bool gnuplot_format_of(const char *path, enum gnuplot_format *out);

/* The script's first lines: format, size in pixels, fonts, UTF-8, no markup in texts. */
void gnuplot_begin(struct text *script, enum gnuplot_format format, unsigned width,
                   unsigned height);

/* `value` between single quotes, in which gnuplot knows nothing but the quote itself, doubled: no
 * command, no variable, no escape. Control bytes and bytes that are not UTF-8 are shown as \xHH;
 * what is longer than 400 bytes is cut. */
void gnuplot_append_quoted(struct text *script, const char *value);

/* Run the script and publish what it draws as `path`. *drawn is false, with STATUS_OK, when there
 * is no gnuplot. STATUS_IO when it fails (its own words are on standard error), STATUS_OUTPUT when
 * the file cannot be written, STATUS_STOPPED by a signal, STATUS_MEMORY (also for a script that had
 * failed). Blocks until gnuplot has ended. */
MUST_USE enum status gnuplot_draw(const struct text *script, const char *path, bool *drawn,
                                  struct error *err);

#ifdef __cplusplus
}
#endif
#endif
