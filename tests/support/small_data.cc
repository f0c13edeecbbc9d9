#include "tests/support/small_data.h"

#include <filesystem>

#include "tests/support/process.h"
#include "tests/support/temporary_directory.h"
#include "gtest/gtest.h"

namespace {

const char *const kWords[] = {"the",   "a",     "film", "story", "actor", "and",   "with", "of",
                              "scene", "music", "very", "long",  "in",    "it",    "was",  "is",
                              "one",   "more",  "time", "place", "never", "again", "to",   "by"};
const char *const kLeaning[2][4] = {{"dull", "awful", "weak", "bad"},
                                    {"bright", "fine", "strong", "good"}};

// Steele, Lea and Flood 2014 (SplitMix64).
uint64_t next(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

} // namespace

std::vector<Example> small_examples(size_t count, uint64_t seed, size_t longest) {
    std::vector<Example> examples;
    uint64_t state = seed;
    for (size_t i = 0; i < count; i++) {
        const int label = static_cast<int>(i % 2);
        const size_t words = 1 + next(&state) % longest;
        std::string text;
        for (size_t w = 0; w < words; w++) {
            const uint64_t draw = next(&state);
            // One word in four leans, and three of four of those lean to the right side.
            const bool leans = draw % 4 == 0;
            const int side = (draw >> 8) % 4 == 0 ? 1 - label : label;
            text += (w == 0 ? "" : " ");
            text += leans ? kLeaning[side][(draw >> 16) % 4] : kWords[(draw >> 16) % 24];
        }
        examples.push_back({text, label});
    }
    return examples;
}

void write_jsonl(const std::string &path, const std::vector<Example> &examples) {
    std::string content;
    for (const Example &example : examples) {
        content += "{\"text\": \"" + example.text +
                   "\", \"label\": " + std::to_string(example.label) + "}\n";
    }
    write_file(path, content);
}

void write_csv(const std::string &path, const std::vector<Example> &examples) {
    std::string content = "text,label\r\n";
    for (const Example &example : examples) {
        content += "\"" + example.text + "\"," + std::to_string(example.label) + "\r\n";
    }
    write_file(path, content);
}

void write_tsv(const std::string &path, const std::vector<Example> &examples) {
    std::string content = "text\tlabel\n";
    for (const Example &example : examples) {
        content += example.text + "\t" + std::to_string(example.label) + "\n";
    }
    write_file(path, content);
}

void write_folder(const std::string &path, const std::vector<Example> &train,
                  const std::vector<Example> &test) {
    const struct {
        const char *name;
        const std::vector<Example> &examples;
    } parts[] = {{"train", train}, {"test", test}};
    for (const auto &part : parts) {
        for (const char *label : {"neg", "pos"}) {
            std::filesystem::create_directories(path + "/" + part.name + "/" + label);
        }
        for (size_t i = 0; i < part.examples.size(); i++) {
            const char *label = part.examples[i].label != 0 ? "pos" : "neg";
            write_file(path + "/" + part.name + "/" + label + "/" + std::to_string(i) + ".txt",
                       part.examples[i].text);
        }
    }
}

void write_archive(const std::string &path, const std::string &folder) {
    Outcome outcome =
        run({.program = "tar", .arguments = {"-C", folder, "-caf", path, "train", "test"}});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
}
