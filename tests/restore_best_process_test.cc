// --restore-best-weights that is not on from the first start to the last one: what is restored at the
// end are the weights of the best epoch, or nothing.
#include <filesystem>
#include <string>

#include "tests/support/train_fixture.h"
#include "gtest/gtest.h"

namespace {

constexpr uint64_t kEpochs = 12;

// A high rate overfits a small set: its best epoch is neither the first nor the last one.
class RestoreBest : public TrainFixture {
  protected:
    void SetUp() override {
        TrainFixture::SetUp();
        const Outcome outcome = train_to(dir_.file("reference"), kEpochs, true);
        ASSERT_EQ(outcome.code, 0) << outcome.err;
        ASSERT_TRUE(contains(outcome.err, kRestoring)) << outcome.err;
        const std::string at = outcome.err.substr(outcome.err.find(kRestoring));
        best_epoch_ = std::stoull(at.substr(at.find(": ") + 2));
        ASSERT_GT(best_epoch_, 1u);
        ASSERT_LT(best_epoch_ + 1, kEpochs) << "the case is too easy";
    }

    Outcome train_to(const std::string &directory, uint64_t epochs, bool restore) const {
        std::vector<std::string> options = {"--model-dir",          directory,    "--epochs",
                                            std::to_string(epochs), "--patience", "50",
                                            "--learning-rate",      "0.05"};
        if (restore) {
            options.push_back("--restore-best-weights");
        }
        return train(options);
    }

    Outcome go(uint64_t epochs, bool restore) const { return train_to(model(), epochs, restore); }

    std::string best() const { return model() + "/best.safetensors.zst"; }

    // The last checkpoint is, tensor by tensor, that of a run that always had the option.
    void expect_as_always_on(const Outcome &outcome) const {
        EXPECT_EXIT_CODE(outcome, 0);
        EXPECT_SAYS(outcome, kRestoring + std::string(": ") + std::to_string(best_epoch_) + " ");
        const uint64_t end = kEpochs * kStepsPerEpoch;
        EXPECT_EQ(checkpoint_difference(checkpoint_path(dir_.file("reference"), end),
                                        checkpoint_path(model(), end)),
                  "");
    }

    static constexpr const char *kRestoring =
        "Restoring model weights from the end of the best epoch";
    uint64_t best_epoch_ = 0;
};

const char kMissing[] = "Warning: --restore-best-weights: the checkpoint was made without it";

} // namespace

TEST_F(RestoreBest, SwitchedOnAfterTheBestEpochItIsThatOfTheBestModel) {
    EXPECT_EXIT_CODE(go(best_epoch_ + 1, false), 0);
    const Outcome outcome = go(kEpochs, true);
    EXPECT_FALSE(contains(outcome.err, kMissing)) << outcome.err;
    expect_as_always_on(outcome);
}

TEST_F(RestoreBest, OffForOneLifeItIsThatOfTheBestModel) {
    EXPECT_EXIT_CODE(go(best_epoch_, true), 0);
    EXPECT_EXIT_CODE(go(best_epoch_ + 1, false), 0);
    expect_as_always_on(go(kEpochs, true));
}

TEST_F(RestoreBest, SwitchedOnBeforeTheBestEpochItIsThatEpoch) {
    EXPECT_EXIT_CODE(go(best_epoch_ - 1, false), 0);
    expect_as_always_on(go(kEpochs, true));
}

// To early stopping the first epoch is the best one. The best model is of a later one, which is better
// by less than --min-delta: where the weights of the first were only in memory, they are gone.
TEST_F(RestoreBest, SwitchedOnLaterItSurvivesAKillAndABetterEpochOfTheBestModel) {
    const std::vector<std::string> options = {"--learning-rate", "0.05", "--min-delta", "9",
                                              "--patience",      "50"};
    auto go_to = [&](const std::string &directory, std::vector<std::string> more) {
        more.insert(more.end(), options.begin(), options.end());
        more.insert(more.end(), {"--model-dir", directory});
        return train(more);
    };
    const std::string undisturbed = dir_.file("undisturbed");
    for (const std::string &directory : {undisturbed, model()}) {
        ASSERT_EQ(go_to(directory, {"--epochs", "1"}).code, 0);
    }
    const std::string of_first_epoch = read_file(best());
    const std::vector<std::string> to_the_end = {"--epochs", std::to_string(best_epoch_ + 1),
                                                 "--restore-best-weights"};
    ASSERT_EQ(go_to(undisturbed, to_the_end).code, 0);
    // As a kill leaves it that comes behind the second epoch, before its checkpoint.
    ASSERT_EQ(go_to(model(), {"--epochs", "2", "--restore-best-weights"}).code, 0);
    ASSERT_TRUE(std::filesystem::remove(checkpoint_path(model(), 2 * kStepsPerEpoch)));
    ASSERT_NE(read_file(best()), of_first_epoch) << "the second epoch should have been better";
    ASSERT_EQ(go_to(model(), to_the_end).code, 0);
    const uint64_t end = (best_epoch_ + 1) * kStepsPerEpoch;
    EXPECT_EQ(
        checkpoint_difference(checkpoint_path(undisturbed, end), checkpoint_path(model(), end)),
        "");
}

// Missing, damaged, or of another epoch: no later epoch's weights pass for those of the best one.
TEST_F(RestoreBest, WithoutTheBestModelNothingIsRestored) {
    EXPECT_EXIT_CODE(go(best_epoch_ + 1, false), 0);
    const std::string saved = dir_.file("saved"), first = dir_.file("first");
    std::filesystem::copy(model(), saved, std::filesystem::copy_options::recursive);
    EXPECT_EXIT_CODE(train_to(first, 1, false), 0);
    std::string flipped = read_file(best());
    flipped[flipped.size() / 2] = static_cast<char>(flipped[flipped.size() / 2] ^ 4);
    const std::string later = checkpoint_path(model(), (best_epoch_ + 1) * kStepsPerEpoch);
    const struct {
        std::string bytes, reason;
    } cases[] = {{"", "ENOENT"},
                 {flipped, "best.safetensors.zst: "},
                 {read_file(later), "not of that epoch"},
                 {read_file(first + "/best.safetensors.zst"), "it is of another run"}};
    for (const auto &test : cases) {
        SCOPED_TRACE(test.reason);
        std::filesystem::remove_all(model());
        std::filesystem::copy(saved, model(), std::filesystem::copy_options::recursive);
        std::filesystem::remove(best());
        if (!test.bytes.empty()) {
            write_file(best(), test.bytes);
        }
        const Outcome outcome = go(kEpochs, true);
        EXPECT_EXIT_CODE(outcome, 0);
        EXPECT_SAYS(outcome, kMissing);
        EXPECT_SAYS(outcome, test.reason);
        EXPECT_SAYS(outcome, "The weights of the best epoch, " + std::to_string(best_epoch_) +
                                 ", were not kept: the last ones stay");
        EXPECT_FALSE(contains(outcome.err, kRestoring)) << outcome.err;
    }
}
