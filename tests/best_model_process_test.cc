// The best model and the real program: one that is damaged, missing, older, of another run or of
// another course of this one is named, going back takes a newer one away, and nothing overwrites it.
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <sstream>
#include <string>

#include "tests/support/train_fixture.h"
#include "gtest/gtest.h"

namespace {

class BestModel : public TrainFixture {
  protected:
    // Checkpoints at steps 0, 4, 8, 12, 16; the best model is that of step 16.
    void SetUp() override {
        TrainFixture::SetUp();
        const Outcome outcome = train();
        ASSERT_EQ(outcome.code, 0) << outcome.err;
        ASSERT_EQ(checkpoint_steps(model()), (std::vector<uint64_t>{0, 4, 8, 12, 16}));
        ASSERT_EQ(step_of(best()), "16");
    }

    Outcome train(const std::vector<std::string> &more = {}) const {
        return TrainFixture::train(std::vector<std::string>{"--save-checkpoints-steps", "4"} +
                                   more);
    }

    Outcome go_back(const std::vector<std::string> &more = {}) const {
        return train(std::vector<std::string>{"--resume", checkpoint_path(model(), 12)} + more);
    }

    Outcome verify() const {
        return run_cairn({"checkpoints", "--model-dir", model(), "--verify"});
    }

    std::string best() const { return model() + "/best.safetensors.zst"; }
    std::string aside(const std::string &name) const { return model() + "/superseded/" + name; }

    static void flip(const std::string &path) {
        std::string bytes = read_file(path);
        bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 4);
        write_file(path, bytes);
    }

    std::string step_of(const std::string &path) const {
        return json_field(
            run_cairn({"evaluate", "--checkpoint", path, "--data", dir_.file("validation.jsonl")})
                .out,
            "step");
    }
};

const char kUnusable[] = "Warning: the best model (end of epoch ";

} // namespace

// The ring goes on without it, so nobody would notice before the model is wanted.
TEST_F(BestModel, OneThatCannotBeUsedIsNamedWhenTheRunGoesOn) {
    const std::string whole = read_file(best());
    std::string flipped = whole;
    flipped[flipped.size() / 2] = static_cast<char>(flipped[flipped.size() / 2] ^ 4);
    const struct {
        const char *what;
        std::string bytes, reason;
    } cases[] = {{"damaged", flipped, "best.safetensors.zst: "},
                 {"older", read_file(checkpoint_path(model(), 4)), "it is of step 4, older than"},
                 {"missing", "", "ENOENT"}};
    for (const auto &damage : cases) {
        SCOPED_TRACE(damage.what);
        if (damage.bytes.empty()) {
            std::filesystem::remove(best());
        } else {
            write_file(best(), damage.bytes);
        }
        const Outcome outcome = train();
        EXPECT_EXIT_CODE(outcome, 0);
        EXPECT_SAYS(outcome, kUnusable);
        EXPECT_SAYS(outcome, damage.reason);
    }
    write_file(best(), whole);
    const Outcome outcome = train();
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_FALSE(contains(outcome.err, kUnusable)) << outcome.err;
}

// The last line of a run is what people go by.
TEST_F(BestModel, TheEndNamesItsFileOnlyWhenThatCanBeUsed) {
    const std::string named = "in " + best();
    EXPECT_SAYS(train({"--epochs", "9", "--steps", "1"}), named);
    flip(best());
    Outcome outcome = train({"--epochs", "9", "--steps", "1"});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_SAYS(outcome, "without a usable file in " + model());
    EXPECT_FALSE(contains(outcome.err, named)) << outcome.err;
    outcome = train({"--epochs", "3"}); // the third epoch is better
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_SAYS(outcome, named);
    EXPECT_EQ(step_of(best()), "24");
}

TEST_F(BestModel, GoingBackTakesANewerOneAway) {
    const std::string first = read_file(best());
    Outcome outcome = go_back({"--steps", "1"});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_SAYS(outcome, "the best model, of step 16, is newer than the checkpoint: it was moved");
    EXPECT_SAYS(outcome, "The one up to there (end of epoch 1) was replaced by it");
    EXPECT_SAYS(outcome, "Best epoch: 1 ");
    EXPECT_SAYS(outcome, "without a usable file in " + model());
    EXPECT_FALSE(exists(best()));
    EXPECT_EQ(read_file(aside("best.safetensors.zst")), first);
    outcome = train({"--steps", "1"});
    EXPECT_SAYS(outcome, kUnusable);

    // Another branch, worse or better: the first best model stays.
    EXPECT_EXIT_CODE(go_back({"--learning-rate", "2e-2"}), 0);
    EXPECT_EQ(step_of(best()), "16");
    const std::string second = read_file(best());
    EXPECT_NE(first, second);
    EXPECT_EXIT_CODE(go_back({"--steps", "1"}), 0);
    EXPECT_EQ(read_file(aside("best.safetensors.zst")), first);
    EXPECT_EQ(read_file(aside("best-2.safetensors.zst")), second);
}

