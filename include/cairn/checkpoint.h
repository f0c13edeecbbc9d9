/* checkpoint.h - libcairn-checkpoint: checkpoints that never stall training, for any trainer.
 *
 * A save is at most one memory copy; compressing, syncing and publishing happen on threads of the
 * library. After any stop, SIGKILL and power cuts included, the newest checkpoint that verifies is
 * found and loaded; a damaged one is reported and the one before it is used. A checkpoint is a zstd
 * file with a safetensors file in it: `zstd -d` and any safetensors reader open it, and so do
 * `cairn inspect` and `cairn checkpoints`.
 *
 * Usage:
 *     struct cairn_checkpoint *saves;
 *     struct cairn_checkpoint_options options = CAIRN_CHECKPOINT_OPTIONS_INIT;
 *     struct cairn_error error;
 *     if (cairn_checkpoint_open("runs/a", &options, &saves, &error) != CAIRN_OK) {
 *         return fail(&error);
 *     }
 *     struct cairn_tensor weight = {"dense.weight", CAIRN_F32, CAIRN_HOST, w, 2, {64, 128}};
 *     bool found;
 *     uint64_t step = 0;
 *     if (cairn_checkpoint_add(saves, &weight, &error) != CAIRN_OK || // all that a resume needs
 *         cairn_checkpoint_restore_latest(saves, &found, &step, &error) != CAIRN_OK) {
 *         return fail(&error);
 *     }
 *     while (step < last) {
 *         train();
 *         step++;
 *         if (step % 100 == 0 && // returns at once
 *             cairn_checkpoint_save(saves, step, 0, NULL, &error) != CAIRN_OK) {
 *             return fail(&error);
 *         }
 *     }
 *     if (cairn_checkpoint_save(saves, step, CAIRN_CHECKPOINT_MUST, NULL, &error) != CAIRN_OK ||
 *         cairn_checkpoint_close(saves, &error) != CAIRN_OK) {
 *         return fail(&error); // the last save is not on the disk
 *     }
 *
 * For a resumed run to equal one that was never stopped, bit for bit, everything that the next step
 * depends on has to be in the checkpoint: weights, moments of the optimiser, state of the random
 * numbers, position in the data, running sums.
 *
 * THREADS: the first restore_latest of a directory that is open for saves starts two threads (the
 * second copies steady tensors while the first still writes the save before); for the length of a
 * restore, or of a save with compression_threads above 1, there are some more (at most one a
 * processor, or as many as asked for). All of them block all signals. Threads run on the processors
 * of the thread that makes them: where a trainer's thread is bound to one core (as by
 * OMP_PROC_BIND), let it call cairn_checkpoint_restore_latest with all of them. A handle is used by
 * one thread at a time; different handles are independent. No function is safe in a signal handler,
 * and a handle must not be used in a child made by fork.
 *
 * SEVERAL PROCESSES: a directory takes one handle that writes. Where all processes of a run hold
 * the same state, let one of them save and restore, and send the state to the others. Where each
 * holds a part, each has a directory, and after a kill their newest checkpoints may be of different
 * steps. Before any saves again let each cairn_checkpoint_wait, and tell the others what it
 * returned: then they are one save apart at most. Where one has failed none may save any more until
 * the run has been started again, or else retention deletes the step that all of them have.
 * keep_max must be 2 or more, so that those that are ahead still have the step of the others; 3
 * allow for a file that is damaged, too. At the start they agree on the lowest step; those that are
 * ahead move their newer files away, call cairn_checkpoint_restore_latest once more, and compare
 * again, until all have the same. Where some have no checkpoint yet, those that have one move it
 * away and restore once more, too: found is false, and tensors and values are still those of the
 * first restore, so they have to be set as at a start.
 *
 * GOING BACK: move the newer files out of the directory, then restore. A warm start of another run:
 * open the old directory read-only, add, restore, close; then open the new one, add, restore (it
 * has nothing, so that the tensors stay as they are).
 *
 * CUDA: saves and restores copy on options.cuda_stream, which is of the tensors' device; a restore
 * waits for it. Any device may be the current one; it is left as it is. Neither call may be made
 * while that stream is being captured into a graph. As the library's thread waits for events,
 * capture with cudaStreamCaptureModeThreadLocal or after cairn_checkpoint_wait.
 *
 * VERSIONS: until 1.0 a new minor version may break programs (the shared library's name has it).
 * Otherwise cairn_checkpoint_options (by its `size`), _event and _totals can grow at the end;
 * cairn_error and cairn_tensor, which lie in the program, cannot. Newer libraries read older files;
 * a newest file of a version that a library does not know is refused (CAIRN_ERROR_CORRUPT).
 *
 * PLATFORMS: Linux on little-endian processors; tested on x86-64.
 *
 * MEMORY: two copies of all registered tensors in host memory, made by the first
 * cairn_checkpoint_restore_latest; of CUDA tensors also two on the device; for compression 10 to 15
 * MB a thread at levels up to 3, up to 80 MB a thread from level 15 on. cairn_checkpoint_save
 * allocates nothing unless values (cairn_checkpoint_set_bytes, _set_string) have grown; the thread
 * that writes, for as long as it does, the file's header and the list of the directory. While a
 * restore lasts it takes, besides, the size of the file and that of the tensors in it.
 *
 * LIMITS: a checkpoint holds at most 64 GiB, tensors and values together; the constants below say
 * how many of them and how long their names.
 *
 * ERRORS: functions that can fail return a status; a `struct cairn_error` (may be NULL) gets the
 * same status and a sentence for people. A handle that is NULL is CAIRN_ERROR_USAGE, and functions
 * without a status have nothing to tell of it. The library never prints, never exits and installs
 * no signal handler. A failure in the background (a full disk) is reported by the on_error
 * callback, by cairn_checkpoint_poll and _wait, and by cairn_checkpoint_save where
 * options.on_failure asks for it.
 *
 * SYMBOLS: every name begins with cairn_ or CAIRN_. Neither the shared nor the static library shows
 * any other name to the program that links it.
 */
