/* cpu_words.h - the distinct words of a batch, numbered: what lets W_ih E + b be computed once per
 * word instead of once per token.
 *
 * THREADS: the caller's; no state.
 */
#ifndef CAIRN_KERNELS_CPU_CPU_WORDS_H
#define CAIRN_KERNELS_CPU_CPU_WORDS_H

#include <stdint.h>

#include "kernels/ops.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Where the numbers go; memory of the caller. */
struct cpu_words {
    uint64_t *offset;    /* [B] row of each sequence's first token */
    uint32_t *distinct;  /* [1] U, number of distinct words */
    uint32_t *words;     /* [min(V, N)] distinct words in order of first sight */
    uint32_t *word_slot; /* [V] place in `words`; UINT32_MAX when absent */
    uint32_t *slot;      /* [N] place in `words` of each token */
};

/* Number the distinct words of `batch` in order of first sight, and note each token's number. */
void cpu_words_number(const struct batch_view *batch, uint32_t vocabulary,
                      const struct cpu_words *out);

#ifdef __cplusplus
}
#endif
#endif
