// `cairn export` as a program: what it refuses, what it says, with which exit code, and what it
// leaves. What others make of its files is for tests/python/.
#include <sys/stat.h>

#include <filesystem>
#include <string>
#include <vector>

#include "tests/support/train_fixture.h"
#include "gtest/gtest.h"

namespace {

const char *const kFormats[] = {"safetensors", "onnx", "keras", "checkpoint"};

class Export : public TrainFixture {
  protected:
    void SetUp() override {
        TrainFixture::SetUp();
        Outcome outcome = train({"--max-steps", "2", "--keep-checkpoint-max", "0"});
        ASSERT_EQ(outcome.code, 0) << outcome.err;
    }

    static std::string ending(const std::string &format) {
        return format == "onnx"         ? ".onnx"
               : format == "keras"      ? ".keras"
               : format == "checkpoint" ? ".safetensors.zst"
                                        : "";
    }
    // A path that a format takes.
    std::string output(const std::string &format) const {
        return dir_.file("out" + ending(format));
    }
    Outcome write(const std::string &format, const std::vector<std::string> &more = {}) const {
        return run_cairn(std::vector<std::string>{"export", "--model-dir", model(), "--format",
                                                  format, "--output", output(format)} +
                         more);
    }
    std::vector<std::string> temporaries() const {
        std::vector<std::string> out;
        for (const auto &entry : std::filesystem::recursive_directory_iterator(dir_.path())) {
            if (entry.path().filename().string().rfind(".cairn-tmp-", 0) == 0) {
                out.push_back(entry.path());
            }
        }
        return out;
    }
    // Flips a bit in the middle.
    static void damage(const std::string &path) {
        std::string bytes = read_file(path);
        bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 0x20);
        write_file(path, bytes);
    }
};

TEST_F(Export, EveryFormatSaysWhatItDidAndNothingOnStdout) {
    for (const char *format : kFormats) {
        Outcome outcome = write(format);
        EXPECT_EXIT_CODE(outcome, 0);
        EXPECT_EQ(outcome.out, "");
        EXPECT_SAYS(outcome, "(step 2)");
        EXPECT_SAYS(outcome, output(format));
        EXPECT_TRUE(exists(output(format))) << format;
        EXPECT_EXIT_CODE(write(format), 0); // once more, over it
    }
    EXPECT_TRUE(temporaries().empty());
}

TEST_F(Export, TheDefaultIsTheFolder) {
    EXPECT_EXIT_CODE(run_cairn({"export", "--model-dir", model(), "--output", output("")}), 0);
    EXPECT_EQ(list_directory(output("")),
              words("README.md config.json model.safetensors vocab.txt"));
}

TEST_F(Export, UsageErrors) {
    const std::vector<std::vector<std::string>> wrong = {
        {"export", "--model-dir", model()},
        {"export", "--output", output("")},
        {"export", "--model-dir", model(), "--output", output(""), "--format", "tsv"},
        {"export", "--model-dir", model(), "--output", output(""), "--with-text"},
        {"export", "--model-dir", model(), "--output", dir_.file("model.safetensors")},
        {"export", "--model-dir", model(), "--output", output(""), "--allow-untrained"},
        {"predict", "--model-dir", model(), "--format", "onnx"},
    };
    const char *const said[] = {
        "--output",      "--model-dir", "safetensors, onnx, keras or checkpoint",
        "--format onnx", "folder",      "--allow-untrained",
        "tsv or jsonl"};
    for (size_t i = 0; i < wrong.size(); i++) {
        Outcome outcome = run_cairn(wrong[i]);
        EXPECT_EXIT_CODE(outcome, 2);
        EXPECT_SAYS(outcome, said[i]);
    }
    EXPECT_FALSE(exists(output("")));
}

TEST_F(Export, WithoutAModelThereIsNothingToExport) {
    std::filesystem::create_directory(dir_.file("empty"));
    for (const std::string &directory : {dir_.file("empty"), dir_.file("missing")}) {
        Outcome outcome = run_cairn({"export", "--model-dir", directory, "--output", output("")});
        EXPECT_EXIT_CODE(outcome, 66);
        EXPECT_SAYS(outcome, directory);
        EXPECT_FALSE(contains(outcome.err, "--allow-untrained")) << outcome.err;
    }
    EXPECT_FALSE(exists(output("")));
}

