// A state that is large enough for its copy to take a while: each save of a run, copied beside the
// step that follows it, holds what a run that ends at that step has in its last save.
#include <signal.h>

#include "tests/support/train_fixture.h"
#include "gtest/gtest.h"

namespace {

class LargeState : public TrainFixture {
  protected:
    // 2.7 MB of weights, as much of either moment. Steps are short and the writer has as much to do
    // as it can, so that most copies are still to be made when the update comes.
    std::vector<std::string> large_arguments(const std::string &directory,
                                             const std::string &more) const {
        return train_arguments(
            words("--embedding-size 8192 --keep-checkpoint-max 0 --validation-data none "
                  "--tensorboard off --model-dir " +
                  dir_.file(directory) + " " + more));
    }
    Outcome train_large(const std::string &directory, const std::string &more) const {
        return run_cairn(large_arguments(directory, more));
    }

    uint64_t newest(const std::string &directory) const {
        const std::vector<uint64_t> steps = checkpoint_steps(dir_.file(directory));
        return steps.empty() ? 0 : steps.back();
    }

    void expect_same_end(const std::string &directory, const std::string &reference) const {
        const std::string ours = dir_.file(directory), theirs = dir_.file(reference);
        ASSERT_EQ(newest(directory), newest(reference));
        EXPECT_EQ(checkpoint_difference(checkpoint_path(ours, newest(directory)),
                                        checkpoint_path(theirs, newest(reference))),
                  "");
        EXPECT_EQ(
            checkpoint_difference(ours + "/best.safetensors.zst", theirs + "/best.safetensors.zst"),
            "");
        EXPECT_EQ(read_file(ours + "/history.csv"), read_file(theirs + "/history.csv"));
    }
};

} // namespace

TEST_F(LargeState, EverySaveHoldsItsOwnStep) {
    const uint64_t steps = 12;
    EXPECT_EXIT_CODE(train_large("each", "--save-checkpoints-steps 1 --max-steps 12"), 0);
    ASSERT_EQ(checkpoint_steps(dir_.file("each")).size(), steps + 1);
    for (const std::string &line : history_lines(dir_.file("each"))) {
        if (json_field(line, "event") == "save") {
            EXPECT_GE(std::stoull(json_field(line, "put_off_bytes")), 4u << 20) << line;
        }
    }
    for (uint64_t step : {1, 5, 7, 9, 11, 12}) {
        const std::string alone = "until" + std::to_string(step);
        EXPECT_EXIT_CODE(train_large(alone, "--max-steps " + std::to_string(step)), 0);
        EXPECT_EQ(checkpoint_difference(checkpoint_path(dir_.file("each"), step),
                                        checkpoint_path(dir_.file(alone), step)),
                  "")
            << "step " << step;
    }
}

// The best weights are captured after each epoch that is better, and swapped with the last ones at
// the end, while saves may still read either.
TEST_F(LargeState, BestWeightsAreThoseOfARunThatSavesNothing) {
    const std::string epochs =
        " --epochs 9 --monitor loss --patience 1 --min-delta 0.2 --restore-best-weights";
    EXPECT_EXIT_CODE(train_large("saving", "--save-checkpoints-steps 1" + epochs), 0);
    Outcome quiet = train_large("quiet", epochs);
    EXPECT_EXIT_CODE(quiet, 0);
    EXPECT_SAYS(quiet, "early stopping"); // behind the best epoch: the swap changes something
    EXPECT_SAYS(quiet, "Restoring model weights");
    expect_same_end("saving", "quiet");
}

// SIGKILL as soon as a step is seen on the disk: the writer is at the next save, whose copy is
// being made or waits for the update. At the end of an epoch that one has the same step and other
// counters.
TEST_F(LargeState, KilledAndResumedItEndsAsIfNothingHadHappened) {
    const std::string epochs = " --epochs 9 --monitor loss --patience 3 --min-delta 10 "
                               "--restore-best-weights"; // the first epoch is best, the fourth last
    const std::vector<std::string> command =
        large_arguments("killed", "--save-checkpoints-steps 1" + epochs);
    for (uint64_t target : {kStepsPerEpoch, kStepsPerEpoch + 3, 2 * kStepsPerEpoch,
                            2 * kStepsPerEpoch + 1, 3 * kStepsPerEpoch}) {
        Process process({"", command});
        ASSERT_TRUE(process.wait_for([&] { return newest("killed") >= target; })) << process.err();
        process.signal(SIGKILL);
        ASSERT_EQ(process.wait(), 128 + SIGKILL) << "it ended before the kill: " << process.err();
    }
    EXPECT_EXIT_CODE(run_cairn(command), 0);
    EXPECT_EXIT_CODE(train_large("quiet", epochs), 0);
    EXPECT_EQ(newest("quiet"), 4 * kStepsPerEpoch);
    expect_same_end("killed", "quiet");
}
