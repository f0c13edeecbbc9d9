/* output.h - data to standard output, with failures noticed when they happen.
 *
 * A reader that went away (EPIPE, as under `| head`) is no error: the command should end quietly,
 * with status OK and nothing more written. Any other failure (a full disk) is STATUS_IO.
 *
 * Usage:
 *     bool closed = false;
 *     TRY(output_write(line.bytes, line.size, &closed, err));
 *     if (closed) { return STATUS_OK; }
 *     ...
 *     return output_flush(&closed, err);
 *
 * THREADS: main thread.
 */
#ifndef CAIRN_HOST_OUTPUT_H
#define CAIRN_HOST_OUTPUT_H

#include <stdbool.h>
#include <stddef.h>

#include "host/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Append to stdout's buffer. *closed becomes true when the reader has gone; it is never set to
 * false. */
MUST_USE enum status output_write(const void *bytes, size_t size, bool *closed, struct error *err);

/* Hand everything over to the system. */
MUST_USE enum status output_flush(bool *closed, struct error *err);

#ifdef __cplusplus
}
#endif
#endif
