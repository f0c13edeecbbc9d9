#include "bench/bench_train_run.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/bench_clock.h"
#include "host/base/stop.h"
#include "host/batcher.h"
#include "host/evaluator.h"
#include "host/tokenizer.h"
#include "io/writer.h"

enum { WARM_UP_STEPS = 20 };
enum { PARTS = 3, SOURCES = PARTS * MODEL_TENSORS + 1 };

struct bench_train_run {
    const struct options *options;
    struct backend *be;
    struct corpora corpora;
    double load_seconds;
    struct batcher *batcher;
    struct model *model;
    void *tokens; /* device */
    struct evaluator *evaluator;
    char directory[FILE_PATH_CAPACITY]; /* "" until it is made */
    struct store *store;
    struct writer *writer;
    struct snapshot_source sources[SOURCES];
    size_t source_count;
    uint64_t step;          /* of the model: updates so far */
    double settled_seconds; /* what updates have waited for copies so far */
    double stall_seconds;   /* of the latest save that was accepted */
};

const struct corpora *bench_train_run_corpora(const struct bench_train_run *run) {
    return &run->corpora;
}

const struct model_shape *bench_train_run_shape(const struct bench_train_run *run) {
    return &run->model->shape;
}

double bench_train_run_load_seconds(const struct bench_train_run *run) {
    return run->load_seconds;
}

/* ---- open --------------------------------------------------------------------------------- */

static enum status load_data(struct bench_train_run *run, struct error *err) {
    struct corpus_request request = {.files = &file_posix,
                                     .path = run->options->data,
                                     .validation_path = "",
                                     .vocabulary_limit = run->options->vocabulary_size,
                                     .max_length = run->options->max_length,
                                     .strip_html = run->options->strip_html};
    double begin = bench_clock_now();
    TRY(corpus_load_training(&request, &run->corpora, err));
    run->load_seconds = bench_clock_now() - begin;
    return STATUS_OK;
}

/* The larger of both, as a training run has it. */
static void include_validation(const struct corpus *validation, struct batch_limits *limits) {
    struct batch_limits needed;
    evaluator_limits(validation, limits->total_tokens, &needed);
    limits->total_tokens = needed.total_tokens;
    limits->sequences = limits->sequences > needed.sequences ? limits->sequences : needed.sequences;
    limits->longest = limits->longest > needed.longest ? limits->longest : needed.longest;
}

static enum status create_model(struct bench_train_run *run, struct error *err) {
    const struct options *options = run->options;
    const struct corpus *validation = &run->corpora.validation;
    struct model_shape shape = {.vocabulary = vocabulary_size(run->corpora.vocabulary),
                                .embedding = (uint32_t)options->embedding_size,
                                .hidden = (uint32_t)options->hidden_size,
                                .dense = (uint32_t)options->dense_size};
    struct model_options model_options = {.limits = {.training = true},
                                          .training = true,
                                          .learning_rate = options->learning_rate,
                                          .clip_norm = options->clip_norm};
    struct batch_limits *limits = &model_options.limits;
    batcher_limits(run->batcher, &limits->sequences, &limits->total_tokens, &limits->longest);
    if (validation->examples > 0) {
        include_validation(validation, limits);
    }
    TRY(model_create(run->be, &shape, &model_options, &run->model, err));
    TRY(model_initialise(run->model, options->seed, err));
    TRY(evaluator_place_tokens(run->model, &run->corpora.train, &run->tokens, err));
    return validation->examples == 0 ? STATUS_OK
                                     : evaluator_create(run->model, validation,
                                                        validation->examples, &run->evaluator, err);
}

/* Weights, both moments and the vocabulary: all that is large in a checkpoint. */
static void list_sources(struct bench_train_run *run) {
    const struct model *model = run->model;
    float *const parts[PARTS] = {model->weights, model->m, model->v};
    const char *const prefixes[PARTS] = {"", "adam.m.", "adam.v."};
    for (size_t p = 0; p < PARTS; p++) {
        struct tensor_view views[MODEL_TENSORS];
        model_views(model, prefixes[p], parts[p], views);
        for (size_t i = 0; i < MODEL_TENSORS; i++) {
            run->sources[run->source_count++] =
                (struct snapshot_source){views[i], SNAPSHOT_DEVICE, .steady = true};
        }
    }
    size_t bytes;
    const char *words = vocabulary_text(run->corpora.vocabulary, &bytes);
    uint64_t length = bytes;
    run->sources[run->source_count++] = (struct snapshot_source){
        tensor_make("vocabulary", DTYPE_U8, (void *)(uintptr_t)words, 1, &length),
        SNAPSHOT_CONSTANT, false};
}

