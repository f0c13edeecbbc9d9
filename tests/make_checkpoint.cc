// make_checkpoint [--tiny] PATH: writes a checkpoint whose values other programs can compute by
// themselves. tests/checkpoint_python.py knows them; --tiny is the example of
// docs/checkpoint-format.md.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "io/checkpoint.h"

namespace {

enum status append(void *context, const void *bytes, size_t size, struct error *) {
    static_cast<std::string *>(context)->append(static_cast<const char *>(bytes), size);
    return STATUS_OK;
}

template <typename T>
struct tensor_view view(const char *name, enum dtype dtype, std::vector<T> &values,
                        const std::vector<uint64_t> &shape) {
    return tensor_make(name, dtype, values.data(), static_cast<uint32_t>(shape.size()),
                       shape.data());
}

int write(const char *path, const std::vector<struct tensor_view> &tensors,
          const std::vector<struct metadata_pair> &metadata) {
    struct error err = {};
    struct checkpoint_encoder *encoder = nullptr;
    std::string bytes;
    enum status status = checkpoint_encoder_create(1, 1, &encoder, &err);
    if (status == STATUS_OK) {
        status = checkpoint_encode(encoder, tensors.data(), tensors.size(), metadata.data(),
                                   metadata.size(), append, &bytes, nullptr, nullptr, &err);
    }
    checkpoint_encoder_free(encoder);
    if (status != STATUS_OK) {
        fprintf(stderr, "make_checkpoint: %s\n", err.message);
        return 1;
    }
    std::ofstream file(path, std::ios::binary);
    file << bytes;
    file.close();
    if (!file) {
        fprintf(stderr, "make_checkpoint: cannot write %s\n", path);
        return 1;
    }
    return 0;
}

int write_tiny(const char *path) {
    std::vector<float> weight = {1.0f, -2.0f};
    std::vector<int64_t> step = {7};
    return write(path,
                 {view("w", DTYPE_F32, weight, {1, 2}), view("state.step", DTYPE_I64, step, {})},
                 {{"note", "tiny"}});
}

// Values are exact in their type, so that "equal" means equal.
int write_full(const char *path) {
    std::vector<float> weight(1300 * 1000); // 5.2 MB: several frames
    for (size_t i = 0; i < weight.size(); i++) {
        weight[i] = static_cast<float>(i * 7919 % 65536) / 256.0f - 128.0f;
    }
    std::vector<uint8_t> vocabulary;
    for (char letter : std::string("\n[UNK]\nthe\ncaf\xC3\xA9\n")) {
        vocabulary.push_back(static_cast<uint8_t>(letter));
    }
    std::vector<double> history = {0.5, 0.25, 0.125, -1e300, 5e-324, 3.0, 2.0, 1.0};
    std::vector<int64_t> step = {INT64_MAX}, many = {INT64_MIN, -1, 0, 1, 1LL << 53};
    std::vector<float> bias = {-0.5f}, empty;
    return write(path,
                 {view("output.bias", DTYPE_F32, bias, {1}), // the next one lies unaligned
                  view("embedding.weight", DTYPE_F32, weight, {1300, 1000}),
                  view("vocabulary", DTYPE_U8, vocabulary, {vocabulary.size()}),
                  view("history.epochs", DTYPE_F64, history, {2, 4}),
                  view("state.step", DTYPE_I64, step, {}),
                  view("state.many", DTYPE_I64, many, {1, 5, 1, 1}),
                  view("state.nothing", DTYPE_F32, empty, {0, 3})},
                 {{"options", "seed = 1\nnote = \"caf\xC3\xA9\"\n"}});
}

} // namespace

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "--tiny") == 0) {
        return write_tiny(argv[2]);
    }
    if (argc == 2) {
        return write_full(argv[1]);
    }
    fprintf(stderr, "usage: make_checkpoint [--tiny] PATH\n");
    return 2;
}
