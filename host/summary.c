#include "host/summary.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OPTION_CELLS_MAX = 256, TAG_CAPACITY = 96 };

#define OPTIONS_TAG "options"

struct summary {
    const struct file_table *files;
    struct progress *progress;
    struct event_file *train;      /* NULL: writing has ended */
    struct event_file *validation; /* or there are no such data */
    uint64_t every_steps, every_epochs;
    double learning_rate;
    double last_flush;
    uint64_t rate_step; /* of the latest global_step/sec */
    bool has_save;      /* there is a point of a save at save_step */
    uint64_t save_step;
};

static void end_with_warning(struct summary *summary, const struct error *err) {
    progress_warning(summary->progress, "event files for TensorBoard are not written: %s",
                     err->message);
    event_file_close(summary->train);
    event_file_close(summary->validation);
    summary->train = summary->validation = NULL;
}

static bool is_writing(const struct summary *summary) {
    return summary != NULL && summary->train != NULL;
}

/* ---- going back to the restored point -------------------------------------------------------- */

struct restored {
    struct summary *summary;
    const struct run_state *state;
    bool resumed, in_validation, has_graph;
};

static bool begins_with(const char *text, const char *prefix) {
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static bool counts_in_epochs(const char *tag) {
    static const char suffix[] = "/histogram";
    size_t size = strlen(tag);
    return begins_with(tag, "epoch_") ||
           (size >= sizeof suffix - 1 && strcmp(tag + size - (sizeof suffix - 1), suffix) == 0);
}

/* Has the restored state seen this point? */
static bool has_seen(struct restored *restored, const struct event_seen *event) {
    const struct run_state *state = restored->state;
    if (counts_in_epochs(event->tag)) {
        return event->step >= 0 && (uint64_t)event->step < state->row_count;
    }
    /* The validation that follows the restored step may be still to come; this start's options are
     * written at its step. */
    bool is_before = strcmp(event->tag, OPTIONS_TAG) == 0 ||
                     (restored->in_validation && state->phase == RUN_EPOCH_END);
    bool seen = is_before ? event->step < state->step : event->step <= state->step;
    if (seen && begins_with(event->tag, "checkpoint/")) {
        restored->summary->has_save = true;
        restored->summary->save_step = (uint64_t)event->step;
    }
    return seen;
}

static bool keep_event(void *context, const struct event_seen *event) {
    struct restored *restored = context;
    if (event->kind == EVENT_OTHER) {
        return true; /* the version */
    }
    if (!restored->resumed) {
        return false;
    }
    switch (event->kind) {
    case EVENT_START:
        return event->step <= restored->state->step + 1;
    case EVENT_GRAPH:
        restored->has_graph = true;
        return true;
    default:
        return has_seen(restored, event);
    }
}

/* Cut the earlier files of a directory and begin a new one with what has to be carried over. */
static enum status open_directory(struct restored *restored, const char *model_dir,
                                  const char *name, struct event_file **out, struct error *err) {
    const struct file_table *files = restored->summary->files;
    char directory[FILE_PATH_CAPACITY];
    CHECK(file_join_path(directory, sizeof directory, model_dir, name), err, STATUS_IO,
          "the path of the model directory is too long");
    struct text survivors = {0};
    enum status status = event_file_rewind(files, directory, keep_event, restored, &survivors, err);
    if (status == STATUS_OK) {
        status = event_file_open(files, directory, out, err);
    }
    if (status == STATUS_OK) {
        uint64_t step = (uint64_t)restored->state->step;
        event_file_add_start(*out, restored->resumed ? step + 1 : 0);
        event_file_add_raw(*out, &survivors);
    }
    text_free(&survivors);
    return status;
}

/* ---- options --------------------------------------------------------------------------------- */

/* A cell is Markdown: what would be markup is escaped. */
static void append_cell(struct text *out, const char *bytes, size_t size) {
    for (size_t i = 0; i < size; i++) {
        if (bytes[i] == '<' || bytes[i] == '&') {
            text_printf(out, bytes[i] == '<' ? "&lt;" : "&amp;");
            continue;
        }
        if (strchr("\\`*_{}[]()>#+-.!|", bytes[i]) != NULL) {
            text_append(out, "\\", 1);
        }
        text_append(out, bytes + i, 1);
    }
    text_append(out, "", 1); /* the NUL */
}

/* "name = value" lines as a table with two columns. */
static void add_options(struct event_file *file, uint64_t step, const struct text *options) {
    struct text cells = {0};
    size_t offsets[OPTION_CELLS_MAX], count = 0;
    const char *at = options->bytes, *end = at + options->size;
    while (at < end && count + 2 <= OPTION_CELLS_MAX) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        const char *stop = newline != NULL ? newline : end;
        const char *equals = memchr(at, '=', (size_t)(stop - at));
        if (*at == ' ' && cells.size > 0) { /* the value goes on */
            cells.size--;
            text_append(&cells, "\n", 1);
            append_cell(&cells, at + 4, (size_t)(stop - at) - 4);
        } else if (equals != NULL && equals - at > 1) {
            const char *value = equals + 1 < stop ? equals + 2 : stop; /* "name =" when empty */
            offsets[count++] = cells.size;
            append_cell(&cells, at, (size_t)(equals - at) - 1);
            offsets[count++] = cells.size;
            append_cell(&cells, value, (size_t)(stop - value));
        }
        at = stop + 1;
    }
    const char *table[OPTION_CELLS_MAX];
    for (size_t i = 0; i < count && !cells.failed; i++) {
        table[i] = cells.bytes + offsets[i];
    }
    if (!cells.failed) {
        event_file_add_text(file, step, OPTIONS_TAG, table, count / 2, 2);
    }
    text_free(&cells);
}

