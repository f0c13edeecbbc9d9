#include "tests/support/checkpoint_bytes.h"

#include <gtest/gtest.h>
#include <xxhash.h>
#include <zstd.h>

#include <cstring>

// ---- by hand ----

std::string little_endian(uint64_t value, int bytes) {
    std::string out;
    for (int i = 0; i < bytes; i++) {
        out += static_cast<char>(value >> (8 * i) & 0xFF);
    }
    return out;
}

std::string xxh3_raw(const std::string &bytes) {
    XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
    std::string low = little_endian(hash.low64, 8), high = little_endian(hash.high64, 8);
    return std::string(high.rbegin(), high.rend()) + std::string(low.rbegin(), low.rend());
}

std::string xxh3_hex(const std::string &bytes) {
    std::string out;
    for (char byte : xxh3_raw(bytes)) {
        char text[3];
        snprintf(text, sizeof text, "%02x", static_cast<unsigned char>(byte));
        out += text;
    }
    return out;
}

uint32_t xxh64_low(const std::string &bytes) {
    return static_cast<uint32_t>(XXH64(bytes.data(), bytes.size(), 0) & 0xFFFFFFFF);
}

std::string safetensors_header(const std::string &json) {
    std::string padded = json;
    while (padded.size() % 8 != 0) {
        padded += ' ';
    }
    return little_endian(padded.size(), 8) + padded;
}

std::string json_entry(const std::string &name, const std::string &dtype, const std::string &shape,
                       const std::string &offsets) {
    return "\"" + name + "\":{\"dtype\":\"" + dtype + "\",\"shape\":" + shape +
           ",\"data_offsets\":" + offsets + "}";
}

std::string zstd_frame(const std::string &content, const FrameOptions &options) {
    static ZSTD_CCtx *zstd = ZSTD_createCCtx(); // kept: the damage tests make many thousand frames
    ZSTD_CCtx_reset(zstd, ZSTD_reset_session_and_parameters);
    ZSTD_CCtx_setParameter(zstd, ZSTD_c_compressionLevel, options.level);
    ZSTD_CCtx_setParameter(zstd, ZSTD_c_checksumFlag, options.checksum);
    ZSTD_CCtx_setParameter(zstd, ZSTD_c_contentSizeFlag, options.content_size);
    if (options.window_log > 0) {
        ZSTD_CCtx_setParameter(zstd, ZSTD_c_windowLog, options.window_log);
    }
    std::string out(ZSTD_compressBound(content.size()) + 64, '\0');
    ZSTD_inBuffer in = {content.data(), content.size(), 0};
    ZSTD_outBuffer to = {out.data(), out.size(), 0};
    if (options.window_log > 0) {
        // Without knowing the size zstd keeps the window asked for.
        ZSTD_compressStream2(zstd, &to, &in, ZSTD_e_continue);
    } else {
        ZSTD_CCtx_setPledgedSrcSize(zstd, content.size());
    }
    EXPECT_EQ(ZSTD_compressStream2(zstd, &to, &in, ZSTD_e_end), 0u);
    out.resize(to.pos);
    return out;
}

Frame make_frame(const std::string &content, const FrameOptions &options) {
    return {zstd_frame(content, options), content};
}

std::vector<Frame> make_frames(const std::string &header, const std::string &data) {
    std::vector<Frame> frames = {make_frame(header)};
    const size_t piece = size_t{4} << 20;
    for (size_t at = 0; at < data.size(); at += piece) {
        frames.push_back(make_frame(data.substr(at, piece)));
    }
    return frames;
}

std::string digest_frame(const std::string &before) {
    return little_endian(0x184D2A5D, 4) + little_endian(16, 4) + xxh3_raw(before);
}

std::string seek_table(const std::vector<Frame> &frames) {
    std::string entries;
    for (const Frame &frame : frames) {
        entries += little_endian(frame.bytes.size(), 4) + little_endian(frame.content.size(), 4) +
                   little_endian(xxh64_low(frame.content), 4);
    }
    entries += little_endian(24, 4) + little_endian(0, 4) + little_endian(xxh64_low(""), 4);
    return little_endian(0x184D2A5E, 4) + little_endian(entries.size() + 9, 4) + entries +
           little_endian(frames.size() + 1, 4) + '\x80' + little_endian(0x8F92EAB1, 4);
}

