// What the real program refuses, with which exit code, and whether the message says what is wrong
// and what to do (contract, section 4). A refusal leaves the model directory as it was.
#include <cmath>
#include <csignal>
#include <cstring>
#include <map>
#include <sys/stat.h>
#include <unistd.h>

#include "io/checkpoint.h"
#include "tests/support/checkpoint_edit.h"
#include "tests/support/train_fixture.h"
#include "gtest/gtest.h"

namespace {

// Names and contents of the checkpoints and history of a directory.
std::map<std::string, std::string> contents(const std::string &directory) {
    std::map<std::string, std::string> files;
    for (const std::string &name : list_directory(directory)) {
        if (name != ".cairn-lock" && name != "superseded") {
            files[name] = read_file(directory + "/" + name);
        }
    }
    return files;
}

class ExitCodes : public TrainFixture {
  protected:
    // A model directory with one finished epoch, and its files as they should stay.
    void train_one_epoch() {
        Outcome outcome = train({"--epochs", "1"});
        ASSERT_EQ(outcome.code, 0) << outcome.err;
        before_ = contents(model());
    }

    void expect_untouched() { EXPECT_EQ(contents(model()), before_); }

    std::map<std::string, std::string> before_;
};

// Numbers in the weights and moments of a checkpoint that are not finite.
size_t count_nonfinite(const std::string &path) {
    struct error err = {};
    struct checkpoint *checkpoint = nullptr;
    if (checkpoint_read_file(&file_posix, path.c_str(), &checkpoint, &err) != STATUS_OK) {
        ADD_FAILURE() << err.message;
        return 0;
    }
    size_t count = 0;
    for (size_t i = 0; i < checkpoint->tensor_count; i++) {
        uint64_t elements = 0;
        EXPECT_TRUE(tensor_elements(&checkpoint->tensors[i], &elements));
        const float *values = static_cast<const float *>(checkpoint->tensors[i].data);
        for (uint64_t k = 0; checkpoint->tensors[i].dtype == DTYPE_F32 && k < elements; k++) {
            count += std::isfinite(values[k]) ? 0 : 1;
        }
    }
    checkpoint_free(checkpoint);
    return count;
}

} // namespace

// ---- usage ----

TEST_F(ExitCodes, WrongUsageIs2) {
    const std::vector<std::vector<std::string>> wrong = {
        {},
        {"trian"},
        {"train", "--data", "demo", "--epoch-count", "3"},
        {"train", "--data", "demo", "--epochs", "many"},
        {"train", "--data", "demo", "--batch-size", "0"},
        {"train", "--data", "demo", "--steps", "3", "--max-steps", "3"},
        {"train", "--data", "demo", "--save-checkpoints-secs", "3", "--save-checkpoints-steps",
         "3"},
        {"train", "--data", "demo", "--shuffle", "sometimes"},
        {"train", "--data", "demo", "--validation-split", "1.5"},
        {"train", "--data", "demo", "--vocabulary-size", "1"},
        {"train", "--data", "demo", "--validation-data", "none", "--monitor", "val_loss"},
        {"train"},
        {"evaluate", "--data", "demo"},
        {"predict"},
        {"inspect"},
    };
    for (const std::vector<std::string> &arguments : wrong) {
        Outcome outcome = run_cairn(arguments);
        std::string shown;
        for (const std::string &argument : arguments) {
            shown += argument + " ";
        }
        EXPECT_EQ(outcome.code, 2) << shown << "\n" << outcome.err;
        EXPECT_EQ(outcome.out, "") << shown;
        EXPECT_NE(outcome.err, "") << shown;
    }
}

TEST_F(ExitCodes, UnknownOptionIsNamed) {
    Outcome outcome = run_cairn({"train", "--data", "demo", "--epoch-count", "3"});
    EXPECT_EXIT_CODE(outcome, 2);
    EXPECT_SAYS(outcome, "epoch-count");
}

TEST_F(ExitCodes, HelpAndVersionAre0) {
    for (const char *command :
         {"train", "evaluate", "predict", "checkpoints", "inspect", "vocabulary", "tokenize"}) {
        Outcome outcome = run_cairn({command, "--help"});
        EXPECT_EXIT_CODE(outcome, 0);
        EXPECT_TRUE(contains(outcome.out, "--")) << command;
    }
    Outcome version = run_cairn({"--version"});
    EXPECT_EXIT_CODE(version, 0);
    EXPECT_TRUE(contains(version.out, "cpu")) << version.out;
}

