#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/stop.h"
#include "host/best_model.h"
#include "host/signals.h"
#include "host/trainer_internal.h"

/* ---- history lines --------------------------------------------------------------------------- */

/* History is a record, not the state: when it cannot be written training goes on, with one warning.
 */
static void write_line(struct trainer *trainer, struct text *line) {
    text_printf(line, "}");
    struct error err = {0};
    if (trainer->history == NULL) {
        text_free(line);
        return;
    }
    enum status status = line->failed ? error_set(&err, STATUS_MEMORY, "no memory for a line")
                                      : history_event(trainer->history, line->bytes, &err);
    if (status != STATUS_OK && !trainer->warned_history) {
        progress_warning(trainer->setup.progress, "history.jsonl is not written: %s", err.message);
        trainer->warned_history = true;
    }
    text_free(line);
}

static void add_number(struct text *line, const char *key, double value) {
    text_printf(line, ",\"%s\":", key);
    text_append_json_double(line, value);
}

static void add_string(struct text *line, const char *key, const char *value) {
    text_printf(line, ",\"%s\":", key);
    text_append_json(line, value, strlen(value));
}

/* "name = value" lines as a JSON object of strings. */
static void add_options(struct text *line, const struct text *options) {
    text_printf(line, ",\"options\":{");
    const char *at = options->bytes, *end = at + options->size;
    bool first = true;
    while (at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        const char *stop = newline != NULL ? newline : end;
        const char *equals = memchr(at, '=', (size_t)(stop - at));
        if (equals != NULL && equals > at) {
            const char *name_end = equals, *value = equals + 1;
            while (name_end > at && name_end[-1] == ' ') {
                name_end--;
            }
            while (value < stop && *value == ' ') {
                value++;
            }
            text_printf(line, first ? "" : ",");
            text_append_json(line, at, (size_t)(name_end - at));
            text_printf(line, ":");
            text_append_json(line, value, (size_t)(stop - value));
            first = false;
        }
        at = stop + 1;
    }
    text_printf(line, "}");
}

static void log_start(struct trainer *trainer) {
    struct text line = {0};
    text_printf(&line, "{\"event\":\"start\",\"step\":%" PRId64, trainer->state.step);
    add_number(&line, "time", clock_wall_seconds());
    add_string(&line, "run_id", trainer->setup.run_id);
    if (trainer->setup.resumed != NULL) {
        add_string(&line, "resumed", trainer->setup.resumed_path);
    } else {
        text_printf(&line, ",\"resumed\":null");
    }
    add_string(&line, "kernel_path", trainer->setup.be->kernel_path);
    add_options(&line, &trainer->options_text);
    write_line(trainer, &line);
}

void trainer_log_step(struct trainer *trainer) {
    double now = clock_monotonic_seconds(), elapsed = now - trainer->log_time;
    struct text line = {0};
    text_printf(&line, "{\"event\":\"step\",\"step\":%" PRId64 ",\"epoch\":%" PRId64,
                trainer->state.step, trainer->state.epoch);
    add_number(&line, "loss", trainer->sums.batch_loss);
    add_number(&line, "examples_per_second",
               elapsed > 0.0 ? (double)trainer->log_examples / elapsed : 0.0);
    write_line(trainer, &line);
    trainer->log_time = now;
    trainer->log_examples = 0;
    summary_rate(trainer->summary, (uint64_t)trainer->state.step, elapsed);
}

void trainer_log_epoch(struct trainer *trainer, uint64_t epoch, const struct epoch_row *row,
                       double train_seconds, double validation_seconds) {
    struct text line = {0};
    text_printf(&line, "{\"event\":\"epoch\",\"epoch\":%" PRIu64 ",\"step\":%" PRId64, epoch,
                trainer->state.step);
    add_number(&line, "accuracy", row->accuracy);
    add_number(&line, "loss", row->loss);
    if (trainer->evaluator != NULL) {
        add_number(&line, "val_accuracy", row->val_accuracy);
        add_number(&line, "val_loss", row->val_loss);
    }
    add_number(&line, "train_seconds", train_seconds);
    add_number(&line, "validation_seconds", validation_seconds);
    write_line(trainer, &line);

    struct error err = {0};
    if (trainer->history != NULL &&
        history_epoch_row(trainer->history, epoch, row, &err) != STATUS_OK &&
        !trainer->warned_history) {
        progress_warning(trainer->setup.progress, "history.csv is not written: %s", err.message);
        trainer->warned_history = true;
    }
    summary_epoch(trainer->summary, epoch, (uint64_t)trainer->state.step, row, trainer->model);
}

void trainer_log_save(struct trainer *trainer, const struct save_result *result) {
    if (!trainer->logs_open) { /* the save that secures the start */
        assert(trainer->early_count < TRAINER_EARLY_SAVES);
        trainer->early_saves[trainer->early_count++] = *result;
        return;
    }
    struct text line = {0};
    text_printf(&line, "{\"event\":\"save\",\"step\":%" PRIu64, result->step);
    add_string(&line, "path", result->path);
    if (result->status == STATUS_OK) {
        text_printf(
            &line, ",\"bytes\":%" PRIu64 ",\"put_off_bytes\":%" PRIu64 ",\"copier_bytes\":%" PRIu64,
            result->bytes, result->put_off_bytes, result->copier_bytes);
        add_number(&line, "stall_us", result->stall_seconds * 1e6);
        add_number(&line, "durable_ms", result->durable_seconds * 1e3);
        summary_save(trainer->summary, result);
    } else {
        add_string(&line, "error", result->message);
    }
    write_line(trainer, &line);
}

/* ---- opening the logs ------------------------------------------------------------------------ */

