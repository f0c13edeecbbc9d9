/* handle.h - what stands behind `struct cairn_checkpoint`, shared by the parts of the library.
 *
 * include/cairn/checkpoint.h documents all of it from outside. Inside, functions speak `enum
 * status` and `struct error` as every room does; handle_report turns them into the public ones at
 * the edge:
 *
 *     enum cairn_status cairn_checkpoint_wait(struct cairn_checkpoint *handle, ...) {
 *         struct error err = {STATUS_OK, ""};
 *         return handle_report(wait_for_all(handle, &err), &err, error);
 *     }
 *
 * THREADS: all of a handle belongs to the thread that uses it; the writer has its own threads.
 */
#ifndef CAIRN_LIBRARY_HANDLE_H
#define CAIRN_LIBRARY_HANDLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/base/status.h"
#include "include/cairn/checkpoint.h"
#include "io/file.h"
#include "io/snapshot.h"
#include "io/store.h"
#include "io/writer.h"
#include "kernels/backend.h"
#include "library/values.h"

#ifdef __cplusplus
extern "C" {
#endif

#define HANDLE_BYTES_PREFIX "bytes." /* tensors that are values */

enum { HANDLE_EVENTS_MAX = 64, HANDLE_NO_DEVICE = -1 };

struct cairn_checkpoint {
    /* constant after open */
    struct cairn_checkpoint_options options;
    const struct file_table *files;
    char *directory;
    struct store *store; /* NULL: read-only */

    /* constant after the first restore */
    struct snapshot_source *sources; /* [SNAPSHOT_TENSORS_MAX] the tensors, then room for values */
    size_t tensor_count;
    uint64_t tensor_bytes_total;
    int cuda_device;
    struct backend *be;    /* NULL: not restored yet */
    struct writer *writer; /* NULL: the same, or read-only */

    struct values strings, bytes;
    bool may_save; /* the latest restore succeeded */
    bool has_step; /* `step` was restored or saved */
    uint64_t step;

    /* what became of saves */
    enum status newest;   /* of the newest save that has ended and was not dropped */
    struct error failure; /* the latest failure in the background; STATUS_OK: none so far */
    struct cairn_checkpoint_event events[HANDLE_EVENTS_MAX]; /* a ring */
    size_t event_first, event_count;
    struct cairn_checkpoint_event polled; /* what cairn_checkpoint_poll returned */
    struct cairn_checkpoint_totals totals;
};

/* cairn_checkpoint_open over another file table: the tests' way in. */
MUST_USE enum status handle_open(const struct file_table *files, const char *directory,
                                 const struct cairn_checkpoint_options *options,
                                 struct cairn_checkpoint **out, struct error *err);

/* Fill *error (may be NULL) from a status and its message; returns the public status. */
enum cairn_status handle_report(enum status status, const struct error *err,
                                struct cairn_error *error);

/* Tell the callback, if there is one. */
void handle_tell(const struct cairn_checkpoint *handle, enum status status, const char *message);

/* Take over what the writer has finished: events, newest, failure, callback. */
void handle_collect(struct cairn_checkpoint *handle);

/* Is there a handle? A program that did not look at what open returned has NULL in its place. */
MUST_USE enum status handle_check(const struct cairn_checkpoint *handle, struct error *err);

/* Bytes of all registered tensors and of the values that are bytes. */
uint64_t handle_bytes(const struct cairn_checkpoint *handle);

/* A name or key of 1 to `bytes_max` printable ASCII characters without spaces, else STATUS_USAGE;
 * `what` is for the message. */
MUST_USE enum status handle_check_name(const char *what, const char *name, size_t bytes_max,
                                       struct error *err);

/* Is there a registered tensor of that name? */
bool handle_is_registered(const struct cairn_checkpoint *handle, const char *name);

/* Is this metadata key the format's or the library's own? */
bool handle_is_own_key(const char *key);

#ifdef __cplusplus
}
#endif
#endif
