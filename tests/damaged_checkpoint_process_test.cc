// Damaged checkpoints and the real program: the newest good one is used, the damaged one is named,
// and where none is good the program says so instead of starting afresh.
#include <filesystem>
#include <map>

#include "tests/support/train_fixture.h"
#include "gtest/gtest.h"

namespace {

class Damaged : public TrainFixture {
  protected:
    // Checkpoints at steps 0, 4, 8, 12, 16.
    void SetUp() override {
        TrainFixture::SetUp();
        Outcome outcome = train({"--save-checkpoints-steps", "4"});
        ASSERT_EQ(outcome.code, 0) << outcome.err;
        ASSERT_EQ(checkpoint_steps(model()), (std::vector<uint64_t>{0, 4, 8, 12, 16}));
    }

    // One bit in the middle, or the second half cut off.
    void flip(uint64_t step) const {
        std::string bytes = read_file(checkpoint_path(model(), step));
        bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 4);
        write_file(checkpoint_path(model(), step), bytes);
    }

    void cut(uint64_t step) const {
        std::string bytes = read_file(checkpoint_path(model(), step));
        write_file(checkpoint_path(model(), step), bytes.substr(0, bytes.size() / 2));
    }

    static std::string base(uint64_t step) {
        return "model.ckpt-" + std::to_string(step) + ".safetensors.zst";
    }

    // The checkpoints of the ring, as they are.
    std::map<std::string, std::string> ring() const {
        std::map<std::string, std::string> files;
        for (const std::string &name : list_directory(model())) {
            if (name.rfind("model.ckpt-", 0) == 0) {
                files[name] = read_file(model() + "/" + name);
            }
        }
        return files;
    }

    Outcome evaluate() const {
        return run_cairn(
            {"evaluate", "--data", dir_.file("validation.jsonl"), "--model-dir", model()});
    }
};

} // namespace

TEST_F(Damaged, TrainFallsBackAndReachesTheSameEnd) {
    const std::string reference = dir_.file("reference.zst");
    std::filesystem::copy_file(checkpoint_path(model(), 16), reference);
    flip(16);
    cut(12);
    Outcome outcome = train({"--save-checkpoints-steps", "4"});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_SAYS(outcome, "Warning");
    EXPECT_SAYS(outcome, base(16));
    EXPECT_SAYS(outcome, base(12));
    EXPECT_EQ(checkpoint_difference(reference, checkpoint_path(model(), 16)), "");
}

TEST_F(Damaged, EvaluateAndPredictFallBack) {
    flip(16);
    Outcome outcome = evaluate();
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_SAYS(outcome, base(16));
    EXPECT_EQ(json_field(outcome.out, "step"), "12");
    outcome = run({.program = "",
                   .arguments = {"predict", "--model-dir", model()},
                   .input = "a bright film\n"});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_SAYS(outcome, base(16));
}

// Never a silent fresh start in a directory that has checkpoints.
TEST_F(Damaged, NoneGoodIs65Everywhere) {
    for (uint64_t step : {0, 4, 8, 12, 16}) {
        cut(step);
    }
    Outcome outcome = train();
    EXPECT_EXIT_CODE(outcome, 65);
    EXPECT_SAYS(outcome, model());
    EXPECT_EQ(checkpoint_steps(model()), (std::vector<uint64_t>{0, 4, 8, 12, 16}));
    EXPECT_EXIT_CODE(evaluate(), 65);
    EXPECT_EXIT_CODE(run_cairn({"predict", "--model-dir", model()}), 65);
}

TEST_F(Damaged, CheckpointsShowsAndVerifyIs65) {
    Outcome good = run_cairn({"checkpoints", "--model-dir", model(), "--verify"});
    EXPECT_EXIT_CODE(good, 0);
    EXPECT_FALSE(contains(good.out, "damaged")) << good.out;
    flip(8);
    Outcome bad = run_cairn({"checkpoints", "--model-dir", model(), "--verify"});
    EXPECT_EXIT_CODE(bad, 65);
    EXPECT_TRUE(contains(bad.out, "damaged")) << bad.out;
}

