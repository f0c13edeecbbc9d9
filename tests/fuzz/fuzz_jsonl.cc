// One JSON object a line.
#include "host/base/text.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/fuzz_dataset.h"

namespace {

std::string write(const DatasetRead &read) {
    struct text text = {};
    for (const auto &example : read.examples) {
        text_printf(&text, "{\"label\":%u,\"text\":", example.second);
        text_append_json(&text, example.first.data(), example.first.size());
        text_printf(&text, "}\n");
    }
    const std::string out(text.bytes, text.size);
    text_free(&text);
    return out;
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fuzz_dataset("data.jsonl", std::string(data, data + size), write);
    return 0;
}
