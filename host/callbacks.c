#include "host/callbacks.h"

#include <assert.h>
#include <math.h>
#include <string.h>

/* ---- metrics by name ---------------------------------------------------------------------- */

static const char *const metric_names[METRIC_COUNT] = {"loss", "accuracy", "val_loss",
                                                       "val_accuracy"};

const char *metric_name(enum metric metric) {
    assert((unsigned)metric < METRIC_COUNT);
    return metric_names[metric];
}

bool metric_parse(const char *name, enum metric *out) {
    for (int i = 0; i < METRIC_COUNT; i++) {
        if (strcmp(name, metric_names[i]) == 0) {
            *out = (enum metric)i;
            return true;
        }
    }
    return false;
}

bool metric_needs_validation(enum metric metric) {
    return metric == METRIC_VAL_LOSS || metric == METRIC_VAL_ACCURACY;
}

double metric_value(enum metric metric, const struct epoch_row *row) {
    switch (metric) {
    case METRIC_LOSS:
        return row->loss;
    case METRIC_ACCURACY:
        return row->accuracy;
    case METRIC_VAL_LOSS:
        return row->val_loss;
    case METRIC_VAL_ACCURACY:
        return row->val_accuracy;
    case METRIC_COUNT:
        break;
    }
    assert(!"a metric outside of its enum");
    return NAN;
}

enum monitor_mode metric_direction(enum metric metric, enum monitor_mode asked) {
    if (asked != MONITOR_AUTO) {
        return asked;
    }
    return metric == METRIC_LOSS || metric == METRIC_VAL_LOSS ? MONITOR_MIN : MONITOR_MAX;
}

/* ---- what an improvement is --------------------------------------------------------------- */

/* Keras takes |min_delta| off in double precision and then compares as its backend does with plain
 * numbers: in single precision. So 0.35 does not beat 0.40 by more than 0.05, although in doubles
 * 0.35 + 0.05 < 0.40. A comparison with NaN is false on either side. */
static bool improves(enum monitor_mode direction, double value, double reference,
                     double min_delta) {
    double delta = fabs(min_delta);
    if (direction == MONITOR_MIN) {
        return (float)(value + delta) < (float)reference;
    }
    return (float)(value - delta) > (float)reference;
}

/* ---- early stopping ----------------------------------------------------------------------- */

struct early_stopping_verdict early_stopping_epoch_end(struct early_stopping *state,
                                                       const struct early_stopping_config *config,
                                                       uint64_t epoch, double value) {
    struct early_stopping_verdict verdict = {0};
    assert(config->direction != MONITOR_AUTO);
    if (config->patience < 0 || epoch < config->start_from_epoch) {
        return verdict;
    }
    state->wait++;
    if (!state->has_best || improves(config->direction, value, state->best, config->min_delta)) {
        verdict.improved = true;
        verdict.nan_became_best = isnan(value);
        verdict.capture_weights = config->restore_best_weights;
        state->has_weights = config->restore_best_weights;
        state->best = value;
        state->has_best = true;
        state->best_epoch = epoch;
        if (isnan(config->baseline) ||
            improves(config->direction, value, config->baseline, config->min_delta)) {
            state->wait = 0;
        }
        return verdict;
    }
    if (state->wait >= (uint64_t)config->patience && epoch > 0) {
        verdict.stop = true;
        state->stopped = true;
        state->stopped_epoch = epoch;
    }
    return verdict;
}

/* ---- model checkpoint --------------------------------------------------------------------- */

bool best_tracker_update(struct best_tracker *state, enum monitor_mode direction, double value,
                         uint64_t epoch, uint64_t step, bool *nan_became_best) {
    assert(direction != MONITOR_AUTO);
    bool improved = !state->has_best || improves(direction, value, state->best, 0.0);
    if (nan_became_best != NULL) {
        *nan_became_best = improved && isnan(value);
    }
    if (improved) {
        *state = (struct best_tracker){
            .best = value, .has_best = true, .best_epoch = epoch, .best_step = step};
    }
    return improved;
}

bool save_freq_due(uint64_t *since_last, uint64_t batches, uint64_t freq) {
    assert(freq > 0);
    *since_last += batches;
    if (*since_last < freq) {
        return false;
    }
    *since_last = 0;
    return true;
}
