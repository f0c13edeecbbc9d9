#include "tests/support/plot_history.h"

#include <cmath>
#include <sstream>
#include <sys/stat.h>

namespace {

std::string number(double value) {
    std::ostringstream text;
    text.precision(17);
    text << value;
    return std::isfinite(value) ? text.str() : "\"nan\"";
}

} // namespace

namespace plot_history {

std::string start(uint64_t step, const std::string &resumed, const std::string &options) {
    return R"({"event":"start","step":)" + std::to_string(step) +
           R"(,"time":1.5,"run_id":"r","resumed":)" + resumed + R"(,"options":{)" + options +
           "}}\n";
}

std::string step(uint64_t at, double loss) {
    return R"({"event":"step","step":)" + std::to_string(at) + R"(,"epoch":0,"loss":)" +
           number(loss) + R"(,"examples_per_second":1.0})" + "\n";
}

std::string epoch(uint64_t index, const Epoch &row, uint64_t per) {
    std::string line = R"({"event":"epoch","epoch":)" + std::to_string(index) + R"(,"step":)" +
                       std::to_string((index + 1) * per) + R"(,"accuracy":)" +
                       number(row.accuracy) + R"(,"loss":)" + number(row.loss);
    if (row.val_accuracy >= 0) {
        line += R"(,"val_accuracy":)" + number(row.val_accuracy) + R"(,"val_loss":)" +
                number(row.val_loss);
    }
    return line + "}\n";
}

std::string save(uint64_t at, double stall_us, double durable_ms) {
    return R"({"event":"save","step":)" + std::to_string(at) +
           R"(,"path":"p","bytes":9,"stall_us":)" + number(stall_us) + R"(,"durable_ms":)" +
           number(durable_ms) + "}\n";
}

std::string end(uint64_t at, const std::string &reason) {
    return R"({"event":"end","step":)" + std::to_string(at) + R"(,"reason":")" + reason + "\"}\n";
}

const std::vector<Epoch> &four_epochs() {
    static const std::vector<Epoch> rows = {{0.60, 0.62, 0.50, 0.76},
                                            {0.50, 0.74, 0.35, 0.86},
                                            {0.40, 0.82, 0.30, 0.85},
                                            {0.30, 0.90, 0.44, 0.84}};
    return rows;
}

std::string history_of(const std::vector<Epoch> &rows) {
    std::string text = start();
    for (size_t i = 0; i < rows.size(); i++) {
        text += epoch(i, rows[i]);
    }
    return text;
}

std::string PlotFixture::run_directory(const std::string &name, const std::string &history) {
    const std::string path = directory.file(name);
    EXPECT_EQ(mkdir(path.c_str(), 0777), 0) << path;
    write_file(path + "/history.jsonl", history);
    return path;
}

Outcome PlotFixture::plot(const std::vector<std::string> &arguments,
                          std::map<std::string, std::string> environment) {
    environment.insert({{"LC_ALL", "C.UTF-8"}, {"COLUMNS", "80"}, {"LINES", ""}, {"NO_COLOR", ""}});
    return run({.program = {}, .arguments = words("plot") + arguments, .environment = environment});
}

Outcome PlotFixture::draw(const std::vector<std::string> &arguments, const std::string &columns) {
    return plot(arguments + words("--output none"), {{"COLUMNS", columns}});
}

} // namespace plot_history
