// `cairn plot`: the drawing in characters is read back cell by cell with the help of its own axis
// labels, and compared with the numbers of made-up histories.
#include <algorithm>
#include <cmath>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "tests/support/plot_history.h"

namespace {

using namespace plot_history;

// ---- reading a drawing ----

// Characters of a line, one string each.
std::vector<std::string> cells_of(const std::string &line) {
    std::vector<std::string> cells;
    for (char byte : line) {
        if ((static_cast<unsigned char>(byte) & 0xC0) == 0x80 && !cells.empty()) {
            cells.back() += byte;
        } else {
            cells.emplace_back(1, byte);
        }
    }
    return cells;
}

using Grid = std::vector<std::vector<std::string>>;

Grid grid_of(const std::string &text) {
    Grid grid;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        grid.push_back(cells_of(line));
    }
    return grid;
}

std::string line_of(const std::vector<std::string> &cells) {
    std::string line;
    for (const std::string &cell : cells) {
        line += cell;
    }
    return line;
}

// One panel of a plain drawing, from the line with its title to its x axis, and where values stand.
struct Panel {
    size_t top = 0, bottom = 0; // rows of the grid; bottom is the axis
    size_t axis_column = 0;
    std::map<double, size_t> y_ticks; // value -> row
    std::map<double, size_t> x_ticks; // value -> column

    static double between(const std::map<double, size_t> &ticks, double value) {
        auto low = ticks.begin(), high = std::prev(ticks.end());
        const double share = (value - low->first) / (high->first - low->first);
        return static_cast<double>(low->second) +
               share * (static_cast<double>(high->second) - static_cast<double>(low->second));
    }
    double row(double y) const { return between(y_ticks, y); }
    double column(double x) const { return between(x_ticks, x); }
};

Panel find_panel(const Grid &grid, const std::string &title) {
    Panel panel;
    while (panel.top < grid.size() && !contains(line_of(grid[panel.top]), title)) {
        panel.top++;
    }
    size_t row = panel.top + 1;
    for (; row < grid.size(); row++) {
        const std::vector<std::string> &cells = grid[row];
        const auto axis = std::find_if(cells.begin(), cells.end(), [](const std::string &cell) {
            return cell == "|" || cell == "+";
        });
        const std::string label = line_of({cells.begin(), axis});
        panel.axis_column = static_cast<size_t>(axis - cells.begin());
        if (label.find_first_not_of(' ') != std::string::npos) {
            panel.y_ticks[std::stod(label)] = row;
        } else if (axis != cells.end() && *axis == "+") {
            break;
        }
    }
    panel.bottom = row;
    EXPECT_GE(panel.y_ticks.size(), 2u);
    EXPECT_LT(panel.y_ticks.rbegin()->second, panel.y_ticks.begin()->second); // more is higher up
    std::istringstream labels(line_of(grid[row + 1]));
    std::vector<size_t> columns;
    for (size_t i = panel.axis_column + 1; i < grid[row].size(); i++) {
        if (grid[row][i] == "+") {
            columns.push_back(i);
        }
    }
    for (size_t column : columns) {
        double value;
        labels >> value;
        panel.x_ticks[value] = column;
    }
    return panel;
}

// Is one of `letters` in a cell that is at most one away from the value's place?
bool shows(const Grid &grid, const Panel &panel, double x, double y, const std::string &letters) {
    const long row = std::lround(panel.row(y)), column = std::lround(panel.column(x));
    for (long r = row - 1; r <= row + 1; r++) {
        for (long c = column - 1; c <= column + 1; c++) {
            if (r > static_cast<long>(panel.top) && r < static_cast<long>(panel.bottom) &&
                c < static_cast<long>(grid[static_cast<size_t>(r)].size()) &&
                letters.find(grid[static_cast<size_t>(r)][static_cast<size_t>(c)]) !=
                    std::string::npos) {
                return true;
            }
        }
    }
    return false;
}

