/* lines.h - one line after the other from a file or a descriptor, whatever the size of the file.
 *
 * Never holds more than one line and one block of the file: a line longer than LINES_BYTES_MAX is
 * an error after that many bytes, however long it goes on. LF and CR LF end a line; the last one
 * needs no end. A NUL byte is an error, because no text has one.
 *
 * Usage:
 *     TRY(lines_open(files, "reviews.csv", &lines, err));
 *     while ((status = lines_next(&lines, &line, err)) == STATUS_OK && line.bytes != NULL) {
 *         use(line.bytes, line.size, line.number);
 *     }
 *     lines_close(&lines);
 *
 * THREADS: one thread at a time.
 */
#ifndef CAIRN_IO_LINES_H
#define CAIRN_IO_LINES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/base/status.h"
#include "io/file.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { LINES_BYTES_MAX = 16 << 20 };

struct lines {
    const struct file_table *files;
    const char *name; /* for messages; borrowed */
    int fd;
    bool owns_fd;
    bool pipe;    /* not a regular file: data may come later */
    bool started; /* something has been read */
    bool at_end;  /* the descriptor has nothing more */
    char *buffer;
    size_t capacity;
    size_t first, end; /* the bytes of the buffer that were not handed out */
    uint64_t number;   /* of the line handed out last, from 1 */
};

struct line {
    const char *bytes;  /* NULL when there are no more lines; valid until the next call */
    size_t size;        /* without its end */
    size_t ending_size; /* 1 for LF, 2 for CR LF, 0 for the end of the file; it lies behind the
                           bytes */
    uint64_t number;
};

/* Open a file. `path` must outlive `out`. STATUS_INPUT, STATUS_IO, STATUS_MEMORY. */
MUST_USE enum status lines_open(const struct file_table *files, const char *path, struct lines *out,
                                struct error *err);

/* Read from a descriptor that somebody else closes (standard input). */
MUST_USE enum status lines_attach(const struct file_table *files, int fd, const char *name,
                                  struct lines *out, struct error *err);

/* The next line. STATUS_DATA naming file and line: too long, or with a NUL byte. STATUS_IO. */
MUST_USE enum status lines_next(struct lines *lines, struct line *out, struct error *err);

/* Can the next line be handed out without reading from the descriptor? */
bool lines_ready(const struct lines *lines);

/* Pass over a UTF-8 byte order mark. Before the first lines_next only. */
MUST_USE enum status lines_skip_mark(struct lines *lines, struct error *err);

/* Also after a failed lines_open. */
void lines_close(struct lines *lines);

#ifdef __cplusplus
}
#endif
#endif
