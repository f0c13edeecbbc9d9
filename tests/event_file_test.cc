// Event files: names, framing, failures, and what going back to a restored point keeps and cuts.
// That TensorBoard understands them is shown by python/event_files.py.
#include "io/event_file.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "host/base/text.h"
#include "io/event_record.h"
#include "tests/support/faulty_files.h"
#include "tests/support/memory_files.h"
#include "tests/support/temporary_directory.h"
#include "gtest/gtest.h"

namespace {

const std::string kTrain = "/run/train";
const std::string kPrefix = "events.out.tfevents.";

struct FileDeleter {
    void operator()(struct event_file *file) const { event_file_close(file); }
};
using EventFile = std::unique_ptr<struct event_file, FileDeleter>;

EventFile open_file(const struct file_table *files) {
    struct event_file *file = nullptr;
    struct error err = {};
    EXPECT_EQ(event_file_open(files, kTrain.c_str(), &file, &err), STATUS_OK) << err.message;
    return EventFile(file);
}

void add(const EventFile &file, const char *tag, uint64_t step, double value = 1.0) {
    const struct event_scalar scalar = {tag, value};
    event_file_add_scalars(file.get(), step, &scalar, 1);
}

void flush(const EventFile &file) {
    struct error err = {};
    EXPECT_EQ(event_file_flush(file.get(), &err), STATUS_OK) << err.message;
    EXPECT_FALSE(event_file_is_dirty(file.get()));
}

std::string path_of(const MemoryFiles &disk, size_t index) {
    return kTrain + "/" + disk.names(kTrain).at(index);
}

// "start 5", "loss 3", ... in the order of the files; a rewind that keeps everything only looks.
struct Seen {
    std::vector<std::string> events;
    int64_t last_step = INT64_MAX; // of what is kept
};

bool see(void *context, const struct event_seen *event) {
    Seen *seen = static_cast<Seen *>(context);
    static const char *const names[] = {"version", "", "tensor ", "graph", "start "};
    std::string text = names[event->kind] + std::string(event->tag);
    if (event->kind != EVENT_OTHER && event->kind != EVENT_GRAPH) {
        text += (event->kind == EVENT_START ? "" : " ") + std::to_string(event->step);
    }
    seen->events.push_back(text);
    return event->step <= seen->last_step;
}

std::vector<std::string> events(const struct file_table *files,
                                const std::string &directory = kTrain) {
    Seen seen;
    struct error err = {};
    EXPECT_EQ(event_file_rewind(files, directory.c_str(), see, &seen, &err), STATUS_OK)
        << err.message;
    return seen.events;
}

enum status cut_behind(const struct file_table *files, int64_t last_step, struct error *err,
                       const std::string &directory = kTrain) {
    Seen seen;
    seen.last_step = last_step;
    return event_file_rewind(files, directory.c_str(), see, &seen, err);
}

// What a start that goes back to `last_step` does.
void rewind_to(const struct file_table *files, int64_t last_step) {
    struct error err = {};
    EXPECT_EQ(cut_behind(files, last_step, &err), STATUS_OK) << err.message;
    EventFile file = open_file(files);
    event_file_add_start(file.get(), static_cast<uint64_t>(last_step) + 1);
    flush(file);
}

// A file with events of these steps, in this order.
void write_losses(const struct file_table *files, const std::vector<uint64_t> &steps) {
    EventFile file = open_file(files);
    for (uint64_t step : steps) {
        add(file, "loss", step);
    }
    flush(file);
}

// The directory of a test on the real file system.
std::string real_directory(const TemporaryDirectory &dir, const std::vector<uint64_t> &steps) {
    MemoryFiles disk;
    write_losses(disk.table(), steps);
    const std::string train = dir.file("train");
    std::filesystem::create_directory(train);
    write_file(train + "/" + disk.names(kTrain).at(0), *disk.get(path_of(disk, 0)));
    return train;
}

std::string only_file(const std::string &directory) {
    return std::filesystem::directory_iterator(directory)->path();
}

using Events = std::vector<std::string>;

} // namespace

// ---- framing ----

TEST(EventRecord, ChecksumIsCastagnolis) { // RFC 3720, B.4
    EXPECT_EQ(event_record_crc("123456789", 9), 0xe3069283u);
    EXPECT_EQ(event_record_crc(std::string(32, '\0').data(), 32), 0x8a9136aau);
    EXPECT_EQ(event_record_crc(std::string(32, '\xff').data(), 32), 0x62a8ab43u);
    EXPECT_EQ(event_record_crc("", 0), 0u);
}

