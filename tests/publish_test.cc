// The publication of a file: permissions, what is left behind, failing calls, power cuts.
#include <errno.h>
#include <gtest/gtest.h>
#include <string.h>
#include <sys/stat.h>

#include <filesystem>
#include <functional>

#include "io/file.h"
#include "tests/support/faulty_files.h"
#include "tests/support/memory_files.h"
#include "tests/support/temporary_directory.h"

namespace {

const std::string kPath = "/run/checkpoint";
const std::string kOld = "the old file";

// More than a page, so that tears at 512 and 4096 bytes fall inside.
std::string new_bytes() {
    std::string out;
    for (int i = 0; i < 9000; i++) {
        out.push_back(static_cast<char>('a' + i * 7 % 26));
    }
    return out;
}

bool has_temporary(const std::vector<std::string> &names) {
    for (const std::string &name : names) {
        if (name.rfind(PUBLISH_TEMP_PREFIX, 0) == 0) {
            return true;
        }
    }
    return false;
}

std::vector<std::string> names_in(const std::string &directory) {
    std::vector<std::string> out;
    for (const auto &entry : std::filesystem::directory_iterator(directory)) {
        out.push_back(entry.path().filename());
    }
    return out;
}

enum status publish(const struct file_table *files, const std::string &path,
                    const std::string &bytes, struct error *err) {
    return file_publish(files, path.c_str(), bytes.data(), bytes.size(), err);
}

// ---- publishing on a real file system ----

class Umask {
  public:
    explicit Umask(mode_t mask) : before_(umask(mask)) {}
    ~Umask() { umask(before_); }