/* History is a record, not the state: a run goes on without it. */
static void open_history(struct trainer *trainer) {
    const struct run_state *state = &trainer->state;
    struct history_point point = {
        .step = (uint64_t)state->step,
        .rows = state->rows,
        .row_count = state->row_count,
        .has_validation = trainer->evaluator != NULL,
    };
    uint64_t lost_step = 0;
    struct error err = {0};
    if (history_open(trainer->setup.files, store_directory(trainer->setup.store), &point,
                     &trainer->history, &lost_step, &err) != STATUS_OK) {
        progress_warning(trainer->setup.progress, "no history is written: %s", err.message);
        return;
    }
    if (trainer->setup.resumed != NULL && lost_step > point.step) {
        progress_message(trainer->setup.progress,
                         "The run had come to step %llu: at least %llu steps are computed again.",
                         (unsigned long long)lost_step,
                         (unsigned long long)(lost_step - point.step));
    }
}

static void open_summary(struct trainer *trainer) {
    const struct summary_setup setup = {
        .files = trainer->setup.files,
        .progress = trainer->setup.progress,
        .directory = store_directory(trainer->setup.store),
        .options = trainer->setup.options,
        .options_text = &trainer->options_text,
        .model = trainer->model,
        .state = &trainer->state,
        .resumed = trainer->setup.resumed != NULL,
        .has_validation = trainer->evaluator != NULL,
    };
    trainer->summary = summary_open(&setup);
}

void trainer_open_logs(struct trainer *trainer) {
    open_history(trainer);
    log_start(trainer);
    open_summary(trainer);
    trainer->logs_open = true;
    for (size_t i = 0; i < trainer->early_count; i++) {
        trainer_log_save(trainer, &trainer->early_saves[i]);
    }
}

const char *trainer_end_name(enum trainer_end end) {
    static const char *const names[] = {
        [TRAINER_END_EPOCHS] = "epochs",
        [TRAINER_END_STEPS] = "steps",
        [TRAINER_END_EARLY_STOPPING] = "early stopping",
        [TRAINER_END_SIGNAL] = "signal",
        [TRAINER_END_NONFINITE] = "non-finite",
        [TRAINER_END_SAVE_FAILED] = "save failed",
    };
    return names[end];
}

void trainer_log_end(struct trainer *trainer, const struct trainer_outcome *outcome) {
    struct text line = {0};
    text_printf(&line, "{\"event\":\"end\",\"step\":%" PRIu64, outcome->step);
    add_string(&line, "reason", trainer_end_name(outcome->end));
    if (outcome->end == TRAINER_END_SIGNAL) {
        add_string(&line, "signal", signals_name(stop_signal()));
    }
    add_number(&line, "seconds", clock_monotonic_seconds() - trainer->start_time);
    text_printf(&line, ",\"steps\":%" PRIu64, outcome->step - trainer->first_step);
    text_printf(&line,
                ",\"saves\":%" PRIu64 ",\"saves_skipped\":%" PRIu64 ",\"saves_failed\":%" PRIu64,
                outcome->saves.saved, outcome->saves.skipped, outcome->saves.failed);
    add_number(&line, "stall_us_total", outcome->saves.stall_seconds_total * 1e6);
    write_line(trainer, &line);
    summary_flush(trainer->summary);
}

/* ---- the end of the run on stderr ------------------------------------------------------------ */

/* A run that was resumed from elsewhere knows a best value whose file lies there; another file may
 * have been found unusable when the run was resumed. */
static void report_best(struct trainer *trainer) {
    const struct run_state *state = &trainer->state;
    if (!best_model_is_claimed(state) || (uint64_t)state->best_epoch >= state->row_count) {
        return;
    }
    const struct file_table *files = trainer->setup.files;
    char path[FILE_PATH_CAPACITY];
    struct file_stat info;
    bool here =
        !trainer->best_unusable && !trainer->directory_lost &&
        file_join_path(path, sizeof path, store_directory(trainer->setup.store), STORE_BEST_FILE) &&
        files->stat(files->context, path, &info) >= 0 && info.is_regular;
    progress_message(trainer->setup.progress, "Best epoch: %" PRId64 " (%s %.5f), %s%s",
                     state->best_epoch + 1, metric_name(trainer->monitor), state->best_value,
                     here ? "in " : "without a usable file in ",
                     here ? path : store_directory(trainer->setup.store));
}

void trainer_report_end(struct trainer *trainer, const struct trainer_outcome *outcome) {
    struct progress *progress = trainer->setup.progress;
    const char *directory = store_directory(trainer->setup.store);
    progress_message(progress, "Ended after step %" PRIu64 " (%s).", outcome->step,
                     trainer_end_name(outcome->end));
    report_best(trainer);
    struct store_list list = {0};
    if (trainer->directory_lost) {
        progress_message(progress, "%s is no longer this run's", directory);
    } else if (store_scan(trainer->setup.files, directory, &list, NULL) == STATUS_OK &&
               list.count > 0) {
        progress_message(progress, "Checkpoints kept: %zu in %s, the newest is %s", list.count,
                         directory, list.entries[list.count - 1].name);
        store_list_free(&list);
    }
    const struct writer_totals *saves = &outcome->saves;
    progress_message(progress,
                     "Saves: %" PRIu64 " done, %" PRIu64 " skipped, %" PRIu64
                     " failed; training stood still for %.0f us in all (p50 %.0f, p99 %.0f, max "
                     "%.0f us)",
                     saves->saved, saves->skipped, saves->failed, saves->stall_seconds_total * 1e6,
                     saves->stall_seconds_p50 * 1e6, saves->stall_seconds_p99 * 1e6,
                     saves->stall_seconds_max * 1e6);
}