/* ---- opening --------------------------------------------------------------------------------- */

static enum status open_files(struct summary *summary, const struct summary_setup *setup,
                              struct error *err) {
    struct restored restored = {
        .summary = summary, .state = setup->state, .resumed = setup->resumed};
    TRY(open_directory(&restored, setup->directory, "train", &summary->train, err));
    if (!restored.has_graph) {
        summary_add_graph(summary->train, setup->model);
    }
    add_options(summary->train, (uint64_t)setup->state->step, setup->options_text);
    if (setup->has_validation) {
        restored.in_validation = true;
        TRY(open_directory(&restored, setup->directory, "validation", &summary->validation, err));
        TRY(event_file_flush(summary->validation, err));
    }
    return event_file_flush(summary->train, err);
}

struct summary *summary_open(const struct summary_setup *setup) {
    const struct options *options = setup->options;
    if (strcmp(options->tensorboard, "on") != 0) {
        return NULL;
    }
    struct summary *summary = calloc(1, sizeof *summary);
    struct error err = {0};
    if (summary == NULL) {
        progress_warning(setup->progress,
                         "event files for TensorBoard are not written: out of memory");
        return NULL;
    }
    *summary = (struct summary){
        .files = setup->files,
        .progress = setup->progress,
        .every_steps = options->save_summary_steps,
        .every_epochs = options->histogram_freq,
        .learning_rate = options->learning_rate,
        .rate_step = (uint64_t)setup->state->step,
        .last_flush = clock_monotonic_seconds(),
    };
    if (open_files(summary, setup, &err) != STATUS_OK) {
        end_with_warning(summary, &err);
    }
    return summary;
}

/* ---- points ---------------------------------------------------------------------------------- */

bool summary_is_due(const struct summary *summary, uint64_t step) {
    return is_writing(summary) && summary->every_steps > 0 && step % summary->every_steps == 0;
}

void summary_step(struct summary *summary, uint64_t step, double loss, double accuracy) {
    if (is_writing(summary)) {
        const struct event_scalar values[] = {{"loss", loss}, {"accuracy", accuracy}};
        event_file_add_scalars(summary->train, step, values, 2);
    }
}

void summary_rate(struct summary *summary, uint64_t step, double elapsed) {
    if (!is_writing(summary)) {
        return;
    }
    if (elapsed > 0.0) {
        const struct event_scalar rate = {"global_step/sec",
                                          (double)(step - summary->rate_step) / elapsed};
        event_file_add_scalars(summary->train, step, &rate, 1);
    }
    summary->rate_step = step;
}

