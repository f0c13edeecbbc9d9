// A fuzz target without a fuzzer: runs it on files, and on all files in directories.
//
//     fuzz_replay_checkpoint DIRECTORY_OR_FILE...
//
// Ends as the target ends: a crash, an abort, a sanitizer's report; 1 when there was nothing to
// run.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>

#include "tests/fuzz/fuzz.h"

namespace {

namespace fs = std::filesystem;

void replay(const fs::path &path) {
    std::ifstream file(path, std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(file)),
                            std::istreambuf_iterator<char>());
    // Memory of exactly that size, so that the address sanitizer sees a read behind its end.
    const std::unique_ptr<uint8_t[]> copy(new uint8_t[bytes.size()]);
    std::copy(bytes.begin(), bytes.end(), copy.get());
    fprintf(stderr, "%s\n", path.c_str());
    LLVMFuzzerTestOneInput(copy.get(), bytes.size());
}

} // namespace

int main(int argc, char **argv) {
    size_t count = 0;
    for (int i = 1; i < argc; i++) {
        if (fs::is_regular_file(argv[i])) {
            replay(argv[i]);
            count++;
        } else if (fs::is_directory(argv[i])) {
            for (const fs::directory_entry &entry : fs::directory_iterator(argv[i])) {
                replay(entry.path());
                count++;
            }
        }
    }
    printf("%zu inputs\n", count);
    return count > 0 ? 0 : 1;
}
