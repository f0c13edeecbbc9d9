/* bench_checkpoint.h - the parts of `cairn bench checkpoint` and what they hand to each other.
 *
 *     plan     what to measure: the lists of options, and the defaults of --quick
 *     place    a directory of its own on a disk or in memory, removed at the end
 *     trainee  something that makes steps and has a state: the real trainer, or a made-up state
 *              beside busy arithmetic
 *     block    some steps in one mode at one interval; gives a struct checkpoint_round
 *     restore  the way back, split in its parts, cold and warm
 *     encode   the writer's arithmetic alone, beside zstd alone on the same bytes
 *     kill     children that are killed, and what they lost
 *     cell     the figures of a cell, and what all its repeats together show
 *     report   JSON; table: the terminal's; csv; picture: terminal, PNG
 *
 * A cell is one mode at one interval of one trainee in one place. The cells of one interval take
 * turns, repeat by repeat, and make the same steps on the same batches; what a mode costs is taken
 * from pairs of blocks of the same repeat, itself against `off`. Not in a block's time: a writer's
 * first save, which comes before the first step as in a run of the trainer, and what the writer has
 * still to do after the last step. A save begins in the middle of an interval, so it is done by
 * then where it takes less than half of one; saves of a large state may take longer, so its blocks
 * have three intervals (without --quick and --saves), and the writer may be at work in all of a
 * block but the first half of an interval.
 *
 * The mode `copy` is no way to save: where a save is due it copies the state once into one of two
 * buffers and waits for it. It says what the least stall is that a snapshot without overlap can
 * have, measured like one.
 *
 * THREADS: the main thread.
 */
#ifndef CAIRN_BENCH_BENCH_CHECKPOINT_H
#define CAIRN_BENCH_BENCH_CHECKPOINT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bench/bench_clock.h"
#include "host/options.h"
#include "io/store.h"
#include "io/writer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- plan ------------------------------------------------------------------------------------ */

enum checkpoint_mode {
    CHECKPOINT_OFF,
    CHECKPOINT_COPY,
    CHECKPOINT_SYNC, /* the trainer waits until the save is durable */
    CHECKPOINT_SYNC_ZSTD,
    CHECKPOINT_ASYNC,
    CHECKPOINT_ASYNC_ZSTD,
    CHECKPOINT_DIRECT, /* async without the copy on the device first */
    CHECKPOINT_DIRECT_ZSTD,
    CHECKPOINT_MODES
};

enum {
    CHECKPOINT_LIST_MAX = 16,
    CHECKPOINT_PLACES = 2,
    /* zstd's fastest level of this format: floating-point numbers are stored as they are */
    CHECKPOINT_STORED_LEVEL = -7
};

/* "async+zstd"; static. */
const char *checkpoint_mode_name(enum checkpoint_mode mode);
bool checkpoint_mode_saves(enum checkpoint_mode mode); /* neither off nor copy */
bool checkpoint_mode_waits(enum checkpoint_mode mode); /* sync */
bool checkpoint_mode_is_direct(enum checkpoint_mode mode);
int checkpoint_mode_level(enum checkpoint_mode mode, const struct options *options);

struct checkpoint_plan {
    const struct options *options;
    unsigned repeats;
    bool modes[CHECKPOINT_MODES];
    uint64_t intervals[CHECKPOINT_LIST_MAX]; /* in steps, 0 = an epoch */
    size_t interval_count;
    double sizes[CHECKPOINT_LIST_MAX]; /* MB, 0 = the real trainer's */
    size_t size_count;
    bool disk, tmpfs;
    uint64_t kills, saves;
    double step_seconds;
    bool intervals_given, kills_given;
};

/* From the options. STATUS_USAGE naming the option and the word that is wrong. */
MUST_USE enum status checkpoint_plan_make(const struct options *options,
                                          struct checkpoint_plan *out, struct error *err);
/* Minutes are measured before a file is written: whether one could be published at `path`, the value
 * of --`option` ("": none is wanted). STATUS_OUTPUT naming both. */
MUST_USE enum status checkpoint_plan_try_file(const char *option, const char *path,
                                              struct error *err);
