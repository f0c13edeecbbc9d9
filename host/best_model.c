#include "host/best_model.h"

#include <inttypes.h>
#include <string.h>

#include "host/base/text.h"
#include "io/file.h"

bool best_model_is_claimed(const struct run_state *state) {
    return state->best_has_best && state->best_step > 0;
}

bool best_model_step(const struct checkpoint *best, uint64_t *step) {
    const char *text = checkpoint_metadata(best, "step");
    return text != NULL && text_parse_u64(text, step);
}

/* Both say the same of the epochs that both know. */
static bool has_same_history(const struct run_state *a, const struct run_state *b) {
    size_t rows = a->row_count < b->row_count ? a->row_count : b->row_count;
    return rows == 0 || memcmp(a->rows, b->rows, rows * sizeof *a->rows) == 0;
}

static enum status compare(const char *path, const struct run_state *best,
                           const struct run_state *newest, struct error *why) {
    CHECK(best->step >= newest->best_step, why, STATUS_CORRUPT,
          "%s: it is of step %" PRId64 ", older than the best model of step %" PRId64, path,
          best->step, newest->best_step);
    CHECK(best->step == newest->best_step || best->step >= newest->step, why, STATUS_CORRUPT,
          "%s: it is of step %" PRId64 ", the best model is of step %" PRId64, path, best->step,
          newest->best_step);
    /* The checkpoint at the end of a run may be of the best model's step, with other weights. */
    CHECK(!best->restored_best, why, STATUS_CORRUPT,
          "%s: it is the end of a run, with the weights that --restore-best-weights put back",
          path);
    CHECK(has_same_history(best, newest), why, STATUS_CORRUPT,
          "%s: its epochs are not those of the newest checkpoint: it comes from another course of "
          "the run",
          path);
    return STATUS_OK;
}

static enum status check_run(const char *path, const struct checkpoint *best,
                             const struct checkpoint *newest, struct error *why) {
    const char *one = checkpoint_metadata(best, "run_id");
    const char *other = checkpoint_metadata(newest, "run_id");
    CHECK(one == NULL || other == NULL || strcmp(one, other) == 0, why, STATUS_CORRUPT,
          "%s: it is of another run", path);
    return STATUS_OK;
}

/* What `newest` knows of a best model, into *state, which the caller frees; false: nothing. */
static bool read_claim(const struct checkpoint *newest, struct run_state *state) {
    return run_state_read(state, newest, NULL) == STATUS_OK && best_model_is_claimed(state);
}

static enum status check_state(const char *path, const struct checkpoint *best,
                               const struct run_state *newest_state, struct error *why) {
    struct run_state state = {0};
    enum status status = run_state_read(&state, best, why);
    status = status == STATUS_OK ? compare(path, &state, newest_state, why)
                                 : error_prefix(why, status, "%s", path);
    run_state_deinit(&state);
    return status;
}

enum status best_model_compare(const char *path, const struct checkpoint *best,
                               const struct checkpoint *newest, struct error *why) {
    struct run_state state = {0};
    enum status status = STATUS_OK;
    if (read_claim(newest, &state)) {
        status = check_run(path, best, newest, why);
        status = status == STATUS_OK ? check_state(path, best, &state, why) : status;
    }
    run_state_deinit(&state);
    return status;
}

enum status best_model_check(const char *path, const struct checkpoint *newest, struct error *why) {
    struct run_state state = {0};
    bool is_claimed = read_claim(newest, &state);
    run_state_deinit(&state);
    if (!is_claimed) {
        return STATUS_OK;
    }
    struct checkpoint *best;
    TRY(checkpoint_read_file(&file_posix, path, &best, why));
    enum status status = best_model_compare(path, best, newest, why);
    checkpoint_free(best);
    return status;
}

/* Is `best` the state at the end of that epoch, in the course that `newest` is of? */
static enum status check_epoch(const char *path, const struct checkpoint *best, uint64_t epoch,
                               const struct run_state *newest, struct error *why) {
    struct run_state state = {0};
    enum status status = run_state_read(&state, best, why);
    if (status != STATUS_OK) {
        status = error_prefix(why, status, "%s", path);
    } else if (state.phase != RUN_TRAINING || state.position != 0 || state.restored_best ||
               (uint64_t)state.epoch != epoch + 1 || epoch >= newest->row_count ||
               !has_same_history(&state, newest)) {
        status = error_set(why, STATUS_CORRUPT, "%s: it is of step %" PRId64 ", not of that epoch",
                           path, state.step);
    }
    run_state_deinit(&state);
    return status;
}

enum status best_model_open_epoch(const char *path, uint64_t epoch, const struct checkpoint *newest,
                                  const struct run_state *newest_state, struct checkpoint **out,
                                  struct error *why) {
    TRY(checkpoint_read_file(&file_posix, path, out, why));
    enum status status = check_run(path, *out, newest, why);
    status = status == STATUS_OK ? check_epoch(path, *out, epoch, newest_state, why) : status;
    if (status != STATUS_OK) {
        checkpoint_free(*out);
        *out = NULL;
    }
    return status;
}
