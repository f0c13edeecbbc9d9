/* texts.h - the texts that predict and tokenize are asked about, one after the other from a file or
 * from standard input.
 *
 * Formats: a text a line (an empty line is an empty text), or a JSON value a line: an object with
 * the key "text", or a string. Holds one line at a time, however long the input. One text in is one
 * text out: nothing is skipped, blank lines of a JSONL input may stand at its end only.
 *
 * Usage:
 *     TRY(texts_open(&file_posix, options->file, options->input_format, &texts, err));
 *     while ((status = texts_next(&texts, &text, err)) == STATUS_OK && text.bytes != NULL) {
 *         answer(text.bytes, text.size);
 *         if (texts_would_wait(&texts)) {
 *             fflush(stdout);            whoever feeds us may be waiting for the answer
 *         }
 *     }
 *     texts_close(&texts);
 *
 * THREADS: one thread at a time. Polls stop_signal, also while waiting for standard input.
 */
#ifndef CAIRN_HOST_TEXTS_H
#define CAIRN_HOST_TEXTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/base/status.h"
#include "host/options.h"
#include "io/lines.h"

#ifdef __cplusplus
extern "C" {
#endif

struct json_t;

struct texts {
    struct lines lines;
    enum input_format format;
    struct json_t *root; /* of the line handed out last */
    uint64_t blank_line; /* the first blank one, 0 */
};

struct text_item {
    const char *bytes; /* NULL at the end; no NUL byte inside; valid until the next call */
    size_t size;
    uint64_t line;
};

/* `path`: a file, or "-" or "" for standard input; must outlive `out`. STATUS_INPUT, STATUS_IO. */
MUST_USE enum status texts_open(const struct file_table *files, const char *path,
                                enum input_format format, struct texts *out, struct error *err);

/* The next text. STATUS_DATA naming file and line, STATUS_IO, STATUS_STOPPED. Blocking. */
MUST_USE enum status texts_next(struct texts *texts, struct text_item *out, struct error *err);

/* Would texts_next have to wait for whoever writes the input? */
bool texts_would_wait(const struct texts *texts);

/* Also after a failed texts_open. */
void texts_close(struct texts *texts);

#ifdef __cplusplus
}
#endif
#endif
