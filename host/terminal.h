/* terminal.h - what can be shown where standard output or standard error goes.
 *
 * Usage:
 *     unsigned columns = terminal_columns(stdout);
 *     bool braille = terminal_is_utf8();
 *     enum terminal_colours colours = terminal_colours(stdout);
 *
 * THREADS: main thread; the environment is read.
 */
#ifndef CAIRN_HOST_TERMINAL_H
#define CAIRN_HOST_TERMINAL_H

#include <stdbool.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* COLUMNS, or else the terminal's own width, or else 80. */
unsigned terminal_columns(FILE *out);

/* LINES, or else the terminal's own height, or else 0: there is no limit. */
unsigned terminal_rows(FILE *out);

/* Does the locale (LC_ALL, LC_CTYPE, LANG: the first that is set) name UTF-8? The program itself
 * stays in the C locale; only what may be printed depends on it. */
bool terminal_is_utf8(void);

enum terminal_colours { TERMINAL_COLOURS_NONE, TERMINAL_COLOURS_8, TERMINAL_COLOURS_256 };

/* None unless `out` is a terminal that is not "dumb", or when NO_COLOR is set and not empty. */
enum terminal_colours terminal_colours(FILE *out);

#ifdef __cplusplus
}
#endif
#endif