std::vector<size_t> columns_with(const Grid &grid, const Panel &panel, const std::string &letter) {
    std::vector<size_t> columns;
    for (size_t row = panel.top + 1; row < panel.bottom; row++) {
        for (size_t column = panel.axis_column + 1; column < grid[row].size(); column++) {
            if (grid[row][column] == letter) {
                columns.push_back(column);
            }
        }
    }
    std::sort(columns.begin(), columns.end());
    columns.erase(std::unique(columns.begin(), columns.end()), columns.end());
    return columns;
}

size_t widest(const std::string &text) {
    size_t width = 0;
    for (const auto &cells : grid_of(text)) {
        width = std::max(width, cells.size());
    }
    return width;
}

class Plot : public PlotFixture {};

// ---- curves in a terminal ----

TEST_F(Plot, PlainDrawingShowsEveryEpochWhereItsValueIs) {
    const std::string model = run_directory("m", history_of(four_epochs()) + end(400, "epochs"));
    const Outcome outcome = draw({"--ascii", "--model-dir", model});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    const Grid grid = grid_of(outcome.out);
    const Panel loss = find_panel(grid, "loss: binary cross-entropy (nats");
    const Panel accuracy = find_panel(grid, "accuracy (share");
    for (size_t i = 0; i < four_epochs().size(); i++) {
        const Epoch &row = four_epochs()[i];
        const double x = static_cast<double>(i) + 1;
        EXPECT_TRUE(shows(grid, loss, x, row.loss, "t*")) << i << "\n" << outcome.out;
        EXPECT_TRUE(shows(grid, loss, x, row.val_loss, "v*")) << i << "\n" << outcome.out;
        EXPECT_TRUE(shows(grid, accuracy, x, row.accuracy, "t*")) << i << "\n" << outcome.out;
        EXPECT_TRUE(shows(grid, accuracy, x, row.val_accuracy, "v*")) << i << "\n" << outcome.out;
    }
    // Nothing where no value is.
    EXPECT_FALSE(shows(grid, loss, 1, 0.32, "tv*")) << outcome.out;
    EXPECT_FALSE(shows(grid, accuracy, 4, 0.65, "tv*")) << outcome.out;
    for (unsigned char byte : outcome.out) {
        ASSERT_LT(byte, 0x80);
    }
    EXPECT_TRUE(contains(outcome.out, "epochs    steps  best  val_loss  val_accuracy  ended\n"
                                      "      4      400     3    0.3000        0.8500  epochs\n"))
        << outcome.out;
    EXPECT_EQ(outcome.err, "");
}

// The eight dots of a braille cell in Unicode's numbering: 1 2 3 7 down the left side, 4 5 6 8 the
// right one; dot n is bit n - 1.
TEST_F(Plot, BrailleHasTheDotsOfAStraightLine) {
    std::string history = start();
    for (uint64_t i = 1; i <= 100; i++) {
        history += step(i * 10, 0.7 - 0.0004 * static_cast<double>(i) * 10); // 0.7 to 0.3
    }
    const std::string model = run_directory("m", history);
    const Outcome outcome = draw({model});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    static const int left[4] = {1, 2, 3, 7}, right[4] = {4, 5, 6, 8};
    std::vector<std::pair<double, double>> dots; // columns and rows in dots
    const Grid grid = grid_of(outcome.out);
    for (size_t row = 0; row < grid.size(); row++) {
        for (size_t column = 0; column < grid[row].size(); column++) {
            const std::string &cell = grid[row][column];
            if (cell.size() != 3 || cell[0] != '\xE2' || (cell[1] & ~3) != '\xA0') {
                continue;
            }
            const int bits = (cell[1] & 3) << 6 | (cell[2] & 0x3F);
            for (int y = 0; y < 4; y++) {
                for (int x = 0; x < 2; x++) {
                    if (bits >> ((x == 0 ? left : right)[y] - 1) & 1) {
                        dots.emplace_back(2 * column + static_cast<size_t>(x),
                                          4 * row + static_cast<size_t>(y));
                    }
                }
            }
        }
    }
    ASSERT_GT(dots.size(), 100u) << outcome.out;
    std::map<double, int> of_column; // a line that is not steep has one dot in every column of dots
    for (const auto &dot : dots) {
        of_column[dot.first]++;
    }
    EXPECT_EQ(of_column.size(), dots.size()) << outcome.out;
    EXPECT_EQ(of_column.rbegin()->first - of_column.begin()->first + 1,
              static_cast<double>(dots.size()))
        << outcome.out;
    const auto [first, last] = std::minmax_element(dots.begin(), dots.end());
    const double slope = (last->second - first->second) / (last->first - first->first);
    EXPECT_GT(slope, 0.1);
    for (const auto &[x, y] : dots) {
        EXPECT_NEAR(y, first->second + slope * (x - first->first), 1.5) << outcome.out;
    }
}

