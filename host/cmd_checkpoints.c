/* `cairn checkpoints --model-dir DIR`: one line per checkpoint, oldest first, the best file last.
 * Every file is decoded whole: that is the only way to know that it is good. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "host/base/text.h"
#include "host/best_model.h"
#include "host/cmd.h"
#include "io/checkpoint.h"
#include "io/store.h"

enum { METRICS = 4 }; /* loss, accuracy, val_loss, val_accuracy: columns of history.epochs */

enum condition { GOOD, DAMAGED, UNREADABLE, VANISHED };

/* One line of the table. */
struct row {
    enum condition condition;
    enum status status; /* why it is not good */
    bool has_step, has_epoch;
    int64_t step, epoch;
    double metrics[METRICS]; /* NaN: not known */
    char time[40];
};

/* What the whole directory came to. */
struct tally {
    size_t listed, damaged;
    enum status unreadable; /* the first such failure */
};

/* ---- one file ---- */

static bool read_i64(const struct checkpoint *checkpoint, const char *name, int64_t *out) {
    const struct tensor_view *tensor =
        tensor_find(checkpoint->tensors, checkpoint->tensor_count, name);
    uint64_t elements;
    if (tensor == NULL || tensor->dtype != DTYPE_I64 || !tensor_elements(tensor, &elements) ||
        elements != 1) {
        return false;
    }
    memcpy(out, tensor->data, sizeof *out);
    return true;
}

/* The last finished epoch's metrics. */
static void read_metrics(const struct checkpoint *checkpoint, double metrics[METRICS]) {
    const struct tensor_view *history =
        tensor_find(checkpoint->tensors, checkpoint->tensor_count, "history.epochs");
    if (history != NULL && history->dtype == DTYPE_F64 && history->rank == 2 &&
        history->shape[0] > 0 && history->shape[1] == METRICS) {
        const double *last = (const double *)history->data + (history->shape[0] - 1) * METRICS;
        memcpy(metrics, last, METRICS * sizeof *metrics);
    }
}

static void format_time(double seconds, char out[40]) {
    time_t whole = (time_t)seconds;
    struct tm utc;
    if (gmtime_r(&whole, &utc) == NULL || strftime(out, 40, "%Y-%m-%dT%H:%M:%SZ", &utc) == 0) {
        snprintf(out, 40, "-");
    }
}

static void read_contents(const struct checkpoint *checkpoint, struct row *row) {
    row->has_step = read_i64(checkpoint, "state.step", &row->step) || row->has_step;
    row->has_epoch = read_i64(checkpoint, "state.epoch", &row->epoch);
    read_metrics(checkpoint, row->metrics);
    const char *created = checkpoint_metadata(checkpoint, "created");
    if (created != NULL) {
        text_escape(created, strlen(created), row->time, sizeof row->time);
    }
}

/* What is wrong goes to stderr. */
static void set_bad(struct row *row, enum status status, const char *message) {
    row->status = status;
    row->condition = status == STATUS_CORRUPT ? DAMAGED : UNREADABLE;
    fprintf(stderr, "cairn: %s: %s\n", row->condition == DAMAGED ? "damaged" : "cannot be read",
            message);
}

/* Decode `path`; the caller frees *out, which is NULL unless it is good. A file that retention
 * deleted after the scan is not damage. */
static void read_row(const char *path, double modified_seconds, struct row *row,
                     struct checkpoint **out) {
    struct error reason = {0};
    format_time(modified_seconds, row->time);
    for (int i = 0; i < METRICS; i++) {
        row->metrics[i] = NAN;
    }
    enum status status = checkpoint_read_file(&file_posix, path, out, &reason);
    if (status == STATUS_OK) {
        read_contents(*out, row);
        return;
    }
    *out = NULL;
    struct file_stat stat;
    if (file_posix.stat(file_posix.context, path, &stat) < 0) {
        row->condition = VANISHED;
        return;
    }
    set_bad(row, status, reason.message);
}

