/* store.h - a model directory: names, lock, state file, the newest valid checkpoint, retention.
 *
 * Files (contract): `model.ckpt-<step>.safetensors.zst` are the ring of checkpoints, ordered by the
 * number in their name; `best.safetensors.zst` is outside the ring; `checkpoint` is TensorFlow's
 * CheckpointState in text form, a hint that other tools read: the directory scan decides.
 *
 * Usage (trainer):
 *     TRY(store_open(files, dir, &store, &warning, err));      creates, locks, removes stale temps
 *     TRY(store_load_newest(files, dir, on_damage, ctx, &checkpoint, path, err));
 *     ... writer publishes files and calls store_committed(store, step, err) ...
 *     store_close(store);
 * Readers (evaluate, predict, checkpoints) use the functions without a `struct store`: they take no
 * lock and change nothing.
 *
 * THREADS: store_open and store_close on the main thread; store_committed on the writer's thread.
 * The other functions have no shared state.
 */
#ifndef CAIRN_IO_STORE_H
#define CAIRN_IO_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/base/status.h"
#include "host/base/text.h"
#include "io/checkpoint.h"
#include "io/file.h"

#ifdef __cplusplus
extern "C" {
#endif

#define STORE_STATE_FILE "checkpoint"
#define STORE_NAME_ENDING ".safetensors.zst"
#define STORE_BEST_FILE "best" STORE_NAME_ENDING
#define STORE_LOCK_FILE ".cairn-lock"
#define STORE_SUPERSEDED_DIRECTORY "superseded"

struct store_entry {
    uint64_t step;
    uint64_t bytes;
    double modified_seconds;
    bool is_broken_link; /* to a file that is not there now; bytes and time are 0 */
    char name[64];       /* file name without directory */
};

struct store_list {
    struct store_entry *entries; /* ascending by step */
    size_t count;
};

/* "model.ckpt-<step>.safetensors.zst" into `out` (64 bytes). */
void store_checkpoint_name(uint64_t step, char out[64]);
/* The step in a name of exactly that form (no leading zeros, no sign); false for any other name. */
bool store_parse_name(const char *name, uint64_t *step);

/* Checkpoints of the ring in `directory`; a missing directory gives an empty list. The caller calls
 * store_list_free. STATUS_INPUT or STATUS_IO. */
MUST_USE enum status store_scan(const struct file_table *files, const char *directory,
                                struct store_list *out, struct error *err);
void store_list_free(struct store_list *list);

/* Told about each damaged checkpoint that is passed over: its path and the reason. */
typedef void (*store_damage_callback)(void *context, const char *path, const char *reason);

/* Load the newest checkpoint that verifies, trying older ones when one is damaged (the callback
 * hears of each; a file that vanished meanwhile is not damage: the directory is scanned again). One
 * that may be whole is not passed over: STATUS_INPUT for one that may not be opened or is a link to
 * what is not there, STATUS_DATA for one of a format version that is not known.
 * *out is NULL with STATUS_OK when the directory has none at all. STATUS_CORRUPT when there are
 * some and none verifies, saying how many and what to do. `path_out` holds FILE_PATH_CAPACITY
 * bytes. */
MUST_USE enum status store_load_newest(const struct file_table *files, const char *directory,
                                       store_damage_callback on_damage, void *context,
                                       struct checkpoint **out, char *path_out, struct error *err);

/* ---- the state file ---- */

struct store_state {
    char (*names)[64];  /* all_model_checkpoint_paths, oldest to newest; owned */
    double *timestamps; /* one per name, wall seconds; owned */
    size_t count;
    double last_preserved; /* wall seconds, 0 when absent */
};

enum { STORE_STATE_BYTES_MAX = 4 << 20 };

/* Parse the text of a state file (protobuf text format): base names of the ring's form only;
 * anything else is an error (STATUS_DATA) that the caller may treat as "no hint". Timestamps that
 * are absent are 0. Where no paths are listed, model_checkpoint_path is the list. */
MUST_USE enum status store_state_parse(const char *text, size_t size, struct store_state *out,
                                       struct error *err);
/* Read and parse the state file of `directory`. STATUS_INPUT when there is none. */
MUST_USE enum status store_state_read(const struct file_table *files, const char *directory,
                                      struct store_state *out, struct error *err);
/* Append the text of a state (`count` > 0). */
void store_state_format(const struct store_state *state, struct text *out);
void store_state_free(struct store_state *state);

/* A checkpoint says of which step it is; under another's name it would pass for what it is not:
 * STATUS_CORRUPT. */
MUST_USE enum status store_check_step(const struct checkpoint *checkpoint, uint64_t step,
                                      struct error *err);

/* ---- the trainer's side ---- */

struct store;

struct store_options {
    uint32_t keep_max;           /* 0: all */
    double keep_every_n_seconds; /* besides: one checkpoint per so many seconds is kept for ever; 0:
                                    off */
};

/* Create `directory` where needed, take the kernel lock (before anything in it is read, removed or
 * written), write our pid and host into the lock file, remove stale temporaries
 * (PUBLISH_TEMP_PREFIX). STATUS_OUTPUT naming pid and host of the other trainer when it is locked,
 * or when the directory cannot be created or written. Where the file system has no locks `warning`
 * (err-like, status STATUS_OK when there is none) says so and the store opens; then nothing is
 * written or removed before store_check_owned is asked to claim it. */
MUST_USE enum status store_open(const struct file_table *files, const char *directory,
                                const struct store_options *options, struct store **out,
                                struct error *warning, struct error *err);

const char *store_directory(const struct store *store);

/* Is the directory still the one that was opened, and ours? STATUS_OUTPUT when it was deleted,
 * moved or replaced (the kernel lock is then on a file that nobody sees), or taken by another
 * trainer; STATUS_IO when that cannot be found out, or the lock file not be written. One that was
 * deleted alone is made and locked anew; where the newest checkpoint is gone with it, the directory
 * is no longer ours. `claims`: a file is to be saved. On a file system without locks the first to
 * ask so claims the directory, takes it from who had claimed it before, and removes stale
 * temporaries. Asked before each file of a save, on the writer's thread, before anything is put
 * aside, and without a claim before a restore and before training; blocking. */
MUST_USE enum status store_check_owned(struct store *store, bool claims, struct error *err);

/* The retention must not delete this step until a newer one is committed (the one resumed from). */
void store_protect(struct store *store, uint64_t step);

/* The path in superseded/, which is made if it is not there, that `name` (of the ring, or that of
 * the best model) gets when it is put there: its own name or, where something has that, one with a
 * number, "best-2.safetensors.zst". So nothing there is ever replaced. Claims the directory as
 * store_check_owned does, before it makes anything. Blocking. */
MUST_USE enum status store_aside_path(struct store *store, const char *name,
                                      char path[FILE_PATH_CAPACITY], struct error *err);

/* Move every checkpoint of the ring newer than `step` into superseded/, the newest first, each
 * rename made durable. Before that the directory is claimed, superseded/ made and the state file
 * rewritten: when one of these fails nothing was moved. Where a move fails, those before it were
 * made; the next call goes on with the others. Before training starts. */
MUST_USE enum status store_supersede_newer(struct store *store, uint64_t step, struct error *err);

/* Move the best model into superseded/ as well. After the others, which can be refused; of one that
 * an interruption leaves the next start knows whether it is of another course (host/resume.c).
 * There being none is fine. */
MUST_USE enum status store_supersede_best(struct store *store, struct error *err);

/* A checkpoint of `step` has become durable under its name: rewrite the state file (publish), then
 * delete what retention asks for: oldest by step first, only names of the ring's form, as many as
 * needed, never the newest. Checkpoints newer than `step` (left by a run that this one did not
 * continue) are neither counted nor deleted until a commit passes them. The directory counts, not
 * what this process remembers; the time of a checkpoint is the state file's, else its file's.
 * keep_every_n_seconds as tf.train.CheckpointManager: a checkpoint that would be deleted stays for
 * ever when it was saved at least that long after the last one that stayed (last_preserved).
 * Writer's thread; blocking. STATUS_IO; nothing good is lost on failure: when the state file cannot
 * be written nothing is deleted, what could not be deleted is tried again at the next commit. */
MUST_USE enum status store_committed(struct store *store, uint64_t step, struct error *err);

/* Release the lock. NULL is fine. */
void store_close(struct store *store);

#ifdef __cplusplus
}
#endif
#endif