static enum status make_directory(struct bench_train_run *run, struct error *err) {
    const char *base = getenv("TMPDIR");
    char path[FILE_PATH_CAPACITY];
    bool fits = file_join_path(path, sizeof path, base != NULL && base[0] != '\0' ? base : "/tmp",
                               "cairn-bench-XXXXXX");
    CHECK(fits && mkdtemp(path) != NULL, err, STATUS_OUTPUT,
          "cannot create a temporary directory for checkpoints (%s): set TMPDIR to one that can be "
          "written",
          fits ? strerror(errno) : "the path is too long");
    memcpy(run->directory, path, sizeof path);
    return STATUS_OK;
}

static void settle(void *writer) {
    writer_settle(writer);
}

static enum status create_writer(struct bench_train_run *run, struct error *err) {
    struct error warning = {
        0}; /* of a file system without locks: nobody else knows the directory */
    TRY(make_directory(run, err));
    TRY(store_open(&file_posix, run->directory, &(struct store_options){.keep_max = 1}, &run->store,
                   &warning, err));
    list_sources(run);
    struct writer_options options = {.files = &file_posix,
                                     .store = run->store,
                                     .compression_level = (int)run->options->compression_level,
                                     .compression_threads =
                                         (unsigned)run->options->compression_threads,
                                     .busy = WRITER_BUSY_SKIP,
                                     .host_capacity = 64 * 1024};
    TRY(writer_create(&options, run->be, run->model->state, run->model->state_bytes, &run->writer,
                      err));
    model_before_change(run->model, settle, run->writer);
    return STATUS_OK;
}

static enum status open_parts(struct bench_train_run *run, struct error *err) {
    struct batcher_options options = batcher_options_of(run->options);
    TRY(load_data(run, err));
    TRY(batcher_create(&options, &run->corpora.train, &run->batcher, err));
    TRY(create_model(run, err));
    return create_writer(run, err);
}

enum status bench_train_run_open(const struct options *options, struct backend *be,
                                 struct bench_train_run **out, struct error *err) {
    struct bench_train_run *run = calloc(1, sizeof *run);
    CHECK(run != NULL, err, STATUS_MEMORY, "out of memory for a training run");
    run->options = options;
    run->be = be;
    enum status status = open_parts(run, err);
    if (status != STATUS_OK) {
        bench_train_run_close(run);
        return status;
    }
    *out = run;
    return STATUS_OK;
}

/* ---- close -------------------------------------------------------------------------------- */

static int remove_file(void *directory, const char *name) {
    char path[FILE_PATH_CAPACITY];
    if (file_join_path(path, sizeof path, directory, name)) {
        unlink(path);
    }
    return 0;
}

void bench_train_run_close(struct bench_train_run *run) {
    if (run == NULL) {
        return;
    }
    writer_free(run->writer);
    store_close(run->store);
    if (run->directory[0] != '\0') {
        file_posix.list(file_posix.context, run->directory, remove_file, run->directory);
        rmdir(run->directory);
    }
    evaluator_free(run->evaluator);
    batcher_free(run->batcher);
    if (run->model != NULL) {
        evaluator_release_tokens(run->model, run->tokens);
        model_free(run->model);
    }
    corpora_free(&run->corpora);
    free(run);
}

/* ---- what there is to do ------------------------------------------------------------------ */

static uint64_t steps_of(const struct bench_train_run *run) {
    uint64_t epoch = batcher_steps_per_epoch(run->batcher), asked = run->options->steps;
    return asked > 0 && asked < epoch ? asked : epoch;
}

static uint32_t token_at(const struct corpus *corpus, uint64_t at) {
    return corpus->token_bytes == 2 ? ((const uint16_t *)corpus->tokens)[at]
                                    : ((const uint32_t *)corpus->tokens)[at];
}

