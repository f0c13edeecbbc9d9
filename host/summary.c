#include "host/summary.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OPTION_CELLS_MAX = 256, TAG_CAPACITY = 96 };

#define OPTIONS_TAG "options"

struct summary {
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
    progress_warning(summary->progress,
                     "event files for TensorBoard are not written: %s. Training goes on without "
                     "them; to have them mend this, or move away what is named, and start again, "
                     "or pass --tensorboard off",
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
    const struct run_state *state;
    bool resumed, in_validation;
    /* what was found */
    bool has_graph, has_save, has_other_run;
    uint64_t save_step;
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
        restored->has_save = true;
        restored->save_step = (uint64_t)event->step;
    }
    return seen;
}

static bool keep_event(void *context, const struct event_seen *event) {
    struct restored *restored = context;
    if (event->kind == EVENT_OTHER) {
        return true; /* the version */
    }
    if (!restored->resumed) {
        restored->has_other_run = true;
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

/* Both directories, whether or not this start writes into them: what goes comes once more, or is of
 * a branch that was left. */
static enum status rewind_files(const struct summary_setup *setup, struct restored *restored,
                                struct error *err) {
    static const char *const names[] = {"train", "validation"};
    char directory[FILE_PATH_CAPACITY];
    *restored = (struct restored){.state = setup->state, .resumed = setup->resumed};
    for (size_t i = 0; i < 2; i++) {
        CHECK(file_join_path(directory, sizeof directory, setup->directory, names[i]), err,
              STATUS_IO, "the path of the model directory is too long");
        restored->in_validation = i == 1;
        TRY(event_file_rewind(setup->files, directory, keep_event, restored, err));
    }
    return STATUS_OK;
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

static enum status open_file(const struct summary_setup *setup, const char *name,
                             struct event_file **out, struct error *err) {
    char directory[FILE_PATH_CAPACITY];
    CHECK(file_join_path(directory, sizeof directory, setup->directory, name), err, STATUS_IO,
          "the path of the model directory is too long");
    TRY(event_file_open(setup->files, directory, out, err));
    event_file_add_start(*out, setup->resumed ? (uint64_t)setup->state->step + 1 : 0);
    return STATUS_OK;
}

static enum status open_files(struct summary *summary, const struct summary_setup *setup,
                              struct error *err) {
    struct restored restored;
    TRY(rewind_files(setup, &restored, err));
    summary->has_save = restored.has_save;
    summary->save_step = restored.save_step;
    if (restored.has_other_run) {
        progress_message(setup->progress,
                         "%s has event files for TensorBoard but no checkpoint to go on from: this "
                         "run begins anew, and the earlier event files were emptied.",
                         setup->directory);
    }
    TRY(open_file(setup, "train", &summary->train, err));
    if (!restored.has_graph) {
        summary_add_graph(summary->train, setup->model);
    }
    add_options(summary->train, (uint64_t)setup->state->step, setup->options_text);
    if (setup->has_validation) {
        TRY(open_file(setup, "validation", &summary->validation, err));
        TRY(event_file_flush(summary->validation, err));
    }
    return event_file_flush(summary->train, err);
}

/* Nothing is written, but what a resumed run has left behind must not stay. */
static void rewind_only(const struct summary_setup *setup) {
    struct restored restored;
    struct error err = {0};
    if (setup->resumed && rewind_files(setup, &restored, &err) != STATUS_OK) {
        progress_warning(setup->progress,
                         "event files for TensorBoard may still show what lies behind step %lld: "
                         "%s. Training goes on; mend this and start again, or delete them",
                         (long long)setup->state->step, err.message);
    }
}

struct summary *summary_open(const struct summary_setup *setup) {
    const struct options *options = setup->options;
    if (strcmp(options->tensorboard, "on") != 0) {
        rewind_only(setup);
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
