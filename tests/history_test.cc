// history.jsonl and history.csv: what is written, what a resume keeps and cuts, failures, power
// cuts.
#include "io/history.h"

#include <errno.h>
#include <gtest/gtest.h>
#include <math.h>
#include <string.h>

#include <limits>
#include <memory>
#include <sstream>

#include "tests/support/faulty_files.h"
#include "tests/support/memory_files.h"
#include "tests/support/temporary_directory.h"

namespace {

const std::string kRun = "/run", kJsonl = "/run/history.jsonl", kCsv = "/run/history.csv";

struct HistoryDeleter {
    void operator()(struct history *history) const { history_close(history); }
};
using History = std::unique_ptr<struct history, HistoryDeleter>;

struct Point {
    uint64_t step = 0;
    std::vector<struct epoch_row> rows = {};
    bool has_validation = true;
};

enum status try_open(const struct file_table *files, const Point &point, History *out,
                     uint64_t *lost_step, struct error *err, const std::string &directory = kRun) {
    struct history_point at = {point.step, point.rows.data(), point.rows.size(),
                               point.has_validation};
    struct history *history = nullptr;
    enum status status = history_open(files, directory.c_str(), &at, &history, lost_step, err);
    EXPECT_EQ(history != nullptr, status == STATUS_OK);
    out->reset(history);
    return status;
}

History open_history(const struct file_table *files, const Point &point = {}) {
    History out;
    struct error err;
    EXPECT_EQ(try_open(files, point, &out, nullptr, &err), STATUS_OK) << err.message;
    return out;
}

void event(const History &history, const std::string &line) {
    struct error err;
    ASSERT_EQ(history_event(history.get(), line.c_str(), &err), STATUS_OK) << err.message;
}

// ---- writing ----

TEST(History, AFreshRunStartsBothFiles) {
    MemoryFiles disk;
    disk.make_directory(kRun);
    History history = open_history(disk.table());
    event(history, "{\"event\": \"start\", \"step\": 0}");
    event(history, "{\"event\": \"step\", \"step\": 100, \"loss\": 0.5}");
    struct epoch_row row = {0.5, 0.75, 0.25, 0.875};
    struct error err;
    ASSERT_EQ(history_epoch_row(history.get(), 0, &row, &err), STATUS_OK);
    EXPECT_EQ(disk.get(kJsonl), "{\"event\": \"start\", \"step\": 0}\n"
                                "{\"event\": \"step\", \"step\": 100, \"loss\": 0.5}\n");
    EXPECT_EQ(disk.get(kCsv), "epoch,accuracy,loss,val_accuracy,val_loss\n"
                              "0,0.75,0.5,0.875,0.25\n");
}

TEST(History, OneWriteForEachLine) {
    MemoryFiles disk;
    disk.make_directory(kRun);
    History history = open_history(disk.table());
    size_t before = disk.op_count();
    event(history, "{}");
    auto log = disk.log();
    ASSERT_EQ(log.size(), before + 1);
    EXPECT_EQ(log.back().bytes, "{}\n");
}

TEST(History, WithoutValidationThreeColumns) {
    MemoryFiles disk;
    disk.make_directory(kRun);
    History history = open_history(disk.table(), {0, {{0.5, 0.75, NAN, NAN}}, false});
    struct epoch_row row = {0.25, 1, NAN, NAN};
    struct error err;
    ASSERT_EQ(history_epoch_row(history.get(), 1, &row, &err), STATUS_OK);
    EXPECT_EQ(disk.get(kCsv), "epoch,accuracy,loss\n0,0.75,0.5\n1,1,0.25\n");
}

TEST(History, WhatWasNotMeasuredIsNaAndWhatIsNotANumberIsNan) {
    MemoryFiles disk;
    disk.make_directory(kRun);
    double nan = std::numeric_limits<double>::quiet_NaN();
    double infinity = std::numeric_limits<double>::infinity();
    open_history(
        disk.table(),
        {0, {{0.5, 0.75, nan, nan}, {nan, 0.5, -nan, 0.5}, {infinity, 0.5, -infinity, 0.5}}});
    EXPECT_EQ(disk.get(kCsv), "epoch,accuracy,loss,val_accuracy,val_loss\n"
                              "0,0.75,0.5,NA,NA\n"
                              "1,0.5,nan,0.5,nan\n"
                              "2,0.5,inf,0.5,-inf\n");
}

TEST(History, NumbersReadBackTheSameAndAreShort) {
    std::vector<struct epoch_row> rows;
    for (double x :
         {0.1, 1.0 / 3, 2.0 / 3 * 1e-7, 1e300, 5e-324, 0.30000000000000004, 123456.789}) {
        rows.push_back({x, -x, nextafter(x, 2), x * 3});
    }
    MemoryFiles disk;
    disk.make_directory(kRun);
    open_history(disk.table(), {0, rows});
    std::istringstream lines(disk.get(kCsv).value());
    std::string line;
    std::getline(lines, line);
    for (const struct epoch_row &row : rows) {
        ASSERT_TRUE(std::getline(lines, line));
        double values[4];
        char *at = strchr(line.data(), ',');
        for (double &value : values) {
            value = strtod(at + 1, &at);
        }
        EXPECT_EQ(values[0], row.accuracy);
        EXPECT_EQ(values[1], row.loss);
        EXPECT_EQ(values[2], row.val_accuracy);
        EXPECT_EQ(values[3], row.val_loss);
    }
    EXPECT_NE(disk.get(kCsv).value().find("\n0,-0.1,0.1,"), std::string::npos);
}

TEST(History, OnARealDisk) {
    TemporaryDirectory dir;
    struct error err;
    for (int run = 0; run < 2; run++) {
        History history;
        Point point;
        point.step = run == 0 ? 0 : 5;
        ASSERT_EQ(try_open(&file_posix, point, &history, nullptr, &err, dir.path()), STATUS_OK)
            << err.message;
        event(history, "{\"event\": \"step\", \"step\": " + std::to_string(5 + run) + "}");
        event(history, "{\"event\": \"step\", \"step\": " + std::to_string(7 + run) + "}");
    }
    EXPECT_EQ(read_file(dir.file("history.jsonl")), "{\"event\": \"step\", \"step\": 5}\n"
                                                    "{\"event\": \"step\", \"step\": 6}\n"
                                                    "{\"event\": \"step\", \"step\": 8}\n");
    EXPECT_EQ(read_file(dir.file("history.csv")), "epoch,accuracy,loss,val_accuracy,val_loss\n");
}

// ---- resuming ----

std::string line_of(const std::string &kind, const std::string &key, int value) {
    return "{\"event\": \"" + kind + "\", \"" + key + "\": " + std::to_string(value) +
           ", \"path\": \"a \\\"b\\\" \\u00e9\"}\n";
}

// What is left of `jsonl` after a resume at `point`; *lost_step as history_open has it.
std::string resumed(const std::string &jsonl, const Point &point, uint64_t *lost_step) {
    MemoryFiles disk;
    disk.put(kJsonl, jsonl);
    History history;
    struct error err;
    *lost_step = 999;
    EXPECT_EQ(try_open(disk.table(), point, &history, lost_step, &err), STATUS_OK) << err.message;
    return disk.get(kJsonl).value();
}

TEST(HistoryResume, KeepsWhatTheRestoredStateHasSeen) {
    std::string log = line_of("start", "step", 0) + line_of("save", "step", 0) +
                      line_of("step", "step", 100) + line_of("step", "step", 200) +
                      line_of("epoch", "epoch", 0) + line_of("save", "step", 250) +
                      line_of("end", "step", 250) + line_of("start", "step", 250);
    Point point = {250, {{1, 1, 1, 1}}};
    uint64_t lost;
    EXPECT_EQ(resumed(log, point, &lost), log);
    EXPECT_EQ(lost, 0u);
}

TEST(HistoryResume, CutsAtTheFirstLaterEventOfAnyKind) {
    std::string kept =
        line_of("start", "step", 0) + line_of("step", "step", 100) + line_of("epoch", "epoch", 0);
    Point point = {100, {{1, 1, 1, 1}}};
    for (const std::string &later :
         {line_of("step", "step", 101), line_of("save", "step", 150), line_of("end", "step", 1000),
          line_of("start", "step", 101), line_of("epoch", "epoch", 1)}) {
        uint64_t lost;
        EXPECT_EQ(resumed(kept + later + line_of("step", "step", 100), point, &lost), kept)
            << later;
        EXPECT_EQ(resumed(kept + later + line_of("step", "step", 777) + line_of("end", "step", 555),
                          point, &lost),
                  kept);
        EXPECT_EQ(lost, later.find("1000") == std::string::npos ? 777u : 1000u);
    }
}

TEST(HistoryResume, EventsItDoesNotKnowStay) {
    std::string log = line_of("note", "step", 5000) + "{\"step\": 5000}\n{\"event\": 7}\n" +
                      "{\"event\": \"step\"}\n{\"event\": \"epoch\"}\n";
    uint64_t lost;
    EXPECT_EQ(resumed(log, {1, {}}, &lost), log);
}

TEST(HistoryResume, ATornLineAndAllBehindItGo) {
    std::string kept = line_of("step", "step", 100);
    std::string next = line_of("step", "step", 200);
    Point point = {1000, {}};
    uint64_t lost;
    for (size_t size = 0; size < next.size(); size++) {
        EXPECT_EQ(resumed(kept + next.substr(0, size), point, &lost), kept);
    }
    EXPECT_EQ(resumed(kept + next, point, &lost), kept + next);
    for (const std::string &torn :
         {std::string("\n"), std::string(4096, '\0'), std::string("[1]\n"), std::string("7\n"),
          std::string("{\"event\": \"step\"} {}\n"), std::string("{\"a\": \"\xff\"}\n"),
          std::string("{\"event\": \"step\", \"step\": 99999999999999999999}\n")}) {
        EXPECT_EQ(resumed(kept + torn + next, point, &lost), kept) << torn;
    }
}

TEST(HistoryResume, LinesAreAppendedBehindTheCut) {
    MemoryFiles disk;
    disk.put(kJsonl, line_of("step", "step", 1) + line_of("step", "step", 2) + "{\"ev");
    History history = open_history(disk.table(), {1, {}});
    event(history, "{\"event\": \"start\", \"step\": 1}");
    EXPECT_EQ(disk.get(kJsonl),
              line_of("step", "step", 1) + "{\"event\": \"start\", \"step\": 1}\n");
}

TEST(HistoryResume, TheCsvIsMadeOfTheRowsWhateverWasThere) {
    MemoryFiles disk;
    disk.put(kCsv, "epoch,accuracy,loss,val_accuracy,val_loss\n0,9,9,9,9\n1,9,9,9,9\n2,9,");
    History history = open_history(disk.table(), {5, {{0.5, 0.25, 0.125, 1}}});
    EXPECT_EQ(disk.get(kCsv), "epoch,accuracy,loss,val_accuracy,val_loss\n0,0.25,0.5,1,0.125\n");
    struct epoch_row row = {2, 3, 4, 5};
    struct error err;
    ASSERT_EQ(history_epoch_row(history.get(), 1, &row, &err), STATUS_OK);
    EXPECT_EQ(disk.get(kCsv),
              "epoch,accuracy,loss,val_accuracy,val_loss\n0,0.25,0.5,1,0.125\n1,3,2,5,4\n");
}

// A run cut into pieces at any places, each time with work lost, logs what an uncut run logs.
TEST(HistoryResume, CutRunsLogWhatAnUncutOneLogs) {
    auto rows = [](int count) {
        std::vector<struct epoch_row> out;
        for (int i = 0; i < count; i++) {
            out.push_back({0.1 * i, 0.2 * i, 0.3 * i, 0.4 * i});
        }
        return out;
    };
    // Ten steps to an epoch, a log line every step.
    auto run = [&](MemoryFiles &disk, int from, int to) {
        int epochs = from / 10;
        History history =
            open_history(disk.table(), {static_cast<uint64_t>(from), rows(epochs), true});
        for (int step = from + 1; step <= to; step++) {
            event(history, "{\"event\": \"step\", \"step\": " + std::to_string(step) + "}");
            if (step % 10 == 0) {
                int epoch = step / 10 - 1;
                event(history, "{\"event\": \"epoch\", \"epoch\": " + std::to_string(epoch) + "}");
                struct epoch_row row = rows(epoch + 1).back();
                struct error err;
                ASSERT_EQ(
                    history_epoch_row(history.get(), static_cast<uint64_t>(epoch), &row, &err),
                    STATUS_OK);
            }
        }
    };
    MemoryFiles uncut;
    uncut.make_directory(kRun);
    run(uncut, 0, 50);
    for (int saved = 0; saved <= 50; saved += 3) {
        for (int died = saved; died <= 50; died += 7) {
            MemoryFiles disk;
            disk.make_directory(kRun);
            run(disk, 0, died);
            run(disk, saved, 50);
            EXPECT_EQ(disk.get(kJsonl), uncut.get(kJsonl)) << saved << " " << died;
            EXPECT_EQ(disk.get(kCsv), uncut.get(kCsv)) << saved << " " << died;
        }
    }
}

// ---- failures ----

TEST(HistoryFaults, EveryCallOfOpeningThatFails) {
    auto fill = [](MemoryFiles &disk) {
        disk.put(kJsonl, line_of("step", "step", 1) + line_of("step", "step", 2));
        disk.put(kCsv, "old\n");
    };
    Point point = {1, {{1, 2, 3, 4}}};
    struct error err;
    size_t calls;
    {
        MemoryFiles disk;
        fill(disk);
        FaultyFiles files(disk.table());
        History history;
        ASSERT_EQ(try_open(files.table(), point, &history, nullptr, &err), STATUS_OK);
        calls = files.calls();
    }
    size_t failed = 0;
    for (size_t nth = 1; nth <= calls; nth++) {
        MemoryFiles disk;
        fill(disk);
        FaultyFiles files(disk.table());
        files.fail(nth, EIO, FaultyFiles::Once);
        History history;
        enum status status = try_open(files.table(), point, &history, nullptr, &err);
        SCOPED_TRACE(files.last_failure());
        if (status != STATUS_OK) {
            failed++;
            EXPECT_EQ(status, STATUS_IO);
            EXPECT_NE(strstr(err.message, "EIO"), nullptr) << err.message;
            EXPECT_NE(strstr(err.message, "/run/history."), nullptr) << err.message;
            EXPECT_EQ(disk.open_descriptors(), 0u);
        }
        EXPECT_EQ(disk.get(kJsonl).value().rfind(line_of("step", "step", 1), 0), 0u);
        history = nullptr;
        EXPECT_EQ(disk.open_descriptors(), 0u);
        ASSERT_EQ(try_open(disk.table(), point, &history, nullptr, &err), STATUS_OK);
        EXPECT_EQ(disk.get(kJsonl), line_of("step", "step", 1));
    }
    EXPECT_GE(failed, 13u); // read 3, open, truncate, fsync, publish 7, open
}

// Half a line reaches the disk, then an error; the next line must not be glued to it.
TEST(HistoryFaults, AFailedLineLeavesNoTrace) {
    MemoryFiles disk;
    disk.make_directory(kRun);
    FaultyFiles files(disk.table());
    History history = open_history(files.table());
    event(history, "{\"event\": \"start\"}");
    files.fail(1, ENOSPC, FaultyFiles::Once);
    struct error err;
    EXPECT_EQ(history_event(history.get(), "{\"event\": \"lost\"}", &err), STATUS_IO);
    EXPECT_NE(strstr(err.message, "ENOSPC"), nullptr) << err.message;
    EXPECT_NE(disk.get(kJsonl), "{\"event\": \"start\"}\n"); // there is something to clean up
    files.fail(1, ENOSPC, FaultyFiles::Once);                // now the cut fails
    EXPECT_EQ(history_event(history.get(), "{\"event\": \"lost\"}", &err), STATUS_IO);
    event(history, "{\"event\": \"next\"}");
    EXPECT_EQ(disk.get(kJsonl), "{\"event\": \"start\"}\n{\"event\": \"next\"}\n");

    struct epoch_row row = {1, 2, 3, 4};
    files.fail(1, ENOSPC, FaultyFiles::Once);
    EXPECT_EQ(history_epoch_row(history.get(), 0, &row, &err), STATUS_IO);
    ASSERT_EQ(history_epoch_row(history.get(), 0, &row, &err), STATUS_OK);
    EXPECT_EQ(disk.get(kCsv), "epoch,accuracy,loss,val_accuracy,val_loss\n0,2,1,4,3\n");
}

TEST(HistoryFaults, ShortWritesAreContinued) {
    MemoryFiles disk;
    disk.make_directory(kRun);
    FaultyFiles files(disk.table());
    files.short_writes(3);
    History history = open_history(files.table(), {0, {{1, 2, 3, 4}}});
    event(history, "{\"event\": \"start\"}");
    EXPECT_EQ(disk.get(kJsonl), "{\"event\": \"start\"}\n");
    EXPECT_EQ(disk.get(kCsv), "epoch,accuracy,loss,val_accuracy,val_loss\n0,2,1,4,3\n");
}

TEST(HistoryFaults, AMissingDirectoryIsAnError) {
    MemoryFiles disk;
    History history;
    struct error err;
    EXPECT_EQ(try_open(disk.table(), {}, &history, nullptr, &err), STATUS_IO);
    EXPECT_NE(strstr(err.message, "ENOENT"), nullptr) << err.message;
    history_close(nullptr);
}

// ---- power cuts ----

// After a cut in the middle of a resume, the next resume at the same point gives the same files; at
// no time is a line lost that belongs to the restored state, or the CSV anything but old or new.
TEST(HistoryCrash, AResumeCanBeRepeated) {
    std::string kept;
    for (int step = 1; step <= 60; step++) { // more than a block
        kept += line_of("step", "step", step);
    }
    std::string log = kept, old_csv = "epoch,accuracy,loss,val_accuracy,val_loss\n0,9,9,9,9\n";
    for (int step = 61; step <= 160; step++) {
        log += line_of("step", "step", step);
    }
    Point point = {60, {{1, 2, 3, 4}}};
    MemoryFiles disk;
    disk.put(kJsonl, log);
    disk.put(kCsv, old_csv);
    open_history(disk.table(), point);
    std::string new_csv = disk.get(kCsv).value();
    ASSERT_EQ(disk.get(kJsonl), kept);
    size_t disks = disk.for_each_crash([&](const std::string &what, MemoryFiles &left) {
        EXPECT_EQ(left.get(kJsonl).value().rfind(kept, 0), 0u) << what;
        EXPECT_TRUE(left.get(kCsv) == old_csv || left.get(kCsv) == new_csv) << what;
        open_history(left.table(), point);
        EXPECT_EQ(left.get(kJsonl), kept) << what;
        EXPECT_EQ(left.get(kCsv), new_csv) << what;
    });
    EXPECT_GT(disks, 5u);
    disk.crashes_at(disk.op_count(), [&](const std::string &what, MemoryFiles &left) {
        EXPECT_EQ(left.get(kJsonl), kept) << what; // nothing that was cut comes back
    });
}

} // namespace
