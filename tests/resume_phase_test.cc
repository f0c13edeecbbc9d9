// Where a resume begins: at a validation that is still to come, at the best epoch, in a directory
// that has nothing but its best file, and in states that no run ever was in. And what becomes of
// files that cannot be written where they were asked for.
#include <csignal>
#include <filesystem>

#include "tests/support/checkpoint_edit.h"
#include "tests/support/train_fixture.h"
#include "gtest/gtest.h"

namespace {

namespace fs = std::filesystem;

const char *const kBest = "best.safetensors.zst";

std::vector<std::string> events(const std::string &model_dir, const std::string &event) {
    std::vector<std::string> found;
    for (const std::string &line : history_lines(model_dir)) {
        if (json_field(line, "event") == event) {
            found.push_back(line);
        }
    }
    return found;
}

class ResumePhase : public TrainFixture {
  protected:
    std::string other() const { return dir_.file("other"); }
    std::string best() const { return model() + "/" + kBest; }

    // A directory that has one checkpoint and nothing else.
    void copy_alone(uint64_t step) const {
        fs::remove_all(other());
        fs::create_directories(other());
        fs::copy_file(checkpoint_path(model(), step), checkpoint_path(other(), step));
    }

    Outcome train_other(const std::vector<std::string> &more = {}) const {
        return train(std::vector<std::string>{"--model-dir", other()} + more);
    }

    // The same, for a run that might never end.
    Outcome train_for_20_seconds(const std::vector<std::string> &more) const {
        Process process({.program = "", .arguments = train_arguments(more)});
        const int code = process.wait(20);
        return {code, process.out(), process.err()};
    }

    // In the directory of the test, so that relative paths land there.
    Outcome train_here(const std::vector<std::string> &more) const {
        return run({.program = "", .arguments = train_arguments(more), .directory = dir_.path()});
    }

    void expect_same_end(const std::string &reference, const std::string &model_dir,
                         uint64_t step) const {
        ASSERT_FALSE(checkpoint_steps(model_dir).empty());
        ASSERT_EQ(checkpoint_steps(model_dir).back(), step);
        EXPECT_EQ(checkpoint_difference(checkpoint_path(reference, step),
                                        checkpoint_path(model_dir, step)),
                  "");
        EXPECT_EQ(checkpoint_difference(reference + "/" + kBest, model_dir + "/" + kBest), "");
        EXPECT_EQ(read_file(model_dir + "/history.csv"), read_file(reference + "/history.csv"));
    }
};

} // namespace

// ---- a validation that is still to come ----

TEST_F(ResumePhase, RunsTheValidationThatWasStillToCome) {
    const std::vector<std::string> saving =
        words("--save-checkpoints-steps 8 --keep-checkpoint-max 0");
    EXPECT_EXIT_CODE(train(saving), 0);
    const std::string saved = checkpoint_path(model(), kStepsPerEpoch);
    // Saved by its last step, before its validation: an epoch trained, none finished.
    ASSERT_EQ(checkpoint_count(saved, "state.phase"), 1);
    ASSERT_EQ(checkpoint_count(saved, "state.epoch"), 0);
    ASSERT_EQ(checkpoint_rows(saved, "history.epochs"), 0);
    ASSERT_EQ(checkpoint_count(saved, "state.best.has_best"), 0);

    copy_alone(kStepsPerEpoch);
    EXPECT_EXIT_CODE(train_other(saving), 0);
    expect_same_end(model(), other(), 2 * kStepsPerEpoch);
    const std::vector<std::string> epochs = events(other(), "epoch");
    ASSERT_EQ(epochs.size(), 2u);
    for (size_t i = 0; i < epochs.size(); i++) {
        EXPECT_EQ(json_field(epochs[i], "epoch"), std::to_string(i));
        // None of its steps were made here: no time, and not that since the machine was started.
        const double seconds = std::stod(json_field(epochs[i], "train_seconds"));
        EXPECT_GE(seconds, 0.0);
        EXPECT_LT(seconds, 60.0);
    }
}

