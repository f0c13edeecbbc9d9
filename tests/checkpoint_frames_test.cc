// How a checkpoint's content becomes frames: which pieces are stored as they are, and that neither
// the bytes nor the errors depend on the number of threads.
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <random>
#include <thread>

#include "io/checkpoint.h"
#include "io/checkpoint_frames.h"
#include "tests/support/checkpoint_bytes.h"

namespace {

constexpr size_t FRAME = size_t{4} << 20;
constexpr size_t BLOCK = size_t{128} << 10; // RFC 8878: no block is larger

Tensor bytes_tensor(const std::string &name, const std::string &bytes) {
    Tensor tensor = {
        tensor_make(name.c_str(), DTYPE_U8, nullptr, 1, std::vector<uint64_t>{bytes.size()}.data()),
        bytes};
    return tensor;
}

std::string random_bytes(size_t count, unsigned seed) {
    std::mt19937 generator(seed);
    std::string bytes(count, '\0');
    for (char &byte : bytes) {
        byte = static_cast<char>(generator() >> 24);
    }
    return bytes;
}

// Numbers as trained weights are: alike in the exponent, random in the mantissa.
std::string weights(size_t count, unsigned seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal(0, 0.05f);
    std::string bytes(count * sizeof(float), '\0');
    for (size_t i = 0; i < count; i++) {
        float value = normal(generator);
        memcpy(&bytes[i * sizeof value], &value, sizeof value);
    }
    return bytes;
}

enum status append(void *context, const void *bytes, size_t size, struct error *) {
    static_cast<std::string *>(context)->append(static_cast<const char *>(bytes), size);
    return STATUS_OK;
}

class Encoder {
  public:
    Encoder(int level, unsigned threads) {
        EXPECT_EQ(checkpoint_encoder_create(level, threads, &encoder_, nullptr), STATUS_OK);
    }
    ~Encoder() { checkpoint_encoder_free(encoder_); }
    Encoder(const Encoder &) = delete;
    Encoder &operator=(const Encoder &) = delete;

    enum status run(std::vector<Tensor> &tensors, checkpoint_sink sink, void *context,
                    struct error *err) {
        std::vector<struct tensor_view> views = views_of(tensors);
        return checkpoint_encode(encoder_, views.data(), views.size(), nullptr, 0, sink, context,
                                 nullptr, nullptr, err);
    }
    std::string bytes(std::vector<Tensor> &tensors) {
        std::string out;
        struct error err = {};
        EXPECT_EQ(run(tensors, append, &out, &err), STATUS_OK) << err.message;
        return out;
    }
    double cpu_seconds() const { return checkpoint_encoder_cpu_seconds(encoder_); }

