// `cairn vocabulary` and `cairn tokenize` as people use them.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/support/process.h"
#include "tests/support/temporary_directory.h"

namespace {

class TextCommands : public testing::Test {
  protected:
    void SetUp() override {
        write_file(directory.file("d.csv"), "text,label\n"
                                            "\"The film, the FILM!<br />fine\",1\n"
                                            "the end,0\n");
        write_file(directory.file("v.txt"), "\n[UNK]\nthe\nfilm\n");
    }

    Outcome tokenize(const std::string &input, std::vector<std::string> arguments = {}) {
        arguments.insert(arguments.begin(), {"tokenize", "--vocabulary", directory.file("v.txt")});
        ProcessOptions options;
        options.arguments = arguments;
        options.input = input;
        return run(options);
    }

    TemporaryDirectory directory;
};

TEST_F(TextCommands, VocabularyPrintsOneTokenALine) {
    Outcome all = run_cairn({"vocabulary", "--data", directory.file("d.csv")});
    EXPECT_EQ(all.code, 0) << all.err;
    EXPECT_EQ(all.out, "\n[UNK]\nthe\nfine\nfilmbr\nfilm\nend\n");
    Outcome few = run_cairn({"vocabulary", "--data", directory.file("d.csv"), "--vocabulary-size",
                             "4", "--strip-html"});
    EXPECT_EQ(few.code, 0) << few.err;
    EXPECT_EQ(few.out, "\n[UNK]\nthe\nfilm\n");
}

TEST_F(TextCommands, VocabularyWithoutUsableData) {
    EXPECT_EQ(run_cairn({"vocabulary"}).code, 2);
    EXPECT_EQ(run_cairn({"vocabulary", "--data", directory.file("none.csv")}).code, 66);
    write_file(directory.file("bad.csv"), "text,label\nx,7\n");
    Outcome bad = run_cairn({"vocabulary", "--data", directory.file("bad.csv")});
    EXPECT_EQ(bad.code, 65);
    EXPECT_TRUE(contains(bad.err, "bad.csv: line 2")) << bad.err;
    EXPECT_EQ(bad.out, "");
}

TEST_F(TextCommands, TokenizeAnswersEveryTextInOrder) {
    Outcome lines = tokenize("The film.\n\nUnknown THE");
    EXPECT_EQ(lines.code, 0) << lines.err;
    EXPECT_EQ(lines.out, "2 3\n\n1 2\n");
    Outcome json = tokenize("\"film\\nfilm\"\n{\"text\": \"the\"}\n", {"--input-format", "jsonl"});
    EXPECT_EQ(json.out, "3 3\n2\n") << json.err;
}

TEST_F(TextCommands, TokenizeOptions) {
    EXPECT_EQ(tokenize("the film the\n", {"--max-length", "2"}).out, "2 3\n");
    EXPECT_EQ(tokenize("the<br />film\n").out, "1 3\n"); // thebr film
    EXPECT_EQ(tokenize("the<br />film\n", {"--strip-html"}).out, "2 3\n");
    write_file(directory.file("in.txt"), "film\n");
    EXPECT_EQ(tokenize("the\n", {directory.file("in.txt")}).out, "3\n");
    EXPECT_EQ(tokenize("the\n", {"-"}).out, "2\n");
}

TEST_F(TextCommands, TokenizeRefusals) {
    EXPECT_EQ(run_cairn({"tokenize", directory.file("v.txt")}).code, 2); // no vocabulary
    EXPECT_EQ(tokenize("", {directory.file("none")}).code, 66);
    Outcome bad = tokenize("\"film\"\nfilm\n", {"--input-format", "jsonl"});
    EXPECT_EQ(bad.code, 65);
    EXPECT_EQ(bad.out, "3\n"); // what came before was answered
    EXPECT_TRUE(contains(bad.err, "standard input: line 2")) << bad.err;
    write_file(directory.file("v.txt"), "a\na\n");
    bad = tokenize("a\n");
    EXPECT_EQ(bad.code, 65);
    EXPECT_TRUE(contains(bad.err, "v.txt: line 2")) << bad.err;
}

// What goes in and out of a long input must agree line by line.
TEST_F(TextCommands, TokenizeIsOneLineOutPerLineIn) {
    std::string input, wanted;
    for (int i = 0; i < 50000; i++) {
        bool film = i * 7919 % 11 < 5;
        input += film ? "film the\n" : "\n";
        wanted += film ? "3 2\n" : "\n";
    }
    Outcome outcome = tokenize(input);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_TRUE(outcome.out == wanted);
}

TEST_F(TextCommands, OutputThatCannotBeWritten) {
    std::string cairn = CAIRN_BINARY,
                tokenize = cairn + " tokenize --vocabulary " + directory.file("v.txt");
    auto shell = [](const std::string &line) {
        ProcessOptions options;
        options.program = "/bin/bash";
        options.arguments = {"-o", "pipefail", "-c", line};
        return run(options);
    };
    // A reader that goes away is no error, also when much more would follow.
    Outcome quiet = shell("yes film | head -n 400000 > " + directory.file("in") + "; " + tokenize +
                          " " + directory.file("in") + " | head -n 1");
    EXPECT_EQ(quiet.code, 0) << quiet.err;
    EXPECT_EQ(quiet.out, "3\n");
    EXPECT_EQ(quiet.err, "");
    Outcome full = shell(tokenize + " " + directory.file("in") + " > /dev/full");
    EXPECT_EQ(full.code, 74);
    EXPECT_TRUE(contains(full.err, "standard output")) << full.err;
    EXPECT_TRUE(contains(full.err, "No space left")) << full.err;
    EXPECT_EQ(shell(cairn + " vocabulary --data demo > /dev/full").code, 74);
}

TEST_F(TextCommands, TokenizeByACheckpointUsesItsRules) {
    std::string model = directory.file("model");
    Outcome train = run_cairn({"train",
                               "--data",
                               directory.file("d.csv"),
                               "--model-dir",
                               model,
                               "--epochs",
                               "1",
                               "--max-length",
                               "3",
                               "--strip-html",
                               "--vocabulary-size",
                               "4",
                               "--embedding-size",
                               "4",
                               "--hidden-size",
                               "4",
                               "--dense-size",
                               "4",
                               "--progress",
                               "none"});
    ASSERT_EQ(train.code, 0) << train.err;
    ProcessOptions options;
    options.arguments = {"tokenize", "--model-dir", model};
    options.input = "fine<br />film the film the\n";
    EXPECT_EQ(run(options).out, "1 3 2\n");
    options.arguments.insert(options.arguments.end(), {"--max-length", "1"});
    EXPECT_EQ(run(options).out, "1\n");
    EXPECT_EQ(run_cairn({"tokenize", "--model-dir", directory.file("none")}).code, 66);
}

} // namespace