  private:
    mode_t before_;
};

unsigned mode_of(const std::string &path) {
    struct stat st;
    return stat(path.c_str(), &st) == 0 ? st.st_mode & 07777 : 0;
}

TEST(PublishPosix, HonoursTheUmask) {
    TemporaryDirectory dir;
    struct error err;
    {
        Umask umask(022);
        ASSERT_EQ(publish(&file_posix, dir.file("a"), "x", &err), STATUS_OK) << err.message;
    }
    {
        Umask umask(027);
        ASSERT_EQ(publish(&file_posix, dir.file("b"), "x", &err), STATUS_OK) << err.message;
    }
    EXPECT_EQ(mode_of(dir.file("a")), 0644u);
    EXPECT_EQ(mode_of(dir.file("b")), 0640u);
}

TEST(PublishPosix, ReplacesAFileAndLeavesNothingElse) {
    TemporaryDirectory dir;
    write_file(dir.file("name"), "before");
    struct error err;
    ASSERT_EQ(publish(&file_posix, dir.file("name"), new_bytes(), &err), STATUS_OK) << err.message;
    EXPECT_EQ(read_file(dir.file("name")), new_bytes());
    EXPECT_EQ(names_in(dir.path()), std::vector<std::string>{"name"});
}

TEST(PublishPosix, AbortLeavesTheOldFileAndNothingElse) {
    TemporaryDirectory dir;
    write_file(dir.file("name"), "before");
    struct publish publish;
    struct error err;
    ASSERT_EQ(publish_begin(&file_posix, dir.file("name").c_str(), &publish, &err), STATUS_OK);
    ASSERT_EQ(publish_write(&publish, "after", 5, &err), STATUS_OK);
    EXPECT_TRUE(has_temporary(names_in(dir.path())));
    publish_abort(&publish);
    EXPECT_EQ(names_in(dir.path()), std::vector<std::string>{"name"});
    EXPECT_EQ(read_file(dir.file("name")), "before");
}

TEST(PublishPosix, NamesTheRenameThatFailsAndCleansUp) {
    TemporaryDirectory dir;
    std::filesystem::create_directory(dir.file("name")); // no file can be renamed onto it
    struct error err;
    EXPECT_EQ(publish(&file_posix, dir.file("name"), "x", &err), STATUS_IO);
    EXPECT_NE(strstr(err.message, "rename"), nullptr) << err.message;
    EXPECT_NE(strstr(err.message, "EISDIR"), nullptr) << err.message;
    EXPECT_EQ(names_in(dir.path()), std::vector<std::string>{"name"});
}

TEST(PublishPosix, RefusesADirectoryThatIsMissingAndAPathThatIsTooLong) {
    TemporaryDirectory dir;
    struct error err;
    EXPECT_EQ(publish(&file_posix, dir.file("no/such"), "x", &err), STATUS_IO);
    EXPECT_NE(strstr(err.message, "ENOENT"), nullptr) << err.message;
    EXPECT_EQ(publish(&file_posix, dir.file(std::string(5000, 'x')), "x", &err), STATUS_IO);
    EXPECT_NE(strstr(err.message, "ENAMETOOLONG"), nullptr) << err.message;
}

TEST(PublishPosix, TriesWhetherAFileCouldBePublished) {
    TemporaryDirectory dir;
    struct error err = {};
    write_file(dir.file("old"), "before");
    for (const char *name : {"old", "new"}) {
        EXPECT_EQ(publish_try(&file_posix, dir.file(name).c_str(), &err), STATUS_OK) << err.message;
    }
    EXPECT_EQ(names_in(dir.path()), std::vector<std::string>{"old"});
    EXPECT_EQ(read_file(dir.file("old")), "before");
    EXPECT_EQ(publish_try(&file_posix, dir.path().c_str(), &err), STATUS_OUTPUT);
    EXPECT_NE(strstr(err.message, " is a directory"), nullptr) << err.message;
    ASSERT_EQ(mkfifo(dir.file("pipe").c_str(), 0600), 0);
    EXPECT_EQ(publish_try(&file_posix, dir.file("pipe").c_str(), &err), STATUS_OUTPUT);
    EXPECT_NE(strstr(err.message, "pipe is not a regular file"), nullptr) << err.message;
    EXPECT_EQ(publish_try(&file_posix, dir.file("no/such").c_str(), &err), STATUS_IO);
    EXPECT_NE(strstr(err.message, "ENOENT"), nullptr) << err.message;
}

TEST(PublishPosix, TheLongestNameThatAFileMayHaveTwiceAtOnce) {
    TemporaryDirectory dir;
    std::string name(255, 'n');
    struct publish first, second;
    struct error err;
    ASSERT_EQ(publish_begin(&file_posix, dir.file(name).c_str(), &first, &err), STATUS_OK)
        << err.message;
    ASSERT_EQ(publish_begin(&file_posix, dir.file(name).c_str(), &second, &err), STATUS_OK)
        << err.message;
    ASSERT_EQ(publish_write(&first, "first", 5, &err), STATUS_OK);
    ASSERT_EQ(publish_write(&second, "second", 6, &err), STATUS_OK);
    ASSERT_EQ(publish_commit(&first, &err), STATUS_OK) << err.message;
    EXPECT_EQ(read_file(dir.file(name)), "first");
    ASSERT_EQ(publish_commit(&second, &err), STATUS_OK) << err.message;
    EXPECT_EQ(read_file(dir.file(name)), "second");
}

// A process that died with our pid (containers start at 1 each time) left a temporary, or somebody
// planted a link: neither is written through.
TEST(PublishPosix, NeverWritesIntoATemporaryThatItDidNotMake) {
    TemporaryDirectory dir;
    struct publish first;
    struct error err;
    ASSERT_EQ(publish_begin(&file_posix, dir.file("name").c_str(), &first, &err), STATUS_OK);
    std::string temp = first.temp_path;
    publish_abort(&first);
    write_file(dir.file("victim"), "victim");
    std::filesystem::create_symlink(dir.file("victim"), temp);
    ASSERT_EQ(publish(&file_posix, dir.file("name"), "new", &err), STATUS_OK) << err.message;
    EXPECT_EQ(read_file(dir.file("victim")), "victim");
    EXPECT_EQ(read_file(dir.file("name")), "new");
    EXPECT_TRUE(std::filesystem::is_symlink(temp));
}

TEST(PublishPosix, MeasuresItsSteps) {
    TemporaryDirectory dir;
    struct publish publish;
    struct error err;
    ASSERT_EQ(publish_begin(&file_posix, dir.file("name").c_str(), &publish, &err), STATUS_OK);
    ASSERT_EQ(publish_write(&publish, "abc", 3, &err), STATUS_OK);
    ASSERT_EQ(publish_write(&publish, "de", 2, &err), STATUS_OK);
    ASSERT_EQ(publish_commit(&publish, &err), STATUS_OK);
    EXPECT_EQ(publish.bytes_written, 5u);
    EXPECT_GT(publish.write_seconds, 0.0);
    EXPECT_GT(publish.fsync_seconds, 0.0);
    EXPECT_GT(publish.rename_seconds, 0.0);
    EXPECT_EQ(read_file(dir.file("name")), "abcde");
}

// ---- publishing while calls fail ----

// What the message must say about a failed call, told from the call alone.
std::string step_of(const std::string &failed) {
    bool directory = failed.substr(failed.find(' ') + 1) == "/run";
    std::string call = failed.substr(0, failed.find(' '));
    if (directory) {
        return "fsync of its directory";
    }
    return call == "open" ? "creating a temporary file" : call;
}

class PublishFaults : public ::testing::TestWithParam<FaultyFiles::Repeat> {};
INSTANTIATE_TEST_SUITE_P(Repeats, PublishFaults,
                         ::testing::Values(FaultyFiles::Once, FaultyFiles::ForEver),
                         [](const auto &repeat) {
                             return repeat.param == FaultyFiles::Once ? "Once" : "ForEver";
                         });

TEST_P(PublishFaults, EveryCallOnceAndForEver) {
    MemoryFiles counting_disk;
    counting_disk.put(kPath, kOld);
    FaultyFiles counting(counting_disk.table());
    struct error err;
    ASSERT_EQ(publish(counting.table(), kPath, new_bytes(), &err), STATUS_OK);
    ASSERT_GE(counting.calls(), 7u); // open, write, fsync, close, rename, open, fsync
    for (size_t nth = 1; nth <= counting.calls(); nth++) {
        MemoryFiles disk;
        disk.put(kPath, kOld);
        FaultyFiles files(disk.table());
        files.fail(nth, EIO, GetParam());
        std::string first; // the call that fails first
        size_t seen = 0;
        files.count_only([&](FileCall call, const std::string &path, bool) {
            if (++seen == nth) {
                first = std::string(file_call_name(call)) + " " + path;
            }
            return true;
        });
        enum status status = publish(files.table(), kPath, new_bytes(), &err);
        SCOPED_TRACE("call " + std::to_string(nth) + ": " + first);
        EXPECT_EQ(disk.open_descriptors(), 0u);
        EXPECT_EQ(disk.bad_descriptor_uses(), 0u);
        EXPECT_EQ(files.uses_after_failed_fsync(), 0u);
        if (nth == counting.calls()) { // the close of a directory that was only read
            EXPECT_EQ(first, "close /run");
            EXPECT_EQ(status, STATUS_OK);
            continue;
        }
        EXPECT_EQ(status, STATUS_IO);
        EXPECT_EQ(err.status, STATUS_IO);
        EXPECT_NE(strstr(err.message, step_of(first).c_str()), nullptr) << err.message;
        EXPECT_NE(strstr(err.message, "(EIO)"), nullptr) << err.message;
        EXPECT_NE(strstr(err.message, kPath.c_str()), nullptr) << err.message;
        bool renamed = step_of(first) == "fsync of its directory";
        EXPECT_EQ(disk.get(kPath), renamed ? new_bytes() : kOld);
        bool unlink_failed = files.last_failure().rfind("unlink", 0) == 0;
        EXPECT_EQ(has_temporary(disk.names("/run")), unlink_failed);
        EXPECT_TRUE(GetParam() == FaultyFiles::ForEver || !unlink_failed);
    }
}

TEST(PublishFault, ADirectoryThatCannotBeFsyncedIsNoError) {
    for (int error : {EINVAL, EBADF, EIO}) {
        MemoryFiles disk;
        disk.make_directory("/run");
        FaultyFiles files(disk.table());
        files.fail_where([](FileCall call, const std::string &,
                            bool is_directory) { return call == FileCall::Fsync && is_directory; },
                         error);
        struct error err;
        EXPECT_EQ(publish(files.table(), kPath, "x", &err), error == EIO ? STATUS_IO : STATUS_OK);
        EXPECT_EQ(files.failures(), 1u);
        EXPECT_EQ(disk.get(kPath), "x");
    }
}

TEST(PublishFault, ShortWritesAreContinued) {
    for (size_t bytes : {1u, 7u, 4096u}) {
        MemoryFiles disk;
        disk.make_directory("/run");
        FaultyFiles files(disk.table());
        files.short_writes(bytes);
        struct error err;
        ASSERT_EQ(publish(files.table(), kPath, new_bytes(), &err), STATUS_OK);
        EXPECT_EQ(disk.get(kPath), new_bytes());
        EXPECT_GT(files.calls(), new_bytes().size() / bytes);
    }
}

TEST(PublishFault, ADiskThatIsFullAtAnyByteKeepsTheOldFile) {
    MemoryFiles disk;
    disk.put(kPath, kOld);
    FaultyFiles files(disk.table());
    files.short_writes(1000); // the byte may be the first, the last or any other of a write
    struct error err;
    for (size_t room = 0; room < new_bytes().size(); room++) {
        files.room(room);
        ASSERT_EQ(publish(files.table(), kPath, new_bytes(), &err), STATUS_IO) << room;
        ASSERT_NE(strstr(err.message, "(ENOSPC)"), nullptr) << err.message;
        ASSERT_EQ(files.room_used(), room);
        ASSERT_EQ(disk.get(kPath), kOld) << room;
        ASSERT_EQ(disk.names("/run").size(), 1u) << room;
        ASSERT_EQ(disk.open_descriptors(), 0u);
    }
    files.room(new_bytes().size());
    ASSERT_EQ(publish(files.table(), kPath, new_bytes(), &err), STATUS_OK);
    EXPECT_EQ(disk.get(kPath), new_bytes());
}

TEST(PublishFault, AWriteThatTakesNothingIsAnErrorNotALoop) {
    MemoryFiles disk;
    disk.make_directory("/run");
    struct file_table files = *disk.table();
    files.write = [](void *, int, const void *, size_t) -> ssize_t { return 0; };
    struct error err;
    EXPECT_EQ(publish(&files, kPath, "x", &err), STATUS_IO);
    EXPECT_FALSE(has_temporary(disk.names("/run")));
}

// ---- publishing and power cuts ----

enum class Found { Old, New, Neither };

Found found_on(const MemoryFiles &disk) {
    auto bytes = disk.get(kPath);
    return bytes == kOld ? Found::Old : bytes == new_bytes() ? Found::New : Found::Neither;
}

struct CrashCounts {
    size_t old_ones = 0, new_ones = 0, neither = 0, old_after_success = 0;
};

// Publish through a table that `change` spoils, then look at every disk a power cut may leave.
CrashCounts crash(const std::function<void(FaultyFiles &)> &change) {
    MemoryFiles disk;
    disk.put(kPath, kOld);
    FaultyFiles files(disk.table());
    change(files);
    struct error err;
    EXPECT_EQ(publish(files.table(), kPath, new_bytes(), &err), STATUS_OK);
    CrashCounts counts;
    disk.for_each_crash([&](const std::string &, MemoryFiles &left) {
        Found found = found_on(left);
        counts.old_ones += found == Found::Old;
        counts.new_ones += found == Found::New;
        counts.neither += found == Found::Neither;
    });
    disk.crashes_at(disk.op_count(), [&](const std::string &, MemoryFiles &left) {
        counts.old_after_success += found_on(left) == Found::Old;
    });
    return counts;
}

TEST(PublishCrash, AtEveryPointTheOldFileOrTheNewOne) {
    CrashCounts counts = crash([](FaultyFiles &) {});
    EXPECT_EQ(counts.neither, 0u);
    EXPECT_EQ(counts.old_after_success, 0u);
    EXPECT_GT(counts.old_ones, 10u);
    EXPECT_GT(counts.new_ones, 1u);
}

// The test above has teeth: each omission is seen.
TEST(PublishCrash, EachOmissionIsSeen) {
    EXPECT_GT(crash([](FaultyFiles &files) { files.drop_file_fsync(true); }).neither, 0u);
    EXPECT_GT(crash([](FaultyFiles &files) { files.drop_directory_fsync(true); }).old_after_success,
              0u);
    EXPECT_GT(crash([](FaultyFiles &files) { files.fsync_after_rename(true); }).neither, 0u);
}

} // namespace