TEST_F(Damaged, InspectIs65WithTheReason) {
    EXPECT_EXIT_CODE(run_cairn({"inspect", checkpoint_path(model(), 16)}), 0);
    flip(16);
    Outcome outcome = run_cairn({"inspect", checkpoint_path(model(), 16)});
    EXPECT_EXIT_CODE(outcome, 65);
    EXPECT_SAYS(outcome, base(16));
}

// The state file is a hint: lost, foreign or nonsense, the directory scan decides.
TEST_F(Damaged, StateFileIsOnlyAHint) {
    for (const char *text : {"", "nonsense", "model_checkpoint_path: \"/etc/passwd\"\n",
                             "model_checkpoint_path: \"model.ckpt-4.safetensors.zst\"\n"
                             "all_model_checkpoint_paths: \"model.ckpt-4.safetensors.zst\"\n"}) {
        write_file(model() + "/checkpoint", text);
        Outcome outcome = evaluate();
        EXPECT_EXIT_CODE(outcome, 0);
        EXPECT_EQ(json_field(outcome.out, "step"), "16") << text;
    }
    std::filesystem::remove(model() + "/checkpoint");
    EXPECT_EQ(json_field(evaluate().out, "step"), "16");
}

// --resume FILE of this directory goes back: newer checkpoints are moved aside, not deleted.
TEST_F(Damaged, ResumeFromAnOlderOneSupersedesNewer) {
    const std::string reference = dir_.file("reference.zst");
    std::filesystem::copy_file(checkpoint_path(model(), 16), reference);
    Outcome outcome =
        train({"--save-checkpoints-steps", "4", "--resume", checkpoint_path(model(), 8)});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_EQ(checkpoint_steps(model() + "/superseded"), (std::vector<uint64_t>{12, 16}));
    EXPECT_EQ(checkpoint_difference(reference, checkpoint_path(model(), 16)), "");
}

// As a batch queue does that runs the same command again: the first course is nowhere else.
TEST_F(Damaged, GoingBackAgainReplacesNothingThatWasMovedBefore) {
    const std::string aside = model() + "/superseded/",
                      first = read_file(checkpoint_path(model(), 16));
    const std::vector<std::string> back = {
        "--save-checkpoints-steps", "4", "--learning-rate", "3e-2", "--resume",
        checkpoint_path(model(), 8)};
    EXPECT_EXIT_CODE(train(back), 0);
    const std::string second = read_file(checkpoint_path(model(), 16));
    ASSERT_NE(second, first);
    EXPECT_EXIT_CODE(train(back), 0);
    EXPECT_EQ(read_file(aside + base(16)), first);
    EXPECT_EQ(read_file(aside + "model.ckpt-16-2.safetensors.zst"), second);
}

// Who names it wants it: to go on from the newest instead is no answer.
TEST_F(Damaged, GoingBackToWhatWasPutAsideIsRefusedAndSaysHow) {
    const std::string aside = model() + "/superseded/" + base(16), mine = model() + "/mine.zst";
    EXPECT_EXIT_CODE(train({"--save-checkpoints-steps", "4", "--learning-rate", "3e-2", "--resume",
                            checkpoint_path(model(), 8)}),
                     0);
    const auto before = ring();
    Outcome outcome = train({"--epochs", "3", "--resume", aside});
    EXPECT_EXIT_CODE(outcome, 66);
    EXPECT_SAYS(outcome, "copy it there, under a name that nothing has");
    EXPECT_EQ(ring(), before);
    std::filesystem::copy_file(aside, mine);
    EXPECT_EXIT_CODE(train({"--max-steps", "16", "--resume", mine}), 0);
    EXPECT_EQ(checkpoint_difference(checkpoint_path(model(), 16), mine), "");
    // Also where there is nothing else: the same command would be refused once it has saved.
    const std::string fresh = dir_.file("fresh"), only = fresh + "/superseded/" + base(16);
    std::filesystem::create_directories(fresh + "/superseded");
    std::filesystem::copy_file(mine, only);
    outcome = train({"--model-dir", fresh, "--epochs", "3", "--resume", only});
    EXPECT_EXIT_CODE(outcome, 66);
    EXPECT_TRUE(checkpoint_steps(fresh).empty());
    std::filesystem::copy_file(only, fresh + "/mine.zst");
    outcome = train({"--model-dir", fresh, "--epochs", "3", "--resume", fresh + "/mine.zst"});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_EQ(checkpoint_steps(fresh).back(), 24u);
}

