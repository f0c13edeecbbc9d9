#include "io/lines.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "host/base/stop.h"

enum {
    BLOCK_BYTES = 64 << 10,
    CAPACITY_MAX = LINES_BYTES_MAX + 2, /* the longest line with CR LF */
};

enum status lines_attach(const struct file_table *files, int fd, const char *name,
                         struct lines *out, struct error *err) {
    *out = (struct lines){.files = files, .name = name, .fd = fd};
    out->buffer = malloc(BLOCK_BYTES);
    CHECK(out->buffer != NULL, err, STATUS_MEMORY, "no memory to read %s", name);
    out->capacity = BLOCK_BYTES;
    return STATUS_OK;
}

enum status lines_open(const struct file_table *files, const char *path, struct lines *out,
                       struct error *err) {
    *out = (struct lines){.files = files, .name = path, .fd = -1};
    /* Opening a pipe that nobody writes to would hold us where no stop signal reaches. */
    int fd = files->open(files->context, path, O_RDONLY | O_NONBLOCK, 0);
    if (fd < 0) {
        char reason[160];
        return error_set(err, file_input_status(fd), "cannot open %s: %s", path,
                         file_errno_text(fd, reason, sizeof reason));
    }
    enum status status = lines_attach(files, fd, path, out, err);
    struct file_stat info;
    out->pipe =
        files->stat(files->context, path, &info) >= 0 && !info.is_regular && !info.is_directory;
    out->owns_fd = true;
    return status;
}

void lines_close(struct lines *lines) {
    if (lines->owns_fd) {
        lines->files->close(lines->files->context, lines->fd);
        lines->owns_fd = false;
    }
    free(lines->buffer);
    lines->buffer = NULL;
}

/* Make room behind `end`: move the rest to the front, then enlarge. */
static enum status make_room(struct lines *lines, struct error *err) {
    if (lines->first > 0) {
        lines->end -= lines->first;
        memmove(lines->buffer, lines->buffer + lines->first, lines->end);
        lines->first = 0;
    }
    if (lines->end < lines->capacity) {
        return STATUS_OK;
    }
    CHECK(lines->capacity < CAPACITY_MAX, err, STATUS_DATA,
          "%s: line %llu is longer than %d bytes (16 MiB): expected one text a line", lines->name,
          (unsigned long long)lines->number + 1, LINES_BYTES_MAX);
    size_t capacity = lines->capacity * 2 < CAPACITY_MAX ? lines->capacity * 2 : CAPACITY_MAX;
    char *buffer = realloc(lines->buffer, capacity);
    CHECK(buffer != NULL, err, STATUS_MEMORY, "no memory for line %llu of %s",
          (unsigned long long)lines->number + 1, lines->name);
    lines->buffer = buffer;
    lines->capacity = capacity;
    return STATUS_OK;
}

/* One read. A pipe opened without waiting has nothing yet (EAGAIN), or, before its first writer
 * came, looks as if it had ended: then wait, in naps that a stop signal ends. */
static ssize_t read_block(struct lines *lines, bool *stopped) {
    const struct timespec nap = {.tv_nsec = 10 * 1000 * 1000};
    for (;;) {
        ssize_t got = lines->files->read(lines->files->context, lines->fd,
                                         lines->buffer + lines->end, lines->capacity - lines->end);
        bool before_first_writer = got == 0 && lines->pipe && !lines->started;
        if (got != -EAGAIN && !before_first_writer) {
            lines->started = lines->started || got > 0;
            return got;
        }
        *stopped = stop_signal() != 0;
        if (*stopped) {
            return 0;
        }
        nanosleep(&nap, NULL);
    }
}

/* Read one block more, or notice the end. */
static enum status read_more(struct lines *lines, struct error *err) {
    TRY(make_room(lines, err));
    bool stopped = false;
    ssize_t got = read_block(lines, &stopped);
    CHECK(!stopped, err, STATUS_STOPPED, "stopped by a signal while reading %s", lines->name);
    if (got < 0) {
        char reason[160];
        return error_set(err, file_input_status((int)got), "cannot read %s behind line %llu: %s",
                         lines->name, (unsigned long long)lines->number,
                         file_errno_text((int)got, reason, sizeof reason));
    }
    lines->at_end = got == 0;
    lines->end += (size_t)got;
    return STATUS_OK;
}

enum status lines_skip_mark(struct lines *lines, struct error *err) {
    while (lines->end < 3 && !lines->at_end) {
        TRY(read_more(lines, err));
    }
    if (lines->end >= 3 && memcmp(lines->buffer, "\xEF\xBB\xBF", 3) == 0) {
        lines->first = 3;
    }
    return STATUS_OK;
}

bool lines_ready(const struct lines *lines) {
    return lines->at_end ||
           memchr(lines->buffer + lines->first, '\n', lines->end - lines->first) != NULL;
}

/* Hand out `size` bytes from `first` on, of which `newline` (0 or 1) are a line feed. */
static enum status take(struct lines *lines, size_t size, size_t newline, struct line *out,
                        struct error *err) {
    const char *bytes = lines->buffer + lines->first;
    bool carriage_return = newline == 1 && size >= 2 && bytes[size - 2] == '\r';
    size_t ending_size = newline + (carriage_return ? 1 : 0);
    *out = (struct line){.bytes = bytes,
                         .size = size - ending_size,
                         .ending_size = ending_size,
                         .number = ++lines->number};
    lines->first += size;
    CHECK(out->size <= LINES_BYTES_MAX, err, STATUS_DATA,
          "%s: line %llu is longer than %d bytes (16 MiB): expected one text a line", lines->name,
          (unsigned long long)lines->number, LINES_BYTES_MAX);
    CHECK(memchr(bytes, '\0', out->size) == NULL, err, STATUS_DATA,
          "%s: line %llu holds a NUL byte: expected a text file (is it binary, or UTF-16?)",
          lines->name, (unsigned long long)lines->number);
    return STATUS_OK;
}

enum status lines_next(struct lines *lines, struct line *out, struct error *err) {
    size_t searched = 0; /* bytes of this line that hold no line feed */
    for (;;) {
        size_t held = lines->end - lines->first;
        const char *bytes = lines->buffer + lines->first;
        const char *newline = memchr(bytes + searched, '\n', held - searched);
        if (newline != NULL) {
            return take(lines, (size_t)(newline - bytes) + 1, 1, out, err);
        }
        if (lines->at_end) {
            if (held > 0) {
                return take(lines, held, 0, out, err);
            }
            *out = (struct line){.bytes = NULL, .number = lines->number};
            return STATUS_OK;
        }
        searched = held;
        TRY(read_more(lines, err));
    }
}
