// Which files a training leaves behind: the ring and its retention, the best file, Keras'
// templates.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <sstream>

#include "tests/support/train_fixture.h"
#include "gtest/gtest.h"

namespace {

class Files : public TrainFixture {
  protected:
    std::string ring(uint64_t step) const { return checkpoint_path(model(), step); }

    // In the directory of the test, so that relative templates land there.
    Outcome train_here(const std::vector<std::string> &more) const {
        return run({.program = "", .arguments = train_arguments(more), .directory = dir_.path()});
    }

    // val_loss of each epoch, as history.csv has it (last column).
    std::vector<double> validation_losses() const {
        std::vector<double> losses;
        std::istringstream lines(read_file(model() + "/history.csv"));
        std::string line;
        std::getline(lines, line);
        EXPECT_EQ(line, "epoch,accuracy,loss,val_accuracy,val_loss");
        while (std::getline(lines, line)) {
            losses.push_back(std::stod(line.substr(line.rfind(',') + 1)));
        }
        return losses;
    }

    std::string evaluate(const std::string &checkpoint, const char *field) const {
        Outcome outcome = run_cairn(
            {"evaluate", "--data", dir_.file("validation.jsonl"), "--checkpoint", checkpoint});
        EXPECT_EXIT_CODE(outcome, 0);
        return json_field(outcome.out, field);
    }
};

} // namespace

// ---- the ring ----

TEST_F(Files, FreshRunSavesBeforeItsFirstStepAndAtItsEnd) {
    EXPECT_EXIT_CODE(train(), 0);
    EXPECT_EQ(checkpoint_steps(model()), (std::vector<uint64_t>{0, 16}));
}

TEST_F(Files, SavesWhenTheStepIsAMultiple) {
    EXPECT_EXIT_CODE(train({"--save-checkpoints-steps", "6", "--keep-checkpoint-max", "0"}), 0);
    EXPECT_EQ(checkpoint_steps(model()), (std::vector<uint64_t>{0, 6, 12, 16}));
}

TEST_F(Files, RetentionKeepsTheNewest) {
    EXPECT_EXIT_CODE(train({"--save-checkpoints-steps", "1", "--keep-checkpoint-max", "3",
                            "--checkpoint-busy", "wait"}),
                     0);
    EXPECT_EQ(checkpoint_steps(model()), (std::vector<uint64_t>{14, 15, 16}));
    const std::string state = read_file(model() + "/checkpoint");
    EXPECT_EQ(state.find("model_checkpoint_path: \"model.ckpt-16.safetensors.zst\"\n"), 0u)
        << state;
    for (const char *step : {"14", "15", "16"}) {
        EXPECT_TRUE(contains(state, std::string("all_model_checkpoint_paths: \"model.ckpt-") +
                                        step + ".safetensors.zst\"\n"))
            << state;
    }
    // A lower limit takes effect at the next save; names that are not ours stay.
    write_file(model() + "/model.ckpt-007.safetensors.zst", "not ours");
    write_file(model() + "/model.ckpt-1.backup", "not ours");
    EXPECT_EXIT_CODE(train({"--keep-checkpoint-max", "1", "--epochs", "3"}), 0);
    EXPECT_EQ(read_file(model() + "/model.ckpt-007.safetensors.zst"), "not ours");
    EXPECT_EQ(read_file(model() + "/model.ckpt-1.backup"), "not ours");
    EXPECT_TRUE(exists(ring(24)));
    EXPECT_FALSE(exists(ring(16)));
    EXPECT_FALSE(exists(ring(14)));
}

TEST_F(Files, ConfigIniGivesTheSameRun) {
    EXPECT_EXIT_CODE(train(), 0);
    const std::string first = dir_.file("first.zst");
    std::filesystem::copy_file(ring(16), first);
    std::filesystem::rename(model() + "/config.ini", dir_.file("config.ini"));
    std::filesystem::remove_all(model());
    EXPECT_EXIT_CODE(run_cairn({"train", "--config", dir_.file("config.ini")}), 0);
    EXPECT_EQ(checkpoint_difference(first, ring(16)), "");
}

