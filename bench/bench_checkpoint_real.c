/* The trainer of `cairn train`, driven step by step: its batcher, model, run state and its very
 * trainer_save. Only the writer is exchanged from block to block. */
#include <stdlib.h>
#include <string.h>

#include "bench/bench_checkpoint.h"
#include "host/trainer_internal.h"

struct real {
    struct checkpoint_trainee base; /* first */
    struct options options;         /* as `train` would have them */
    struct corpora corpora;
    struct text_rules rules;
    struct progress progress;
    struct trainer *trainer;
};

static struct real *real_of(struct checkpoint_trainee *self) {
    return (struct real *)self;
}

static enum status start_epoch(struct real *real, uint64_t epoch, struct error *err) {
    struct trainer *trainer = real->trainer;
    trainer->state.epoch = (int64_t)epoch;
    trainer->state.position = 0;
    trainer->state.phase = RUN_TRAINING;
    return batcher_start(trainer->batcher, epoch, 0, err);
}

static enum status rewind_real(struct checkpoint_trainee *self, struct error *err) {
    return start_epoch(real_of(self), 0, err);
}

/* The block's writer takes the place of the trainer's own, which has nothing to do here; returns
 * the one to put back. */
static struct writer *exchange_writer(struct trainer *trainer, struct writer *writer) {
    struct writer *before = trainer->writer;
    trainer->writer = writer != NULL ? writer : before;
    return before;
}

static enum status make_step(struct checkpoint_trainee *self, struct error *err) {
    struct real *real = real_of(self);
    struct trainer *trainer = real->trainer;
    struct batch *batch = batcher_next(trainer->batcher);
    if (batch == NULL) {
        TRY(start_epoch(real, (uint64_t)trainer->state.epoch + 1, err));
        batch = batcher_next(trainer->batcher);
    }
    batch->view.tokens = trainer->tokens;
    struct writer *own = exchange_writer(trainer, self->writer);
    enum status status =
        model_train_step(trainer->model, &batch->view, (uint64_t)trainer->state.step + 1, err);
    trainer->writer = own;
    batcher_recycle(trainer->batcher, batch);
    TRY(status);
    trainer->state.step++;
    trainer->state.position++;
    trainer->state_version++;
    self->step = (uint64_t)trainer->state.step;
    uint64_t seen;
    return model_poll_sums(trainer->model, false, &trainer->sums, &seen, err);
}

static enum status save(struct checkpoint_trainee *self, enum save_outcome *outcome,
                        struct error *err) {
    struct trainer *trainer = real_of(self)->trainer;
    uint64_t accepted = trainer->accepted_saves;
    struct writer *own = exchange_writer(trainer, self->writer);
    enum status status = trainer_save(trainer, SAVE_RING_DUE, NULL, err);
    trainer->writer = own;
    *outcome = trainer->accepted_saves > accepted ? SAVE_ACCEPTED : SAVE_SKIPPED;
    return status;
}

static void heard(struct checkpoint_trainee *self, const struct save_result *result) {
    trainer_log_save(real_of(self)->trainer, result);
}

static enum status load(struct checkpoint_trainee *self, const struct checkpoint *from,
                        struct error *err) {
    struct model *model = real_of(self)->trainer->model;
    TRY(loading_upload(model, model->weights, "", from, err));
    TRY(loading_upload(model, model->m, "adam.m.", from, err));
    return loading_upload(model, model->v, "adam.v.", from, err);
}

static void free_real(struct checkpoint_trainee *self) {
    struct real *real = real_of(self);
    trainer_free(real->trainer);
    store_close(self->store);
    corpora_free(&real->corpora);
    free(real);
}

/* Early stopping and validation have no part in this. */
static void set_options(struct real *real, const struct options *options) {
    real->options = *options;
    real->options.command = COMMAND_TRAIN;
    real->options.validation_data = "none";
    real->options.monitor = "loss";
    real->options.patience = -1;
    real->options.verbose = 0;
    progress_init(&real->progress, stderr, PROGRESS_NONE, 0);
}

static enum status load_data(struct real *real, struct error *err) {
    const struct options *options = &real->options;
    const struct corpus_request request = {
        .files = &file_posix,
        .path = options->data,
        .validation_path = options->validation_data,
        .vocabulary_limit = options->vocabulary_size,
        .max_length = options->max_length,
        .strip_html = options->strip_html,
    };
    TRY(corpus_load_training(&request, &real->corpora, err));
    real->rules.strip_html = options->strip_html;
    real->rules.max_length = options->max_length;
    memcpy(real->rules.label_names, real->corpora.label_names, sizeof real->rules.label_names);
    return STATUS_OK;
}

static enum status open_trainer(struct real *real, const char *directory, struct error *err) {
    struct checkpoint_trainee *base = &real->base;
    const struct store_options store_options = {.keep_max =
                                                    (uint32_t)real->options.keep_checkpoint_max};
    struct error warning = {0};
    TRY(load_data(real, err));
    TRY(store_open(&file_posix, directory, &store_options, &base->store, &warning, err));
    const struct trainer_setup setup = {
        .options = &real->options,
        .be = base->be,
        .corpora = &real->corpora,
        .vocabulary = real->corpora.vocabulary,
        .rules = &real->rules,
        .store = base->store,
        .files = &file_posix,
        .progress = &real->progress,
        .resumed_path = "",
        .run_id = "benchmark",
    };
    TRY(trainer_create(&setup, &real->trainer, err));
    trainer_open_logs(real->trainer);
    base->region = real->trainer->model->state;
    base->region_bytes = real->trainer->model->state_bytes;
    base->state_bytes = (double)base->region_bytes;
    base->epoch_steps = real->trainer->steps_per_epoch;
    return STATUS_OK;
}

enum status checkpoint_real_create(const struct options *options, struct backend *be,
                                   const char *directory, struct checkpoint_trainee **out,
                                   struct error *err) {
    struct real *real = calloc(1, sizeof *real);
    CHECK(real != NULL, err, STATUS_MEMORY, "out of memory for a benchmark");
    real->base = (struct checkpoint_trainee){
        .be = be,
        .rewind = rewind_real,
        .make_step = make_step,
        .save = save,
        .heard = heard,
        .load = load,
        .free = free_real,
    };
    set_options(real, options);
    enum status status = open_trainer(real, directory, err);
    if (status != STATUS_OK) {
        free_real(&real->base);
        return status;
    }
    *out = &real->base;
    return STATUS_OK;
}