TEST_F(BestModel, GoingBackLeavesOneThatIsNotNewer) {
    const std::string bytes = read_file(best());
    EXPECT_EXIT_CODE(
        train({"--resume", checkpoint_path(model(), 16), "--epochs", "3", "--steps", "1"}), 0);
    EXPECT_EQ(read_file(best()), bytes);
    EXPECT_EXIT_CODE(train({"--resume", best(), "--epochs", "3", "--steps", "1"}), 0);
    EXPECT_EQ(read_file(best()), bytes);
    EXPECT_FALSE(exists(aside("best.safetensors.zst")));
}

TEST_F(BestModel, GoingBackTakesOneAwayThatCannotBeRead) {
    flip(best());
    const std::string bytes = read_file(best());
    const Outcome outcome = go_back({"--steps", "1"});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_SAYS(outcome, "of which step the best model is cannot be read: it was moved");
    EXPECT_FALSE(exists(best()));
    EXPECT_EQ(read_file(aside("best.safetensors.zst")), bytes);
}

TEST_F(BestModel, GoingBackThatIsRefusedMovesNothingAndSaysSo) {
    const std::string bytes = read_file(best());
    const Outcome outcome = go_back({"--seed", "9"});
    EXPECT_EXIT_CODE(outcome, 78);
    EXPECT_FALSE(contains(outcome.err, "moved")) << outcome.err;
    EXPECT_EQ(read_file(best()), bytes);
    EXPECT_EQ(checkpoint_steps(model()).back(), 16u);
}

TEST_F(BestModel, GoingBackIsCarriedOutWhereNothingIsLeftToTrain) {
    const std::string bytes = read_file(best());
    Outcome outcome = go_back({"--max-steps", "12"});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_SAYS(outcome, "nothing to do: the checkpoint is at step 12");
    EXPECT_SAYS(outcome, "Went back to step 12: the newer checkpoints were moved");
    EXPECT_EQ(checkpoint_steps(model()), (std::vector<uint64_t>{0, 4, 8, 12}));
    EXPECT_EQ(checkpoint_steps(model() + "/superseded"), (std::vector<uint64_t>{16}));
    EXPECT_EQ(read_file(aside("best.safetensors.zst")), bytes);
    outcome = go_back({"--max-steps", "12"});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_FALSE(contains(outcome.err, "moved")) << outcome.err;
}

// A file under another name: what the ring has of its step may be of another course.
TEST_F(BestModel, GoingBackReplacesNoOtherCheckpointOfThatStep) {
    const std::string named = model() + "/mine.zst", whole = read_file(checkpoint_path(model(), 8));
    write_file(named, whole);
    ASSERT_EQ(train({"--resume", checkpoint_path(model(), 4), "--learning-rate", "3e-2"}).code, 0);
    const std::string other = read_file(checkpoint_path(model(), 8));
    Outcome outcome = train({"--resume", named, "--steps", "1"});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_SAYS(outcome, "model.ckpt-8.safetensors.zst is not the same as ");
    EXPECT_EQ(checkpoint_steps(model()), (std::vector<uint64_t>{0, 4, 8, 9}));
    EXPECT_EQ(read_file(model() + "/superseded/model.ckpt-8-2.safetensors.zst"), other);
    EXPECT_EQ(checkpoint_difference(checkpoint_path(model(), 8), named), "");

    outcome = train({"--resume", named, "--steps", "1"}); // the ring has it now
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_FALSE(contains(outcome.err, "is not the same")) << outcome.err;
    EXPECT_EQ(read_file(model() + "/superseded/model.ckpt-8-2.safetensors.zst"), other);
}