/* A row of the ring: the file must be of the step that its name says. */
static void read_ring_row(const char *path, const struct store_entry *entry, struct row *row,
                          struct checkpoint **out) {
    struct error reason = {0};
    row->has_step = true; /* the name tells it even of a damaged file */
    row->step = (int64_t)entry->step;
    read_row(path, entry->modified_seconds, row, out);
    if (row->condition == VANISHED && entry->is_broken_link) {
        error_set(&reason, STATUS_INPUT, "%s: a link to a file that is not there", path);
        set_bad(row, STATUS_INPUT, reason.message);
    }
    if (*out != NULL && store_check_step(*out, entry->step, &reason) != STATUS_OK) {
        checkpoint_free(*out);
        *out = NULL;
        error_prefix(&reason, STATUS_CORRUPT, "%s", path);
        set_bad(row, STATUS_CORRUPT, reason.message);
    }
}

/* ---- the table ---- */

static void print_number(bool known, int64_t value, int width) {
    if (known) {
        printf("%*" PRId64 "  ", width, value);
    } else {
        printf("%*s  ", width, "-");
    }
}

static void print_metric(double value) {
    if (isnan(value)) {
        printf("%12s  ", "-");
    } else {
        printf("%12.6g  ", value);
    }
}

static void print_head(void) {
    printf("%10s  %5s  %-20s  %12s  %12s  %12s  %12s  %12s  %-32s  %s\n", "step", "epoch", "time",
           "bytes", "loss", "accuracy", "val_loss", "val_accuracy", "file", "mark");
}

static void count_row(const struct row *row, struct tally *tally) {
    tally->listed++;
    tally->damaged += row->condition == DAMAGED;
    if (row->condition == UNREADABLE && tally->unreadable == STATUS_OK) {
        tally->unreadable = row->status;
    }
}

/* One line, below the head when it is the first. */
static void print_row(const struct row *row, uint64_t bytes, const char *name, const char *mark,
                      struct tally *tally) {
    if (tally->listed == 0) {
        print_head();
    }
    count_row(row, tally);
    print_number(row->has_step, row->step, 10);
    print_number(row->has_epoch, row->epoch, 5);
    printf("%-20s  %12" PRIu64 "  ", row->time, bytes);
    for (int i = 0; i < METRICS; i++) {
        print_metric(row->metrics[i]);
    }
    const char *shown = row->condition == DAMAGED      ? "damaged"
                        : row->condition == UNREADABLE ? "unreadable"
                                                       : mark;
    if (shown[0] != '\0') {
        printf("%-32s  %s\n", name, shown);
    } else {
        printf("%s\n", name);
    }
}

/* *newest: the newest good one, which the caller frees; NULL when there is none. */
static enum status read_ring(const char *directory, const struct store_list *list, struct row *rows,
                             struct checkpoint **newest, struct error *err) {
    char path[FILE_PATH_CAPACITY];
    for (size_t i = 0; i < list->count; i++) {
        CHECK(file_join_path(path, sizeof path, directory, list->entries[i].name), err,
              STATUS_INPUT, "the path of %s is too long", list->entries[i].name);
        struct checkpoint *read;
        read_ring_row(path, &list->entries[i], &rows[i], &read);
        if (read != NULL) {
            checkpoint_free(*newest);
            *newest = read;
        }
    }
    return STATUS_OK;
}

static void print_ring(const struct store_list *list, const struct row *rows, struct tally *tally) {
    size_t latest = list->count; /* the one that a resume would take; none over one unread */
    for (size_t i = 0; i < list->count; i++) {
        latest = rows[i].condition == GOOD         ? i
                 : rows[i].condition == UNREADABLE ? list->count
                                                   : latest;
    }
    for (size_t i = 0; i < list->count; i++) {
        if (rows[i].condition != VANISHED) {
            print_row(&rows[i], list->entries[i].bytes, list->entries[i].name,
                      i == latest ? "latest" : "", tally);
        }
    }
}

