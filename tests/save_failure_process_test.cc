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

// ---- a stop after a failure ----

class Stop : public SaveFailure {
  protected:
    std::string mark() const { return dir_.file("mark"); }

    ProcessOptions endless(const std::vector<std::string> &more = {}) const {
        ProcessOptions options;
        options.arguments = train_arguments(
            kEndless + std::vector<std::string>{"--requeue-command", "touch " + mark()} + more);
        return options;
    }

    Outcome stop(Process *process) const {
        process->signal(SIGTERM);
        const int code = process->wait();
        return {code, process->out(), process->err()};
    }

    // Stopped well: the batch queue hears of it, and the same command goes on.
    void expect_good_stop(const Outcome &outcome) const {
        EXPECT_EXIT_CODE(outcome, 75);
        EXPECT_SAYS(outcome, "save(s) failed (see above)");
        EXPECT_SAYS(outcome, "Stopped by SIGTERM after step ");
        EXPECT_SAYS(outcome, "; the last state is saved. Run the same command again to go on.");
        EXPECT_TRUE(exists(mark()));
        const uint64_t last = checkpoint_steps(model()).back();
        EXPECT_SAYS(outcome, "after step " + std::to_string(last) + ";");
        expect_whole(last);
    }
};

TEST_F(Stop, AfterAStateFileThatFailedOnceIsGood) {
    EXPECT_EXIT_CODE(train({"--steps", "2"}), 0);
    block_state_file();
    Process process(endless());
    ASSERT_TRUE(process.wait_for_err(kDurable)) << process.err();
    std::filesystem::remove(state_file());
    ASSERT_TRUE(process.wait_for([&] { return exists(state_file()); })) << process.err();
    expect_good_stop(stop(&process));
}

// The state file of its own save fails too: its checkpoint is durable all the same.
TEST_F(Stop, WhoseCheckpointIsDurableIsGood) {
    EXPECT_EXIT_CODE(train({"--steps", "2"}), 0);
    block_state_file();
    Process process(endless());
    ASSERT_TRUE(process.wait_for_err(kDurable)) << process.err();
    expect_good_stop(stop(&process));
}

// The ring is whole; only a file of --checkpoint-filepath is missing.
TEST_F(Stop, AfterAnotherFileThatFailedIsGood) {
    const std::string kept = dir_.file("kept");
    Process process(endless({"--checkpoint-filepath", kept + "/{epoch}/model.zst"}));
    ASSERT_TRUE(process.wait_for([&] { return exists(kept + "/1/model.zst"); })) << process.err();
    ASSERT_TRUE(process.freeze());
    std::filesystem::remove_all(kept);
    write_file(kept, "not a directory");
    process.signal(SIGCONT);
    ASSERT_TRUE(process.wait_for_err("--checkpoint-filepath: not saved")) << process.err();
    expect_good_stop(stop(&process));
}

// Nothing of the stop is saved: nobody may go on as if it were.
TEST_F(Stop, WhoseOwnSaveFailsIsNone) {
    Process process(endless());
    ASSERT_TRUE(process.wait_for([&] { return checkpoint_steps(model()).size() > 2; }));
    std::filesystem::rename(model(), dir_.file("moved"));
    ASSERT_TRUE(process.wait_for_err("not saved")) << process.err();
    const Outcome outcome = stop(&process);
    EXPECT_EXIT_CODE(outcome, 74);
    EXPECT_FALSE(contains(outcome.err, "Stopped by")) << outcome.err;
    EXPECT_FALSE(exists(mark()));
}