// Another --monitor makes another state of FILE when it is resumed: to the second start, after a kill
// perhaps, what the first one saved looks like another course's.
TEST_F(BestModel, GoingBackOnceMoreLosesNothingOfWhatTheFirstTimeReplaced) {
    const std::string named = model() + "/mine.zst", aside = model() + "/superseded";
    write_file(named, read_file(checkpoint_path(model(), 12)));
    ASSERT_EQ(train({"--resume", checkpoint_path(model(), 4), "--learning-rate", "3e-2"}).code, 0);
    const std::string other = read_file(checkpoint_path(model(), 12));
    std::string replaced = other;
    for (const char *name :
         {"model.ckpt-12-2.safetensors.zst", "model.ckpt-12-3.safetensors.zst"}) {
        Outcome outcome = train({"--resume", named, "--monitor", "loss", "--steps", "1"});
        EXPECT_EXIT_CODE(outcome, 0);
        EXPECT_SAYS(outcome, "model.ckpt-12.safetensors.zst is not the same as ");
        EXPECT_TRUE(read_file(aside + "/" + name) == replaced) << name;
        replaced = read_file(checkpoint_path(model(), 12));
    }
    EXPECT_TRUE(read_file(aside + "/model.ckpt-12-2.safetensors.zst") == other);
}

// Killed before a checkpoint knew of the best model: what is computed again must be the same.
TEST_F(BestModel, IsMovedAwayWhereTheRunGoesOnOtherwiseThanBefore) {
    const std::string other_data = dir_.file("other.jsonl");
    write_jsonl(other_data, small_examples(128, 3));
    const struct {
        std::vector<std::string> before, now;
        bool moved;
    } cases[] = {
        {{}, {}, false},
        {{}, {"--threads", "2", "--patience", "7", "--save-checkpoints-steps", "3"}, false},
        {{}, {"--learning-rate", "3e-2"}, true},
        {{}, {"--clip-norm", "0.05"}, true},
        {{}, {"--isa", "reference"}, true},
        {{}, {"--seed", "5", "--allow-change"}, true},
        {{}, {"--data", other_data, "--allow-change"}, true},
        {{"--learning-rate", "3e-2"}, {}, true},
        {{"--data", other_data, "--allow-change"}, {}, true},
    };
    for (const auto &test : cases) {
        SCOPED_TRACE(testing::PrintToString(test.before) + testing::PrintToString(test.now));
        std::filesystem::remove_all(model());
        ASSERT_EQ(train({"--max-steps", "4"}).code, 0);
        ASSERT_EQ(train(test.before).code, 0);
        for (uint64_t step : {8, 12, 16}) {
            std::filesystem::remove(checkpoint_path(model(), step));
        }
        const std::string bytes = read_file(best());
        const Outcome outcome = train(test.now + std::vector<std::string>{"--max-steps", "5"});
        EXPECT_EXIT_CODE(outcome, 0);
        EXPECT_SAYS(outcome, "step 4, epoch 1"); // gone on from there
        EXPECT_EQ(contains(outcome.err, "is newer than the checkpoint: it was moved"), test.moved)
            << outcome.err;
        EXPECT_EQ(exists(best()), !test.moved);
        EXPECT_EQ(read_file(test.moved ? aside("best.safetensors.zst") : best()), bytes);
    }
}

TEST_F(BestModel, OfAnotherMonitorIsMovedAway) {
    const std::string bytes = read_file(best());
    const std::vector<std::string> other = {"--monitor", "val_accuracy"};
    Outcome outcome = train(other); // nothing to do
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_EQ(read_file(best()), bytes);
    outcome = train(other + std::vector<std::string>{"--epochs", "3"});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_SAYS(outcome, "the best model is that of another --monitor or --mode: it was moved");
    EXPECT_EQ(step_of(best()), "24");
    EXPECT_EQ(read_file(aside("best.safetensors.zst")), bytes);
    outcome = train(other + std::vector<std::string>{"--epochs", "4"});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_FALSE(exists(aside("best-2.safetensors.zst")));
}

// Killed between the save that begins with the other metric and the move: to the next start the
// checkpoint is of the same metric, and the best model no newer than it.
TEST_F(BestModel, OfAnotherMonitorIsMovedAwayAlsoAfterAKillBeforeTheMove) {
    const std::string named = model() + "/mine.zst", bytes = read_file(best());
    std::filesystem::copy_file(checkpoint_path(model(), 16), named);
    const std::vector<std::string> other = {"--monitor", "val_accuracy"};
    Outcome outcome = train(other + std::vector<std::string>{"--resume", named});
    EXPECT_EXIT_CODE(outcome, 0);
    ASSERT_EQ(read_file(aside("best.safetensors.zst")), bytes);
    std::filesystem::rename(aside("best.safetensors.zst"), best()); // not moved yet

    outcome = train(other + std::vector<std::string>{"--epochs", "3"});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_SAYS(outcome, "the best model is that of another --monitor or --mode: it was moved");
    EXPECT_EQ(step_of(best()), "24");
    EXPECT_EQ(read_file(aside("best.safetensors.zst")), bytes);
}

