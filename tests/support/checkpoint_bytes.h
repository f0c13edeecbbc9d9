// checkpoint_bytes.h - checkpoints assembled by hand, and short ways to encode and decode.
//
// assemble() builds the container of docs/checkpoint-format.md from any header and any data with
// zstd and xxHash alone, so that tests can make files that the encoder would never write.
#ifndef CAIRN_TESTS_SUPPORT_CHECKPOINT_BYTES_H
#define CAIRN_TESTS_SUPPORT_CHECKPOINT_BYTES_H

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "io/checkpoint.h"

// ---- by hand ----

std::string little_endian(uint64_t value, int bytes);
std::string xxh3_hex(const std::string &bytes); // XXH3-128, 32 hex digits
std::string xxh3_raw(const std::string &bytes); // the same, 16 bytes, most significant first
uint32_t xxh64_low(const std::string &bytes);

// Length, JSON, and spaces so that data would start at a multiple of 8.
std::string safetensors_header(const std::string &json);

// "name":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}
std::string json_entry(const std::string &name, const std::string &dtype, const std::string &shape,
                       const std::string &offsets);

struct FrameOptions {
    int level = 1;
    bool checksum = true;
    bool content_size = true;
    int window_log = 0; // 0: zstd's choice
};
std::string zstd_frame(const std::string &content, const FrameOptions &options = {});

struct Frame {
    std::string bytes, content;
};
Frame make_frame(const std::string &content, const FrameOptions &options = {});
// The frames of a checkpoint: its header, then the data cut into pieces of 4 MiB.
std::vector<Frame> make_frames(const std::string &header, const std::string &data);
// Frames, digest frame, seek table.
std::string assemble(const std::vector<Frame> &frames);
std::string assemble(const std::string &header, const std::string &data);
std::string digest_frame(const std::string &before);
std::string seek_table(const std::vector<Frame> &frames);

// Everything that `zstd -d` would give, with zstd's streaming interface.
std::string decompress_all(const std::string &bytes);

// ---- with the code under test ----

// A tensor with its memory.
struct Tensor {
    struct tensor_view view;
    std::string bytes;
};
template <typename T>
Tensor make_tensor(const std::string &name, enum dtype dtype, const std::vector<uint64_t> &shape,
                   const std::vector<T> &values) {
    std::string bytes(reinterpret_cast<const char *>(values.data()), values.size() * sizeof(T));
    return {tensor_make(name.c_str(), dtype, nullptr, static_cast<uint32_t>(shape.size()),
                        shape.data()),
            bytes};
}
std::vector<struct tensor_view> views_of(std::vector<Tensor> &tensors);

using Metadata = std::vector<std::pair<std::string, std::string>>;

struct Encoded {
    enum status status = STATUS_OK;
    std::string message, bytes;
};
Encoded encode(std::vector<Tensor> tensors, const Metadata &metadata = {}, int level = 1);

struct CheckpointDeleter {
    void operator()(struct checkpoint *checkpoint) const { checkpoint_free(checkpoint); }
};
struct Decoded {
    enum status status = STATUS_OK;
    std::string message;
    std::unique_ptr<struct checkpoint, CheckpointDeleter> checkpoint;
    // The named tensor's bytes; "?" when there is none.
    std::string bytes_of(const std::string &name) const;
    // Name, dtype (with `types`), shape and bytes of every tensor in one string: equal means equal
    // values.
    std::string everything(bool types = true) const;
};
Decoded decode(const std::string &bytes);

#endif
