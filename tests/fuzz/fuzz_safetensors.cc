// The JSON header of a safetensors file: what is accepted covers its data without hole or
// overlap, and survives being written and read again.
#include <cstring>

#include "io/safetensors.h"
#include "tests/fuzz/fuzz.h"

namespace {

void check_cover(const struct safetensors_header &header) {
    uint64_t total = 0;
    FUZZ_CHECK(header.tensor_count <= CHECKPOINT_TENSORS_MAX);
    for (size_t i = 0; i < header.tensor_count; i++) {
        uint64_t bytes;
        FUZZ_CHECK(header.tensors[i].rank <= TENSOR_RANK_MAX);
        FUZZ_CHECK(tensor_bytes(&header.tensors[i], &bytes));
        FUZZ_CHECK(bytes <= CHECKPOINT_CONTENT_BYTES_MAX);
        total += bytes;
        for (size_t j = 0; j < i; j++) {
            FUZZ_CHECK(strcmp(header.tensors[i].name, header.tensors[j].name) != 0);
        }
    }
    FUZZ_CHECK(total == header.data_bytes && total <= CHECKPOINT_CONTENT_BYTES_MAX);
}

void check_same(const struct safetensors_header &a, const struct safetensors_header &b) {
    FUZZ_CHECK(a.tensor_count == b.tensor_count && a.metadata_count == b.metadata_count);
    for (size_t i = 0; i < a.metadata_count; i++) {
        FUZZ_CHECK(strcmp(a.metadata[i].key, b.metadata[i].key) == 0);
        FUZZ_CHECK(strcmp(a.metadata[i].value, b.metadata[i].value) == 0);
    }
    for (size_t i = 0; i < a.tensor_count; i++) {
        const struct tensor_view &x = a.tensors[i], &y = b.tensors[i];
        FUZZ_CHECK(strcmp(x.name, y.name) == 0 && x.dtype == y.dtype && x.rank == y.rank);
        FUZZ_CHECK(memcmp(x.shape, y.shape, sizeof x.shape) == 0);
    }
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct error err = {};
    struct safetensors_header header, again;
    enum status status = safetensors_parse(data, size, &header, &err);
    if (status != STATUS_OK) {
        fuzz_check_refusal(status, err, {STATUS_CORRUPT});
        return 0;
    }
    status = safetensors_describe(&header, &err);
    if (status != STATUS_OK) {
        fuzz_check_refusal(status, err, {STATUS_CORRUPT});
        safetensors_header_free(&header);
        return 0;
    }
    check_cover(header);
    struct safetensors_builder builder = {};
    for (size_t i = 0; i < header.metadata_count; i++) {
        safetensors_add_metadata(&builder, header.metadata[i].key, header.metadata[i].value);
    }
    for (size_t i = 0; i < header.tensor_count; i++) {
        safetensors_add_tensor(&builder, &header.tensors[i]);
    }
    FUZZ_CHECK(safetensors_finish(&builder, &err) == STATUS_OK, err.message);
    const uint8_t *written = reinterpret_cast<const uint8_t *>(builder.text.bytes);
    FUZZ_CHECK(safetensors_length(written) == builder.text.size - SAFETENSORS_LENGTH_BYTES);
    FUZZ_CHECK(safetensors_parse(written + SAFETENSORS_LENGTH_BYTES,
                                 builder.text.size - SAFETENSORS_LENGTH_BYTES, &again,
                                 &err) == STATUS_OK,
               err.message);
    FUZZ_CHECK(safetensors_describe(&again, &err) == STATUS_OK, err.message);
    check_same(header, again);
    text_free(&builder.text);
    safetensors_header_free(&header);
    safetensors_header_free(&again);
    return 0;
}