TEST_F(ResumePhase, ShowsTheEpochWhoseValidationWasStillToCome) {
    EXPECT_EXIT_CODE(train(words("--save-checkpoints-steps 8 --keep-checkpoint-max 0")), 0);
    const std::string full = "\u2501\u2501\u2501\u2501\u2501\u2501\u2501\u2501\u2501\u2501"
                             "\u2501\u2501\u2501\u2501\u2501\u2501\u2501\u2501\u2501\u2501";
    const std::vector<std::pair<std::string, std::vector<std::string>>> expected = {
        {"lines", {"Epoch 1/2\n", "\n8/8 - accuracy: "}},
        {"bar", {"Epoch 1/2\n", "\r8/8 " + full + " - accuracy: "}},
        {"json",
         {"{\"event\": \"epoch_begin\", \"epoch\": 1, \"epochs\": 2, \"steps\": 8, \"position\": "
          "8}\n",
          "{\"event\": \"epoch\", \"epoch\": 1, \"epochs\": 2, \"step\": 8, \"seconds\": 0, "
          "\"ms_per_step\": 0, \"accuracy\": "}},
    };
    for (const auto &[mode, parts] : expected) {
        copy_alone(kStepsPerEpoch);
        const Outcome outcome = train_other(words("--max-steps 8 --progress " + mode));
        EXPECT_EXIT_CODE(outcome, 0);
        for (const std::string &part : parts) {
            EXPECT_SAYS(outcome, part);
        }
        EXPECT_SAYS(outcome, mode == "json" ? "\"val_loss\": " : " - val_loss: ");
    }
}

// ---- the best epoch ----

namespace {

// A high rate overfits a small set: the best epoch is neither the first nor the last one. The ring
// holds the end alone.
class FromBest : public ResumePhase {
  protected:
    static constexpr uint64_t kEnd = 12 * kStepsPerEpoch;

    void SetUp() override {
        ResumePhase::SetUp();
        EXPECT_EXIT_CODE(overfit(), 0);
        ASSERT_EQ(checkpoint_steps(model()), std::vector<uint64_t>{kEnd});
        best_step_ = static_cast<uint64_t>(checkpoint_count(best(), "state.step"));
        ASSERT_GT(best_step_, 0u);
        ASSERT_LT(best_step_, kEnd) << "the case is too easy: its last epoch is its best";
        fs::copy(model(), dir_.file("reference"), fs::copy_options::recursive);
    }

    static std::vector<std::string> options(const std::vector<std::string> &more) {
        return words("--epochs 12 --learning-rate 0.05 --patience none --keep-checkpoint-max 1 "
                     "--log-step-count-steps 1") +
               more;
    }

    Outcome overfit(const std::vector<std::string> &more = {}) const {
        return train(options(more));
    }

    std::string ring_name(uint64_t step) const {
        return fs::path(checkpoint_path(model(), step)).filename();
    }

    // Was the restored state in the ring before a step was made from it?
    bool ring_save_before_steps() const {
        for (const std::string &line : history_lines(model())) {
            const std::string event = json_field(line, "event");
            if (event == "save" && contains(json_field(line, "path"), ring_name(best_step_))) {
                return true;
            }
            if (event == "step" && std::stoull(json_field(line, "step")) > best_step_) {
                return false;
            }
        }
        return false;
    }

    uint64_t best_step_ = 0;
};

} // namespace

TEST_F(FromBest, NewerCheckpointsAreMovedAndTheEndIsTheSame) {
    EXPECT_EXIT_CODE(overfit({"--resume", best(), "--max-steps", std::to_string(best_step_ + 1)}),
                     0);
    EXPECT_EQ(checkpoint_steps(model()), std::vector<uint64_t>{best_step_ + 1});
    EXPECT_EQ(checkpoint_steps(model() + "/superseded"), std::vector<uint64_t>{kEnd});
    EXPECT_TRUE(ring_save_before_steps()) << read_file(model() + "/history.jsonl");
    EXPECT_EXIT_CODE(overfit(), 0);
    expect_same_end(dir_.file("reference"), model(), kEnd);
}