/* When --modes asks for what the device of the options has not: STATUS_DEVICE. A child looks: what
 * kills trainers must not have a device itself. */
MUST_USE enum status checkpoint_plan_try_device(const struct checkpoint_plan *plan,
                                                struct error *err);
/* Drop the modes that a device with unified memory has not. True when there were any. */
bool checkpoint_plan_fit(struct checkpoint_plan *plan, bool unified_memory);
/* Intervals of a state of `bytes`, into `out`; their number. `made_up`: no epochs. */
size_t checkpoint_plan_intervals(const struct checkpoint_plan *plan, bool made_up, double bytes,
                                 uint64_t out[CHECKPOINT_LIST_MAX]);
/* In which order the modes that are asked for take their turns in this repeat, into `out`; their
 * number. Every other repeat is the reverse of the one before it, and who begins changes, so that
 * none is always behind the same one. */
size_t checkpoint_plan_turn(const bool asked[CHECKPOINT_MODES], unsigned repeat,
                            enum checkpoint_mode out[CHECKPOINT_MODES]);
/* Steps of a block. */
uint64_t checkpoint_plan_steps(const struct checkpoint_plan *plan, bool made_up, double bytes,
                               uint64_t interval);

/* ---- place ----------------------------------------------------------------------------------- */

struct checkpoint_place {
    const char *name; /* "dir", "tmpfs" */
    char path[FILE_PATH_CAPACITY];
    bool in_memory; /* tmpfs, whatever it is called: /tmp is one on some systems */
    int lock;       /* the locked file in it; -1: the file system has no locks */
};

/* Make a directory below --dir or /dev/shm, after those that a killed benchmark has left there are
 * removed. A directory is left over when nobody holds the lock of its file `lock`. STATUS_OUTPUT.
 */
MUST_USE enum status checkpoint_place_make(const struct options *options, bool tmpfs,
                                           struct checkpoint_place *out, struct error *err);
/* Remove the directory with everything in it, then let others have the lock. */
void checkpoint_place_close(struct checkpoint_place *place);
/* A directory inside of it, which must not exist. STATUS_OUTPUT. */
MUST_USE enum status checkpoint_place_enter(const struct checkpoint_place *place, const char *name,
                                            char out[FILE_PATH_CAPACITY], struct error *err);
/* What it has too little of for a made-up state of so many MB, in words; static. NULL: nothing. */
const char *checkpoint_place_lacks(const struct checkpoint_place *place, double megabytes);
/* Remove a directory with everything in it; that it cannot is not reported. */
void checkpoint_place_remove(const char *path);

/* ---- trainee --------------------------------------------------------------------------------- */

struct checkpoint_trainee {
    struct backend *be;
    struct store *store; /* of its directory, open as long as the trainee */
    const void *region;  /* device memory of the state */
    size_t region_bytes;
    double state_bytes;   /* of all tensors of a checkpoint; known after the first save */
    uint64_t epoch_steps; /* 0: there are no epochs */
    bool made_up;
    uint64_t step;         /* steps done since it was made */
    struct writer *writer; /* the block's: takes the saves, and is settled before each update. NULL:
                              none */
    /* Back to the batch where every block begins; what was learnt stays. */
    enum status (*rewind)(struct checkpoint_trainee *self, struct error *err);
    enum status (*make_step)(struct checkpoint_trainee *self, struct error *err);
    /* Ask the writer for a save of the state, as the trainer does. */
    enum status (*save)(struct checkpoint_trainee *self, enum save_outcome *outcome,
                        struct error *err);
    /* Hear of a finished save. */
    void (*heard)(struct checkpoint_trainee *self, const struct save_result *result);
    /* Read a checkpoint's tensors back into the device. */
    enum status (*load)(struct checkpoint_trainee *self, const struct checkpoint *from,
                        struct error *err);
    void (*free)(struct checkpoint_trainee *self);
};

/* The trainer of `cairn train` on --data, with its files in `directory`. */
MUST_USE enum status checkpoint_real_create(const struct options *options, struct backend *be,
                                            const char *directory, struct checkpoint_trainee **out,
                                            struct error *err);

