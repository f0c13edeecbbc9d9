#include "host/texts.h"

#include <poll.h>
#include <unistd.h>

#include "host/base/stop.h"
#include "io/json_line.h"

enum { STOP_POLL_MS = 100 };

enum status texts_open(const struct file_table *files, const char *path, enum input_format format,
                       struct texts *out, struct error *err) {
    *out = (struct texts){.format = format};
    bool standard_input = path[0] == '\0' || (path[0] == '-' && path[1] == '\0');
    TRY(standard_input ? lines_attach(files, STDIN_FILENO, "standard input", &out->lines, err)
                       : lines_open(files, path, &out->lines, err));
    return STATUS_OK;
}

void texts_close(struct texts *texts) {
    json_decref(texts->root);
    texts->root = NULL;
    lines_close(&texts->lines);
}

bool texts_would_wait(const struct texts *texts) {
    struct pollfd input = {.fd = texts->lines.fd, .events = POLLIN};
    return !lines_ready(&texts->lines) && poll(&input, 1, 0) <= 0;
}

/* Signals are taken by another thread and interrupt no read, so one that could block for ever (a
 * terminal, a pipe) is entered only when there is something to read. */
static enum status wait_for_input(const struct texts *texts, struct error *err) {
    struct pollfd input = {.fd = texts->lines.fd, .events = POLLIN};
    bool may_block = texts_would_wait(texts); /* a regular file is always ready */
    do {
        CHECK(stop_signal() == 0, err, STATUS_STOPPED, "stopped by a signal while reading %s",
              texts->lines.name);
    } while (may_block && poll(&input, 1, STOP_POLL_MS) <= 0);
    return STATUS_OK;
}

static enum status next_line(struct texts *texts, struct line *line, struct error *err) {
    TRY(wait_for_input(texts, err));
    return lines_next(&texts->lines, line, err);
}

/* The next line that is not blank; blank ones are accepted where nothing follows. */
static enum status next_json_line(struct texts *texts, struct line *line, struct error *err) {
    for (;;) {
        TRY(next_line(texts, line, err));
        if (line->bytes == NULL) {
            return STATUS_OK;
        }
        if (!json_line_is_blank(line)) {
            break;
        }
        texts->blank_line = texts->blank_line == 0 ? line->number : texts->blank_line;
    }
    CHECK(texts->blank_line == 0, err, STATUS_DATA,
          "%s: line %llu is blank: expected a JSON value (blank lines may stand at the end only)",
          texts->lines.name, (unsigned long long)texts->blank_line);
    return STATUS_OK;
}

static enum status next_json(struct texts *texts, struct text_item *out, struct error *err) {
    struct line line;
    TRY(next_json_line(texts, &line, err));
    *out = (struct text_item){.line = line.number};
    if (line.bytes == NULL) {
        return STATUS_OK;
    }
    const char *name = texts->lines.name;
    json_decref(texts->root);
    texts->root = NULL;
    TRY(json_line_parse(name, &line, &texts->root, err));
    if (json_is_string(texts->root)) {
        return json_line_string(name, &line, texts->root, &out->bytes, &out->size, err);
    }
    return json_line_text(name, &line, texts->root, &out->bytes, &out->size, err);
}

enum status texts_next(struct texts *texts, struct text_item *out, struct error *err) {
    if (texts->format == INPUT_JSONL) {
        return next_json(texts, out, err);
    }
    struct line line;
    TRY(next_line(texts, &line, err));
    *out = (struct text_item){.bytes = line.bytes, .size = line.size, .line = line.number};
    return STATUS_OK;
}
