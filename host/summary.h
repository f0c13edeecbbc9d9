/* summary.h - what TensorBoard shows of a run: event files in train/ and validation/ of the model
 * directory, with the tags and x axes of Keras' TensorBoard callback and of Estimator.
 *
 *     tag                                    directory  x      when
 *     epoch_loss, epoch_accuracy             both       epoch  every epoch (Keras)
 *     epoch_learning_rate                    train      epoch  every epoch (Keras)
 *     evaluation_loss_vs_iterations, ...     validation step   every epoch (Keras)
 *     loss, accuracy                         train      step   --save-summary-steps (Estimator)
 *     loss, accuracy                         validation step   every epoch (Estimator's eval)
 *     global_step/sec                        train      step   --log-step-count-steps (Estimator)
 *     checkpoint/stall_us, durable_ms, bytes train      step   every save; one point per step
 *     <layer>/<weight>/histogram             train      epoch  --histogram-freq (Keras)
 *     options (Text), graph (Graphs)         train      -      at the start
 *
 * Epochs count from 0, steps from 1. `loss` of a step is the batch's, `accuracy` the mean of the
 * epoch so far, so that a restart changes neither.
 *
 * Every start opens files of its own. A resumed run first takes what lies behind the restored point
 * out of the earlier ones, also where it writes none, so that every step is there once; a run that
 * begins anew empties them, with a message (io/event_file.h).
 *
 * Events are a record, not the state: nothing here fails. What cannot be written ends the event
 * files of this start with one warning, and training goes on. They are buffered, and written, one
 * write per file: before every save is asked for, after every epoch, at the end, and otherwise
 * SUMMARY_FLUSH_SECONDS after the last time. So the death of the process loses no event of a step
 * that a checkpoint holds, but what became of the latest saves; the next start computes the rest
 * again. They are never synced: a power cut may take the latest, as of history.jsonl.
 *
 * Usage:
 *     summary = summary_open(&setup);                            NULL is fine from here on
 *     if (summary_is_due(summary, step)) summary_step(summary, step, loss, accuracy);
 *     summary_tick(summary);
 *     summary_close(summary);
 *
 * Files: summary.c, summary_graph.c (the nodes of the graph).
 *
 * THREADS: the trainer's thread.
 */
#ifndef CAIRN_HOST_SUMMARY_H
#define CAIRN_HOST_SUMMARY_H

#include <stdbool.h>
#include <stdint.h>

#include "host/model.h"
#include "host/options.h"
#include "host/progress.h"
#include "host/run_state.h"
#include "io/event_file.h"
#include "io/writer.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { SUMMARY_FLUSH_SECONDS = 10 };

struct summary;

/* All borrowed; only `files` and `progress` beyond the call. */
struct summary_setup {
    const struct file_table *files;
    struct progress *progress; /* for the one warning */
    const char *directory;     /* the model directory */
    const struct options *options;
    const struct text *options_text; /* of options_write */
    const struct model *model;       /* its shape */
    const struct run_state *state;   /* where the run stands */
    bool resumed, has_validation;
};

/* Take earlier event files back and open new ones. NULL when --tensorboard is off, or, with a
 * warning, when memory runs out; where files cannot be made nothing is written, with a warning.
 * Every function below takes NULL and does nothing. */
struct summary *summary_open(const struct summary_setup *setup);

/* Does --save-summary-steps ask for a point at this step? */
bool summary_is_due(const struct summary *summary, uint64_t step);
void summary_step(struct summary *summary, uint64_t step, double loss, double accuracy);

/* global_step/sec of the `elapsed` seconds since the last call, or since the start. */
void summary_rate(struct summary *summary, uint64_t step, double elapsed);

/* An epoch (from 0) that ended at `step`, and, where they are due, histograms of the weights. */
void summary_epoch(struct summary *summary, uint64_t epoch, uint64_t step,
                   const struct epoch_row *row, struct model *model);

/* A save that went well. */
void summary_save(struct summary *summary, const struct save_result *result);

/* Write what is buffered: now, or if it is time. */
void summary_flush(struct summary *summary);
void summary_tick(struct summary *summary);

void summary_close(struct summary *summary);

/* ---- summary_graph.c ---- */

/* The model's graph, with its sizes. */
void summary_add_graph(struct event_file *file, const struct model *model);

/* "lstm.weight_ih_l0" as "lstm/weight_ih_l0": TensorBoard groups by the part before the slash. */
void summary_node_name(const char *tensor, char *out, size_t capacity);

#ifdef __cplusplus
}
#endif
#endif