/* Three parts of `megabytes` together, called as a model's: weights (normal, each row of 256 with a
 * deviation of its own between 0.01 and 0.1), Adam's m (normal, rows of 1e-5 to 1e-3) and v (its
 * square, never 0): as random in the mantissa and as alike in the exponent as trained numbers, and
 * the same in every run. A step is `step_seconds` of additions and multiplications on one core,
 * measured before, so that it takes longer when the writer needs that core (it needs no memory, so
 * a copy beside it costs less than beside a real step), and at its end an update that changes
 * nothing. */
MUST_USE enum status checkpoint_synthetic_create(struct backend *be, double megabytes,
                                                 double step_seconds, const char *directory,
                                                 struct checkpoint_trainee **out,
                                                 struct error *err);

/* ---- block ----------------------------------------------------------------------------------- */

/* What one block measured. All numbers are double: checkpoint_columns lists them. */
struct checkpoint_round {
    double steps, seconds, step_seconds;
    double lost; /* share of the throughput of `off` in the same repeat; NaN without `off` */
    /* p99 is NaN when there were fewer than 100 calls */
    double stalls;                          /* how many were measured: of accepted saves */
    double stall_p50, stall_p99, stall_max; /* seconds in the save call, and before the update that
                                               follows (writer_settle) */
    double cpu_p50, cpu_p99, cpu_max;       /* processor time of the trainer's thread in both */
    double asked, done, skipped, delayed, failed;
    double share_done; /* of the saves asked for; at an interval of one step: of all steps */
    double durable_p50, durable_max; /* from the call until the file's name is durable */
    /* Means over the saves that became durable. durable_mean is the sum of the parts from `call`,
     * the trainer's own, to `rename`; retain, the state file and what is deleted, comes after it. */
    double durable_mean, call, queued, snapshot, compress, write, fsync, rename, retain;
    double bytes, raw_bytes, ratio;
    double writer_cpu;                                 /* per save */
    double writer_speed;                               /* raw bytes per second of compressing */
    double pinned_bytes, device_bytes, resident_bytes; /* resident: what the process grew by */
};

/* Every stall of a cell, in the order of repeats and saves. */
struct checkpoint_stalls {
    double *walls, *cpus; /* [count] seconds */
    size_t count;
};

/* Make `steps` steps with a save in the middle of each `interval` of them; then wait until all
 * saves are durable, which is not part of the time. The stalls are appended to `stalls`, which may
 * be NULL, and whose arrays the caller frees. A save that fails is an error: STATUS_IO. */
MUST_USE enum status checkpoint_block_run(struct checkpoint_trainee *trainee,
                                          const struct checkpoint_plan *plan,
                                          enum checkpoint_mode mode, uint64_t interval,
                                          uint64_t steps, struct checkpoint_round *out,
                                          struct checkpoint_stalls *stalls, struct error *err);

/* The stalls' figures in `out` from `walls` and `cpus` [count], which are sorted for it. */
void checkpoint_block_describe(double *walls, double *cpus, size_t count,
                               struct checkpoint_round *out);

/* Make sure that the state is durable now, compressed as --compression-level says. */
MUST_USE enum status checkpoint_block_save(struct checkpoint_trainee *trainee,
                                           const struct checkpoint_plan *plan, struct error *err);

/* A writer for one mode into the trainee's store; the caller frees it. */
MUST_USE enum status checkpoint_block_writer(struct checkpoint_trainee *trainee,
                                             const struct options *options,
                                             enum checkpoint_mode mode, struct writer **out,
                                             struct error *err);

/* ---- restore --------------------------------------------------------------------------------- */

enum checkpoint_restore_part {
    CHECKPOINT_FIND,       /* list the directory, choose the newest */
    CHECKPOINT_READ,       /* the file into memory */
    CHECKPOINT_VERIFY,     /* digests, seek table */
    CHECKPOINT_DECOMPRESS, /* frames, with their checksums */
    CHECKPOINT_LOAD,       /* into the device */
    CHECKPOINT_WHOLE,      /* all of it by the calls of `train`, but only weights, m and v are
                              loaded; measured by itself */
    CHECKPOINT_RESTORE_PARTS
};

