// Data in single files, line by line: what the readers accept, and what they refuse with which
// status and place.
#include <gtest/gtest.h>
#include <string.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "io/lines.h"
#include "tests/support/dataset_reading.h"

namespace {

using Csv = DatasetTest;
using Jsonl = DatasetTest;

const Examples two = {{"fine", 1}, {"dull", 0}};

// ---- labels ----

TEST(Label, AcceptsTheSixWordsInAnyCase) {
    for (const char *word : {"0", "neg", "NEG", "Negative", "negative"}) {
        EXPECT_EQ(dataset_parse_label(word, strlen(word)), 0) << word;
    }
    for (const char *word : {"1", "pos", "Pos", "POSITIVE"}) {
        EXPECT_EQ(dataset_parse_label(word, strlen(word)), 1) << word;
    }
    for (const char *word : {"", "2", "01", "-1", "ne", "nega", "positives", "true", " 1"}) {
        EXPECT_EQ(dataset_parse_label(word, strlen(word)), -1) << word;
    }
}

// ---- CSV ----

TEST_F(Csv, PlainFileKeepsItsOrder) {
    Read got = read_content("a.csv", "text,label\nfine,pos\ndull,neg\n");
    ASSERT_EQ(got.result, STATUS_OK) << got.message;
    EXPECT_EQ(got.examples, two);
    EXPECT_EQ(got.names[0], "neg");
    EXPECT_EQ(got.names[1], "pos");
    EXPECT_EQ(got.note, "");
    EXPECT_FALSE(got.has_test);
}

TEST_F(Csv, LineEndsMarkAndMissingLastNewline) {
    EXPECT_EQ(read_content("a.csv", "text,label\r\nfine,1\r\ndull,0\r\n").examples, two);
    EXPECT_EQ(read_content("b.csv", "text,label\nfine,1\ndull,0").examples, two);
    EXPECT_EQ(read_content("c.csv", "\xEF\xBB\xBFtext,label\nfine,1\ndull,0\n").examples, two);
    EXPECT_EQ(read_content("d.csv", "text,label\nfine,1\ndull,0\n\n\n").examples, two);
    EXPECT_EQ(read_content("e.csv", "text,label\nfine,1\n\"dull\",\"0\"").examples, two);
}

TEST_F(Csv, QuotesByTheRfc) {
    Read got = read_content("a.csv", "\"text\",\"label\"\r\n"
                                     "\"a, b\",1\r\n"
                                     "\"say \"\"hi\"\"\",0\r\n"
                                     "\"two\r\nlines\n\",1\r\n"
                                     "\"\",0\r\n"
                                     ",1\r\n"
                                     "\"\"\"\",0\r\n");
    ASSERT_EQ(got.result, STATUS_OK) << got.message;
    EXPECT_EQ(
        got.examples,
        (Examples{
            {"a, b", 1}, {"say \"hi\"", 0}, {"two\r\nlines\n", 1}, {"", 0}, {"", 1}, {"\"", 0}}));
}

TEST_F(Csv, ColumnsInAnyOrderOthersNoted) {
    Read got = read_content("a.csv", "id, Label ,stars,TEXT\n1,neg,3,dull\n2,pos,9,fine\n");
    ASSERT_EQ(got.result, STATUS_OK) << got.message;
    EXPECT_EQ(got.examples, (Examples{{"dull", 0}, {"fine", 1}}));
    EXPECT_TRUE(has(got.note, "not used: column id, column stars"));
}

TEST_F(Csv, LabelNamesAsFirstSeen) {
    Read got = read_content("a.csv", "text,label\na, Positive \nb,NEG\nc,1\nd,negative\n");
    ASSERT_EQ(got.result, STATUS_OK) << got.message;
    EXPECT_EQ(got.names[0], "NEG");
    EXPECT_EQ(got.names[1], "Positive");
}

TEST_F(Csv, TabsSeparateTsv) {
    Read got = read_content("a.tsv", "label\ttext\n1\tone, two\n0\t\"a\tb\"\n");
    ASSERT_EQ(got.result, STATUS_OK) << got.message;
    EXPECT_EQ(got.examples, (Examples{{"one, two", 1}, {"a\tb", 0}}));
    expect_bad("b.tsv", "text,label\nfine,1\n", 1, "tabs");
}

TEST_F(Csv, Refusals) {
    expect_bad("a.csv", "", 1, "empty");
    expect_bad("b.csv", "\n\n", 1, "empty");
    expect_bad("c.csv", "text,stars\nfine,1\n", 1, "no column \"label\"");
    expect_bad("d.csv", "review,label\nfine,1\n", 1, "no column \"text\"");
    expect_bad("e.csv", "text,label,Text\nfine,1,x\n", 1, "more than one column \"text\"");
    expect_bad("f.csv", "text,label\nfine,1\ndull,maybe\n", 3, "\"maybe\"");
    expect_bad("g.csv", "text,label\nfine,1\ndull,\n", 3, "the label is \"\"");
    expect_bad("h.csv", "text,label\nfine,1\na,b,0\n", 3, "3 fields:");
    expect_bad("i.csv", "text,label\nfine\ndull,0\n", 2, "1 field:");
    expect_bad("j.csv", "text,label\nfine,1\n\ndull,0\n", 3, "blank");
    expect_bad("k.csv", "text,label\nfine,1\n\"dull,0\nmore\n", 3, "never closed");
    expect_bad("l.csv", "text,label\nfine,1\n\"dull\" x,0\n", 3, "behind a closing quote");
    expect_bad("m.csv", "text,label\nfine,1\ndu\"ll,0\n", 3, "quote inside a field");
    expect_bad("n.csv", std::string("text,label\nfine,1\ndu\0ll,0\n", 26), 3, "NUL");
    expect_bad("o.csv", "text,label\n\"two\nlines\",1\nx,bad\n", 4, "\"bad\"");
    expect_bad("p.csv", "text,label\nfine,1\n\"two\nlines\",bad\n", 3, "\"bad\"");
}

TEST_F(Csv, EmptySetAndMissingClass) {
    Read got = read_content("a.csv", "text,label\n");
    EXPECT_EQ(got.result, STATUS_DATA);
    EXPECT_TRUE(has(got.message, "a.csv"));
    EXPECT_TRUE(has(got.message, "no example"));
    got = read_content("b.csv", "text,label\nfine,1\nbest,1\n");
    EXPECT_EQ(got.result, STATUS_DATA);
    EXPECT_TRUE(has(got.message, "no example of class 0"));
    got = read_content("c.csv", "text,label\ndull,neg\n");
    EXPECT_TRUE(has(got.message, "no example of class 1"));
}

TEST_F(Csv, ControlBytesOfDataAreEscapedInMessages) {
    Read got = read_content("a.csv", "text,label\nfine,\x1b[31m\n");
    EXPECT_EQ(got.result, STATUS_DATA);
    EXPECT_EQ(got.message.find('\x1b'), std::string::npos) << got.message;
}

TEST_F(Csv, QuotedFieldMayBeLongButNotEndless) {
    std::string megabytes;
    for (int i = 0; i < 3 << 20; i++) {
        megabytes += i % 80 == 79 ? '\n' : 'a';
    }
    Read got = read_content("a.csv", "text,label\nfine,1\n\"" + megabytes + "\",0\n");
    ASSERT_EQ(got.result, STATUS_OK) << got.message;
    EXPECT_EQ(got.examples.at(1).first, megabytes);
    std::string endless = "text,label\nfine,1\n\"";
    while (endless.size() < 17 << 20) {
        endless += megabytes;
    }
    expect_bad("b.csv", endless, 3, "16 MiB");
}

// ---- JSONL ----

TEST_F(Jsonl, LabelsAreNumbersOrWords) {
    Read got = read_content("a.jsonl", "{\"text\": \"fine\", \"label\": 1}\n"
                                       "{\"label\": \"NEG\", \"text\": \"dull\"}\r\n"
                                       "{\"text\": \"\\u00e9\\n\\\"\", \"label\": 1.0}\n"
                                       "{\"text\": \"\", \"label\": \"negative\"}");
    ASSERT_EQ(got.result, STATUS_OK) << got.message;
    EXPECT_EQ(got.examples, (Examples{{"fine", 1}, {"dull", 0}, {"\xC3\xA9\n\"", 1}, {"", 0}}));
    EXPECT_EQ(got.names[0], "NEG");
    EXPECT_EQ(got.names[1], "1");
    EXPECT_EQ(got.note, "");
}

TEST_F(Jsonl, OtherKeysAreNotedAndTrailingBlankLinesAllowed) {
    Read got = read_content("a.jsonl", "{\"id\": 1, \"text\": \"fine\", \"label\": 1}\n"
                                       "{\"text\": \"dull\", \"label\": 0, \"id\": 2}\n\n \n");
    ASSERT_EQ(got.result, STATUS_OK) << got.message;
    EXPECT_EQ(got.examples, two);
    EXPECT_TRUE(has(got.note, "not used: key id (2 entries)"));
}

TEST_F(Jsonl, Refusals) {
    const std::string good = "{\"text\": \"fine\", \"label\": 1}\n";
    expect_bad("a.jsonl", good + "{\"text\": \"dull\", \"label\": 0\n", 2, "invalid JSON");
    expect_bad("b.jsonl", good + "{\"text\": \"dull\"}\n", 2, "no key \"label\"");
    expect_bad("c.jsonl", good + "{\"label\": 0}\n", 2, "no key \"text\"");
    expect_bad("d.jsonl", good + "{\"text\": 7, \"label\": 0}\n", 2, "the text is a number");
    expect_bad("e.jsonl", good + "{\"text\": null, \"label\": 0}\n", 2, "the text is null");
    expect_bad("f.jsonl", good + "{\"text\": \"dull\", \"label\": 2}\n", 2, "the label is 2");
    expect_bad("g.jsonl", good + "{\"text\": \"dull\", \"label\": 0.5}\n", 2, "the label is 0.5");
    expect_bad("h.jsonl", good + "{\"text\": \"dull\", \"label\": false}\n", 2, "true or false");
    expect_bad("i.jsonl", good + "{\"text\": \"dull\", \"label\": \"bad\"}\n", 2, "\"bad\"");
    expect_bad("j.jsonl", good + "[\"dull\", 0]\n", 2, "an array");
    expect_bad("k.jsonl", good + "\n" + good, 2, "blank");
    expect_bad("l.jsonl", good + "{\"text\": \"du\\u0000ll\", \"label\": 0}\n", 2, "NUL");
    expect_bad("m.jsonl", good + std::string("{\"text\": \"du\0ll\", \"label\": 0}\n", 30), 2,
               "NUL");
    expect_bad("n.jsonl", good + "{\"text\": \"\xFF\xFE\", \"label\": 0}\n", 2, "invalid JSON");
    expect_bad("o.jsonl", good + "{\"text\": \"a\", \"text\": \"b\", \"label\": 0}\n", 2,
               "duplicate");
    expect_bad("p.jsonl", good + good.substr(0, good.size() - 1) + good, 2, "invalid JSON");
    expect_bad("q.jsonl", good + std::string(5000, '['), 2, "invalid JSON");
}

TEST_F(Jsonl, EmptySetAndMissingClass) {
    Read got = read_content("a.jsonl", "");
    EXPECT_EQ(got.result, STATUS_DATA);
    EXPECT_TRUE(has(got.message, "no example"));
    got = read_content("b.jsonl", "{\"text\": \"fine\", \"label\": 1}\n");
    EXPECT_EQ(got.result, STATUS_DATA);
    EXPECT_TRUE(has(got.message, "no example of class 0"));
}

// ---- lines: a file of one endless line that counts what is read of it ----

struct EndlessLine {
    uint64_t size = 100 << 20;
    uint64_t served = 0;
    file_table table = file_posix;

