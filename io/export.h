/* export.h - a trained model in the formats of others.
 *
 * An exporter gets the weights as the contract names them, the vocabulary and the text rules, and
 * writes one file or folder that the other side's own software opens. It knows no options and no
 * checkpoints; `cairn export` (host/cmd_export.c) fills struct export_model from a checkpoint.
 *
 *     checkpoint -> loading_open -> struct export_model -> export_onnx, export_safetensors, ...
 *
 * Every file is published whole: temporary file, fsync, rename (io/file.h); one that was there is
 * replaced. THREADS: any one thread; blocking.
 */
#ifndef CAIRN_IO_EXPORT_H
#define CAIRN_IO_EXPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/base/status.h"
#include "host/base/tensor.h"
#include "io/file.h"

#ifdef __cplusplus
extern "C" {
#endif

/* All borrowed; must stay valid during the call. */
struct export_model {
    uint64_t vocabulary_size, embedding_size, hidden_size, dense_size; /* V, E, H, D */
    const struct tensor_view *weights; /* the model's own tensors (embedding.weight, ...), F32, host
                                          memory; find them with tensor_find */
    size_t weight_count;
    const char *const *tokens; /* [V] NUL-terminated UTF-8, index order; 0 is padding (""), 1 is
                                  the unknown token ("[UNK]") */
    bool strip_html;
    uint64_t max_length;        /* tokens that a text keeps; 0 = all */
    const char *label_names[2]; /* of class 0 and class 1 */
    uint64_t step;              /* training steps behind these weights; meaningful if has_step */
    bool has_step;              /* false: unknown (weights of others); no format writes one then */
};

/* For the formats: the weight called `name`, which every export_model has. */
const struct tensor_view *export_weight(const struct export_model *model, const char *name);

/* For the formats: publish one whole file. STATUS_OUTPUT when it cannot be created there (no such
 * directory, no permission), STATUS_IO when writing it fails (a full disk); the old file, if there
 * was one, is untouched then, and nothing of the new one is left. */
MUST_USE enum status export_publish(const struct file_table *files, const char *path,
                                    const void *bytes, size_t size, struct error *err);

/* The same in pieces: publish_begin with that status; then publish_write and publish_commit or
 * publish_abort (io/file.h). */
MUST_USE enum status export_begin(const struct file_table *files, const char *path,
                                  struct publish *publish, struct error *err);

/* ONNX: `path` is one file. `with_text`: strings in, labels out. */
MUST_USE enum status export_onnx(const struct file_table *files, const struct export_model *model,
                                 const char *path, bool with_text, struct error *err);

/* PyTorch's names: `path` is a folder (made when missing) with model.safetensors, config.json,
 * vocab.txt, README.md. Files of these names are replaced; whose they are is the caller's to ask. A
 * crash or a failure while they are renamed leaves the folder without model.safetensors, never
 * weights beside the words of others. */
MUST_USE enum status export_safetensors(const struct file_table *files,
                                        const struct export_model *model, const char *path,
                                        struct error *err);

/* Does the model in the .keras archive take texts? It does unless its text rules are none of Keras'
 * own (strip_html), a token is not UTF-8, or there are no tokens but the two special ones. Then it
 * takes token ids, [texts, tokens], padded with 0 behind each text. */
bool export_keras_takes_texts(const struct export_model *model);

/* Keras 3: `path` is one file, .keras (the whole model) or .weights.h5 (the weights) by its ending;
 * STATUS_USAGE for another one. Vocabulary, label names and text rules are in both. Not while
 * another thread exports too. */
MUST_USE enum status export_keras(const struct file_table *files, const struct export_model *model,
                                  const char *path, struct error *err);

/* Weights, vocabulary and text rules in Cairn's own format: a file for --checkpoint FILE. */
MUST_USE enum status export_checkpoint(const struct file_table *files,
                                       const struct export_model *model, const char *path,
                                       struct error *err);

#ifdef __cplusplus
}
#endif
#endif