TEST_F(Plot, TheBestEpochIsMarkedByTheMetricThatCounts) {
    const std::string model = run_directory("m", history_of(four_epochs()));
    const auto best = [&](const std::vector<std::string> &more) {
        const Outcome outcome = draw(words("--ascii") + std::vector<std::string>{model} + more);
        const Grid grid = grid_of(outcome.out);
        const Panel loss = find_panel(grid, "loss:");
        const std::vector<size_t> columns = columns_with(grid, loss, "*");
        EXPECT_EQ(columns.size(), 1u) << outcome.out;
        for (double x = 1; x <= 4; x++) {
            if (std::fabs(loss.column(x) - static_cast<double>(columns.at(0))) <= 1) {
                return static_cast<int>(x);
            }
        }
        return 0;
    };
    EXPECT_EQ(best({}), 3);
    EXPECT_EQ(best(words("--monitor val_accuracy")), 2);
    EXPECT_EQ(best(words("--monitor loss")), 4);
    // What the run itself watched, and which way.
    const std::string other =
        run_directory("o", start(0, "null", R"("monitor":"val_accuracy","mode":"min")") +
                               epoch(0, {.6, .6, .5, .7}) + epoch(1, {.5, .6, .4, .6}) +
                               epoch(2, {.4, .6, .3, .8}));
    const Outcome outcome = draw({"--ascii", other});
    EXPECT_TRUE(contains(outcome.out, "* best epoch by val_accuracy")) << outcome.out;
    EXPECT_TRUE(contains(outcome.out, "     3      300     2    0.4000        0.6000"))
        << outcome.out;
}

TEST_F(Plot, RestartsStandWhereTheRunWentOn) {
    std::string history = start() + epoch(0, four_epochs()[0]) + epoch(1, four_epochs()[1]) +
                          start(250, "\"m/model.ckpt-250\"") + epoch(2, four_epochs()[2]) +
                          epoch(3, four_epochs()[3]) + end(400, "early stopping");
    const Outcome outcome = draw({"--ascii", run_directory("m", history)});
    const Grid grid = grid_of(outcome.out);
    const Panel loss = find_panel(grid, "loss:");
    const std::vector<size_t> columns = columns_with(grid, loss, ":");
    ASSERT_EQ(columns.size(), 1u) << outcome.out;
    EXPECT_NEAR(static_cast<double>(columns[0]), loss.column(2.5), 1) << outcome.out;
    EXPECT_TRUE(contains(outcome.out, ": restart")) << outcome.out;
    EXPECT_TRUE(contains(outcome.out, "  early stopping\n")) << outcome.out;
    const Outcome whole = draw({"--ascii", run_directory("w", history_of(four_epochs()))});
    EXPECT_FALSE(contains(whole.out, "restart")) << whole.out;
    EXPECT_TRUE(contains(whole.out, "  no end logged\n")) << whole.out;
}