    EndlessLine() {
        table.context = this;
        table.stat = [](void *, const char *, file_stat *out) {
            *out = {};
            out->is_regular = true;
            return 0;
        };
        table.open = [](void *, const char *, int, unsigned) { return 1000; };
        table.close = [](void *, int) { return 0; };
        table.read = [](void *context, int, void *buffer, size_t bytes) -> ssize_t {
            auto *self = static_cast<EndlessLine *>(context);
            uint64_t got = std::min<uint64_t>(bytes, self->size - self->served);
            memset(buffer, 'a', got);
            self->served += got;
            return static_cast<ssize_t>(got);
        };
    }
};

TEST(Lines, HundredMegabyteLineIsRefusedAfterSixteen) {
    for (const char *path : {"x.csv", "x.tsv", "x.jsonl"}) {
        EndlessLine endless;
        Read got = read(path, DATASET_TRAIN, &endless.table);
        EXPECT_EQ(got.result, STATUS_DATA);
        EXPECT_TRUE(has(got.message, std::string(path) + ": line 1 "));
        EXPECT_TRUE(has(got.message, "16 MiB"));
        EXPECT_LE(endless.served, (16u << 20) + 2);
    }
}

TEST(Lines, LimitIsExact) {
    for (int beyond : {0, 1}) {
        EndlessLine endless;
        endless.size = static_cast<uint64_t>(LINES_BYTES_MAX) + static_cast<uint64_t>(beyond);
        lines lines;
        line line;
        error err = {};
        ASSERT_EQ(lines_open(&endless.table, "x", &lines, &err), STATUS_OK);
        EXPECT_EQ(lines_next(&lines, &line, &err), beyond == 0 ? STATUS_OK : STATUS_DATA);
        lines_close(&lines);
    }
}

// Serves a fixed content in pieces of every size.
struct Pieces {
    std::string content;
    size_t piece, served = 0;
    file_table table = file_posix;

