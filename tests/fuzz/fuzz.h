// fuzz.h - what every fuzz target shares.
//
// A target is one file with LLVMFuzzerTestOneInput: libFuzzer calls it with millions of inputs
// (-DCAIRN_FUZZ=ON, tests/fuzz/run.sh), replay_main.cc with the stored ones and with the seeds,
// in the ordinary suite. A target asks for more than "does not crash": what was accepted must
// survive being written and read again, what was refused must be refused with a reason.
#ifndef CAIRN_TESTS_FUZZ_FUZZ_H
#define CAIRN_TESTS_FUZZ_FUZZ_H

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "io/file.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

// Ends the process with the place when `condition` does not hold, in every kind of build.
#define FUZZ_CHECK(condition, ...)                                                                 \
    fuzz_check((condition), #condition, __FILE__, __LINE__, ##__VA_ARGS__)
void fuzz_check(bool condition, const char *text, const char *file, int line,
                const std::string &detail = "");

// A refusal says why, in printable bytes, and with one of the statuses that the header promises.
void fuzz_check_refusal(enum status status, const struct error &err,
                        const std::vector<enum status> &promised);

// A file table that holds one file and hands it out in pieces of `piece` bytes.
class OneFile {
  public:
    static constexpr int kDescriptor = 3;
    OneFile(std::string path, std::string bytes, size_t piece);
    const struct file_table *table() const { return &table_; }

  private:
    friend struct OneFileCalls;
    std::string path_, bytes_;
    size_t piece_, at_ = 0;
    struct file_table table_;
};

#endif