#ifndef CAIRN_CHECKPOINT_H
#define CAIRN_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define CAIRN_API __attribute__((visibility("default")))
#define CAIRN_MUST_USE __attribute__((warn_unused_result))
#else
#define CAIRN_API
#define CAIRN_MUST_USE
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- version ---- */

#define CAIRN_CHECKPOINT_VERSION_MAJOR 0
#define CAIRN_CHECKPOINT_VERSION_MINOR 1
#define CAIRN_CHECKPOINT_VERSION_PATCH 0
#define CAIRN_CHECKPOINT_VERSION                                                                   \
    (CAIRN_CHECKPOINT_VERSION_MAJOR * 10000 + CAIRN_CHECKPOINT_VERSION_MINOR * 100 +               \
     CAIRN_CHECKPOINT_VERSION_PATCH)

/* CAIRN_CHECKPOINT_VERSION of the library that is running (the macro is that of the header). */
CAIRN_API unsigned cairn_checkpoint_version(void);

/* Can this build of the library take CUDA tensors? */
CAIRN_API bool cairn_checkpoint_has_cuda(void);

/* ---- errors ---- */

enum cairn_status {
    CAIRN_OK = 0,
    CAIRN_ERROR_INTERNAL, /* a defect of the library */
    CAIRN_ERROR_MEMORY,   /* out of memory */
    CAIRN_ERROR_USAGE,    /* called wrongly: options, names, the order of calls */
    CAIRN_ERROR_INPUT,    /* a file or directory is missing or may not be read */
    CAIRN_ERROR_CORRUPT,  /* there are checkpoints and none of them verifies; or: one was damaged */
    CAIRN_ERROR_MISFIT,   /* the tensors in the checkpoint are not those that were registered */
    CAIRN_ERROR_NONFINITE, /* a tensor holds a NaN or an infinity: not published */
    CAIRN_ERROR_OUTPUT, /* the directory cannot be created, or another process is writing to it */
    CAIRN_ERROR_IO,     /* a disk is full or fails */
    CAIRN_ERROR_DEVICE  /* no CUDA, or a CUDA call failed */
};