// Where they cannot be moved aside, or the state file cannot be rewritten, all of them stay, and the
// same command does it once that is mended.
TEST_F(Damaged, GoingBackThatIsRefusedMovesNoCheckpoint) {
    const std::vector<std::string> back = {"--save-checkpoints-steps", "4", "--resume",
                                           checkpoint_path(model(), 8)};
    const auto before = ring(), logs = log_files(model());
    const std::string best = read_file(model() + "/best.safetensors.zst");
    ASSERT_GE(logs.size(), 4u); // history.csv, history.jsonl, event files of train and validation
    const std::string superseded = model() + "/superseded", state = model() + "/checkpoint";
    write_file(superseded, "not a directory");
    const std::string listed = read_file(state);
    Outcome outcome = train(back);
    EXPECT_EXIT_CODE(outcome, 73);
    EXPECT_SAYS(outcome, superseded);
    EXPECT_EQ(ring(), before);
    EXPECT_EQ(log_files(model()), logs);
    EXPECT_EQ(read_file(state), listed);
    EXPECT_EQ(read_file(model() + "/best.safetensors.zst"), best);
    std::filesystem::remove(superseded);

    std::filesystem::remove(state);
    std::filesystem::create_directory(state);
    outcome = train(back);
    EXPECT_EXIT_CODE(outcome, 74);
    EXPECT_SAYS(outcome, state);
    EXPECT_EQ(ring(), before);
    EXPECT_EQ(log_files(model()), logs);
    EXPECT_EQ(read_file(model() + "/best.safetensors.zst"), best);
    std::filesystem::remove(state);

    EXPECT_EXIT_CODE(train(back), 0);
    EXPECT_EQ(checkpoint_steps(superseded), (std::vector<uint64_t>{12, 16}));
}

// To go on from the newest would delete, sooner or later, what was to be gone back to.
TEST_F(Damaged, GoingBackToAFileThatIsNotThereIsRefused) {
    const auto before = ring();
    const std::vector<std::string> missing = {checkpoint_path(model(), 10), base(10),
                                              "model.ckpt-8", "best"};
    for (const std::string &file : missing) {
        Outcome outcome = train({"--epochs", "3", "--resume", file});
        EXPECT_EXIT_CODE(outcome, 66);
        EXPECT_SAYS(outcome, file);
        EXPECT_SAYS(outcome, "cairn checkpoints --model-dir");
        EXPECT_EQ(ring(), before);
    }
    // One from elsewhere is what a requeued run began with: it need not be there any more.
    Outcome outcome = train({"--resume", dir_.file("gone/model.ckpt-8.safetensors.zst")});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_SAYS(outcome, "going on from the newest");
}

// Named after another step it is not the ring's: it is saved under its own before the others move.
TEST_F(Damaged, GoingBackToAFileUnderAnothersNameLosesNothing) {
    const std::string own = checkpoint_path(model(), 8), renamed = checkpoint_path(model(), 10);
    const std::string bytes = read_file(own);
    std::filesystem::rename(own, renamed);
    std::filesystem::remove(checkpoint_path(model(), 0));
    Outcome outcome = train({"--max-steps", "9", "--resume", renamed});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_EQ(checkpoint_steps(model()), (std::vector<uint64_t>{4, 8, 9}));
    EXPECT_EQ(checkpoint_steps(model() + "/superseded"), (std::vector<uint64_t>{10, 12, 16}));
    EXPECT_EQ(read_file(model() + "/superseded/" + base(10)), bytes);
}

