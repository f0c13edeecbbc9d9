// `cairn bench checkpoint` with one option or another, and when something goes wrong.
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "tests/support/bench_figures.h"
#include "tests/support/process.h"
#include "tests/support/temporary_directory.h"
#include "gtest/gtest.h"

namespace {

// Everything but what is saved, how often and how many are killed.
std::vector<std::string> shortest(const TemporaryDirectory &directory) {
    return words("bench checkpoint --quick --threads 1 --modes off,async --storage dir --dir") +
           std::vector<std::string>{directory.path(), "--json", directory.file("r.json"), "--csv",
                                    directory.file("r.csv")};
}

TEST(BenchCheckpointOptions, AHundredSavesHaveAP99) {
    TemporaryDirectory directory;
    const Outcome outcome = run_cairn(
        shortest(directory) + words("--sizes 0.02 --intervals 1 --saves 100 --modes off,sync "
                                    "--step-ms 0.01 --repeats 1 --kills 0"));
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    const auto cell = read_figures(directory.file("r.json")).at("dir, 0.02 MB, sync, every 1");
    EXPECT_EQ(cell.at("saves done"), 100.0);
    EXPECT_EQ(cell.at("share of saves done"), 100.0);
    EXPECT_LE(cell.at("stall p50"), cell.at("stall p99"));
    EXPECT_LE(cell.at("stall p99"), cell.at("stall max"));
    EXPECT_LE(cell.at("stall cpu p99"), cell.at("stall cpu max"));
}

// Of sixty saves in each of six repeats: an interval for the median, and a p99 of them all.
TEST(BenchCheckpointOptions, SixRepeatsHaveAnIntervalAndTogetherAP99) {
    TemporaryDirectory directory;
    const Outcome outcome =
        run_cairn(shortest(directory) +
                  words("--sizes 0.02 --intervals 1 --saves 60 --modes off,copy "
                        "--step-ms 0.01 --repeats 6 --kills 0 --stalls") +
                  std::vector<std::string>{directory.file("r.stalls")});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    std::vector<double> stalls;
    for (const auto &row : read_csv(directory.file("r.stalls"))) {
        EXPECT_EQ(row.at("mode"), "copy");
        EXPECT_EQ(std::stoul(row.at("repeat")), stalls.size() / 60 + 1);
        stalls.push_back(std::stod(row.at("stall_us")));
    }
    ASSERT_EQ(stalls.size(), 360u);
    std::sort(stalls.begin(), stalls.end());
    const auto copy = read_figures(directory.file("r.json")).at("dir, 0.02 MB, copy, every 1");
    EXPECT_TRUE(std::isnan(copy.at("stall p99")));
    EXPECT_NEAR(copy.at("stall p99 of all"), stalls[356], 1e-6 * stalls[356]); // 356.4 are 99 %
    EXPECT_NEAR(copy.at("stall max"), stalls[359], 1e-6 * stalls[359]);
    std::unique_ptr<json_t, decltype(&json_decref)> root(
        json_load_file(directory.file("r.json").c_str(), 0, nullptr), json_decref);
    size_t i, intervals = 0;
    json_t *figure;
    json_array_foreach(json_object_get(root.get(), "figures"), i, figure) {
        if (std::string("throughput lost") == json_string_value(json_object_get(figure, "name"))) {
            const double median = json_number_value(json_object_get(figure, "median"));
            EXPECT_LE(json_number_value(json_object_get(figure, "median_low")), median);
            EXPECT_GE(json_number_value(json_object_get(figure, "median_high")), median);
            intervals += json_is_number(json_object_get(figure, "median_low"));
        }
    }
    EXPECT_EQ(intervals, 2u); // off has one, too: nothing
}

// An interval is a tenth of a second: a trainer must live for longer to lose what it can lose.
TEST(BenchCheckpointOptions, ATrainerThatIsKilledHasLivedForAnIntervalAndMore) {
    TemporaryDirectory directory;
    const Outcome outcome = run_cairn(
        shortest(directory) +
        words("--sizes 0.02 --intervals 100 --saves 1 --modes off,async --step-ms 1 --kills 3"));
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    const auto rows = read_csv(directory.file("r.csv"));
    const auto kills = of_kind(rows, "kill"), all = of_kind(rows, "all kills");
    ASSERT_EQ(kills.size(), 3u);
    ASSERT_EQ(all.size(), 1u);
    double made = 0, lost = 0, most = 0;
    for (size_t i = 0; i < kills.size(); i++) {
        EXPECT_EQ(kills[i].at("mode"), "async");
        EXPECT_EQ(kills[i].at("repeat"), std::to_string(i + 1));
        const double one = std::stod(kills[i].at("steps_lost"));
        made += std::stod(kills[i].at("steps_made"));
        EXPECT_LE(one, std::stod(kills[i].at("steps_made")));
        lost += one;
        most = std::max(most, one);
    }
    EXPECT_GT(made / 3, 100.0); // about 300
    EXPECT_NEAR(std::stod(all[0].at("steps_lost_mean")), lost / 3, 1e-6);
    EXPECT_EQ(std::stod(all[0].at("steps_lost_max")), most);
    EXPECT_EQ(all[0].at("interval_steps"), "100");
    const auto section = read_figures(directory.file("r.json")).at("dir, kill, async, every 100");
    EXPECT_EQ(section.at("steps between saves"), 100.0);
    EXPECT_EQ(section.at("steps lost, max"), most);
    EXPECT_GT(section.at("interval"), 50.0); // ms
    EXPECT_TRUE(contains(outcome.err, "dir, kill, async: 3 trainers, each after")) << outcome.err;
}

// Nearly all of its time it waits for a save: a kill there costs the step before it.
TEST(BenchCheckpointOptions, AKillInTheMiddleOfASaveThatIsWaitedForCostsAStep) {
    TemporaryDirectory directory;
    const Outcome outcome = run_cairn(shortest(directory) +
                                      words("--sizes 0.02 --intervals 1 --saves 1 --modes off,sync "
                                            "--step-ms 0.01 --kills 20"));
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    const auto section = read_figures(directory.file("r.json")).at("dir, kill, sync, every 1");
    EXPECT_EQ(section.at("steps lost, max"), 1.0);
}

TEST(BenchCheckpointOptions, WhatIsNamedTwiceIsMeasuredOnce) {
    TemporaryDirectory directory;
    const Outcome outcome =
        run_cairn(shortest(directory) + words("--sizes 0.02,0.020 --intervals 1,2,1 --saves 2 "
                                              "--step-ms 0.01 --repeats 1 --kills 0"));
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    std::multiset<std::string> measured;
    for (const auto &row : of_kind(read_csv(directory.file("r.csv")), "repeat")) {
        measured.insert(row.at("mode") + " " + row.at("interval"));
    }
    EXPECT_EQ(measured, (std::multiset<std::string>{"off 1", "async 1", "off 2", "async 2"}));
}

TEST(BenchCheckpointOptions, WithoutQuickThereAreAsManyRepeatsAsTheHelpSays) {
    TemporaryDirectory directory;
    const Outcome outcome = run_cairn(
        words("bench checkpoint --threads 1 --sizes 0.02 --intervals 1 --saves 2 --modes sync "
              "--step-ms 0.01 --storage dir --kills 0 --dir") +
        std::vector<std::string>{directory.path(), "--csv", directory.file("r.csv")});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    const auto rows = of_kind(read_csv(directory.file("r.csv")), "repeat");
    EXPECT_EQ(rows.size(), 6u);
    EXPECT_EQ(rows.at(0).at("mode"), "sync");
    EXPECT_EQ(rows.at(0).at("throughput_lost_percent"), ""); // there is nothing to compare it with
    EXPECT_FALSE(contains(outcome.out, "nan")) << outcome.out;
}

// {name: type, shape, bytes and digest} of a made-up state's tensors, as `cairn inspect` tells them.
std::map<std::string, std::string> kept_tensors(const std::string &path) {
    const Outcome inspect = run_cairn({"inspect", path});
    EXPECT_EQ(inspect.code, 0) << inspect.err;
    std::map<std::string, std::string> tensors;
    std::istringstream out(inspect.out);
    for (std::string line, name, rest; std::getline(out, line);) {
        std::istringstream fields(line);
        if (contains(line, ".weight ") && fields >> name && std::getline(fields >> std::ws, rest)) {
            tensors[name] = rest;
        }
    }
    return tensors;
}

// A thousand numbers in each of three parts, cut into four.
TEST(BenchCheckpointKeepState, TheFirstStateThatIsMeasuredIsAFileThatInspectTakes) {
    TemporaryDirectory directory;
    const std::string kept = directory.file("r.state");
    write_file(kept, "what was there");
    const Outcome outcome = run_cairn(
        shortest(directory) + words("--sizes 0.012,0.024 --intervals 1 --kills 0 --keep-state") +
        std::vector<std::string>{kept});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(read_figures(directory.file("r.json")).count("dir, 0.024 MB, async, every 1"), 1u);
    const auto tensors = kept_tensors(kept);
    EXPECT_EQ(tensors.size(), 3u * 4);
    for (const std::string part : {"", "adam.m.", "adam.v."}) {
        for (int i = 0; i < 4; i++) {
            const auto tensor = tensors.find(part + "layer" + std::to_string(i) + ".weight");
            ASSERT_NE(tensor, tensors.end()) << part << i;
            std::istringstream about(tensor->second);
            std::string type, shape, bytes;
            about >> type >> shape >> bytes;
            EXPECT_EQ(type + " " + shape + " " + bytes, "F32 [250] 1000");
        }
    }
    for (const std::string &name : list_directory(directory.path())) {
        EXPECT_EQ(name.substr(0, 2), "r.") << name;
    }
}

// Who saves a kept state in another way saves what the other runs save.
TEST(BenchCheckpointKeepState, AMadeUpStateIsTheSameInEveryRun) {
    TemporaryDirectory directory;
    for (const char *run : {"r.one --modes off --saves 1", "r.two --modes sync+zstd --saves 3"}) {
        const Outcome outcome = ::run(
            {.program = "",
             .arguments = shortest(directory) +
                          words("--sizes 0.02 --intervals 1 --kills 0 --keep-state") + words(run),
             .directory = directory.path()});
        ASSERT_EQ(outcome.code, 0) << outcome.err;
    }
    const auto one = kept_tensors(directory.file("r.one"));
    EXPECT_EQ(one.size(), 3u * 4);
    EXPECT_EQ(one, kept_tensors(directory.file("r.two")));
}

TEST(BenchCheckpointOptions, APathThatNobodyCanWriteIsRefusedBeforeAnythingIsMeasured) {
    TemporaryDirectory directory;
    ASSERT_EQ(mkfifo(directory.file("pipe").c_str(), 0600), 0);
    for (const std::string option : {"--keep-state", "--plot"}) {
        for (const std::string &path :
             {directory.path(), directory.file("pipe"), directory.file("none/state")}) {
            SCOPED_TRACE(option + " " + path);
            const Outcome outcome =
                run_cairn(shortest(directory) + std::vector<std::string>{option, path});
            EXPECT_EQ(outcome.code, 73);
            EXPECT_TRUE(contains(outcome.err, option)) << outcome.err;
            EXPECT_TRUE(contains(outcome.err, path)) << outcome.err;
            EXPECT_EQ(outcome.out, "");
            EXPECT_EQ(list_directory(directory.path()), std::vector<std::string>{"pipe"});
        }
    }
}

TEST(BenchCheckpointOptions, TwoResultsInOneFileAreRefused) {
    TemporaryDirectory directory;
    write_file(directory.file("there"), "what was there");
    ASSERT_EQ(link(directory.file("there").c_str(), directory.file("link").c_str()), 0);
    const std::vector<std::pair<std::string, std::string>> pairs = {
        {"--json new", "--csv new"},
        {"--csv new", "--stalls new"},
        {"--plot new", "--keep-state new"},
        {"--json there", "--plot link"},
    };
    for (const auto &[one, other] : pairs) {
        SCOPED_TRACE(one + " " + other);
        const Outcome outcome =
            run({.program = "",
                 .arguments = words("bench checkpoint --quick " + one) + words(other),
                 .directory = directory.path()});
        EXPECT_EQ(outcome.code, 2) << outcome.err;
        for (const std::string &options : {one, other}) {
            EXPECT_TRUE(contains(outcome.err, options.substr(0, options.find(' '))));
        }
    }
    EXPECT_EQ(list_directory(directory.path()), (std::vector<std::string>{"link", "there"}));
    EXPECT_EQ(read_file(directory.file("there")), "what was there");
    const Outcome nowhere =
        run_cairn(words("bench checkpoint --quick --sizes 0.02 --modes off,sync "
                        "--kills 0 --intervals 1 --json /dev/null --csv "
                        "/dev/null --dir") +
                  std::vector<std::string>{directory.path()});
    EXPECT_EQ(nowhere.code, 0) << nowhere.err;
}

TEST(BenchCheckpointOptions, APictureThatWouldShowNothingIsRefused) {
    TemporaryDirectory directory;
    for (const char *shown :
         {"--modes off,async --intervals 2", "--modes async,sync --intervals 1,2",
          "--modes off,copy --intervals 1,2",
          "--modes off,async --sizes 0.02 --intervals 2,epoch"}) {
        SCOPED_TRACE(shown);
        const Outcome outcome =
            run_cairn(shortest(directory) + words(shown) +
                      std::vector<std::string>{"--plot", directory.file("r.png")});
        EXPECT_EQ(outcome.code, 2) << outcome.err;
        EXPECT_TRUE(contains(outcome.err, "--plot")) << outcome.err;
        EXPECT_TRUE(contains(outcome.err, "off")) << outcome.err;
        EXPECT_TRUE(contains(outcome.err, "two --intervals")) << outcome.err;
        EXPECT_TRUE(list_directory(directory.path()).empty());
    }
}

TEST(BenchCheckpointOptions, ModesOfAGpuAreRefusedOnACpuWhereTheyAreAskedFor) {
    TemporaryDirectory directory;
    const std::vector<std::string> few =
        words("--device cpu --sizes 0.02 --intervals 1 --saves 1 --kills 0");
    for (const char *modes : {"off,direct", "direct+zstd"}) {
        SCOPED_TRACE(modes);
        const Outcome outcome =
            run_cairn(shortest(directory) + few + std::vector<std::string>{"--modes", modes});
        EXPECT_EQ(outcome.code, 69) << outcome.err;
        EXPECT_TRUE(contains(outcome.err, std::string("--modes ") + modes)) << outcome.err;
        EXPECT_TRUE(list_directory(directory.path()).empty());
    }
    // All modes, by default or by a file that --print-config wrote: a line says what is missing.
    const Outcome outcome =
        run_cairn(shortest(directory) + few +
                  words("--modes off,copy,sync,sync+zstd,async,async+zstd,direct,direct+zstd"));
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(read_fact(directory.file("r.json"), "left out: direct"), "of a GPU only");
    EXPECT_TRUE(contains(outcome.out, "left out: direct")) << outcome.out;
}

TEST(BenchCheckpointFailure, WhatWasMeasuredIsWrittenAlthoughThePictureFails) {
    TemporaryDirectory directory;
    write_file(directory.file("gnuplot"), "#!/bin/sh\nexit 3\n");
    ASSERT_EQ(chmod(directory.file("gnuplot").c_str(), 0755), 0);
    const Outcome outcome = run(
        {.program = "/usr/bin/env",
         .arguments =
             std::vector<std::string>{"PATH=" + directory.path() + ":/usr/bin:/bin", CAIRN_BINARY} +
             shortest(directory) + words("--sizes 0.02 --intervals 1,2 --kills 0 --plot r.png"),
         .directory = directory.path()});
    EXPECT_EQ(outcome.code, 74) << outcome.err;
    EXPECT_TRUE(contains(outcome.err, "gnuplot has failed")) << outcome.err;
    const Figures figures = read_figures(directory.file("r.json"));
    EXPECT_EQ(figures.count("dir, 0.02 MB, async, every 2"), 1u);
    EXPECT_EQ(of_kind(read_csv(directory.file("r.csv")), "repeat").size(),
              2u * 2 * 2); // off and async
    EXPECT_TRUE(contains(read_fact(directory.file("r.json"), "incomplete"), "gnuplot has failed"));
}

TEST(BenchCheckpointFailure, AStateThatIsTooLargeIsLeftOutAndTheReportSaysSo) {
    if (static_cast<double>(sysconf(_SC_PHYS_PAGES)) * 4096 > 200e9) {
        GTEST_SKIP() << "this machine has the memory";
    }
    TemporaryDirectory directory;
    const Outcome outcome = run_cairn(
        shortest(directory) + words("--sizes 50000,0.02 --intervals 2 --kills 1 --keep-state") +
        std::vector<std::string>{directory.file("r.state")});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    for (const char *name : {"left out: dir, 50000 MB", "left out: dir, kill"}) {
        EXPECT_TRUE(contains(read_fact(directory.file("r.json"), name), "too little free")) << name;
        EXPECT_TRUE(contains(outcome.out, name));
    }
    EXPECT_EQ(read_figures(directory.file("r.json")).count("dir, 0.02 MB, async, every 2"), 1u);
    EXPECT_EQ(run_cairn({"inspect", directory.file("r.state")}).code, 0);
}

// Of a benchmark below `directory` in which a trainer has begun; "" when there is none.
std::string busy_place(const TemporaryDirectory &directory) {
    for (const std::string &name : list_directory(directory.path())) {
        if (name.rfind("cairn-bench-", 0) == 0) {
            for (const std::string &inner : list_directory(directory.file(name))) {
                if (inner.rfind("kill-", 0) == 0) {
                    return directory.file(name);
                }
            }
        }
    }
    return "";
}

// Until nobody has it; false when there is no such file.
bool wait_for_lock(const std::string &path) {
    const int file = open(path.c_str(), O_RDWR | O_CLOEXEC);
    const bool locked = file >= 0 && flock(file, LOCK_EX) == 0;
    close(file);
    return locked;
}

TEST(BenchCheckpointFailure, WhatAKilledBenchmarkLeavesIsRemovedByTheNextOne) {
    TemporaryDirectory directory;
    const std::string similar = directory.file("cairn-bench-mine");
    ASSERT_EQ(mkdir(similar.c_str(), 0700), 0);
    write_file(similar + "/file", "mine");
    Process process(
        {.program = {},
         .arguments = words("bench checkpoint --quick --threads 1 --storage dir --modes async "
                            "--sizes 0.02 --intervals 2 --kills 255 --dir") +
                      std::vector<std::string>{directory.path()}});
    ASSERT_TRUE(process.wait_for([&] { return !busy_place(directory).empty(); }));
    const std::string place = busy_place(directory);
    const std::vector<std::string> another =
        shortest(directory) + words("--sizes 0.02 --intervals 1 --saves 1 --kills 0");
    const Outcome beside = run_cairn(another);
    EXPECT_EQ(beside.code, 0) << beside.err;
    EXPECT_EQ(access(place.c_str(), F_OK), 0) << "the other one was still running";
    process.signal(SIGKILL);
    process.wait();
    ASSERT_TRUE(wait_for_lock(place + "/lock")); // its last trainer ends when it sees it
    const Outcome next = run_cairn(another);
    EXPECT_EQ(next.code, 0) << next.err;
    EXPECT_TRUE(contains(next.err, "removing " + place)) << next.err;
    EXPECT_EQ(list_directory(directory.path()),
              (std::vector<std::string>{"cairn-bench-mine", "r.csv", "r.json"}));
    EXPECT_EQ(read_file(similar + "/file"), "mine");
}

TEST(BenchCheckpointFailure, AStopSignalWhileTrainersAreKilledEndsItAndLeavesNothing) {
    TemporaryDirectory directory;
    write_file(directory.file("r.csv"), "of an earlier run\n");
    Process process(
        {.program = {},
         .arguments = shortest(directory) + words("--sizes 0.02 --intervals 2 --kills 255")});
    ASSERT_TRUE(process.wait_for([&] { return !busy_place(directory).empty(); }));
    process.signal(SIGTERM);
    EXPECT_EQ(process.wait(), 75) << process.err();
    EXPECT_TRUE(contains(process.err(), "stopped by a signal")) << process.err();
    for (const std::string &name : list_directory(directory.path())) {
        EXPECT_EQ(name.substr(0, 2), "r.") << name;
    }
    EXPECT_EQ(read_file(directory.file("r.csv")), "of an earlier run\n");
}

TEST(BenchCheckpointOptions, MadeUpStatesNeedAnIntervalInSteps) {
    for (const char *sizes : {"1.7", "real,1.7"}) {
        const Outcome outcome = run_cairn(words("bench checkpoint --intervals epoch --sizes") +
                                          std::vector<std::string>{sizes});
        EXPECT_EQ(outcome.code, 2);
        EXPECT_TRUE(contains(outcome.err, "no epochs")) << outcome.err;
    }
    TemporaryDirectory directory; // the first interval is not one for the trainers to be killed
    const Outcome mixed =
        run_cairn(shortest(directory) + words("--sizes 0.02 --intervals epoch,3 --kills 1"));
    EXPECT_EQ(mixed.code, 0) << mixed.err;
    EXPECT_EQ(read_fact(directory.file("r.json"), "dir, kill"),
              "trainers, 0.02 MB state, saving every 3 steps");
}

TEST(BenchCheckpointOptions, AWrongWordOfAListIsRefusedWithWhatIsExpected) {
    const struct {
        const char *option, *value, *expected;
    } cases[] = {{"--modes", "async,asink", "async+zstd"},
                 {"--intervals", "10,0", "from 1"},
                 {"--sizes", "real,-1", "MB"},
                 {"--storage", "disk", "tmpfs"},
                 {"--modes", "async,", "async+zstd"}};
    for (const auto &wrong : cases) {
        SCOPED_TRACE(wrong.option);
        const Outcome outcome = run_cairn({"bench", "checkpoint", wrong.option, wrong.value});
        EXPECT_EQ(outcome.code, 2);
        EXPECT_TRUE(contains(outcome.err, wrong.option)) << outcome.err;
        EXPECT_TRUE(contains(outcome.err, wrong.expected)) << outcome.err;
    }
    const Outcome nowhere =
        run_cairn(words("bench checkpoint --quick --dir /nonexistent/directory"));
    EXPECT_EQ(nowhere.code, 73);
    EXPECT_TRUE(contains(nowhere.err, "/nonexistent/directory"));
}

} // namespace