struct cairn_error {
    enum cairn_status status;
    char message[1024]; /* UTF-8, one sentence or several, no newline at the end */
};

/* Short English text, static. */
CAIRN_API const char *cairn_checkpoint_status_text(enum cairn_status status);

/* ---- opening a directory ---- */

struct cairn_checkpoint;

/* What a save does that finds both copies still with the writer (the disk is slower than the saves
 * come), unless it is a CAIRN_CHECKPOINT_MUST. */
enum cairn_checkpoint_busy {
    CAIRN_CHECKPOINT_SKIP,   /* this save is left out */
    CAIRN_CHECKPOINT_LATEST, /* it takes the place of one that waits; is left out when none waits */
    CAIRN_CHECKPOINT_WAIT    /* it blocks until a copy is free */
};

/* What happens after a save has failed in the background. */
enum cairn_checkpoint_on_failure {
    CAIRN_CHECKPOINT_WARN, /* it is reported; later saves are tried. A program without on_error that
                              does not poll sees CAIRN_OK from every save, and only at the end, by
                              cairn_checkpoint_close, that nothing was saved for hours */
    CAIRN_CHECKPOINT_STOP  /* besides, every later cairn_checkpoint_save returns that failure, until
                              a cairn_checkpoint_restore_latest has gone back */
};

/* Told about every background failure, every damaged checkpoint that was passed over
 * (CAIRN_ERROR_CORRUPT) and every warning (CAIRN_OK; there is one: the file system has no locks).
 * Runs on the thread that uses the handle, inside one of its calls, and must neither use the handle
 * nor leave by an exception or longjmp. `error` is valid during the call. */
typedef void (*cairn_checkpoint_error_callback)(void *context, const struct cairn_error *error);

struct cairn_checkpoint_options {
    size_t size;               /* of this struct, so that it can grow; the macro below sets it */
    uint32_t keep_max;         /* how many checkpoints stay; 0: all */
    double keep_every_seconds; /* besides, one per so many seconds stays for ever; 0: none does */
    int compression_level;     /* zstd's, -7 to 19 (0 is 3); 1 is right nearly always. Below 3, what
                                  would shrink by less than an eighth is stored as it is */
    enum cairn_checkpoint_busy busy;
    enum cairn_checkpoint_on_failure on_failure;
    bool read_only; /* for evaluation: no lock, nothing is created or written, save is refused. Safe
                       beside a writer that deletes old checkpoints. A directory that does not exist
                       has no checkpoint: a mistyped path looks like a fresh start */
    cairn_checkpoint_error_callback on_error; /* NULL: none */
    void *context;                            /* first argument of on_error */
    void *cuda_stream; /* cudaStream_t of the training step; NULL: the default stream. It must
                          outlive the handle */
    uint32_t compression_threads; /* that compress, the writer's own included; 0 is 1. The files do
                                     not depend on it */
};

/* keep 5, level 1, skip, warn. */
#define CAIRN_CHECKPOINT_OPTIONS_INIT                                                              \
    {                                                                                              \
        sizeof(struct cairn_checkpoint_options), 5, 0.0, 1, CAIRN_CHECKPOINT_SKIP,                 \
            CAIRN_CHECKPOINT_WARN, false, NULL, NULL, NULL, 0                                      \
    }