    Pieces(std::string bytes, size_t piece_size) : content(std::move(bytes)), piece(piece_size) {
        table.context = this;
        table.read = [](void *context, int, void *buffer, size_t bytes) -> ssize_t {
            auto *self = static_cast<Pieces *>(context);
            size_t got = std::min({bytes, self->piece, self->content.size() - self->served});
            memcpy(buffer, self->content.data() + self->served, got);
            self->served += got;
            return static_cast<ssize_t>(got);
        };
    }
};

TEST(Lines, SameLinesHoweverTheBytesArrive) {
    const std::string content = "one\r\n\ntwo \r x\n\r\nlast";
    const std::vector<std::string> wanted = {"one", "", "two \r x", "", "last"};
    for (size_t piece = 1; piece <= content.size(); piece++) {
        Pieces pieces(content, piece);
        lines lines;
        ASSERT_EQ(lines_attach(&pieces.table, 0, "pieces", &lines, nullptr), STATUS_OK);
        for (size_t i = 0; i <= wanted.size(); i++) {
            line line;
            ASSERT_EQ(lines_next(&lines, &line, nullptr), STATUS_OK);
            if (i == wanted.size()) {
                EXPECT_EQ(line.bytes, nullptr);
                break;
            }
            ASSERT_NE(line.bytes, nullptr);
            EXPECT_EQ(std::string(line.bytes, line.size), wanted[i]) << "piece " << piece;
            EXPECT_EQ(line.number, i + 1);
        }
        lines_close(&lines);
    }
}

// ---- all kinds ----

TEST_F(DatasetTest, UnknownKindIsRefused) {
    Read got = read_content("a.parquet", "x");
    EXPECT_EQ(got.result, STATUS_DATA);
    EXPECT_TRUE(has(got.message, "a.parquet"));
    EXPECT_TRUE(has(got.message, "expected a folder"));
    EXPECT_EQ(read("").result, STATUS_USAGE);
}

TEST_F(DatasetTest, SingleFileHasNoTestPart) {
    Read got = read(file("a.csv", "text,label\nfine,1\ndull,0\n"), DATASET_TEST);
    EXPECT_EQ(got.result, STATUS_DATA);
    EXPECT_TRUE(has(got.message, "no test part"));
}

TEST_F(DatasetTest, CallbackEndsTheReading) {
    dataset *dataset;
    ASSERT_EQ(dataset_open(&file_posix, "demo", &dataset, nullptr), STATUS_OK);
    int calls = 0;
    auto refuse = [](void *context, const char *, size_t, unsigned, error *err) {
        return ++*static_cast<int *>(context) == 3 ? error_set(err, STATUS_MEMORY, "enough")
                                                   : STATUS_OK;
    };
    error err = {};
    EXPECT_EQ(dataset_read(dataset, DATASET_TRAIN, refuse, &calls, &err), STATUS_MEMORY);
    EXPECT_EQ(calls, 3);
    EXPECT_STREQ(err.message, "enough");
    dataset_close(dataset);
}

} // namespace
