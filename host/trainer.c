#include "host/trainer.h"

#include <math.h>
#include <string.h>

#include "host/base/stop.h"
#include "host/signals.h"
#include "host/trainer_internal.h"

/* ---- one step -------------------------------------------------------------------------------- */

/* The running sums as far as the device has got; with `exact` those of the latest step, which may
 * wait for it. A loss that is no number is found here, on a GPU up to MODEL_STEPS_AHEAD steps late:
 * it stays in the sums. */
static enum status fetch_sums(struct trainer *trainer, bool exact, struct error *err) {
    uint64_t step;
    TRY(model_poll_sums(trainer->model, exact, &trainer->sums, &step, err));
    double loss = trainer->sums.loss + trainer->sums.batch_loss;
    CHECK(isfinite(loss), err, STATUS_NONFINITE,
          "the loss of step %llu is %s: training stops; the checkpoints saved before are kept. A "
          "smaller --learning-rate or a --clip-norm may help",
          (unsigned long long)step, isnan(loss) ? "not a number" : "infinite");
    return STATUS_OK;
}

/* --checkpoint-filepath with an integer --save-freq (Keras: batches counted over epochs). */
static enum status save_by_frequency(struct trainer *trainer, struct error *err) {
    const struct options *options = trainer->setup.options;
    struct run_state *state = &trainer->state;
    if (options->checkpoint_filepath[0] == '\0' || options->save_freq_batches == 0) {
        return STATUS_OK;
    }
    uint64_t since_last = (uint64_t)state->save_freq_since_last;
    bool due = save_freq_due(&since_last, 1, options->save_freq_batches);
    state->save_freq_since_last = (int64_t)since_last;
    if (!due) {
        return STATUS_OK;
    }
    TRY(fetch_sums(trainer, true, err));
    struct epoch_row row = {trainer->sums.loss / trainer->sums.examples,
                            trainer->sums.correct / trainer->sums.examples, NAN, NAN};
    if (options->save_best_only && metric_needs_validation(trainer->monitor)) {
        if (!trainer->warned_missing_monitor) {
            progress_warning(trainer->setup.progress,
                             "--save-best-only with --save-freq %s: %s is not known between "
                             "epochs, so every save is kept (as Keras)",
                             options->save_freq, metric_name(trainer->monitor));
            trainer->warned_missing_monitor = true;
        }
    } else if (options->save_best_only) {
        struct best_tracker best = {.best = state->save_freq_best,
                                    .has_best = state->save_freq_has_best != 0};
        bool improved = best_tracker_update(&best, trainer->direction,
                                            metric_value(trainer->monitor, &row), 0, 0, NULL);
        state->save_freq_best = best.best;
        state->save_freq_has_best = best.has_best;
        if (!improved) {
            return STATUS_OK;
        }
    }
    bool epoch_ends = state->phase == RUN_EPOCH_END;
    struct template_values values = {
        .epoch = (uint64_t)state->epoch + 1,
        .has_batch = true,
        .batch = epoch_ends ? trainer->steps_per_epoch : (uint64_t)state->position,
        .has_metrics = true,
        .row = row,
    };
    return trainer_save(trainer, SAVE_FILEPATH, &values, err);
}

static bool log_is_due(const struct trainer *trainer) {
    uint64_t every = trainer->setup.options->log_step_count_steps;
    return every > 0 && (uint64_t)trainer->state.step % every == 0;
}

static bool summary_due(const struct trainer *trainer) {
    return summary_is_due(trainer->summary, (uint64_t)trainer->state.step);
}

static enum status train_step(struct trainer *trainer, struct batch *batch, struct error *err) {
    struct run_state *state = &trainer->state;
    batch->view.tokens = trainer->tokens;
    struct backend *be = trainer->setup.be;
    be->table->range_begin(be, "training step");
    enum status status =
        model_train_step(trainer->model, &batch->view, (uint64_t)state->step + 1, err);
    be->table->range_end(be);
    TRY(status);
    state->step++;
    state->position++;
    if ((uint64_t)state->position == trainer->steps_per_epoch) {
        state->phase = RUN_EPOCH_END;
    }
    trainer->state_version++;
    trainer->log_examples += batch->view.sequences;
    bool shown = trainer->sums.examples > 0.0; /* there is something to show already */
    bool exact =
        !shown || state->phase == RUN_EPOCH_END || log_is_due(trainer) || summary_due(trainer);
    return fetch_sums(trainer, exact, err);
}

