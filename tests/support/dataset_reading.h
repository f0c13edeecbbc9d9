// dataset_reading.h - verbs of the tests that read data sets: write a file, read it whole, look at
// what came out or at how it was refused.
#ifndef CAIRN_TESTS_SUPPORT_DATASET_READING_H
#define CAIRN_TESTS_SUPPORT_DATASET_READING_H

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "io/dataset.h"
#include "tests/support/temporary_directory.h"

using Examples = std::vector<std::pair<std::string, unsigned>>;

struct Read {
    status result = STATUS_OK;
    std::string message;
    Examples examples; // in base order
    std::string names[2];
    std::string note;
    bool has_test = false;
};

inline status collect_example(void *context, const char *text, size_t size, unsigned label,
                              error *) {
    static_cast<Examples *>(context)->emplace_back(std::string(text, size), label);
    return STATUS_OK;
}

inline Read read(const std::string &path, dataset_part part = DATASET_TRAIN,
                 const file_table *files = &file_posix) {
    Read read;
    error err = {};
    dataset *dataset = nullptr;
    Examples pushed;
    read.result = dataset_open(files, path.c_str(), &dataset, &err);
    if (read.result == STATUS_OK) {
        read.has_test = dataset_has_test(dataset);
        read.result = dataset_read(dataset, part, collect_example, &pushed, &err);
    }
    read.message = err.message;
    if (read.result == STATUS_OK) {
        const uint32_t *order;
        uint64_t count = dataset_base_order(dataset, &order);
        EXPECT_EQ(count, pushed.size());
        for (size_t i = 0; i < count; i++) {
            read.examples.push_back(pushed.at(order != nullptr ? order[i] : i));
        }
        read.names[0] = dataset_label_name(dataset, 0);
        read.names[1] = dataset_label_name(dataset, 1);
        read.note = dataset_note(dataset) != nullptr ? dataset_note(dataset) : "";
    }
    dataset_close(dataset);
    return read;
}

inline testing::AssertionResult has(const std::string &message, const std::string &part) {
    if (message.find(part) != std::string::npos) {
        return testing::AssertionSuccess() << message;
    }
    return testing::AssertionFailure() << "\"" << part << "\" is not in: " << message;
}

// ---- verbs ----

class DatasetTest : public testing::Test {
  protected:
    std::string file(const std::string &name, const std::string &content) {
        std::filesystem::create_directories(
            std::filesystem::path(directory.file(name)).parent_path());
        write_file(directory.file(name), content);
        return directory.file(name);
    }

    // The reading of a file with this content.
    Read read_content(const std::string &name, const std::string &content) {
        return read(file(name, content));
    }

    // It is refused as bad data: the message names the file, the line and what was expected.
    void expect_bad(const std::string &name, const std::string &content, unsigned line,
                    const std::string &part) {
        Read got = read_content(name, content);
        EXPECT_EQ(got.result, STATUS_DATA) << got.message;
        EXPECT_TRUE(has(got.message, directory.file(name)));
        EXPECT_TRUE(has(got.message, "line " + std::to_string(line)));
        EXPECT_TRUE(has(got.message, part));
        EXPECT_TRUE(has(got.message, "expected"));
    }

    std::string make_tree(const std::string &top) {
        file(top + "/train/pos/1.txt", "good one");
        file(top + "/train/neg/1.txt", "bad one");
        file(top + "/test/pos/7.txt", "good seven");
        file(top + "/test/neg/8.txt", "bad eight\n");
        return directory.file(top);
    }

    TemporaryDirectory directory;
};

#endif
