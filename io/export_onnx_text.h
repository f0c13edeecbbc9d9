/* export_onnx_text.h - the text rules as a piece of ONNX graph: strings in, token ids out.
 *
 * The result is what `cairn tokenize` gives, byte for byte, in standard operators only (opset 20
 * and ai.onnx.ml 3). ONNX has no operator that replaces a character, so each replacement is a
 * StringSplit at the character and a Loop that joins the parts again. Words are made unique first:
 * a batch has few different words, so that the 58 replacements cost little.
 *
 * THREADS: as onnx_graph.h.
 */
#ifndef CAIRN_IO_EXPORT_ONNX_TEXT_H
#define CAIRN_IO_EXPORT_ONNX_TEXT_H

#include "io/export.h"
#include "io/onnx_graph.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Adds the input "text" (strings [batch]) and the nodes up to "token_ids" (int64 [batch, time], at
 * least one column, 0 behind the last token) and "lengths" (int64 [batch]). `model` must stay valid
 * as long as the graph. */
void export_onnx_text(struct onnx_graph *graph, const struct export_model *model);

/* Adds "label" (strings [batch]) of "logit" (float [batch]). */
void export_onnx_label(struct onnx_graph *graph, const struct export_model *model);

#ifdef __cplusplus
}
#endif
#endif
