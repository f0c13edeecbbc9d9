#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "host/cmd.h"
#include "host/corpus.h"
#include "host/evaluator.h"
#include "host/loading.h"

/* Tokens of one evaluation batch: enough for the kernels, little enough for any memory. */
enum { TOKEN_BUDGET = 1 << 16 };

/* JSON has no NaN: text_append_json_double writes it as a string. */
static enum status print_result(const struct loaded *loaded, const struct evaluation *result,
                                struct error *err) {
    struct text line = {0};
    text_printf(&line, "{\"loss\":");
    text_append_json_double(&line, result->loss);
    text_printf(&line, ",\"accuracy\":");
    text_append_json_double(&line, result->accuracy);
    text_printf(&line, ",\"examples\":%" PRIu64 ",\"step\":", result->examples);
    if (loaded->has_step) {
        text_printf(&line, "%" PRIu64, loaded->step);
    } else {
        text_printf(&line, "null");
    }
    text_printf(&line, ",\"checkpoint\":");
    if (loaded->checkpoint != NULL) {
        text_append_json(&line, loaded->path, strlen(loaded->path));
    } else {
        text_printf(&line, "null");
    }
    text_printf(&line, "}\n");
    enum status status = STATUS_OK;
    if (line.failed) {
        status = error_set(err, STATUS_MEMORY, "no memory for the result");
    } else {
        fwrite(line.bytes, 1, line.size, stdout); /* main checks stdout at the end */
    }
    text_free(&line);
    return status;
}

static enum status evaluate(const struct options *options, const struct loaded *loaded,
                            const struct corpus *corpus, struct backend *be, struct error *err) {
    struct batch_limits limits;
    evaluator_limits(corpus, TOKEN_BUDGET, &limits);
    struct model *model;
    TRY(loading_create_model(loaded, be, &limits, &model, err));
    struct evaluator *evaluator = NULL;
    struct evaluation result;
    struct progress progress;
    progress_init(&progress, stderr, options->progress, options->verbose);
    enum status status = evaluator_create(model, corpus, corpus->examples, &evaluator, err);
    if (status == STATUS_OK) {
        status = evaluator_run(evaluator, &progress, &result, err);
        progress_finish(&progress);
    }
    evaluator_free(evaluator);
    model_free(model);
    TRY(status);
    return print_result(loaded, &result, err);
}

static enum status load_corpus(const struct options *options, const struct loaded *loaded,
                               struct corpus *corpus, struct error *err) {
    struct corpus_request request = {
        .files = &file_posix,
        .path = options->data,
        .vocabulary = loaded->vocabulary,
        .max_length = loaded->rules.max_length,
        .strip_html = loaded->rules.strip_html,
    };
    struct text notes = {0};
    enum status status = corpus_load_evaluation(&request, corpus, NULL, &notes, err);
    if (status == STATUS_OK && notes.size > 0) {
        fprintf(stderr, "Data: %s", notes.bytes);
    }
    text_free(&notes);
    return status;
}

enum status cmd_evaluate(const struct options *options, int *exit_code, struct error *err) {
    (void)exit_code;
    CHECK(options->data[0] != '\0', err, STATUS_USAGE, "--data PATH is missing");
    struct backend *be = NULL;
    struct loaded loaded = {0};
    struct corpus corpus = {0};
    enum status status = loading_open(options, &loaded, err);
    if (status == STATUS_OK) {
        status = loading_create_backend(options, loaded.shape.hidden, &be, err);
    }
    if (status == STATUS_OK) {
        status = load_corpus(options, &loaded, &corpus, err);
    }
    if (status == STATUS_OK) {
        status = evaluate(options, &loaded, &corpus, be, err);
    }
    corpus_free(&corpus);
    loading_close(&loaded);
    if (be != NULL) {
        be->table->free(be);
    }
    return status;
}
