// The golden text cases, made with Keras' TextVectorization: vocabulary and ids must be equal.
#include <gtest/gtest.h>
#include <jansson.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "host/tokenizer.h"

namespace {

std::string golden_directory() {
    const char *directory = getenv("CAIRN_GOLDEN_DIR");
    return directory != nullptr ? directory : CAIRN_SOURCE_DIR "/../shared/golden";
}

std::string string_of(const json_t *value) {
    return std::string(json_string_value(value), json_string_length(value));
}

std::vector<std::string> strings_of(const json_t *array) {
    std::vector<std::string> strings;
    for (size_t i = 0; i < json_array_size(array); i++) {
        strings.push_back(string_of(json_array_get(array, i)));
    }
    return strings;
}

struct Vectorizer {
    tokenizer words;
    vocabulary *entries = nullptr;

    Vectorizer() { tokenizer_init(&words, false); }
    ~Vectorizer() {
        tokenizer_deinit(&words);
        vocabulary_free(entries);
    }

    void adapt(const std::vector<std::string> &documents, uint64_t limit) {
        vocabulary_builder *builder;
        ASSERT_EQ(vocabulary_builder_create(&builder, nullptr), STATUS_OK);
        for (const std::string &document : documents) {
            ASSERT_EQ(tokenizer_start(&words, document.data(), document.size(), nullptr),
                      STATUS_OK);
            token word;
            while (tokenizer_next(&words, &word)) {
                ASSERT_NE(vocabulary_builder_add(builder, word.bytes, word.size, true), UINT32_MAX);
            }
        }
        ASSERT_EQ(vocabulary_builder_finish(builder, limit, &entries, nullptr, nullptr), STATUS_OK);
        vocabulary_builder_free(builder);
    }

    std::vector<json_int_t> ids(const std::string &document) {
        std::vector<json_int_t> ids;
        EXPECT_EQ(tokenizer_start(&words, document.data(), document.size(), nullptr), STATUS_OK);
        token word;
        while (tokenizer_next(&words, &word)) {
            ids.push_back(vocabulary_lookup(entries, word.bytes, word.size));
        }
        return ids;
    }
};

// Ids as Keras returns them: cut, then padded with 0 at the end, which ragged sequences are not.
void expect_ids(Vectorizer &vectorizer, const std::vector<std::string> &documents,
                const json_t *golden) {
    ASSERT_EQ(json_array_size(golden), documents.size());
    for (size_t i = 0; i < documents.size(); i++) {
        const json_t *row = json_array_get(golden, i);
        std::vector<json_int_t> wanted;
        for (size_t j = 0; j < json_array_size(row); j++) {
            wanted.push_back(json_integer_value(json_array_get(row, j)));
        }
        std::vector<json_int_t> got = vectorizer.ids(documents[i]);
        got.resize(wanted.size(), VOCABULARY_PADDING_ID);
        EXPECT_EQ(got, wanted) << "document " << i;
    }
}

void check_case(const json_t *root) {
    std::vector<std::string> documents = strings_of(json_object_get(root, "documents"));
    std::vector<std::string> wanted = strings_of(json_object_get(root, "vocabulary"));
    json_int_t limit = json_integer_value(json_object_get(root, "max_tokens")); // 0 for null
    Vectorizer vectorizer;
    vectorizer.adapt(documents, static_cast<uint64_t>(limit));
    ASSERT_NE(vectorizer.entries, nullptr);
    std::vector<std::string> got;
    for (uint32_t id = 0; id < vocabulary_size(vectorizer.entries); id++) {
        token entry = vocabulary_entry(vectorizer.entries, id);
        got.emplace_back(entry.bytes, entry.size);
    }
    EXPECT_EQ(got, wanted);
    expect_ids(vectorizer, documents, json_object_get(root, "ids"));
}

TEST(Text, EqualsKerasTextVectorization) {
    std::string path = golden_directory() + "/text.jsonl";
    if (!std::filesystem::exists(golden_directory())) {
        GTEST_SKIP() << "no golden cases: " << golden_directory() << " does not exist";
    }
    std::ifstream file(path);
    ASSERT_TRUE(file) << path;
    int cases = 0;
    for (std::string line; std::getline(file, line); cases++) {
        SCOPED_TRACE(path + " line " + std::to_string(cases + 1));
        json_t *root = json_loads(line.c_str(), JSON_ALLOW_NUL, nullptr);
        ASSERT_NE(root, nullptr);
        check_case(root);
        json_decref(root);
    }
    ASSERT_GT(cases, 0) << path << " holds no case";
    RecordProperty("cases", cases);
    printf("%d cases\n", cases);
}

} // namespace
