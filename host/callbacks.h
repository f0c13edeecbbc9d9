/* callbacks.h - EarlyStopping and ModelCheckpoint as Keras 3 has them, with state that can be
 * saved.
 *
 * Pure decisions on numbers; the trainer acts on them. Keras forgets this state at a restart and
 * then overwrites the best model with a worse one; here it is part of the checkpoint. "Improved":
 * value + |min_delta| < best (min), value - |min_delta| > best (max), compared in single precision
 * as Keras' backend does; the first value is always an improvement, even NaN; a NaN best is never
 * improved on (as Keras; callers warn).
 *
 * Usage:
 *     struct early_stopping stopping = {0};
 *     struct early_stopping_verdict v = early_stopping_epoch_end(&stopping, &config, epoch, value);
 *     if (v.capture_weights) { copy weights }  if (v.stop) { ... }
 *
 * THREADS: plain values of the trainer's thread.
 */
#ifndef CAIRN_HOST_CALLBACKS_H
#define CAIRN_HOST_CALLBACKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/base/status.h"
#include "host/options.h"
#include "io/history.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- metrics by name ---- */

enum metric { METRIC_LOSS, METRIC_ACCURACY, METRIC_VAL_LOSS, METRIC_VAL_ACCURACY, METRIC_COUNT };

const char *metric_name(enum metric metric);
/* False for an unknown name. */
bool metric_parse(const char *name, enum metric *out);
bool metric_needs_validation(enum metric metric);
double metric_value(enum metric metric, const struct epoch_row *row);
/* auto: losses down, accuracies up. Returns MONITOR_MIN or MONITOR_MAX. */
enum monitor_mode metric_direction(enum metric metric, enum monitor_mode asked);

/* ---- early stopping ---- */

struct early_stopping_config {
    enum monitor_mode direction; /* MIN or MAX */
    int64_t patience;            /* from 0; -1: the callback is off */
    double min_delta;            /* its absolute value counts */
    double baseline;             /* NaN: none */
    bool restore_best_weights;
    uint64_t start_from_epoch;
};

/* Saved in the checkpoint field by field (run_state.h). */
struct early_stopping {
    double best; /* meaningful if has_best */
    bool has_best;
    uint64_t wait;
    uint64_t best_epoch; /* zero-based epoch of the captured weights */
    bool has_weights;    /* best weights have been captured */
    bool stopped;
    uint64_t stopped_epoch; /* zero-based */
};

struct early_stopping_verdict {
    bool capture_weights; /* copy the weights now (only if restore_best_weights) */
    bool improved;
    bool stop;
    bool nan_became_best; /* warn: nothing will ever be better */
};

/* Call at the end of zero-based `epoch` with the monitored value. Follows Keras 3's order exactly:
 * skip before start_from_epoch; wait += 1; on improvement (the first counted epoch always is one)
 * best = value, capture weights, and wait = 0 only if there is no baseline or the value beats it;
 * otherwise stop if wait >= patience and epoch > 0. What is no improvement is never captured, also
 * where restore_best_weights was off until now: such a state Keras never has. */
struct early_stopping_verdict early_stopping_epoch_end(struct early_stopping *state,
                                                       const struct early_stopping_config *config,
                                                       uint64_t epoch, double value);

/* ---- model checkpoint (and the best file) ---- */

struct best_tracker {
    double best;
    bool has_best;
    uint64_t best_epoch; /* zero-based epoch at which it was reached */
    uint64_t best_step;
};

/* Keras' ModelCheckpoint._should_save... for save_best_only: true if `value` is an improvement
 * (then the state is updated). An --initial-value-threshold is a tracker that starts with has_best
 * and that best; a metric that was not measured is the caller's case (Keras: warn and save).
 * `*nan_became_best` (may be NULL) is set when a NaN became the best value. */
bool best_tracker_update(struct best_tracker *state, enum monitor_mode direction, double value,
                         uint64_t epoch, uint64_t step, bool *nan_became_best);

/* Keras' integer save_freq: counts batches since the last save over epochs. True when due (the
 * count then starts again at 0). `batches` is added to *since_last. */
bool save_freq_due(uint64_t *since_last, uint64_t batches, uint64_t freq);

/* Fill a --checkpoint-filepath template: {epoch} (1-based), {batch} (1-based, batch saves only),
 * {loss}, {accuracy}, {val_loss}, {val_accuracy} with Python format specs like {epoch:02d} or
 * {val_loss:.2f}; "{{" and "}}". A field whose has_* is false is unknown. A format with a precision
 * but no type, grouping and conversions are refused. STATUS_USAGE naming the unknown field and the
 * known ones, or the bad format. */
struct template_values {
    uint64_t epoch; /* 1-based */
    bool has_batch;
    uint64_t batch;      /* 1-based */
    bool has_metrics;    /* loss, accuracy */
    bool has_validation; /* val_* */
    struct epoch_row row;
};
MUST_USE enum status filepath_expand(const char *path_template,
                                     const struct template_values *values, char *out,
                                     size_t capacity, struct error *err);

#ifdef __cplusplus
}
#endif
#endif
