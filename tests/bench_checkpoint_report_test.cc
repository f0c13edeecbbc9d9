// What `cairn bench checkpoint` says of figures that are known: all repeats as one, the JSON, the
// tables, the picture. Every expectation is worked out by hand from the small case below.
#include <jansson.h>
#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "bench/bench_checkpoint_report.h"
#include "host/options_table.h"
#include "tests/support/process.h"
#include "gtest/gtest.h"

namespace {

constexpr auto SAVING = CHECKPOINT_ASYNC_ZSTD;

// Two repeats at intervals of 1, 10 and 25 steps. The stalls of the first repeat are 1, 3, ... 119
// us, those of the second 2, 4, ... 120 us, the largest first; each took a quarter of that in
// processor time. The saves of the second repeat, of which there are three as against one, are slower.
class Case {
  public:
    Case() : cell(static_cast<checkpoint_case *>(calloc(1, sizeof(checkpoint_case)))) {
        cell->place = "dir";
        snprintf(cell->state, sizeof cell->state, "real");
        cell->repeats = 2;
        cell->epoch_steps = 94;
        for (uint64_t interval : {1, 10, 25}) {
            cell->intervals[cell->interval_count++] = interval;
        }
        cell->modes[CHECKPOINT_OFF] = cell->modes[SAVING] = true;
        for (size_t interval = 0; interval < cell->interval_count; interval++) {
            fill(interval);
        }
    }
    ~Case() { checkpoint_case_free(cell); }
    Case(const Case &) = delete;
    Case &operator=(const Case &) = delete;

    checkpoint_round *rounds(size_t interval) const { return cell->rounds[interval][SAVING]; }
    void lose(size_t interval, double first, double second) const {
        rounds(interval)[0].lost = first;
        rounds(interval)[1].lost = second;
    }

    checkpoint_case *cell;

