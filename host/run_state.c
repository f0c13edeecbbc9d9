#include "host/run_state.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the table ------------------------------------------------------------------------------- */

struct field {
    const char *name;
    enum dtype dtype;
    size_t offset;
    int64_t minimum, maximum; /* of an I64 field; what lies outside was never written by us */
};

/* No run comes near; sums of two counts cannot overflow. */
#define COUNT_MAX ((int64_t)1 << 56)

#define COUNT_FIELD(name, member)                                                                  \
    { "state." name, DTYPE_I64, offsetof(struct run_state, member), 0, COUNT_MAX }
#define FLAG_FIELD(name, member)                                                                   \
    { "state." name, DTYPE_I64, offsetof(struct run_state, member), 0, 1 }
#define BITS_FIELD(name, member)                                                                   \
    { "state." name, DTYPE_I64, offsetof(struct run_state, member), INT64_MIN, INT64_MAX }
#define VALUE_FIELD(name, member)                                                                  \
    { "state." name, DTYPE_F64, offsetof(struct run_state, member), 0, 0 }

static const struct field fields[] = {
    COUNT_FIELD("step", step),
    COUNT_FIELD("epoch", epoch),
    COUNT_FIELD("position", position),
    FLAG_FIELD("phase", phase),
    BITS_FIELD("seed", seed),
    BITS_FIELD("data_fingerprint", data_fingerprint),
    BITS_FIELD("validation_fingerprint", validation_fingerprint),
    FLAG_FIELD("early_stopping.has_best", stopping_has_best),
    VALUE_FIELD("early_stopping.best", stopping_best),
    COUNT_FIELD("early_stopping.wait", stopping_wait),
    COUNT_FIELD("early_stopping.best_epoch", stopping_best_epoch),
    FLAG_FIELD("early_stopping.has_weights", stopping_has_weights),
    FLAG_FIELD("early_stopping.stopped", stopping_stopped),
    COUNT_FIELD("early_stopping.stopped_epoch", stopping_stopped_epoch),
    FLAG_FIELD("best.has_best", best_has_best),
    VALUE_FIELD("best.value", best_value),
    COUNT_FIELD("best.epoch", best_epoch),
    COUNT_FIELD("best.step", best_step),
    COUNT_FIELD("save_freq.since_last", save_freq_since_last),
    FLAG_FIELD("save_freq.has_best", save_freq_has_best),
    VALUE_FIELD("save_freq.best", save_freq_best),
    FLAG_FIELD("restored_best", restored_best),
};

enum { FIELD_COUNT = sizeof fields / sizeof fields[0] };
_Static_assert(FIELD_COUNT + 1 <= RUN_STATE_TENSORS, "room for every field and the history");

#define HISTORY_TENSOR "history.epochs"
enum { HISTORY_COLUMNS = 4 };
_Static_assert(sizeof(struct epoch_row) == HISTORY_COLUMNS * sizeof(double),
               "a row of the history is four doubles");

/* ---- life ------------------------------------------------------------------------------------ */

void run_state_init(struct run_state *state, uint64_t seed) {
    memset(state, 0, sizeof *state);
    memcpy(&state->seed, &seed, sizeof seed);
}

void run_state_deinit(struct run_state *state) {
    free(state->rows);
    state->rows = NULL;
    state->row_count = state->row_capacity = 0;
}

static enum status reserve_rows(struct run_state *state, size_t count, struct error *err) {
    if (count <= state->row_capacity) {
        return STATUS_OK;
    }
    size_t capacity = count < 16 ? 16 : count + count / 2;
    struct epoch_row *rows = realloc(state->rows, capacity * sizeof *rows);
    CHECK(rows != NULL, err, STATUS_MEMORY, "no memory for %zu epochs of history", capacity);
    state->rows = rows;
    state->row_capacity = capacity;
    return STATUS_OK;
}

enum status run_state_add_row(struct run_state *state, const struct epoch_row *row,
                              struct error *err) {
    TRY(reserve_rows(state, state->row_count + 1, err));
    state->rows[state->row_count++] = *row;
    return STATUS_OK;
}

/* ---- callbacks ------------------------------------------------------------------------------- */

struct early_stopping run_state_stopping(const struct run_state *state) {
    return (struct early_stopping){
        .best = state->stopping_best,
        .has_best = state->stopping_has_best != 0,
        .wait = (uint64_t)state->stopping_wait,
        .best_epoch = (uint64_t)state->stopping_best_epoch,
        .has_weights = state->stopping_has_weights != 0,
        .stopped = state->stopping_stopped != 0,
        .stopped_epoch = (uint64_t)state->stopping_stopped_epoch,
    };
}

