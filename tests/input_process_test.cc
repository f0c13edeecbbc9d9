// input_process_test.cc - what the program is handed from outside: pipes in the place of files,
// options that contradict a checkpoint, weights that are no numbers, names that lie.
#include <signal.h>
#include <sys/stat.h>

#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "tests/support/train_fixture.h"

namespace {

class Input : public TrainFixture {
  protected:
    void train_once() {
        Outcome outcome = train();
        ASSERT_EQ(outcome.code, 0) << outcome.err;
    }
    std::vector<std::string> ask(const std::string &command,
                                 const std::vector<std::string> &more = {}) const {
        std::vector<std::string> arguments = {command, "--model-dir", model()};
        if (command == "evaluate") {
            arguments.insert(arguments.end(), {"--data", dir_.file("validation.jsonl")});
        }
        arguments.insert(arguments.end(), more.begin(), more.end());
        return arguments;
    }
};

TEST_F(Input, AnArchiveIsNotAPipe) {
    std::string pipe = dir_.file("pipe.tar");
    ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
    Outcome outcome = run_cairn({"train", "--data", pipe, "--model-dir", model()});
    EXPECT_EXIT_CODE(outcome, 65);
    EXPECT_SAYS(outcome, "pipe.tar");
}

TEST_F(Input, TrainWaitsForAPipeThatNobodyWritesToAndCanBeStopped) {
    std::string pipe = dir_.file("pipe.csv");
    ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
    Process train({.program = {}, .arguments = {"train", "--data", pipe, "--model-dir", model()}});
    ASSERT_TRUE(train.wait_for([&] { return exists(model() + "/.cairn-lock"); }));
    train.signal(SIGTERM);
    EXPECT_EQ(train.wait(20), 75) << train.err();
}

TEST_F(Input, APipeIsNotAReview) {
    std::filesystem::create_directories(dir_.file("tree/train/neg"));
    std::filesystem::create_directories(dir_.file("tree/train/pos"));
    write_file(dir_.file("tree/train/pos/1.txt"), "good");
    ASSERT_EQ(mkfifo(dir_.file("tree/train/neg/1.txt").c_str(), 0600), 0);
    Outcome outcome = run_cairn({"train", "--data", dir_.file("tree"), "--model-dir", model()});
    EXPECT_EXIT_CODE(outcome, 65);
    EXPECT_SAYS(outcome, "neg/1.txt");
}

TEST_F(Input, PredictWaitsForAPipeAndCanBeStopped) {
    train_once();
    std::string pipe = dir_.file("pipe");
    ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
    Process predict({.program = {}, .arguments = ask("predict", {pipe})});
    // A wait of this length without an answer or an end: it stands before the pipe.
    EXPECT_FALSE(predict.wait_for([&] { return !predict.out().empty(); }, 0.5));
    ASSERT_TRUE(predict.running());
    predict.signal(SIGTERM);
    EXPECT_EQ(predict.wait(20), 75) << predict.err();
}

TEST_F(Input, OptionsThatContradictTheCheckpointAreAMisfit) {
    train_once();
    write_file(dir_.file("other.txt"), "\n[UNK]\nother\nwords\n");
    const std::vector<std::vector<std::string>> contradictions = {
        {"--hidden-size", "9"}, {"--embedding-size", "9"},
        {"--dense-size", "9"},  {"--vocabulary", dir_.file("other.txt")},
        {"--max-length", "3"},  {"--strip-html"}};
    for (const std::vector<std::string> &given : contradictions) {
        for (const char *command : {"evaluate", "predict"}) {
            Outcome outcome = run_cairn(ask(command, given));
            EXPECT_EQ(outcome.code, 76) << command << " " << given[0] << "\n" << outcome.err;
            EXPECT_TRUE(contains(outcome.err, given[0])) << given[0] << "\n" << outcome.err;
        }
    }
    EXPECT_EQ(run_cairn(ask("evaluate", {"--hidden-size", "8"})).code, 0); // what it has
}

TEST_F(Input, InitFromWithOtherSizesOrWordsIsAMisfit) {
    train_once();
    std::string best = model() + "/best.safetensors.zst";
    write_file(dir_.file("other.txt"), "\n[UNK]\nother\nwords\n");
    Outcome sizes =
        train({"--model-dir", dir_.file("b"), "--init-from", best, "--hidden-size", "9"});
    EXPECT_EXIT_CODE(sizes, 76);
    EXPECT_SAYS(sizes, "lstm.weight_ih_l0");
    Outcome words = train({"--model-dir", dir_.file("c"), "--init-from", best, "--vocabulary",
                           dir_.file("other.txt")});
    EXPECT_EXIT_CODE(words, 76);
    EXPECT_SAYS(words, "--vocabulary");
    EXPECT_EQ(train({"--model-dir", dir_.file("d"), "--init-from", best}).code, 0);
}

// A foreign plain safetensors file: nothing that writes checkpoints would write this.
TEST_F(Input, WeightsThatAreNoNumbersAreRefused) {
    train_once();
    checkpoint *loaded = nullptr;
    error err = {};
    std::string newest = checkpoint_path(model(), checkpoint_steps(model()).back());
    ASSERT_EQ(checkpoint_read_file(&file_posix, newest.c_str(), &loaded, &err), STATUS_OK);
    std::string header = "{", data;
    for (size_t i = 0; i < loaded->tensor_count; i++) {
        const tensor_view &tensor = loaded->tensors[i];
        std::string name = tensor.name;
        if (tensor.dtype != DTYPE_F32 || name.find("adam.") == 0) {
            continue;
        }
        uint64_t bytes = 0;
        ASSERT_TRUE(tensor_bytes(&tensor, &bytes));
        std::string values(static_cast<const char *>(tensor.data), bytes);
        if (name == "dense.bias") {
            const float nan = NAN;
            values.replace(0, sizeof nan, reinterpret_cast<const char *>(&nan), sizeof nan);
        }
        std::string shape;
        for (uint32_t axis = 0; axis < tensor.rank; axis++) {
            shape += (axis > 0 ? "," : "") + std::to_string(tensor.shape[axis]);
        }
        header += (header.size() > 1 ? ",\"" : "\"") + name + "\":{\"dtype\":\"F32\",\"shape\":[" +
                  shape + "],\"data_offsets\":[" + std::to_string(data.size()) + "," +
                  std::to_string(data.size() + bytes) + "]}";
        data += values;
    }
    header += "}";
    checkpoint_free(loaded);
    uint64_t length = header.size();
    write_file(dir_.file("w.safetensors"),
               std::string(reinterpret_cast<const char *>(&length), 8) + header + data);
    Outcome words =
        run_cairn({"vocabulary", "--data", dir_.file("train.jsonl"), "--vocabulary-size", "20"});
    write_file(dir_.file("words.txt"), words.out);
    Outcome outcome = run({.program = {},
                           .arguments = {"predict", "--checkpoint", dir_.file("w.safetensors"),
                                         "--vocabulary", dir_.file("words.txt")},
                           .input = "good\n"});
    EXPECT_EXIT_CODE(outcome, 70);
    EXPECT_SAYS(outcome, "dense.bias");
    EXPECT_EQ(outcome.out, "");
}

TEST_F(Input, ACheckpointUnderAnotherStepsNameIsPassedOver) {
    train_once();
    uint64_t last = checkpoint_steps(model()).back();
    std::filesystem::copy(checkpoint_path(model(), 0), checkpoint_path(model(), last + 5));
    Outcome outcome = run_cairn(ask("evaluate"));
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_SAYS(outcome, "model.ckpt-" + std::to_string(last + 5));
    EXPECT_EQ(json_field(outcome.out, "step"), std::to_string(last));
}

TEST_F(Input, AFlagGoesBeforeAnExclusiveOptionOfTheEnvironment) {
    Outcome outcome = run({.program = {},
                           .arguments = train_arguments({"--max-steps", "4"}),
                           .environment = {{"CAIRN_STEPS", "3"}}});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_EQ(checkpoint_steps(model()).back(), 4u);
}

TEST_F(Input, ResumeTakesABareNameAndALink) {
    Outcome outcome = train({"--save-checkpoints-steps", "4", "--keep-checkpoint-max", "0"});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    std::string whole = dir_.file("whole.zst");
    std::filesystem::copy(checkpoint_path(model(), 16), whole);
    std::filesystem::create_symlink(checkpoint_path(model(), 4), dir_.file("link.zst"));
    // One that lies on another disk.
    std::filesystem::rename(checkpoint_path(model(), 12), dir_.file("elsewhere.zst"));
    std::filesystem::create_symlink(dir_.file("elsewhere.zst"), checkpoint_path(model(), 12));
    std::filesystem::create_symlink(checkpoint_path(model(), 12), dir_.file("outer.zst"));
    const std::string ways[] = {checkpoint_path(model(), 12), "model.ckpt-12.safetensors.zst",
                                dir_.file("outer.zst"), dir_.file("link.zst")};
    for (const std::string &way : ways) {
        std::filesystem::remove_all(model() + "/superseded");
        Outcome back = train({"--resume", way});
        EXPECT_EXIT_CODE(back, 0);
        EXPECT_TRUE(exists(model() + "/superseded")) << way;
        EXPECT_EQ(checkpoint_difference(checkpoint_path(model(), 16), whole), "") << way;
    }
}

} // namespace
