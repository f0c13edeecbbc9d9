/* library_device.h - what the checkpoint engine needs of a device, and no more.
 *
 * A backend (kernels/backend.h) of memory, copies, streams and events, without operations: their
 * entries in the table are NULL, and so are fill_zero, event_query and the recordings. io/ calls
 * none of them.
 *
 * Usage:
 *     TRY(library_host_create(&be, err));
 *     TRY(writer_create(&options, be, NULL, 0, &writer, err));
 *     be->table->free(be);
 *
 * THREADS: as kernels/backend.h.
 */
#ifndef CAIRN_LIBRARY_LIBRARY_DEVICE_H
#define CAIRN_LIBRARY_LIBRARY_DEVICE_H

#include <stdbool.h>

#include "host/base/status.h"
#include "kernels/backend.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Ordinary memory; every copy is done when its call returns. */
MUST_USE enum status library_host_create(struct backend **out, struct error *err);

/* Is there CUDA in this build? Where there is none the functions below fail with STATUS_DEVICE. */
bool library_cuda_built(void);

/* A CUDA device. BACKEND_STREAM_COMPUTE is `stream`, a cudaStream_t of the caller or NULL for the
 * default stream; the copy stream is its own. The thread's current device is left as it is. */
MUST_USE enum status library_cuda_create(int device, void *stream, struct backend **out,
                                         struct error *err);

/* *device: the CUDA device whose memory `pointer` is; STATUS_DEVICE when it is of none. */
MUST_USE enum status library_cuda_device_of(const void *pointer, int *device, struct error *err);

#ifdef __cplusplus
}
#endif
#endif
