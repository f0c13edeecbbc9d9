/* export_output.h - may an export be written there? What belongs to a run or to somebody else is
 * never replaced; what an earlier export wrote is.
 *
 *     TRY(export_output_check(options->output, true, "safetensors", err));   before anything is read
 *     TRY(export_output_check_source(options->output, true, loaded.path, err));
 *
 * Paths come escaped in messages. THREADS: main thread.
 */
#ifndef CAIRN_HOST_EXPORT_OUTPUT_H
#define CAIRN_HOST_EXPORT_OUTPUT_H

#include <stdbool.h>

#include "host/base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* `folder`: the format called `format` writes a folder, else one file. STATUS_OUTPUT for
 * - something of another kind in the way, a link or a special file among it;
 * - a folder that is neither empty (hidden files aside) nor an exported one, or a model directory;
 * - a file in a directory that does not exist;
 * - a name under which a run keeps its own files in its model directory. */
MUST_USE enum status export_output_check(const char *path, bool folder, const char *format,
                                         struct error *err);

/* `source`, a file or a folder, is what is exported: STATUS_OUTPUT where the output would replace it
 * or the weights in it. */
MUST_USE enum status export_output_check_source(const char *path, bool folder, const char *source,
                                                struct error *err);

#ifdef __cplusplus
}
#endif
#endif
