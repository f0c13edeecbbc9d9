#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/best_model.h"
#include "host/trainer_internal.h"

/* ---- monitor and callbacks ------------------------------------------------------------------- */

static enum status choose_monitor(struct trainer *trainer, struct error *err) {
    const struct options *options = trainer->setup.options;
    bool has_validation = trainer->setup.corpora->validation.examples > 0;
    CHECK(metric_parse(options->monitor, &trainer->monitor), err, STATUS_USAGE,
          "--monitor %s: expected loss, accuracy, val_loss or val_accuracy", options->monitor);
    trainer->direction = metric_direction(trainer->monitor, options->mode);
    trainer->monitor_available = has_validation || !metric_needs_validation(trainer->monitor);
    CHECK(trainer->monitor_available || !options_given(options, "monitor"), err, STATUS_USAGE,
          "--monitor %s needs validation data: pass --validation-data or --validation-split, or "
          "monitor loss or accuracy",
          options->monitor);
    if (!trainer->monitor_available) {
        progress_warning(trainer->setup.progress,
                         "no validation data: no early stopping and no best model (pass "
                         "--validation-data or --validation-split, or --monitor loss)");
    }
    if (options->restore_best_weights && options->patience < 0) {
        progress_warning(
            trainer->setup.progress,
            "--restore-best-weights has no effect with --patience none: early stopping "
            "keeps the best weights");
    }
    trainer->stopping = (struct early_stopping_config){
        .direction = trainer->direction,
        .patience = options->patience,
        .min_delta = options->min_delta,
        .baseline = options->baseline,
        .restore_best_weights = options->restore_best_weights,
        .start_from_epoch = options->start_from_epoch,
    };
    return STATUS_OK;
}

/* Names in the model directory that belong to somebody else: those of the run, and .cairn-*, the
 * lock and the temporaries, which the next start deletes. */
static bool is_reserved(const char *name) {
    static const char *const names[] = {
        STORE_STATE_FILE,           STORE_BEST_FILE, "history.csv", "history.jsonl", "config.ini",
        STORE_SUPERSEDED_DIRECTORY, "train",         "validation"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (strcmp(name, names[i]) == 0) {
            return true;
        }
    }
    return strncmp(name, ".cairn-", 7) == 0 || strncmp(name, "model.ckpt-", 11) == 0;
}

/* Neither the file nor a directory that is made for it may have such a name. */
static enum status check_reserved(const char *path, const char *model_dir, struct error *err) {
    char part[FILE_PATH_CAPACITY], parent[FILE_PATH_CAPACITY];
    size_t size = strlen(path);
    for (size_t end = 1; end <= size; end++) {
        if (path[end] != '/' && path[end] != '\0') {
            continue;
        }
        snprintf(part, sizeof part, "%.*s", (int)end, path);
        const char *name = file_split_path(part, parent, sizeof parent);
        CHECK(!is_reserved(name) || !loading_lies_in(part, model_dir), err, STATUS_USAGE,
              "--checkpoint-filepath %s: %s belongs to the model directory itself; choose another "
              "name",
              path, name);
    }
    return STATUS_OK;
}

/* A template that cannot be filled, whose directory cannot be made, or whose file would be taken
 * for another one is refused before training. A directory that depends on the epoch is made when
 * its time comes. */
static enum status check_filepath(const struct trainer *trainer, struct error *err) {
    const struct options *options = trainer->setup.options;
    const char *path_template = options->checkpoint_filepath;
    if (path_template[0] == '\0') {
        return STATUS_OK;
    }
    struct template_values values = {
        .epoch = 1,
        .has_batch = options->save_freq_batches > 0,
        .batch = 1,
        .has_metrics = true,
        .has_validation =
            options->save_freq_batches == 0 && trainer->setup.corpora->validation.examples > 0,
    };
    char path[FILE_PATH_CAPACITY], directory[FILE_PATH_CAPACITY];
    TRY(filepath_expand(path_template, &values, path, sizeof path, err));
    const char *name = file_split_path(path, directory, sizeof directory);
    CHECK(name != NULL && name[0] != '\0', err, STATUS_USAGE,
          "--checkpoint-filepath %s: a file name is missing after the last slash", path_template);
    CHECK(
        strncmp(name, "model.ckpt-", 11) != 0, err, STATUS_USAGE,
        "--checkpoint-filepath %s: names that begin with model.ckpt- belong to the checkpoints of "
        "the model directory; choose another",
        path_template);
    TRY(check_reserved(path, options->model_dir, err));
    const char *slash = strrchr(path_template, '/');
    size_t literal = slash != NULL ? (size_t)(slash - path_template) : 0;
    if (memchr(path_template, '{', literal) == NULL) {
        TRY(file_make_directories(trainer->setup.files, directory, err));
        if (publish_try(trainer->setup.files, path, err) != STATUS_OK) {
            return error_prefix(err, STATUS_OUTPUT, "--checkpoint-filepath");
        }
    }
    return STATUS_OK;
}

