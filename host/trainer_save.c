#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "host/trainer_internal.h"

/* ---- what a checkpoint holds ----------------------------------------------------------------- */

static size_t add_part(struct trainer *trainer, const char *prefix, float *part,
                       struct snapshot_source *out) {
    struct tensor_view views[MODEL_TENSORS];
    model_views(trainer->model, prefix, part, views);
    for (size_t i = 0; i < MODEL_TENSORS; i++) {
        out[i] = (struct snapshot_source){views[i], SNAPSHOT_DEVICE, .steady = true};
    }
    return MODEL_TENSORS;
}

static struct snapshot_source constant(const char *name, enum dtype dtype, const void *data,
                                       uint32_t rank, uint64_t length) {
    /* The writer only reads; a view has no const twin. */
    void *bytes = (void *)(uintptr_t)data;
    return (struct snapshot_source){tensor_make(name, dtype, bytes, rank, &length),
                                    SNAPSHOT_CONSTANT, false};
}

/* Weights, moments, best weights, run state, vocabulary, text rules: docs/checkpoint-format.md
 * lists them. What only the update changes is steady: trainer_settle stands before it. After the
 * best weights were restored the part behind `best` holds the last ones. */
static size_t list_sources(struct trainer *trainer, struct snapshot_source *out) {
    struct model *model = trainer->model;
    size_t n = add_part(trainer, "", model->weights, out);
    n += add_part(trainer, "adam.m.", model->m, out + n);
    n += add_part(trainer, "adam.v.", model->v, out + n);
    if (model->best != NULL && trainer->state.stopping_has_weights) {
        const char *prefix = trainer->state.restored_best ? "last." : "best.";
        n += add_part(trainer, prefix, model->best, out + n);
    }
    uint64_t sums_length = sizeof(struct pass_sums) / sizeof(double);
    out[n++] = (struct snapshot_source){
        tensor_make("state.epoch_sums", DTYPE_F64, model->sums, 1, &sums_length), SNAPSHOT_DEVICE,
        false};
    n += run_state_sources(&trainer->state, out + n);
    size_t vocabulary_bytes;
    const char *vocabulary = vocabulary_text(trainer->setup.vocabulary, &vocabulary_bytes);
    out[n++] = constant(TENSOR_VOCABULARY, DTYPE_U8, vocabulary, 1, vocabulary_bytes);
    out[n++] = constant(TENSOR_STRIP_HTML, DTYPE_I64, &trainer->strip_html, 0, 0);
    out[n++] = constant(TENSOR_MAX_LENGTH, DTYPE_I64, &trainer->max_length, 0, 0);
    out[n++] = constant(TENSOR_LABEL_NAMES, DTYPE_U8, trainer->label_names, 1,
                        strlen(trainer->label_names));
    assert(n <= TRAINER_SOURCES_MAX);
    return n;
}

/* ---- asking for a save ----------------------------------------------------------------------- */

static enum status add_target(struct save_request *request, const char *directory, const char *name,
                              bool ring, struct error *err) {
    struct save_target *target = &request->targets[request->target_count++];
    target->ring = ring;
    CHECK(file_join_path(target->path, sizeof target->path, directory, name), err, STATUS_OUTPUT,
          "--model-dir: the path of %s is too long", name);
    return STATUS_OK;
}

/* A path that cannot be made is a failed save like any other: said now, counted, and training goes
 * on. */
static void add_filepath(struct trainer *trainer, struct save_request *request,
                         const struct template_values *values) {
    const struct options *options = trainer->setup.options;
    struct save_target *target = &request->targets[request->target_count];
    char directory[FILE_PATH_CAPACITY];
    struct error why = {0};
    target->weights_only = options->save_weights_only;
    enum status status = filepath_expand(options->checkpoint_filepath, values, target->path,
                                         sizeof target->path, &why);
    if (status == STATUS_OK) {
        file_split_path(target->path, directory, sizeof directory);
        status = file_make_directories(trainer->setup.files, directory, &why);
    }
    if (status == STATUS_OK) {
        request->target_count++;
        return;
    }
    target->weights_only = false;
    trainer->save_failures++;
    progress_warning(trainer->setup.progress, "--checkpoint-filepath: not saved: %s", why.message);
}

