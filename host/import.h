/* import.h - read a model from where people have one: a checkpoint, a safetensors file with our
 * names, PyTorch's or Keras', or a folder with such a file in it.
 *
 * Whatever it was, the result looks like a checkpoint with our names and shapes. A plain file of
 * safetensors holds no words: where a vocab.txt (a token a line) lies beside it, that is its
 * vocabulary; where a config.json does, its "text", "id2label" and "step" are the text rules, label
 * names and step (export_safetensors writes these files). What weights that were renamed are called
 * in the file stands in the metadata "imported.<our name>".
 *
 *     TRY(import_read(&file_posix, "exports/film", true, &checkpoint, err));
 *     ...
 *     checkpoint_free(checkpoint);
 *
 * THREADS: any one thread; blocking.
 */
#ifndef CAIRN_HOST_IMPORT_H
#define CAIRN_HOST_IMPORT_H

#include <stdbool.h>

#include "host/base/status.h"
#include "io/checkpoint.h"
#include "io/file.h"

#ifdef __cplusplus
extern "C" {
#endif

#define IMPORT_WEIGHTS_FILE "model.safetensors" /* in a folder */
#define IMPORT_VOCABULARY_FILE "vocab.txt"
#define IMPORT_CONFIG_FILE "config.json"
#define IMPORT_NAME_KEY "imported." /* metadata: our name -> the file's */

/* Read `path`, a file or a folder. `beside`: take the vocabulary that lies beside a plain file
 * (false: the user names another one). STATUS_INPUT when it is missing, STATUS_CORRUPT when it is
 * damaged, STATUS_MISFIT when the names are foreign and the model is another one (import_names.h),
 * STATUS_DATA for a broken vocab.txt or config.json, or one whose "text", "id2label" or "step" is
 * unusable; STATUS_NONFINITE for a value that fp32 does not hold. The caller frees *out. */
MUST_USE enum status import_read(const struct file_table *files, const char *path, bool beside,
                                 struct checkpoint **out, struct error *err);

#ifdef __cplusplus
}
#endif
#endif
