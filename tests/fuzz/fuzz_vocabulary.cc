// A vocabulary file: what is accepted finds every entry under its own index, and survives being
// written and read again. The lookup is compared with a map.
#include <cstring>
#include <map>

#include "host/tokenizer.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct error err = {};
    struct vocabulary *vocabulary = nullptr, *again = nullptr;
    const enum status status =
        vocabulary_parse(reinterpret_cast<const char *>(data), size, "file", &vocabulary, &err);
    if (status != STATUS_OK) {
        fuzz_check_refusal(status, err, {STATUS_DATA});
        return 0;
    }
    std::map<std::string, uint32_t> ids;
    for (uint32_t id = 0; id < vocabulary_size(vocabulary); id++) {
        const struct token entry = vocabulary_entry(vocabulary, id);
        const std::string token(entry.bytes, entry.size);
        FUZZ_CHECK(ids.emplace(token, id).second, token);
        FUZZ_CHECK(vocabulary_lookup(vocabulary, entry.bytes, entry.size) == id, token);
    }
    FUZZ_CHECK(ids.at("") == VOCABULARY_PADDING_ID && ids.at("[UNK]") == VOCABULARY_UNKNOWN_ID);
    // Any piece of the input: in the map or unknown.
    for (size_t from = 0; from < size && from < 16; from++) {
        const std::string piece(reinterpret_cast<const char *>(data) + from, (size - from) / 2);
        const auto found = ids.find(piece);
        FUZZ_CHECK(vocabulary_lookup(vocabulary, piece.data(), piece.size()) ==
                   (found == ids.end() ? uint32_t{VOCABULARY_UNKNOWN_ID} : found->second));
    }
    size_t text_size, again_size;
    const char *text = vocabulary_text(vocabulary, &text_size);
    FUZZ_CHECK(vocabulary_parse(text, text_size, "again", &again, &err) == STATUS_OK, err.message);
    const char *again_text = vocabulary_text(again, &again_size);
    FUZZ_CHECK(again_size == text_size && memcmp(text, again_text, text_size) == 0);
    vocabulary_free(vocabulary);
    vocabulary_free(again);
    return 0;
}