const char *checkpoint_restore_part_name(enum checkpoint_restore_part part);

struct checkpoint_restore {
    unsigned repeats;
    bool cold_possible; /* the page cache let go of the file */
    double warm[CHECKPOINT_RESTORE_PARTS][BENCH_REPEATS_MAX];
    double cold[CHECKPOINT_RESTORE_PARTS][BENCH_REPEATS_MAX];
    double bytes; /* of the tensors */
};

/* Read the newest checkpoint of the trainee's directory, for who needs a state's bytes; the caller
 * frees *out (checkpoint_free). */
MUST_USE enum status checkpoint_restore_read(struct checkpoint_trainee *trainee,
                                             struct checkpoint **out, struct error *err);
/* Copy the file of the newest checkpoint of the trainee's directory to `path`, in place of what is
 * there, for who saves the same tensors in other ways. STATUS_IO, STATUS_MEMORY. Blocking: until
 * the copy is durable. */
MUST_USE enum status checkpoint_restore_keep(const struct checkpoint_trainee *trainee,
                                             const char *path, struct error *err);
/* Restore the newest checkpoint of the trainee's directory, cold and warm in turns.
 * STATUS_STOPPED. */
MUST_USE enum status checkpoint_restore_run(struct checkpoint_trainee *trainee, unsigned repeats,
                                            struct checkpoint_restore *out, struct error *err);

/* ---- encode ---------------------------------------------------------------------------------- */

struct checkpoint_encoding {
    unsigned repeats, threads;
    int level;
    double raw_bytes;                /* of the tensors */
    double bytes, zstd_bytes;        /* what became of them */
    double speed[BENCH_REPEATS_MAX]; /* raw bytes per second, digests and checks included */
    double zstd_speed[BENCH_REPEATS_MAX];
    double share[BENCH_REPEATS_MAX]; /* of zstd's speed, from the same repeat */
};

/* Encode the newest checkpoint's tensors as the writer does (--compression-level and -threads; the
 * bytes are forgotten), in turns with zstd alone at that level on one thread, in pieces as long as
 * our frames and without checksums. STATUS_STOPPED. */
MUST_USE enum status checkpoint_encoding_run(struct checkpoint_trainee *trainee,
                                             const struct checkpoint_plan *plan, unsigned repeats,
                                             struct checkpoint_encoding *out, struct error *err);

/* ---- kill ------------------------------------------------------------------------------------ */

struct checkpoint_kills {
    enum checkpoint_mode mode;
    uint64_t interval, interval_steps; /* 0, an epoch, and what that is in steps */
    unsigned count;                    /* of trainers killed */
    /* Learned from a trainer before them: between two saves, and until one was durable, at most. */
    double interval_seconds, durable_seconds;
    double lost[BENCH_REPEATS_MAX];  /* steps that a new start has to make again */
    double made[BENCH_REPEATS_MAX];  /* steps that the trainer had made */
    double lived[BENCH_REPEATS_MAX]; /* seconds from its first checkpoint, which is durable */
};

double checkpoint_kills_mean(const struct checkpoint_kills *kills); /* steps lost */
double checkpoint_kills_most(const struct checkpoint_kills *kills);

/* Start trainers in children, kill each at a random moment, look what its directory holds. A
 * trainer of the mode that saves five times tells how long an interval is and a save takes at most;
 * the others live for one to five times both together. What is done goes to standard
 * error. Where --kills is not given they are fewer than its default when they take more than a
 * minute. The children are forks: call it while the signal watcher, which holds no lock, is the
 * only other thread. STATUS_IO when a child fails by itself, STATUS_STOPPED. */
MUST_USE enum status checkpoint_kill_run(const struct checkpoint_plan *plan,
                                         const struct checkpoint_place *place,
                                         enum checkpoint_mode mode, uint64_t interval,
                                         struct checkpoint_kills *out, struct error *err);

#ifdef __cplusplus
}
#endif
#endif
