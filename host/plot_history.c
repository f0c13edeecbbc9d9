/* From history.jsonl to what can be drawn, one line at a time. */
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/percentile.h"
#include "host/base/stop.h"
#include "host/plot.h"
#include "io/json_line.h"
#include "io/lines.h"

#define HISTORY_FILE "history.jsonl"

/* An event, and where it stands for messages. */
struct event {
    const char *name; /* of the file, escaped */
    uint64_t line;
    const json_t *json;
};

/* ---- spreads --------------------------------------------------------------------------------- */

static enum status spread_init(struct plot_spread *spread, struct error *err) {
    *spread = (struct plot_spread){.stride = 1, .max = (double)NAN};
    spread->sample = calloc(PLOT_SAMPLE_MAX, sizeof *spread->sample);
    CHECK(spread->sample != NULL, err, STATUS_MEMORY, "no memory for a history's saves");
    return STATUS_OK;
}

static void spread_add(struct plot_spread *spread, double value) {
    spread->max = fmax(spread->max, value);
    if (spread->seen++ % spread->stride != 0) {
        return;
    }
    if (spread->count == PLOT_SAMPLE_MAX) {
        for (size_t i = 0; i < PLOT_SAMPLE_MAX / 2; i++) {
            spread->sample[i] = spread->sample[2 * i];
        }
        spread->count = PLOT_SAMPLE_MAX / 2;
        spread->stride *= 2;
    }
    spread->sample[spread->count++] = value;
}

double plot_spread_percentile(struct plot_spread *spread, unsigned percent) {
    if (!spread->sorted) {
        percentile_sort(spread->sample, spread->count);
        spread->sorted = true;
    }
    return percentile_of(spread->sample, spread->count, percent);
}

/* ---- values of an event ---------------------------------------------------------------------- */

static enum status bad_value(const struct event *event, const char *key, const char *expected,
                             struct error *err) {
    const json_t *value = json_object_get(event->json, key);
    return error_set(err, STATUS_DATA, "%s: line %llu: \"%s\" is %s: expected %s", event->name,
                     (unsigned long long)event->line, key,
                     value == NULL ? "missing" : json_line_type(value), expected);
}

static enum status get_count(const struct event *event, const char *key, uint64_t *out,
                             struct error *err) {
    const json_t *value = json_object_get(event->json, key);
    if (!json_is_integer(value) || json_integer_value(value) < 0) {
        return bad_value(event, key, "a whole number from 0", err);
    }
    *out = (uint64_t)json_integer_value(value);
    return STATUS_OK;
}

/* NaN and infinities are strings in JSON. */
static enum status get_number(const struct event *event, const char *key, double *out,
                              struct error *err) {
    const json_t *value = json_object_get(event->json, key);
    const char *word = json_string_value(value);
    if (json_is_number(value)) {
        *out = json_number_value(value);
        return STATUS_OK;
    }
    if (word != NULL &&
        (strcmp(word, "nan") == 0 || strcmp(word, "inf") == 0 || strcmp(word, "-inf") == 0)) {
        *out = word[0] == 'n' ? (double)NAN : word[0] == '-' ? -INFINITY : INFINITY;
        return STATUS_OK;
    }
    return bad_value(event, key, "a number, \"nan\", \"inf\" or \"-inf\"", err);
}

static enum status get_time(const struct event *event, const char *key, double *out,
                            struct error *err) {
    TRY(get_number(event, key, out, err));
    CHECK(!(*out < 0), err, STATUS_DATA, "%s: line %llu: \"%s\" is %g: expected a time from 0",
          event->name, (unsigned long long)event->line, key, *out);
    return STATUS_OK;
}

/* ---- events ---------------------------------------------------------------------------------- */

static void add_restart(struct plot_run *run, double step) {
    if (run->restart_count < PLOT_RESTARTS_MAX) {
        run->restarts[run->restart_count] = step;
    }
    run->restart_count++;
}

static const char *option_of(const struct event *event, const char *name) {
    const char *value =
        json_string_value(json_object_get(json_object_get(event->json, "options"), name));
    return value == NULL ? "" : value;
}

/* A best value to begin with is one that no epoch has reached: its step stays 0. */
static void set_threshold(struct plot_run *run, double threshold) {
    int way = metric_direction(run->monitor, run->mode) == MONITOR_MAX;
    run->best[run->monitor][way] = (struct best_tracker){.best = threshold, .has_best = true};
}

