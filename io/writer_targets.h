/* writer_targets.h - one save, synchronously: encode a filled slot and publish it under each of its
 * names. Private to the writer.
 *
 * Each target is encoded by itself, straight into its temporary file: nothing that has the size of
 * a checkpoint is ever held in memory, and what is fsynced is what was encoded.
 *
 * Usage:
 *     TRY(writer_targets_init(&targets, &options, err));
 *     status = writer_targets_write(&targets, slot, step, request.targets, n, metadata, m,
 *                                   &result, err);
 *     writer_targets_deinit(&targets);
 *
 * THREADS: init and deinit while the writer's thread does not run; write on that thread.
 */
#ifndef CAIRN_IO_WRITER_TARGETS_H
#define CAIRN_IO_WRITER_TARGETS_H

#include "io/writer.h"

#ifdef __cplusplus
extern "C" {
#endif

struct writer_targets {
    const struct file_table *files;
    struct store *store;
    struct checkpoint_encoder *encoder;
    struct tensor_view tensors[SNAPSHOT_TENSORS_MAX]; /* those of the target being written */
    char host[256], pid[24];
};

/* Allocates the encoder. After a failure deinit may be called, but need not be. */
MUST_USE enum status writer_targets_init(struct writer_targets *targets,
                                         const struct writer_options *options, struct error *err);
void writer_targets_deinit(struct writer_targets *targets);

/* Publish `slot`, whose bytes must be there (snapshot_wait), under every name of `list`, in order;
 * store_committed follows a ring target. Stops at the first failure and returns its status. Adds to
 * *result: targets_published, path, sizes and times. Blocking. */
MUST_USE enum status writer_targets_write(struct writer_targets *targets,
                                          const struct snapshot_slot *slot, uint64_t step,
                                          const struct save_target *list, size_t count,
                                          const struct metadata_pair *metadata,
                                          size_t metadata_count, struct save_result *result,
                                          struct error *err);

#ifdef __cplusplus
}
#endif
#endif
