#include "tests/support/checkpoint_edit.h"

#include <cstring>
#include <memory>

#include "io/checkpoint.h"
#include "io/file.h"
#include "tests/support/temporary_directory.h"
#include "gtest/gtest.h"

namespace {

using Loaded = std::unique_ptr<struct checkpoint, void (*)(struct checkpoint *)>;

Loaded load(const std::string &path) {
    struct error err = {};
    struct checkpoint *checkpoint = nullptr;
    if (checkpoint_read_file(&file_posix, path.c_str(), &checkpoint, &err) != STATUS_OK) {
        ADD_FAILURE() << err.message;
        checkpoint = nullptr;
    }
    return {checkpoint, checkpoint_free};
}

const struct tensor_view *find(const Loaded &checkpoint, const std::string &path,
                               const std::string &name) {
    if (!checkpoint) {
        return nullptr;
    }
    const struct tensor_view *tensor =
        tensor_find(checkpoint->tensors, checkpoint->tensor_count, name.c_str());
    if (tensor == nullptr) {
        ADD_FAILURE() << path << " has no tensor " << name;
    }
    return tensor;
}

// What the encoder does not add by itself.
std::vector<struct metadata_pair> own_metadata(const struct checkpoint &checkpoint) {
    std::vector<struct metadata_pair> metadata;
    for (size_t i = 0; i < checkpoint.metadata_count; i++) {
        const std::string key = checkpoint.metadata[i].key;
        if (key != "format_version" && key.rfind("digest.", 0) != 0) {
            metadata.push_back(checkpoint.metadata[i]);
        }
    }
    return metadata;
}

} // namespace

void rewrite_checkpoint(const std::string &from, const std::string &to,
                        const std::function<void(Tensors *)> &change) {
    const Loaded checkpoint = load(from);
    ASSERT_TRUE(checkpoint);
    Tensors tensors(checkpoint->tensors, checkpoint->tensors + checkpoint->tensor_count);
    change(&tensors);
    const std::vector<struct metadata_pair> metadata = own_metadata(*checkpoint);
    std::string bytes;
    auto sink = [](void *context, const void *data, size_t size, struct error *) {
        static_cast<std::string *>(context)->append(static_cast<const char *>(data), size);
        return STATUS_OK;
    };
    struct error err = {};
    struct checkpoint_encoder *encoder = nullptr;
    ASSERT_EQ(checkpoint_encoder_create(1, 1, &encoder, &err), STATUS_OK) << err.message;
    EXPECT_EQ(checkpoint_encode(encoder, tensors.data(), tensors.size(), metadata.data(),
                                metadata.size(), sink, &bytes, nullptr, nullptr, &err),
              STATUS_OK)
        << err.message;
    checkpoint_encoder_free(encoder);
    write_file(to, bytes);
}

void set_count(Tensors *tensors, const std::string &name, int64_t value) {
    for (struct tensor_view &tensor : *tensors) {
        if (tensor.name == name) {
            ASSERT_EQ(tensor.dtype, DTYPE_I64) << name;
            ASSERT_EQ(tensor.rank, 0u) << name;
            std::memcpy(tensor.data, &value, sizeof value);
            return;
        }
    }
    FAIL() << "no tensor " << name;
}

int64_t checkpoint_count(const std::string &path, const std::string &name) {
    const Loaded checkpoint = load(path);
    const struct tensor_view *tensor = find(checkpoint, path, name);
    int64_t value = INT64_MIN;
    if (tensor != nullptr) {
        EXPECT_EQ(tensor->dtype, DTYPE_I64) << name;
        std::memcpy(&value, tensor->data, sizeof value);
    }
    return value;
}

int64_t checkpoint_rows(const std::string &path, const std::string &name) {
    const Loaded checkpoint = load(path);
    const struct tensor_view *tensor = find(checkpoint, path, name);
    return tensor != nullptr && tensor->rank > 0 ? static_cast<int64_t>(tensor->shape[0])
                                                 : INT64_MIN;
}
