/* export_keras_h5.h - the weights of a model as Keras 3 stores them: an HDF5 file, in memory.
 *
 * Layout, which Keras' load_weights finds by itself (one group per layer, named after its class,
 * counted where there are several; `vars/0`, `vars/1`... in the order of layer.weights):
 *     layers/embedding/vars/0                              [V, E]
 *     layers/bidirectional/forward_layer/cell/vars/0,1,2   [E, 4H], [H, 4H], [4H]
 *     layers/bidirectional/backward_layer/cell/vars/0,1,2  the same
 *     layers/dense/vars/0,1                                [2H, D], [D]
 *     layers/dense_1/vars/0,1                              [D, 1], [1]
 * Kernels are the transposes of the contract's weights; gates have the same order (i, f, c, o).
 * Beside them, where Keras does not look: `cairn/vocabulary` (V strings), `cairn/labels` (2
 * strings), `cairn/max_length`, `cairn/strip_html`, `cairn/step` (one integer each).
 *
 *     struct text image = {0};
 *     TRY(export_keras_h5(model, &image, err));
 *     ... image.bytes, image.size ...
 *     text_free(&image);
 *
 * The same model gives the same bytes. THREADS: one at a time in the whole process (the HDF5 library
 * has global state); blocking, no file is touched.
 */
#ifndef CAIRN_IO_EXPORT_KERAS_H5_H
#define CAIRN_IO_EXPORT_KERAS_H5_H

#include "host/base/status.h"
#include "host/base/text.h"
#include "io/export.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Append the file to `out`, which the caller frees, on failure too. STATUS_MEMORY. */
MUST_USE enum status export_keras_h5(const struct export_model *model, struct text *out,
                                     struct error *err);

#ifdef __cplusplus
}
#endif
#endif
