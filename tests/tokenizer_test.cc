// Tokenizer and vocabulary against a slow reference written here from the rules, and the
// vocabulary's files.
#include "host/tokenizer.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/temporary_directory.h"

namespace {

using Strings = std::vector<std::string>;

// ---- the reference: one rule after the other, each over the whole string ----

const std::string punctuation = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";
const std::string white_space = " \t\n\v\f\r";

std::string reference_strip_html(const std::string &text) {
    const std::string tag_starts = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ/!";
    std::string out;
    for (size_t i = 0; i < text.size(); i++) {
        if (text[i] == '<' && i + 1 < text.size() &&
            tag_starts.find(text[i + 1]) != std::string::npos &&
            text.find('>', i) != std::string::npos) {
            i = text.find('>', i);
            out += ' ';
        } else {
            out += text[i];
        }
    }
    return out;
}

Strings reference_tokens(std::string text, bool strip_html) {
    if (strip_html) {
        text = reference_strip_html(text);
    }
    for (char upper = 'A'; upper <= 'Z'; upper++) {
        std::replace(text.begin(), text.end(), upper, static_cast<char>(upper + 32));
    }
    text.erase(std::remove_if(text.begin(), text.end(),
                              [](char c) { return punctuation.find(c) != std::string::npos; }),
               text.end());
    Strings tokens;
    std::string token;
    for (char c : text + " ") {
        if (white_space.find(c) == std::string::npos) {
            token += c;
        } else if (!token.empty()) {
            tokens.push_back(std::exchange(token, ""));
        }
    }
    return tokens;
}

Strings reference_vocabulary(const Strings &tokens, size_t limit) {
    std::map<std::string, int> counts;
    for (const std::string &token : tokens) {
        counts[token]++;
    }
    counts.erase("[UNK]");
    std::vector<std::pair<int, std::string>> order;
    for (const auto &[token, count] : counts) {
        order.emplace_back(count, token);
    }
    std::sort(order.rbegin(), order.rend()); // count, then bytes, both descending
    Strings entries = {"", "[UNK]"};
    for (const auto &[count, token] : order) {
        if (limit == 0 || entries.size() < limit) {
            entries.push_back(token);
        }
    }
    return entries;
}

// ---- verbs over the code under test ----

Strings tokens_of(tokenizer *words, const std::string &text) {
    Strings tokens;
    EXPECT_EQ(tokenizer_start(words, text.data(), text.size(), nullptr), STATUS_OK);
    token word;
    while (tokenizer_next(words, &word)) {
        tokens.emplace_back(word.bytes, word.size);
    }
    return tokens;
}

Strings tokens_of(const std::string &text, bool strip_html = false) {
    tokenizer words;
    tokenizer_init(&words, strip_html);
    Strings tokens = tokens_of(&words, text);
    tokenizer_deinit(&words);
    return tokens;
}

Strings entries_of(const vocabulary *vocabulary) {
    Strings entries;
    for (uint32_t id = 0; id < vocabulary_size(vocabulary); id++) {
        token entry = vocabulary_entry(vocabulary, id);
        entries.emplace_back(entry.bytes, entry.size);
    }
    return entries;
}

struct Learned {
    Strings entries;
    std::map<std::string, uint32_t> final_ids; // through provisional id and remap
};

Learned learn(const Strings &counted, uint64_t limit, const Strings &uncounted = {}) {
    Learned learned;
    vocabulary_builder *builder;
    EXPECT_EQ(vocabulary_builder_create(&builder, nullptr), STATUS_OK);
    std::map<std::string, uint32_t> provisional;
    for (const Strings *tokens : {&counted, &uncounted}) {
        for (const std::string &token : *tokens) {
            uint32_t next = vocabulary_builder_tokens(builder);
            uint32_t id =
                vocabulary_builder_add(builder, token.data(), token.size(), tokens == &counted);
            EXPECT_EQ(id, provisional.emplace(token, next).first->second);
        }
    }
    vocabulary *vocabulary;
    uint32_t *remap;
    EXPECT_EQ(vocabulary_builder_finish(builder, limit, &vocabulary, &remap, nullptr), STATUS_OK);
    for (const auto &[token, id] : provisional) {
        learned.final_ids[token] = remap[id];
        EXPECT_EQ(vocabulary_lookup(vocabulary, token.data(), token.size()), remap[id]) << token;
    }
    learned.entries = entries_of(vocabulary);
    free(remap);
    vocabulary_free(vocabulary);
    vocabulary_builder_free(builder);
    return learned;
}

Strings parse(const std::string &text) {
    vocabulary *vocabulary;
    error err = {};
    if (vocabulary_parse(text.data(), text.size(), "words.txt", &vocabulary, &err) != STATUS_OK) {
        ADD_FAILURE() << err.message;
        return {};
    }
    Strings entries = entries_of(vocabulary);
    vocabulary_free(vocabulary);
    return entries;
}

// The message of the refusal, which must be STATUS_DATA.
std::string refusal(const std::string &text) {
    vocabulary *vocabulary;
    error err = {};
    EXPECT_EQ(vocabulary_parse(text.data(), text.size(), "words.txt", &vocabulary, &err),
              STATUS_DATA);
    EXPECT_EQ(err.status, STATUS_DATA);
    return err.message;
}

testing::AssertionResult has(const std::string &message, const std::string &part) {
    if (message.find(part) != std::string::npos) {
        return testing::AssertionSuccess() << message;
    }
    return testing::AssertionFailure() << "\"" << part << "\" is not in: " << message;
}

std::string random_text(std::mt19937 &random, size_t size) {
    // Half of the bytes from a small alphabet, so that tags, words and repetitions appear.
    const std::string likely = "<>/!ab AB \n.,'";
    std::string text;
    while (text.size() < size) {
        text += random() % 2 == 0 ? static_cast<char>(random() % 256)
                                  : likely[random() % likely.size()];
    }
    return text;
}

// ---- tokens ----

TEST(Tokenizer, EveryByteByItself) {
    for (int byte = 0; byte < 256; byte++) {
        std::string text = std::string("a") + static_cast<char>(byte) + "b";
        EXPECT_EQ(tokens_of(text), reference_tokens(text, false)) << "byte " << byte;
    }
}

TEST(Tokenizer, RulesByExample) {
    EXPECT_EQ(tokens_of("Well-made, it's GREAT!<br /><br />The End"),
              (Strings{"wellmade", "its", "greatbr", "br", "the", "end"}));
    EXPECT_EQ(tokens_of("\xC3\x89T\xC3\x89\xC2\xA0\xE2\x80\x9Cx\xE2\x80\x9D"),
              (Strings{"\xC3\x89t\xC3\x89\xC2\xA0\xE2\x80\x9Cx\xE2\x80\x9D"}));
    EXPECT_EQ(tokens_of(" ... \t!? \n"), Strings());
    EXPECT_EQ(tokens_of(""), Strings());
}

TEST(Tokenizer, EqualsReferenceOnRandomBytes) {
    std::mt19937 random(7);
    for (bool strip_html : {false, true}) {
        tokenizer words;
        tokenizer_init(&words, strip_html);
        for (int i = 0; i < 4000; i++) {
            std::string text = random_text(random, random() % 200);
            ASSERT_EQ(tokens_of(&words, text), reference_tokens(text, strip_html))
                << testing::PrintToString(text);
        }
        tokenizer_deinit(&words);
    }
}

// The text is cleaned stride by stride: words, deleted bytes and white space lie across the seams.
TEST(Tokenizer, WordsMayCrossStrides) {
    const size_t stride = TOKENIZER_STRIDE;
    std::mt19937 random(11);
    for (bool strip_html : {false, true}) {
        tokenizer words;
        tokenizer_init(&words, strip_html);
        for (size_t size : {stride - 1, stride, stride + 1, 2 * stride, 9 * stride + 5}) {
            for (int i = 0; i < 20; i++) {
                std::string text = random_text(random, size);
                ASSERT_EQ(tokens_of(&words, text), reference_tokens(text, strip_html));
            }
            for (const char *end : {"", " ", "!", " !", "! b"}) {
                std::string text = std::string(size, 'a') + end;
                ASSERT_EQ(tokens_of(&words, text), reference_tokens(text, strip_html)) << end;
                text = std::string(size, ' ') + end;
                ASSERT_EQ(tokens_of(&words, text), reference_tokens(text, strip_html)) << end;
            }
        }
        tokenizer_deinit(&words);
    }
}

TEST(Tokenizer, StripHtmlTakesTagsOnly) {
    EXPECT_EQ(tokens_of("great!<br /><br />The <B class='x'>end</b><!-- no -->.", true),
              (Strings{"great", "the", "end"}));
    EXPECT_EQ(tokens_of("1 <2 and <3>, a<b", true), (Strings{"1", "2", "and", "3", "ab"}));
    EXPECT_EQ(tokens_of("one<br", true), (Strings{"onebr"}));
    EXPECT_EQ(tokens_of("one<br />two", false), (Strings{"onebr", "two"}));
}

// A search for '>' behind every '<' would take minutes here.
TEST(Tokenizer, StripHtmlIsLinear) {
    std::string text;
    for (int i = 0; i < 2000000; i++) {
        text += "<a";
    }
    Strings tokens = tokens_of(text, true);
    ASSERT_EQ(tokens.size(), 1u);
    EXPECT_EQ(tokens[0], std::string(2000000, 'a'));
}

// ---- learning ----

TEST(Vocabulary, EqualsReferenceOnRandomTokens) {
    std::mt19937 random(11);
    for (int round = 0; round < 60; round++) {
        Strings tokens;
        size_t count = random() % 3000, kinds = 1 + random() % 2000;
        for (size_t i = 0; i < count; i++) {
            std::string token = "w" + std::to_string(random() % kinds);
            token[0] = static_cast<char>(random() % 3 == 0 ? 0xE9 : 'a'); // bytes are unsigned
            tokens.push_back(token);
        }
        size_t limit = round % 4 == 0 ? 0 : 2 + random() % 1500;
        Strings wanted = reference_vocabulary(tokens, limit);
        Learned learned = learn(tokens, limit);
        ASSERT_EQ(learned.entries, wanted) << "limit " << limit;
        for (const auto &[token, id] : learned.final_ids) {
            auto at = std::find(wanted.begin(), wanted.end(), token);
            ASSERT_EQ(id, at == wanted.end() ? 1u : static_cast<uint32_t>(at - wanted.begin()));
        }
    }
}

TEST(Vocabulary, TiesGoByBytesDescending) {
    EXPECT_EQ(learn({"a", "z", "ab", "m", "z"}, 0).entries,
              (Strings{"", "[UNK]", "z", "m", "ab", "a"}));
    EXPECT_EQ(learn({"a", "\xC3\xA9", "z"}, 4).entries, (Strings{"", "[UNK]", "\xC3\xA9", "z"}));
}

TEST(Vocabulary, LimitCountsTheSpecialEntries) {
    Strings tokens = {"a", "a", "b"};
    EXPECT_EQ(learn(tokens, 2).entries, (Strings{"", "[UNK]"}));
    EXPECT_EQ(learn(tokens, 3).entries, (Strings{"", "[UNK]", "a"}));
    EXPECT_EQ(learn(tokens, 100).entries, (Strings{"", "[UNK]", "a", "b"}));
    EXPECT_EQ(learn({}, 0).entries, (Strings{"", "[UNK]"}));
}

TEST(Vocabulary, SpecialTokensAndUncountedOnesDoNotEnter) {
    Strings counted = {"[UNK]", "[UNK]", "[UNK]", "a"};
    Learned learned = learn(counted, 0, {"b", "b", "a"});
    EXPECT_EQ(learned.entries, (Strings{"", "[UNK]", "a"}));
    EXPECT_EQ(learned.final_ids["b"], 1u);
    EXPECT_EQ(learned.final_ids["[UNK]"], 1u);
}

TEST(Vocabulary, CountingLaterIsCountingAtOnce) {
    vocabulary_builder *builder;
    ASSERT_EQ(vocabulary_builder_create(&builder, nullptr), STATUS_OK);
    uint32_t a = vocabulary_builder_add(builder, "a", 1, false);
    uint32_t b = vocabulary_builder_add(builder, "b", 1, false);
    vocabulary_builder_add(builder, "c", 1, false);
    vocabulary_builder_count(builder, a);
    vocabulary_builder_count(builder, b);
    vocabulary_builder_count(builder, a);
    vocabulary *vocabulary;
    ASSERT_EQ(vocabulary_builder_finish(builder, 0, &vocabulary, nullptr, nullptr), STATUS_OK);
    EXPECT_EQ(entries_of(vocabulary), (Strings{"", "[UNK]", "a", "b"}));
    vocabulary_free(vocabulary);
    vocabulary_builder_free(builder);
}

// ---- files ----

TEST(Vocabulary, TextParsesBackToItself) {
    vocabulary_builder *builder;
    ASSERT_EQ(vocabulary_builder_create(&builder, nullptr), STATUS_OK);
    std::mt19937 random(3);
    for (int i = 0; i < 3000; i++) {
        for (const std::string &token : reference_tokens(random_text(random, 40), false)) {
            if (token.find('\0') == std::string::npos) { // no text holds one
                vocabulary_builder_add(builder, token.data(), token.size(), true);
            }
        }
    }
    vocabulary *vocabulary;
    ASSERT_EQ(vocabulary_builder_finish(builder, 0, &vocabulary, nullptr, nullptr), STATUS_OK);
    size_t size;
    const char *text = vocabulary_text(vocabulary, &size);
    EXPECT_EQ(std::string(text, 7), "\n[UNK]\n");
    EXPECT_GT(vocabulary_size(vocabulary), 2000u);
    EXPECT_EQ(parse(std::string(text, size)), entries_of(vocabulary));
    vocabulary_free(vocabulary);
    vocabulary_builder_free(builder);
}

TEST(Vocabulary, ParseAcceptsWhatPeopleHave) {
    Strings wanted = {"", "[UNK]", "the", "a"};
    EXPECT_EQ(parse("\n[UNK]\nthe\na\n"), wanted);
    EXPECT_EQ(parse("\n[UNK]\nthe\na"), wanted); // the last newline is missing
    EXPECT_EQ(parse("\r\n[UNK]\r\nthe\r\na\r\n"), wanted);
    EXPECT_EQ(parse("the\na\n"), wanted); // without special entries
    EXPECT_EQ(parse("\n[UNK]\n"), (Strings{"", "[UNK]"}));
}

TEST(Vocabulary, ParseRefusesWithNameAndLine) {
    EXPECT_TRUE(has(refusal("\n[UNK]\nthe\na\nthe\n"), "words.txt: line 5"));
    EXPECT_TRUE(has(refusal("\n[UNK]\nthe\na\nthe\n"), "\"the\""));
    EXPECT_TRUE(has(refusal("the\n\na\n"), "words.txt: line 2 is empty"));
    EXPECT_TRUE(has(refusal("the\na\n\n"), "line 3 is empty"));
    EXPECT_TRUE(has(refusal("\nthe\n"), "line 1 is empty"));
    EXPECT_TRUE(has(refusal("the\n[UNK]\n"), "line 2"));
    EXPECT_TRUE(has(refusal(std::string("the\na\0b\n", 8)), "line 2 holds a NUL"));
    // Written with LF and read again, "a\r" would be "a".
    EXPECT_TRUE(has(refusal("the\na\r\r\nb\n"), "line 2 holds a carriage return"));
    EXPECT_TRUE(has(refusal(""), "words.txt is empty"));
    EXPECT_FALSE(has(refusal("a\x1b[31m\na\x1b[31m\n"), "\x1b"));
}

TEST(Vocabulary, LoadReadsAFile) {
    TemporaryDirectory directory;
    write_file(directory.file("v.txt"), "\xEF\xBB\xBF\r\n[UNK]\r\nthe\r\nfilm");
    vocabulary *vocabulary;
    ASSERT_EQ(vocabulary_load(&file_posix, directory.file("v.txt").c_str(), &vocabulary, nullptr),
              STATUS_OK);
    EXPECT_EQ(entries_of(vocabulary), (Strings{"", "[UNK]", "the", "film"}));
    vocabulary_free(vocabulary);
    error err = {};
    EXPECT_EQ(vocabulary_load(&file_posix, directory.file("none.txt").c_str(), &vocabulary, &err),
              STATUS_INPUT);
    EXPECT_TRUE(has(err.message, "none.txt"));
}

} // namespace
