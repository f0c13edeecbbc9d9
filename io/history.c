/* history.jsonl and history.csv: see history.h for what is kept and what is cut. */
#include "io/history.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/text.h"

#define JSONL_FILE "history.jsonl"
#define CSV_FILE "history.csv"

enum { SHOWN_PATH_CAPACITY = 400 };

/* A million steps logged every 100 are some 2 MB. */
#define JSONL_BYTES_MAX ((uint64_t)1 << 30)

/* A file that only grows, by whole lines. */
struct log_file {
    int fd;
    uint64_t bytes; /* whole lines */
    bool is_torn;   /* a failed append may have left something behind them */
    char path[FILE_PATH_CAPACITY];
};

struct history {
    const struct file_table *files;
    bool has_validation;
    struct log_file jsonl, csv;
    struct text line; /* reused */
};

static enum status history_error(const char *what, const char *path, int negative_errno,
                                 struct error *err) {
    char shown[SHOWN_PATH_CAPACITY], reason[256];
    return error_set(err, STATUS_IO, "cannot %s %s: %s", what,
                     text_escape(path, strlen(path), shown, sizeof shown),
                     file_errno_text(negative_errno, reason, sizeof reason));
}

/* ---- files of lines ---- */

static enum status log_open(const struct file_table *files, struct log_file *log, uint64_t bytes,
                            struct error *err) {
    int fd =
        files->open(files->context, log->path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) {
        return history_error("open", log->path, fd, err);
    }
    log->fd = fd;
    log->bytes = bytes;
    return STATUS_OK;
}

static enum status log_cut(const struct file_table *files, struct log_file *log,
                           struct error *err) {
    int result = files->truncate(files->context, log->fd, log->bytes);
    if (result < 0) {
        return history_error("cut", log->path, result, err);
    }
    log->is_torn = false;
    return STATUS_OK;
}

/* `text` ends with a newline. */
static enum status log_append(const struct file_table *files, struct log_file *log,
                              const struct text *text, struct error *err) {
    CHECK(!text->failed, err, STATUS_MEMORY, "out of memory for a line of %s", log->path);
    if (log->is_torn) {
        TRY(log_cut(files, log, err));
    }
    log->is_torn = true;
    TRY(file_write_all(files, log->fd, log->path, text->bytes, text->size, err));
    log->is_torn = false;
    log->bytes += text->size;
    return STATUS_OK;
}

/* ---- resuming history.jsonl ---- */

/* The integer called `key`, or 0: an event without it belongs to every state. */
static uint64_t event_number(const json_t *event, const char *key) {
    json_int_t value = json_integer_value(json_object_get(event, key));
    return value > 0 ? (uint64_t)value : 0;
}

/* Does the event tell of something that the restored state has not seen? */
static bool is_later(const json_t *event, const struct history_point *point) {
    const char *kind = json_string_value(json_object_get(event, "event"));
    if (kind == NULL) {
        return false;
    }
    if (strcmp(kind, "epoch") == 0) {
        return json_is_integer(json_object_get(event, "epoch")) &&
               event_number(event, "epoch") >= point->row_count;
    }
    bool has_step = strcmp(kind, "step") == 0 || strcmp(kind, "save") == 0 ||
                    strcmp(kind, "end") == 0 || strcmp(kind, "start") == 0;
    return has_step && event_number(event, "step") > point->step;
}

/* Look at one line, without its newline. False: it and what follows must go. */
static bool keeps_line(const char *line, size_t size, const struct history_point *point,
                       uint64_t *step) {
    json_t *event = json_loadb(line, size, 0, NULL);
    bool keep = json_is_object(event) && !is_later(event, point);
    *step = event_number(event, "step");
    json_decref(event);
    return keep;
}

/* Bytes of the lines that stay. *lost_step: see history_open. */
static size_t kept_bytes(const char *bytes, size_t size, const struct history_point *point,
                         uint64_t *lost_step) {
    size_t kept = 0;
    bool keeping = true;
    *lost_step = 0;
    for (size_t at = 0; at < size;) {
        const char *newline = memchr(bytes + at, '\n', size - at);
        size_t end = newline == NULL ? size : (size_t)(newline - bytes);
        uint64_t step;
        bool keep = keeps_line(bytes + at, end - at, point, &step) && newline != NULL;
        keeping = keeping && keep;
        at = newline == NULL ? size : end + 1;
        if (keeping) {
            kept = at;
        } else if (step > *lost_step) {
            *lost_step = step;
        }
    }
    return kept;
}

