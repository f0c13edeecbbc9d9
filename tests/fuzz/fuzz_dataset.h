// fuzz_dataset.h - one data file, read in pieces of two sizes, and what came out of it read once
// more.
#ifndef CAIRN_TESTS_FUZZ_FUZZ_DATASET_H
#define CAIRN_TESTS_FUZZ_FUZZ_DATASET_H

#include <string>
#include <utility>
#include <vector>

#include "io/dataset.h"

struct DatasetRead {
    enum status status = STATUS_OK;
    std::string message;
    std::vector<std::pair<std::string, unsigned>> examples;
};

// Read `bytes` as a file of that name.
DatasetRead fuzz_read_dataset(const std::string &name, const std::string &bytes, size_t piece);

// The whole target: pieces of one byte and of many give the same; what was accepted is written
// by `write` and must be read back the same.
void fuzz_dataset(const std::string &name, const std::string &bytes,
                  std::string (*write)(const DatasetRead &));

#endif
