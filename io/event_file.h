/* event_file.h - TensorBoard's event files: one writer per file, and how earlier files of a
 * directory are taken back to the point that a run is restored to.
 *
 * A directory (train/, validation/) is a "run" of TensorBoard; it shows the events of all event
 * files in it, in the order of their names. Nothing is ever appended to an old file: every start
 * opens one of its own, whose name sorts behind those that are there,
 *     events.out.tfevents.<10 digits: seconds>.<host>.<pid>.0
 * and whose first records are the version, and a restart marker (SessionLog START) with the first
 * step that is to come: TensorBoard forgets what it has read of that step and later ones. That
 * alone is not enough where tags of one directory count in steps and in epochs, as Keras' do, so a
 * restart also takes what lies behind the restored point out of the old files (event_file_rewind).
 *
 * Buffered: an event costs an encoding into memory; event_file_flush writes all of them with one
 * write. What was flushed survives the death of the process; it is never synced to the disk.
 *
 * Usage:
 *     TRY(event_file_rewind(files, "runs/a/train", keep, context, err));
 *     TRY(event_file_open(files, "runs/a/train", &file, err));
 *     event_file_add_start(file, 101);
 *     event_file_add_scalars(file, 200, values, 2);
 *     TRY(event_file_flush(file, err));
 *     event_file_close(file);
 *
 * Files: event_file.c (writing), event_tensor.c (texts, histograms, graphs), event_rewind.c.
 *
 * THREADS: one thread per file. The caller holds the model directory's lock. Errors are STATUS_IO
 * unless said otherwise; running out of memory in an event_file_add shows at the next flush.
 */
#ifndef CAIRN_IO_EVENT_FILE_H
#define CAIRN_IO_EVENT_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/base/status.h"
#include "io/file.h"

#ifdef __cplusplus
extern "C" {
#endif

struct event_file;

/* Make `directory` and those above it, and a new file in it. Nothing is written before the first
 * flush. Blocking. */
MUST_USE enum status event_file_open(const struct file_table *files, const char *directory,
                                     struct event_file **out, struct error *err);

/* Write what is buffered; nothing when nothing is. After a failure the file must only be closed:
 * what the write left of a record is cut where that is possible. Blocking. */
MUST_USE enum status event_file_flush(struct event_file *file, struct error *err);

/* Is there something to flush? */
bool event_file_is_dirty(const struct event_file *file);

/* Close without flushing. NULL is fine. */
void event_file_close(struct event_file *file);

/* ---- events: buffered, stamped with the wall clock ---- */

/* The restart marker: events of `step` and later ones in earlier files are void. */
void event_file_add_start(struct event_file *file, uint64_t step);

struct event_scalar {
    const char *tag;
    double value; /* written as a float, as everybody does */
};

/* One event with `count` (1 to EVENT_SCALARS_MAX) values. Tags of different axes (steps, epochs) do
 * not belong into one event. */
enum { EVENT_SCALARS_MAX = 8 };
void event_file_add_scalars(struct event_file *file, uint64_t step,
                            const struct event_scalar *scalars, size_t count);

/* A table for the Text tab: `cells` [rows x columns] in row order, NUL-terminated Markdown. */
void event_file_add_text(struct event_file *file, uint64_t step, const char *tag,
                         const char *const *cells, size_t rows, size_t columns);

/* The distribution of `values` [count] in EVENT_BUCKETS buckets of equal width from the least to
 * the largest, as tf.summary.histogram makes it. Values that are not finite are left out. */
enum { EVENT_BUCKETS = 30 };
void event_file_add_histogram(struct event_file *file, uint64_t step, const char *tag,
                              const float *values, size_t count);

/* A node of the Graphs tab. A slash in a name opens a box. */
enum { EVENT_NODE_INPUTS_MAX = 8, EVENT_NODE_RANK_MAX = 4 };
enum event_dtype { EVENT_FLOAT, EVENT_INT32 };
struct event_node {
    const char *name, *op;
    const char *inputs[EVENT_NODE_INPUTS_MAX]; /* names of nodes; NULL behind the last */
    enum event_dtype dtype;
    int64_t shape[EVENT_NODE_RANK_MAX]; /* of its output, -1: not known */
    size_t rank;
};
void event_file_add_graph(struct event_file *file, const struct event_node *nodes, size_t count);

/* ---- going back ---- */

enum event_kind { EVENT_OTHER, EVENT_SCALARS, EVENT_TENSOR, EVENT_GRAPH, EVENT_START };

struct event_seen {
    enum event_kind kind;
    int64_t step;
    const char *tag; /* of the first value; "" where there are none */
};

/* Take the events that `keep` refuses out of the event files that this module wrote into
 * `directory`. A torn or damaged record ends a file. A file from which something goes is replaced
 * (publish_*): after a failure or a crash each file is the old one or the new one, the new ones are
 * durable, and other names of an old one keep its bytes. What is no directory has nothing to lose.
 *
 * Whatever does not begin with a record of ours is left alone and read no further, as is what is no
 * regular file or may not be read. A directory that is a symbolic link is refused, since it may be
 * another run's; so is a file of ours above 1 GiB. Blocking. */
MUST_USE enum status event_file_rewind(const struct file_table *files, const char *directory,
                                       bool (*keep)(void *context, const struct event_seen *event),
                                       void *context, struct error *err);

#ifdef __cplusplus
}
#endif
#endif