TEST(EventRecord, EveryFlippedBitAndEveryCutIsNoticed) {
    struct text file = {};
    event_record_append(&file, "seven b", 7);
    ASSERT_EQ(file.size, 8u + 4 + 7 + 4);
    std::string bytes(file.bytes, file.size);
    text_free(&file);
    auto reads = [](const std::string &from) {
        size_t at = 0;
        struct event_record record;
        return event_record_next(reinterpret_cast<const uint8_t *>(from.data()), from.size(), &at,
                                 &record) &&
               record.size == 7 && at == from.size();
    };
    EXPECT_TRUE(reads(bytes));
    for (size_t bit = 0; bit < 8 * bytes.size(); bit++) {
        std::string flipped = bytes;
        flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ 1 << bit % 8);
        EXPECT_FALSE(reads(flipped)) << bit;
    }
    for (size_t size = 0; size < bytes.size(); size++) {
        EXPECT_FALSE(reads(bytes.substr(0, size))) << size;
    }
}

// ---- writing ----

TEST(EventFile, NothingIsWrittenBeforeAFlush) {
    MemoryFiles disk;
    EventFile file = open_file(disk.table());
    add(file, "loss", 1);
    EXPECT_TRUE(event_file_is_dirty(file.get()));
    EXPECT_EQ(disk.get(path_of(disk, 0)), "");
    flush(file);
    EXPECT_EQ(events(disk.table()), (Events{"version", "loss 1"}));
    const size_t calls = disk.op_count();
    flush(file);
    EXPECT_EQ(disk.op_count(), calls);
}

TEST(EventFile, EveryKindOfEvent) {
    MemoryFiles disk;
    EventFile file = open_file(disk.table());
    event_file_add_start(file.get(), 7);
    const char *cells[] = {"a", "b", "c", "d"};
    event_file_add_text(file.get(), 1, "options", cells, 2, 2);
    const float values[] = {1.0f, 2.0f, NAN};
    event_file_add_histogram(file.get(), 2, "w/histogram", values, 3);
    const struct event_node node = {"x", "Relu", {nullptr}, EVENT_FLOAT, {-1, 4}, 2};
    event_file_add_graph(file.get(), &node, 1);
    flush(file);
    EXPECT_EQ(events(disk.table()),
              (Events{"version", "start 7", "tensor options 1", "tensor w/histogram 2", "graph"}));
}

// Files are read in the order of their names: a new one sorts last, also within a second and when
// the clock was set back.
TEST(EventFile, NewNamesSortLast) {
    MemoryFiles disk;
    disk.put(kTrain + "/" + kPrefix + "4000000000.zzz.99999.0", "of somebody with a fast clock");
    disk.put(kTrain + "/notes.txt", "");
    for (int i = 0; i < 3; i++) {
        EventFile file = open_file(disk.table());
        add(file, "loss", static_cast<uint64_t>(i));
        flush(file);
    }
    EXPECT_EQ(disk.names(kTrain).size(), 5u);
    EXPECT_EQ(disk.names(kTrain)[1].substr(0, kPrefix.size() + 10), kPrefix + "4000000001");
    EXPECT_EQ(disk.names(kTrain)[3].substr(0, kPrefix.size() + 10), kPrefix + "4000000003");
    EXPECT_EQ(events(disk.table()),
              (Events{"version", "loss 0", "version", "loss 1", "version", "loss 2"}));
}

TEST(EventFile, AFailedWriteLeavesWholeRecords) {
    MemoryFiles disk;
    FaultyFiles files(disk.table());
    EventFile file = open_file(files.table());
    add(file, "loss", 1);
    flush(file);
    add(file, "loss", 2);
    const std::string before = *disk.get(path_of(disk, 0));
    files.fail_where(
        [](FileCall call, const std::string &, bool) { return call == FileCall::Write; }, ENOSPC);
    struct error err = {};
    EXPECT_EQ(event_file_flush(file.get(), &err), STATUS_IO);
    EXPECT_NE(std::string(err.message).find("No space left"), std::string::npos) << err.message;
    EXPECT_NE(std::string(err.message).find(kPrefix), std::string::npos) << err.message;
    EXPECT_EQ(disk.get(path_of(disk, 0)), before);
}

TEST(EventFile, EveryFailureOfOpeningIsReported) {
    MemoryFiles disk;
    FaultyFiles files(disk.table());
    open_file(files.table());
    const size_t calls = files.calls();
    for (size_t nth = 1; nth < calls; nth++) { // the last one is its close
        MemoryFiles fresh;
        FaultyFiles faulty(fresh.table());
        faulty.fail(nth, EIO, FaultyFiles::Once);
        struct event_file *file = nullptr;
        struct error err = {};
        if (event_file_open(faulty.table(), kTrain.c_str(), &file, &err) != STATUS_OK) {
            EXPECT_EQ(file, nullptr);
            EXPECT_NE(err.message[0], '\0') << faulty.last_failure();
        }
        event_file_close(file);
        EXPECT_EQ(fresh.open_descriptors(), 0u) << faulty.last_failure();
    }
}