/* Tokens and distinct words of one batch, `order` [count]; `seen` [V] says in which batch, from 1,
 * a word was met last. */
static void count_batch(const struct corpus *corpus, const uint32_t *order, uint64_t count,
                        uint64_t batch, uint64_t *seen, struct bench_train_work *work) {
    for (uint64_t i = 0; i < count; i++) {
        uint64_t at = corpus->first[order[i]], end = corpus->first[order[i] + 1];
        work->tokens += end - at;
        for (; at < end; at++) {
            uint32_t word = token_at(corpus, at);
            work->words += seen[word] != batch;
            seen[word] = batch;
        }
    }
    work->examples += count;
}

static void count_operations(const struct model_shape *shape, struct bench_train_work *work) {
    double E = shape->embedding, H = shape->hidden, D = shape->dense;
    work->recurrence = 2.0 * 24.0 * H * H * (double)work->tokens;
    work->word_products = 2.0 * 24.0 * E * H * (double)work->words;
    work->head = (12.0 * D * H + 6.0 * D) * (double)work->examples;
}

enum status bench_train_run_work(struct bench_train_run *run, uint64_t epoch,
                                 struct bench_train_work *out, struct error *err) {
    const struct corpus *corpus = &run->corpora.train;
    struct batcher_options options = batcher_options_of(run->options);
    *out = (struct bench_train_work){.steps = steps_of(run)};
    uint32_t *order = malloc(corpus->examples * sizeof *order);
    uint64_t *starts = malloc((batcher_steps_per_epoch(run->batcher) + 1) * sizeof *starts);
    uint64_t *seen = calloc(run->model->shape.vocabulary, sizeof *seen);
    enum status status = STATUS_OK;
    if (order == NULL || starts == NULL || seen == NULL) {
        status = error_set(err, STATUS_MEMORY,
                           "out of memory for the order of %" PRIu64 " examples", corpus->examples);
    }
    if (status == STATUS_OK) {
        double begin = bench_clock_now();
        status = batcher_order(&options, corpus, epoch, order, starts, err);
        out->order_seconds = bench_clock_now() - begin;
    }
    for (uint64_t i = 0; status == STATUS_OK && i < out->steps; i++) {
        count_batch(corpus, order + starts[i], starts[i + 1] - starts[i], i + 1, seen, out);
    }
    count_operations(&run->model->shape, out);
    free(order);
    free(starts);
    free(seen);
    return status;
}

/* ---- a pass ------------------------------------------------------------------------------- */

static enum status save(struct bench_train_run *run, bool must, struct bench_train_pass *pass,
                        struct error *err) {
    struct save_request request; /* some 17 KB, of which only what is used is written */
    char name[64], step[24];
    enum save_outcome outcome;
    double begin = bench_clock_now();
    request.step = run->step;
    request.must = must;
    request.after_id = 0;
    request.target_count = request.metadata_count = 1;
    snprintf(step, sizeof step, "%" PRIu64, run->step);
    request.metadata[0] = (struct metadata_pair){"step", step};
    for (size_t i = 0; i < WRITER_TARGETS_MAX; i++) {
        request.targets[i].ring = request.targets[i].weights_only = false;
    }
    store_checkpoint_name(run->step, name);
    request.targets[0].ring = true;
    CHECK(file_join_path(request.targets[0].path, sizeof request.targets[0].path, run->directory,
                         name),
          err, STATUS_OUTPUT, "TMPDIR: the path of %s is too long", name);
    TRY(writer_save(run->writer, run->sources, run->source_count, &request, &outcome, err));
    double seconds = bench_clock_now() - begin;
    pass->save_seconds += seconds;
    if (outcome == SAVE_ACCEPTED) {
        pass->saves++;
        pass->save_seconds_max = fmax(pass->save_seconds_max, seconds);
        run->stall_seconds = seconds;
    } else {
        pass->skipped++;
    }
    return STATUS_OK;
}