static void add_metadata(struct save_request *request, const char *key, const char *value) {
    assert(request->metadata_count < WRITER_METADATA_MAX);
    request->metadata[request->metadata_count++] = (struct metadata_pair){key, value};
}

/* A state that claims a best model still on its way may be published only once that one is. */
static uint64_t claimed_best_save(const struct trainer *trainer, unsigned kinds) {
    bool brings_its_own = (kinds & SAVE_BEST) != 0;
    return brings_its_own || trainer->best_save_count == 0
               ? 0
               : trainer->best_saves[trainer->best_save_count - 1].id;
}

static void note_accepted(struct trainer *trainer, unsigned kinds) {
    trainer->accepted_saves++;
    if (kinds & SAVE_BEST) {
        assert(trainer->best_save_count < TRAINER_BEST_SAVES_MAX);
        trainer->best_saves[trainer->best_save_count++] =
            (struct best_save){trainer->accepted_saves, run_state_best(&trainer->state)};
    }
    if (kinds & (SAVE_RING_DUE | SAVE_RING_MUST)) {
        trainer->ring_version = trainer->state_version;
        trainer->last_save = clock_monotonic_seconds();
    }
}

/* The request is some 17 KB, too much for a quick zeroing but nothing for a stack: only what is
 * used is written. Event files are written out first: none lacks a step that a checkpoint holds. */
enum status trainer_save(struct trainer *trainer, unsigned kinds,
                         const struct template_values *values, struct error *err) {
    struct save_request request;
    summary_flush(trainer->summary);
    request.step = (uint64_t)trainer->state.step;
    request.must = (kinds & SAVE_RING_DUE) == 0 || (kinds & ~(unsigned)SAVE_RING_DUE) != 0;
    request.target_count = request.metadata_count = 0;
    request.after_id = claimed_best_save(trainer, kinds);
    for (size_t i = 0; i < WRITER_TARGETS_MAX; i++) {
        request.targets[i].ring = request.targets[i].weights_only = false;
    }
    const char *directory = store_directory(trainer->setup.store);
    bool ring = (kinds & (SAVE_RING_DUE | SAVE_RING_MUST)) != 0;
    if (kinds & SAVE_BEST) {
        TRY(add_target(&request, directory, STORE_BEST_FILE, false, err));
    }
    if (kinds & SAVE_FILEPATH) {
        add_filepath(trainer, &request, values);
    }
    if (ring) {
        char name[64];
        store_checkpoint_name(request.step, name);
        TRY(add_target(&request, directory, name, true, err));
    }
    if (request.target_count == 0) {
        return STATUS_OK; /* the only one was --checkpoint-filepath's, which was reported */
    }
    char step[24], epoch[24], weights[96];
    snprintf(step, sizeof step, "%" PRId64, trainer->state.step);
    snprintf(epoch, sizeof epoch, "%" PRId64, trainer->state.epoch);
    snprintf(weights, sizeof weights, "best (end of epoch %" PRId64 "); the last ones are last.*",
             trainer->state.stopping_best_epoch + 1);
    add_metadata(&request, "step", step);
    add_metadata(&request, "epoch", epoch);
    add_metadata(&request, "weights", trainer->state.restored_best ? weights : "last");
    add_metadata(&request, "run_id", trainer->setup.run_id);
    add_metadata(&request, "kernel_path", trainer->setup.be->kernel_path);
    add_metadata(&request, "options", trainer->options_text.bytes);

    struct snapshot_source sources[TRAINER_SOURCES_MAX];
    size_t count = list_sources(trainer, sources);
    enum save_outcome outcome;
    struct backend *be = trainer->setup.be;
    be->table->range_begin(be, "save");
    enum status status = writer_save(trainer->writer, sources, count, &request, &outcome, err);
    be->table->range_end(be);
    TRY(status);
    if (outcome == SAVE_ACCEPTED) {
        note_accepted(trainer, kinds);
    }
    return STATUS_OK;
}

