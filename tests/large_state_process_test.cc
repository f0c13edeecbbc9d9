// A state that is large enough for its copy to be put off: each save of a run, copied beside the step
// that follows it, holds what a run that ends at that step has in its last save.
#include "tests/support/train_fixture.h"
#include "gtest/gtest.h"

namespace {

class LargeState : public TrainFixture {
  protected:
    // 2.7 MB of weights, as much of either moment. Steps are short and the writer has as much to do
    // as it can, so that most copies are still to be made when the update comes.
    Outcome train_large(const std::string &directory, const std::string &more) const {
        return train(words("--embedding-size 8192 --keep-checkpoint-max 0 --validation-data none "
                           "--tensorboard off --model-dir " +
                           dir_.file(directory) + " " + more));
    }
};

} // namespace

TEST_F(LargeState, EverySaveHoldsItsOwnStep) {
    const uint64_t steps = 12;
    EXPECT_EXIT_CODE(train_large("each", "--save-checkpoints-steps 1 --max-steps 12"), 0);
    ASSERT_EQ(checkpoint_steps(dir_.file("each")).size(), steps + 1);
    for (uint64_t step : {1, 5, 7, 9, 11, 12}) {
        const std::string alone = "until" + std::to_string(step);
        EXPECT_EXIT_CODE(train_large(alone, "--max-steps " + std::to_string(step)), 0);
        EXPECT_EQ(checkpoint_difference(checkpoint_path(dir_.file("each"), step),
                                        checkpoint_path(dir_.file(alone), step)),
                  "")
            << "step " << step;
    }
}

// The best weights are captured and swapped while saves may still read them.
TEST_F(LargeState, BestWeightsAreThoseOfARunThatSavesNothing) {
    const std::string epochs = " --epochs 3 --monitor loss --patience 3";
    EXPECT_EXIT_CODE(train_large("saving", "--save-checkpoints-steps 1" + epochs), 0);
    EXPECT_EXIT_CODE(train_large("quiet", epochs), 0);
    for (uint64_t step : {3 * kStepsPerEpoch}) {
        EXPECT_EQ(checkpoint_difference(checkpoint_path(dir_.file("saving"), step),
                                        checkpoint_path(dir_.file("quiet"), step)),
                  "");
    }
    EXPECT_EQ(checkpoint_difference(dir_.file("saving") + "/best.safetensors.zst",
                                    dir_.file("quiet") + "/best.safetensors.zst"),
              "");
}
