/* text.h - growing byte strings, escaping, number parsing, monotonic time: small things that every
 * room needs and that libc does not offer whole.
 *
 * Usage:
 *     struct text line = {0};
 *     text_printf(&line, "step %d", step);   sets line.failed when memory runs out
 *     fwrite(line.bytes, 1, line.size, file);
 *     text_free(&line);
 *
 * THREADS: a `struct text` belongs to one thread; the functions have no shared state.
 */
#ifndef CAIRN_HOST_BASE_TEXT_H
#define CAIRN_HOST_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

struct text {
    char *bytes; /* NUL-terminated once anything was appended; owned */
    size_t size; /* without the NUL */
    size_t capacity;
    bool failed; /* memory ran out; the content is incomplete */
};

/* Append. On failure `failed` is set and the call does nothing more: check once at the end. */
void text_append(struct text *text, const void *bytes, size_t size);
void text_printf(struct text *text, const char *format, ...) PRINTF_LIKE(2, 3);

/* Append `size` bytes as a JSON string with quotes. Bytes that are not valid UTF-8 become U+FFFD.
 */
void text_append_json(struct text *text, const char *bytes, size_t size);

/* Append the shortest decimal form that reads back the same ("0.1", "1e-07"), as Python prints a
 * float; "nan", "inf", "-inf". */
void text_append_shortest_double(struct text *text, double value);

/* The same as JSON: NaN and infinities as the strings "nan", "inf", "-inf", quotes included. */
void text_append_json_double(struct text *text, double value);

/* Are these bytes valid UTF-8? */
bool text_is_utf8(const char *bytes, size_t size);

/* Keep the memory, drop the content; free the memory. */
void text_clear(struct text *text);
void text_free(struct text *text);

/* Copy at most `capacity` - 1 bytes of data for a message or a terminal: control bytes become \xHH,
 * a cut is shown by "...". Returns `out`. */
char *text_escape(const char *bytes, size_t size, char *out, size_t capacity);

/* The same by value, for a path or a name in the middle of a message: text_show(path).text */
struct text_shown {
    char text[400];
};
struct text_shown text_show(const char *string);

/* The whole NUL-terminated string as a number: no leading white space, no rest. False when it is
 * not one or does not fit. */
bool text_parse_i64(const char *string, int64_t *out);
bool text_parse_u64(const char *string, uint64_t *out);
bool text_parse_double(const char *string, double *out);

/* Seconds of a clock that never jumps (CLOCK_MONOTONIC), and of the wall clock. */
double clock_monotonic_seconds(void);
double clock_wall_seconds(void);
/* Processor time that the calling thread has used. */
double clock_thread_cpu_seconds(void);

#ifdef __cplusplus
}
#endif
#endif
