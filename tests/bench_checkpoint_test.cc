// `cairn bench checkpoint`: the program reports all that it promises, its numbers agree with each
// other, and it leaves nothing behind.
#include <jansson.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "tests/support/bench_figures.h"
#include "tests/support/process.h"
#include "tests/support/temporary_directory.h"
#include "gtest/gtest.h"

namespace {

bool has_gnuplot() {
    std::istringstream path(getenv("PATH") == nullptr ? "" : getenv("PATH"));
    std::string directory;
    while (std::getline(path, directory, ':')) {
        if (access((directory + "/gnuplot").c_str(), X_OK) == 0) {
            return true;
        }
    }
    return false;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool HAS_LIBC_MALLOC = false;
#else
constexpr bool HAS_LIBC_MALLOC = true;
#endif

const std::vector<std::string> kSaving = {"sync", "sync+zstd", "async", "async+zstd"};

class BenchCheckpoint : public ::testing::Test {
  protected:
    static void SetUpTestSuite() {
        directory = new TemporaryDirectory;
        const std::vector<std::string> more = {"--dir",       directory->path(),
                                               "--json",      directory->file("r.json"),
                                               "--csv",       directory->file("r.csv"),
                                               "--plot",      directory->file("r.png"),
                                               "--sizes",     "real,0.3",
                                               "--intervals", "1,5,epoch"};
        // Half a minute with sanitizers, more on a busy machine.
        Process process(
            {.program = "",
             .arguments =
                 words("bench checkpoint --quick --threads 1 --compression-level 3") + more});
        const int code = process.wait(600);
        outcome = new Outcome{code, process.out(), process.err()};
        ASSERT_EQ(outcome->code, 0) << outcome->err;
        figures = new Figures(read_figures(directory->file("r.json")));
    }
    static void TearDownTestSuite() {
        delete figures;
        delete outcome;
        delete directory;
    }
    static TemporaryDirectory *directory;
    static Outcome *outcome;
    static Figures *figures;
};
TemporaryDirectory *BenchCheckpoint::directory;
Outcome *BenchCheckpoint::outcome;
Figures *BenchCheckpoint::figures;

// A quick block has a few intervals of 1, one of everything longer.
TEST_F(BenchCheckpoint, EveryCellIsThereAndItsSavesAddUp) {
    for (const char *state : {"real", "0.3 MB"}) {
        for (const char *every : {"1", "5", "epoch"}) {
            if (std::string(every) == "epoch" && std::string(state) != "real") {
                continue; // a made-up state has no epochs
            }
            for (const std::string &mode : kSaving) {
                const std::string section =
                    std::string("dir, ") + state + ", " + mode + ", every " + every;
                SCOPED_TRACE(section);
                ASSERT_EQ(figures->count(section), 1u);
                std::map<std::string, double> cell = figures->at(section);
                EXPECT_EQ(cell.at("saves asked"), std::string(every) == "1" ? 4 : 1);
                // The median of sums is the sum of medians where two repeats are averaged.
                EXPECT_DOUBLE_EQ(cell.at("saves done") + cell.at("saves skipped"),
                                 cell.at("saves asked"));
                EXPECT_EQ(cell.at("saves delayed"), 0.0);
                EXPECT_GT(cell.at("share of saves done"), 0.0);
                EXPECT_LE(cell.at("share of saves done"), 100.0);
                if (mode.compare(0, 4, "sync") == 0) {
                    EXPECT_EQ(cell.at("saves done"), cell.at("saves asked"));
                    EXPECT_GE(cell.at("stall max"), 1e3 * cell.at("durable max")); // us and ms
                }
                EXPECT_LE(cell.at("stall p50"), cell.at("stall max"));
                EXPECT_TRUE(std::isnan(cell.at("stall p99"))); // of four calls or one
                EXPECT_TRUE(std::isnan(cell.at("stall cpu p99")));
                EXPECT_GT(cell.at("stall cpu p50"), 0.0);
                EXPECT_GT(cell.at("fsync"), 0.0);
                EXPECT_GT(cell.at("writer cpu"), 0.0);
                EXPECT_GT(cell.at("pinned memory"), 0.0);
                EXPECT_EQ(cell.at("device memory"), 0.0);
                if (HAS_LIBC_MALLOC) { // a sanitizer's keeps what was freed
                    EXPECT_GE(cell.at("resident memory"), cell.at("pinned memory"));
                }
                EXPECT_LT(cell.at("throughput lost"), 100.0);
            }
        }
    }
}

TEST_F(BenchCheckpoint, StoredFilesAreAsLargeAsTheirTensorsAndCompressedOnesSmaller) {
    for (const char *state : {"real", "0.3 MB"}) {
        const std::string begin = std::string("dir, ") + state + ", ";
        for (const std::string way : {"sync", "async"}) {
            const auto &stored = figures->at(begin + way + ", every 5");
            const auto &packed = figures->at(begin + way + "+zstd, every 5");
            EXPECT_NEAR(stored.at("ratio"), 1.0, 0.03);
            EXPECT_GT(packed.at("ratio"), 1.03);
            // Files differ by a few bytes (times in their metadata), so a median of ratios is not the
            // ratio of medians.
            EXPECT_NEAR(stored.at("ratio"), stored.at("tensors") / stored.at("file"), 1e-4);
            EXPECT_EQ(stored.at("tensors"), packed.at("tensors"));
        }
    }
    // Two slots hold the state, no more.
    EXPECT_NEAR(figures->at("dir, 0.3 MB, async, every 5").at("tensors"), 300000, 12);
    EXPECT_NEAR(figures->at("dir, 0.3 MB, async, every 5").at("pinned memory"), 0.6, 1e-4);
}

TEST_F(BenchCheckpoint, TheModesThatSaveNothingHaveOnlyTheirTimes) {
    const auto &off = figures->at("dir, real, off, every 5");
    EXPECT_EQ(off.at("throughput lost"), 0.0);
    EXPECT_EQ(off.count("stall p50") + off.count("saves done"), 0u);
    const auto &copy = figures->at("dir, real, copy, every 5");
    EXPECT_GT(copy.at("stall p50"), 0.0);
    EXPECT_EQ(copy.count("saves done"), 0u);
}

TEST_F(BenchCheckpoint, ARestoreIsSplitAndAKilledTrainerThatWaitsForItsSavesLosesAtMostAnInterval) {
    for (const char *part : {"find", "read", "verify", "decompress", "load", "whole"}) {
        EXPECT_GT(figures->at("dir, real, restore, warm").at(part), 0.0);
        EXPECT_GT(figures->at("dir, 0.3 MB, restore, warm").at(part), 0.0);
    }
    // The arithmetic of a save, beside zstd's; both shrink what rows of normal numbers leave.
    for (const char *state : {"dir, real, encode", "dir, 0.3 MB, encode"}) {
        const auto &encode = figures->at(state);
        EXPECT_GT(encode.at("speed"), 0.0);
        EXPECT_GT(encode.at("zstd alone, speed"), 0.0);
        EXPECT_GT(encode.at("share of zstd's speed"), 0.0);
        EXPECT_GT(encode.at("ratio"), 1.03);
        EXPECT_GT(encode.at("zstd alone, ratio"), 1.03);
    }
    for (const std::string &mode : kSaving) {
        const auto &kill = figures->at("dir, kill, " + mode + ", every 1");
        EXPECT_GE(kill.at("steps lost, mean"), 0.0);
        EXPECT_LE(kill.at("steps lost, mean"), kill.at("steps lost, max"));
        EXPECT_EQ(kill.at("steps between saves"), 1.0);
        if (mode.compare(0, 4, "sync") == 0) {
            EXPECT_LE(kill.at("steps lost, max"),
                      1.0); // the first interval, as 10 is not among them
        }
    }
}

TEST_F(BenchCheckpoint, TheCsvHasALineForEveryRepeatWithTheFiguresOfTheJson) {
    const auto rows = of_kind(read_csv(directory->file("r.csv")), "repeat");
    EXPECT_EQ(rows.size(), 2u * 6 * (3 + 2)); // repeats, modes, intervals of both states
    double sum = 0;
    std::map<std::string, double> off; // what a repeat is compared with
    const auto turn = [](const std::map<std::string, std::string> &row) {
        return row.at("state") + " " + row.at("interval") + " " + row.at("repeat");
    };
    for (const auto &row : rows) {
        if (row.at("mode") == "off") {
            off[turn(row)] = std::stod(row.at("time_of_a_step_ms"));
        }
    }
    for (auto row : rows) {
        const double step = std::stod(row.at("time_of_a_step_ms"));
        EXPECT_NEAR(std::stod(row.at("throughput_lost_percent")),
                    100 * (1 - off.at(turn(row)) / step), 1e-4);
        EXPECT_EQ(row.at("stall_p99_us"), "");
        if (row["state"] == "real" && row["mode"] == "async" && row["interval"] == "5") {
            sum += std::stod(row.at("stall_p50_us"));
        }
        EXPECT_EQ(row.at("stall_p50_us").empty(), row["mode"] == "off");
        EXPECT_EQ(row.at("file_bytes").empty(), row["mode"] == "off" || row["mode"] == "copy");
    }
    const double median = figures->at("dir, real, async, every 5").at("stall p50");
    EXPECT_NEAR(sum / 2, median, 1e-6 * median); // of two
}

TEST_F(BenchCheckpoint, TheLargestIsThatOfAllSavesOfAllRepeats) {
    std::map<std::string, double> most, whole; // by section and name
    const auto names = {"stall max us", "stall cpu max us", "durable max ms"};
    for (const auto &row : read_csv(directory->file("r.csv"))) {
        const std::string section = row.at("storage") + ", " + row.at("state") + ", " +
                                    row.at("mode") + ", every " + row.at("interval");
        for (std::string field : names) {
            const std::string name = section + ": " + field.substr(0, field.rfind(' '));
            std::replace(field.begin(), field.end(), ' ', '_');
            if (row.at(field).empty()) {
                continue;
            }
            if (row.at("kind") == "repeat") {
                most[name] = std::max(most[name], std::stod(row.at(field)));
            } else {
                EXPECT_EQ(row.at("kind"), "all repeats");
                whole[name] = std::stod(row.at(field));
            }
        }
    }
    EXPECT_EQ(most.size(), (3u + 2) * (2 * 5 + 4)); // two of copies and saves, and one of saves
    EXPECT_EQ(whole, most);
    for (const auto &[name, value] : most) {
        const size_t colon = name.find(": ");
        const double said = figures->at(name.substr(0, colon)).at(name.substr(colon + 2));
        EXPECT_NEAR(said, value, 1e-6 * value) << name;
    }
}

// Every line has the means of one repeat. What the queue takes is none of the time behind the rename.
TEST_F(BenchCheckpoint, TheMeansOfThePartsAddUpToTheMeanTimeUntilASaveIsDurable) {
    size_t lines = 0;
    for (const auto &row : of_kind(read_csv(directory->file("r.csv")), "repeat")) {
        if (row.at("saves_done").empty() || std::stod(row.at("saves_done")) == 0) {
            continue; // a mode that saves nothing, or a repeat in which none was done
        }
        double sum = 0;
        for (const char *part :
             {"call", "queued", "snapshot", "compress", "write", "fsync", "rename"}) {
            const double mean = std::stod(row.at(std::string(part) + "_ms"));
            EXPECT_GE(mean, -1e-9) << part; // one after the other
            sum += mean;
        }
        const double durable = std::stod(row.at("durable_mean_ms"));
        EXPECT_NEAR(sum, durable, 1e-6 * durable);
        EXPECT_LE(durable, std::stod(row.at("durable_max_ms")) * (1 + 1e-6));
        EXPECT_GT(std::stod(row.at("retain_ms")), 0.0); // or the test shows nothing
        lines++;
    }
    EXPECT_GT(lines, 0u);
}

// Restores and encodings of both states, each with its repeats, and the trainers killed in each
// mode, at the first interval.
TEST_F(BenchCheckpoint, TheCsvHasRestoresEncodingsAndKillsWithTheFiguresOfTheJson) {
    std::map<std::string, double> sums; // by section and name
    std::map<std::string, size_t> lines;
    for (const auto &row : read_csv(directory->file("r.csv"))) {
        const std::string &kind = row.at("kind"), place = row.at("storage") + ", ";
        const std::string state = place + row.at("state") + ", ";
        const bool restore = kind == "restore", encode = kind == "encode";
        const bool kill = kind == "kill", kills = kind == "all kills";
        lines[kind + row.at("mode")]++;
        EXPECT_EQ(row.at("restore_warm_whole_ms").empty(), !restore);
        EXPECT_EQ(row.at("encode_ratio").empty(), !encode);
        EXPECT_EQ(row.at("steps_lost").empty(), !kill);
        EXPECT_EQ(row.at("steps_lost_max").empty(), !kills);
        EXPECT_EQ(row.at("time_of_a_step_ms").empty(), kind != "repeat");
        EXPECT_EQ(row.at("mode").empty(), restore || encode);
        EXPECT_EQ(row.at("interval").empty(), restore || encode);
        EXPECT_EQ(row.at("repeat").empty(), kills || kind == "all repeats");
        for (const char *part : {"find", "read", "verify", "decompress", "load", "whole"}) {
            for (const std::string cache : {"cold", "warm"}) {
                const std::string section = state + "restore, " + cache;
                const bool measured = restore && figures->count(section) > 0;
                const std::string &field = row.at("restore_" + cache + "_" + part + "_ms");
                EXPECT_EQ(field.empty(), !measured) << section;
                if (measured) {
                    sums[section + ": " + part] += std::stod(field);
                }
            }
        }
        if (encode) {
            sums[state + "encode: speed"] += std::stod(row.at("encode_MB_per_s"));
            sums[state + "encode: zstd alone, ratio"] += std::stod(row.at("zstd_alone_ratio"));
        }
        if (kill || kills) {
            EXPECT_EQ(row.at("interval"), "1");
            EXPECT_EQ(row.at("state"), "real");
            const auto &section = figures->at(place + "kill, " + row.at("mode") + ", every 1");
            // Of one trainer.
            for (const char *field : {"steps_lost", "steps_lost_mean", "steps_lost_max"}) {
                const std::string &text = row.at(field);
                EXPECT_TRUE(text.empty() || std::stod(text) == section.at("steps lost")) << field;
            }
            EXPECT_EQ(row.at("interval_steps"), kills ? "1" : "");
        }
    }
    EXPECT_EQ(lines["restore"], 2u * 2);
    EXPECT_EQ(lines["encode"], 2u * 2);
    for (const std::string &mode : kSaving) {
        EXPECT_EQ(lines["kill" + mode], 1u);
        EXPECT_EQ(lines["all kills" + mode], 1u);
        EXPECT_EQ(lines["all repeats" + mode], 3u + 2u); // intervals of both states
    }
    for (const auto &[name, sum] : sums) {
        const size_t colon = name.find(": ");
        const double median = figures->at(name.substr(0, colon)).at(name.substr(colon + 2));
        EXPECT_NEAR(sum / 2, median, 1e-6 * median) << name; // of two
    }
}

TEST_F(BenchCheckpoint, ThePictureIsAPngAndAlsoOnTheTerminal) {
    EXPECT_TRUE(contains(outcome->out, "dir, real state: throughput lost, %"));
    EXPECT_TRUE(contains(outcome->out, "A = async+zstd"));
    if (has_gnuplot()) {
        EXPECT_EQ(read_file(directory->file("r.png")).substr(0, 8), "\x89PNG\r\n\x1a\n");
    } else {
        EXPECT_TRUE(contains(outcome->out, "there is no gnuplot"));
        EXPECT_FALSE(exists(directory->file("r.png")));
    }
}

TEST_F(BenchCheckpoint, TheJsonSaysWhatWasMeasuredWhenAndOnHowManyThreads) {
    std::unique_ptr<json_t, decltype(&json_decref)> root(
        json_load_file(directory->file("r.json").c_str(), 0, nullptr), json_decref);
    EXPECT_NE(json_string_length(json_object_get(root.get(), "revision")), 0u);
    EXPECT_NE(json_string_length(json_object_get(root.get(), "date")), 0u);
    const json_t *device = json_object_get(root.get(), "device");
    EXPECT_STREQ(json_string_value(json_object_get(device, "name")), "cpu");
    EXPECT_EQ(json_integer_value(json_object_get(device, "threads")), 1);
}

TEST_F(BenchCheckpoint, NothingIsLeftBehind) {
    for (const std::string &name : list_directory(directory->path())) {
        EXPECT_EQ(name.substr(0, 2), "r.") << name;
    }
}

} // namespace
