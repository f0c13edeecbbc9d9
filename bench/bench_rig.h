/* bench_rig.h - a model and one batch on a backend, and the operations of a step one at a time.
 *
 * Every function that takes `void *rig` fits bench_clock's `enqueue` and `finish`: it enqueues and
 * returns. bench_rig_create has run one whole chain of operations, so that each finds what it
 * reads; none consumes its input but lstm_backward, which is therefore timed together with
 * lstm_forward.
 *
 * Usage:
 *     struct bench_rig *rig;
 *     TRY(bench_rig_create(be, &shape, lengths, sequences, 16, &rig, err));
 *     TRY(bench_rig_forward(rig, err));
 *     TRY(bench_rig_finish(rig, err));
 *     bench_rig_free(rig);
 *
 * THREADS: the caller's. The backend must outlive the rig.
 */
#ifndef CAIRN_BENCH_BENCH_RIG_H
#define CAIRN_BENCH_BENCH_RIG_H

#include <stdint.h>

#include "host/model.h"

#ifdef __cplusplus
extern "C" {
#endif

struct bench_rig {
    struct backend *be;
    struct model *model;
    struct batch_view batch;  /* host arrays; tokens in device memory */
    struct batch_view placed; /* all in device memory */
    uint32_t words;           /* different ones among the tokens */
    /* Operations in one call of bench_rig_head and bench_rig_update, which are short: recorded
     * together where the backend records, so that not the launches are timed. */
    unsigned repeated;
    uint64_t step;
    struct backend_recording *head, *update; /* of bench_rig_head, bench_rig_update */
};

/* A model of `shape` with initial weights, and a batch of `sequences` reviews with these lengths
 * [sequences], descending. Their words follow Zipf's law, a quarter of them is the unknown word, as
 * with IMDB and 1000 words. The same on every machine. */
MUST_USE enum status bench_rig_create(struct backend *be, const struct model_shape *shape,
                                      const uint32_t *lengths, uint32_t sequences,
                                      unsigned repeated, struct bench_rig **out, struct error *err);
void bench_rig_free(struct bench_rig *rig); /* NULL is fine */

/* lstm_forward that stores what backward needs; and without. */
MUST_USE enum status bench_rig_forward(void *rig, struct error *err);
MUST_USE enum status bench_rig_inference(void *rig, struct error *err);
MUST_USE enum status bench_rig_forward_backward(void *rig, struct error *err);
/* After forward and backward. */
MUST_USE enum status bench_rig_embedding_grad(void *rig, struct error *err);
/* `repeated` times: head_forward_backward; global_norm and adam_step at rate 0. */
MUST_USE enum status bench_rig_head(void *rig, struct error *err);
MUST_USE enum status bench_rig_update(void *rig, struct error *err);
/* model_train_step: recorded where the backend was created with `graph`. */
MUST_USE enum status bench_rig_step(void *rig, struct error *err);

/* Block until everything has run. */
MUST_USE enum status bench_rig_finish(void *rig, struct error *err);

#ifdef __cplusplus
}
#endif
#endif