// Going back, or beginning anew, is asked of one start: the file is for going on.
TEST_F(Files, ConfigIniGoesOnWhateverResumeSaid) {
    EXPECT_EXIT_CODE(train({"--max-steps", "4", "--resume", "never"}), 0);
    EXPECT_EXIT_CODE(run_cairn({"train", "--config", model() + "/config.ini", "--max-steps", "6"}),
                     0);
    EXPECT_EXIT_CODE(train({"--max-steps", "8", "--resume", "model.ckpt-4.safetensors.zst"}), 0);
    std::filesystem::remove_all(model() + "/superseded");
    const Outcome outcome =
        run_cairn({"train", "--config", model() + "/config.ini", "--max-steps", "10"});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_SAYS(outcome, "Resumed from " + ring(8));
    EXPECT_FALSE(exists(model() + "/superseded"));
    EXPECT_TRUE(contains(read_file(model() + "/config.ini"), "\nresume = auto\n"));
}

// ---- the best file ----

TEST_F(Files, BestFileIsTheEpochWithTheLowestValidationLoss) {
    // A high rate overfits a small set soon: the best epoch is not the last one.
    EXPECT_EXIT_CODE(train({"--epochs", "12", "--learning-rate", "0.05", "--patience", "none"}), 0);
    const std::vector<double> losses = validation_losses();
    ASSERT_EQ(losses.size(), 12u);
    const size_t best =
        static_cast<size_t>(std::min_element(losses.begin(), losses.end()) - losses.begin());
    ASSERT_LT(best, 11u) << "the case is too easy: its last epoch is its best";
    const std::string file = model() + "/best.safetensors.zst";
    EXPECT_EQ(evaluate(file, "step"), std::to_string((best + 1) * kStepsPerEpoch));
    EXPECT_NEAR(std::stod(evaluate(file, "loss")), losses[best], 1e-9);
    // `--checkpoint best` is that file.
    Outcome outcome = run_cairn({"evaluate", "--data", dir_.file("validation.jsonl"), "--model-dir",
                                 model(), "--checkpoint", "best"});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_EQ(json_field(outcome.out, "loss"), evaluate(file, "loss"));
}

TEST_F(Files, NoBestFileWithoutValidation) {
    Outcome outcome = train({"--validation-data", "none"});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_SAYS(outcome, "Warning");
    EXPECT_FALSE(exists(model() + "/best.safetensors.zst"));
    EXPECT_EQ(read_file(model() + "/history.csv").find("epoch,accuracy,loss\n"), 0u);
}

TEST_F(Files, RestoreBestWeightsEndsWithThem) {
    EXPECT_EXIT_CODE(train({"--epochs", "12", "--learning-rate", "0.05", "--patience", "12",
                            "--restore-best-weights"}),
                     0);
    const std::vector<double> losses = validation_losses();
    const double lowest = *std::min_element(losses.begin(), losses.end());
    ASSERT_LT(lowest, losses.back());
    EXPECT_NEAR(std::stod(evaluate(ring(checkpoint_steps(model()).back()), "loss")), lowest, 1e-9);
}

// ---- Keras' templates ----

TEST_F(Files, TemplateNamesEachEpoch) {
    EXPECT_EXIT_CODE(
        train_here({"--checkpoint-filepath", "kept/e{epoch:02d}-{val_loss:.3f}.safetensors.zst"}),
        0);
    const std::vector<std::string> names = list_directory(dir_.file("kept"));
    ASSERT_EQ(names.size(), 2u);
    const std::vector<double> losses = validation_losses();
    for (size_t i = 0; i < 2; i++) {
        char expected[64];
        std::snprintf(expected, sizeof expected, "e%02zu-%.3f.safetensors.zst", i + 1, losses[i]);
        EXPECT_EQ(names[i], expected);
    }
    EXPECT_NEAR(std::stod(evaluate(dir_.file("kept/" + names[0]), "loss")), losses[0], 1e-9);
}

TEST_F(Files, SaveBestOnlyKeepsTheBest) {
    EXPECT_EXIT_CODE(
        train_here({"--checkpoint-filepath", "top.safetensors.zst", "--save-best-only", "--epochs",
                    "12", "--learning-rate", "0.05", "--patience", "none"}),
        0);
    EXPECT_EQ(
        checkpoint_difference(dir_.file("top.safetensors.zst"), model() + "/best.safetensors.zst"),
        "");
}