// A link says where a checkpoint is, also while its disk is away: it is not replaced.
TEST_F(Damaged, GoingBackReplacesNoLinkThatLeadsNowhere) {
    const std::string own = checkpoint_path(model(), 8), mine = model() + "/mine.zst";
    std::filesystem::rename(own, mine);
    std::filesystem::create_symlink(dir_.file("away.zst"), own);
    const auto logs = log_files(model());
    const std::vector<std::string> back = {"--epochs", "3", "--resume", mine};
    const Outcome outcome = train(back);
    EXPECT_EXIT_CODE(outcome, 66);
    EXPECT_SAYS(outcome, "the checkpoint of step 8, which is a link to a file that is not there");
    EXPECT_EQ(std::filesystem::read_symlink(own), dir_.file("away.zst"));
    EXPECT_EQ(checkpoint_steps(model()).back(), 16u);
    EXPECT_EQ(log_files(model()), logs);
    std::filesystem::remove(own);
    EXPECT_EXIT_CODE(train(back), 0);
    EXPECT_EQ(checkpoint_steps(model() + "/superseded"), (std::vector<uint64_t>{12, 16}));
}

// Between the two moves of taking a going-back back nothing is left to go on from.
TEST_F(Damaged, AFreshStartBesideSupersededOnesIsNotSilent) {
    std::filesystem::create_directory(model() + "/superseded");
    for (const auto &file : ring()) {
        std::filesystem::rename(model() + "/" + file.first, model() + "/superseded/" + file.first);
    }
    std::filesystem::remove(model() + "/best.safetensors.zst");
    std::filesystem::rename(model() + "/superseded/" + base(0),
                            model() + "/superseded/model.ckpt-0-2.safetensors.zst");
    Outcome outcome = train({"--max-steps", "2"});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_SAYS(outcome, "superseded/ holds 5: this is a new run");
    for (uint64_t step : {4, 8, 12, 16}) {
        std::filesystem::rename(model() + "/superseded/" + base(step),
                                checkpoint_path(model(), step));
    }
    outcome = train({"--epochs", "3"});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_SAYS(outcome, base(16));
    EXPECT_FALSE(contains(outcome.err, "this is a new run")) << outcome.err;
}

// What is in it is not known: no random weights in its place.
TEST_F(Damaged, ADirectoryThatCannotBeListedIsNotAnEmptyOne) {
    const std::string loop = dir_.file("loop");
    std::filesystem::create_symlink("loop", loop);
    Outcome outcome = run_cairn({"evaluate", "--data", dir_.file("validation.jsonl"), "--model-dir",
                                 loop, "--allow-untrained"});
    EXPECT_EXIT_CODE(outcome, 66);
    EXPECT_SAYS(outcome, "cannot list the model directory");
}

TEST_F(Damaged, LinksToWhatIsNotThereNowAreNoFreshStart) {
    const std::string elsewhere = dir_.file("disk");
    std::filesystem::create_directory(elsewhere);
    for (uint64_t step : {0, 4, 8, 12, 16}) {
        const std::string path = checkpoint_path(model(), step);
        std::filesystem::rename(path, elsewhere + "/" + base(step));
        std::filesystem::create_symlink(elsewhere + "/" + base(step), path);
    }
    EXPECT_EXIT_CODE(evaluate(), 0);
    std::filesystem::rename(elsewhere, dir_.file("away"));
    const auto logs = log_files(model());
    Outcome outcome = train();
    EXPECT_EXIT_CODE(outcome, 66);
    EXPECT_SAYS(outcome, base(16) + ": a link to a file that is not there");
    EXPECT_EQ(log_files(model()), logs);
    EXPECT_EXIT_CODE(train({"--resume", "never"}), 73);
    EXPECT_EXIT_CODE(evaluate(), 66);
    outcome = run_cairn({"checkpoints", "--model-dir", model()});
    EXPECT_EXIT_CODE(outcome, 66);
    EXPECT_SAYS(outcome, base(16) + ": a link to a file that is not there");
    EXPECT_TRUE(contains(outcome.out, "unreadable")) << outcome.out;
    std::filesystem::rename(dir_.file("away"), elsewhere);
    EXPECT_EXIT_CODE(train({"--epochs", "3"}), 0);
    EXPECT_EQ(checkpoint_steps(model()).back(), 24u);
}