/* ---- the state at the beginning -------------------------------------------------------------- */

static enum status read_sums(struct trainer *trainer, struct error *err) {
    const struct checkpoint *from = trainer->setup.resumed;
    const struct tensor_view *sums =
        tensor_find(from->tensors, from->tensor_count, "state.epoch_sums");
    CHECK(sums != NULL && sums->dtype == DTYPE_F64 && sums->rank == 1 &&
              sums->shape[0] == sizeof trainer->sums / sizeof(double),
          err, STATUS_MISFIT, "%s: tensor state.epoch_sums is missing or has another shape",
          trainer->setup.resumed_path);
    memcpy(&trainer->sums, sums->data, sizeof trainer->sums);
    return model_write_sums(trainer->model, &trainer->sums, err);
}

/* The best weights, where they are kept: best.* of a running state, or, once they have been
 * restored, the weights themselves (then the last weights lie under last.*). A run that goes on
 * goes on from the last weights, as if it had never ended. */
static enum status read_weights(struct trainer *trainer, struct error *err) {
    struct model *model = trainer->model;
    const struct checkpoint *from = trainer->setup.resumed;
    struct run_state *state = &trainer->state;
    TRY(loading_upload(model, model->weights, state->restored_best ? "last." : "", from, err));
    TRY(loading_upload(model, model->m, "adam.m.", from, err));
    TRY(loading_upload(model, model->v, "adam.v.", from, err));
    if (model->best != NULL && state->stopping_has_weights) {
        TRY(loading_upload(model, model->best, state->restored_best ? "" : "best.", from, err));
    } else {
        state->stopping_has_weights = 0; /* --restore-best-weights was dropped */
    }
    state->restored_best = 0;
    return STATUS_OK;
}

/* Early stopping knows of a best epoch whose weights the checkpoint lacks: --restore-best-weights
 * was off when it was made. The best model may be that epoch's; if not, no other epoch's weights
 * pass for them. */
static void find_best_weights(struct trainer *trainer) {
    struct run_state *state = &trainer->state;
    struct model *model = trainer->model;
    if (model->best == NULL || state->stopping_has_weights || !state->stopping_has_best) {
        return;
    }
    char path[FILE_PATH_CAPACITY];
    struct checkpoint *best = NULL;
    struct error why = {0};
    uint64_t epoch = (uint64_t)state->stopping_best_epoch;
    enum status status =
        file_join_path(path, sizeof path, store_directory(trainer->setup.store), STORE_BEST_FILE)
            ? best_model_open_epoch(path, epoch, trainer->setup.resumed, state, &best, &why)
            : error_set(&why, STATUS_OUTPUT, "the path of the model directory is too long");
    if (status == STATUS_OK) {
        status = loading_upload(model, model->best, "", best, &why);
    }
    checkpoint_free(best);
    state->stopping_has_weights = status == STATUS_OK;
    trainer->took_best_weights = status == STATUS_OK;
    if (status != STATUS_OK) {
        progress_warning(trainer->setup.progress,
                         "--restore-best-weights: the checkpoint was made without it, and the best "
                         "model does not have the weights of the best epoch (%llu) either: only "
                         "those of a better one can be restored. %s",
                         (unsigned long long)epoch + 1, why.message);
    }
}

/* Best values and patience belong to one metric; under another one they would be wrong for ever. */
static void forget_best(struct run_state *state) {
    run_state_set_stopping(state, &(struct early_stopping){0});
    run_state_set_best(state, &(struct best_tracker){0});
    state->save_freq_has_best = 0;
    state->save_freq_best = 0.0;
}