static enum status cut_durably(const struct file_table *files, struct log_file *log,
                               struct error *err) {
    TRY(log_cut(files, log, err));
    int result = files->fsync(files->context, log->fd);
    return result < 0 ? history_error("make durable (fsync)", log->path, result, err) : STATUS_OK;
}

static enum status open_jsonl(struct history *history, const struct history_point *point,
                              uint64_t *lost_step, struct error *err) {
    uint8_t *bytes = NULL;
    size_t size = 0;
    struct file_stat st;
    struct log_file *log = &history->jsonl;
    *lost_step = 0;
    if (history->files->stat(history->files->context, log->path, &st) != -ENOENT) {
        enum status status =
            file_read_all(history->files, log->path, JSONL_BYTES_MAX, &bytes, &size, err);
        if (status != STATUS_OK) {
            return error_prefix(err, STATUS_IO, "cannot continue the history");
        }
    }
    size_t kept = kept_bytes((const char *)bytes, size, point, lost_step);
    free(bytes);
    TRY(log_open(history->files, log, kept, err));
    return kept == size ? STATUS_OK : cut_durably(history->files, log, err);
}

/* ---- history.csv ---- */

static void append_pair(struct text *line, double accuracy, double loss) {
    if (isnan(accuracy) && isnan(loss)) {
        text_printf(line, ",NA,NA");
        return;
    }
    text_append(line, ",", 1);
    text_append_shortest_double(line, accuracy);
    text_append(line, ",", 1);
    text_append_shortest_double(line, loss);
}

static void append_row(struct text *line, uint64_t epoch, const struct epoch_row *row,
                       bool has_validation) {
    text_printf(line, "%llu", (unsigned long long)epoch);
    append_pair(line, row->accuracy, row->loss);
    if (has_validation) {
        append_pair(line, row->val_accuracy, row->val_loss);
    }
    text_append(line, "\n", 1);
}

static enum status open_csv(struct history *history, const struct history_point *point,
                            struct error *err) {
    struct text *text = &history->line;
    text_clear(text);
    text_printf(text, "epoch,accuracy,loss%s\n",
                point->has_validation ? ",val_accuracy,val_loss" : "");
    for (size_t i = 0; i < point->row_count; i++) {
        append_row(text, i, &point->rows[i], point->has_validation);
    }
    CHECK(!text->failed, err, STATUS_MEMORY, "out of memory for %s", history->csv.path);
    TRY(file_publish(history->files, history->csv.path, text->bytes, text->size, err));
    return log_open(history->files, &history->csv, text->size, err);
}

/* ---- public ---- */

enum status history_open(const struct file_table *files, const char *directory,
                         const struct history_point *point, struct history **out,
                         uint64_t *lost_step, struct error *err) {
    uint64_t lost = 0;
    *out = NULL;
    if (lost_step != NULL) {
        *lost_step = 0;
    }
    struct history *history = calloc(1, sizeof *history);
    CHECK(history != NULL, err, STATUS_MEMORY, "out of memory for the history files");
    history->files = files;
    history->has_validation = point->has_validation;
    history->jsonl.fd = -1;
    history->csv.fd = -1;
    enum status status = STATUS_OK;
    if (!file_join_path(history->jsonl.path, FILE_PATH_CAPACITY, directory, JSONL_FILE) ||
        !file_join_path(history->csv.path, FILE_PATH_CAPACITY, directory, CSV_FILE)) {
        status = error_set(err, STATUS_IO, "the path of the model directory is too long");
    }
    if (status == STATUS_OK) {
        status = open_jsonl(history, point, &lost, err);
    }
    if (status == STATUS_OK) {
        status = open_csv(history, point, err);
    }
    if (status != STATUS_OK) {
        history_close(history);
        return status;
    }
    if (lost_step != NULL) {
        *lost_step = lost;
    }
    *out = history;
    return STATUS_OK;
}

enum status history_event(struct history *history, const char *line, struct error *err) {
    text_clear(&history->line);
    text_append(&history->line, line, strlen(line));
    text_append(&history->line, "\n", 1);
    return log_append(history->files, &history->jsonl, &history->line, err);
}

enum status history_epoch_row(struct history *history, uint64_t epoch, const struct epoch_row *row,
                              struct error *err) {
    text_clear(&history->line);
    append_row(&history->line, epoch, row, history->has_validation);
    return log_append(history->files, &history->csv, &history->line, err);
}

void history_close(struct history *history) {
    if (history == NULL) {
        return;
    }
    if (history->jsonl.fd >= 0) {
        history->files->close(history->files->context, history->jsonl.fd);
    }
    if (history->csv.fd >= 0) {
        history->files->close(history->files->context, history->csv.fd);
    }
    text_free(&history->line);
    free(history);
}