/* Open a directory for the checkpoints of one run; it is created where needed. A relative path is
 * looked up at every save and restore: no chdir may change what it means while the handle lives.
 * A kernel lock keeps every other writer out (CAIRN_ERROR_OUTPUT, naming its process and host)
 * until the handle is closed or the process ends, however it ends; a child forked meanwhile that
 * does not exec has it too, and keeps it as long as it lives (the message then names the process
 * that forked it). Where the directory is deleted, moved or replaced the saves of this handle fail
 * from then on (CAIRN_ERROR_OUTPUT). Temporary files of killed processes are removed (where the
 * file system has no locks, with the first save). `options` NULL: the macro's. *out is NULL on
 * failure. Blocking (a few file system calls). */
CAIRN_MUST_USE CAIRN_API enum cairn_status
cairn_checkpoint_open(const char *directory, const struct cairn_checkpoint_options *options,
                      struct cairn_checkpoint **out, struct cairn_error *error);

/* Wait until every accepted save has ended, release the lock, free everything. Returns what
 * cairn_checkpoint_wait returns; the handle is gone in any case. NULL is fine. Blocking. */
CAIRN_API enum cairn_status cairn_checkpoint_close(struct cairn_checkpoint *handle,
                                                   struct cairn_error *error);

/* ---- what is saved ---- */

/* Bits are kept as they are, so that other types can go as one of these: bool and int8 as U8,
 * uint32 as I32, uint64 as I64, int16 as U8 with the last dimension doubled. */
enum cairn_dtype {
    CAIRN_F32, /* IEEE binary32; must be finite, see cairn_checkpoint_add */
    CAIRN_F64, /* IEEE binary64; the same */
    CAIRN_I64,
    CAIRN_U8,
    CAIRN_F16,  /* IEEE binary16; the same */
    CAIRN_BF16, /* the upper half of an F32; the same */
    CAIRN_I32
};

enum cairn_memory {
    CAIRN_HOST, /* ordinary memory */
    CAIRN_CUDA  /* memory of a CUDA device; all such tensors of a handle on the same one */
};

enum { CAIRN_RANK_MAX = 4, CAIRN_NAME_BYTES_MAX = 95, CAIRN_TENSORS_MAX = 960 };

struct cairn_tensor {
    const char *name; /* 1 to 95 printable ASCII characters, no spaces; copied */
    enum cairn_dtype dtype;
    enum cairn_memory memory;
    void *data; /* row-major, without gaps; read by save, written by restore. The caller's, at this
                   address as long as the handle lives. May be NULL when there are no elements */
    uint32_t rank; /* 0 to 4; 0 is one element. Flatten what has more */
    uint64_t shape[CAIRN_RANK_MAX];
};

/* Register a tensor. Only before the first cairn_checkpoint_restore_latest: what a framework makes
 * at its first step (an optimiser's moments) must be made before. Another list needs another
 * handle and, as checkpoints of the old list do not fit it, another directory (a warm start, see
 * GOING BACK). CAIRN_ERROR_USAGE when the name is bad, taken, "__metadata__" or begins with
 * "bytes.", or there are too many or they are too large; CAIRN_ERROR_DEVICE for a CUDA tensor when
 * this build has no CUDA or `data` is not memory of its device.
 * Tensors of F64, F32, F16 or BF16 with a NaN or an infinity are never published (the save fails
 * with CAIRN_ERROR_NONFINITE), so that a diverged run cannot replace a good checkpoint. Where such
 * values are legal let the name begin with "state." or "history.". Beware of these two elsewhere:
 * they switch the check off, and keys of PyTorch's optimisers begin with "state."; put "optimizer."
 * before them. */
CAIRN_MUST_USE CAIRN_API enum cairn_status cairn_checkpoint_add(struct cairn_checkpoint *handle,
                                                                const struct cairn_tensor *tensor,
                                                                struct cairn_error *error);