TEST_F(Plot, ManyRestartsAreCountedInsteadOfDrawn) {
    std::string history = start();
    for (uint64_t i = 0; i < 40; i++) {
        history += epoch(i, four_epochs()[0]) + start((i + 1) * 100, "\"x\"");
    }
    const Outcome forty = draw({"--ascii", run_directory("forty", history)});
    EXPECT_TRUE(contains(forty.out, ": restart  * best")) << forty.out;
    EXPECT_GE(columns_with(grid_of(forty.out), find_panel(grid_of(forty.out), "loss:"), ":").size(),
              30u); // of 40, on 69 columns
    history += start(4000, "\"x\"");
    const Outcome outcome = draw({"--ascii", run_directory("many", history)});
    const Grid grid = grid_of(outcome.out);
    EXPECT_TRUE(contains(outcome.out, "  41 restarts  * best")) << outcome.out;
    EXPECT_TRUE(columns_with(grid, find_panel(grid, "loss:"), ":").empty()) << outcome.out;
}

// Without colours two lines of dots look the same.
TEST_F(Plot, SeveralRunsWithoutColoursAreLettersInTheOrderOfTheirEnds) {
    std::vector<std::string> runs;
    std::map<double, std::string> ends; // by val_loss
    for (int i = 0; i < 8; i++) {
        std::vector<Epoch> rows = four_epochs();
        rows[3].val_loss = 0.40 + 0.01 * (i * 3 % 8);
        runs.push_back(run_directory(std::string(1, static_cast<char>('a' + i)), history_of(rows)));
        ends[rows[3].val_loss] = std::string(1, static_cast<char>('A' + i));
    }
    const Outcome outcome = draw(runs);
    const Grid grid = grid_of(outcome.out);
    size_t row = 1; // below the title
    std::string keys, expected;
    for (auto end = ends.rbegin(); end != ends.rend(); end++) {
        expected += end->second;
    }
    for (; !contains(line_of(grid.at(row)), "\xE2\x94\x94"); row++) {
        const std::string &last = grid[row].back();
        keys += grid[row].size() > 70 && last >= "A" && last <= "H" ? last : "";
    }
    EXPECT_EQ(keys, expected) << outcome.out;
    EXPECT_FALSE(contains(outcome.out, "\xE2\xA0")) << outcome.out; // braille
    const std::string other = run_directory("o", history_of({{.7, .5, .7, .5}, {.6, .6, .6, .6}}));
    const Outcome two = draw({runs[0], other});
    for (const char *letters : {"AAAA", "BBBB", "aaaa", "small letters: training"}) {
        EXPECT_TRUE(contains(two.out, letters)) << letters << two.out;
    }
    EXPECT_TRUE(contains(draw({runs[0]}).out, "\xE2\xA0")); // one needs no letters
}

TEST_F(Plot, RunsOfDifferentLengthLieOnOneAxis) {
    std::vector<Epoch> eight;
    for (int i = 0; i < 8; i++) {
        eight.push_back({0.6 - 0.02 * i, 0.6, 0.7 - 0.05 * i, 0.6});
    }
    const std::string a =
        run_directory("a", history_of(four_epochs()) + end(400, "early stopping"));
    const std::string b = run_directory("b", history_of(eight) + end(800, "epochs"));
    const Outcome outcome = draw({"--ascii", "--model-dir", a + "/", b});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    const Grid grid = grid_of(outcome.out);
    const Panel loss = find_panel(grid, "loss:");
    for (size_t i = 0; i < eight.size(); i++) {
        const double x = static_cast<double>(i) + 1;
        EXPECT_TRUE(shows(grid, loss, x, eight[i].val_loss, "B*")) << i << "\n" << outcome.out;
        EXPECT_TRUE(i >= 4 || shows(grid, loss, x, four_epochs()[i].val_loss, "A*"));
    }
    // Besides its key at the right nothing of the short run lies behind its end.
    const std::vector<size_t> columns = columns_with(grid, loss, "A");
    EXPECT_NEAR(static_cast<double>(columns.at(columns.size() - 2)), loss.column(4), 1);
    EXPECT_TRUE(contains(outcome.out, "A a        4      400     3    0.3000        0.8500"
                                      "  early stopping\n"))
        << outcome.out;
    EXPECT_TRUE(contains(outcome.out, "\nB b        8      800     8    0.3500 ")) << outcome.out;
}