// Without room for the restored state in the ring, the ring keeps what it has.
TEST_F(FromBest, TheRingIsNeverEmpty) {
    ProcessOptions limited = {.program = "",
                              .arguments = train_arguments(options({"--resume", best()}))};
    limited.file_bytes_max = fs::file_size(best()) / 2;
    const auto logs = log_files(model());
    Outcome outcome = run(limited);
    EXPECT_EXIT_CODE(outcome, 74);
    EXPECT_SAYS(outcome, "EFBIG");
    EXPECT_EQ(log_files(model()), logs);
    EXPECT_SAYS(outcome, "checkpoints and logs are as they were");
    ASSERT_FALSE(checkpoint_steps(model()).empty());
    Outcome verify = run_cairn({"checkpoints", "--model-dir", model(), "--verify"});
    EXPECT_EXIT_CODE(verify, 0);
    EXPECT_EXIT_CODE(overfit({"--resume", best()}), 0);
    expect_same_end(dir_.file("reference"), model(), kEnd);
}

TEST_F(FromBest, ADirectoryWithNothingElseGoesOnFromIt) {
    fs::remove(checkpoint_path(model(), kEnd));
    Outcome refused = overfit({"--resume", "never"});
    EXPECT_EXIT_CODE(refused, 73);
    EXPECT_SAYS(refused, model());
    EXPECT_TRUE(checkpoint_steps(model()).empty());

    Outcome outcome = overfit();
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_SAYS(outcome, best());
    expect_same_end(dir_.file("reference"), model(), kEnd);
}

// ---- states that no run was ever in ----

TEST_F(ResumePhase, APositionBeyondTheEpochIs78) {
    EXPECT_EXIT_CODE(train({"--max-steps", "4"}), 0);
    // Batches of 32: the epoch has 4, and 4 of 8 were trained.
    Outcome outcome = train_for_20_seconds({"--batch-size", "32", "--allow-change"});
    EXPECT_EXIT_CODE(outcome, 78);
    EXPECT_SAYS(outcome, "batch");
    EXPECT_SAYS(outcome, checkpoint_path(model(), 4));
    EXPECT_EQ(checkpoint_steps(model()).back(), 4u);
}

TEST_F(ResumePhase, ImpossibleStatesAreRefused) {
    const struct {
        const char *name;
        int64_t value;
    } cases[] = {
        {"state.position", kStepsPerEpoch}, // a whole epoch, and phase 0
        {"state.position", INT64_MAX},
        {"state.early_stopping.best_epoch", 1000000000000}, // of an epoch that never was
        {"state.epoch", 0},                                 // one row of history
        {"state.epoch", 2},
        {"state.epoch", INT64_MAX},
    };
    EXPECT_EXIT_CODE(train({"--restore-best-weights", "--max-steps", "12"}), 0);
    const std::string honest = checkpoint_path(model(), 12);
    ASSERT_EQ(checkpoint_count(honest, "state.phase"), 0);
    ASSERT_EQ(checkpoint_count(honest, "state.position"), 4);
    ASSERT_EQ(checkpoint_count(honest, "state.epoch"), 1);
    ASSERT_EQ(checkpoint_rows(honest, "history.epochs"), 1);
    ASSERT_EQ(checkpoint_count(honest, "state.early_stopping.has_weights"), 1);
    const std::string reference = dir_.file("honest.zst");
    fs::copy_file(honest, reference);

    for (const auto &hostile : cases) {
        SCOPED_TRACE(std::string(hostile.name) + " " + std::to_string(hostile.value));
        copy_alone(12);
        rewrite_checkpoint(reference, checkpoint_path(other(), 12), [&](Tensors *tensors) {
            set_count(tensors, hostile.name, hostile.value);
        });
        Outcome outcome = train_for_20_seconds({"--model-dir", other(), "--restore-best-weights"});
        const bool position = std::string(hostile.name) == "state.position";
        EXPECT_TRUE(outcome.code == 65 || (position && outcome.code == 78)) << outcome.code << "\n"
                                                                            << outcome.err;
        EXPECT_SAYS(outcome, checkpoint_path(other(), 12));
        EXPECT_EQ(checkpoint_steps(other()), std::vector<uint64_t>{12});
    }
    // Written by the same hands without a change it is taken.
    copy_alone(12);
    rewrite_checkpoint(reference, checkpoint_path(other(), 12), [](Tensors *) {});
    EXPECT_EXIT_CODE(train_other({"--restore-best-weights"}), 0);
}

TEST_F(ResumePhase, AnUnlimitedVocabularyDoesNotFitALimitedOne) {
    EXPECT_EXIT_CODE(train({"--max-steps", "4"}), 0);
    Outcome outcome = train({"--vocabulary-size", "0"});
    EXPECT_EXIT_CODE(outcome, 76);
    EXPECT_SAYS(outcome, "--vocabulary-size");
    EXPECT_SAYS(outcome, "embedding.weight");
    EXPECT_EQ(checkpoint_steps(model()).back(), 4u);
}

