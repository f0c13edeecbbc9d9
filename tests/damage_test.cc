// Damage: every kind of flipped bit and every kind of cut is refused with a reason, and no file
// that still decodes holds other values.
//
// Two subjects: a small checkpoint of a whole training state, of which every single bit is flipped
// and which is cut at every byte, and one of several frames, of which everything but the payload
// is. On-disk damage is one half. The checksums of the container hide the parser from it, so the
// other half damages the content first and then builds a flawless container around it.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <random>

#include "tests/support/checkpoint_bytes.h"

namespace {

// ---- subjects ----

std::vector<float> floats(size_t count, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0.0f, 0.1f);
    std::vector<float> values(count);
    for (float &value : values) {
        value = normal(random);
    }
    return values;
}

// What a trainer saves, at sizes of choice.
std::vector<Tensor> training_state(uint64_t vocabulary, uint64_t embedding, uint64_t hidden,
                                   uint64_t dense) {
    const std::pair<std::string, std::vector<uint64_t>> weights[] = {
        {"embedding.weight", {vocabulary, embedding}},
        {"lstm.weight_ih_l0", {4 * hidden, embedding}},
        {"lstm.weight_hh_l0", {4 * hidden, hidden}},
        {"lstm.bias_l0", {4 * hidden}},
        {"lstm.weight_ih_l0_reverse", {4 * hidden, embedding}},
        {"lstm.weight_hh_l0_reverse", {4 * hidden, hidden}},
        {"lstm.bias_l0_reverse", {4 * hidden}},
        {"dense.weight", {dense, 2 * hidden}},
        {"dense.bias", {dense}},
        {"output.weight", {1, dense}},
        {"output.bias", {1}},
    };
    std::vector<Tensor> tensors;
    unsigned seed = 1;
    for (const char *prefix : {"", "adam.m.", "adam.v."}) {
        for (const auto &weight : weights) {
            size_t count = 1;
            for (uint64_t size : weight.second) {
                count *= size;
            }
            tensors.push_back(make_tensor<float>(prefix + weight.first, DTYPE_F32, weight.second,
                                                 floats(count, seed++)));
        }
    }
    std::string words;
    for (uint64_t i = 0; i < vocabulary; i++) {
        words += "word" + std::to_string(i) + "\n";
    }
    tensors.push_back(make_tensor<char>("vocabulary", DTYPE_U8, {words.size()},
                                        std::vector<char>(words.begin(), words.end())));
    tensors.push_back(make_tensor<int64_t>("state.step", DTYPE_I64, {}, {391}));
    tensors.push_back(make_tensor<int64_t>("state.epoch", DTYPE_I64, {}, {1}));
    tensors.push_back(make_tensor<double>("history.epochs", DTYPE_F64, {2, 4},
                                          {0.6, 0.7, 0.5, 0.8, 0.4, 0.85, 0.35, 0.86}));
    return tensors;
}

const Metadata METADATA = {{"created", "2024-05-06T07:08:09Z"},
                           {"options", "batch-size = 64\nseed = 1\nshuffle = full\n"}};

const std::string &small_file() {
    static const std::string bytes = encode(training_state(20, 3, 4, 5), METADATA).bytes;
    return bytes;
}

const std::string &large_file() { // 2 data frames
    static const std::string bytes = encode(training_state(2500, 150, 40, 16), METADATA).bytes;
    return bytes;
}

// ---- trying ----

// Decodes damaged files and counts what came of it.
class Trial {
  public:
    // `types`: is another type for the same bytes another value?
    explicit Trial(const std::string &good, bool types = true)
        : types_(types), everything_(decode(good).everything(types)) {}

    // True when the damage was refused.
    bool refused(const std::string &bytes) {
        Decoded decoded = decode(bytes);
        tried_++;
        if (decoded.status != STATUS_OK) {
            refused_++;
            bool other = decoded.message.find("has format version '") != std::string::npos;
            other_versions_ += other;
            EXPECT_EQ(decoded.status, other ? STATUS_DATA : STATUS_CORRUPT) << decoded.message;
            EXPECT_GT(decoded.message.size(), 10u) << "no reason given";
            return true;
        }
        if (decoded.everything(types_) == everything_) {
            same_++;
        } else {
            different_++;
        }
        return false;
    }

    // Nothing may pass.
    void expect_all_refused(const char *what, int at_least) const {
        print(what);
        EXPECT_EQ(refused_, tried_) << what;
        EXPECT_GE(tried_, at_least) << what;
    }
    // What passes must hold the same values, and something must pass.
    void expect_no_other_values(const char *what, int at_least) const {
        print(what);
        EXPECT_EQ(different_, 0) << what;
        EXPECT_GT(refused_, 0) << what;
        EXPECT_GE(tried_, at_least) << what;
    }
    int same() const { return same_; }
    int other_versions() const { return other_versions_; }

  private:
    void print(const char *what) const {
        printf("%-55s %7d tried, %7d refused, %d decoded to the same values, %d to others\n", what,
               tried_, refused_, same_, different_);
    }
    bool types_;
    std::string everything_;
    int tried_ = 0, refused_ = 0, same_ = 0, different_ = 0, other_versions_ = 0;
};