/* What an update waited for the copies of the latest save is a part of what that one took. */
static void add_settled(struct bench_train_run *run, struct bench_train_pass *pass) {
    double before = run->settled_seconds;
    run->settled_seconds = writer_settled(run->writer).seconds;
    run->stall_seconds += run->settled_seconds - before;
    pass->save_seconds += run->settled_seconds - before;
    pass->save_seconds_max = fmax(pass->save_seconds_max, run->stall_seconds);
}

/* What has become of the saves; the latest failure ends the benchmark. */
static enum status collect_saves(struct bench_train_run *run, struct error *err) {
    struct save_result result;
    enum status status = STATUS_OK;
    while (writer_poll(run->writer, &result)) {
        if (result.status != STATUS_OK) {
            status = error_set(err, result.status, "checkpoint of step %" PRIu64 " not saved: %s",
                               result.step, result.message);
        }
    }
    return status;
}

static enum status check_sums(struct bench_train_run *run, bool exact, struct error *err) {
    struct pass_sums sums;
    uint64_t step;
    TRY(model_poll_sums(run->model, exact, &sums, &step, err));
    CHECK(isfinite(sums.loss + sums.batch_loss), err, STATUS_NONFINITE,
          "the loss of step %" PRIu64 " is not a finite number", step);
    return STATUS_OK;
}

static enum status train_step(struct bench_train_run *run, struct batch *batch, struct error *err) {
    batch->view.tokens = run->tokens;
    TRY(model_train_step(run->model, &batch->view, run->step + 1, err));
    run->step++;
    return STATUS_OK;
}

static enum status train_steps(struct bench_train_run *run, uint64_t steps, bool save_at_end,
                               struct bench_train_pass *pass, struct error *err) {
    uint64_t every = run->options->save_checkpoints_steps;
    for (uint64_t i = 1; i <= steps; i++) {
        CHECK(stop_signal() == 0, err, STATUS_STOPPED, "stopped by a signal");
        double begin = bench_clock_now();
        struct batch *batch = batcher_next(run->batcher);
        pass->batch_seconds += bench_clock_now() - begin;
        enum status status = train_step(run, batch, err);
        batcher_recycle(run->batcher, batch);
        TRY(status);
        add_settled(run, pass);
        TRY(check_sums(run, i == steps, err));
        bool last = save_at_end && i == steps;
        if (last || (every > 0 && i % every == 0)) {
            TRY(save(run, last, pass, err));
        }
        TRY(collect_saves(run, err));
    }
    writer_settle(run->writer); /* as the step after the last one would */
    add_settled(run, pass);
    run->stall_seconds = 0;
    return run->be->table->stream_synchronize(run->be, BACKEND_STREAM_COMPUTE, err);
}

static enum status run_pass(struct bench_train_run *run, uint64_t epoch, uint64_t steps,
                            bool save_at_end, struct bench_train_pass *out, struct error *err) {
    *out = (struct bench_train_pass){0};
    TRY(model_write_sums(run->model, &(struct pass_sums){0}, err));
    double begin = bench_clock_now();
    TRY(batcher_start(run->batcher, epoch, 0, err));
    enum status status = train_steps(run, steps, save_at_end, out, err);
    out->seconds = bench_clock_now() - begin;
    writer_drain(run->writer);
    TRY(status);
    return collect_saves(run, err);
}

enum status bench_train_run_pass(struct bench_train_run *run, uint64_t epoch, bool save_at_end,
                                 struct bench_train_pass *out, struct error *err) {
    return run_pass(run, epoch, steps_of(run), save_at_end, out, err);
}

enum status bench_train_run_warm_up(struct bench_train_run *run, struct error *err) {
    struct bench_train_pass pass;
    double seconds;
    uint64_t steps = steps_of(run);
    TRY(run_pass(run, 0, steps < WARM_UP_STEPS ? steps : WARM_UP_STEPS, true, &pass, err));
    return run->evaluator == NULL ? STATUS_OK : bench_train_run_evaluate(run, &seconds, err);
}

enum status bench_train_run_evaluate(struct bench_train_run *run, double *seconds,
                                     struct error *err) {
    struct evaluation evaluation;
    double begin = bench_clock_now();
    TRY(evaluator_run(run->evaluator, NULL, &evaluation, err));
    *seconds = bench_clock_now() - begin;
    return STATUS_OK;
}