TEST_F(ExitCodes, BadConfigurationIs78) {
    write_file(dir_.file("bad.ini"), "epochs = 2\nepoch-count = 3\n");
    Outcome outcome = run_cairn({"train", "--data", "demo", "--config", dir_.file("bad.ini")});
    EXPECT_EXIT_CODE(outcome, 78);
    EXPECT_SAYS(outcome, "bad.ini");
    EXPECT_SAYS(outcome, "epoch-count");

    outcome = run({.program = "",
                   .arguments = {"train", "--data", "demo"},
                   .environment = {{"CAIRN_BATCH_SIZE", "many"}}});
    EXPECT_EXIT_CODE(outcome, 78);
    EXPECT_SAYS(outcome, "CAIRN_BATCH_SIZE");
}

TEST_F(ExitCodes, AbsentDeviceIs69) {
    Outcome outcome = train({"--device", "cuda:97"});
    EXPECT_EXIT_CODE(outcome, 69);
    outcome = train({"--isa", "z80"});
    EXPECT_TRUE(outcome.code == 69 || outcome.code == 2) << outcome.code;
    EXPECT_SAYS(outcome, "z80");
    EXPECT_TRUE(checkpoint_steps(model()).empty());
}

// ---- input that is not there ----

TEST_F(ExitCodes, MissingInputIs66) {
    Outcome outcome = run_cairn({"train", "--data", dir_.file("nowhere"), "--model-dir", model()});
    EXPECT_EXIT_CODE(outcome, 66);
    EXPECT_SAYS(outcome, dir_.file("nowhere"));

    outcome = run_cairn({"evaluate", "--data", "demo", "--model-dir", dir_.file("nowhere")});
    EXPECT_EXIT_CODE(outcome, 66);
    EXPECT_SAYS(outcome, dir_.file("nowhere"));

    outcome = run_cairn({"predict", "--checkpoint", dir_.file("nowhere.zst")});
    EXPECT_EXIT_CODE(outcome, 66);
    outcome = run_cairn({"inspect", dir_.file("nowhere.zst")});
    EXPECT_EXIT_CODE(outcome, 66);
}

TEST_F(ExitCodes, EvaluateAndPredictWithoutCheckpointAre66) {
    std::string empty = dir_.file("empty");
    ASSERT_EQ(mkdir(empty.c_str(), 0700), 0);
    Outcome outcome =
        run_cairn({"evaluate", "--data", dir_.file("train.jsonl"), "--model-dir", empty});
    EXPECT_EXIT_CODE(outcome, 66);
    EXPECT_SAYS(outcome, empty);
    outcome = run_cairn({"predict", "--model-dir", empty});
    EXPECT_EXIT_CODE(outcome, 66);

    outcome = run_cairn({"evaluate", "--data", dir_.file("train.jsonl"), "--model-dir", empty,
                         "--allow-untrained"});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_EQ(json_field(outcome.out, "examples"), "128");
}

// ---- who may use a model directory ----

TEST_F(ExitCodes, SecondTrainerIs73AndNamesTheFirst) {
    Process first({.program = "",
                   .arguments = train_arguments({"--epochs", "100000", "--patience", "none"})});
    ASSERT_TRUE(first.wait_for([&] { return !checkpoint_steps(model()).empty(); })) << first.err();

    Outcome second = train();
    EXPECT_EXIT_CODE(second, 73);
    EXPECT_SAYS(second, std::to_string(first.pid()));
    char host[256] = {};
    ASSERT_EQ(gethostname(host, sizeof host - 1), 0);
    EXPECT_SAYS(second, host);

    EXPECT_TRUE(first.running());
    // Readers take no lock.
    EXPECT_EXIT_CODE(run_cairn({"checkpoints", "--model-dir", model()}), 0);
    first.signal(SIGKILL);
    EXPECT_EQ(first.wait(), 128 + SIGKILL);
    // The lock dies with its process.
    EXPECT_EXIT_CODE(train(), 0);
}

TEST_F(ExitCodes, UnusableModelDirectoryIs73) {
    write_file(dir_.file("file"), "");
    Outcome outcome = train({"--model-dir", dir_.file("file")});
    EXPECT_EXIT_CODE(outcome, 73);
    EXPECT_SAYS(outcome, dir_.file("file"));
    EXPECT_EXIT_CODE(train({"--model-dir", "/proc/nowhere/model"}), 73);
}

TEST_F(ExitCodes, ResumeNeverInAUsedDirectoryIs73) {
    train_one_epoch();
    Outcome outcome = train({"--resume", "never"});
    EXPECT_EXIT_CODE(outcome, 73);
    EXPECT_SAYS(outcome, model());
    expect_untouched();
}

// ---- misfit ----

struct Misfit {
    std::string option, saved, asked, tensor, saved_shape, asked_shape;
};