std::string flipped(std::string bytes, size_t bit) {
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << bit % 8));
    return bytes;
}

// ---- the file as it lies on the disk ----

TEST(OnDisk, EveryBitOfASmallCheckpoint) {
    const std::string &good = small_file();
    Trial trial(good);
    for (size_t bit = 0; bit < good.size() * 8; bit++) {
        ASSERT_TRUE(trial.refused(flipped(good, bit))) << "bit " << bit;
    }
    trial.expect_all_refused("every bit of a small checkpoint", 40000);
    EXPECT_EQ(trial.other_versions(), 0) << "what is damaged would not be passed over";
}

TEST(OnDisk, EveryCutOfASmallCheckpoint) {
    const std::string &good = small_file();
    Trial front(good), back(good), zeros(good), middle(good);
    for (size_t size = 0; size < good.size(); size++) {
        ASSERT_TRUE(front.refused(good.substr(0, size))) << size;
        ASSERT_TRUE(size == 0 || back.refused(good.substr(size))) << size;
        // A file whose size was set but whose end never reached the disk.
        ASSERT_TRUE(zeros.refused(good.substr(0, size) + std::string(good.size() - size, '\0')));
        ASSERT_TRUE(middle.refused(good.substr(0, size) + good.substr(size + 1))) << size;
    }
    front.expect_all_refused("end cut off, at every byte", 1000);
    back.expect_all_refused("start cut off, at every byte", 1000);
    zeros.expect_all_refused("end replaced by zeros, at every byte", 1000);
    middle.expect_all_refused("one byte missing, at every byte", 1000);
}

// Where things lie in a file of several frames, from its seek table.
struct Layout {
    std::vector<size_t> frames; // offsets; the last one is the digest frame's
    size_t table;
};
uint32_t word(const std::string &bytes, size_t at) {
    uint32_t value;
    memcpy(&value, bytes.data() + at, 4); // little-endian hosts only, as everywhere in the tests
    return value;
}
Layout layout_of(const std::string &bytes) {
    size_t count = word(bytes, bytes.size() - 9);
    Layout layout = {{0}, bytes.size() - 17 - 12 * count};
    for (size_t i = 0; i + 1 < count; i++) {
        layout.frames.push_back(layout.frames.back() + word(bytes, layout.table + 8 + 12 * i));
    }
    EXPECT_EQ(layout.frames.back() + 24, layout.table);
    return layout;
}

TEST(OnDisk, EveryBitOfFrameHeadersDigestAndSeekTable) {
    const std::string &good = large_file();
    Layout layout = layout_of(good);
    ASSERT_EQ(layout.frames.size(), 4u); // header, 2 data frames, digest
    Trial headers(good), checksums(good), digest(good), table(good);
    for (size_t i = 0; i + 1 < layout.frames.size(); i++) {
        // Frame header (at most 14 bytes) and the header of the first block (3 bytes).
        for (size_t bit = 0; bit < 17 * 8; bit++) {
            ASSERT_TRUE(headers.refused(flipped(good, layout.frames[i] * 8 + bit)))
                << i << " " << bit;
        }
        for (size_t bit = 0; bit < 4 * 8; bit++) {
            ASSERT_TRUE(checksums.refused(flipped(good, (layout.frames[i + 1] - 4) * 8 + bit)));
        }
    }
    for (size_t bit = layout.frames.back() * 8; bit < layout.table * 8; bit++) {
        ASSERT_TRUE(digest.refused(flipped(good, bit))) << bit;
    }
    for (size_t bit = layout.table * 8; bit < good.size() * 8; bit++) {
        ASSERT_TRUE(table.refused(flipped(good, bit))) << bit;
    }
    headers.expect_all_refused("every bit of the frame headers, 3 frames", 3 * 17 * 8);
    checksums.expect_all_refused("every bit of the frames' checksums", 3 * 32);
    digest.expect_all_refused("every bit of the digest frame", 24 * 8);
    table.expect_all_refused("every bit of the seek table", (17 + 12 * 4) * 8);
}

TEST(OnDisk, RandomBitsAndCutsOfThePayload) {
    const std::string &good = large_file();
    Layout layout = layout_of(good);
    std::mt19937_64 random(20240506);
    Trial bits(good), cuts(good), sectors(good), swaps(good);
    size_t first = layout.frames[1], last = layout.frames.back();
    for (int i = 0; i < 1000; i++) {
        size_t bit = first * 8 + random() % ((last - first) * 8);
        ASSERT_TRUE(bits.refused(flipped(good, bit))) << bit;

        size_t size = random() % good.size();
        ASSERT_TRUE(cuts.refused(good.substr(0, size))) << size;

        // A sector that was never written.
        std::string torn = good;
        size_t sector = random() % (good.size() / 512) * 512;
        memset(torn.data() + sector, 0, 512);
        ASSERT_TRUE(sectors.refused(torn)) << sector;

        // Two bytes in each other's place.
        std::string swapped = good;
        size_t a = random() % good.size(), b = random() % good.size();
        std::swap(swapped[a], swapped[b]);
        ASSERT_TRUE(swapped == good || swaps.refused(swapped)) << a << " " << b;
    }
    bits.expect_all_refused("random payload bits", 1000);
    cuts.expect_all_refused("random cuts", 1000);
    sectors.expect_all_refused("random sectors zeroed", 1000);
    swaps.expect_all_refused("random pairs of bytes swapped", 900);
}