TEST_F(ResumePhase, AnUnlimitedVocabularyFitsItself) {
    EXPECT_EXIT_CODE(train({"--vocabulary-size", "0", "--max-steps", "4"}), 0);
    EXPECT_EXIT_CODE(train({"--vocabulary-size", "0"}), 0);
    EXPECT_EQ(checkpoint_steps(model()).back(), 2 * kStepsPerEpoch);
}

// ---- files that cannot be written ----

TEST_F(ResumePhase, ATemplateBelowAFileIs73BeforeTraining) {
    write_file(dir_.file("f"), "");
    Outcome outcome =
        train_here({"--checkpoint-filepath", "f/x-{epoch}.zst", "--log-step-count-steps", "1"});
    EXPECT_EXIT_CODE(outcome, 73);
    EXPECT_SAYS(outcome, "the directory f");
    EXPECT_TRUE(events(model(), "step").empty());
}

TEST_F(ResumePhase, ATemplateWhoseLaterDirectoryIsAFileWarnsAndEndsWith74) {
    fs::create_directories(dir_.file("d"));
    write_file(dir_.file("d/2"), "in the way");
    Outcome outcome = train_here({"--checkpoint-filepath", "d/{epoch}/x.zst", "--epochs", "3"});
    EXPECT_EXIT_CODE(outcome, 74);
    EXPECT_SAYS(outcome, "Warning");
    EXPECT_SAYS(outcome, "d/2");
    EXPECT_TRUE(exists(dir_.file("d/1/x.zst")));
    EXPECT_EQ(read_file(dir_.file("d/2")), "in the way");
    EXPECT_TRUE(exists(dir_.file("d/3/x.zst"))) << "training did not go on as before";
    EXPECT_EQ(checkpoint_steps(model()).back(), 3 * kStepsPerEpoch);
    EXPECT_EQ(checkpoint_rows(checkpoint_path(model(), 3 * kStepsPerEpoch), "history.epochs"), 3);
}

TEST_F(ResumePhase, ATemplateMayNotNameAFileOfTheModelDirectory) {
    for (const char *name :
         {"history.csv", "history.jsonl", "checkpoint", "config.ini", "best.safetensors.zst"}) {
        SCOPED_TRACE(name);
        Outcome outcome = train({"--checkpoint-filepath", model() + "/" + name});
        EXPECT_EXIT_CODE(outcome, 2);
        EXPECT_SAYS(outcome, name);
        outcome = train_here({"--checkpoint-filepath", std::string("./model//") + name});
        EXPECT_EXIT_CODE(outcome, 2);
        EXPECT_TRUE(checkpoint_steps(model()).empty());
    }
    // Other names are free there.
    EXPECT_EXIT_CODE(train({"--checkpoint-filepath", model() + "/mine.zst"}), 0);
    EXPECT_TRUE(exists(model() + "/mine.zst"));
}

TEST_F(ResumePhase, ABestFileThatCannotBePublishedIsNotClaimed) {
    const std::vector<std::string> epochs = {"--epochs", "6",          "--patience",
                                             "none",     "--progress", "lines"};
    EXPECT_EXIT_CODE(train(epochs + std::vector<std::string>{"--max-steps", "4"}), 0);
    fs::create_directories(best());
    Outcome outcome = train(epochs);
    EXPECT_EXIT_CODE(outcome, 74);
    // Said when it happens: each epoch's best save waits for the one before it.
    const size_t warning = outcome.err.find("Warning"), last = outcome.err.find("Epoch 6/6");
    ASSERT_NE(warning, std::string::npos) << outcome.err;
    ASSERT_NE(last, std::string::npos) << outcome.err;
    EXPECT_LT(warning, last) << outcome.err;
    EXPECT_SAYS(outcome, best());
    EXPECT_TRUE(fs::is_directory(best()));
    ASSERT_EQ(checkpoint_steps(model()).back(), 6 * kStepsPerEpoch);
    EXPECT_EQ(checkpoint_count(checkpoint_path(model(), 6 * kStepsPerEpoch), "state.best.has_best"),
              0);
}