static enum status add_histograms(struct summary *summary, uint64_t epoch, struct model *model,
                                  struct error *err) {
    float *values = malloc(model->layout.part_floats * sizeof *values);
    CHECK(values != NULL, err, STATUS_MEMORY, "out of memory for the weights");
    enum status status = model_download(model, values, model->weights,
                                        model->layout.part_floats * sizeof *values, err);
    for (size_t i = 0; i < MODEL_TENSORS && status == STATUS_OK; i++) {
        const struct tensor_view *tensor = &model->layout.tensors[i];
        char name[TAG_CAPACITY - 16], tag[TAG_CAPACITY];
        summary_node_name(tensor->name, name, sizeof name);
        snprintf(tag, sizeof tag, "%s/histogram", name);
        uint64_t elements = 0;
        (void)!tensor_elements(tensor, &elements); /* model_layout_make saw that it has a size */
        event_file_add_histogram(summary->train, epoch, tag, values + model->layout.offset[i],
                                 elements);
    }
    free(values);
    return status;
}

void summary_epoch(struct summary *summary, uint64_t epoch, uint64_t step,
                   const struct epoch_row *row, struct model *model) {
    if (!is_writing(summary)) {
        return;
    }
    const struct event_scalar train[] = {{"epoch_accuracy", row->accuracy},
                                         {"epoch_loss", row->loss},
                                         {"epoch_learning_rate", summary->learning_rate}};
    event_file_add_scalars(summary->train, epoch, train, 3);
    struct error err = {0};
    if (summary->every_epochs > 0 && epoch % summary->every_epochs == 0 &&
        add_histograms(summary, epoch, model, &err) != STATUS_OK) {
        end_with_warning(summary, &err);
        return;
    }
    if (summary->validation != NULL) {
        const struct event_scalar by_step[] = {
            {"evaluation_accuracy_vs_iterations", row->val_accuracy},
            {"evaluation_loss_vs_iterations", row->val_loss},
            {"accuracy", row->val_accuracy},
            {"loss", row->val_loss}};
        const struct event_scalar by_epoch[] = {{"epoch_accuracy", row->val_accuracy},
                                                {"epoch_loss", row->val_loss}};
        event_file_add_scalars(summary->validation, step, by_step, 4);
        event_file_add_scalars(summary->validation, epoch, by_epoch, 2);
    }
    summary_flush(summary);
}

/* A step may be saved twice, before and after its epoch's validation; the first is the point. */
void summary_save(struct summary *summary, const struct save_result *result) {
    if (!is_writing(summary) || (summary->has_save && result->step <= summary->save_step)) {
        return;
    }
    const struct event_scalar values[] = {
        {"checkpoint/stall_us", result->stall_seconds * 1e6},
        {"checkpoint/durable_ms", result->durable_seconds * 1e3},
        {"checkpoint/bytes", (double)result->bytes},
    };
    event_file_add_scalars(summary->train, result->step, values, 3);
    summary->has_save = true;
    summary->save_step = result->step;
}

/* ---- flushing -------------------------------------------------------------------------------- */

void summary_flush(struct summary *summary) {
    if (!is_writing(summary)) {
        return;
    }
    struct error err = {0};
    enum status status = event_file_flush(summary->train, &err);
    if (status == STATUS_OK && summary->validation != NULL) {
        status = event_file_flush(summary->validation, &err);
    }
    summary->last_flush = clock_monotonic_seconds();
    if (status != STATUS_OK) {
        end_with_warning(summary, &err);
    }
}

void summary_tick(struct summary *summary) {
    if (is_writing(summary) && event_file_is_dirty(summary->train) &&
        clock_monotonic_seconds() - summary->last_flush >= SUMMARY_FLUSH_SECONDS) {
        summary_flush(summary);
    }
}

void summary_close(struct summary *summary) {
    if (summary != NULL) {
        summary_flush(summary);
        event_file_close(summary->train);
        event_file_close(summary->validation);
        free(summary);
    }
}