static enum status take_start(struct plot_run *run, const struct event *event, struct error *err) {
    uint64_t step = 0;
    double threshold;
    TRY(get_count(event, "step", &step, err));
    bool resumed = json_is_string(json_object_get(event->json, "resumed"));
    if (!metric_parse(option_of(event, "monitor"), &run->monitor)) {
        run->monitor = METRIC_VAL_LOSS;
    }
    const char *mode = option_of(event, "mode");
    run->mode = strcmp(mode, "min") == 0   ? MONITOR_MIN
                : strcmp(mode, "max") == 0 ? MONITOR_MAX
                                           : MONITOR_AUTO;
    if (run->has_start || resumed || step > 0) {
        add_restart(run, (double)step);
    } else if (text_parse_double(option_of(event, "initial-value-threshold"), &threshold) &&
               !isnan(threshold)) {
        set_threshold(run, threshold);
    }
    run->has_start = true;
    run->end[0] = '\0';
    return STATUS_OK;
}

static void count_gap(struct plot_run *run, uint64_t step, double loss) {
    if (!isfinite(loss) && run->gaps++ == 0) {
        run->first_gap = (double)step;
    }
}

static enum status take_step(struct plot_run *run, const struct event *event, struct error *err) {
    uint64_t step = 0;
    double loss = 0;
    TRY(get_count(event, "step", &step, err));
    TRY(get_number(event, "loss", &loss, err));
    count_gap(run, step, loss);
    plot_series_add(&run->step_loss, (double)step, loss);
    run->has_steps = true;
    return STATUS_OK;
}

static void add_epoch(struct plot_run *run, uint64_t epoch, uint64_t step,
                      const struct epoch_row *row) {
    for (enum metric metric = 0; metric < METRIC_COUNT; metric++) {
        double value = metric_value(metric, row);
        bool measured = run->has_validation || !metric_needs_validation(metric);
        plot_series_add(&run->epochs[metric], (double)step, value);
        for (int way = 0; measured && way < 2; way++) {
            enum monitor_mode direction = way == 1 ? MONITOR_MAX : MONITOR_MIN;
            if (best_tracker_update(&run->best[metric][way], direction, value, epoch, step, NULL)) {
                run->best_rows[metric][way] = *row;
            }
        }
    }
    plot_series_add(&run->epoch_ends, (double)step, (double)epoch + 1);
    run->epoch_count = epoch + 1;
    run->last_row = *row;
}

static enum status take_epoch(struct plot_run *run, const struct event *event, struct error *err) {
    uint64_t epoch = 0, step = 0;
    struct epoch_row row = {.val_loss = (double)NAN, .val_accuracy = (double)NAN};
    TRY(get_count(event, "epoch", &epoch, err));
    TRY(get_count(event, "step", &step, err));
    TRY(get_number(event, "loss", &row.loss, err));
    TRY(get_number(event, "accuracy", &row.accuracy, err));
    count_gap(run, step, row.loss);
    if (json_object_get(event->json, "val_loss") != NULL) {
        TRY(get_number(event, "val_loss", &row.val_loss, err));
        TRY(get_number(event, "val_accuracy", &row.val_accuracy, err));
        count_gap(run, step, row.val_loss);
        run->has_validation = true;
    }
    add_epoch(run, epoch, step, &row);
    return STATUS_OK;
}

static enum status take_save(struct plot_run *run, const struct event *event, struct error *err) {
    uint64_t step = 0;
    double stall = 0, durable = 0;
    TRY(get_count(event, "step", &step, err));
    if (json_object_get(event->json, "error") != NULL) {
        run->saves_failed++;
        return STATUS_OK;
    }
    TRY(get_time(event, "stall_us", &stall, err));
    TRY(get_time(event, "durable_ms", &durable, err));
    plot_series_add(&run->stall_us, (double)step, stall);
    plot_series_add(&run->durable_ms, (double)step, durable);
    spread_add(&run->stall_spread, stall);
    spread_add(&run->durable_spread, durable);
    return STATUS_OK;
}

static enum status take_end(struct plot_run *run, const struct event *event, struct error *err) {
    const char *reason = json_string_value(json_object_get(event->json, "reason"));
    if (reason == NULL) {
        return bad_value(event, "reason", "a string", err);
    }
    text_escape(reason, strlen(reason), run->end, sizeof run->end);
    return STATUS_OK;
}

/* Kinds of events that this version does not know are somebody else's. */
static enum status take_event(struct plot_run *run, const struct event *event, struct error *err) {
    static const struct {
        const char *kind;
        enum status (*take)(struct plot_run *, const struct event *, struct error *);
    } kinds[] = {{"start", take_start},
                 {"step", take_step},
                 {"epoch", take_epoch},
                 {"save", take_save},
                 {"end", take_end}};
    CHECK(json_is_object(event->json), err, STATUS_DATA,
          "%s: line %llu is %s: expected an object with an \"event\"", event->name,
          (unsigned long long)event->line, json_line_type(event->json));
    const char *kind = json_string_value(json_object_get(event->json, "event"));
    if (kind == NULL) {
        return bad_value(event, "event", "a string", err);
    }
    json_int_t step = json_integer_value(json_object_get(event->json, "step"));
    if (step > 0 && (uint64_t)step > run->last_step) {
        run->last_step = (uint64_t)step;
    }
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strcmp(kind, kinds[i].kind) == 0) {
            return kinds[i].take(run, event, err);
        }
    }
    return STATUS_OK;
}

