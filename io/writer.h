/* writer.h - the background thread that turns a snapshot into a durable file.
 *
 *     trainer:  writer_save -> snapshot slot -> ready queue
 *     writer thread:           ready -> wait for the copy -> zstd frames -> temp file -> fsync ->
 *                              rename -> fsync directory -> (next target) -> state file ->
 *                              retention -> slot free, result queued
 *     trainer:  writer_poll at step boundaries
 *
 * When both slots are busy a save that may be skipped follows the busy policy: SKIP drops it,
 * LATEST replaces a waiting (not yet started) skippable one or drops this one, WAIT blocks. A save
 * that must happen (first, best, last, stop) waits for a slot. Every drop is counted. One snapshot
 * may be published under several names; targets are published in the order given, so the best file
 * is durable before a checkpoint that claims it. When a target fails, the later ones of the same
 * save are not published.
 * A failure is sticky in `writer_totals` and reported once by its result;
 * later saves are tried anew with a new temporary file.
 *
 * Usage:
 *     TRY(writer_create(&options, be, region, bytes, &writer, err));
 *     TRY(writer_save(writer, sources, n, &request, &outcome, err));      microseconds
 *     forward, backward; writer_settle(writer); update                    where sources are steady
 *     while (writer_poll(writer, &result)) { log it }
 *     writer_drain(writer);                                                waits for all of them
 *     writer_free(writer);
 *
 * THREADS: writer_create starts the thread and a second one, the copier, which makes the copies
 * that were put off (io/snapshot.h) while the writer is still at an earlier save; writer_free joins
 * both. Everything else is called by the trainer's thread. Both block all signals.
 */
#ifndef CAIRN_IO_WRITER_H
#define CAIRN_IO_WRITER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/base/status.h"
#include "io/checkpoint.h"
#include "io/file.h"
#include "io/snapshot.h"
#include "io/store.h"