/* What follows every step, in this order: log, show, save. */
static enum status after_step(struct trainer *trainer, struct error *err) {
    struct run_state *state = &trainer->state;
    if (log_is_due(trainer)) {
        trainer_log_step(trainer);
    }
    if (summary_due(trainer)) {
        summary_step(trainer->summary, (uint64_t)state->step, trainer->sums.batch_loss,
                     trainer->sums.correct / trainer->sums.examples);
    }
    summary_tick(trainer->summary);
    progress_step(trainer->setup.progress, (uint64_t)state->position,
                  trainer->sums.loss / trainer->sums.examples,
                  trainer->sums.correct / trainer->sums.examples, (uint64_t)state->step);
    TRY(save_by_frequency(trainer, err));
    if (trainer_save_due(trainer)) {
        TRY(trainer_save(trainer, SAVE_RING_DUE, NULL, err));
    }
    trainer_collect_saves(trainer);
    return STATUS_OK;
}

/* ---- the end of an epoch --------------------------------------------------------------------- */

static enum status validate(struct trainer *trainer, struct epoch_row *row, double *seconds,
                            struct error *err) {
    if (trainer->evaluator == NULL) {
        return STATUS_OK;
    }
    double begin = clock_monotonic_seconds();
    struct evaluation evaluation;
    struct backend *be = trainer->setup.be;
    be->table->range_begin(be, "validation");
    enum status status =
        evaluator_run(trainer->evaluator, trainer->setup.progress, &evaluation, err);
    be->table->range_end(be);
    TRY(status);
    row->val_loss = evaluation.loss;
    row->val_accuracy = evaluation.accuracy;
    *seconds = clock_monotonic_seconds() - begin;
    return STATUS_OK;
}

static void warn_nan_best(struct trainer *trainer) {
    progress_warning(trainer->setup.progress,
                     "%s is not a number and became the best value (as in Keras): no later epoch "
                     "can improve on it",
                     metric_name(trainer->monitor));
}

/* EarlyStopping. */
static enum status run_early_stopping(struct trainer *trainer, uint64_t epoch, double value,
                                      struct error *err) {
    if (trainer->stopping.patience < 0 || !trainer->monitor_available) {
        return STATUS_OK;
    }
    struct early_stopping stopping = run_state_stopping(&trainer->state);
    struct early_stopping_verdict verdict =
        early_stopping_epoch_end(&stopping, &trainer->stopping, epoch, value);
    run_state_set_stopping(&trainer->state, &stopping);
    if (verdict.capture_weights) {
        TRY(model_capture_best(trainer->model, err));
    }
    return STATUS_OK;
}

/* ModelCheckpoint and the best file: which saves this epoch asks for. */
static unsigned run_model_checkpoint(struct trainer *trainer, uint64_t epoch, double value) {
    const struct options *options = trainer->setup.options;
    bool per_epoch = options->checkpoint_filepath[0] != '\0' && options->save_freq_batches == 0;
    if (!trainer->monitor_available) {
        return per_epoch ? SAVE_FILEPATH : 0;
    }
    struct best_tracker best = run_state_best(&trainer->state);
    double before = best.best;
    bool had_best = best.has_best, nan_became_best = false;
    bool improved = best_tracker_update(&best, trainer->direction, value, epoch,
                                        (uint64_t)trainer->state.step, &nan_became_best);
    run_state_set_best(&trainer->state, &best);
    if (nan_became_best) {
        warn_nan_best(trainer);
    }
    if (options->verbose > 0 && improved && had_best) {
        progress_message(trainer->setup.progress, "Epoch %llu: %s improved from %.5f to %.5f",
                         (unsigned long long)epoch + 1, metric_name(trainer->monitor), before,
                         value);
    } else if (options->verbose > 0 && !improved) {
        progress_message(trainer->setup.progress, "Epoch %llu: %s did not improve from %.5f",
                         (unsigned long long)epoch + 1, metric_name(trainer->monitor), before);
    }
    unsigned kinds = improved ? SAVE_BEST : 0;
    if (per_epoch && (improved || !options->save_best_only)) {
        kinds |= SAVE_FILEPATH;
    }
    return kinds;
}

/* Validation, callbacks, history; afterwards the state stands at the beginning of the next epoch.
 */
static enum status end_epoch(struct trainer *trainer, struct error *err) {
    struct run_state *state = &trainer->state;
    double train_seconds = clock_monotonic_seconds() - trainer->epoch_begin;
    double validation_seconds = 0.0;
    uint64_t epoch = (uint64_t)state->epoch;
    struct epoch_row row = {trainer->sums.loss / trainer->sums.examples,
                            trainer->sums.correct / trainer->sums.examples, NAN, NAN};
    TRY(validate(trainer, &row, &validation_seconds, err));
    TRY(run_state_add_row(state, &row, err));
    double value = metric_value(trainer->monitor, &row);
    TRY(run_early_stopping(trainer, epoch, value, err));