std::string assemble(const std::vector<Frame> &frames) {
    std::string out;
    for (const Frame &frame : frames) {
        out += frame.bytes;
    }
    return out + digest_frame(out) + seek_table(frames);
}

std::string assemble(const std::string &header, const std::string &data) {
    return assemble(make_frames(header, data));
}

std::string decompress_all(const std::string &bytes) {
    ZSTD_DStream *zstd = ZSTD_createDStream();
    std::string out, piece(1 << 17, '\0');
    ZSTD_inBuffer in = {bytes.data(), bytes.size(), 0};
    size_t result = 0;
    bool more = true;
    while (more && !ZSTD_isError(result)) {
        ZSTD_outBuffer to = {piece.data(), piece.size(), 0};
        result = ZSTD_decompressStream(zstd, &to, &in);
        out.append(piece, 0, to.pos);
        more = in.pos < in.size || (result != 0 && to.pos == to.size);
    }
    ZSTD_freeDStream(zstd);
    EXPECT_EQ(result, 0u) << (ZSTD_isError(result) ? ZSTD_getErrorName(result)
                                                   : "unfinished frame");
    return out;
}

// ---- with the code under test ----

std::vector<struct tensor_view> views_of(std::vector<Tensor> &tensors) {
    std::vector<struct tensor_view> views;
    for (Tensor &tensor : tensors) {
        views.push_back(tensor.view);
        views.back().data = tensor.bytes.empty() ? nullptr : tensor.bytes.data();
    }
    return views;
}

static enum status append(void *context, const void *bytes, size_t size, struct error *) {
    static_cast<std::string *>(context)->append(static_cast<const char *>(bytes), size);
    return STATUS_OK;
}

Encoded encode(std::vector<Tensor> tensors, const Metadata &metadata, int level) {
    Encoded out;
    std::vector<struct tensor_view> views = views_of(tensors);
    std::vector<struct metadata_pair> pairs;
    for (const auto &pair : metadata) {
        pairs.push_back({pair.first.c_str(), pair.second.c_str()});
    }
    struct error err = {};
    struct checkpoint_encoder *encoder = nullptr;
    out.status = checkpoint_encoder_create(level, 1, &encoder, &err);
    if (out.status == STATUS_OK) {
        uint64_t bytes = 0;
        out.status = checkpoint_encode(encoder, views.data(), views.size(), pairs.data(),
                                       pairs.size(), append, &out.bytes, &bytes, nullptr, &err);
        if (out.status == STATUS_OK) {
            EXPECT_EQ(bytes, out.bytes.size());
        }
    }
    checkpoint_encoder_free(encoder);
    out.message = err.message;
    return out;
}

Decoded decode(const std::string &bytes) {
    Decoded out;
    struct error err = {};
    struct checkpoint *checkpoint = nullptr;
    // A copy of exactly that size, so that the address sanitizer sees a read behind its end.
    std::unique_ptr<char[]> copy(new char[bytes.size()]);
    memcpy(copy.get(), bytes.data(), bytes.size());
    out.status = checkpoint_decode(copy.get(), bytes.size(), &checkpoint, &err);
    out.message = err.message;
    out.checkpoint.reset(checkpoint);
    return out;
}

static std::string bytes_of_view(const struct tensor_view &view) {
    uint64_t bytes = 0;
    EXPECT_TRUE(tensor_bytes(&view, &bytes));
    return std::string(static_cast<const char *>(view.data), static_cast<size_t>(bytes));
}

std::string Decoded::bytes_of(const std::string &name) const {
    const struct tensor_view *view =
        tensor_find(checkpoint->tensors, checkpoint->tensor_count, name.c_str());
    return view == nullptr ? "?" : bytes_of_view(*view);
}

std::string Decoded::everything(bool types) const {
    std::string out;
    for (size_t i = 0; i < checkpoint->tensor_count; i++) {
        const struct tensor_view &view = checkpoint->tensors[i];
        char shape[96];
        out += std::string(view.name) + '\0' + (types ? dtype_name(view.dtype) : "") +
               tensor_shape_text(&view, shape, sizeof shape) + bytes_of_view(view);
    }
    return out;
}
