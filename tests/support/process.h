// process.h - the real binary (or another program) as a child process: start it, wait for what it
// writes, send it signals, read what it said.
//
// Output goes to files, so that a child never blocks on a full pipe and the text can be read while
// it runs. A child that is still alive when its object dies is killed, and so is one whose test
// was.
//
//     Process train({.arguments = {"train", "--data", "demo", "--model-dir", dir.file("m")}});
//     ASSERT_TRUE(train.wait_for([&] { return exists(dir.file("m/history.csv")); }));
//     train.signal(SIGTERM);
//     EXPECT_EQ(train.wait(), 75) << train.err();
#ifndef CAIRN_TESTS_SUPPORT_PROCESS_H
#define CAIRN_TESTS_SUPPORT_PROCESS_H

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <sys/types.h>
#include <vector>

#include "tests/support/temporary_directory.h"

struct ProcessOptions {
    std::string program; // empty: the cairn binary of this build
    std::vector<std::string> arguments;
    // Added to ours, CAIRN_* left out; CAIRN_TEST_DEVICE=cuda of ours becomes CAIRN_DEVICE=cuda.
    std::map<std::string, std::string> environment = {};
    std::string input = {};      // standard input
    std::string input_path = {}; // or this file (or pipe)
    std::string directory = {};  // working directory; empty: ours
    bool ignore_hangup = false;  // as under nohup
    uint64_t file_bytes_max = 0; // RLIMIT_FSIZE; 0: none
};

class Process {
  public:
    explicit Process(const ProcessOptions &options);
    ~Process();
    Process(const Process &) = delete;
    Process &operator=(const Process &) = delete;

    pid_t pid() const { return pid_; }
    // Exit code, or 128 + the signal that ended it. After `seconds` it is killed and the test
    // fails.
    int wait(double seconds = 120);
    bool running(); // reaps it when it has ended
    void signal(int number);
    // Stop it (SIGSTOP) and return when nothing of it runs any more; false when it had ended
    // already.
    bool freeze();
    // Poll `condition` until it holds (true), or the process has ended or time is over (false).
    bool wait_for(const std::function<bool()> &condition, double seconds = 120);
    bool wait_for_err(const std::string &text, double seconds = 120);

    std::string out() const; // what it has written so far
    std::string err() const;

  private:
    TemporaryDirectory directory_;
    pid_t pid_ = -1;
    bool ended_ = false;
    int code_ = -1;
};

struct Outcome {
    int code;
    std::string out, err;
};

// Run to the end.
Outcome run(const ProcessOptions &options);
Outcome run_cairn(const std::vector<std::string> &arguments);

// ---- small helpers of process tests ----

// "a b" as {"a", "b"}: options are easier to read in one line.
std::vector<std::string> words(const std::string &text);
// {"a"} + {"b"}
std::vector<std::string> operator+(std::vector<std::string> first,
                                   const std::vector<std::string> &second);
bool exists(const std::string &path);
bool contains(const std::string &text, const std::string &part);
// Names in a directory, sorted; empty when it is missing.
std::vector<std::string> list_directory(const std::string &path);
// Steps of the `model.ckpt-<step>` files, ascending.
std::vector<uint64_t> checkpoint_steps(const std::string &model_dir);
std::string checkpoint_path(const std::string &model_dir, uint64_t step);
// The lines of history.jsonl that are whole; empty when it is missing.
std::vector<std::string> history_lines(const std::string &model_dir);
// The value of a key in one flat JSON line as its text (quotes removed), or "".
std::string json_field(const std::string &line, const std::string &key);
// Options that make checkpoints large without making steps slow, which on a simulated device a wide
// dense layer does.
std::vector<std::string> large_checkpoints();
// Every tensor of two checkpoint files, name, type, shape and bytes. Empty when equal, else what
// differs.
// History and event files of a model directory with what is in them.
std::map<std::string, std::string> log_files(const std::string &model_dir);

std::string checkpoint_difference(const std::string &path_a, const std::string &path_b);

#endif
