// plot_history.h - made-up model directories for tests of `cairn plot`: the lines of a history.jsonl,
// and a fixture that draws them.
//
//     const std::string run = run_directory("m", start() + epoch(0, {0.6, 0.7}) + end(100, "epochs"));
//     const Outcome outcome = draw({"--ascii", run});
#ifndef CAIRN_TESTS_SUPPORT_PLOT_HISTORY_H
#define CAIRN_TESTS_SUPPORT_PLOT_HISTORY_H

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "tests/support/process.h"
#include "tests/support/temporary_directory.h"
#include "gtest/gtest.h"

namespace plot_history {

// Lines of history.jsonl; what is not finite is written as the program does.
std::string start(uint64_t step = 0, const std::string &resumed = "null",
                  const std::string &options = R"("monitor":"val_loss","mode":"auto")");
std::string step(uint64_t at, double loss);
struct Epoch {
    double loss, accuracy, val_loss = -1, val_accuracy = -1; // negative: no validation
};
std::string epoch(uint64_t index, const Epoch &row, uint64_t steps_per_epoch = 100);
std::string save(uint64_t at, double stall_us, double durable_ms);
std::string end(uint64_t at, const std::string &reason);

// The third has the least val_loss, the second the highest val_accuracy, the fourth the least loss.
const std::vector<Epoch> &four_epochs();
std::string history_of(const std::vector<Epoch> &rows);

class PlotFixture : public ::testing::Test {
  protected:
    // A new directory with this history.jsonl.
    std::string run_directory(const std::string &name, const std::string &history);
    // In a UTF-8 locale, 80 columns wide.
    Outcome plot(const std::vector<std::string> &arguments,
                 std::map<std::string, std::string> environment = {});
    // Characters only.
    Outcome draw(const std::vector<std::string> &arguments, const std::string &columns = "80");

    TemporaryDirectory directory;
};

} // namespace plot_history

#endif
