// Comma- and tab-separated files; the first byte of an input chooses.
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/fuzz_dataset.h"

namespace {

template <char kSeparator> std::string write(const DatasetRead &read) {
    std::string out = std::string("label") + kSeparator + "text\n";
    for (const auto &example : read.examples) {
        out += std::to_string(example.second) + kSeparator + '"';
        for (char c : example.first) {
            out += c == '"' ? std::string("\"\"") : std::string(1, c);
        }
        out += "\"\n";
    }
    return out;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size > 0) {
        const std::string bytes(data + 1, data + size);
        if ((data[0] & 1) != 0) {
            fuzz_dataset("data.csv", bytes, write<','>);
        } else {
            fuzz_dataset("data.tsv", bytes, write<'\t'>);
        }
    }
    return 0;
}
