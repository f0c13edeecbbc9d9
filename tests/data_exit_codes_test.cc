// Bad input, kind by kind, through the real program: exit 65 and a message with the file, the line
// and what was expected. Nothing is skipped silently, and no model directory is left behind half
// made.
#include <filesystem>
#include <string>

#include "tests/support/train_fixture.h"
#include "gtest/gtest.h"

namespace {

const char *const kGood = "{\"text\": \"a fine film\", \"label\": 1}\n"
                          "{\"text\": \"a dull film\", \"label\": 0}\n";

class BadData : public TrainFixture {
  protected:
    // Train on a file of that name and content; expect 65 and every one of `parts` in the message.
    void expect_bad(const std::string &name, const std::string &content,
                    const std::vector<std::string> &parts) {
        write_file(dir_.file(name), content);
        expect_bad_path(dir_.file(name), parts);
    }

    void expect_bad_path(const std::string &path, const std::vector<std::string> &parts) {
        Outcome outcome = run_cairn({"train", "--data", path, "--model-dir", model()});
        EXPECT_EXIT_CODE(outcome, 65);
        EXPECT_SAYS(outcome, std::filesystem::path(path).filename().string());
        for (const std::string &part : parts) {
            EXPECT_SAYS(outcome, part);
        }
        EXPECT_TRUE(checkpoint_steps(model()).empty());
    }
};

} // namespace

TEST_F(BadData, CsvWithoutAColumn) {
    expect_bad("a.csv", "text,score\na fine film,1\n", {"label"});
    expect_bad("b.csv", "review,label\na fine film,1\n", {"text"});
    expect_bad("c.tsv", "text,label\na fine film,1\n", {"text"});
}

TEST_F(BadData, CsvWithABadLabel) {
    expect_bad("a.csv", "text,label\nfine,1\ndull,0\nodd,maybe\n", {"4", "maybe"});
}

TEST_F(BadData, CsvWithTooFewOrTooManyFields) {
    expect_bad("few.csv", "text,label\nfine,1\ndull\n", {"3"});
    expect_bad("many.csv", "text,label\nfine,1\ndull,0,extra\n", {"3"});
}

TEST_F(BadData, CsvWithAnOpenQuote) {
    expect_bad("a.csv", "text,label\nfine,1\n\"dull,0\nodd,1\n", {"quote"});
}

TEST_F(BadData, JsonlThatIsNone) {
    expect_bad("a.jsonl", std::string(kGood) + "{\"text\": \"odd\", \"label\": }\n", {"3"});
    expect_bad("b.jsonl", std::string(kGood) + "[1, 2]\n", {"3"});
    expect_bad("c.jsonl", std::string(kGood) + "{\"text\": \"odd\"}\n", {"3", "label"});
    expect_bad("d.jsonl", std::string(kGood) + "{\"label\": 1}\n", {"3", "text"});
    expect_bad("e.jsonl", std::string(kGood) + "{\"text\": 7, \"label\": 1}\n", {"3", "text"});
    expect_bad("f.jsonl", std::string(kGood) + "{\"text\": \"odd\", \"label\": 2}\n", {"3", "2"});
}

TEST_F(BadData, EmptySets) {
    expect_bad("a.csv", "text,label\n", {"example"});
    expect_bad("b.csv", "", {});
    expect_bad("c.jsonl", "", {"example"});
}

TEST_F(BadData, ClassWithoutExamples) {
    expect_bad("a.jsonl", "{\"text\": \"a fine film\", \"label\": 1}\n", {"0"});
    expect_bad("b.csv", "text,label\ndull,neg\nweak,neg\n", {"pos"});
}

TEST_F(BadData, NulBytes) {
    std::string csv = "text,label\nfine,1\ndu";
    csv += '\0';
    expect_bad("a.csv", csv + "ll,0\n", {"3", "NUL"});
    expect_bad("b.jsonl", std::string(kGood) + "{\"text\": \"o\\u0000dd\", \"label\": 1}\n",
               {"3", "NUL"});
    write_folder(dir_.file("folder"), small_examples(4, 1), small_examples(4, 2));
    std::string text = "a film";
    text += '\0';
    write_file(dir_.file("folder/train/pos/bad.txt"), text);
    expect_bad_path(dir_.file("folder"), {"bad.txt", "NUL"});
}