TEST_F(ExitCodes, EverySizeThatDoesNotFitIs76) {
    train_one_epoch();
    const std::vector<Misfit> cases = {
        {"--embedding-size", "8", "12", "embedding.weight", "[20, 8]", "[20, 12]"},
        {"--hidden-size", "8", "6", "lstm.weight_ih_l0", "[32, 8]", "[24, 8]"},
        {"--dense-size", "8", "4", "dense.weight", "[8, 16]", "[4, 16]"},
        {"--vocabulary-size", "20", "15", "embedding.weight", "[20, 8]", "[15, 8]"},
    };
    for (const Misfit &misfit : cases) {
        Outcome outcome = train({misfit.option, misfit.asked});
        EXPECT_EXIT_CODE(outcome, 76);
        EXPECT_SAYS(outcome, misfit.tensor);
        EXPECT_SAYS(outcome, misfit.saved_shape);
        EXPECT_SAYS(outcome, misfit.asked_shape);
        EXPECT_SAYS(outcome, misfit.option + " " + misfit.saved);
        EXPECT_SAYS(outcome, misfit.asked);
        EXPECT_SAYS(outcome, "--model-dir"); // one of the two ways out
        expect_untouched();
    }
}

TEST_F(ExitCodes, OptimiserStateThatDoesNotFitIs76) {
    train_one_epoch();
    for (const char *name : {"adam.m.dense.weight", "adam.v.lstm.bias_l0"}) {
        const std::string path = checkpoint_path(model(), kStepsPerEpoch);
        rewrite_checkpoint(path, path, [&](Tensors *tensors) {
            for (struct tensor_view &tensor : *tensors) {
                if (std::strcmp(tensor.name, name) == 0) {
                    tensor.shape[0] /= 2;
                }
            }
        });
        std::map<std::string, std::string> damaged = contents(model());
        Outcome outcome = train();
        EXPECT_EXIT_CODE(outcome, 76);
        EXPECT_SAYS(outcome, name);
        EXPECT_EQ(contents(model()), damaged);
        write_file(path, before_[path.substr(model().size() + 1)]);
    }
}

TEST_F(ExitCodes, MissingOptimiserStateIs76) {
    train_one_epoch();
    const std::string path = checkpoint_path(model(), kStepsPerEpoch);
    rewrite_checkpoint(path, path, [](Tensors *tensors) {
        for (size_t i = 0; i < tensors->size(); i++) {
            if (std::strcmp((*tensors)[i].name, "adam.v.output.weight") == 0) {
                tensors->erase(tensors->begin() + static_cast<std::ptrdiff_t>(i));
                break;
            }
        }
    });
    Outcome outcome = train();
    EXPECT_EXIT_CODE(outcome, 76);
    EXPECT_SAYS(outcome, "adam.v.output.weight");
}

TEST_F(ExitCodes, OtherVocabularyIs76) {
    train_one_epoch();
    Outcome learned =
        run_cairn({"vocabulary", "--data", dir_.file("train.jsonl"), "--vocabulary-size", "20"});
    ASSERT_EQ(learned.code, 0) << learned.err;
    write_file(dir_.file("same.txt"), learned.out);
    // The same size, one other word.
    std::string other = learned.out.substr(0, learned.out.rfind('\n', learned.out.size() - 2) + 1);
    write_file(dir_.file("other.txt"), other + "zebra\n");
    Outcome outcome = train({"--vocabulary", dir_.file("other.txt")});
    EXPECT_EXIT_CODE(outcome, 76);
    EXPECT_SAYS(outcome, "vocabulary");
    expect_untouched();
    EXPECT_EXIT_CODE(train({"--vocabulary", dir_.file("same.txt")}), 0);
}

// ---- changed options ----

struct Change {
    std::string option, saved, asked;
};

TEST_F(ExitCodes, ChangedOrderOrTextIs78WithBothValues) {
    train_one_epoch();
    const std::vector<Change> cases = {
        {"--seed", "1", "2"},          {"--batch-size", "16", "32"},
        {"--shuffle", "full", "none"}, {"--bucket-window", "4096", "64"},
        {"--max-length", "0", "5"},
    };
    for (const Change &change : cases) {
        Outcome outcome = train({change.option, change.asked});
        EXPECT_EXIT_CODE(outcome, 78);
        EXPECT_SAYS(outcome, change.option.substr(2));
        EXPECT_SAYS(outcome, change.saved);
        EXPECT_SAYS(outcome, change.asked);
        EXPECT_SAYS(outcome, "--allow-change");
        expect_untouched();
    }
    Outcome outcome = train({"--strip-html"});
    EXPECT_EXIT_CODE(outcome, 78);
    EXPECT_SAYS(outcome, "strip-html");
    expect_untouched();
}