#ifdef __cplusplus
extern "C" {
#endif

enum writer_busy { WRITER_BUSY_SKIP, WRITER_BUSY_LATEST, WRITER_BUSY_WAIT };

struct writer;

struct writer_options {
    const struct file_table *files;
    struct store *store;   /* borrowed; store_committed is called for ring targets */
    int compression_level; /* zstd, -7 to 19 */
    enum writer_busy busy;
    size_t host_capacity;         /* snapshot_pool_create's */
    unsigned compression_threads; /* the writer's own included; 0 is 1, that one alone */
    bool direct;                  /* snapshot_pool_create's */
};

/* WRITER_RESULTS_MAX: finished saves that wait to be polled. At most two are under way at a time,
 * so a trainer that polls at every step boundary never meets the limit. When more pile up, the
 * oldest successful result is dropped, failures only when there is nothing else; results_lost
 * counts them. */
enum { WRITER_TARGETS_MAX = 4, WRITER_METADATA_MAX = 32, WRITER_RESULTS_MAX = 64 };

struct save_target {
    char path[FILE_PATH_CAPACITY];
    bool ring;         /* a checkpoint of the store's ring: store_committed follows */
    bool weights_only; /* leave out tensors whose name starts with "adam.", "best.", "last.",
                          "state." or "history."; what a prediction needs (weights, vocabulary,
                          text.*) stays */
};

struct save_request {
    uint64_t step;
    bool must;         /* never skipped */
    uint64_t after_id; /* 0, or the id of an earlier save that this state builds on (the best model
                          it claims): when that one could not publish its first target this save is
                          not published either, STATUS_IO */
    struct save_target targets[WRITER_TARGETS_MAX]; /* in order of publication */
    size_t target_count;
    struct metadata_pair metadata[WRITER_METADATA_MAX]; /* strings copied by writer_save; the writer
             adds "created" (ISO 8601, UTC), "host" and "pid" where they are absent */
    size_t metadata_count;
};

enum save_outcome { SAVE_ACCEPTED, SAVE_SKIPPED };

struct save_result {
    uint64_t id, step;   /* id: the number of the accepted save, from 1 */
    enum status status;  /* of the first target that failed, or STATUS_OK */
    char message[1024];  /* why it failed */
    bool dropped;        /* replaced by a newer one under WRITER_BUSY_LATEST; nothing written */
    size_t target_count; /* of the request */
    size_t targets_published;      /* files that are durable under their names; all of them and a
                                      failure: of the state file, or of what retention deletes */
    char path[FILE_PATH_CAPACITY]; /* last target published, or the one that failed */
    bool is_renamed;               /* path is the new file, durable or not: only the fsync of its
                                      directory failed */
    uint64_t bytes, raw_bytes;     /* of the last target */
    double stall_seconds;          /* writer_save's own time on the trainer's thread, and what
                                      writer_settle waited for this save */
    double settle_seconds;         /* the second of them; beside the writer's work, not before it */
    uint64_t put_off_bytes;        /* of the tensors that writer_save did not copy */
    uint64_t copier_bytes;         /* of them, what the copier copied */
    double durable_seconds;        /* from writer_save's entry until all targets were durable under
                                      their names; without retain_seconds */
    /* sums over the targets; snapshot: the writer's wait for the copies, and its own copies of what
     * was put off; rename: with the fsync of the directory; retain: the state file, and what
     * retention deletes. What is missing to durable_seconds, with stall_seconds less
     * settle_seconds, the save spent in the queue. */
    double snapshot_seconds, compress_seconds, write_seconds, fsync_seconds, rename_seconds;
    double retain_seconds;
    double cpu_seconds; /* processor time that the writer spent on this save, on all its threads,
                           and the copier; of a dropped one the copier alone */
};

struct writer_totals {
    /* Once drained, requested = saved + skipped + failed. skipped includes dropped ones, failed
     * those whose snapshot failed; delayed: waited for a slot. */
    uint64_t requested, saved, skipped, delayed, failed;
    uint64_t results_lost; /* more than WRITER_RESULTS_MAX were not polled */
    double stall_seconds_total, stall_seconds_max; /* over all accepted saves */
    double stall_seconds_p50, stall_seconds_p99; /* nearest rank, over the latest 65,536 of them */
};

/* `device_region` as in snapshot_pool_create. */
MUST_USE enum status writer_create(const struct writer_options *options, struct backend *be,
                                   const void *device_region, size_t device_bytes,
                                   struct writer **out, struct error *err);

/* Take a snapshot of `sources` and queue it. Blocks only as the busy policy says. A failed
 * background save does not make this fail. STATUS_DEVICE or STATUS_MEMORY when the snapshot itself
 * failed: there is then no result for it, and under LATEST the save that it replaced is gone. */
MUST_USE enum status writer_save(struct writer *writer, const struct snapshot_source *sources,
                                 size_t count, const struct save_request *request,
                                 enum save_outcome *outcome, struct error *err);

/* Steady sources (io/snapshot.h) may change from here on: blocks until their copies are made. What
 * it takes is part of the stall of the latest save; nothing when none was accepted since the last
 * call. */
void writer_settle(struct writer *writer);

/* What writer_settle has taken in all, and how much of it was processor time of the caller. */
struct writer_settled {
    double seconds, cpu_seconds;
};
struct writer_settled writer_settled(const struct writer *writer);

/* The next finished save, in the order of writing; false when there is none now. Never blocks. */
bool writer_poll(struct writer *writer, struct save_result *out);

/* Block until every accepted save has finished (their results are then there to poll). */
void writer_drain(struct writer *writer);

struct writer_totals writer_get_totals(struct writer *writer);

/* What the slots hold: snapshot_pool_memory. */
void writer_memory(const struct writer *writer, size_t *pinned_bytes, size_t *device_bytes);

/* Finish what is queued, join the thread, free everything. NULL is fine. */
void writer_free(struct writer *writer);

#ifdef __cplusplus
}
#endif
#endif