  private:
    struct checkpoint_encoder *encoder_ = nullptr;
};

// The only data frame of a checkpoint: behind the header's.
std::string data_frame(const std::string &checkpoint, size_t content_bytes) {
    size_t entries = 3, table = checkpoint.size() - 9 - 12 * entries;
    auto word = [&](size_t at) {
        uint32_t value;
        memcpy(&value, checkpoint.data() + at, sizeof value);
        return value;
    };
    EXPECT_EQ(word(checkpoint.size() - 9), entries);
    EXPECT_EQ(word(table + 12 + 4), content_bytes);
    return checkpoint.substr(word(table), word(table + 12));
}

// What a stored frame of this content has to be, by RFC 8878: 3.1.1.1 (header) and 3.1.1.2 (blocks).
std::string stored_frame(const std::string &content) {
    std::string out = little_endian(0xFD2FB528, 4);
    out += '\xA4'; // four bytes of content size, single segment, checksum
    out += little_endian(content.size(), 4);
    for (size_t at = 0; at < content.size(); at += BLOCK) {
        std::string block = content.substr(at, BLOCK);
        bool last = at + block.size() == content.size();
        out += little_endian(block.size() * 8 + (last ? 1 : 0), 3) + block;
    }
    return out + little_endian(xxh64_low(content), 4);
}

std::string data_frame_of(const std::string &content, int level) {
    std::vector<Tensor> tensors = {bytes_tensor("t", content)};
    std::string checkpoint = Encoder(level, 1).bytes(tensors);
    EXPECT_TRUE(decode(checkpoint).bytes_of("t") == content);
    return data_frame(checkpoint, content.size());
}

TEST(Frames, WhatHardlyShrinksIsStoredBelowLevelThree) {
    for (const std::string &content :
         {random_bytes(FRAME, 1), random_bytes(3 * BLOCK - 5, 2), weights(FRAME / 4, 3)}) {
        for (int level : {-7, -1, 1, 2}) {
            EXPECT_TRUE(data_frame_of(content, level) == stored_frame(content))
                << level << ", " << content.size() << " bytes";
        }
    }
}

TEST(Frames, LevelThreeAndTheLevelThatMeansItCompressWhateverTheyCan) {
    std::string content = weights(FRAME / 4, 3);
    for (int level : {0, 3, 4}) {
        EXPECT_LT(data_frame_of(content, level).size(), content.size() * 95 / 100) << level;
    }
}

TEST(Frames, WhatShrinksIsCompressedAtEveryLevel) {
    // A fifth of it is zeros, spread as rows of words that were never seen are.
    std::string content = weights(FRAME / 4, 5);
    for (size_t row = 0; row + 256 <= content.size(); row += 5 * 256) {
        std::fill_n(content.begin() + static_cast<std::ptrdiff_t>(row), 256, '\0');
    }
    for (int level : {1, 2, 3}) {
        EXPECT_LT(data_frame_of(content, level).size(), content.size() * 7 / 8) << level;
    }
    EXPECT_LT(data_frame_of(std::string(FRAME, '\0'), -7).size(), FRAME / 1000);
}

// 22 pieces, more than any number of slots below: stored, compressed, of several tensors, and a
// short last one.
constexpr int PIECES = 22;
std::vector<Tensor> several_pieces() {
    std::vector<Tensor> tensors = {
        bytes_tensor("a", random_bytes(FRAME + 7, 1)), bytes_tensor("empty", ""),
        bytes_tensor("b", std::string(19 * FRAME, 'x')), bytes_tensor("c", weights(FRAME / 4, 2))};
    for (unsigned i = 0; i < 40; i++) {
        tensors.push_back(bytes_tensor("d" + std::to_string(i), random_bytes(80000 + i, i)));
    }
    return tensors;
}

TEST(Frames, AnyNumberOfThreadsGivesTheSameBytes) {
    std::vector<Tensor> tensors = several_pieces();
    for (int level : {1, 3}) {
        Encoder alone(level, 1);
        std::string expected = alone.bytes(tensors);
        EXPECT_EQ(alone.cpu_seconds(), 0.0);
        Decoded decoded = decode(expected);
        ASSERT_EQ(decoded.status, STATUS_OK) << decoded.message;
        for (const Tensor &tensor : tensors) {
            EXPECT_TRUE(decoded.bytes_of(tensor.view.name) == tensor.bytes) << tensor.view.name;
        }
        for (unsigned threads : {2u, 3u, 8u}) {
            Encoder encoder(level, threads);
            for (int again = 0; again < 2; again++) {
                EXPECT_TRUE(encoder.bytes(tensors) == expected) << threads;
                EXPECT_GT(encoder.cpu_seconds(), 0.0);
            }
        }
    }
}

TEST(Frames, AFailingSinkEndsTheEncodingWithAnyNumberOfThreads) {
    std::vector<Tensor> tensors = several_pieces();
    struct Sink {
        int calls, fail_at;
    };
    // Slow, so that the other threads run out of slots and wait for it.
    checkpoint_sink sink = [](void *context, const void *, size_t, struct error *) {
        Sink *state = static_cast<Sink *>(context);
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        return ++state->calls == state->fail_at ? STATUS_IO : STATUS_OK;
    };
    std::string expected = Encoder(1, 1).bytes(tensors);
    for (unsigned threads : {1u, 2u, 5u}) {
        Encoder encoder(1, threads);
        for (int n = 1; n <= 1 + PIECES + 1; n += 2) { // header, pieces, what ends the file
            Sink failing = {0, n};
            EXPECT_EQ(encoder.run(tensors, sink, &failing, nullptr), STATUS_IO);
            EXPECT_EQ(failing.calls, n) << threads;
        }
        EXPECT_TRUE(encoder.bytes(tensors) == expected) << threads;
    }
}

TEST(Frames, ManyThreadsMakeThemAndTheirTimeIsCounted) {
    std::vector<Tensor> tensors = several_pieces();
    std::vector<struct tensor_view> views = views_of(tensors);
    struct checkpoint_frames *frames = nullptr;
    ASSERT_EQ(checkpoint_frames_create(1, 3, &frames, nullptr), STATUS_OK);
    EXPECT_EQ(checkpoint_frames_threads(frames), 3u);
    uint64_t content = 0;
    checkpoint_take take = [](void *context, const struct checkpoint_frame *frame, struct error *) {
        std::this_thread::sleep_for(std::chrono::milliseconds(2)); // the others go on meanwhile
        *static_cast<uint64_t *>(context) += frame->content_bytes;
        return STATUS_OK;
    };
    ASSERT_EQ(checkpoint_frames_run(frames, views.data(), views.size(), take, &content, nullptr),
              STATUS_OK);
    uint64_t expected = 0;
    for (const Tensor &tensor : tensors) {
        expected += tensor.bytes.size();
    }
    EXPECT_EQ(content, expected);
    EXPECT_EQ((expected + FRAME - 1) / FRAME, static_cast<uint64_t>(PIECES));
    EXPECT_GT(checkpoint_frames_cpu_seconds(frames), 0.0);
    EXPECT_EQ(checkpoint_frames_cpu_seconds(frames), 0.0); // since the last question
    ASSERT_EQ(checkpoint_frames_run(frames, nullptr, 0, take, &content, nullptr), STATUS_OK);
    EXPECT_EQ(content, expected);
    checkpoint_frames_free(frames);
}

TEST(Frames, TheFirstTensorThatIsNotFiniteIsNamedWithAnyNumberOfThreads) {
    std::vector<Tensor> tensors;
    for (unsigned i = 0; i < 20; i++) {
        std::vector<float> values(100000, 1.0f);
        values[777] = i >= 3 ? INFINITY : 2.0f;
        tensors.push_back(make_tensor<float>("t" + std::to_string(i), DTYPE_F32, {100000}, values));
    }
    for (unsigned threads : {1u, 2u, 4u}) {
        Encoder encoder(1, threads);
        std::string out;
        struct error err = {};
        EXPECT_EQ(encoder.run(tensors, append, &out, &err), STATUS_NONFINITE);
        EXPECT_EQ(std::string(err.message).find("element 777 of 't3' is not finite"), 0u)
            << err.message;
        EXPECT_TRUE(out.empty());
    }
}

TEST(Frames, ThreadsOutOfRangeAreRefused) {
    struct checkpoint_encoder *encoder = nullptr;
    for (unsigned threads : {0u, 65u}) {
        EXPECT_EQ(checkpoint_encoder_create(1, threads, &encoder, nullptr), STATUS_CONFIG);
    }
}

TEST(Decode, TheErrorOfADamagedLargeCheckpointIsTheSameEveryTime) {
    std::vector<Tensor> tensors = several_pieces();
    std::string good = Encoder(1, 1).bytes(tensors), bad = good;
    for (size_t at : {good.size() / 8, good.size() / 2, good.size() / 8 * 7}) { // in three frames
        bad[at] = static_cast<char>(bad[at] ^ 1);
    }
    Decoded first = decode(bad);
    EXPECT_EQ(first.status, STATUS_CORRUPT);
    for (int again = 0; again < 5; again++) {
        EXPECT_EQ(decode(bad).message, first.message);
    }
}

TEST(Decode, OfSeveralDamagedFramesTheFirstIsNamedWhicheverThreadIsFaster) {
    std::string data = random_bytes(6 * FRAME, 3);
    std::string json = "{\"__metadata__\":{\"format_version\":\"1\",\"digest.t\":\"" +
                       xxh3_hex(data) + "\"}," +
                       json_entry("t", "U8", "[" + std::to_string(data.size()) + "]",
                                  "[0," + std::to_string(data.size()) + "]") +
                       "}";
    std::vector<Frame> frames = make_frames(safetensors_header(json), data);
    ASSERT_EQ(decode(assemble(frames)).status, STATUS_OK);
    for (size_t damaged : {2u, 3u, 5u}) { // digest and seek table fit the damage
        frames[damaged].bytes[FRAME / 2] = static_cast<char>(frames[damaged].bytes[FRAME / 2] ^ 1);
    }
    size_t offset = frames[0].bytes.size() + frames[1].bytes.size();
    for (int again = 0; again < 10; again++) {
        Decoded decoded = decode(assemble(frames));
        EXPECT_EQ(decoded.status, STATUS_CORRUPT);
        EXPECT_NE(decoded.message.find("frame at byte " + std::to_string(offset) + " "),
                  std::string::npos)
            << decoded.message;
    }
}

} // namespace