// Patience belongs to a metric: what stopped under one goes on under another.
TEST_F(BestModel, AnEarlyStopIsForgottenWithItsMonitor) {
    std::filesystem::remove_all(model());
    const std::vector<std::string> stopping = {"--patience",      "1",   "--epochs", "60",
                                               "--learning-rate", "5e-2"};
    ASSERT_TRUE(contains(train(stopping).err, "early stopping"));
    EXPECT_SAYS(train(stopping), "nothing to do: the run stopped early");
    const Outcome outcome =
        train(stopping + std::vector<std::string>{"--monitor", "loss", "--steps", "1"});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_FALSE(contains(outcome.err, "nothing to do")) << outcome.err;
    EXPECT_SAYS(outcome, "(steps)");
}

// Going back taken back as docs/recovery.md says it; and with the best model forgotten.
TEST_F(BestModel, OneOfAnotherCourseOfTheRunIsNamed) {
    EXPECT_EXIT_CODE(go_back({"--learning-rate", "2e-2"}), 0);
    const std::string branch = read_file(best());
    for (const std::string &name : list_directory(model() + "/superseded")) {
        std::filesystem::rename(aside(name), model() + "/" + name);
    }
    Outcome outcome = train({"--epochs", "9", "--steps", "1"});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_FALSE(contains(outcome.err, kUnusable)) << outcome.err;
    EXPECT_EXIT_CODE(verify(), 0);

    write_file(best(), branch);
    outcome = train({"--epochs", "9", "--steps", "1"});
    EXPECT_SAYS(outcome, kUnusable);
    EXPECT_SAYS(outcome, "another course of the run");
    outcome = verify();
    EXPECT_EXIT_CODE(outcome, 65);
    EXPECT_SAYS(outcome, "another course of the run");
}

TEST_F(BestModel, OneOfAnotherRunIsNamed) {
    const std::string other = dir_.file("other");
    EXPECT_EXIT_CODE(train({"--model-dir", other, "--seed", "7", "--epochs", "3"}), 0);
    std::filesystem::copy_file(other + "/best.safetensors.zst", best(),
                               std::filesystem::copy_options::overwrite_existing);
    Outcome outcome = train({"--epochs", "9", "--steps", "1"});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_SAYS(outcome, kUnusable);
    EXPECT_SAYS(outcome, "it is of another run");
    EXPECT_EXIT_CODE(verify(), 65);
}

TEST_F(BestModel, CheckpointsTellsAnOlderOneFromOneThatIsElsewhere) {
    const std::string whole = read_file(best());
    write_file(best(), read_file(checkpoint_path(model(), 4)));
    Outcome outcome = verify();
    EXPECT_EXIT_CODE(outcome, 65);
    EXPECT_SAYS(outcome, "it is of step 4, older than the best model of step 16");
    std::filesystem::remove(best());
    outcome = verify();
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_SAYS(outcome, "knows of a best model");
    EXPECT_FALSE(contains(outcome.out, "best")) << outcome.out;
}

// The last checkpoint is of the same step and history, with the weights of another epoch.
TEST_F(BestModel, TheEndOfTheRunWithWeightsPutBackIsAnother) {
    const std::vector<std::string> stopped = {
        "--epochs", "9", "--patience", "2", "--min-delta", "0.5", "--restore-best-weights"};
    std::filesystem::remove_all(model());
    EXPECT_EXIT_CODE(train(stopped), 0);
    const uint64_t last = checkpoint_steps(model()).back();
    ASSERT_EQ(step_of(best()), std::to_string(last)) << "best by value, not by --min-delta";
    const std::string good = read_file(best());
    std::filesystem::copy_file(checkpoint_path(model(), last), best(),
                               std::filesystem::copy_options::overwrite_existing);
    EXPECT_SAYS(train(stopped), kUnusable);
    EXPECT_EXIT_CODE(verify(), 65);
    write_file(best(), good);
    EXPECT_FALSE(contains(train(stopped).err, kUnusable));
    EXPECT_EXIT_CODE(verify(), 0);
}

