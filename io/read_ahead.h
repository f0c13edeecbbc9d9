/* read_ahead.h - reads examples on a thread of its own while the caller works on those before them.
 *
 * Opening and reading 50,000 small files takes as long as making tokens of them; so does taking an
 * archive apart. The source runs on a second thread and pushes into blocks of texts, which go to
 * the caller's callback in the order in which they were pushed. What the callback sees, and which
 * failure is reported, is therefore the same as without the thread. Memory: READ_AHEAD_BLOCKS
 * blocks of READ_AHEAD_BLOCK_BYTES, more only where one text is longer than that.
 *
 * Usage:
 *     static enum status source(void *context, dataset_callback push, void *push_context,
 *                               struct error *err) {
 *         while (...) {
 *             TRY(push(push_context, text, size, label, err));
 *         }
 *         return STATUS_OK;
 *     }
 *     TRY(read_ahead(source, reader, on_example, corpus, err));
 *
 * THREADS: read_ahead is called on one thread, where the callback runs too. It starts the reading
 * thread, on which the source runs, and joins it before it returns: until then what the source uses
 * belongs to the reading thread, afterwards to the caller again.
 */
#ifndef CAIRN_IO_READ_AHEAD_H
#define CAIRN_IO_READ_AHEAD_H

#include "host/base/status.h"
#include "io/dataset.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    READ_AHEAD_BLOCKS = 4,
    READ_AHEAD_BLOCK_BYTES = 256 << 10,
    READ_AHEAD_BLOCK_EXAMPLES = 1024
};

/* Pushes every example; polls stop_signal. A push that does not return STATUS_OK ends it: the
 * status is returned as it is. */
typedef enum status (*read_ahead_source)(void *context, dataset_callback push, void *push_context,
                                         struct error *err);

/* Call `callback` with every example of the source, in order, until one of the two fails. The first
 * failure in the order of the examples is returned: a source that failed behind example n was heard
 * only if the callback took all n. STATUS_MEMORY when no thread can be started. Blocking. */
MUST_USE enum status read_ahead(read_ahead_source source, void *source_context,
                                dataset_callback callback, void *context, struct error *err);

#ifdef __cplusplus
}
#endif
#endif
