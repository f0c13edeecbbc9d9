// The tokenizer and the vocabulary that is learned from it, against the plainest reference.
//
// The first byte of an input is flags: 1 strip_html, the next bits the limit of the vocabulary.
// The rest is a text, or several between zero bytes.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <utility>

#include "host/tokenizer.h"
#include "tests/fuzz/fuzz.h"

namespace {

using Strings = std::vector<std::string>;

// Every tag "<...>" that starts with a letter, '/' or '!' becomes a space.
std::string without_tags(const std::string &text) {
    std::string out;
    for (size_t i = 0; i < text.size(); i++) {
        const bool opens =
            text[i] == '<' && i + 1 < text.size() &&
            strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ/!", text[i + 1]) &&
            text[i + 1] != '\0';
        const size_t close = opens ? text.find('>', i) : std::string::npos;
        if (close == std::string::npos) {
            out += text[i];
        } else {
            out += ' ';
            i = close;
        }
    }
    return out;
}

Strings reference_tokens(const std::string &text, bool strip_html) {
    Strings tokens;
    std::string token;
    for (char c : (strip_html ? without_tags(text) : text) + " ") {
        if (c == ' ' || c == '\t' || c == '\n' || c == '\v' || c == '\f' || c == '\r') {
            if (!token.empty()) {
                tokens.push_back(token);
            }
            token.clear();
        } else if (c >= 'A' && c <= 'Z') {
            token += static_cast<char>(c - 'A' + 'a');
        } else if (c == '\0' || strchr("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", c) == nullptr) {
            token += c;
        }
    }
    return tokens;
}

Strings tokens_of(struct tokenizer *tokenizer, const std::string &text) {
    Strings tokens;
    struct token token;
    struct error err = {};
    // A copy of exactly that size: a read behind the end is seen.
    std::vector<char> copy(text.begin(), text.end());
    copy.shrink_to_fit();
    FUZZ_CHECK(tokenizer_start(tokenizer, copy.data(), copy.size(), &err) == STATUS_OK,
               err.message);
    while (tokenizer_next(tokenizer, &token)) {
        tokens.emplace_back(token.bytes, token.size);
    }
    FUZZ_CHECK(!tokenizer_next(tokenizer, &token));
    return tokens;
}

// By count descending, then by bytes descending; the special ones first, and never twice.
Strings reference_vocabulary(const std::map<std::string, uint64_t> &counts, size_t limit) {
    std::vector<std::pair<uint64_t, std::string>> order;
    for (const auto &entry : counts) {
        if (entry.first != "[UNK]") {
            order.emplace_back(entry.second, entry.first);
        }
    }
    std::sort(order.rbegin(), order.rend());
    Strings entries = {"", "[UNK]"};
    for (const auto &entry : order) {
        if (limit == 0 || entries.size() < limit) {
            entries.push_back(entry.second);
        }
    }
    return entries;
}

Strings split(const std::string &bytes) {
    Strings texts(1);
    for (char c : bytes) {
        if (c == '\0') {
            texts.emplace_back();
        } else {
            texts.back() += c;
        }
    }
    return texts;
}

void check_vocabulary(struct vocabulary_builder *builder, const Strings &provisional,
                      const std::map<std::string, uint64_t> &counts, size_t limit) {
    struct error err = {};
    struct vocabulary *vocabulary = nullptr;
    uint32_t *remap = nullptr;
    FUZZ_CHECK(vocabulary_builder_finish(builder, limit, &vocabulary, &remap, &err) == STATUS_OK);
    const Strings expected = reference_vocabulary(counts, limit);
    FUZZ_CHECK(vocabulary_size(vocabulary) == expected.size());
    for (uint32_t id = 0; id < expected.size(); id++) {
        const struct token entry = vocabulary_entry(vocabulary, id);
        FUZZ_CHECK(std::string(entry.bytes, entry.size) == expected[id], expected[id]);
    }
    for (size_t i = 0; i < provisional.size(); i++) {
        const auto at = std::find(expected.begin(), expected.end(), provisional[i]);
        const uint32_t id = at == expected.end() ? uint32_t{VOCABULARY_UNKNOWN_ID}
                                                 : static_cast<uint32_t>(at - expected.begin());
        FUZZ_CHECK(remap[i] == id, provisional[i]);
    }
    free(remap);
    vocabulary_free(vocabulary);
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) {
        return 0;
    }
    const bool strip_html = (data[0] & 1) != 0;
    const size_t limit = data[0] >> 1 < 2 ? 0 : data[0] >> 1;
    struct error err = {};
    struct tokenizer tokenizer;
    struct vocabulary_builder *builder = nullptr;
    tokenizer_init(&tokenizer, strip_html);
    FUZZ_CHECK(vocabulary_builder_create(&builder, &err) == STATUS_OK);
    std::map<std::string, uint64_t> counts;
    Strings provisional;
    for (const std::string &text : split(std::string(data + 1, data + size))) {
        const Strings tokens = tokens_of(&tokenizer, text);
        FUZZ_CHECK(tokens == reference_tokens(text, strip_html), text);
        for (const std::string &token : tokens) {
            const uint32_t id = vocabulary_builder_add(builder, token.data(), token.size(), true);
            if (counts[token]++ == 0) {
                provisional.push_back(token);
            }
            FUZZ_CHECK(provisional.at(id) == token);
        }
    }
    check_vocabulary(builder, provisional, counts, limit);
    vocabulary_builder_free(builder);
    tokenizer_deinit(&tokenizer);
    return 0;
}
