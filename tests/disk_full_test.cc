// A disk that fills up during training: training goes on or stops as --checkpoint-on-error says,
// what was good stays good, the error is shown when it happens, and the exit code is 74.
//
// Twice: with a limit on the size of a file (RLIMIT_FSIZE), which works everywhere, and on a tmpfs
// of a fixed size in a mount namespace of its own; that test is skipped where no mount is allowed.
#include <filesystem>

#include "tests/support/train_fixture.h"
#include "gtest/gtest.h"

namespace {

// The program is $0, the model directory $1, then `train` and its options; what is left must
// verify.
const char *const kTrainAndVerify =
    "dir=$1; shift; \"$0\" \"$@\"; code=$?; "
    "\"$0\" checkpoints --model-dir \"$dir\" --verify >&2; echo \"train $code verify $?\"; "
    "ls -A \"$dir\" | grep -c '^\\.cairn-tmp-'";

class DiskFull : public TrainFixture {
  protected:
    // Two checkpoints that fit, then training with files limited to half of one. The model is a
    // large one, so that what is said on stderr, a file too, stays below the limit.
    Outcome run_limited(const std::vector<std::string> &more) const {
        const std::vector<std::string> large = large_checkpoints();
        EXPECT_EXIT_CODE(train(large + std::vector<std::string>{"--max-steps", "1"}), 0);
        ProcessOptions options;
        options.program = "sh";
        options.arguments = std::vector<std::string>{"-c", kTrainAndVerify, CAIRN_BINARY, model()} +
                            hungry(large + more);
        options.file_bytes_max = std::filesystem::file_size(checkpoint_path(model(), 1)) / 2;
        return run(options);
    }

    // Training with a tmpfs of 512 KiB at the model directory, some twenty checkpoints.
    Outcome run_on_small_disk(const std::vector<std::string> &more) const {
        const std::string script = std::string(kMount) + " && " + kTrainAndVerify;
        const std::vector<std::string> shell = {"-rm", "sh", "-c", script, CAIRN_BINARY, model()};
        return run({.program = "unshare", .arguments = shell + hungry(more)});
    }

    // "" when a tmpfs can be mounted, else what was said.
    std::string why_no_mount() const {
        std::filesystem::create_directories(model());
        Outcome probe =
            run({.program = "unshare", .arguments = {"-rm", "sh", "-c", kMount, "sh", model()}});
        return probe.code == 0 ? "" : "exit code " + std::to_string(probe.code) + ": " + probe.err;
    }

    static constexpr const char *kMount = "mount -t tmpfs -o size=512k none \"$1\"";

    static void expect_went_on(const Outcome &outcome, const char *error) {
        expect_good_files(outcome, error);
        // Its last epoch was trained.
        EXPECT_TRUE(contains(outcome.err, "20/20")) << outcome.err;
    }

    static void expect_stopped(const Outcome &outcome, const char *error) {
        expect_good_files(outcome, error);
        EXPECT_FALSE(contains(outcome.err, "20/20")) << outcome.err;
    }

    // What kTrainAndVerify found.
    static void expect_good_files(const Outcome &outcome, const char *error) {
        EXPECT_TRUE(contains(outcome.out, "train 74 verify 0")) << outcome.out << outcome.err;
        EXPECT_TRUE(contains(outcome.out, "\n0\n")) << "temporary files stayed:\n" << outcome.out;
        EXPECT_TRUE(contains(outcome.err, error)) << outcome.err;
    }

    // Every checkpoint of the run is kept.
    std::vector<std::string> hungry(const std::vector<std::string> &more = {}) const {
        return train_arguments(words("--epochs 20 --patience none --save-checkpoints-steps 2 "
                                     "--keep-checkpoint-max 0 --compression-level 1") +
                               more);
    }
};

} // namespace

TEST_F(DiskFull, WarnGoesOnAndEndsWith74) {
    expect_went_on(run_limited({}), "EFBIG");
    EXPECT_EQ(checkpoint_steps(model()), (std::vector<uint64_t>{0, 1}));
}

TEST_F(DiskFull, StopEndsAtOnceWith74) {
    expect_stopped(run_limited({"--checkpoint-on-error", "stop"}), "EFBIG");
    EXPECT_EQ(checkpoint_steps(model()), (std::vector<uint64_t>{0, 1}));
}

TEST_F(DiskFull, OnASmallFileSystem) {
    const std::string reason = why_no_mount();
    if (!reason.empty()) {
        GTEST_SKIP() << "no tmpfs can be mounted here (" << reason << ")";
    }
    expect_went_on(run_on_small_disk({}), "ENOSPC");
    expect_stopped(run_on_small_disk({"--checkpoint-on-error", "stop"}), "ENOSPC");
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