TEST_F(Files, WeightsOnlyPredictsTheSame) {
    EXPECT_EXIT_CODE(
        train_here({"--checkpoint-filepath", "w{epoch}.safetensors.zst", "--save-weights-only"}),
        0);
    EXPECT_LT(std::filesystem::file_size(dir_.file("w2.safetensors.zst")),
              std::filesystem::file_size(ring(16)) / 2);
    auto predict = [&](const std::string &file) {
        Outcome outcome = run({.program = "",
                               .arguments = {"predict", "--checkpoint", file},
                               .input = "a bright film\na dull film\n"});
        EXPECT_EXIT_CODE(outcome, 0);
        return outcome.out;
    };
    EXPECT_EQ(predict(dir_.file("w2.safetensors.zst")), predict(ring(16)));
    EXPECT_EQ(evaluate(dir_.file("w1.safetensors.zst"), "step"), "8");
}

TEST_F(Files, SaveFreqCountsBatchesOverEpochs) {
    EXPECT_EXIT_CODE(train_here({"--checkpoint-filepath", "b{epoch}-{batch}.safetensors.zst",
                                 "--save-freq", "5"}),
                     0);
    // Batches 5, 10, 15 of the run are 1-5, 2-2 and 2-7 in epochs of 8.
    std::vector<std::string> found;
    for (const std::string &name : list_directory(dir_.path())) {
        if (name[0] == 'b') {
            found.push_back(name);
        }
    }
    EXPECT_EQ(found, (std::vector<std::string>{"b1-5.safetensors.zst", "b2-2.safetensors.zst",
                                               "b2-7.safetensors.zst"}));
}

TEST_F(Files, BadTemplatesAreUsageErrorsBeforeTraining) {
    for (const char *bad : {"x{epoch", "x{lr}.zst", "x{epoch:q}.zst", "model.ckpt-{epoch}.zst"}) {
        Outcome outcome = train_here({"--checkpoint-filepath", bad});
        EXPECT_EXIT_CODE(outcome, 2);
        EXPECT_TRUE(checkpoint_steps(model()).empty()) << bad;
    }
}

// A file there would be taken for one of the run's, or deleted at the next start; a directory would
// stand where the run puts a file.
TEST_F(Files, NamesOfTheModelDirectoryAreUsageErrorsBeforeTraining) {
    for (const char *name :
         {"checkpoint", "best.safetensors.zst", "history.csv", "history.jsonl", "config.ini",
          "train", "validation", "superseded", ".cairn-lock", ".cairn-tmp-mine.zst",
          "checkpoint/{epoch}.zst", "superseded/a/b.zst", "model.ckpt-8.safetensors.zst/x"}) {
        SCOPED_TRACE(name);
        const Outcome outcome = train({"--checkpoint-filepath", model() + "/" + name});
        EXPECT_EXIT_CODE(outcome, 2);
        EXPECT_SAYS(outcome, "belongs to the model directory itself");
        EXPECT_EQ(list_directory(model()), (std::vector<std::string>{".cairn-lock"}));
    }
    // Elsewhere they are names like any other.
    for (const std::string &path : {dir_.file("other/superseded"), dir_.file("other/.cairn-mine"),
                                    model() + "/kept/checkpoint", model() + "/kept/superseded"}) {
        EXPECT_EXIT_CODE(train({"--checkpoint-filepath", path, "--epochs", "1"}), 0);
        EXPECT_EXIT_CODE(run_cairn({"inspect", path}), 0);
        std::filesystem::remove(checkpoint_path(model(), kStepsPerEpoch));
    }
}

// ---- --init-from ----

TEST_F(Files, InitFromStartsAFreshRunWithThoseWeights) {
    EXPECT_EXIT_CODE(train(), 0);
    const std::string from = ring(16);
    EXPECT_EXIT_CODE(
        train({"--model-dir", dir_.file("second"), "--init-from", from, "--max-steps", "1"}), 0);
    EXPECT_EQ(checkpoint_steps(dir_.file("second")), (std::vector<uint64_t>{0, 1}));
    EXPECT_EQ(evaluate(checkpoint_path(dir_.file("second"), 0), "loss"), evaluate(from, "loss"));
}

// The command of a job that is requeued keeps it; a run that goes on says that it does.
TEST_F(Files, InitFromIsSaidToBeUnusedWhereTheRunGoesOn) {
    EXPECT_EXIT_CODE(train({"--max-steps", "3"}), 0);
    const std::string nowhere = dir_.file("nowhere.zst");
    Outcome outcome = train({"--max-steps", "5", "--init-from", nowhere});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_SAYS(outcome,
                "--init-from " + nowhere + " is not used: this run goes on from " + ring(3));
    EXPECT_EXIT_CODE(train({"--model-dir", dir_.file("fresh"), "--init-from", nowhere}), 66);
}
