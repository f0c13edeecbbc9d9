/* bench_train_run.h - what `cairn train` does between the start of an epoch and its last update,
 * without progress, history and callbacks: batches from the batcher's thread, training steps, sums,
 * snapshots and the checkpoint writer.
 *
 * Usage:
 *     TRY(bench_train_run_open(options, be, &run, err));
 *     TRY(bench_train_run_work(run, 0, &work, err));         what epoch 0 has to do
 *     TRY(bench_train_run_pass(run, 0, false, &pass, err));  does it
 *     TRY(bench_train_run_evaluate(run, &seconds, err));
 *     bench_train_run_close(run);
 *
 * THREADS: the caller's is the trainer's. The backend must outlive the run.
 */
#ifndef CAIRN_BENCH_BENCH_TRAIN_RUN_H
#define CAIRN_BENCH_BENCH_TRAIN_RUN_H

#include <stdbool.h>
#include <stdint.h>

#include "host/corpus.h"
#include "host/model.h"
#include "host/options.h"

#ifdef __cplusplus
extern "C" {
#endif

struct bench_train_run;

/* Read the data, make model, batcher and writer; checkpoints go to a fresh directory under TMPDIR.
 * The statuses of `cairn train`. */
MUST_USE enum status bench_train_run_open(const struct options *options, struct backend *be,
                                          struct bench_train_run **out, struct error *err);
/* Removes the directory as well. NULL is fine. */
void bench_train_run_close(struct bench_train_run *run);

const struct corpora *bench_train_run_corpora(const struct bench_train_run *run);
const struct model_shape *bench_train_run_shape(const struct bench_train_run *run);
double bench_train_run_load_seconds(const struct bench_train_run *run);

/* What a pass has to do: one epoch, or its first --steps batches.
 *
 * Floating-point operations, a multiply-add as two, elementwise work left out:
 *   recurrence: forward h W_hh 8 H^2, backward dh and dW_hh 16 H^2, so 24 H^2 per token and
 *               direction
 *   words:      W_ih E + b once for every distinct word of a batch, dE and dW_ih: 24 E H per distinct
 *               word and direction; what a product per token would need is not counted
 *   head:       dense and output, forward and twice backward: 12 D H + 6 D per example */
struct bench_train_work {
    uint64_t steps, examples, tokens;
    uint64_t words; /* distinct words of each batch, summed over the batches */
    double recurrence, word_products, head; /* operations */
    double
        order_seconds; /* putting the epoch in order, as the batcher's thread does at its start */
};
MUST_USE enum status bench_train_run_work(struct bench_train_run *run, uint64_t epoch,
                                          struct bench_train_work *out, struct error *err);

struct bench_train_pass {
    double seconds;       /* from the request for the first batch until the last update has run */
    double batch_seconds; /* of that: waiting for batches */
    double save_seconds;  /* of that: saves, and updates that waited for their copies */
    uint64_t saves;       /* that were accepted */
    uint64_t skipped;     /* that were due while both snapshots were taken */
    double save_seconds_max; /* the longest of them */
};

/* Train through `epoch`; the model goes on from where it stands. A save is due as
 * --save-checkpoints-steps says and, with `save_at_end`, after the last step; none is skipped there.
 * The writer has come to rest on return. STATUS_NONFINITE when the loss is no number, STATUS_STOPPED
 * on a stop signal. Blocking. */
MUST_USE enum status bench_train_run_pass(struct bench_train_run *run, uint64_t epoch,
                                          bool save_at_end, struct bench_train_pass *out,
                                          struct error *err);

/* A few steps and an evaluation, so that no page is touched for the first time in a pass. */
MUST_USE enum status bench_train_run_warm_up(struct bench_train_run *run, struct error *err);

/* Evaluate on the validation data, which there must be; blocking. */
MUST_USE enum status bench_train_run_evaluate(struct bench_train_run *run, double *seconds,
                                              struct error *err);

#ifdef __cplusplus
}
#endif
#endif
