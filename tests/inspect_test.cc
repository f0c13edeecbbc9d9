// The commands that show checkpoints: what they print, mark, escape and return.
#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <sstream>

#include "host/cmd.h"
#include "tests/support/checkpoint_bytes.h"
#include "tests/support/temporary_directory.h"

namespace {

struct Outcome {
    enum status status;
    std::string out, err, message;
};

Outcome run(command_function command, const struct options &options) {
    struct error err = {};
    int exit_code = -1;
    testing::internal::CaptureStdout();
    testing::internal::CaptureStderr();
    enum status status = command(&options, &exit_code, &err);
    fflush(stdout);
    EXPECT_EQ(exit_code, -1);
    return {status, testing::internal::GetCapturedStdout(), testing::internal::GetCapturedStderr(),
            err.message};
}

Outcome inspect(const std::string &path) {
    struct options options = {};
    options.file = path.c_str();
    return run(cmd_inspect, options);
}

Outcome checkpoints(const std::string &directory, bool verify = false) {
    struct options options = {};
    options.model_dir = directory.c_str();
    options.verify = verify;
    return run(cmd_checkpoints, options);
}

// A state of step and epoch, with these rows of history.
std::string state(int64_t step, int64_t epoch, const std::vector<double> &history,
                  const Metadata &metadata = {{"created", "2024-05-06T07:08:09Z"}}) {
    Encoded encoded =
        encode({make_tensor<float>("dense.weight", DTYPE_F32, {2, 3}, {1, 2, 3, 4, 5, 6}),
                make_tensor<int64_t>("state.step", DTYPE_I64, {}, {step}),
                make_tensor<int64_t>("state.epoch", DTYPE_I64, {}, {epoch}),
                make_tensor<double>("history.epochs", DTYPE_F64, {history.size() / 4, 4}, history)},
               metadata);
    EXPECT_EQ(encoded.status, STATUS_OK) << encoded.message;
    return encoded.bytes;
}

// The words of the line that holds `word`.
std::vector<std::string> words_of_line(const std::string &text, const std::string &word) {
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        if (line.find(word) != std::string::npos) {
            std::istringstream in(line);
            std::vector<std::string> words;
            for (std::string each; in >> each;) {
                words.push_back(each);
            }
            return words;
        }
    }
    return {};
}

using Words = std::vector<std::string>;

// ---- inspect ----

TEST(Inspect, ShowsMetadataTensorsAndDigest) {
    TemporaryDirectory directory;
    std::string path = directory.file("a.safetensors.zst");
    std::string bytes =
        state(391, 1, {}, {{"run_id", "r1"}, {"options", "seed = 1\nepochs = 2\n"}});
    write_file(path, bytes);
    Outcome outcome = inspect(path);
    ASSERT_EQ(outcome.status, STATUS_OK) << outcome.message;
    EXPECT_EQ(outcome.err, "");
    EXPECT_EQ(words_of_line(outcome.out, "step  "), (Words{"step", "391"}));
    EXPECT_EQ(words_of_line(outcome.out, "epoch  "), (Words{"epoch", "1"}));
    EXPECT_EQ(words_of_line(outcome.out, "bytes  "),
              (Words{"bytes", std::to_string(bytes.size())}));
    EXPECT_EQ(words_of_line(outcome.out, "run_id"), (Words{"run_id", "r1"}));
    EXPECT_NE(outcome.out.find("  options\n    seed = 1\n    epochs = 2\n"), std::string::npos)
        << outcome.out;
    float values[] = {1, 2, 3, 4, 5, 6};
    std::string digest = xxh3_hex(std::string(reinterpret_cast<char *>(values), sizeof values));
    EXPECT_EQ(words_of_line(outcome.out, "dense.weight"),
              (Words{"dense.weight", "F32", "[2,", "3]", "24", digest}));
    // The whole file's digest: of everything before the last two frames.
    size_t entries = 4; // header, data, digest frame; the seek table has 17 + 12 * 3 bytes
    std::string frames = bytes.substr(0, bytes.size() - (17 + 12 * (entries - 1)) - 24);
    EXPECT_EQ(words_of_line(outcome.out, "xxh3-128 "), (Words{"xxh3-128", xxh3_hex(frames)}));
}

TEST(Inspect, EscapesWhatTheFileHolds) {
    TemporaryDirectory directory;
    std::string path = directory.file("evil");
    std::string json = "{\"__metadata__\":{\"\\u001b[2J\":\"a\\u0007\",\"b\":\"x\\n\\u001b]0;y\"},"
                       "\"n\\u001b[31m\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}";
    write_file(path, safetensors_header(json));
    Outcome outcome = inspect(path);
    ASSERT_EQ(outcome.status, STATUS_OK) << outcome.message;
    for (char c : outcome.out) {
        EXPECT_TRUE(c == '\n' || static_cast<unsigned char>(c) >= 0x20) << static_cast<int>(c);
    }
    EXPECT_NE(outcome.out.find("\\x1B[2J"), std::string::npos) << outcome.out;
    EXPECT_NE(outcome.out.find("n\\x1B[31m"), std::string::npos) << outcome.out;
}

TEST(Inspect, SaysWhyItCannot) {
    TemporaryDirectory directory;
    std::string path = directory.file("a.safetensors.zst");
    Outcome missing = inspect(path);
    EXPECT_EQ(missing.status, STATUS_INPUT);
    EXPECT_NE(missing.message.find(path), std::string::npos) << missing.message;
    std::string bytes = state(1, 0, {});
    bytes[bytes.size() / 2] ^= 1;
    write_file(path, bytes);
    Outcome damaged = inspect(path);
    EXPECT_EQ(damaged.status, STATUS_CORRUPT);
    EXPECT_NE(damaged.message.find(path), std::string::npos) << damaged.message;
    EXPECT_EQ(missing.out + damaged.out, "");
    EXPECT_EQ(inspect("").status, STATUS_USAGE);
}