// ---- going back ----

TEST(EventRewind, WhatIsNoDirectoryHasNothingToCut) {
    MemoryFiles disk;
    EXPECT_EQ(events(disk.table()), Events{});
    disk.put(kTrain, "a file");
    EXPECT_EQ(events(disk.table()), Events{});
}

TEST(EventRewind, LaterEventsGoAndLateNewsOfEarlierStepsStay) {
    MemoryFiles disk;
    EventFile file = open_file(disk.table());
    for (uint64_t step : {10, 20, 30}) {
        add(file, "loss", step);
    }
    add(file, "checkpoint/bytes", 20); // a save that took a while
    add(file, "loss", 40);
    flush(file);
    file.reset();
    rewind_to(disk.table(), 20);
    EXPECT_EQ(events(disk.table()), (Events{"version", "loss 10", "loss 20", "checkpoint/bytes 20",
                                            "version", "start 21"}));
    // Once more, further back, over both files.
    rewind_to(disk.table(), 15);
    EXPECT_EQ(events(disk.table()),
              (Events{"version", "loss 10", "version", "version", "start 16"}));
}

TEST(EventRewind, ATornOrDamagedRecordEndsAFile) {
    for (bool torn : {true, false}) {
        MemoryFiles disk;
        EventFile file = open_file(disk.table());
        add(file, "loss", 1);
        flush(file);
        const size_t good = disk.get(path_of(disk, 0))->size();
        add(file, "loss", 2);
        add(file, "loss", 3);
        flush(file);
        file.reset();
        std::string bytes = *disk.get(path_of(disk, 0));
        bytes = torn ? bytes.substr(0, good + 5) : bytes.replace(good + 13, 1, "?");
        disk.put(path_of(disk, 0), bytes);
        EXPECT_EQ(events(disk.table()), (Events{"version", "loss 1"}));
        EXPECT_EQ(disk.get(path_of(disk, 0))->size(), good);
    }
}

TEST(EventRewind, FilesOfOthersAreLeftAlone) {
    MemoryFiles disk;
    struct text version = {};
    const std::string other("\x1a\x0d"
                            "brain.Event:2",
                            15); // without a writer
    event_record_append(&version, other.data(), other.size());
    const std::map<std::string, std::string> theirs = {
        {kPrefix + "1.a.1.0", "not an event file"},
        {kPrefix + "2.a.1.0", ""},
        {kPrefix + "3.a.1.0", std::string(version.bytes, version.size)},
        {kPrefix + "4.a.1.0", std::string(100000, '\0')},
        {".cairn-tmp-notes.1.0", "a save of something else"},
        {"checkpoint", "x"}};
    text_free(&version);
    for (const auto &[name, bytes] : theirs) {
        disk.put(kTrain + "/" + name, bytes);
    }
    EXPECT_EQ(events(disk.table()), Events{});
    rewind_to(disk.table(), 0);
    for (const auto &[name, bytes] : theirs) {
        EXPECT_EQ(disk.get(kTrain + "/" + name), bytes) << name;
    }
}

TEST(EventRewind, WhatIsNoFileOfOursIsNotRead) {
    const TemporaryDirectory dir;
    const std::string train = real_directory(dir, {1, 2}), base = train + "/" + kPrefix;
    std::filesystem::create_directory(base + "1.directory");
    ASSERT_EQ(mkfifo((base + "2.pipe").c_str(), 0600), 0); // to open it would block
    write_file(base + "3.huge", "not an event file");
    std::filesystem::resize_file(base + "3.huge", uint64_t{3} << 30); // a hole
    std::filesystem::create_symlink("nowhere", base + "4.dangling");
    struct error err = {};
    EXPECT_EQ(cut_behind(&file_posix, 1, &err, train), STATUS_OK) << err.message;
    EXPECT_EQ(events(&file_posix, train), (Events{"version", "loss 1"}));
    EXPECT_EQ(std::filesystem::file_size(base + "3.huge"), uint64_t{3} << 30);
}