TEST_F(Export, AnUntrainedCheckpointIsExportedWithAWarning) {
    Outcome outcome = write("checkpoint", {"--checkpoint", checkpoint_path(model(), 0)});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_SAYS(outcome, "Warning");
    EXPECT_SAYS(outcome, "not trained");
}

TEST_F(Export, ADamagedCheckpointIsPassedOverOrRefused) {
    const std::string newest = checkpoint_path(model(), 2);
    damage(newest);
    Outcome latest = write("checkpoint");
    EXPECT_EXIT_CODE(latest, 0);
    EXPECT_SAYS(latest, newest);
    EXPECT_SAYS(latest, "(step 0)");
    std::filesystem::remove(output("checkpoint"));
    Outcome named = write("checkpoint", {"--checkpoint", newest});
    EXPECT_EXIT_CODE(named, 65);
    EXPECT_SAYS(named, newest);
    damage(checkpoint_path(model(), 0));
    EXPECT_EXIT_CODE(write("checkpoint"), 65);
    EXPECT_FALSE(exists(output("checkpoint")));
}

// ---- the output ----

TEST_F(Export, WhatIsThereMustBeOfTheSameKind) {
    for (const char *format : kFormats) {
        std::filesystem::remove_all(output(format));
        if (std::string(format) == "safetensors") {
            write_file(output(format), "a file");
        } else {
            std::filesystem::create_directory(output(format));
        }
        Outcome outcome = write(format);
        EXPECT_EXIT_CODE(outcome, 73);
        EXPECT_SAYS(outcome, output(format));
        std::filesystem::remove_all(output(format));
        ASSERT_EQ(mkfifo(output(format).c_str(), 0600), 0);
        EXPECT_EXIT_CODE(write(format), 73);
        EXPECT_TRUE(std::filesystem::is_fifo(output(format)));
        std::filesystem::remove(output(format));
    }
}

TEST_F(Export, ATrainingStateIsNeverReplaced) {
    const std::string best = model() + "/best.safetensors.zst",
                      newest = checkpoint_path(model(), 2);
    std::filesystem::copy_file(newest, dir_.file("copy.zst"));
    for (const std::string &path : {best, newest, checkpoint_path(dir_.path(), 12345)}) {
        Outcome outcome = write("checkpoint", {"--output", path});
        EXPECT_EXIT_CODE(outcome, 73);
        EXPECT_SAYS(outcome, path);
    }
    const std::string before = read_file(dir_.file("copy.zst"));
    EXPECT_EXIT_CODE(write("checkpoint", {"--checkpoint", dir_.file("copy.zst"), "--output",
                                          dir_.file("model/../copy.zst")}),
                     73);
    EXPECT_EQ(read_file(dir_.file("copy.zst")), before);
    EXPECT_EQ(read_file(newest), before);
}

// "film" is everybody's name for a folder.
TEST_F(Export, AFolderOfSomebodyElseIsNotTouched) {
    const std::string folder = dir_.file("project");
    std::filesystem::create_directory(folder);
    write_file(folder + "/README.md", "mine");
    for (const char *config : {"{\"my\": 1}", "{", "{\"model_type\": \"bilstm\"}"}) {
        write_file(folder + "/config.json", config);
        Outcome outcome = write("safetensors", {"--output", folder});
        EXPECT_EXIT_CODE(outcome, 73);
        EXPECT_SAYS(outcome, folder);
        EXPECT_SAYS(outcome, "no export wrote");
        EXPECT_EQ(read_file(folder + "/config.json"), config);
    }
    EXPECT_EQ(read_file(folder + "/README.md"), "mine");
    EXPECT_EQ(list_directory(folder), words("README.md config.json"));
    EXPECT_EXIT_CODE(write("safetensors", {"--output", "/"}), 73);
    // A fresh clone, and what a killed export leaves.
    std::filesystem::remove(folder + "/README.md");
    std::filesystem::remove(folder + "/config.json");
    std::filesystem::create_directory(folder + "/.git");
    write_file(folder + "/.cairn-tmp-config.json.1.0", "{");
    EXPECT_EXIT_CODE(write("safetensors", {"--output", folder}), 0);
    write_file(folder + "/LICENSE", "mine");
    std::filesystem::remove(folder + "/model.safetensors"); // cut short
    EXPECT_EXIT_CODE(write("safetensors", {"--output", folder}), 0);
    EXPECT_EQ(read_file(folder + "/LICENSE"), "mine");
    // An exported folder whose weights are a link into somebody's cache.
    std::filesystem::rename(folder + "/model.safetensors", dir_.file("blob"));
    std::filesystem::create_symlink(dir_.file("blob"), folder + "/model.safetensors");
    EXPECT_EXIT_CODE(write("safetensors", {"--output", folder}), 73);
    EXPECT_TRUE(std::filesystem::is_symlink(folder + "/model.safetensors"));
}

