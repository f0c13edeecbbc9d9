// The texts that predict and tokenize read: one text in, one text out, errors with their line.
#include "host/texts.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "host/base/stop.h"
#include "tests/support/temporary_directory.h"

namespace {

struct Read {
    status result;
    std::string message;
    std::vector<std::string> texts;
};

Read drain(texts *texts) {
    Read read = {};
    error err = {};
    text_item item = {};
    while ((read.result = texts_next(texts, &item, &err)) == STATUS_OK && item.bytes != nullptr) {
        read.texts.emplace_back(item.bytes, item.size);
    }
    read.message = err.message;
    return read;
}

Read read_content(const std::string &content, input_format format) {
    TemporaryDirectory directory;
    std::string path = directory.file("in");
    write_file(path, content);
    texts texts;
    error err = {};
    EXPECT_EQ(texts_open(&file_posix, path.c_str(), format, &texts, &err), STATUS_OK)
        << err.message;
    Read read = drain(&texts);
    texts_close(&texts);
    return read;
}

using Strings = std::vector<std::string>;

TEST(Texts, EveryLineIsAText) {
    EXPECT_EQ(read_content("one\n\ntwo, \"x\"\r\n{\"text\": 1}\nlast", INPUT_LINES).texts,
              (Strings{"one", "", "two, \"x\"", "{\"text\": 1}", "last"}));
    EXPECT_EQ(read_content("", INPUT_LINES).texts, Strings());
    EXPECT_EQ(read_content("\n", INPUT_LINES).texts, Strings{""});
}

TEST(Texts, JsonLinesAreObjectsOrStrings) {
    Read read = read_content(
        "{\"text\": \"a\\nb\", \"label\": 1}\n\"c\\u00e9\"\n{\"text\": \"\"}\n\n", INPUT_JSONL);
    EXPECT_EQ(read.result, STATUS_OK) << read.message;
    EXPECT_EQ(read.texts, (Strings{"a\nb", "c\xC3\xA9", ""}));
}

TEST(Texts, BadLinesAreNamed) {
    struct {
        std::string content;
        input_format format;
        const char *part;
    } const cases[] = {
        {std::string("a\nb\0c\n", 6), INPUT_LINES, "NUL"},
        {"a\n" + std::string((16 << 20) + 1, 'a'), INPUT_LINES, "16 MiB"},
        {"\"a\"\nnot json\n", INPUT_JSONL, "invalid JSON"},
        {"\"a\"\n{\"txt\": \"b\"}\n", INPUT_JSONL, "no key \"text\""},
        {"\"a\"\n{\"text\": 7}\n", INPUT_JSONL, "the text is a number"},
        {"\"a\"\n[\"b\"]\n", INPUT_JSONL, "an array"},
        {"\"a\"\n\n\"b\"\n", INPUT_JSONL, "blank"},
        {"\"a\"\n\"\\u0000\"\n", INPUT_JSONL, "NUL"},
    };
    for (const auto &bad : cases) {
        Read read = read_content(bad.content, bad.format);
        EXPECT_EQ(read.result, STATUS_DATA) << bad.part;
        EXPECT_EQ(read.texts.size(), 1u) << bad.part; // what came before was handed out
        EXPECT_NE(read.message.find("in: line 2"), std::string::npos) << read.message;
        EXPECT_NE(read.message.find(bad.part), std::string::npos) << read.message;
        EXPECT_NE(read.message.find("expected"), std::string::npos) << read.message;
    }
}

TEST(Texts, MissingFile) {
    texts texts;
    error err = {};
    EXPECT_EQ(texts_open(&file_posix, "/nonexistent/in", INPUT_LINES, &texts, &err), STATUS_INPUT);
    EXPECT_NE(std::string(err.message).find("/nonexistent/in"), std::string::npos);
    texts_close(&texts);
}

// Standard input replaced by a pipe for the life of the object.
class PipedInput {
  public:
    PipedInput() : saved_(dup(STDIN_FILENO)) {
        int ends[2];
        EXPECT_EQ(pipe(ends), 0);
        EXPECT_EQ(dup2(ends[0], STDIN_FILENO), STDIN_FILENO);
        close(ends[0]);
        feed_ = ends[1];
    }
    ~PipedInput() {
        finish();
        dup2(saved_, STDIN_FILENO);
        close(saved_);
    }
    void feed(const char *bytes) {
        EXPECT_EQ(write(feed_, bytes, strlen(bytes)), static_cast<ssize_t>(strlen(bytes)));
    }
    void finish() {
        if (feed_ >= 0) {
            close(feed_);
            feed_ = -1;
        }
    }

  private:
    int saved_, feed_ = -1;
};

// A caller that feeds line by line gets each text before it sends the next one.
TEST(Texts, StandardInputIsReadAsItArrives) {
    PipedInput input;
    texts texts;
    ASSERT_EQ(texts_open(&file_posix, "-", INPUT_LINES, &texts, nullptr), STATUS_OK);
    EXPECT_TRUE(texts_would_wait(&texts));
    input.feed("one\ntwo\nthr");
    text_item item;
    ASSERT_EQ(texts_next(&texts, &item, nullptr), STATUS_OK);
    EXPECT_EQ(std::string(item.bytes, item.size), "one");
    EXPECT_FALSE(texts_would_wait(&texts));
    ASSERT_EQ(texts_next(&texts, &item, nullptr), STATUS_OK);
    EXPECT_EQ(std::string(item.bytes, item.size), "two");
    EXPECT_TRUE(texts_would_wait(&texts));
    input.feed("ee");
    input.finish();
    EXPECT_EQ(drain(&texts).texts, Strings{"three"});
    texts_close(&texts);
}

// Without a poll this would hang: the pipe stays open and empty.
TEST(Texts, StopSignalEndsTheWaitForInput) {
    PipedInput input;
    texts texts;
    ASSERT_EQ(texts_open(&file_posix, "", INPUT_LINES, &texts, nullptr), STATUS_OK);
    stop_raise(SIGINT);
    text_item item;
    EXPECT_EQ(texts_next(&texts, &item, nullptr), STATUS_STOPPED);
    stop_reset();
    texts_close(&texts);
}

} // namespace