void run_state_set_stopping(struct run_state *state, const struct early_stopping *stopping) {
    state->stopping_best = stopping->best;
    state->stopping_has_best = stopping->has_best;
    state->stopping_wait = (int64_t)stopping->wait;
    state->stopping_best_epoch = (int64_t)stopping->best_epoch;
    state->stopping_has_weights = stopping->has_weights;
    state->stopping_stopped = stopping->stopped;
    state->stopping_stopped_epoch = (int64_t)stopping->stopped_epoch;
}

struct best_tracker run_state_best(const struct run_state *state) {
    return (struct best_tracker){
        .best = state->best_value,
        .has_best = state->best_has_best != 0,
        .best_epoch = (uint64_t)state->best_epoch,
        .best_step = (uint64_t)state->best_step,
    };
}

void run_state_set_best(struct run_state *state, const struct best_tracker *best) {
    state->best_value = best->best;
    state->best_has_best = best->has_best;
    state->best_epoch = (int64_t)best->best_epoch;
    state->best_step = (int64_t)best->best_step;
}

/* ---- to and from tensors --------------------------------------------------------------------- */

size_t run_state_sources(struct run_state *state, struct snapshot_source *out) {
    for (size_t i = 0; i < FIELD_COUNT; i++) {
        void *data = (char *)state + fields[i].offset;
        out[i] = (struct snapshot_source){
            tensor_make(fields[i].name, fields[i].dtype, data, 0, NULL), SNAPSHOT_HOST, false};
    }
    uint64_t shape[2] = {state->row_count, HISTORY_COLUMNS};
    out[FIELD_COUNT] = (struct snapshot_source){
        tensor_make(HISTORY_TENSOR, DTYPE_F64, state->rows, 2, shape), SNAPSHOT_HOST, false};
    return FIELD_COUNT + 1;
}

static enum status read_field(struct run_state *state, const struct field *field,
                              const struct checkpoint *checkpoint, struct error *err) {
    const struct tensor_view *tensor =
        tensor_find(checkpoint->tensors, checkpoint->tensor_count, field->name);
    CHECK(tensor != NULL, err, STATUS_MISFIT,
          "tensor %s is missing: this is not a whole training state; pass it as --init-from to "
          "start a new run from its weights",
          field->name);
    CHECK(tensor->dtype == field->dtype && tensor->rank == 0, err, STATUS_MISFIT,
          "tensor %s should be one %s value", field->name, dtype_name(field->dtype));
    memcpy((char *)state + field->offset, tensor->data, 8);
    if (field->dtype == DTYPE_I64) {
        int64_t value;
        memcpy(&value, tensor->data, sizeof value);
        CHECK(value >= field->minimum && value <= field->maximum, err, STATUS_CORRUPT,
              "tensor %s has the impossible value %lld", field->name, (long long)value);
    }
    return STATUS_OK;
}

static enum status read_rows(struct run_state *state, const struct checkpoint *checkpoint,
                             struct error *err) {
    const struct tensor_view *tensor =
        tensor_find(checkpoint->tensors, checkpoint->tensor_count, HISTORY_TENSOR);
    CHECK(tensor != NULL, err, STATUS_MISFIT, "tensor " HISTORY_TENSOR " is missing");
    CHECK(tensor->dtype == DTYPE_F64 && tensor->rank == 2 && tensor->shape[1] == HISTORY_COLUMNS,
          err, STATUS_MISFIT, "tensor " HISTORY_TENSOR " should be F64 [epochs, %d]",
          HISTORY_COLUMNS);
    size_t rows = (size_t)tensor->shape[0];
    TRY(reserve_rows(state, rows, err));
    if (rows > 0) {
        memcpy(state->rows, tensor->data, rows * sizeof *state->rows);
    }
    state->row_count = rows;
    return STATUS_OK;
}

enum status run_state_read(struct run_state *state, const struct checkpoint *checkpoint,
                           struct error *err) {
    for (size_t i = 0; i < FIELD_COUNT; i++) {
        TRY(read_field(state, &fields[i], checkpoint, err));
    }
    TRY(read_rows(state, checkpoint, err));
    CHECK((uint64_t)state->epoch == state->row_count, err, STATUS_CORRUPT,
          "state.epoch is %lld, but " HISTORY_TENSOR " has %zu rows", (long long)state->epoch,
          state->row_count);
    CHECK(!state->stopping_has_weights || (uint64_t)state->stopping_best_epoch < state->row_count,
          err, STATUS_CORRUPT, "state.early_stopping.best_epoch is %lld of %zu epochs",
          (long long)state->stopping_best_epoch, state->row_count);
    return STATUS_OK;
}