/* ---- the file -------------------------------------------------------------------------------- */

static enum status take_line(struct plot_run *run, const char *name, const struct line *line,
                             struct error *err) {
    json_t *json;
    enum status status = json_line_parse(name, line, &json, err);
    if (status != STATUS_OK) { /* a trainer may be in the middle of its last line */
        return line->ending_size == 0 ? STATUS_OK : status;
    }
    struct event event = {.name = name, .line = line->number, .json = json};
    status = take_event(run, &event, err);
    json_decref(json);
    return status;
}

static enum status read_lines(const struct file_table *files, const char *path, const char *shown,
                              struct plot_run *run, struct error *err) {
    struct lines lines;
    struct line line;
    enum status status = lines_open(files, path, &lines, err);
    while (status == STATUS_OK && (status = lines_next(&lines, &line, err)) == STATUS_OK &&
           line.bytes != NULL) {
        if (stop_signal() != 0) {
            status = error_set(err, STATUS_STOPPED, "stopped by a signal while reading %s", shown);
        } else {
            status = take_line(run, shown, &line, err);
        }
    }
    lines_close(&lines);
    return status;
}

static enum status init_run(struct plot_run *run, const char *directory, struct error *err) {
    struct plot_series *const merged[] = {&run->step_loss,
                                          &run->epoch_ends,
                                          &run->epochs[METRIC_LOSS],
                                          &run->epochs[METRIC_ACCURACY],
                                          &run->epochs[METRIC_VAL_LOSS],
                                          &run->epochs[METRIC_VAL_ACCURACY]};
    *run = (struct plot_run){.monitor = METRIC_VAL_LOSS};
    run->directory = strdup(directory);
    CHECK(run->directory != NULL, err, STATUS_MEMORY, "no memory for a name");
    for (size_t size = strlen(directory); size > 1 && directory[size - 1] == '/'; size--) {
        run->directory[size - 1] = '\0';
    }
    for (size_t i = 0; i < sizeof merged / sizeof merged[0]; i++) {
        TRY(plot_series_init(merged[i], PLOT_SERIES_MAX, PLOT_MERGE_MEAN, err));
    }
    TRY(plot_series_init(&run->stall_us, PLOT_SERIES_MAX, PLOT_MERGE_MAX, err));
    TRY(plot_series_init(&run->durable_ms, PLOT_SERIES_MAX, PLOT_MERGE_MAX, err));
    TRY(spread_init(&run->stall_spread, err));
    return spread_init(&run->durable_spread, err);
}

static enum status fill_run(const struct file_table *files, struct plot_run *run,
                            struct error *err) {
    char path[FILE_PATH_CAPACITY], shown[512];
    CHECK(file_join_path(path, sizeof path, run->directory, HISTORY_FILE), err, STATUS_INPUT,
          "the path of the model directory is too long");
    text_escape(path, strlen(path), shown, sizeof shown);
    enum status status = read_lines(files, path, shown, run, err);
    if (status == STATUS_INPUT) {
        return error_set(err, status,
                         "there is no %s that can be read: cairn train writes it into its "
                         "--model-dir",
                         shown);
    }
    return status;
}

enum status plot_run_read(const struct file_table *files, const char *directory,
                          struct plot_run *out, struct error *err) {
    enum status status = init_run(out, directory, err);
    if (status == STATUS_OK) {
        status = fill_run(files, out, err);
    }
    if (status != STATUS_OK) {
        plot_run_free(out);
    }
    return status;
}

void plot_run_free(struct plot_run *run) {
    for (enum metric metric = 0; metric < METRIC_COUNT; metric++) {
        plot_series_free(&run->epochs[metric]);
    }
    plot_series_free(&run->step_loss);
    plot_series_free(&run->epoch_ends);
    plot_series_free(&run->stall_us);
    plot_series_free(&run->durable_ms);
    free(run->stall_spread.sample);
    free(run->durable_spread.sample);
    free(run->directory);
    *run = (struct plot_run){0};
}

const struct best_tracker *plot_run_best(const struct plot_run *run, enum metric metric,
                                         const struct epoch_row **row) {
    enum monitor_mode asked = metric == run->monitor ? run->mode : MONITOR_AUTO;
    int way = metric_direction(metric, asked) == MONITOR_MAX;
    const struct best_tracker *best = &run->best[metric][way];
    *row = &run->best_rows[metric][way];
    return best->has_best && best->best_step > 0 && isfinite(best->best) ? best : NULL;
}
