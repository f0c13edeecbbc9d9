#include "tests/support/temporary_directory.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <sstream>

TemporaryDirectory::TemporaryDirectory() {
    const char *base = getenv("TMPDIR");
    path_ = std::string(base != nullptr ? base : "/tmp") + "/cairn-test-XXXXXX";
    if (mkdtemp(path_.data()) == nullptr) {
        ADD_FAILURE() << "cannot create " << path_;
    }
}

TemporaryDirectory::~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
}

void write_file(const std::string &path, const std::string &content) {
    std::ofstream out(path, std::ios::binary);
    out << content;
    out.close();
    if (!out) {
        ADD_FAILURE() << "cannot write " << path;
    }
}

std::string read_file(const std::string &path) {
    std::ifstream in(path, std::ios::binary);
    if (!in) {
        ADD_FAILURE() << "cannot read " << path;
        return "";
    }
    std::ostringstream content;
    content << in.rdbuf();
    return content.str();
}