static enum status read_init_from(struct trainer *trainer, struct error *err) {
    const char *path = trainer->setup.options->init_from;
    char shown[400];
    enum status status =
        loading_upload(trainer->model, trainer->model->weights, "", trainer->setup.init_from, err);
    return status == STATUS_OK ? status
                               : error_prefix(err, status, "--init-from %s",
                                              text_escape(path, strlen(path), shown, sizeof shown));
}

static enum status begin_state(struct trainer *trainer, struct error *err) {
    const struct options *options = trainer->setup.options;
    struct run_state *state = &trainer->state;
    const struct corpora *corpora = trainer->setup.corpora;
    run_state_init(state, options->seed);
    if (trainer->setup.resumed != NULL) {
        TRY(run_state_read(state, trainer->setup.resumed, err));
        TRY(read_sums(trainer, err));
        enum status status = read_weights(trainer, err);
        if (status != STATUS_OK) {
            return error_prefix(err, status, "%s", trainer->setup.resumed_path);
        }
        if (trainer->setup.monitor_changed) {
            forget_best(state);
        }
        find_best_weights(trainer);
        memcpy(&state->seed, &options->seed, sizeof state->seed); /* --allow-change */
        bool goes_on = options->patience < 0 || state->stopping_wait < options->patience;
        if (state->stopping_stopped && goes_on) {
            state->stopping_stopped = 0; /* more --patience than before */
        }
    } else if (trainer->setup.init_from != NULL) {
        TRY(model_initialise(trainer->model, options->seed, err));
        TRY(read_init_from(trainer, err));
    } else {
        TRY(model_initialise(trainer->model, options->seed, err));
    }
    if (trainer->setup.resumed == NULL && !isnan(options->initial_value_threshold)) {
        state->best_has_best = state->save_freq_has_best = 1;
        state->best_value = state->save_freq_best = options->initial_value_threshold;
    }
    memcpy(&state->data_fingerprint, &corpora->train.fingerprint, 8);
    memcpy(&state->validation_fingerprint, &corpora->validation.fingerprint, 8);
    uint64_t position = (uint64_t)state->position, steps = trainer->steps_per_epoch;
    CHECK(
        state->phase == RUN_EPOCH_END ? position == steps : position < steps, err, STATUS_CONFIG,
        "%s stands at batch %lld of an epoch that now has %llu batches: data or --batch-size have "
        "changed too much to go on; use another --model-dir",
        trainer->setup.resumed_path, (long long)state->position,
        (unsigned long long)trainer->steps_per_epoch);
    trainer->first_step = (uint64_t)state->step;
    trainer->durable_best = run_state_best(state);
    trainer->best_unusable = trainer->setup.best_unusable;
    return STATUS_OK;
}

/* ---- parts ----------------------------------------------------------------------------------- */

static enum status create_batcher(struct trainer *trainer, struct error *err) {
    struct batcher_options batcher_options = batcher_options_of(trainer->setup.options);
    TRY(batcher_create(&batcher_options, &trainer->setup.corpora->train, &trainer->batcher, err));
    trainer->steps_per_epoch = batcher_steps_per_epoch(trainer->batcher);
    return STATUS_OK;
}

static enum status create_model(struct trainer *trainer, struct error *err) {
    const struct options *options = trainer->setup.options;
    const struct corpora *corpora = trainer->setup.corpora;
    struct model_options model_options = {
        .training = true,
        .keep_best =
            options->restore_best_weights && options->patience >= 0 && trainer->monitor_available,
        .learning_rate = options->learning_rate,
        .clip_norm = options->clip_norm,
    };
    struct batch_limits *limits = &model_options.limits;
    batcher_limits(trainer->batcher, &limits->sequences, &limits->total_tokens, &limits->longest);
    limits->training = true;
    if (corpora->validation.examples > 0) {
        struct batch_limits validation;
        evaluator_limits(&corpora->validation, limits->total_tokens, &validation);
        limits->sequences =
            limits->sequences > validation.sequences ? limits->sequences : validation.sequences;
        limits->total_tokens = validation.total_tokens;
        limits->longest =
            limits->longest > validation.longest ? limits->longest : validation.longest;
    }
    struct model_shape shape = {
        .vocabulary = vocabulary_size(trainer->setup.vocabulary),
        .embedding = (uint32_t)options->embedding_size,
        .hidden = (uint32_t)options->hidden_size,
        .dense = (uint32_t)options->dense_size,
    };
    TRY(model_create(trainer->setup.be, &shape, &model_options, &trainer->model, err));
    return evaluator_place_tokens(trainer->model, &corpora->train, &trainer->tokens, err);
}

