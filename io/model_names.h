/* model_names.h - what the tensors are called that a prediction needs besides the weights.
 *
 * A checkpoint holds them beside the weights (docs/checkpoint-format.md), so that it needs nothing
 * else to answer a text. Exporters write them, importers make them out of the files of others.
 *
 * THREADS: constants.
 */
#ifndef CAIRN_IO_MODEL_NAMES_H
#define CAIRN_IO_MODEL_NAMES_H

#define TENSOR_VOCABULARY "vocabulary"        /* U8: tokens, each ended by a newline */
#define TENSOR_STRIP_HTML "text.strip_html"   /* I64 scalar, 0 or 1 */
#define TENSOR_MAX_LENGTH "text.max_length"   /* I64 scalar, 0 = no cut */
#define TENSOR_LABEL_NAMES "text.label_names" /* U8: two names, each ended by a newline */

#endif