TEST_F(ExitCodes, ChangedDataIs78) {
    train_one_epoch();
    std::vector<Example> examples = small_examples(128, 1);
    examples[77].label = 1 - examples[77].label;
    write_jsonl(dir_.file("train.jsonl"), examples);
    Outcome outcome = train();
    EXPECT_EXIT_CODE(outcome, 78);
    EXPECT_SAYS(outcome, "--allow-change");
    expect_untouched();
    EXPECT_EXIT_CODE(train({"--allow-change"}), 0);
}

TEST_F(ExitCodes, AllowChangeGoesOn) {
    train_one_epoch();
    Outcome outcome = train({"--seed", "2", "--allow-change"});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_EQ(checkpoint_steps(model()).back(), 2 * kStepsPerEpoch);
}

TEST_F(ExitCodes, ChangedLearningRateWarns) {
    train_one_epoch();
    Outcome outcome = train({"--learning-rate", "0.125"});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_SAYS(outcome, "Warning");
    EXPECT_SAYS(outcome, "learning-rate");
    EXPECT_SAYS(outcome, "0.01");
    EXPECT_SAYS(outcome, "0.125");
}

TEST_F(ExitCodes, LimitsSavingAndOutputMayChange) {
    train_one_epoch();
    Outcome outcome =
        train({"--epochs", "3", "--save-checkpoints-steps", "3", "--keep-checkpoint-max", "2",
               "--progress", "none", "--log-step-count-steps", "1", "--threads", "2"});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_FALSE(contains(outcome.err, "Warning")) << outcome.err;
    EXPECT_EQ(checkpoint_steps(model()).back(), 3 * kStepsPerEpoch);
}

// ---- already there ----

TEST_F(ExitCodes, MaxStepsReachedIs0WithAWarning) {
    EXPECT_EXIT_CODE(train({"--max-steps", "7"}), 0);
    before_ = contents(model());
    Outcome outcome = train({"--max-steps", "5"});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_SAYS(outcome, "Warning");
    EXPECT_SAYS(outcome, "7");
    EXPECT_SAYS(outcome, "5");
    EXPECT_EQ(checkpoint_steps(model()).back(), 7u);
}

TEST_F(ExitCodes, EpochsReachedIs0WithAWarning) {
    EXPECT_EXIT_CODE(train({"--epochs", "3"}), 0);
    Outcome outcome = train({"--epochs", "2"});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_SAYS(outcome, "Warning");
    EXPECT_SAYS(outcome, "3");
    EXPECT_SAYS(outcome, "2");
    EXPECT_EQ(checkpoint_steps(model()).back(), 3 * kStepsPerEpoch);
}

TEST_F(ExitCodes, StoppedEarlyStaysStopped) {
    // A learning rate of nothing never improves: patience 1 ends it in its second epoch.
    const std::vector<std::string> still = {"--learning-rate", "1e-30", "--patience",  "1",
                                            "--epochs",        "9",     "--min-delta", "0.5"};
    EXPECT_EXIT_CODE(train(still), 0);
    EXPECT_EQ(checkpoint_steps(model()).back(), 2 * kStepsPerEpoch);
    Outcome again = train(still);
    EXPECT_EXIT_CODE(again, 0);
    EXPECT_SAYS(again, "Warning");
    EXPECT_EQ(checkpoint_steps(model()).back(), 2 * kStepsPerEpoch);
}

// `--steps` counts this call, `--max-steps` the run.
TEST_F(ExitCodes, StepsAreIncrementalMaxStepsAbsolute) {
    EXPECT_EXIT_CODE(train({"--steps", "3"}), 0);
    EXPECT_EXIT_CODE(train({"--steps", "3"}), 0);
    EXPECT_EQ(checkpoint_steps(model()).back(), 6u);
    EXPECT_EXIT_CODE(train({"--max-steps", "7"}), 0);
    EXPECT_EQ(checkpoint_steps(model()).back(), 7u);
}

// ---- numbers that are none ----

TEST_F(ExitCodes, NonFiniteLossIs70AndKeepsGoodCheckpoints) {
    EXPECT_EXIT_CODE(train({"--max-steps", "5"}), 0);
    Outcome outcome =
        train({"--learning-rate", "1e30", "--save-checkpoints-steps", "1", "--epochs", "9"});
    EXPECT_EXIT_CODE(outcome, 70);
    Outcome verify = run_cairn({"checkpoints", "--model-dir", model(), "--verify"});
    EXPECT_EXIT_CODE(verify, 0);
    ASSERT_FALSE(checkpoint_steps(model()).empty());
    for (uint64_t step : checkpoint_steps(model())) {
        EXPECT_EQ(count_nonfinite(checkpoint_path(model(), step)), 0u) << step;
    }
}

// ---- stdout is for data ----

TEST_F(ExitCodes, TrainWritesNothingToStdout) {
    Outcome outcome = train();
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_EQ(outcome.out, "");
}