  private:
    void fill(size_t interval) const {
        checkpoint_stalls &stalls = cell->stalls[interval][SAVING];
        stalls.walls = static_cast<double *>(calloc(120, sizeof(double)));
        stalls.cpus = static_cast<double *>(calloc(120, sizeof(double)));
        for (int repeat = 0; repeat < 2; repeat++) {
            checkpoint_round &round = rounds(interval)[repeat];
            for (int i = 60; i-- > 0; stalls.count++) {
                stalls.walls[stalls.count] = 1e-6 * (2 * i + 1 + repeat);
                stalls.cpus[stalls.count] = 0.25e-6 * (2 * i + 1 + repeat);
            }
            round.stalls = 60;
            round.stall_p50 = 1e-6 * (59 + repeat);
            round.stall_max = 1e-6 * (119 + repeat);
            round.cpu_max = 0.25e-6 * (119 + repeat);
            round.stall_p99 = round.cpu_p99 = NAN; // of 60
            round.step_seconds = 0.002;
            round.asked = 60;
            round.done = repeat == 0 ? 1 : 3;
            round.skipped = 60 - round.done;
            round.durable_p50 = repeat == 0 ? 0.010 : 0.050;
            round.durable_max = repeat == 0 ? 0.010 : 0.070;
            round.durable_mean = repeat == 0 ? 0.010 : 0.050;
            round.fsync = repeat == 0 ? 0.004 : 0.008;
            round.queued = round.durable_mean - round.fsync;
        }
    }
};

std::vector<std::string> lines_of(const std::string &text) {
    std::istringstream in(text);
    std::vector<std::string> lines;
    for (std::string line; std::getline(in, line);) {
        lines.push_back(line);
    }
    return lines;
}

// ---- all repeats as one ----

TEST(CheckpointCell, AllRepeatsTogether) {
    const Case known;
    checkpoint_round whole;
    ASSERT_EQ(checkpoint_cell_whole(known.cell, 0, SAVING, &whole, nullptr), STATUS_OK);
    EXPECT_EQ(whole.stalls, 120.0);
    EXPECT_DOUBLE_EQ(whole.stall_p50, 60e-6);
    EXPECT_DOUBLE_EQ(whole.stall_p99, 119e-6); // the 119th of 120: 118 are less than 99 %
    EXPECT_DOUBLE_EQ(whole.stall_max, 120e-6);
    EXPECT_DOUBLE_EQ(whole.cpu_p99, 29.75e-6);
    EXPECT_EQ(whole.asked, 120.0);
    EXPECT_EQ(whole.done, 4.0);
    EXPECT_DOUBLE_EQ(whole.share_done, 4.0 / 120);
    EXPECT_DOUBLE_EQ(whole.durable_max, 0.070);
    // Over four saves: one of 10 ms and three of 50 ms, 4 and 8 of them in fsync.
    EXPECT_DOUBLE_EQ(whole.durable_mean, 0.040);
    EXPECT_DOUBLE_EQ(whole.fsync, 0.007);
    EXPECT_DOUBLE_EQ(whole.queued, 0.033);
    EXPECT_TRUE(std::isnan(whole.step_seconds)); // nothing that would mean something
    EXPECT_TRUE(std::isnan(whole.durable_p50));
    // In the order of the saves: the largest of the first repeat is still in front.
    EXPECT_DOUBLE_EQ(known.cell->stalls[0][SAVING].walls[0], 119e-6);
}

TEST(CheckpointCell, FewerThanAHundredStallsHaveNoP99) {
    const Case known;
    known.cell->stalls[0][SAVING].count = 99;
    checkpoint_round whole;
    ASSERT_EQ(checkpoint_cell_whole(known.cell, 0, SAVING, &whole, nullptr), STATUS_OK);
    EXPECT_TRUE(std::isnan(whole.stall_p99));
    EXPECT_DOUBLE_EQ(whole.stall_max, 120e-6);
}

// ---- the report ----

// What the report of the case says, as text, JSON and CSV.
class Report : public testing::Test {
  protected:
    void SetUp() override {
        ASSERT_EQ(options_init(COMMAND_BENCH_CHECKPOINT, &options_, nullptr), STATUS_OK);
        json_path_ = directory_.file("r.json");
        csv_path_ = directory_.file("r.csv");
        stalls_path_ = directory_.file("r.stalls");
        options_.json = json_path_.c_str();
        options_.csv = csv_path_.c_str();
        options_.stalls = stalls_path_.c_str();
        char *bytes = nullptr;
        size_t size = 0;
        checkpoint_output out = {};
        out.table = open_memstream(&bytes, &size);
        ASSERT_NE(out.table, nullptr);
        struct error err = {};
        ASSERT_EQ(bench_report_create(&options_, out.table, &out.report, &err), STATUS_OK);
        bench_report_quiet(out.report, true);
        ASSERT_EQ(checkpoint_csv_open(&options_, &out.csv, &err), STATUS_OK) << err.message;
        ASSERT_EQ(checkpoint_report_case(&out, known_.cell, &err), STATUS_OK) << err.message;
        ASSERT_EQ(checkpoint_csv_close(&out.csv, &options_, &err), STATUS_OK) << err.message;
        ASSERT_EQ(bench_report_write(out.report, &err), STATUS_OK) << err.message;
        bench_report_free(out.report);
        fclose(out.table);
        table_ = lines_of(std::string(bytes, size));
        free(bytes);
        root_.reset(json_load_file(json_path_.c_str(), 0, nullptr));
        ASSERT_NE(root_, nullptr);
    }
    void TearDown() override { options_free(&options_); }

