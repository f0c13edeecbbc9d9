// The checkpoint format: what the encoder writes and what the decoder reads. What it refuses is in
// checkpoint_refuse_test.cc, damage in damage_test.cc.
#include <gtest/gtest.h>

#include <cerrno>
#include <cmath>
#include <cstring>
#include <limits>
#include <sstream>

#include "io/checkpoint.h"
#include "tests/support/checkpoint_bytes.h"
#include "tests/support/temporary_directory.h"

namespace {

constexpr size_t FRAME = size_t{4} << 20;

std::vector<Tensor> many_kinds() {
    return {
        make_tensor<float>("weight", DTYPE_F32, {2, 3}, {0, -0.0f, 1.5f, -3e38f, 1e-45f, 7}),
        make_tensor<uint8_t>("text", DTYPE_U8, {5},
                             {'a', '\n', 0, 255, 10}), // the next one: unaligned
        make_tensor<double>("pi", DTYPE_F64, {}, {3.141592653589793}),
        make_tensor<int64_t>("counts", DTYPE_I64, {3}, {-1, 0, INT64_MAX}),
        make_tensor<float>("nothing", DTYPE_F32, {0, 7}, {}),
        make_tensor<float>("deep", DTYPE_F32, {1, 2, 1, 2}, {1, 2, 3, 4}),
        make_tensor<float>("scalar", DTYPE_F32, {}, {42}),
        make_tensor<uint8_t>("last.empty", DTYPE_U8, {0}, {}),
    };
}

// Values that compress badly and tell their place.
Tensor large(const std::string &name, size_t bytes) {
    std::vector<uint8_t> values(bytes);
    uint32_t state = 12345;
    for (uint8_t &value : values) {
        state = state * 1664525 + 1013904223;
        value = static_cast<uint8_t>(state >> 24);
    }
    return make_tensor<uint8_t>(name, DTYPE_U8, {bytes}, values);
}

void expect_equal(const Decoded &decoded, const std::vector<Tensor> &tensors) {
    ASSERT_EQ(decoded.status, STATUS_OK) << decoded.message;
    ASSERT_EQ(decoded.checkpoint->tensor_count, tensors.size());
    for (size_t i = 0; i < tensors.size(); i++) {
        const struct tensor_view &view = decoded.checkpoint->tensors[i];
        EXPECT_STREQ(view.name, tensors[i].view.name);
        EXPECT_EQ(view.dtype, tensors[i].view.dtype) << view.name;
        EXPECT_EQ(view.rank, tensors[i].view.rank) << view.name;
        for (int k = 0; k < TENSOR_RANK_MAX; k++) {
            EXPECT_EQ(view.shape[k], tensors[i].view.shape[k]) << view.name;
        }
        EXPECT_EQ(reinterpret_cast<uintptr_t>(view.data) % 8, 0u) << view.name;
        EXPECT_TRUE(decoded.bytes_of(view.name) == tensors[i].bytes) << view.name;
    }
}

// ---- encoding ----

TEST(Encode, RoundTripOfEveryDtypeAndRankAtEveryKindOfLevel) {
    for (int level : {-7, -1, 1, 3, 19}) {
        Encoded encoded = encode(many_kinds(), {{"a", "b"}}, level);
        ASSERT_EQ(encoded.status, STATUS_OK) << encoded.message;
        Decoded decoded = decode(encoded.bytes);
        expect_equal(decoded, many_kinds());
        EXPECT_FALSE(decoded.checkpoint->plain);
        EXPECT_EQ(decoded.checkpoint->file_bytes, encoded.bytes.size());
    }
}

TEST(Encode, ContentIsTheSafetensorsFileThatTheSpecificationAsksFor) {
    std::vector<Tensor> tensors = {make_tensor<float>("w", DTYPE_F32, {1, 2}, {1, 2}),
                                   make_tensor<uint8_t>("v", DTYPE_U8, {3}, {7, 8, 9})};
    Encoded encoded = encode(tensors, {{"k\"1", "line\nbreak \xC3\xA4"}});
    ASSERT_EQ(encoded.status, STATUS_OK) << encoded.message;
    std::string json = "{\"__metadata__\":{\"format_version\":\"1\",\"k\\\"1\":\"line\\nbreak "
                       "\xC3\xA4\",\"digest.w\":\"" +
                       xxh3_hex(tensors[0].bytes) + "\",\"digest.v\":\"" +
                       xxh3_hex(tensors[1].bytes) +
                       "\"},\"w\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[0,8]},"
                       "\"v\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[8,11]}}";
    EXPECT_EQ(decompress_all(encoded.bytes),
              safetensors_header(json) + tensors[0].bytes + tensors[1].bytes);
}

TEST(Encode, NoTensorsAtAllIsLegal) {
    Encoded encoded = encode({}, {{"note", ""}});
    ASSERT_EQ(encoded.status, STATUS_OK) << encoded.message;
    Decoded decoded = decode(encoded.bytes);
    ASSERT_EQ(decoded.status, STATUS_OK) << decoded.message;
    EXPECT_EQ(decoded.checkpoint->tensor_count, 0u);
    EXPECT_STREQ(checkpoint_metadata(decoded.checkpoint.get(), "note"), "");
    EXPECT_EQ(checkpoint_metadata(decoded.checkpoint.get(), "absent"), nullptr);
}

// The seek table as a reader of zstd's seekable format sees it: from the end of the file.
struct SeekEntry {
    uint32_t frame_bytes, content_bytes, checksum;
};
uint32_t word(const std::string &bytes, size_t at) {
    uint32_t value = 0;
    for (size_t i = 0; i < 4; i++) {
        value |= static_cast<uint32_t>(static_cast<unsigned char>(bytes.at(at + i))) << (8 * i);
    }
    return value;
}
std::vector<SeekEntry> read_seek_table(const std::string &bytes) {
    EXPECT_EQ(word(bytes, bytes.size() - 4), 0x8F92EAB1u);
    EXPECT_EQ(static_cast<unsigned char>(bytes[bytes.size() - 5]), 0x80);
    size_t count = word(bytes, bytes.size() - 9);
    size_t start = bytes.size() - 9 - 12 * count;
    EXPECT_EQ(word(bytes, start - 8), 0x184D2A5Eu);
    EXPECT_EQ(word(bytes, start - 4), 12 * count + 9);
    std::vector<SeekEntry> entries;
    for (size_t i = 0; i < count; i++) {
        entries.push_back({word(bytes, start + 12 * i), word(bytes, start + 12 * i + 4),
                           word(bytes, start + 12 * i + 8)});
    }
    return entries;
}

TEST(Encode, DataIsCutIntoIndependentFramesThatTheSeekTableFinds) {
    // bytes of data, data frames
    const std::pair<size_t, size_t> cases[] = {{0, 0},     {1, 1},         {FRAME - 1, 1},
                                               {FRAME, 1}, {FRAME + 1, 2}, {2 * FRAME + 12345, 3}};
    for (auto [bytes, frames] : cases) {
        // Two tensors, so that a frame spans both.
        std::vector<Tensor> tensors = {large("a", bytes / 3), large("b", bytes - bytes / 3)};
        Encoded encoded = encode(tensors);
        ASSERT_EQ(encoded.status, STATUS_OK) << encoded.message;
        std::string content = decompress_all(encoded.bytes);
        std::vector<SeekEntry> entries = read_seek_table(encoded.bytes);
        ASSERT_EQ(entries.size(), 1 + frames + 1) << bytes;
        size_t from = 0, at = 0;
        for (size_t i = 0; i + 1 < entries.size(); i++) {
            std::string part = content.substr(at, entries[i].content_bytes);
            EXPECT_EQ(entries[i].checksum, xxh64_low(part));
            EXPECT_EQ(decompress_all(encoded.bytes.substr(from, entries[i].frame_bytes)), part);
            if (i > 0) {
                EXPECT_EQ(part.size(), i < frames ? FRAME : bytes - (frames - 1) * FRAME);
            }
            from += entries[i].frame_bytes;
            at += entries[i].content_bytes;
        }
        EXPECT_EQ(at, content.size());
        EXPECT_EQ(entries.back().frame_bytes, 24u);
        EXPECT_EQ(entries.back().content_bytes, 0u);
        EXPECT_EQ(entries.back().checksum, xxh64_low(""));
        EXPECT_EQ(encoded.bytes.substr(from, 24), digest_frame(encoded.bytes.substr(0, from)));
        EXPECT_EQ(from + 24 + 8 + 12 * entries.size() + 9, encoded.bytes.size());
        Decoded decoded = decode(encoded.bytes);
        expect_equal(decoded, tensors);
        EXPECT_EQ(decoded.checkpoint->digest, xxh3_hex(encoded.bytes.substr(0, from)));
    }
}

TEST(Encode, SameInputGivesSameBytes) {
    std::vector<Tensor> tensors = many_kinds();
    tensors.push_back(large("large", FRAME + 77));
    Encoded first = encode(tensors, {{"a", "b"}}), second = encode(tensors, {{"a", "b"}});
    EXPECT_TRUE(first.bytes == second.bytes);

    // One encoder used again, also after an encoding that failed half way.
    std::vector<struct tensor_view> views = views_of(tensors);
    struct metadata_pair pair = {"a", "b"};
    struct checkpoint_encoder *encoder = nullptr;
    ASSERT_EQ(checkpoint_encoder_create(1, 1, &encoder, nullptr), STATUS_OK);
    checkpoint_sink failing = [](void *, const void *, size_t, struct error *) {
        return STATUS_IO;
    };
    checkpoint_sink append = [](void *context, const void *bytes, size_t size, struct error *) {
        static_cast<std::string *>(context)->append(static_cast<const char *>(bytes), size);
        return STATUS_OK;
    };
    for (int round = 0; round < 2; round++) {
        EXPECT_EQ(checkpoint_encode(encoder, views.data(), views.size(), &pair, 1, failing, nullptr,
                                    nullptr, nullptr, nullptr),
                  STATUS_IO);
        std::string bytes;
        double seconds = -1;
        EXPECT_EQ(checkpoint_encode(encoder, views.data(), views.size(), &pair, 1, append, &bytes,
                                    nullptr, &seconds, nullptr),
                  STATUS_OK);
        EXPECT_TRUE(bytes == first.bytes);
        EXPECT_GE(seconds, 0.0);
    }
    checkpoint_encoder_free(encoder);
    checkpoint_encoder_free(nullptr);
}

TEST(Encode, FailureOfTheSinkEndsTheEncodingAndIsReturned) {
    std::vector<Tensor> tensors = {large("large", 2 * FRAME)};
    std::vector<struct tensor_view> views = views_of(tensors);
    struct checkpoint_encoder *encoder = nullptr;
    ASSERT_EQ(checkpoint_encoder_create(1, 1, &encoder, nullptr), STATUS_OK);
    struct Sink {
        int calls, fail_at;
    };
    checkpoint_sink sink = [](void *context, const void *, size_t, struct error *err) {
        Sink *state = static_cast<Sink *>(context);
        return ++state->calls == state->fail_at ? error_set(err, STATUS_IO, "disk %d", 7)
                                                : STATUS_OK;
    };
    Sink counting = {0, -1};
    ASSERT_EQ(checkpoint_encode(encoder, views.data(), 1, nullptr, 0, sink, &counting, nullptr,
                                nullptr, nullptr),
              STATUS_OK);
    ASSERT_GE(counting.calls, 4); // header, two data frames, trailer
    for (int n = 1; n <= counting.calls; n++) {
        Sink failing = {0, n};
        struct error err = {};
        EXPECT_EQ(checkpoint_encode(encoder, views.data(), 1, nullptr, 0, sink, &failing, nullptr,
                                    nullptr, &err),
                  STATUS_IO);
        EXPECT_STREQ(err.message, "disk 7");
        EXPECT_EQ(failing.calls, n);
    }
    checkpoint_encoder_free(encoder);
}

TEST(Encode, NonFiniteValuesAreRefusedBeforeAByteIsWritten) {
    const float bad_floats[] = {NAN, -NAN, INFINITY, -INFINITY};
    for (size_t size : {1, 2, 7, 8, 9, 63, 64, 1000, 4096, 4097, 10001}) {
        for (size_t place : {size_t{0}, size / 2, size - 1}) {
            for (float bad : bad_floats) {
                std::vector<float> floats(size, std::numeric_limits<float>::max());
                floats[place] = bad;
                std::vector<double> doubles(size, -std::numeric_limits<double>::max());
                doubles[place] = static_cast<double>(bad);
                Encoded f32 = encode({make_tensor<float>("ok", DTYPE_F32, {1}, {1}),
                                      make_tensor<float>("lstm.bad", DTYPE_F32, {size}, floats)});
                Encoded f64 = encode({make_tensor<double>("adam.bad", DTYPE_F64, {size}, doubles)});
                EXPECT_EQ(f32.status, STATUS_NONFINITE);
                EXPECT_EQ(f64.status, STATUS_NONFINITE);
                EXPECT_EQ(f32.bytes + f64.bytes, "");
                std::string element = "element " + std::to_string(place) + " ";
                EXPECT_NE(f32.message.find("lstm.bad"), std::string::npos) << f32.message;
                EXPECT_NE(f32.message.find(element), std::string::npos) << f32.message;
                EXPECT_NE(f64.message.find("adam.bad"), std::string::npos) << f64.message;
                EXPECT_NE(f64.message.find(element), std::string::npos) << f64.message;
            }
        }
    }
}

TEST(Encode, StateAndHistoryMayHoldNonFiniteValues) {
    std::vector<Tensor> tensors = {
        make_tensor<double>("state.best", DTYPE_F64, {2}, {NAN, INFINITY}),
        make_tensor<double>("history.epochs", DTYPE_F64, {1, 4}, {1, 2, NAN, NAN}),
        make_tensor<float>("state.f", DTYPE_F32, {1}, {-INFINITY}),
        // Bits that would be a NaN in another type are nothing special.
        make_tensor<int64_t>("i", DTYPE_I64, {1}, {0x7FF8000000000000}),
        make_tensor<uint8_t>("u", DTYPE_U8, {4}, {0xFF, 0xFF, 0xFF, 0xFF}),
    };
    Encoded encoded = encode(tensors);
    ASSERT_EQ(encoded.status, STATUS_OK) << encoded.message;
    expect_equal(decode(encoded.bytes), tensors);
    EXPECT_EQ(encode({make_tensor<float>("statement", DTYPE_F32, {1}, {NAN})}).status,
              STATUS_NONFINITE);
}

TEST(Encode, MetadataComeBackInOrder) {
    Metadata metadata = {{"zebra", "1"},
                         {"options", "a = \"1\"\n\tb = \\ / \x01\x7f\n"},
                         {"\xE2\x82\xAC", "\xF0\x9F\x98\x80"},
                         {"", "empty key"}};
    Encoded encoded = encode({make_tensor<float>("w", DTYPE_F32, {1}, {1})}, metadata);
    ASSERT_EQ(encoded.status, STATUS_OK) << encoded.message;
    Decoded decoded = decode(encoded.bytes);
    ASSERT_EQ(decoded.status, STATUS_OK) << decoded.message;
    ASSERT_EQ(decoded.checkpoint->metadata_count, metadata.size() + 2);
    EXPECT_STREQ(decoded.checkpoint->metadata[0].key, "format_version");
    EXPECT_STREQ(decoded.checkpoint->metadata[0].value, "1");
    for (size_t i = 0; i < metadata.size(); i++) {
        EXPECT_EQ(decoded.checkpoint->metadata[i + 1].key, metadata[i].first);
        EXPECT_EQ(decoded.checkpoint->metadata[i + 1].value, metadata[i].second);
    }
    EXPECT_STREQ(decoded.checkpoint->metadata[5].key, "digest.w");
}

TEST(Encode, LimitsAndMisuseAreConfigurationErrors) {
    Tensor one = make_tensor<float>("w", DTYPE_F32, {1}, {1});
    std::vector<Tensor> many;
    for (int i = 0; i < 1024; i++) {
        many.push_back(make_tensor<uint8_t>("t" + std::to_string(i), DTYPE_U8, {1}, {1}));
    }
    Encoded most = encode(many);
    ASSERT_EQ(most.status, STATUS_OK) << most.message;
    expect_equal(decode(most.bytes), many);
    many.push_back(one);
    EXPECT_EQ(encode(many).status, STATUS_CONFIG);

    EXPECT_EQ(encode({one, one}).status, STATUS_CONFIG);
    EXPECT_EQ(encode({make_tensor<float>("", DTYPE_F32, {1}, {1})}).status, STATUS_CONFIG);
    EXPECT_EQ(encode({make_tensor<float>("a\nb", DTYPE_F32, {1}, {1})}).status, STATUS_CONFIG);
    EXPECT_EQ(encode({make_tensor<float>("__metadata__", DTYPE_F32, {1}, {1})}).status,
              STATUS_CONFIG);
    EXPECT_EQ(encode({one}, {{"format_version", "7"}}).status, STATUS_CONFIG);
    EXPECT_EQ(encode({one}, {{"digest.w", "00"}}).status, STATUS_CONFIG);
    EXPECT_EQ(encode({one}, {{"a", "1"}, {"a", "2"}}).status, STATUS_CONFIG);
    EXPECT_EQ(encode({one}, {}, 20).status, STATUS_CONFIG);
    EXPECT_EQ(encode({one}, {}, -8).status, STATUS_CONFIG);

    // The JSON header may have 1 MiB, and not one byte more than fits after padding.
    size_t rest =
        safetensors_header(decompress_all(encode({one}, {{"a", ""}}).bytes).substr(8)).size();
    std::string fits((1 << 20) - rest, 'x'), too_long((1 << 20), 'x');
    Encoded largest = encode({one}, {{"a", fits}});
    ASSERT_EQ(largest.status, STATUS_OK) << largest.message;
    EXPECT_EQ(decode(largest.bytes).status, STATUS_OK);
    Encoded refused = encode({one}, {{"a", too_long}});
    EXPECT_EQ(refused.status, STATUS_CONFIG);
    EXPECT_EQ(refused.bytes, "");
}

// ---- plain safetensors ----

TEST(Plain, SafetensorsOfOthersAreRead) {
    // Keys in another order, offsets not in the order of the JSON, no metadata, no alignment.
    std::string json = "{" + json_entry("late", "F32", "[1]", "[3,7]") +
                       ",\"early\":{\"data_offsets\":[0,3],\"shape\":[3],\"dtype\":\"U8\"}," +
                       json_entry("empty", "F64", "[0]", "[3,3]") + "}";
    float value = 2.5f;
    std::string data = "abc" + std::string(reinterpret_cast<char *>(&value), 4);
    Decoded decoded = decode(little_endian(json.size(), 8) + json + data);
    expect_equal(decoded, {make_tensor<uint8_t>("early", DTYPE_U8, {3}, {'a', 'b', 'c'}),
                           make_tensor<double>("empty", DTYPE_F64, {0}, {}),
                           make_tensor<float>("late", DTYPE_F32, {1}, {2.5f})});
    EXPECT_TRUE(decoded.checkpoint->plain);
    EXPECT_STREQ(decoded.checkpoint->digest, "");
}

TEST(Plain, DigestsAreCheckedWhereThereAreAny) {
    std::string w = json_entry("w", "U8", "[2]", "[0,2]"), right = xxh3_hex("hi");
    auto file = [&](const std::string &metadata, const std::string &data) {
        return safetensors_header("{\"__metadata__\":{" + metadata + "}," + w + "}") + data;
    };
    EXPECT_EQ(decode(file("\"format\":\"pt\"", "hi")).status, STATUS_OK);
    EXPECT_EQ(decode(file("\"digest.w\":\"" + right + "\"", "hi")).status, STATUS_OK);
    EXPECT_EQ(decode(file("\"digest.w\":\"" + right + "\"", "ho")).status, STATUS_CORRUPT);
    // A decompressed checkpoint of ours: every tensor has its digest, every digest its tensor.
    std::string ours = "\"format_version\":\"1\"";
    EXPECT_EQ(decode(file(ours + ",\"digest.w\":\"" + right + "\"", "hi")).status, STATUS_OK);
    EXPECT_EQ(decode(file(ours, "hi")).status, STATUS_CORRUPT);
    EXPECT_EQ(
        decode(file(ours + ",\"digest.w\":\"" + right + "\",\"digest.x\":\"" + right + "\"", "hi"))
            .status,
        STATUS_CORRUPT);
}

TEST(Plain, DecompressedCheckpointIsReadToo) {
    Decoded decoded = decode(decompress_all(encode(many_kinds()).bytes));
    expect_equal(decoded, many_kinds());
    EXPECT_TRUE(decoded.checkpoint->plain);
}

// ---- files ----

TEST(ReadFile, SaysWhichFileAndWhy) {
    TemporaryDirectory directory;
    std::string path = directory.file("a.safetensors.zst");
    struct checkpoint *checkpoint = nullptr;
    struct error err = {};
    EXPECT_EQ(checkpoint_read_file(&file_posix, path.c_str(), &checkpoint, &err), STATUS_INPUT);
    EXPECT_NE(std::string(err.message).find(path), std::string::npos) << err.message;

    std::string bytes = encode(many_kinds()).bytes;
    write_file(path, bytes);
    ASSERT_EQ(checkpoint_read_file(&file_posix, path.c_str(), &checkpoint, &err), STATUS_OK)
        << err.message;
    EXPECT_EQ(checkpoint->file_bytes, bytes.size());
    checkpoint_free(checkpoint);
    checkpoint_free(nullptr);

    write_file(path, bytes.substr(0, bytes.size() - 1));
    EXPECT_EQ(checkpoint_read_file(&file_posix, path.c_str(), &checkpoint, &err), STATUS_CORRUPT);
    EXPECT_EQ(std::string(err.message).rfind(path + ": ", 0), 0u) << err.message;
}

// What does not shrink makes a file that is larger than its content, the largest one too. The file
// is a small one here that claims its size and cannot be read.
TEST(ReadFile, TheLargestContentMayTakeMoreBytesThanItHas) {
    const uint64_t more =
        encode({large("a", FRAME)}).bytes.size() - FRAME; // of one frame, and once
    ASSERT_GT(more, 0u);
    EXPECT_GE(CHECKPOINT_FILE_BYTES_MAX,
              CHECKPOINT_CONTENT_BYTES_MAX + CHECKPOINT_CONTENT_BYTES_MAX / FRAME * more);
    TemporaryDirectory directory;
    std::string path = directory.file("a.safetensors.zst");
    write_file(path, "x");
    uint64_t claimed = 0;
    struct file_table files = file_posix;
    files.context = &claimed;
    files.stat = [](void *context, const char *, struct file_stat *out) {
        *out = {*static_cast<uint64_t *>(context), 0.0, false, true, 0, 0};
        return 0;
    };
    files.read = [](void *, int, void *, size_t) { return ssize_t{-EIO}; };
    auto status_of = [&](uint64_t bytes) {
        struct checkpoint *checkpoint = nullptr;
        claimed = bytes;
        return checkpoint_read_file(&files, path.c_str(), &checkpoint, nullptr);
    };
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    // STATUS_IO, or STATUS_MEMORY where there is no room for it; a sanitizer's allocator would end the
    // program then.
    EXPECT_NE(status_of(CHECKPOINT_CONTENT_BYTES_MAX + CHECKPOINT_CONTENT_BYTES_MAX / 1000),
              STATUS_DATA);
#endif
    EXPECT_EQ(status_of(CHECKPOINT_FILE_BYTES_MAX + 1), STATUS_DATA);
}

TEST(Digest, IsXxh3OfTheBytes) {
    char hex[33];
    checkpoint_digest_hex("", 0, hex);
    EXPECT_STREQ(hex, "99aa06d3014798d86001c324468d497f"); // xxhsum -H2 of an empty file
    checkpoint_digest_hex("abc", 3, hex);
    EXPECT_EQ(hex, xxh3_hex("abc"));
}

// ---- the document ----

// The bytes of the first `xxd -g1` dump in the page: "00000010: ab 03 08 ... 69  (./.d......M)!Pi".
std::string dump_in(const std::string &page) {
    std::string bytes;
    std::istringstream lines(page);
    for (std::string line; std::getline(lines, line);) {
        char offset[16];
        snprintf(offset, sizeof offset, "%08zx: ", bytes.size());
        if (line.rfind(offset, 0) != 0) {
            continue;
        }
        for (size_t at = 10; at + 1 < line.size() && line[at] != ' '; at += 3) {
            bytes += static_cast<char>(std::stoi(line.substr(at, 2), nullptr, 16));
        }
    }
    return bytes;
}

TEST(Document, WorkedExample) {
    std::string page = read_file(CAIRN_SOURCE_DIR "/docs/checkpoint-format.md");
    std::string bytes = dump_in(page);
    ASSERT_EQ(bytes.size(), 309u);
    Decoded decoded = decode(bytes);
    expect_equal(decoded, {make_tensor<float>("w", DTYPE_F32, {1, 2}, {1.0f, -2.0f}),
                           make_tensor<int64_t>("state.step", DTYPE_I64, {}, {7})});
    EXPECT_STREQ(checkpoint_metadata(decoded.checkpoint.get(), "note"), "tiny");
    // The JSON that the page shows is the JSON in the bytes, without the line breaks.
    std::string json = decompress_all(bytes).substr(8, 271), shown;
    size_t start = page.find("{\"__metadata__\":{\"format_version\":\"1\",\"note\"");
    ASSERT_NE(start, std::string::npos);
    for (char c : page.substr(start, page.find("\n```", start) - start)) {
        shown += c == '\n' ? "" : std::string(1, c);
    }
    EXPECT_EQ(json, shown);
}

} // namespace