void trainer_settle(void *trainer) {
    writer_settle(((struct trainer *)trainer)->writer);
}

bool trainer_save_due(const struct trainer *trainer) {
    const struct options *options = trainer->setup.options;
    if (options->save_checkpoints_steps > 0) {
        return (uint64_t)trainer->state.step % options->save_checkpoints_steps == 0;
    }
    return options->save_checkpoints_secs > 0.0 &&
           clock_monotonic_seconds() - trainer->last_save >= options->save_checkpoints_secs;
}

/* ---- what became of it ----------------------------------------------------------------------- */

/* No checkpoint may claim a best value that the best file does not hold. When publishing a best
 * model fails, the best value goes back to what is on disk, so that the next epoch has to beat that
 * and not what was lost; unless an even better model is on its way. Once it is renamed the new file
 * is what is on disk, also where a power cut may still take it back. */
static void settle_best_save(struct trainer *trainer, const struct save_result *result) {
    if (trainer->best_save_count == 0 || trainer->best_saves[0].id != result->id) {
        return;
    }
    struct best_save done = trainer->best_saves[0];
    trainer->best_save_count--;
    memmove(&trainer->best_saves[0], &trainer->best_saves[1],
            trainer->best_save_count * sizeof trainer->best_saves[0]);
    if (result->targets_published > 0 || result->is_renamed) { /* the best file comes first */
        trainer->durable_best = done.tracker;
        trainer->best_unusable = false;
    } else if (trainer->best_save_count == 0) {
        run_state_set_best(&trainer->state, &trainer->durable_best);
        trainer->state_version++;
    }
}

/* A checkpoint that is durable is saved, whatever failed behind it; the last save is not repeated
 * for that. */
static bool is_durable(const struct save_result *result) {
    return result->targets_published == result->target_count;
}

static void warn_of_failure(struct trainer *trainer, const struct save_result *result) {
    const char *what = is_durable(result) ? "is durable, but the state file or the deletion of old "
                                            "checkpoints failed"
                       : result->is_renamed ? "is there, but not known to be durable"
                                            : "not saved";
    progress_warning(trainer->setup.progress, "checkpoint of step %" PRIu64 " %s: %s", result->step,
                     what, result->message);
}

void trainer_collect_saves(struct trainer *trainer) {
    struct save_result result;
    while (writer_poll(trainer->writer, &result)) {
        if (result.dropped) {
            continue;
        }
        settle_best_save(trainer, &result);
        trainer->directory_lost = result.status == STATUS_OUTPUT;
        if (result.status == STATUS_OK) {
            trainer_log_save(trainer, &result);
            continue;
        }
        if (!is_durable(&result)) {
            trainer->ring_version = 0; /* the last save tries again */
        }
        if (result.status == STATUS_NONFINITE) {
            trainer->save_nonfinite = true;
        } else {
            trainer->save_failures++;
        }
        warn_of_failure(trainer, &result);
        trainer_log_save(trainer, &result);
    }
}

static bool ring_is_durable(const struct trainer *trainer) {
    return trainer->ring_version == trainer->state_version;
}

enum status trainer_save_final(struct trainer *trainer, bool *durable, struct error *err) {
    writer_drain(trainer->writer);
    trainer_collect_saves(trainer);
    for (int attempt = 0; attempt < 2 && !ring_is_durable(trainer); attempt++) {
        if (trainer->save_nonfinite) {
            break;
        }
        TRY(trainer_save(trainer, SAVE_RING_MUST, NULL, err));
        writer_drain(trainer->writer);
        trainer_collect_saves(trainer);
    }
    *durable = ring_is_durable(trainer);
    return STATUS_OK;
}

/* ---- best weights ---------------------------------------------------------------------------- */

enum status trainer_swap_best(struct trainer *trainer, struct error *err) {
    TRY(model_swap_best(trainer->model, err));
    trainer->state.restored_best = !trainer->state.restored_best;
    trainer->state_version++;
    return STATUS_OK;
}