static enum status create_evaluator(struct trainer *trainer, struct error *err) {
    const struct options *options = trainer->setup.options;
    const struct corpus *validation = &trainer->setup.corpora->validation;
    uint64_t examples = validation->examples;
    if (examples == 0) {
        return STATUS_OK;
    }
    if (options->validation_steps > 0 &&
        options->validation_steps < examples / options->batch_size + 1) {
        uint64_t asked = options->validation_steps * options->batch_size;
        examples = asked < examples ? asked : examples;
    }
    return evaluator_create(trainer->model, validation, examples, &trainer->evaluator, err);
}

static enum status create_writer(struct trainer *trainer, struct error *err) {
    static const enum writer_busy policies[] = {
        [BUSY_SKIP] = WRITER_BUSY_SKIP,
        [BUSY_LATEST] = WRITER_BUSY_LATEST,
        [BUSY_WAIT] = WRITER_BUSY_WAIT,
    };
    const struct options *options = trainer->setup.options;
    struct writer_options writer_options = {
        .files = trainer->setup.files,
        .store = trainer->setup.store,
        .compression_level = (int)options->compression_level,
        .busy = policies[options->checkpoint_busy],
        .compression_threads = (unsigned)options->compression_threads,
        .host_capacity = 64 * 1024, /* run state and the history of some 2,000 epochs; grows */
    };
    TRY(writer_create(&writer_options, trainer->setup.be, trainer->model->state,
                      trainer->model->state_bytes, &trainer->writer, err));
    model_before_change(trainer->model, trainer_settle, trainer);
    return STATUS_OK;
}

static void copy_text_rules(struct trainer *trainer) {
    const struct text_rules *rules = trainer->setup.rules;
    trainer->strip_html = rules->strip_html;
    trainer->max_length = (int64_t)rules->max_length;
    snprintf(trainer->label_names, sizeof trainer->label_names, "%s\n%s\n", rules->label_names[0],
             rules->label_names[1]);
}

static enum status create_parts(struct trainer *trainer, struct error *err) {
    const struct options *options = trainer->setup.options;
    TRY(choose_monitor(trainer, err));
    TRY(check_filepath(trainer, err));
    options_write(options, &trainer->options_text);
    CHECK(!trainer->options_text.failed, err, STATUS_MEMORY, "no memory for the options");
    copy_text_rules(trainer);
    TRY(create_batcher(trainer, err));
    TRY(create_model(trainer, err));
    TRY(create_evaluator(trainer, err));
    TRY(begin_state(trainer, err));
    trainer->state_version = 1;
    bool is_saved = trainer->setup.resumed_in_ring && !trainer->took_best_weights;
    trainer->ring_version = is_saved && !options->allow_change ? 1 : 0;
    uint64_t step = (uint64_t)trainer->state.step;
    trainer->last_step = options->max_steps > 0 ? options->max_steps
                         : options->steps > 0   ? step + options->steps
                                                : UINT64_MAX;
    return create_writer(trainer, err);
}

enum status trainer_create(const struct trainer_setup *setup, struct trainer **out,
                           struct error *err) {
    struct trainer *trainer = calloc(1, sizeof *trainer);
    CHECK(trainer != NULL, err, STATUS_MEMORY, "no memory for the trainer");
    trainer->setup = *setup;
    enum status status = create_parts(trainer, err);
    if (status != STATUS_OK) {
        trainer_free(trainer);
        return status;
    }
    *out = trainer;
    return STATUS_OK;
}

void trainer_free(struct trainer *trainer) {
    if (trainer == NULL) {
        return;
    }
    writer_free(trainer->writer);
    history_close(trainer->history);
    summary_close(trainer->summary);
    evaluator_free(trainer->evaluator);
    batcher_free(trainer->batcher);
    if (trainer->model != NULL) {
        evaluator_release_tokens(trainer->model, trainer->tokens);
        model_free(trainer->model);
    }
    run_state_deinit(&trainer->state);
    text_free(&trainer->options_text);
    free(trainer);
}