    trainer_log_epoch(trainer, epoch, &row, train_seconds, validation_seconds);
    progress_epoch_end(trainer->setup.progress, &row, trainer->evaluator != NULL,
                       (uint64_t)state->step);
    unsigned kinds = run_model_checkpoint(trainer, epoch, value);

    state->epoch++;
    state->position = 0;
    state->phase = RUN_TRAINING;
    trainer->sums = (struct pass_sums){0};
    TRY(model_write_sums(trainer->model, &trainer->sums, err));
    trainer->state_version++;
    if (kinds != 0) {
        trainer_collect_saves(trainer);
        struct template_values values = {
            .epoch = epoch + 1,
            .has_metrics = true,
            .has_validation = trainer->evaluator != NULL,
            .row = row,
        };
        TRY(trainer_save(trainer, kinds, &values, err));
    }
    trainer_collect_saves(trainer);
    return STATUS_OK;
}

/* ---- the loop -------------------------------------------------------------------------------- */

/* Has the run come to an end at this point? */
static bool find_end(const struct trainer *trainer, enum trainer_end *end) {
    const struct options *options = trainer->setup.options;
    const struct run_state *state = &trainer->state;
    if (stop_signal() != 0) {
        *end = TRAINER_END_SIGNAL;
    } else if (trainer->save_nonfinite) {
        *end = TRAINER_END_NONFINITE;
    } else if (trainer->save_failures > 0 && options->checkpoint_on_error == ON_ERROR_STOP) {
        *end = TRAINER_END_SAVE_FAILED;
    } else if (state->phase == RUN_EPOCH_END) {
        return false; /* a full epoch is validated, whatever limit comes next */
    } else if (state->stopping_stopped != 0) {
        *end = TRAINER_END_EARLY_STOPPING;
    } else if ((uint64_t)state->epoch >= options->epochs) {
        *end = TRAINER_END_EPOCHS;
    } else if ((uint64_t)state->step >= trainer->last_step) {
        *end = TRAINER_END_STEPS;
    } else {
        return false;
    }
    return true;
}

/* The first thing that this process does in an epoch: a step, or the validation that was left. */
static void begin_epoch(struct trainer *trainer) {
    const struct run_state *state = &trainer->state;
    progress_epoch_begin(trainer->setup.progress, (uint64_t)state->epoch + 1,
                         trainer->setup.options->epochs, trainer->steps_per_epoch,
                         (uint64_t)state->position);
    trainer->epoch_begin = clock_monotonic_seconds();
}

/* Steps of the current epoch until it ends or the run does. */
static enum status train_epoch(struct trainer *trainer, enum trainer_end *end, bool *ended,
                               struct error *err) {
    struct run_state *state = &trainer->state;
    TRY(batcher_start(trainer->batcher, (uint64_t)state->epoch, (uint64_t)state->position, err));
    begin_epoch(trainer);
    struct batch *batch;
    while ((batch = batcher_next(trainer->batcher)) != NULL) {
        enum status status = train_step(trainer, batch, err);
        batcher_recycle(trainer->batcher, batch);
        TRY(status);
        TRY(after_step(trainer, err));
        *ended = find_end(trainer, end);
        if (*ended) {
            return STATUS_OK;
        }
    }
    return STATUS_OK;
}

static enum status loop(struct trainer *trainer, enum trainer_end *end, struct error *err) {
    bool ended = find_end(trainer, end);
    if (!ended && trainer->state.phase == RUN_EPOCH_END) {
        begin_epoch(trainer);
    }
    while (!ended) {
        if (trainer->state.phase == RUN_TRAINING) {
            TRY(train_epoch(trainer, end, &ended, err));
        }
        if (!ended && trainer->state.phase == RUN_EPOCH_END) {
            enum status status = end_epoch(trainer, err);
            if (status != STATUS_STOPPED) { /* a signal during validation: the phase stays */
                TRY(status);
            }
            ended = find_end(trainer, end);
        }
    }
    return STATUS_OK;
}

/* ---- the end of the run ---------------------------------------------------------------------- */

/* Keras 3 restores the best weights at the end of training, however it ended; a run that merely
 * pauses (signal, step limit) goes on later and keeps its last weights. */
static enum status restore_best(struct trainer *trainer, enum trainer_end end, struct error *err) {
    bool complete = end == TRAINER_END_EPOCHS || end == TRAINER_END_EARLY_STOPPING;
    struct run_state *state = &trainer->state;
    if (!complete || trainer->model->best == NULL || state->restored_best) {
        return STATUS_OK;
    }
    if (!state->stopping_has_weights) {
        if (state->stopping_has_best) { /* --restore-best-weights came later than the best epoch */
            progress_message(trainer->setup.progress,
                             "The weights of the best epoch, %lld, were not kept: the last ones "
                             "stay.",
                             (long long)state->stopping_best_epoch + 1);
        }
        return STATUS_OK;
    }
    TRY(trainer_swap_best(trainer, err));
    progress_message(trainer->setup.progress,
                     "Restoring model weights from the end of the best epoch: %lld (%s %.5f).",
                     (long long)state->stopping_best_epoch + 1, metric_name(trainer->monitor),
                     metric_value(trainer->monitor, &state->rows[state->stopping_best_epoch]));
    return STATUS_OK;
}