    const json_t *figure(const std::string &name) const {
        size_t i;
        const json_t *one;
        json_array_foreach(json_object_get(root_.get(), "figures"), i, one) {
            if (std::string("dir, real, async+zstd, every 10") ==
                    json_string_value(json_object_get(one, "section")) &&
                name == json_string_value(json_object_get(one, "name"))) {
                return one;
            }
        }
        ADD_FAILURE() << name;
        return nullptr;
    }
    double number(const std::string &name, const char *key) const {
        const json_t *value = json_object_get(figure(name), key);
        return json_is_null(value) ? NAN : json_number_value(value);
    }
    double sample(const std::string &name, size_t i) const {
        return json_number_value(json_array_get(json_object_get(figure(name), "samples"), i));
    }
    // The words of the n-th line of the table that begins with these.
    std::vector<std::string> row(const std::string &every, const std::string &mode,
                                 size_t n) const {
        for (const std::string &line : table_) {
            const std::vector<std::string> fields = words(line);
            if (fields.size() > 2 && fields[0] == every && fields[1] == mode && n-- == 0) {
                return fields;
            }
        }
        ADD_FAILURE() << every << " " << mode;
        return {};
    }

    const Case known_;
    TemporaryDirectory directory_;
    struct options options_ = {};
    std::string json_path_, csv_path_, stalls_path_;
    std::vector<std::string> table_;
    std::unique_ptr<json_t, void (*)(json_t *)> root_{nullptr,
                                                      [](json_t *value) { json_decref(value); }};
};

TEST_F(Report, MaximaAreThoseOfAllSavesAndTheRepeatsOwnAreTheirSamples) {
    for (const char *key : {"median", "min", "max"}) {
        EXPECT_DOUBLE_EQ(number("stall max", key), 120.0) << key;
        EXPECT_DOUBLE_EQ(number("stall cpu max", key), 30.0) << key;
        EXPECT_DOUBLE_EQ(number("durable max", key), 70.0) << key;
    }
    EXPECT_DOUBLE_EQ(sample("stall max", 0), 119.0);
    EXPECT_DOUBLE_EQ(sample("stall max", 1), 120.0);
    EXPECT_DOUBLE_EQ(sample("durable max", 0), 10.0);
    EXPECT_DOUBLE_EQ(number("stall p50", "median"), 59.5); // a median, as ever
    const auto stalls = row("10", "async+zstd", 0), durable = row("10", "async+zstd", 1);
    EXPECT_EQ(stalls.at(stalls.size() - 3), "120"); // before the two of processor time
    EXPECT_EQ(durable.at(3), "70.00");              // behind interval, mode and p50
}

TEST_F(Report, TheP99OfAllIsThereWhereNoRepeatHasOne) {
    EXPECT_TRUE(std::isnan(number("stall p99", "median")));
    EXPECT_DOUBLE_EQ(number("stall p99 of all", "median"), 119.0);
    EXPECT_DOUBLE_EQ(number("stall cpu p99 of all", "median"), 29.75);
    const auto fields = row("10", "async+zstd", 0);
    const std::vector<std::string> last(fields.end() - 6, fields.end());
    EXPECT_EQ(last, (std::vector<std::string>{"60", "119", "-", "120", "30", "-"}));
}

// p50, most and mean, then the parts of the mean in order, then retain.
TEST_F(Report, ThePartsOfTheTableAreMeansOfAllSavesThatAddUp) {
    const auto fields = row("10", "async+zstd", 1);
    EXPECT_EQ(std::vector<std::string>(fields.begin() + 2, fields.end()),
              (std::vector<std::string>{"30.00", "70.00", "40.00", "0.00", "33.00", "0.00", "0.00",
                                        "0.00", "7.00", "0.00", "0.00"}));
}

TEST_F(Report, TablesFitATerminalAndEveryColumnHasItsUnit) {
    size_t heads = 0;
    for (size_t i = 0; i < table_.size(); i++) {
        EXPECT_LE(table_[i].size(), 130u) << table_[i];
        if (words(table_[i]).size() > 1 && words(table_[i])[0] == "every") {
            // Below the end of each name but "mode" and "ratio", which have none, something ends.
            const std::string &names = table_[i], &units = table_.at(i + 1);
            for (size_t end = 0; end < names.size(); end++) {
                const bool ends = names[end] != ' ' &&
                                  (end + 1 == names.size() || names.compare(end + 1, 2, "  ") == 0);
                const std::string before = names.substr(0, end + 1);
                if (ends && before.substr(before.size() - 4) != "mode" &&
                    before.substr(before.size() - 5) != "ratio") {
                    EXPECT_NE(units.at(end), ' ') << before;
                }
            }
            heads++;
        }
    }
    EXPECT_EQ(heads, 3u);
}

TEST_F(Report, TheCsvHasALineOfAllRepeatsAndTheStallsOneOfEachSave) {
    const auto lines = lines_of(read_file(csv_path_));
    EXPECT_EQ(lines.size(), 1u + 3 * (2 + 2 + 1)); // head; off and saving, and all repeats
    // 120 stalls, p50, p99 and most, and in processor time; behind steps, time and loss.
    const std::string begin = "all repeats,dir,real,async+zstd,10,,,,,120,60,119,120,15,29.75,30,";
    EXPECT_EQ(std::count_if(lines.begin(), lines.end(),
                            [&](const std::string &line) {
                                return line.compare(0, begin.size(), begin) == 0;
                            }),
              1);
    const auto stalls = lines_of(read_file(stalls_path_));
    ASSERT_EQ(stalls.size(), 1u + 3 * 120);
    EXPECT_EQ(stalls[0], "storage,state,mode,interval,repeat,stall_us,stall_cpu_us");
    EXPECT_EQ(stalls[1], "dir,real,async+zstd,1,1,119,29.75");
    EXPECT_EQ(stalls[60], "dir,real,async+zstd,1,1,1,0.25");
    EXPECT_EQ(stalls[61], "dir,real,async+zstd,1,2,120,30");
    EXPECT_EQ(stalls[360], "dir,real,async+zstd,25,2,2,0.5");
}

// ---- the picture ----

// A gnuplot that keeps its script in $SCRIPT and draws nothing but a name.
std::string script_of(const checkpoint_case *cell, const std::string &data) {
    TemporaryDirectory directory;
    const std::string path = getenv("PATH") == nullptr ? "" : getenv("PATH");
    write_file(directory.file("gnuplot"), "#!/bin/sh\ncat >\"$SCRIPT\"\necho picture\n");
    EXPECT_EQ(chmod(directory.file("gnuplot").c_str(), 0755), 0);
    struct options options;
    EXPECT_EQ(options_init(COMMAND_BENCH_CHECKPOINT, &options, nullptr), STATUS_OK);
    const std::string plot = directory.file("r.png");
    options.plot = plot.c_str();
    options.data = data.c_str();
    checkpoint_plan plan = {};
    plan.options = &options;
    plan.repeats = 2;
    plan.step_seconds = 0.02;
    setenv("PATH", (directory.path() + ":/usr/bin:/bin").c_str(), 1);
    setenv("SCRIPT", directory.file("script").c_str(), 1);
    bool drawn = false;
    struct error err = {};
    EXPECT_EQ(checkpoint_picture_draw(&cell, 1, &plan, &drawn, &err), STATUS_OK) << err.message;
    setenv("PATH", path.c_str(), 1);
    unsetenv("SCRIPT");
    options_free(&options);
    EXPECT_TRUE(drawn);
    return read_file(directory.file("script"));
}

// Lines of the data block whose name begins with `name`, its places on the x axis left out.
std::vector<std::string> block(const std::string &script, const std::string &name) {
    std::vector<std::string> found;
    bool inside = false;
    for (const std::string &line : lines_of(script)) {
        inside = (inside && line != "END") || line.compare(0, name.size() + 1, "$" + name) == 0;
        if (inside && line[0] != '$') {
            found.push_back(line.substr(line.find(' ') + 1));
        }
    }
    return found;
}

TEST(CheckpointPicture, WhereNoLossWasMeasuredThereIsAHollowMarkAndAGap) {
    const Case known;
    known.lose(0, 0.04, 0.06);
    known.lose(1, -0.03, 0.01); // the median is -1 %
    known.lose(2, 0.01, 0.03);
    const std::string script = script_of(known.cell, "/somebody/aclImdb");
    EXPECT_EQ(block(script, "line"), (std::vector<std::string>{"5 4 6", "NaN", "2 1 3"}));
    EXPECT_EQ(block(script, "full"), (std::vector<std::string>{"5 4 6", "2 1 3"}));
    EXPECT_EQ(block(script, "hollow"), (std::vector<std::string>{"0.01 0.01 1"}));
    EXPECT_TRUE(contains(script, "pt 6 ps 1.2 notitle")); // the full marks have the name
}

TEST(CheckpointPicture, SaysWhatItShowsAndNotWhereTheDataLie) {
    const Case known;
    known.lose(0, -0.04, -0.06);
    known.lose(1, -0.03, -0.01);
    known.lose(2, -0.01, -0.03);
    const std::string script = script_of(known.cell, "/somebody/it's");
    EXPECT_TRUE(contains(script, "'median of 2 repeats, bars from least to most; hollow on the "
                                 "axis: no loss measured'"));
    EXPECT_TRUE(contains(script, "'real state: trained on it''s'"));
    EXPECT_FALSE(contains(script, "made-up"));
    EXPECT_FALSE(contains(script, "somebody"));
    EXPECT_TRUE(contains(script, "pt 6 ps 1.2 title 'async+zstd'")); // there are no full ones
    EXPECT_FALSE(contains(script, "$full0_5 using"));
    known.cell->epoch_steps = 0; // those of no trainer
    const std::string made_up = script_of(known.cell, "data");
    EXPECT_TRUE(contains(made_up, "'made-up states: beside steps of 20 ms'"));
    EXPECT_FALSE(contains(made_up, "trained on"));
}

TEST(CheckpointPicture, SaysMemoryOfADirectoryThatIsNoDisk) {
    const Case known;
    EXPECT_TRUE(contains(script_of(known.cell, "data"), "saved to a disk, with fsync"));
    known.cell->in_memory = true;
    EXPECT_TRUE(contains(script_of(known.cell, "data"), "saved to memory (tmpfs)"));
}

// ---- who measures when ----

std::vector<int> turn(std::vector<int> asked, unsigned repeat) {
    bool modes[CHECKPOINT_MODES] = {};
    for (int mode : asked) {
        modes[mode] = true;
    }
    enum checkpoint_mode order[CHECKPOINT_MODES];
    const size_t count = checkpoint_plan_turn(modes, repeat, order);
    return std::vector<int>(order, order + count);
}

TEST(CheckpointTurn, NobodyIsAlwaysBehindTheSameOne) {
    using Order = std::vector<int>;
    EXPECT_EQ(turn({0, 3}, 0), (Order{0, 3}));
    EXPECT_EQ(turn({0, 3}, 1), (Order{3, 0}));
    EXPECT_EQ(turn({0, 3}, 2), (Order{3, 0}));
    EXPECT_EQ(turn({0, 3}, 3), (Order{0, 3}));
    EXPECT_EQ(turn({5}, 7), (Order{5}));
    EXPECT_EQ(turn({}, 1), (Order{}));
    std::map<int, int> firsts; // of three modes in six repeats
    std::map<std::pair<int, int>, int> neighbours;
    for (unsigned repeat = 0; repeat < 6; repeat++) {
        const Order order = turn({0, 1, 5}, repeat);
        ASSERT_EQ(std::set<int>(order.begin(), order.end()), (std::set<int>{0, 1, 5}));
        firsts[order[0]]++;
        neighbours[{order[0], order[1]}]++;
        neighbours[{order[1], order[2]}]++;
    }
    EXPECT_EQ(firsts, (std::map<int, int>{{0, 2}, {1, 2}, {5, 2}}));
    EXPECT_EQ(neighbours.size(), 6u); // every one behind every other one, as often as any
    for (const auto &[pair, count] : neighbours) {
        EXPECT_EQ(count, 2) << pair.first << " " << pair.second;
    }
}

} // namespace
