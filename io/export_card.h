/* export_card.h - the README.md of an exported folder: what the model is, and a PyTorch module
 * that loads and asks it.
 *
 * THREADS: no shared state.
 */
#ifndef CAIRN_IO_EXPORT_CARD_H
#define CAIRN_IO_EXPORT_CARD_H

#include "host/base/text.h"
#include "io/export.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Append the page to `out`; running out of memory shows in out->failed. */
void export_card(const struct export_model *model, struct text *out);

#ifdef __cplusplus
}
#endif
#endif