TEST_F(Export, TheFilesOfARunAreNeverReplaced) {
    const std::vector<std::string> before = list_directory(model());
    const std::string lock = read_file(model() + "/.cairn-lock"),
                      history = read_file(model() + "/history.csv");
    Outcome folder = write("safetensors", {"--output", model()});
    EXPECT_EXIT_CODE(folder, 73);
    EXPECT_SAYS(folder, "model directory");
    for (const char *name : {".cairn-lock", "checkpoint", "config.ini", "history.csv",
                             "history.jsonl", "model.ckpt-9.tmp", "superseded", "train"}) {
        for (const char *format : {"checkpoint", "onnx"}) {
            Outcome outcome = write(format, {"--output", model() + "/" + name});
            EXPECT_EXIT_CODE(outcome, 73);
            EXPECT_SAYS(outcome, name);
        }
    }
    EXPECT_EXIT_CODE(write("safetensors", {"--output", model() + "/superseded"}), 73);
    EXPECT_EQ(list_directory(model()), before);
    EXPECT_EQ(read_file(model() + "/.cairn-lock"), lock);
    EXPECT_EQ(read_file(model() + "/history.csv"), history);
    EXPECT_EXIT_CODE(write("onnx", {"--output", model() + "/film.onnx"}), 0); // a name of its own
    EXPECT_EXIT_CODE(write("safetensors", {"--output", model() + "/film"}), 0);
    // A directory whose run has not saved yet is one too.
    std::filesystem::create_directory(dir_.file("young"));
    write_file(dir_.file("young/.cairn-lock"), "");
    EXPECT_EXIT_CODE(write("safetensors", {"--output", dir_.file("young")}), 73);
}

// /dev/stdout is one.
TEST_F(Export, LinksAreNotReplaced) {
    for (const char *format : {"onnx", "keras", "checkpoint"}) {
        const std::string link = dir_.file("link") + ending(format), target = dir_.file("target");
        for (bool dangling : {false, true}) {
            std::filesystem::remove(link);
            write_file(target, "theirs");
            std::filesystem::create_symlink(dangling ? dir_.file("nowhere") : target, link);
            Outcome outcome = write(format, {"--output", link});
            EXPECT_EXIT_CODE(outcome, 73);
            EXPECT_SAYS(outcome, "symbolic link");
            EXPECT_TRUE(std::filesystem::is_symlink(link));
            EXPECT_EQ(read_file(target), "theirs");
        }
    }
    std::filesystem::create_symlink(dir_.file("nowhere"), output("safetensors"));
    EXPECT_EXIT_CODE(write("safetensors"), 73);
    // A link to a folder is a folder.
    std::filesystem::create_directory(dir_.file("nowhere"));
    EXPECT_EXIT_CODE(write("safetensors"), 0);
    EXPECT_TRUE(exists(dir_.file("nowhere/model.safetensors")));
}

TEST_F(Export, WhatIsExportedIsNotReplaced) {
    ASSERT_EQ(write("safetensors").code, 0);
    const std::string weights = output("safetensors") + "/model.safetensors",
                      before = read_file(weights);
    EXPECT_EXIT_CODE(write("safetensors", {"--checkpoint", weights}), 73);
    EXPECT_EXIT_CODE(write("safetensors", {"--checkpoint", output("safetensors")}), 73);
    for (const std::string &source : {weights, output("safetensors")}) {
        Outcome outcome = write("checkpoint", {"--checkpoint", source, "--output", weights});
        EXPECT_EXIT_CODE(outcome, 73);
        EXPECT_SAYS(outcome, weights);
    }
    EXPECT_EQ(read_file(weights), before);
}