/* As cairn_checkpoint_add, with a promise that makes a save quicker, and one of large tensors as
 * quick as that of small ones: between a save and the call of cairn_checkpoint_settle that follows
 * it the program does not change the tensor. For weights and moments, which only the update changes:
 *
 *     forward, backward;
 *     cairn_checkpoint_settle(saves);
 *     update;
 *
 * Such tensors are not copied by cairn_checkpoint_save but beside forward and backward. Tensors in
 * CUDA memory are copied in stream order anyway, so that nothing need be promised for them.
 * A program that breaks the promise publishes checkpoints that look whole and hold values of two
 * steps: nothing can notice it. */
CAIRN_MUST_USE CAIRN_API enum cairn_status
cairn_checkpoint_add_steady(struct cairn_checkpoint *handle, const struct cairn_tensor *tensor,
                            struct cairn_error *error);

/* ---- values: small things with a name ---- */

enum {
    CAIRN_STRINGS_MAX = 24,
    CAIRN_STRING_BYTES_MAX = 65536, /* all keys and values together */
    CAIRN_BYTES_MAX = 64,
    CAIRN_BYTES_NAME_MAX = 89
};

/* Values are part of the state: each save has them as they are then, and restore_latest brings back
 * those of the checkpoint (those it lacks are gone). Strings are its metadata, shown by
 * `cairn inspect`; bytes of any number are U8 tensors called "bytes.<key>".
 * Setting copies key and value, and replaces; NULL as the value removes. Keys as tensor names; a
 * string is UTF-8. CAIRN_ERROR_USAGE when a limit above is passed, or for the keys that are the
 * format's own: step, library, created, host, pid, format_version, digest.*. */
CAIRN_MUST_USE CAIRN_API enum cairn_status
cairn_checkpoint_set_string(struct cairn_checkpoint *handle, const char *key, const char *value,
                            struct cairn_error *error);
CAIRN_MUST_USE CAIRN_API enum cairn_status
cairn_checkpoint_set_bytes(struct cairn_checkpoint *handle, const char *key, const void *bytes,
                           size_t size, struct cairn_error *error);

/* The value, or NULL when there is none. The handle's, valid until it is set or restored. Bytes of
 * size 0 are not NULL. */
CAIRN_API const char *cairn_checkpoint_get_string(const struct cairn_checkpoint *handle,
                                                  const char *key);
CAIRN_API const void *cairn_checkpoint_get_bytes(const struct cairn_checkpoint *handle,
                                                 const char *key, size_t *size);

/* ---- restore ---- */

/* Load the newest checkpoint that verifies into the registered tensors and the values. *found is
 * false, and nothing else happens, when the directory has no checkpoint: a fresh start. Every bit
 * is verified before a tensor is touched.
 *  - CAIRN_ERROR_CORRUPT: there are checkpoints and none of them verifies. Never a fresh start.
 *  - CAIRN_ERROR_INPUT: the newest one that is not known to be damaged cannot be read (no right to,
 *    too many open files). Make it readable or move it away.
 *  - CAIRN_ERROR_MISFIT: a registered tensor is missing in the checkpoint or has another type or
 *    shape, or the checkpoint has a tensor that is not registered (a read-only handle may register
 *    a part of them). Nothing was touched.
 *  - CAIRN_ERROR_DEVICE: a copy to the device failed; the tensors' contents are undefined.
 *  - CAIRN_ERROR_OUTPUT: the directory was deleted, moved or replaced since it was opened.
 * Must be called, and succeed, before the first save: a run that ignored the checkpoints of its
 * directory would bury them. Closes the list of tensors and allocates the copies. May be called
 * again later to go back to the newest checkpoint; it then waits for the saves under way. `step`
 * may be NULL. Blocking. */
CAIRN_MUST_USE CAIRN_API enum cairn_status
cairn_checkpoint_restore_latest(struct cairn_checkpoint *handle, bool *found, uint64_t *step,
                                struct cairn_error *error);

/* ---- save ---- */

enum { CAIRN_CHECKPOINT_MUST = 1 }; /* flags: never skipped; waits for a copy to be free */