// A backup by hard links (cp -al) and a file that a link leads to are other people's.
TEST(EventRewind, OtherNamesOfAFileKeepItsEvents) {
    for (bool hard : {true, false}) {
        const TemporaryDirectory dir, backup;
        const std::string train = real_directory(dir, {1, 2});
        const std::string ours = only_file(train), theirs = backup.file("copy");
        if (hard) {
            std::filesystem::create_hard_link(ours, theirs);
        } else {
            std::filesystem::rename(ours, theirs);
            std::filesystem::create_symlink(theirs, ours);
        }
        const std::string before = read_file(theirs);
        struct error err = {};
        EXPECT_EQ(cut_behind(&file_posix, 1, &err, train), STATUS_OK) << err.message;
        EXPECT_EQ(events(&file_posix, train), (Events{"version", "loss 1"}));
        EXPECT_EQ(read_file(theirs), before) << hard;
    }
}

TEST(EventRewind, ALinkedDirectoryIsRefused) {
    const TemporaryDirectory dir;
    const std::string train = real_directory(dir, {1, 2}), link = dir.file("link");
    const std::string before = read_file(only_file(train));
    std::filesystem::create_directory_symlink(train, link);
    struct error err = {};
    EXPECT_EQ(cut_behind(&file_posix, 1, &err, link), STATUS_IO);
    EXPECT_NE(std::string(err.message).find(link + " is a symbolic link"), std::string::npos)
        << err.message;
    EXPECT_EQ(read_file(only_file(train)), before);
}

// A cut that a power cut takes back would come to lie before newer events.
TEST(EventRewind, ACutIsDurable) {
    MemoryFiles disk;
    write_losses(disk.table(), {1});
    const size_t good = disk.get(path_of(disk, 0))->size();
    disk.remove(path_of(disk, 0));
    write_losses(disk.table(), {1, 2});
    disk.forget_log();
    struct error err = {};
    ASSERT_EQ(cut_behind(disk.table(), 1, &err), STATUS_OK) << err.message;
    size_t disks = 0;
    disk.crashes_at(disk.op_count(), [&](const std::string &what, MemoryFiles &left) {
        disks++;
        EXPECT_EQ(left.get(path_of(left, 0))->size(), good) << what;
    });
    EXPECT_GT(disks, 0u);
}

TEST(EventRewind, NoCrashCostsAnEventThatStays) {
    MemoryFiles disk;
    write_losses(disk.table(), {1, 3, 2});
    write_losses(disk.table(), {4, 2});
    disk.forget_log();
    rewind_to(disk.table(), 2);
    const size_t disks = disk.for_each_crash([&](const std::string &what, MemoryFiles &left) {
        // TensorBoard reads every name that has "tfevents" in it.
        for (const std::string &name : left.names(kTrain)) {
            EXPECT_TRUE(name.find("tfevents") == std::string::npos ||
                        name.substr(0, kPrefix.size()) == kPrefix)
                << what << name;
        }
        rewind_to(left.table(), 2); // the next start
        Events found = events(left.table());
        found.resize(5); // what the two starts wrote comes behind it
        EXPECT_EQ(found, (Events{"version", "loss 1", "loss 2", "version", "loss 2"})) << what;
        for (const std::string &name : left.names(kTrain)) {
            EXPECT_EQ(name.substr(0, kPrefix.size()), kPrefix) << what;
        }
    });
    EXPECT_GT(disks, 10u);
}

TEST(EventRewind, EveryFailureIsReportedAndCostsNoEventThatStays) {
    size_t failures = 0;
    for (size_t nth = 1; nth < 40; nth++) {
        MemoryFiles disk;
        write_losses(disk.table(), {1, 5, 1});
        FaultyFiles files(disk.table());
        files.fail(nth, EIO, FaultyFiles::Once);
        struct error err = {};
        enum status status = cut_behind(files.table(), 1, &err);
        struct event_file *file = nullptr;
        if (status == STATUS_OK) {
            EXPECT_EQ(events(disk.table()), (Events{"version", "loss 1", "loss 1"}))
                << files.last_failure();
            status = event_file_open(files.table(), kTrain.c_str(), &file, &err);
        }
        if (status == STATUS_OK) {
            status = event_file_flush(file, &err);
        }
        event_file_close(file);
        EXPECT_EQ(disk.open_descriptors(), 0u) << files.last_failure();
        failures += status != STATUS_OK;
        EXPECT_EQ(status != STATUS_OK, err.message[0] != '\0') << files.last_failure();
        rewind_to(disk.table(), 1); // the next start
        Events found = events(disk.table());
        found.resize(3);
        EXPECT_EQ(found, (Events{"version", "loss 1", "loss 1"})) << files.last_failure();
    }
    // list, stat, open, read; open, write, fsync, close, rename, fsync; mkdir, open, list, write
    EXPECT_GT(failures, 12u);
}
