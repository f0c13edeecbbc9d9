#include "host/evaluator.h"

#include <stdlib.h>
#include <string.h>

#include "host/base/stop.h"
#include "host/batcher.h"

struct evaluator {
    struct model *model;
    const struct corpus *corpus;
    uint64_t examples;
    void *tokens;     /* device; the corpus' own array with unified memory */
    uint32_t *order;  /* [examples] by descending length */
    double *losses;   /* [examples] in base order */
    uint8_t *correct; /* [examples] */
    uint64_t first[EVALUATOR_BATCH];
    uint32_t length[EVALUATOR_BATCH];
    uint8_t label[EVALUATOR_BATCH];
    float logits[EVALUATOR_BATCH];
    double batch_losses[EVALUATOR_BATCH];
};

void evaluator_limits(const struct corpus *corpus, uint64_t token_budget,
                      struct batch_limits *out) {
    *out = (struct batch_limits){
        .sequences = EVALUATOR_BATCH,
        .total_tokens = token_budget > corpus->longest ? token_budget : corpus->longest,
        .longest = corpus->longest,
    };
}

enum status evaluator_place_tokens(struct model *model, const struct corpus *corpus, void **out,
                                   struct error *err) {
    struct backend *be = model->be;
    if (be->unified_memory) {
        *out = corpus->tokens;
        return STATUS_OK;
    }
    size_t bytes = (size_t)corpus->token_count * corpus->token_bytes;
    TRY(be->table->device_alloc(be, bytes > 0 ? bytes : 1, out, err));
    return model_upload(model, *out, corpus->tokens, bytes, err);
}

void evaluator_release_tokens(struct model *model, void *tokens) {
    if (!model->be->unified_memory) {
        model->be->table->device_free(model->be, tokens);
    }
}

enum status evaluator_create(struct model *model, const struct corpus *corpus, uint64_t examples,
                             struct evaluator **out, struct error *err) {
    struct evaluator *evaluator = calloc(1, sizeof *evaluator);
    CHECK(evaluator != NULL, err, STATUS_MEMORY, "no memory for an evaluation");
    evaluator->model = model;
    evaluator->corpus = corpus;
    evaluator->examples = examples;
    size_t count = (size_t)examples;
    evaluator->order = malloc(count * sizeof *evaluator->order);
    evaluator->losses = malloc(count * sizeof *evaluator->losses);
    evaluator->correct = malloc(count);
    enum status status = STATUS_OK;
    if (evaluator->order == NULL || evaluator->losses == NULL || evaluator->correct == NULL) {
        status = error_set(err, STATUS_MEMORY, "no memory to evaluate %llu examples",
                           (unsigned long long)examples);
    } else {
        for (size_t i = 0; i < count; i++) {
            evaluator->order[i] = (uint32_t)i;
        }
        batcher_sort_by_length(corpus, evaluator->order, count);
        status = evaluator_place_tokens(model, corpus, &evaluator->tokens, err);
    }
    if (status != STATUS_OK) {
        evaluator_free(evaluator);
        return status;
    }
    *out = evaluator;
    return STATUS_OK;
}

/* Fill the next batch from order[at]: as many sequences as fit; returns their number. */
static uint32_t fill_batch(struct evaluator *evaluator, uint64_t at, struct batch_view *batch) {
    const struct corpus *corpus = evaluator->corpus;
    uint64_t budget = evaluator->model->options.limits.total_tokens, tokens = 0;
    uint32_t limit = evaluator->model->options.limits.sequences, count = 0;
    limit = limit < EVALUATOR_BATCH ? limit : EVALUATOR_BATCH;
    while (count < limit && at + count < evaluator->examples) {
        uint32_t example = evaluator->order[at + count];
        uint64_t length = corpus->first[example + 1] - corpus->first[example];
        if (count > 0 && tokens + length > budget) {
            break;
        }
        evaluator->first[count] = corpus->first[example];
        evaluator->length[count] = (uint32_t)length;
        evaluator->label[count] = corpus->labels[example];
        tokens += length;
        count++;
    }
    *batch = (struct batch_view){
        .tokens = evaluator->tokens,
        .token_bytes = corpus->token_bytes,
        .sequences = count,
        .total_tokens = tokens,
        .first = evaluator->first,
        .length = evaluator->length,
        .label = evaluator->label,
    };
    return count;
}

/* The batch from order[done] on: its results into the evaluator's batch arrays. */
static enum status run_batch(struct evaluator *evaluator, uint64_t done, uint32_t *count,
                             struct error *err) {
    CHECK(stop_signal() == 0, err, STATUS_STOPPED, "stopped by a signal during an evaluation");
    struct batch_view batch;
    *count = fill_batch(evaluator, done, &batch);
    return model_forward(evaluator->model, &batch, evaluator->logits, evaluator->batch_losses, err);
}

enum status evaluator_run(struct evaluator *evaluator, struct progress *progress,
                          struct evaluation *out, struct error *err) {
    uint32_t count;
    for (uint64_t done = 0; done < evaluator->examples; done += count) {
        TRY(run_batch(evaluator, done, &count, err));
        for (uint32_t i = 0; i < count; i++) {
            uint32_t example = evaluator->order[done + i];
            evaluator->losses[example] = evaluator->batch_losses[i];
            evaluator->correct[example] =
                (evaluator->logits[i] > 0.0f) == (evaluator->label[i] != 0);
        }
        if (progress != NULL) {
            progress_validation(progress, done + count, evaluator->examples);
        }
    }
    double loss = 0.0, correct = 0.0;
    for (uint64_t i = 0; i < evaluator->examples; i++) {
        loss += evaluator->losses[i];
        correct += evaluator->correct[i];
    }
    double examples = (double)evaluator->examples;
    *out = (struct evaluation){loss / examples, correct / examples, evaluator->examples};
    return STATUS_OK;
}

enum status evaluator_logits(struct evaluator *evaluator, float *logits, struct error *err) {
    uint32_t count;
    for (uint64_t done = 0; done < evaluator->examples; done += count) {
        TRY(run_batch(evaluator, done, &count, err));
        for (uint32_t i = 0; i < count; i++) {
            logits[evaluator->order[done + i]] = evaluator->logits[i];
        }
    }
    return STATUS_OK;
}

void evaluator_free(struct evaluator *evaluator) {
    if (evaluator == NULL) {
        return;
    }
    evaluator_release_tokens(evaluator->model, evaluator->tokens);
    free(evaluator->order);
    free(evaluator->losses);
    free(evaluator->correct);
    free(evaluator);
}
