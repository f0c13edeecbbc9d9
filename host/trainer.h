/* trainer.h - the loop: steps, epochs, validation, callbacks, saves, stops.
 *
 * Data flow of one step:
 *     batcher thread --batch--> model_train_step --> sums --> history, progress
 *                                     |
 *                        save due? writer_save: snapshot of the state buffer + run_state by value
 * Nothing here waits for the disk except the first, best, last and stop saves when both slots are
 * busy, and the end of the run, which waits until everything is durable.
 *
 * Usage (cmd_train.c):
 *     TRY(trainer_create(&setup, &trainer, err));
 *     status = trainer_run(trainer, &outcome, err);
 *     trainer_free(trainer);
 *
 * THREADS: the main thread. It owns model, backend, history and progress; the writer
 * brings two threads of its own, the batcher one.
 */
#ifndef CAIRN_HOST_TRAINER_H
#define CAIRN_HOST_TRAINER_H

#include <stdbool.h>
#include <stdint.h>

#include "host/base/status.h"
#include "host/corpus.h"
#include "host/loading.h"
#include "host/options.h"
#include "host/progress.h"
#include "host/run_state.h"
#include "io/store.h"
#include "io/writer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* All borrowed: they outlive the trainer. */
struct trainer_setup {
    const struct options *options;
    struct backend *be;
    const struct corpora *corpora;
    const struct vocabulary *vocabulary;
    const struct text_rules *rules;
    struct store *store;
    const struct file_table *files;
    struct progress *progress;
    const struct checkpoint
        *resumed;             /* whole training state to go on from, checked by resume.h; or NULL */
    const char *resumed_path; /* "" for a fresh run */
    bool resumed_in_ring;     /* that file is a checkpoint of the store's ring */
    bool
        supersede; /* --resume went back: newer checkpoints are moved away once training can start */
    const char *supersede_best;         /* so is the best model, and this is said; NULL: it stays */
    bool best_unusable;                 /* of the best model so far there is no good file */
    bool monitor_changed;               /* resume.h: forget the best values, begin to count anew */
    const struct checkpoint *init_from; /* weights to begin with; or NULL */
    const char *run_id;                 /* kept over restarts */
};

enum trainer_end {
    TRAINER_END_EPOCHS,
    TRAINER_END_STEPS,
    TRAINER_END_EARLY_STOPPING,
    TRAINER_END_SIGNAL,
    TRAINER_END_NONFINITE,
    TRAINER_END_SAVE_FAILED /* --checkpoint-on-error stop */
};

struct trainer_outcome {
    enum trainer_end end;
    uint64_t step, epoch;
    struct writer_totals saves;
    uint64_t save_failures; /* each was named when it happened */
    bool final_save_failed; /* the state at the end is not durable */
};

struct trainer;

/* Model, batcher, evaluator, writer and history of the run, and its state: fresh, from init_from,
 * or resumed. STATUS_USAGE for a monitor that needs validation data when there are none, or a bad
 * --checkpoint-filepath. */
MUST_USE enum status trainer_create(const struct trainer_setup *setup, struct trainer **out,
                                    struct error *err);

/* Train until an end, save, wait until it is durable, report. STATUS_OK for every orderly end, also
 * by a signal (see outcome->end); STATUS_NONFINITE for that end; STATUS_IO when saves failed,
 * unless a signal ended the run and its last state is durable; others as they come. */
MUST_USE enum status trainer_run(struct trainer *trainer, struct trainer_outcome *outcome,
                                 struct error *err);

void trainer_free(struct trainer *trainer);

#ifdef __cplusplus
}
#endif
#endif