// ---- checkpoints ----

TEST(Checkpoints, ListsTheRingAndTheBestFile) {
    TemporaryDirectory directory;
    std::string first = state(0, 0, {}),
                second = state(900, 2, {0.5, 0.75, 0.25, 0.875, 0.4, 0.8, 0.2, NAN});
    write_file(directory.file("model.ckpt-0.safetensors.zst"), first);
    write_file(directory.file("model.ckpt-900.safetensors.zst"), second);
    write_file(directory.file("best.safetensors.zst"), second);
    write_file(directory.file("model.ckpt-1000.safetensors.zst.bak"), "not ours");
    Outcome outcome = checkpoints(directory.path());
    ASSERT_EQ(outcome.status, STATUS_OK) << outcome.message;
    EXPECT_EQ(outcome.err, "");
    const std::string time = "2024-05-06T07:08:09Z";
    EXPECT_EQ(words_of_line(outcome.out, "ckpt-0."),
              (Words{"0", "0", time, std::to_string(first.size()), "-", "-", "-", "-",
                     "model.ckpt-0.safetensors.zst"}));
    EXPECT_EQ(words_of_line(outcome.out, "ckpt-900."),
              (Words{"900", "2", time, std::to_string(second.size()), "0.4", "0.8", "0.2", "-",
                     "model.ckpt-900.safetensors.zst", "latest"}));
    EXPECT_EQ(words_of_line(outcome.out, "best.safe"),
              (Words{"900", "2", time, std::to_string(second.size()), "0.4", "0.8", "0.2", "-",
                     "best.safetensors.zst", "best"}));
    EXPECT_EQ(words_of_line(outcome.out, "val_loss"),
              (Words{"step", "epoch", "time", "bytes", "loss", "accuracy", "val_loss",
                     "val_accuracy", "file", "mark"}));
    EXPECT_EQ(std::count(outcome.out.begin(), outcome.out.end(), '\n'), 4);
    EXPECT_EQ(checkpoints(directory.path(), true).status, STATUS_OK);
}

TEST(Checkpoints, MarksDamageAndTheLatestGoodOne) {
    TemporaryDirectory directory;
    std::string bytes = state(5, 0, {});
    write_file(directory.file("model.ckpt-5.safetensors.zst"), bytes);
    write_file(directory.file("model.ckpt-10.safetensors.zst"), bytes.substr(0, 100));
    Outcome listed = checkpoints(directory.path()), verified = checkpoints(directory.path(), true);
    EXPECT_EQ(listed.status, STATUS_OK) << listed.message;
    EXPECT_EQ(verified.status, STATUS_CORRUPT);
    EXPECT_NE(verified.message.find("1 of 2"), std::string::npos) << verified.message;
    for (const Outcome &outcome : {listed, verified}) {
        EXPECT_EQ(words_of_line(outcome.out, "ckpt-5.").back(), "latest");
        Words damaged = words_of_line(outcome.out, "ckpt-10.");
        EXPECT_EQ(damaged.front(), "10");
        EXPECT_EQ(damaged.back(), "damaged");
        EXPECT_NE(outcome.err.find("model.ckpt-10.safetensors.zst: "), std::string::npos);
    }
    write_file(directory.file("best.safetensors.zst"), "");
    EXPECT_EQ(words_of_line(checkpoints(directory.path()).out, "best.safe").back(), "damaged");
}

TEST(Checkpoints, FallsBackToTheFilesTimeAndEscapes) {
    TemporaryDirectory directory;
    std::string path = directory.file("model.ckpt-5.safetensors.zst");
    write_file(path, state(5, 0, {}, {}));
    // 2001-09-09T01:46:40Z is 1,000,000,000 seconds after 1970.
    struct timespec times[2] = {{1000000000, 0}, {1000000000, 0}};
    ASSERT_EQ(utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
    EXPECT_EQ(words_of_line(checkpoints(directory.path()).out, "ckpt-5.").at(2),
              "2001-09-09T01:46:40Z");
    write_file(path, state(5, 0, {}, {{"created", "\x1b[2J"}}));
    EXPECT_EQ(words_of_line(checkpoints(directory.path()).out, "ckpt-5.").at(2), "\\x1B[2J");
}

TEST(Checkpoints, NothingThereIsMissingInput) {
    TemporaryDirectory directory;
    Outcome empty = checkpoints(directory.path());
    EXPECT_EQ(empty.status, STATUS_INPUT);
    EXPECT_EQ(empty.out, "");
    EXPECT_NE(empty.message.find(directory.path()), std::string::npos) << empty.message;
    EXPECT_EQ(checkpoints(directory.file("absent")).status, STATUS_INPUT);
    EXPECT_EQ(checkpoints("").status, STATUS_USAGE);
}

TEST(Checkpoints, WrongShapesInTheStateAreNotTrusted) {
    TemporaryDirectory directory;
    Encoded odd = encode({make_tensor<int64_t>("state.epoch", DTYPE_I64, {2}, {1, 2}),
                          make_tensor<double>("state.step", DTYPE_F64, {}, {3}),
                          make_tensor<double>("history.epochs", DTYPE_F64, {1, 3}, {1, 2, 3})});
    write_file(directory.file("best.safetensors.zst"), odd.bytes);
    Outcome outcome = checkpoints(directory.path());
    Words words = words_of_line(outcome.out, "best.safe");
    ASSERT_EQ(words.size(), 10u) << outcome.out;
    EXPECT_EQ(words[0], "-");
    EXPECT_EQ(words[1], "-");
    EXPECT_EQ(words[4], "-");
}

} // namespace
