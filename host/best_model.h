/* best_model.h - is best.safetensors.zst what the run says it is?
 *
 * Nothing reads the best model while a run goes on: unless it is looked at when the run is resumed,
 * and by `cairn checkpoints`, it is missed when the run is over and the model is wanted. The newest
 * checkpoint says of which step the best model is; a later one is good as well, because a run that
 * was killed before it saved a checkpoint that knows of it makes it again.
 *
 * Usage:
 *     if (best_model_check(path, newest, &why) != STATUS_OK) { ... why.message }
 *
 * THREADS: plain functions. Blocking: the file is read and decoded whole.
 */
#ifndef CAIRN_HOST_BEST_MODEL_H
#define CAIRN_HOST_BEST_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "host/base/status.h"
#include "host/run_state.h"
#include "io/checkpoint.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Does a run in this state have a best model? A threshold that was given (step 0) is none. */
bool best_model_is_claimed(const struct run_state *state);

/* The step that it says it is of; false when it does not. */
bool best_model_step(const struct checkpoint *best, uint64_t *step);

/* STATUS_OK when the best model at `path` is the one of which `newest`, the newest checkpoint,
 * knows, or a later one of the same run; also when it knows of none, or is no state of a run at all
 * (a checkpoint of another trainer on libcairn-checkpoint). Otherwise why not, with the path:
 * STATUS_INPUT (missing, unreadable), STATUS_CORRUPT (damaged, older, of another run or of what was
 * trained before the run went back), STATUS_MISFIT, STATUS_MEMORY. */
MUST_USE enum status best_model_check(const char *path, const struct checkpoint *newest,
                                      struct error *why);

/* The same of one that was read: `path` is for the message. */
MUST_USE enum status best_model_compare(const char *path, const struct checkpoint *best,
                                        const struct checkpoint *newest, struct error *why);

/* The best model at `path`, if it is the state at the end of that zero-based epoch of the run that
 * `newest` is of, whose state was read. The caller frees *out. Otherwise why not, as above. */
MUST_USE enum status best_model_open_epoch(const char *path, uint64_t epoch,
                                           const struct checkpoint *newest,
                                           const struct run_state *newest_state,
                                           struct checkpoint **out, struct error *why);

#ifdef __cplusplus
}
#endif
#endif