TEST_F(Export, TheMissingDirectoryIsNamedAndPathsDoNoHarm) {
    Outcome missing = write("onnx", {"--output", dir_.file("a/b/film.onnx")});
    EXPECT_EXIT_CODE(missing, 73);
    EXPECT_SAYS(missing, "there is no directory " + dir_.file("a/b"));
    Outcome slash = write("onnx", {"--output", dir_.file("film.onnx/")});
    EXPECT_EXIT_CODE(slash, 73);
    EXPECT_SAYS(slash, "there is no directory " + dir_.file("film.onnx"));
    for (const char *name : {"x\x1b[2J/film.onnx", "x\x1b[2J.onnx"}) {
        Outcome evil = write("onnx", {"--output", dir_.file(name)});
        EXPECT_SAYS(evil, "x\\x1B[2J");
        EXPECT_FALSE(contains(evil.err, "\x1b")) << evil.err;
    }
    EXPECT_TRUE(exists(dir_.file("x\x1b[2J.onnx")));
}

TEST_F(Export, AnOutputThatCannotBeMade) {
    write_file(dir_.file("file"), "not a directory");
    for (const char *format : kFormats) {
        for (const std::string &place : {dir_.file("file/x"), std::string("/proc/x")}) {
            Outcome outcome = write(format, {"--output", place + ending(format)});
            EXPECT_EXIT_CODE(outcome, 73);
            EXPECT_SAYS(outcome, place);
        }
    }
    // A folder's own parents are made; a file's are not, as with `cp`.
    EXPECT_EXIT_CODE(write("safetensors", {"--output", dir_.file("new/folder")}), 0);
    Outcome outcome = write("checkpoint", {"--output", dir_.file("nowhere/film")});
    EXPECT_EXIT_CODE(outcome, 73);
    EXPECT_SAYS(outcome, dir_.file("nowhere/film"));
}

TEST_F(Export, AFullDiskLeavesNothing) {
    for (const char *format : kFormats) {
        std::filesystem::remove_all(output(format));
        ProcessOptions options;
        options.arguments = {"export", "--model-dir", model(),       "--format",
                             format,   "--output",    output(format)};
        options.file_bytes_max = 1024;
        Outcome outcome = run(options);
        EXPECT_EXIT_CODE(outcome, 74);
        EXPECT_FALSE(exists(output(format))) << format;
        EXPECT_TRUE(temporaries().empty()) << format;
        // Over an old one, which stays.
        EXPECT_EXIT_CODE(write(format), 0);
        const std::string file = std::string(format) == "safetensors"
                                     ? output(format) + "/model.safetensors"
                                     : output(format);
        const std::string before = read_file(file);
        EXPECT_EXIT_CODE(run(options), 74);
        EXPECT_EQ(read_file(file), before) << format;
        EXPECT_TRUE(temporaries().empty()) << format;
    }
}

// ---- back into the program ----

TEST_F(Export, TheFolderAndTheFileAnswerLikeTheModel) {
    ASSERT_EQ(write("safetensors").code, 0);
    ASSERT_EQ(write("checkpoint", {"--output", dir_.file("film.zst")}).code, 0);
    auto ask = [&](const std::vector<std::string> &which) {
        ProcessOptions options;
        options.arguments = std::vector<std::string>{"predict", "--format", "jsonl"} + which;
        options.input = "good fine\nbad\n\nunheard of\n";
        return run(options);
    };
    Outcome wanted = ask({"--model-dir", model()});
    ASSERT_EQ(wanted.code, 0) << wanted.err;
    for (const std::string &path : {output("safetensors"), dir_.file("film.zst")}) {
        Outcome found = ask({"--checkpoint", path});
        EXPECT_EXIT_CODE(found, 0);
        EXPECT_EQ(found.out, wanted.out) << path;
    }
}

