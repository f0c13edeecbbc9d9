// small_data.h - little labelled data sets for tests that start the program, in every form it
// reads.
//
// Texts are drawn from a fixed list of words; a few of them lean to one class, so that training has
// something to learn. The same arguments give the same texts.
#ifndef CAIRN_TESTS_SUPPORT_SMALL_DATA_H
#define CAIRN_TESTS_SUPPORT_SMALL_DATA_H

#include <cstdint>
#include <string>
#include <vector>

struct Example {
    std::string text;
    int label;
};

// `count` texts of 1 to `longest` words; classes alternate.
std::vector<Example> small_examples(size_t count, uint64_t seed, size_t longest = 24);

void write_jsonl(const std::string &path, const std::vector<Example> &examples);
void write_csv(const std::string &path, const std::vector<Example> &examples);
void write_tsv(const std::string &path, const std::vector<Example> &examples);
// path/{train,test}/{pos,neg}/<n>.txt
void write_folder(const std::string &path, const std::vector<Example> &train,
                  const std::vector<Example> &test);
// A .tar, .tar.gz or .tar.zst (by its name) of a folder, made by tar(1).
void write_archive(const std::string &path, const std::string &folder);

#endif
