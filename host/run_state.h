/* run_state.h - everything about a run that is not a weight: where it stands and what its callbacks
 * know.
 *
 * Deterministic by construction: a pure function of data, options and seed at a given point of
 * training. Times, hosts and counts of restarts are not in here; they go to the checkpoint's
 * metadata. One table (run_state.c) lists every field with its tensor name; writing and reading
 * both walk over it, so a field cannot be saved and forgotten at the restore.
 *
 * Points of a run:
 *     RUN_TRAINING   batches 0 .. position-1 of `epoch` have been trained; `position` comes next
 *     RUN_EPOCH_END  all batches of `epoch` have been trained; its validation and callbacks are next
 * After the callbacks the state is RUN_TRAINING of epoch + 1 at position 0.
 *
 * Usage:
 *     n = run_state_sources(&state, sources);           views into `state`, copied by value
 *     TRY(run_state_read(&state, checkpoint, err));
 *
 * THREADS: the trainer's thread.
 */
#ifndef CAIRN_HOST_RUN_STATE_H
#define CAIRN_HOST_RUN_STATE_H

#include <stddef.h>
#include <stdint.h>

#include "host/base/status.h"
#include "host/callbacks.h"
#include "io/checkpoint.h"
#include "io/history.h"
#include "io/snapshot.h"

#ifdef __cplusplus
extern "C" {
#endif

enum run_phase { RUN_TRAINING = 0, RUN_EPOCH_END = 1 };

/* All fields are int64_t or double, because they are stored as such (I64 and F64 tensors of rank
 * 0). */
struct run_state {
    int64_t step;     /* optimiser steps done */
    int64_t epoch;    /* zero-based */
    int64_t position; /* batches of the epoch done */
    int64_t phase;    /* enum run_phase */
    int64_t seed;     /* with epoch and position this is the whole state of the random numbers */

    int64_t data_fingerprint;       /* bits of corpus.fingerprint */
    int64_t validation_fingerprint; /* 0 without validation data */

    int64_t stopping_has_best, stopping_wait, stopping_best_epoch, stopping_has_weights;
    int64_t stopping_stopped, stopping_stopped_epoch;
    double stopping_best;

    int64_t best_has_best, best_epoch, best_step;
    double best_value;

    int64_t save_freq_since_last; /* batches since the last --save-freq N save */
    int64_t save_freq_has_best;   /* --save-best-only with an integer --save-freq */
    double save_freq_best;
    int64_t restored_best; /* 1: the weights are the best ones, the last ones are under last.* */

    /* Not in the table: a tensor of its own, history.epochs [rows, 4]. */
    struct epoch_row *rows; /* owned */
    size_t row_count, row_capacity;
};

enum { RUN_STATE_TENSORS = 24 }; /* upper bound of what run_state_sources writes */

/* A fresh run. */
void run_state_init(struct run_state *state, uint64_t seed);
void run_state_deinit(struct run_state *state);

/* Append a finished epoch. STATUS_MEMORY. */
MUST_USE enum status run_state_add_row(struct run_state *state, const struct epoch_row *row,
                                       struct error *err);

/* The callbacks' structs, out of and into the fields. */
struct early_stopping run_state_stopping(const struct run_state *state);
void run_state_set_stopping(struct run_state *state, const struct early_stopping *stopping);
struct best_tracker run_state_best(const struct run_state *state);
void run_state_set_best(struct run_state *state, const struct best_tracker *best);

/* Sources for a snapshot into `out` [RUN_STATE_TENSORS]; returns their number. Data point into
 * `state`. */
size_t run_state_sources(struct run_state *state, struct snapshot_source *out);

/* Fill `state` from a checkpoint. STATUS_MISFIT naming the tensor that is missing or has another
 * type or shape, STATUS_CORRUPT for a value outside its range. */
MUST_USE enum status run_state_read(struct run_state *state, const struct checkpoint *checkpoint,
                                    struct error *err);

#ifdef __cplusplus
}
#endif
#endif