TEST_F(Export, ARunBeginsWithTheFolder) {
    ASSERT_EQ(write("safetensors").code, 0);
    Outcome fits = train({"--model-dir", dir_.file("b"), "--init-from", output("safetensors")});
    EXPECT_EXIT_CODE(fits, 0);
    Outcome misfit = train({"--model-dir", dir_.file("c"), "--init-from", output("safetensors"),
                            "--hidden-size", "9"});
    EXPECT_EXIT_CODE(misfit, 76);
    EXPECT_SAYS(misfit, "lstm.weight_ih_l0");
    EXPECT_SAYS(misfit, "[32, 8]");
    EXPECT_SAYS(misfit, "[36, 8]");
    EXPECT_SAYS(misfit, "--hidden-size 8 in the checkpoint, 9 asked for");
    EXPECT_SAYS(misfit, "leave --init-from away");
    Outcome directory = train({"--model-dir", dir_.file("d"), "--init-from", model()});
    EXPECT_EXIT_CODE(directory, 66);
    EXPECT_SAYS(directory, "model.safetensors");
}

// The run goes on with its own rules; that they are others is said.
TEST_F(Export, OtherTextRulesAndLabelsOfTheFolderAreSaid) {
    ASSERT_EQ(write("safetensors").code, 0);
    const std::string same = dir_.file("b"), other = dir_.file("c"),
                      config = output("safetensors") + "/config.json";
    Outcome quiet = train({"--model-dir", same, "--init-from", output("safetensors")});
    EXPECT_EXIT_CODE(quiet, 0);
    EXPECT_FALSE(contains(quiet.err, "Warning")) << quiet.err;
    write_file(config, R"({"text": {"strip_html": true, "max_length": 3},
                           "id2label": {"0": "ham", "1": "spam"}})");
    Outcome outcome = train({"--model-dir", other, "--init-from", output("safetensors")});
    EXPECT_EXIT_CODE(outcome, 0);
    EXPECT_SAYS(outcome, "was trained with --strip-html on, this run has off");
    EXPECT_SAYS(outcome, "was trained with --max-length 3, this run has 0");
    EXPECT_SAYS(outcome, "calls its classes 'ham' and 'spam', the data '");
    // What the file does not say cannot differ.
    std::filesystem::remove(config);
    Outcome silent = train({"--model-dir", dir_.file("d"), "--init-from", output("safetensors")});
    EXPECT_EXIT_CODE(silent, 0);
    EXPECT_FALSE(contains(silent.err, "Warning")) << silent.err;
}

TEST_F(Export, AFileWithoutAStepIsNotCalledUntrained) {
    ASSERT_EQ(write("safetensors").code, 0);
    std::filesystem::remove(output("safetensors") + "/config.json"); // which alone has the step
    for (const char *format : {"safetensors", "checkpoint"}) {
        const std::string path = dir_.file("again") + ending(format);
        Outcome outcome = write(format, {"--checkpoint", output("safetensors"), "--output", path});
        EXPECT_EXIT_CODE(outcome, 0);
        EXPECT_FALSE(contains(outcome.err, "step")) << outcome.err;
        Outcome once_more = write("onnx", {"--checkpoint", path});
        EXPECT_EXIT_CODE(once_more, 0);
        EXPECT_FALSE(contains(once_more.err, "Warning")) << once_more.err;
    }
    EXPECT_FALSE(contains(read_file(dir_.file("again/README.md")), "Trained with"));
}

TEST_F(Export, TheFileWithAValueThatIsNotFiniteIsNamed) {
    ASSERT_EQ(write("safetensors").code, 0);
    const std::string weights = output("safetensors") + "/model.safetensors";
    std::string bytes = read_file(weights);
    bytes.replace(bytes.size() - 4, 4, std::string("\0\0\xC0\x7F", 4)); // NaN
    write_file(weights, bytes);
    ProcessOptions options;
    options.arguments = {"predict", "--checkpoint", weights};
    options.input = "good\n";
    Outcome predicted = run(options);
    EXPECT_EXIT_CODE(predicted, 70);
    EXPECT_SAYS(predicted, weights + ": tensor output.bias");
    Outcome trained = train({"--model-dir", dir_.file("b"), "--init-from", weights});
    EXPECT_EXIT_CODE(trained, 70);
    EXPECT_SAYS(trained, "--init-from " + weights + ": tensor output.bias");
}

} // namespace
