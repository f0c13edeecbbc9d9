// Files: the POSIX table, whole files, directories, paths and error texts.
#include "io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <set>

#include "tests/support/faulty_files.h"
#include "tests/support/memory_files.h"
#include "tests/support/temporary_directory.h"

namespace {

std::string some_bytes() {
    std::string out;
    for (int i = 0; i < 9000; i++) {
        out.push_back(static_cast<char>('a' + i * 7 % 26));
    }
    return out;
}

// ---- error texts and statuses ----

TEST(FileErrors, NameTheErrnoAndHelp) {
    char text[256];
    EXPECT_STREQ(file_errno_text(-EIO, text, sizeof text), "Input/output error (EIO)");
    for (int number : {ENOSPC, EDQUOT, EROFS}) {
        std::string said = file_errno_text(-number, text, sizeof text);
        EXPECT_NE(said.find(strerrorname_np(number)), std::string::npos);
        EXPECT_NE(said.find("another directory"), std::string::npos) << said;
    }
    EXPECT_STREQ(file_errno_text(-99999, text, sizeof text), "error 99999");
    EXPECT_STREQ(file_errno_text(-EIO, text, 6), "Input");
}

TEST(FileErrors, OnlyADiskThatLostWhatItHadIsAnIoError) {
    for (int error : {ENOENT, ENOTDIR, EACCES, EPERM, EMFILE, ENFILE, ENOMEM, ESTALE, ETIMEDOUT}) {
        EXPECT_EQ(file_input_status(-error), STATUS_INPUT) << strerrorname_np(error);
    }
    EXPECT_EQ(file_input_status(-EIO), STATUS_IO);
}

// ---- reading whole files ----

enum status read_all(const struct file_table *files, const std::string &path, uint64_t limit,
                     std::string *out, struct error *err) {
    uint8_t *bytes = nullptr;
    size_t size = 0;
    enum status status = file_read_all(files, path.c_str(), limit, &bytes, &size, err);
    if (status != STATUS_OK) {
        EXPECT_EQ(bytes, nullptr);
        return status;
    }
    EXPECT_EQ(bytes[size], 0);
    *out = std::string(reinterpret_cast<char *>(bytes), size);
    free(bytes);
    return status;
}

TEST(FileRead, AllSizesUpToTheLimit) {
    for (size_t size : {size_t{0}, size_t{1}, size_t{65535}, size_t{65536}, size_t{1000001}}) {
        MemoryFiles disk;
        std::string bytes;
        for (size_t i = 0; i < size; i++) {
            bytes.push_back(static_cast<char>(i * 131 % 251)); // NUL bytes too
        }
        disk.put("/f", bytes);
        std::string got = "?";
        struct error err;
        ASSERT_EQ(read_all(disk.table(), "/f", size, &got, &err), STATUS_OK) << err.message;
        EXPECT_TRUE(got == bytes) << size;
        if (size > 0) {
            EXPECT_EQ(read_all(disk.table(), "/f", size - 1, &got, &err), STATUS_DATA);
            EXPECT_NE(strstr(err.message, std::to_string(size - 1).c_str()), nullptr);
        }
        EXPECT_EQ(disk.open_descriptors(), 0u);
    }
}

TEST(FileRead, SaysWhatIsWrong) {
    TemporaryDirectory dir;
    std::string got;
    struct error err;
    EXPECT_EQ(read_all(&file_posix, dir.file("no\nsuch"), 9, &got, &err), STATUS_INPUT);
    EXPECT_NE(strstr(err.message, "no\\x0Asuch"), nullptr) << err.message;
    EXPECT_NE(strstr(err.message, "ENOENT"), nullptr) << err.message;
    EXPECT_EQ(read_all(&file_posix, dir.path(), 9, &got, &err), STATUS_INPUT);
    EXPECT_NE(strstr(err.message, "EISDIR"), nullptr) << err.message;
}

// Its size is said to be 0.
TEST(FileRead, AFileThatDoesNotTellItsSize) {
    std::string got, wanted = read_file("/proc/version");
    struct error err;
    ASSERT_EQ(read_all(&file_posix, "/proc/version", 1 << 20, &got, &err), STATUS_OK);
    EXPECT_EQ(got, wanted);
    EXPECT_EQ(read_all(&file_posix, "/proc/version", wanted.size(), &got, &err), STATUS_OK);
    EXPECT_EQ(read_all(&file_posix, "/proc/version", wanted.size() - 1, &got, &err), STATUS_DATA);
}

TEST(FileRead, EveryCallThatFails) {
    MemoryFiles disk;
    disk.put("/f", some_bytes());
    FaultyFiles files(disk.table());
    std::string got;
    struct error err;
    ASSERT_EQ(read_all(files.table(), "/f", 1 << 20, &got, &err), STATUS_OK);
    size_t calls = files.calls(), failed = 0;
    for (size_t nth = 1; nth <= calls; nth++) {
        files.fail(nth, EIO, FaultyFiles::Once);
        enum status status = read_all(files.table(), "/f", 1 << 20, &got, &err);
        bool matters = files.last_failure() == "open /f" || files.last_failure() == "read /f";
        EXPECT_EQ(status, matters ? STATUS_IO : STATUS_OK) << files.last_failure();
        EXPECT_EQ(got, some_bytes());
        failed += status != STATUS_OK;
        EXPECT_EQ(disk.open_descriptors(), 0u);
    }
    EXPECT_GE(failed, 3u); // the open, the read, and the read that finds the end
}

// ---- directories ----

TEST(FileDirectories, AreMadeWithThoseAbove) {
    TemporaryDirectory dir;
    struct error err;
    for (std::string path : {"a/b/c", "a/b/c", "x", "y//z/", "a/./d"}) {
        ASSERT_EQ(file_make_directories(&file_posix, dir.file(path).c_str(), &err), STATUS_OK)
            << err.message;
        EXPECT_TRUE(std::filesystem::is_directory(dir.file(path)));
    }
    EXPECT_EQ(file_make_directories(&file_posix, "/", &err), STATUS_OK);
    EXPECT_EQ(file_make_directories(&file_posix, "", &err), STATUS_OUTPUT);
}

TEST(FileDirectories, AFileInTheWay) {
    TemporaryDirectory dir;
    write_file(dir.file("file"), "");
    struct error err;
    EXPECT_EQ(file_make_directories(&file_posix, dir.file("file").c_str(), &err), STATUS_OUTPUT);
    EXPECT_NE(strstr(err.message, "EEXIST"), nullptr) << err.message;
    EXPECT_EQ(file_make_directories(&file_posix, dir.file("file/a").c_str(), &err), STATUS_OUTPUT);
}

TEST(FileDirectories, SurviveAPowerCut) {
    MemoryFiles disk;
    struct error err;
    ASSERT_EQ(file_make_directories(disk.table(), "/a/b/c", &err), STATUS_OK);
    size_t disks = 0;
    disk.crashes_at(disk.op_count(), [&](const std::string &what, MemoryFiles &left) {
        disks++;
        EXPECT_TRUE(left.exists("/a/b/c")) << what;
    });
    EXPECT_EQ(disks, 1u);
}

TEST(FileDirectories, EveryCallThatFails) {
    MemoryFiles counting_disk;
    FaultyFiles counting(counting_disk.table());
    struct error err;
    ASSERT_EQ(file_make_directories(counting.table(), "/a/b", &err), STATUS_OK);
    size_t refused = 0;
    for (size_t nth = 1; nth <= counting.calls(); nth++) {
        MemoryFiles disk;
        FaultyFiles files(disk.table());
        files.fail(nth, EIO, FaultyFiles::Once);
        enum status status = file_make_directories(files.table(), "/a/b", &err);
        std::string failed = files.last_failure();
        bool matters = failed.rfind("stat", 0) != 0 && failed.rfind("close", 0) != 0;
        EXPECT_EQ(status, matters ? STATUS_OUTPUT : STATUS_OK) << failed;
        refused += status != STATUS_OK;
        EXPECT_EQ(disk.open_descriptors(), 0u);
    }
    EXPECT_EQ(refused, 6u); // mkdir, open and fsync of the parent, for each of the two
}

// ---- paths ----

TEST(FilePaths, Split) {
    struct Case {
        const char *path, *directory, *name;
    } cases[] = {{"a/b", "a", "b"},  {"/b", "/", "b"},    {"b", ".", "b"},
                 {"a//b", "a", "b"}, {"a/b/", "a/b", ""}, {"/a/b/c", "/a/b", "c"},
                 {"//b", "/", "b"},  {"", ".", ""}};
    for (const Case &c : cases) {
        char out[16];
        const char *name = file_split_path(c.path, out, sizeof out);
        EXPECT_STREQ(out, c.directory) << c.path;
        EXPECT_STREQ(name, c.name) << c.path;
        EXPECT_EQ(name, c.path + strlen(c.path) - strlen(c.name));
    }
    char out[4];
    EXPECT_STREQ(file_split_path("abc/d", out, sizeof out), "d");
    EXPECT_EQ(file_split_path("abcd/e", out, sizeof out), nullptr);
}

TEST(FilePaths, Join) {
    char out[8];
    EXPECT_TRUE(file_join_path(out, sizeof out, "abc", "def"));
    EXPECT_STREQ(out, "abc/def");
    EXPECT_FALSE(file_join_path(out, sizeof out, "abc", "defg"));
    EXPECT_TRUE(file_join_path(out, sizeof out, "/", "a"));
    EXPECT_STREQ(out, "/a");
    EXPECT_TRUE(file_join_path(out, sizeof out, "a/", "b"));
    EXPECT_STREQ(out, "a/b");
}

// ---- the POSIX table ----

TEST(FilePosix, ALockKeepsOthersOutUntilItsDescriptorIsClosed) {
    TemporaryDirectory dir;
    std::string path = dir.file("lock");
    const struct file_table *t = &file_posix;
    int first = t->open(t->context, path.c_str(), O_RDWR | O_CREAT, 0666);
    int second = t->open(t->context, path.c_str(), O_RDWR, 0);
    ASSERT_GE(first, 0);
    ASSERT_GE(second, 0);
    EXPECT_EQ(t->lock(t->context, first), 0);
    EXPECT_EQ(t->lock(t->context, second), -EWOULDBLOCK);
    pid_t child = fork();
    if (child == 0) {
        int fd = t->open(t->context, path.c_str(), O_RDWR, 0);
        _exit(t->lock(t->context, fd) == -EWOULDBLOCK ? 42 : 1);
    }
    int ended = 0;
    ASSERT_EQ(waitpid(child, &ended, 0), child);
    EXPECT_TRUE(WIFEXITED(ended) && WEXITSTATUS(ended) == 42);
    EXPECT_EQ(t->close(t->context, first), 0);
    EXPECT_EQ(t->lock(t->context, second), 0);
    EXPECT_EQ(t->close(t->context, second), 0);
}

TEST(FilePosix, DescriptorsAreNotInherited) {
    const struct file_table *t = &file_posix;
    int fd = t->open(t->context, "/dev/null", O_RDONLY, 0);
    ASSERT_GE(fd, 0);
    EXPECT_NE(fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
    t->close(t->context, fd);
}

TEST(FilePosix, ListsEveryNameUntilTheCallbackStops) {
    TemporaryDirectory dir;
    write_file(dir.file("a"), "");
    write_file(dir.file(".b"), "");
    std::filesystem::create_directory(dir.file("c"));
    const struct file_table *t = &file_posix;
    std::set<std::string> names;
    auto keep = [](void *user, const char *name) {
        static_cast<std::set<std::string> *>(user)->insert(name);
        return 0;
    };
    EXPECT_EQ(t->list(t->context, dir.path().c_str(), keep, &names), 0);
    EXPECT_EQ(names, (std::set<std::string>{"a", ".b", "c"}));
    size_t calls = 0;
    auto stop = [](void *user, const char *) {
        ++*static_cast<size_t *>(user);
        return 7;
    };
    EXPECT_EQ(t->list(t->context, dir.path().c_str(), stop, &calls), 7);
    EXPECT_EQ(calls, 1u);
    EXPECT_EQ(t->list(t->context, dir.file("no").c_str(), stop, &calls), -ENOENT);
}

TEST(FilePosix, StatTellsSizeKindAndTime) {
    TemporaryDirectory dir;
    write_file(dir.file("f"), "12345");
    struct timespec times[2] = {{0, 0}, {1234567890, 500000000}};
    ASSERT_EQ(utimensat(AT_FDCWD, dir.file("f").c_str(), times, 0), 0);
    struct file_stat st;
    ASSERT_EQ(file_posix.stat(nullptr, dir.file("f").c_str(), &st), 0);
    EXPECT_EQ(st.bytes, 5u);
    EXPECT_TRUE(st.is_regular && !st.is_directory);
    EXPECT_DOUBLE_EQ(st.modified_seconds, 1234567890.5);
    ASSERT_EQ(file_posix.stat(nullptr, dir.path().c_str(), &st), 0);
    EXPECT_TRUE(st.is_directory && !st.is_regular);
}

} // namespace