TEST_F(Plot, ARunInItsFirstEpochShowsItsBatches) {
    std::string history = start();
    for (uint64_t i = 1; i <= 20; i++) {
        history += step(i * 10, 0.7 - 0.01 * static_cast<double>(i));
    }
    const Outcome outcome = draw({"--ascii", run_directory("m", history + "{\"event\":\"st")});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    const Grid grid = grid_of(outcome.out);
    const Panel loss = find_panel(grid, "loss:");
    for (double x : {50.0, 100.0, 150.0}) {
        EXPECT_TRUE(shows(grid, loss, x, 0.7 - 0.001 * x, "b")) << outcome.out;
    }
    EXPECT_TRUE(contains(outcome.out, " step\n")) << outcome.out;
    EXPECT_FALSE(contains(outcome.out, "accuracy (")) << outcome.out;
}

TEST_F(Plot, OneEpochAndNoValidation) {
    const Outcome one =
        draw({"--ascii", run_directory("m", start() + step(50, 0.65) + epoch(0, {0.6, 0.7}))});
    ASSERT_EQ(one.code, 0) << one.err;
    EXPECT_TRUE(contains(one.out, "training")) << one.out;
    EXPECT_FALSE(contains(one.out, "validation")) << one.out;
    EXPECT_FALSE(contains(one.out, "best epoch by")) << one.out;
    EXPECT_TRUE(
        contains(one.out, "      1      100     -    0.6000        0.7000  no end logged\n"))
        << one.out;
    const Outcome refused = draw({directory.file("m"), "--monitor", "val_loss"});
    EXPECT_EQ(refused.code, 2);
    EXPECT_TRUE(contains(refused.err, "--monitor val_loss: there was no validation"))
        << refused.err;
    EXPECT_TRUE(
        contains(draw({directory.file("m"), "--monitor", "loss"}).out, "best epoch by loss"));
}

TEST_F(Plot, ValuesThatAreNotFiniteAreGapsAndCounted) {
    std::vector<Epoch> rows(6, {0.5, 0.6, 0.4, 0.7});
    rows[0].val_loss = 0.5;
    rows[2].val_loss = std::nan("");
    rows[3].val_loss = std::nan("");
    const Outcome outcome = draw({"--ascii", run_directory("m", history_of(rows))});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    const Grid grid = grid_of(outcome.out);
    const Panel loss = find_panel(grid, "loss:");
    EXPECT_TRUE(shows(grid, loss, 5.5, 0.4, "v")) << outcome.out;
    for (double x = 2.5; x <= 4.5; x += 0.5) {
        EXPECT_FALSE(shows(grid, loss, x, 0.4, "v")) << outcome.out;
    }
    EXPECT_TRUE(contains(outcome.out, ": 2 losses are not finite, the first at step 300: shown as "
                                      "gaps\n"))
        << outcome.out;
}

// ---- width, locale, colour ----

TEST_F(Plot, WidthAndCharactersFollowTheTerminal) {
    const std::string model = run_directory("m", history_of(four_epochs()));
    for (size_t columns : {40, 45, 46, 80, 109, 110, 120, 200}) {
        const Outcome outcome = draw({model}, std::to_string(columns));
        EXPECT_EQ(contains(outcome.out, " loss: binary cross-entropy (nats per example)"),
                  columns >= 46)
            << outcome.out;
        EXPECT_EQ(contains(outcome.out, " loss (nats per example)\n"), columns < 46);
        const std::string drawing = outcome.out.substr(0, outcome.out.find(" epochs    steps"));
        EXPECT_LE(widest(drawing), std::max<size_t>(columns, widest(model))) << outcome.out;
        const bool beside = contains(outcome.out.substr(0, outcome.out.find("\n0")), "accuracy (");
        EXPECT_EQ(beside, columns >= 110) << outcome.out;
    }
    EXPECT_EQ(draw({model}, "").out, draw({model}, "80").out);
    const std::string braille = "\xE2\xA0";
    EXPECT_TRUE(contains(draw({model}).out, braille));
    EXPECT_FALSE(contains(draw({model, "--ascii"}).out, braille));
    for (const auto &[locale, expected] : std::map<std::string, bool>{
             {"C", false}, {"POSIX", false}, {"de_DE.ISO-8859-1", false}, {"en_US.utf8", true}}) {
        const Outcome outcome = plot({model, "--output", "none"}, {{"LC_ALL", locale}});
        EXPECT_EQ(contains(outcome.out, braille), expected) << locale;
    }
    const Outcome lang = plot({model, "--output", "none"},
                              {{"LC_ALL", ""}, {"LC_CTYPE", "C"}, {"LANG", "en_US.UTF-8"}});
    EXPECT_FALSE(contains(lang.out, braille));
}

