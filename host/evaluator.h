/* evaluator.h - loss and accuracy of the current weights over a corpus: validation and `evaluate`.
 *
 * Batches are drawn in order of length, whatever suits the kernels; the results are put back in
 * base order and summed there in double precision, so that neither batch size nor threads change a
 * bit.
 *
 * Usage:
 *     TRY(evaluator_create(model, &corpus, corpus.examples, &evaluator, err));
 *     TRY(evaluator_run(evaluator, &progress, &result, err));
 *     evaluator_free(evaluator);
 *
 * THREADS: the trainer's thread. Model and corpus must outlive the evaluator.
 */
#ifndef CAIRN_HOST_EVALUATOR_H
#define CAIRN_HOST_EVALUATOR_H

#include <stdint.h>

#include "host/base/status.h"
#include "host/corpus.h"
#include "host/model.h"
#include "host/progress.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { EVALUATOR_BATCH = 256 };

struct evaluator;

struct evaluation {
    double loss, accuracy; /* means over the examples */
    uint64_t examples;
};

/* What the model's limits must allow for evaluation of `corpus` in batches of at most
 * EVALUATOR_BATCH sequences and `token_budget` tokens (one long sequence may exceed it). */
void evaluator_limits(const struct corpus *corpus, uint64_t token_budget, struct batch_limits *out);

/* The corpus' tokens where the device reads them: uploaded once, or the corpus' own array with
 * unified memory. Release with evaluator_release_tokens. */
MUST_USE enum status evaluator_place_tokens(struct model *model, const struct corpus *corpus,
                                            void **out, struct error *err);
void evaluator_release_tokens(struct model *model, void *tokens);

/* Over the first `examples` (> 0) examples in base order. Places the corpus' tokens on the device.
 */
MUST_USE enum status evaluator_create(struct model *model, const struct corpus *corpus,
                                      uint64_t examples, struct evaluator **out, struct error *err);

/* `progress` may be NULL. STATUS_STOPPED when a stop signal arrived (polled between batches).
 * Blocking. */
MUST_USE enum status evaluator_run(struct evaluator *evaluator, struct progress *progress,
                                   struct evaluation *out, struct error *err);

/* Logits only, in base order, into `logits` [examples]; labels are not looked at. Polls the stop
 * signal as well. Blocking. */
MUST_USE enum status evaluator_logits(struct evaluator *evaluator, float *logits,
                                      struct error *err);

void evaluator_free(struct evaluator *evaluator);

#ifdef __cplusplus
}
#endif
#endif