enum cairn_checkpoint_outcome {
    CAIRN_CHECKPOINT_ACCEPTED,
    CAIRN_CHECKPOINT_SKIPPED /* by the busy policy */
};

/* Take a copy of everything and let the writer publish it as model.ckpt-<step>.safetensors.zst.
 * When it returns, host tensors may change, but for steady ones. CUDA tensors are copied in stream
 * order: work enqueued on options.cuda_stream before this call is in the copy, work enqueued later
 * is not; the call does not wait for the device. `step` must not be lower than that of the last
 * save or restore (after a restore that found nothing any will do); the same step once more
 * replaces its file. `outcome` may be NULL. Failures of the copy itself (CAIRN_ERROR_MEMORY,
 * CAIRN_ERROR_DEVICE), of the call (CAIRN_ERROR_USAGE), and under CAIRN_CHECKPOINT_STOP an earlier
 * one in the background. Blocks only where the busy policy or CAIRN_CHECKPOINT_MUST say so. */
CAIRN_MUST_USE CAIRN_API enum cairn_status
cairn_checkpoint_save(struct cairn_checkpoint *handle, uint64_t step, unsigned flags,
                      enum cairn_checkpoint_outcome *outcome, struct cairn_error *error);

/* Tensors of cairn_checkpoint_add_steady may change from here on, until the next save. Blocks until
 * what a save has yet to copy of them is copied, at worst for the time of that copy; between saves
 * it costs next to nothing, so that it can be called before each update. NULL is fine. */
CAIRN_API void cairn_checkpoint_settle(struct cairn_checkpoint *handle);

/* What became of an accepted save. Later versions may add fields at the end. */
struct cairn_checkpoint_event {
    uint64_t step;
    struct cairn_error error; /* status CAIRN_OK: the checkpoint is durable, the state file written
                                 and retention done; else the message says how far it came */
    bool dropped;             /* a newer one took its place (CAIRN_CHECKPOINT_LATEST): not written,
                                 even where the newer one then failed in cairn_checkpoint_save */
    uint64_t bytes;           /* size of the file */
    uint64_t raw_bytes;       /* of the tensors in it */
    double stall_seconds;     /* that cairn_checkpoint_save took, and the settle after it */
    double durable_seconds;   /* from its call until the file was durable under its name; the state
                                 file and the deletion of old checkpoints come after that */
    uint64_t put_off_bytes; /* of the steady tensors, not copied by cairn_checkpoint_save itself */
};

/* The next save that has ended, in their order, or NULL when there is none now. Valid until the
 * next call on the handle. Never blocks. Polling is not necessary: of more than 64 that nobody
 * asked for, the oldest are forgotten (the callback and the totals miss none). */
CAIRN_API const struct cairn_checkpoint_event *
cairn_checkpoint_poll(struct cairn_checkpoint *handle);

/* Block until every accepted save has ended. CAIRN_OK when nothing failed in the newest of them
 * that was not dropped, else its failure; that of the state file or of a deletion leaves a durable
 * checkpoint behind (cairn_checkpoint_poll tells). */
CAIRN_API enum cairn_status cairn_checkpoint_wait(struct cairn_checkpoint *handle,
                                                  struct cairn_error *error);

/* Sums over the life of the handle. Later versions may add fields at the end. */
struct cairn_checkpoint_totals {
    /* After cairn_checkpoint_wait, requested = saved + skipped + failed. */
    uint64_t requested, saved, skipped, failed;
    uint64_t delayed; /* of them waited for a free copy */
    double stall_seconds_total, stall_seconds_max;
    double stall_seconds_p50, stall_seconds_p99; /* of the latest 65,536 */
};

/* Valid until the next call on the handle. Never NULL. */
CAIRN_API const struct cairn_checkpoint_totals *
cairn_checkpoint_get_totals(struct cairn_checkpoint *handle);

#ifdef __cplusplus
}
#endif
#endif