// util-linux' `script` gives the program a terminal.
TEST_F(Plot, ColoursAreForTerminalsThatWantThem) {
    if (run({.program = "/bin/sh", .arguments = {"-c", "command -v script"}}).code != 0) {
        GTEST_SKIP() << "there is no script (bsdutils)";
    }
    const std::string model = run_directory("m", history_of(four_epochs()));
    const auto shown = [&](const std::string &before) {
        const std::string command = before + " " + CAIRN_BINARY + " plot --output none " + model;
        return run({.program = "/usr/bin/env",
                    .arguments = {"-u", "COLUMNS", "-u", "LINES", "script", "-qec", command,
                                  "/dev/null"},
                    .environment = {{"LC_ALL", "C.UTF-8"},
                                    {"TERM", "xterm-256color"},
                                    {"NO_COLOR", ""},
                                    {"COLORTERM", ""}}})
            .out;
    };
    EXPECT_TRUE(contains(shown(""), "\033[38;5;166m"));
    EXPECT_TRUE(contains(shown("TERM=xterm"), "\033[31m"));
    for (const char *before : {"NO_COLOR=1", "TERM=dumb"}) {
        EXPECT_FALSE(contains(shown(before), "\033")) << before;
        EXPECT_TRUE(contains(shown(before), "validation"));
    }
    EXPECT_FALSE(contains(draw({model}).out, "\033"));
    // A drawing fits with its table, the picture's path and the prompt, where that is possible.
    for (const auto &[rows, expected] :
         std::map<int, long>{{20, 20}, {24, 22}, {31, 28}, {32, 30}, {60, 30}}) {
        const std::string text = shown("stty cols 80 rows " + std::to_string(rows) + ";");
        EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), expected) << text;
        EXPECT_TRUE(contains(text, "training") && contains(text, "accuracy (")) << text;
    }
    const Grid wide = grid_of(shown("stty cols 130; NO_COLOR=1"));
    EXPECT_TRUE(contains(line_of(wide.at(1)), "loss:") && contains(line_of(wide[1]), "accuracy ("));
}

// ---- saves ----

double nearest_rank(std::vector<double> values, double percent) {
    std::sort(values.begin(), values.end());
    const double rank = std::ceil(percent / 100 * static_cast<double>(values.size()));
    return values.at(static_cast<size_t>(rank) - 1);
}