// ---- damage inside a flawless container ----

struct Content {
    std::string json, data;
};
Content content_of(const std::string &bytes) {
    std::string content = decompress_all(bytes);
    size_t json_bytes = word(content, 0);
    return {content.substr(8, json_bytes), content.substr(8 + json_bytes)};
}

TEST(Reencoded, EveryBitOfTheJson) {
    Content content = content_of(small_file());
    Frame data = make_frame(content.data);
    auto file = [&](const std::string &json) {
        return assemble({make_frame(little_endian(json.size(), 8) + json), data});
    };
    ASSERT_EQ(decode(file(content.json)).status, STATUS_OK);
    Trial trial(small_file()), plain(small_file());
    for (size_t bit = 0; bit < content.json.size() * 8; bit++) {
        std::string json = flipped(content.json, bit);
        trial.refused(file(json));
        if (bit % 8 == bit / 8 % 8) {
            plain.refused(little_endian(json.size(), 8) + json + content.data);
        }
    }
    // Free text in the metadata may change unnoticed here: its bits are guarded by the container,
    // which was made anew. Names, shapes, places and values of tensors may not.
    trial.expect_no_other_values("every bit of the JSON, container made anew", 30000);
    plain.expect_no_other_values("a bit of every byte of the JSON, plain safetensors", 5000);
    EXPECT_GT(trial.same(), 0);
    EXPECT_LT(trial.same(), 1000);
    EXPECT_EQ(trial.other_versions(), 6) << "of its '1' two flipped bits make no JSON text";
}

TEST(Reencoded, EveryBitOfTheLengthInFrontOfTheJson) {
    Content content = content_of(small_file());
    std::string length = little_endian(content.json.size(), 8);
    Trial trial(small_file()), plain(small_file());
    for (size_t bit = 0; bit < 64; bit++) {
        std::string header = flipped(length, bit) + content.json;
        ASSERT_TRUE(trial.refused(assemble(header, content.data))) << bit;
        ASSERT_TRUE(plain.refused(header + content.data)) << bit;
    }
    trial.expect_all_refused("every bit of the JSON's length, container made anew", 64);
    plain.expect_all_refused("every bit of the JSON's length, plain safetensors", 64);
}

TEST(Reencoded, EveryBitOfTheTensors) {
    // Few tensors, so that most of the time goes into their bytes.
    std::vector<Tensor> tensors = training_state(200, 3, 4, 5);
    tensors = {tensors[0], tensors[1], tensors.back()};
    std::string good = encode(tensors).bytes;
    Content content = content_of(good);
    std::string header = little_endian(content.json.size(), 8) + content.json;
    Frame head = make_frame(header);
    Trial trial(good), plain(good);
    for (size_t bit = 0; bit < content.data.size() * 8; bit++) {
        std::string data = flipped(content.data, bit);
        ASSERT_TRUE(trial.refused(assemble({head, make_frame(data)}))) << bit;
        ASSERT_TRUE(plain.refused(header + data)) << bit;
    }
    trial.expect_all_refused("every bit of the tensors, container made anew", 10000);
    plain.expect_all_refused("every bit of the tensors, plain safetensors", 10000);
}

TEST(Reencoded, RandomEditsOfTheJson) {
    // Wilder than a bit: digits, brackets and pieces moved, doubled and removed.
    Content content = content_of(small_file());
    Frame data = make_frame(content.data);
    const std::string letters = "0123456789-+.eE[]{}:,\"\\ \n\tu8FIn";
    std::mt19937_64 random(7);
    // A tensor's digest is of its bytes. Who makes the container anew can call an F32 an I32; whoever
    // loads it then finds a tensor of the wrong type, and says so.
    Trial trial(small_file(), /*types=*/false);
    for (int i = 0; i < 5000; i++) {
        std::string json = content.json;
        for (uint64_t edits = 1 + random() % 3; edits > 0; edits--) {
            size_t at = random() % json.size(), n = 1 + random() % 12;
            switch (random() % 4) {
            case 0:
                json[at] = letters[random() % letters.size()];
                break;
            case 1:
                json.erase(at, n);
                break;
            case 2:
                json.insert(at, json.substr(random() % json.size(), n));
                break;
            default:
                json.insert(at, 1, letters[random() % letters.size()]);
                break;
            }
        }
        trial.refused(assemble({make_frame(little_endian(json.size(), 8) + json), data}));
    }
    trial.expect_no_other_values("random edits of the JSON, container made anew", 5000);
}

} // namespace