TEST_F(BestModel, CheckpointsFindsAFileUnderTheNameOfAnother) {
    std::filesystem::copy_file(checkpoint_path(model(), 8), checkpoint_path(model(), 20));
    const Outcome outcome = verify();
    EXPECT_EXIT_CODE(outcome, 65);
    EXPECT_SAYS(outcome, "it holds step 8, its name says 20");
    std::istringstream rows(outcome.out);
    for (std::string line; std::getline(rows, line);) {
        EXPECT_EQ(contains(line, "latest"), contains(line, "model.ckpt-16")) << line;
        EXPECT_EQ(contains(line, "damaged"), contains(line, "model.ckpt-20")) << line;
    }
}

TEST_F(BestModel, IsOfferedWhereNoCheckpointOfTheRingIsGood) {
    for (uint64_t step : checkpoint_steps(model())) {
        flip(checkpoint_path(model(), step));
    }
    Outcome outcome = train({"--epochs", "3"});
    EXPECT_EXIT_CODE(outcome, 65);
    EXPECT_SAYS(outcome, "--resume " + best());
    EXPECT_EXIT_CODE(train({"--epochs", "3", "--resume", best()}), 0);
    EXPECT_EQ(checkpoint_steps(model()).back(), 24u);
    flip(best());
}

// What is there and cannot be read is not missing: no random weights in its place.
TEST_F(BestModel, OneThatCannotBeReadIsNotReplacedByUntrainedWeights) {
    const std::vector<std::string> evaluate = {"evaluate",
                                               "--model-dir",
                                               model(),
                                               "--checkpoint",
                                               "best",
                                               "--data",
                                               dir_.file("validation.jsonl"),
                                               "--allow-untrained"};
    std::filesystem::remove(best());
    Outcome outcome = run_cairn(evaluate);
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_SAYS(outcome, "untrained weights");
    std::filesystem::create_directory(best());
    outcome = run_cairn(evaluate);
    EXPECT_EXIT_CODE(outcome, 66);
    EXPECT_FALSE(contains(outcome.err, "untrained weights")) << outcome.err;
}

// The directory goes while the run lives: it saves nothing into what comes in its place, and says
// neither that its checkpoints are kept nor that those of another are its own.
TEST_F(BestModel, ADirectoryThatIsNoLongerTheRunsIsLeftAlone) {
    std::filesystem::remove_all(model());
    Process living({.program = "",
                    .arguments = train_arguments({"--epochs", "100000", "--patience", "none",
                                                  "--save-checkpoints-steps", "50"})});
    ASSERT_TRUE(living.wait_for([&] { return checkpoint_steps(model()).size() > 2; }));
    std::filesystem::rename(model(), dir_.file("moved"));
    std::filesystem::create_directory(model());
    ASSERT_TRUE(living.wait_for_err("was deleted, moved or replaced"));
    living.signal(SIGTERM);
    const int code = living.wait();
    const Outcome outcome = {code, living.out(), living.err()};
    EXPECT_EXIT_CODE(outcome, 74);
    EXPECT_SAYS(outcome, model() + " is no longer this run's");
    EXPECT_FALSE(contains(outcome.err, "are kept")) << outcome.err;
    EXPECT_FALSE(contains(outcome.err, "Checkpoints kept")) << outcome.err;
    EXPECT_TRUE(checkpoint_steps(model()).empty());
}

// The directory goes while the data are read: training does not begin in what comes in its place.
TEST_F(BestModel, ADirectoryThatWasReplacedWhileDataWereReadIsLeftAlone) {
    const std::string pipe = dir_.file("pipe.jsonl");
    ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
    const std::string lock = model() + "/.cairn-lock";
    std::filesystem::remove(lock);
    Process back(
        {.program = "",
         .arguments = train_arguments({"--data", pipe, "--resume", checkpoint_path(model(), 12)})});
    // The data are opened once the directory is locked and the checkpoint found.
    int writer = -1;
    ASSERT_TRUE(back.wait_for([&] {
        writer = open(pipe.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
        return writer >= 0;
    })) << back.err();
    ASSERT_TRUE(exists(lock));
    std::filesystem::rename(model(), dir_.file("moved"));
    std::filesystem::copy(dir_.file("moved"), model(), std::filesystem::copy_options::recursive);
    const auto names = list_directory(model());
    const auto logs = log_files(model());
    const std::string data = read_file(dir_.file("train.jsonl"));
    EXPECT_EQ(write(writer, data.data(), data.size()), static_cast<ssize_t>(data.size()));
    close(writer);
    const int code = back.wait();
    const Outcome outcome = {code, back.out(), back.err()};
    EXPECT_EXIT_CODE(outcome, 73);
    EXPECT_SAYS(outcome, "was deleted, moved or replaced");
    EXPECT_EQ(list_directory(model()), names);
    EXPECT_EQ(log_files(model()), logs);
}
