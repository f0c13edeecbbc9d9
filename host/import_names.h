/* import_names.h - which tensor of a PyTorch or Keras model is which of ours.
 *
 * People name their modules as they like ("emb", "rnn", "fc1"), so only what the frameworks
 * themselves name is looked for, and shapes decide the rest:
 *     PyTorch   <any>.weight_ih_l0 and its seven siblings of a bidirectional torch.nn.LSTM (the two
 *               biases are added), a <any>.weight without a bias for the embedding, two pairs of
 *               <any>.weight and <any>.bias for the linear layers
 *     Keras     <any>/forward_<any>/<cell>/{kernel, recurrent_kernel, bias} and the same with
 *               backward_, <any>/embeddings, two pairs of <any>/kernel and <any>/bias; kernels are
 *               transposed; a ":0" behind a name does not count
 * Both have the gates in our order. Tensors of integers (counters, states of generators) are passed
 * over; any other tensor that has no place makes the file a misfit.
 *
 *     if (import_names_are_foreign(file)) {
 *         TRY(import_names_match(file, path, &plan, err));
 *         plan.sources[i] fills plan.layout.tensors[i]
 *     }
 *
 * THREADS: no shared state.
 */
#ifndef CAIRN_HOST_IMPORT_NAMES_H
#define CAIRN_HOST_IMPORT_NAMES_H

#include <stdbool.h>

#include "host/base/status.h"
#include "host/model.h"
#include "io/checkpoint.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Where a tensor of ours comes from; views into the file. */
struct import_source {
    const struct tensor_view *tensor;
    const struct tensor_view *added; /* the second bias; or NULL */
    bool transposed;
};

struct import_plan {
    struct model_shape shape;
    struct model_layout layout;                  /* our names and shapes */
    struct import_source sources[MODEL_TENSORS]; /* in the layout's order */
};

/* Does the file name its tensors as PyTorch or Keras does, and not as Cairn? */
bool import_names_are_foreign(const struct checkpoint *file);

/* Find all weights. `file` must outlive the plan; `path` is for messages, escaped. STATUS_MISFIT naming the tensor that is missing,
 * misshapen or has no place, with its shape and the one that is needed; STATUS_MEMORY. */
MUST_USE enum status import_names_match(const struct checkpoint *file, const char *path,
                                        struct import_plan *out, struct error *err);

#ifdef __cplusplus
}
#endif
#endif