static enum status finish(struct trainer *trainer, struct trainer_outcome *outcome,
                          struct error *err) {
    if (outcome->end == TRAINER_END_EARLY_STOPPING) {
        progress_message(trainer->setup.progress, "Epoch %lld: early stopping",
                         (long long)trainer->state.stopping_stopped_epoch + 1);
    }
    TRY(restore_best(trainer, outcome->end, err));
    bool durable = true;
    enum status status = STATUS_OK;
    if (outcome->end == TRAINER_END_NONFINITE) {
        writer_drain(trainer->writer);
        trainer_collect_saves(trainer);
    } else {
        status = trainer_save_final(trainer, &durable, err);
    }
    if (trainer->save_nonfinite) {
        outcome->end = TRAINER_END_NONFINITE;
    }
    outcome->final_save_failed = !durable;
    outcome->save_failures = trainer->save_failures;
    outcome->step = (uint64_t)trainer->state.step;
    outcome->epoch = (uint64_t)trainer->state.epoch;
    outcome->saves = writer_get_totals(trainer->writer);
    return status;
}

/* A run begins with its state in the ring, best weights that it took from elsewhere included: until
 * then a better epoch of the best model could replace them. That also proves, before hours are
 * spent, that the disk takes checkpoints. Only then is moved away what is in the way (newer ones,
 * where --resume went back): the directory is never without a checkpoint to go on from. And only
 * then are the logs opened, which takes them back to this step: going back may be refused until
 * here, and then nothing has changed. */
static enum status secure_start(struct trainer *trainer, struct error *err) {
    struct store *store = trainer->setup.store;
    bool durable = true;
    if (!trainer->setup.resumed_in_ring || trainer->took_best_weights) {
        TRY(trainer_keep_replaced(trainer, err));
        TRY(trainer_save_final(trainer, &durable, err));
    }
    store_protect(store, (uint64_t)trainer->state.step);
    return trainer_supersede(trainer, durable, err);
}

/* A stop whose own save is good is a good stop, whatever failed before it: the same command goes on
 * from there. What failed is in the outcome. */
static enum status judge_saves(const struct trainer *trainer, const struct trainer_outcome *outcome,
                               struct error *err) {
    unsigned long long failures = outcome->save_failures;
    if (outcome->end == TRAINER_END_SIGNAL && !outcome->final_save_failed) {
        return STATUS_OK;
    }
    CHECK(failures == 0 || !trainer->directory_lost, err, STATUS_IO,
          "%llu save(s) failed (see above); the last state is not saved", failures);
    CHECK(failures == 0, err, STATUS_IO,
          "%llu save(s) failed (see above); the checkpoints saved before are kept, the last state "
          "is %samong them",
          failures, outcome->final_save_failed ? "not " : "");
    return STATUS_OK;
}

enum status trainer_run(struct trainer *trainer, struct trainer_outcome *outcome,
                        struct error *err) {
    memset(outcome, 0, sizeof *outcome);
    trainer->start_time = trainer->last_save = trainer->log_time = clock_monotonic_seconds();
    TRY(secure_start(trainer, err));
    trainer_open_logs(trainer);
    /* The time to the next save begins here: what came before, however long, was not training. */
    trainer->last_save = clock_monotonic_seconds();
    enum status status = loop(trainer, &outcome->end, err);
    if (status == STATUS_NONFINITE) {
        outcome->end = TRAINER_END_NONFINITE;
    } else if (status != STATUS_OK) {
        progress_finish(trainer->setup.progress);
        return status;
    }
    struct error finish_error = {0};
    enum status finished = finish(trainer, outcome, &finish_error);
    progress_finish(trainer->setup.progress);
    trainer_log_end(trainer, outcome);
    trainer_report_end(trainer, outcome);
    if (status != STATUS_OK) {
        return status; /* with the loss' own message */
    }
    if (finished != STATUS_OK) {
        return error_set(err, finished, "%s", finish_error.message);
    }
    CHECK(outcome->end != TRAINER_END_NONFINITE, err, STATUS_NONFINITE,
          "the training state became non-finite: it was not saved; the checkpoints saved before "
          "are kept. A smaller --learning-rate or a --clip-norm may help");
    return judge_saves(trainer, outcome, err);
}
