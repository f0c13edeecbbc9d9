/* json_line.h - one line of a JSONL file: parsed, and its `text` taken out.
 *
 * Messages start with the file's name and the line. Nothing else in Cairn looks into JSONL input.
 *
 * Usage:
 *     TRY(json_line_parse(name, &line, &root, err));
 *     status = json_line_text(name, &line, root, &text, &size, err);
 *     json_decref(root);
 *
 * THREADS: no shared state.
 */
#ifndef CAIRN_IO_JSON_LINE_H
#define CAIRN_IO_JSON_LINE_H

#include <jansson.h>

#include "host/base/status.h"
#include "io/lines.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Parse a line. Keys that occur twice are refused. STATUS_DATA. The caller calls json_decref. */
MUST_USE enum status json_line_parse(const char *name, const struct line *line, json_t **out,
                                     struct error *err);

/* The string under `text` of an object; valid as long as `root`. STATUS_DATA: no object, no such
 * key, no string, with a NUL character. */
MUST_USE enum status json_line_text(const char *name, const struct line *line, const json_t *root,
                                    const char **text, size_t *size, struct error *err);

/* Bytes of a JSON string value, checked for NUL characters. */
MUST_USE enum status json_line_string(const char *name, const struct line *line,
                                      const json_t *value, const char **text, size_t *size,
                                      struct error *err);

/* "a string", "a number"... for messages. */
const char *json_line_type(const json_t *value);

/* Only white space? (Such a line is no JSON value; where it may stand is the caller's rule.) */
bool json_line_is_blank(const struct line *line);

#ifdef __cplusplus
}
#endif
#endif
