// A disk that fills up during training: training goes on or stops as --checkpoint-on-error says,
// what was good stays good, the error is shown when it happens, and the exit code is 74.
//
// On a tmpfs of a fixed size, in a mount namespace of its own, where the kernel lets us make one;
// the other tests limit the size of a file (RLIMIT_FSIZE), which works everywhere.
#include <cstdio>
#include <filesystem>

#include "tests/support/train_fixture.h"
#include "gtest/gtest.h"

namespace {

class DiskFull : public TrainFixture {
  protected:
    // Run a shell script with a 512 KiB tmpfs at $1, the program as $0 and the rest of the command
    // in "$@" from $2. Where no mount is allowed, with files limited to 16 KiB instead.
    Outcome run_on_small_disk(const std::string &script,
                              const std::vector<std::string> &arguments) {
        std::filesystem::create_directories(model());
        const std::string mount = "mount -t tmpfs -o size=512k none \"$1\"";
        const std::vector<std::string> probe = {"-rm", "sh", "-c", mount, "sh", model()};
        const bool mounts = run({.program = "unshare", .arguments = probe}).code == 0;
        std::printf("%s\n", mounts ? "on a tmpfs of 512 KiB"
                                   : "no mount allowed here: files limited in size instead");
        ProcessOptions options;
        options.program = mounts ? "unshare" : "sh";
        if (mounts) {
            options.arguments = {"-rm", "sh"};
        } else {
            options.file_bytes_max = 16384;
        }
        options.arguments.push_back("-c");
        options.arguments.push_back((mounts ? mount + " && " : "") + script);
        options.arguments.push_back(CAIRN_BINARY);
        options.arguments.push_back(model());
        options.arguments = options.arguments + arguments;
        return run(options);
    }

    // Every checkpoint of the run is kept, so that some twenty of them fill the disk.
    std::vector<std::string> hungry(const std::vector<std::string> &more = {}) const {
        return train_arguments(words("--epochs 20 --patience none --save-checkpoints-steps 2 "
                                     "--keep-checkpoint-max 0 --compression-level 1") +
                               more);
    }
};

// $0 train ...; then what is left must verify.
const char *const kTrainAndVerify =
    "dir=$1; shift; \"$0\" \"$@\"; code=$?; "
    "\"$0\" checkpoints --model-dir \"$dir\" --verify >&2; echo \"train $code verify $?\"; "
    "ls -A \"$dir\" | grep -c '^\\.cairn-tmp-'";

} // namespace

TEST_F(DiskFull, WarnGoesOnAndEndsWith74) {
    Outcome outcome = run_on_small_disk(kTrainAndVerify, hungry());
    EXPECT_TRUE(contains(outcome.out, "train 74 verify 0")) << outcome.out << outcome.err;
    EXPECT_TRUE(contains(outcome.out, "\n0\n")) << "temporary files stayed:\n" << outcome.out;
    EXPECT_TRUE(contains(outcome.err, "ENOSPC") || contains(outcome.err, "EFBIG")) << outcome.err;
    // It went on: its last epoch was trained.
    EXPECT_TRUE(contains(outcome.err, "20/20")) << outcome.err;
}

TEST_F(DiskFull, StopEndsAtOnceWith74) {
    Outcome outcome = run_on_small_disk(kTrainAndVerify, hungry({"--checkpoint-on-error", "stop"}));
    EXPECT_TRUE(contains(outcome.out, "train 74 verify 0")) << outcome.out << outcome.err;
    EXPECT_TRUE(contains(outcome.err, "ENOSPC") || contains(outcome.err, "EFBIG")) << outcome.err;
    EXPECT_FALSE(contains(outcome.err, "20/20")) << outcome.err;
}

// A save that fails leaves the older ones, and a later run goes on from there.
TEST_F(DiskFull, LaterRunGoesOnFromTheLastGoodCheckpoint) {
    ASSERT_EQ(train({"--max-steps", "5"}).code, 0);
    ProcessOptions limited = {.program = "", .arguments = train_arguments()};
    limited.file_bytes_max = std::filesystem::file_size(checkpoint_path(model(), 5)) / 2;
    Outcome full = run(limited);
    EXPECT_EXIT_CODE(full, 74);
    EXPECT_SAYS(full, "EFBIG");
    EXPECT_EQ(checkpoint_steps(model()), (std::vector<uint64_t>{0, 5}));

    Outcome again = train();
    EXPECT_EXIT_CODE(again, 0);
    EXPECT_EQ(checkpoint_steps(model()).back(), 2 * kStepsPerEpoch);
}

// The save before the first step proves that the disk works: a run that cannot save says so at
// once.
TEST_F(DiskFull, FirstSaveFailsBeforeTraining) {
    ProcessOptions limited = {.program = "",
                              .arguments = train_arguments({"--checkpoint-on-error", "stop"})};
    limited.file_bytes_max = 4096; // more than the text on stderr, less than a checkpoint
    Outcome outcome = run(limited);
    EXPECT_EXIT_CODE(outcome, 74);
    EXPECT_SAYS(outcome, "EFBIG");
    EXPECT_TRUE(checkpoint_steps(model()).empty());
    for (const std::string &name : list_directory(model())) {
        EXPECT_NE(name.rfind(".cairn-tmp-", 0), 0u) << name;
    }
}

// /dev/full takes the data of `predict` and `evaluate`: an output that fails is no success.
TEST_F(DiskFull, StandardOutputThatFailsIs74) {
    ASSERT_EQ(train({"--max-steps", "1"}).code, 0);
    Outcome outcome = run(
        {.program = "sh",
         .arguments = {"-c", "echo 'a fine film' | \"$0\" predict --model-dir \"$1\" >/dev/full",
                       CAIRN_BINARY, model()}});
    EXPECT_EXIT_CODE(outcome, 74);
}