TEST_F(Plot, SavesShowStallsWithTheirPercentiles) {
    std::string history = start();
    std::vector<double> stalls, durables;
    for (uint64_t i = 0; i < 150; i++) {
        stalls.push_back(100 + static_cast<double>(i * 7 % 150));
        durables.push_back(i == 77 ? 900 : 10 + static_cast<double>(i * 11 % 150) / 10);
        history += save(i * 10, stalls.back(), durables.back());
    }
    history += R"({"event":"save","step":1500,"path":"p","error":"no space"})"
               "\n";
    const std::string model = run_directory("m", history);
    const Outcome outcome = draw({"--saves", "--ascii", model});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    char row[128], p50[32], p99[32];
    snprintf(row, sizeof row, "     150      1  %8.0f%8.0f%8.0f  %8.1f%8.1f%8.0f\n",
             nearest_rank(stalls, 50), nearest_rank(stalls, 99), nearest_rank(stalls, 100),
             nearest_rank(durables, 50), nearest_rank(durables, 99), nearest_rank(durables, 100));
    EXPECT_TRUE(contains(outcome.out, row)) << row << outcome.out;
    snprintf(p50, sizeof p50, "p50 %.0f us", nearest_rank(stalls, 50));
    snprintf(p99, sizeof p99, "p99 %.0f us", nearest_rank(stalls, 99));
    EXPECT_TRUE(contains(outcome.out, p50) && contains(outcome.out, p99)) << outcome.out;
    // The slow one stands by itself, on a logarithmic axis: equal ratios are equal distances.
    const Grid grid = grid_of(outcome.out);
    Panel durable = find_panel(grid, "a save is durable after (ms)");
    std::map<double, size_t> logs;
    for (const auto &[value, at] : durable.y_ticks) {
        logs[std::log(value)] = at;
    }
    durable.y_ticks = logs;
    EXPECT_TRUE(shows(grid, durable, 770, std::log(900.0), "o")) << outcome.out;
    EXPECT_TRUE(shows(grid, durable, 1000, std::log(durables[100]), "o")) << outcome.out;
    const Outcome large =
        draw({"--saves", "--ascii", run_directory("l", start() + save(1, 123456789, 23456789))});
    EXPECT_TRUE(contains(large.out, "  1.2e+08 1.2e+08 1.2e+08   2.3e+07 2.3e+07 2.3e+07\n"))
        << large.out;
    const Outcome nothing =
        draw({"--saves", "--ascii", run_directory("z", start() + save(1, 0, 0))});
    const Grid zeros = grid_of(nothing.out);
    const Panel stall = find_panel(zeros, "training stands still");
    EXPECT_TRUE(shows(zeros, stall, 1, 0, "o-")) << nothing.out;
    EXPECT_EQ(stall.y_ticks.begin()->first, 0) << nothing.out;
    const Outcome none = draw({"--saves", run_directory("n", history_of(four_epochs()))});
    EXPECT_EQ(none.code, 66);
    EXPECT_TRUE(contains(none.err, "no save has been logged yet")) << none.err;
}

// ---- a real run ----

TEST_F(Plot, ARealRunThatWasInterrupted) {
    const std::vector<std::string> train = words("train --data demo --embedding-size 8 "
                                                 "--hidden-size 8 --dense-size 8 --progress none "
                                                 "--log-step-count-steps 5 --model-dir") +
                                           std::vector<std::string>{directory.file("m")};
    ASSERT_EQ(run_cairn(train + words("--max-steps 40")).code, 0);
    const Outcome middle = draw({"--ascii", directory.file("m")});
    EXPECT_EQ(middle.code, 0) << middle.err;
    EXPECT_TRUE(contains(middle.out, "      0       40     -")) << middle.out;
    ASSERT_EQ(run_cairn(train + words("--epochs 2")).code, 0);
    const Outcome whole = draw({"--ascii", directory.file("m")});
    EXPECT_EQ(whole.code, 0) << whole.err;
    const Grid grid = grid_of(whole.out);
    const Panel loss = find_panel(grid, "loss:");
    std::istringstream csv(read_file(directory.file("m/history.csv")));
    std::string line;
    std::getline(csv, line); // epoch,accuracy,loss,val_accuracy,val_loss
    for (double x = 1; x <= 2; x++) {
        ASSERT_TRUE(std::getline(csv, line));
        const double val_loss = std::stod(line.substr(line.rfind(',') + 1));
        EXPECT_TRUE(shows(grid, loss, x, val_loss, "v*")) << whole.out;
    }
    EXPECT_EQ(columns_with(grid, loss, ":").size(), 1u) << whole.out;
    EXPECT_TRUE(contains(whole.out, "  epochs\n")) << whole.out;
    const Outcome saves = draw({"--saves", "--ascii", directory.file("m")});
    EXPECT_EQ(saves.code, 0) << saves.err;
}

} // namespace
