#include "kernels/cpu/cpu_words.h"

#include <assert.h>
#include <string.h>

static uint32_t token_at(const struct batch_view *batch, uint64_t index) {
    return batch->token_bytes == 2 ? ((const uint16_t *)batch->tokens)[index]
                                   : ((const uint32_t *)batch->tokens)[index];
}

void cpu_words_number(const struct batch_view *batch, uint32_t vocabulary,
                      const struct cpu_words *out) {
    memset(out->word_slot, 0xFF, vocabulary * sizeof *out->word_slot);
    uint32_t distinct = 0;
    uint64_t row = 0;
    for (uint32_t b = 0; b < batch->sequences; b++) {
        out->offset[b] = row;
        for (uint32_t t = 0; t < batch->length[b]; t++) {
            uint32_t word = token_at(batch, batch->first[b] + t);
            assert(word < vocabulary);
            if (out->word_slot[word] == UINT32_MAX) {
                out->word_slot[word] = distinct;
                out->words[distinct++] = word;
            }
            out->slot[row++] = out->word_slot[word];
        }
    }
    assert(row == batch->total_tokens);
    *out->distinct = distinct;
}
