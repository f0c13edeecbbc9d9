// Saves that fail while the real program trains: what it says of them, what is there all the same,
// and with which exit code it ends.
#include <csignal>
#include <filesystem>

#include "tests/support/train_fixture.h"
#include "gtest/gtest.h"

namespace {

const std::vector<std::string> kEverySecondStep = {"--save-checkpoints-steps", "2"};
const std::vector<std::string> kEndless =
    kEverySecondStep + std::vector<std::string>{"--epochs", "100000", "--patience", "none"};

class SaveFailure : public TrainFixture {
  protected:
    std::string state_file() const { return model() + "/checkpoint"; }

    // No state file can be published over a directory.
    void block_state_file() const {
        std::filesystem::remove(state_file());
        std::filesystem::create_directory(state_file());
    }

    static size_t count(const std::string &text, const std::string &part) {
        size_t found = 0;
        for (size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) {
            found++;
        }
        return found;
    }

    void expect_whole(uint64_t newest) const {
        EXPECT_EQ(checkpoint_steps(model()).back(), newest);
        EXPECT_EXIT_CODE(run_cairn({"checkpoints", "--model-dir", model(), "--verify"}), 0);
    }
};

const char kDurable[] = "is durable, but the state file or the deletion of old checkpoints failed";

} // namespace

// ---- a checkpoint that is there ----

// What fails behind it is told, and takes nothing from it: it is not saved again.
TEST_F(SaveFailure, OfTheStateFileLeavesTheCheckpointSaved) {
    EXPECT_EXIT_CODE(train({"--steps", "2"}), 0);
    block_state_file();
    const Outcome outcome = train(std::vector<std::string>{"--max-steps", "6"} + kEverySecondStep);
    EXPECT_EXIT_CODE(outcome, 74);
    EXPECT_SAYS(outcome, "checkpoint of step 4 " + std::string(kDurable));
    EXPECT_EQ(count(outcome.err, "checkpoint of step 6 "), 1u) << outcome.err;
    EXPECT_SAYS(outcome, "2 save(s) failed (see above); the checkpoints saved before are kept, the "
                         "last state is among them");
    EXPECT_FALSE(contains(outcome.err, "not saved")) << outcome.err;
    expect_whole(6);
}