TEST_F(BadData, LineOfAHundredMegabytes) {
    const std::string endless(100u << 20, 'x');
    expect_bad("a.csv", "text,label\nfine,1\n" + endless + ",0\n", {"3"});
    expect_bad("b.jsonl", kGood + ("{\"text\": \"" + endless) + "\", \"label\": 1}\n", {"3"});
}

TEST_F(BadData, FolderWithoutClasses) {
    std::filesystem::create_directories(dir_.file("none"));
    expect_bad_path(dir_.file("none"), {"train"});
    std::filesystem::create_directories(dir_.file("half/train/pos"));
    write_file(dir_.file("half/train/pos/1.txt"), "fine");
    expect_bad_path(dir_.file("half"), {"neg"});
    std::filesystem::create_directories(dir_.file("empty/train/pos"));
    std::filesystem::create_directories(dir_.file("empty/train/neg"));
    expect_bad_path(dir_.file("empty"), {});
}

TEST_F(BadData, DamagedArchive) {
    write_folder(dir_.file("folder"), small_examples(64, 1), small_examples(16, 2));
    write_archive(dir_.file("good.tar.gz"), dir_.file("folder"));
    const std::string bytes = read_file(dir_.file("good.tar.gz"));
    expect_bad("cut.tar.gz", bytes.substr(0, bytes.size() / 2), {});
    expect_bad("other.tar.gz", "this is no archive at all", {});
}

TEST_F(BadData, UnknownKindOfFile) {
    write_file(dir_.file("data.parquet"), "PAR1");
    Outcome outcome = run_cairn({"train", "--data", dir_.file("data.parquet")});
    EXPECT_TRUE(outcome.code == 65 || outcome.code == 2) << outcome.code;
    EXPECT_SAYS(outcome, "jsonl"); // names what it can read
}

// The same errors from the other commands that read data.
TEST_F(BadData, VocabularyAndEvaluateRefuseToo) {
    write_file(dir_.file("bad.csv"), "text,label\nfine,1\nodd,maybe\n");
    Outcome outcome = run_cairn({"vocabulary", "--data", dir_.file("bad.csv")});
    EXPECT_EXIT_CODE(outcome, 65);
    EXPECT_EQ(outcome.out, "");
    ASSERT_EQ(train({"--max-steps", "1"}).code, 0);
    outcome = run_cairn({"evaluate", "--data", dir_.file("bad.csv"), "--model-dir", model()});
    EXPECT_EXIT_CODE(outcome, 65);
    EXPECT_SAYS(outcome, "maybe");
}

// Control bytes from data never reach the terminal.
TEST_F(BadData, MessagesEscapeControlBytes) {
    write_file(dir_.file("a.csv"), "text,label\nfine,1\nodd,\x1b[31mred\n");
    Outcome outcome = run_cairn({"train", "--data", dir_.file("a.csv")});
    EXPECT_EXIT_CODE(outcome, 65);
    EXPECT_FALSE(contains(outcome.err, "\x1b")) << outcome.err;
    EXPECT_SAYS(outcome, "red");
}

// Odd but legal: quotes, line breaks inside a field, CR LF, a last line without newline, label
// names.
TEST_F(BadData, OddButGoodFilesAreRead) {
    write_file(dir_.file("a.csv"),
               "label,text,extra\r\npositive,\"a \"\"fine\"\"\nfilm, indeed\",1\r\n"
               "Negative,dull,2");
    Outcome outcome = run_cairn({"vocabulary", "--data", dir_.file("a.csv")});
    EXPECT_EXIT_CODE(outcome, 0);
    for (const char *word : {"fine", "film", "indeed", "dull"}) {
        EXPECT_TRUE(contains(outcome.out, word)) << word << "\n" << outcome.out;
    }
}