static bool all_vanished(const struct row *rows, size_t count) {
    size_t vanished = 0;
    while (vanished < count && rows[vanished].condition == VANISHED) {
        vanished++;
    }
    return count > 0 && vanished == count;
}

/* *again: nothing that was listed is there any more, so that a trainer has saved newer ones. */
static enum status list_files(const char *directory, const struct store_list *list,
                              struct tally *tally, struct checkpoint **newest, bool *again,
                              struct error *err) {
    struct row *rows = calloc(list->count + 1, sizeof *rows);
    CHECK(rows != NULL, err, STATUS_MEMORY, "no memory for a list of %zu checkpoints", list->count);
    enum status status = read_ring(directory, list, rows, newest, err);
    *again = status == STATUS_OK && all_vanished(rows, list->count);
    if (status == STATUS_OK && !*again) {
        print_ring(list, rows, tally);
    }
    free(rows);
    return status;
}

static enum status list_ring(const char *directory, struct tally *tally, struct checkpoint **newest,
                             struct error *err) {
    bool again = true;
    while (again) {
        struct store_list list;
        TRY(store_scan(&file_posix, directory, &list, err));
        enum status status = list_files(directory, &list, tally, newest, &again, err);
        store_list_free(&list);
        TRY(status);
    }
    return STATUS_OK;
}

/* The best model must be the one that the newest checkpoint knows. One that is not here is only
 * mentioned: of a run that was resumed from another directory it lies there. */
static enum status list_best(const char *directory, const struct checkpoint *newest,
                             struct tally *tally, struct error *err) {
    char path[FILE_PATH_CAPACITY];
    CHECK(file_join_path(path, sizeof path, directory, STORE_BEST_FILE), err, STATUS_INPUT,
          "the path of %s is too long", STORE_BEST_FILE);
    struct file_stat stat;
    struct error why = {0};
    if (file_posix.stat(file_posix.context, path, &stat) < 0) {
        /* otherwise there need not be one */
        if (newest != NULL && best_model_check(path, newest, &why) != STATUS_OK) {
            fprintf(stderr, "cairn: the newest checkpoint knows of a best model: %s\n",
                    why.message);
        }
        return STATUS_OK;
    }
    struct row row = {0};
    struct checkpoint *best;
    read_row(path, stat.modified_seconds, &row, &best);
    enum status status =
        best != NULL && newest != NULL ? best_model_compare(path, best, newest, &why) : STATUS_OK;
    if (status != STATUS_OK) {
        set_bad(&row, status, why.message);
    }
    checkpoint_free(best);
    if (row.condition != VANISHED) {
        print_row(&row, stat.bytes, STORE_BEST_FILE, "best", tally);
    }
    return STATUS_OK;
}

/* ---- the command ---- */

static enum status verdict(const struct options *options, const struct tally *tally,
                           struct error *err) {
    char directory[512];
    text_escape(options->model_dir, strlen(options->model_dir), directory, sizeof directory);
    CHECK(tally->listed > 0, err, STATUS_INPUT, "no checkpoints in %s", directory);
    CHECK(tally->unreadable == STATUS_OK, err, tally->unreadable,
          "not every checkpoint in %s could be read", directory);
    CHECK(tally->damaged == 0 || !options->verify, err, STATUS_CORRUPT,
          "damaged checkpoints in %s: %zu of %zu", directory, tally->damaged, tally->listed);
    return STATUS_OK;
}

enum status cmd_checkpoints(const struct options *options, int *exit_code, struct error *err) {
    (void)exit_code;
    CHECK(options->model_dir[0] != '\0', err, STATUS_USAGE, "checkpoints needs --model-dir DIR");
    struct tally tally = {0};
    struct checkpoint *newest = NULL;
    enum status status = list_ring(options->model_dir, &tally, &newest, err);
    if (status == STATUS_OK) {
        status = list_best(options->model_dir, newest, &tally, err);
    }
    checkpoint_free(newest);
    TRY(status);
    return verdict(options, &tally, err);
}
