// The file system in memory that other tests stand on: it answers as a real one, and its power cuts
// leave what they should.
#include "tests/support/memory_files.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <random>
#include <set>

#include "tests/support/temporary_directory.h"

namespace {

// One random call on both tables; a description of both answers.
std::pair<std::string, std::string> random_call(std::mt19937 &random, const MemoryFiles &disk,
                                                const std::string &root) {
    static const char *const names[] = {"/a", "/b", "/d", "/d/a", "/d/b", "/e/a", "/a/x"};
    auto pick = [&](size_t n) { return static_cast<size_t>(random() % n); };
    std::string path = names[pick(7)], to = names[pick(7)];
    size_t kind = pick(6);
    int flags[] = {O_RDONLY,
                   O_WRONLY,
                   O_RDONLY | O_DIRECTORY,
                   O_RDWR | O_CREAT,
                   O_WRONLY | O_CREAT | O_EXCL,
                   O_WRONLY | O_CREAT | O_TRUNC,
                   O_WRONLY | O_CREAT | O_APPEND};
    int flag = flags[pick(7)];
    std::string bytes(pick(20), static_cast<char>('a' + pick(26)));
    uint64_t size = pick(30);
    auto call = [&](const struct file_table *t, const std::string &at) {
        std::string from = at + path, target = at + to;
        struct file_stat st = {};
        if (kind == 0 && (path == "/d" || path == "/a")) {
            return std::to_string(t->mkdir(t->context, from.c_str(), 0777));
        }
        if (kind == 1) {
            if (t->stat(t->context, from.c_str(), &st) == 0 && st.is_directory) {
                return std::string("directories are not renamed");
            }
            return std::to_string(t->rename(t->context, from.c_str(), target.c_str()));
        }
        if (kind == 2) {
            return std::to_string(t->unlink(t->context, from.c_str()));
        }
        if (kind == 3) {
            int result = t->stat(t->context, from.c_str(), &st);
            return std::to_string(result) + " " + std::to_string(st.is_directory ? 0 : st.bytes) +
                   (st.is_directory ? " directory" : "");
        }
        int fd = t->open(t->context, from.c_str(), flag, 0666);
        if (fd < 0) {
            return std::to_string(fd);
        }
        char buffer[8] = "";
        std::string out = "open";
        out += " " + std::to_string(t->write(t->context, fd, bytes.data(), bytes.size()));
        out += " " + std::to_string(t->read(t->context, fd, buffer, 7)) + buffer;
        out += kind == 4 ? " " + std::to_string(t->truncate(t->context, fd, size)) : "";
        out += " " + std::to_string(t->write(t->context, fd, bytes.data(), bytes.size()));
        return out + " " + std::to_string(t->close(t->context, fd));
    };
    return {call(disk.table(), ""), call(&file_posix, root)};
}

TEST(MemoryFilesModel, AnswersAsTheRealFileSystem) {
    std::mt19937 random(11);
    for (int round = 0; round < 60; round++) {
        TemporaryDirectory dir;
        MemoryFiles disk;
        for (int i = 0; i < 60; i++) {
            auto [memory, real] = random_call(random, disk, dir.path());
            // ftruncate on a read-only descriptor is EINVAL there and EBADF here: nobody asks
            size_t at;
            while ((at = real.find("-22")) != std::string::npos) {
                real.replace(at, 3, "-9");
            }
            ASSERT_EQ(memory, real) << "round " << round << ", call " << i;
        }
        std::map<std::string, std::string> real;
        for (const auto &entry : std::filesystem::recursive_directory_iterator(dir.path())) {
            std::string name = entry.path().string().substr(dir.path().size());
            bool is_directory = entry.is_directory();
            real[is_directory ? name + "/" : name] =
                is_directory ? "" : read_file(entry.path().string());
        }
        ASSERT_EQ(disk.contents(), real) << "round " << round;
    }
}

std::set<std::string> values_after_crash(const MemoryFiles &disk, const std::string &path) {
    std::set<std::string> out;
    disk.crashes_at(disk.op_count(), [&](const std::string &, MemoryFiles &left) {
        out.insert(left.get(path).value_or("(none)"));
    });
    return out;
}

TEST(MemoryFilesModel, UnsyncedBytesAndNamesMayBeLost) {
    MemoryFiles disk;
    const struct file_table *t = disk.table();
    int fd = t->open(t->context, "/f", O_WRONLY | O_CREAT, 0666);
    EXPECT_EQ(values_after_crash(disk, "/f"), (std::set<std::string>{"(none)", ""}));
    t->write(t->context, fd, "ab", 2);
    EXPECT_EQ(values_after_crash(disk, "/f"),
              (std::set<std::string>{"(none)", "", "ab", "a", std::string("a\0", 2),
                                     std::string("\0\0", 2)}));
    t->fsync(t->context, fd);
    EXPECT_EQ(values_after_crash(disk, "/f"), (std::set<std::string>{"(none)", "ab"}));
    ASSERT_EQ(file_sync_directory(t, "/"), 0);
    EXPECT_EQ(values_after_crash(disk, "/f"), std::set<std::string>{"ab"});
    t->close(t->context, fd);
}

TEST(MemoryFilesModel, EntriesReachTheDiskInAnyOrderButARenameIsWhole) {
    MemoryFiles disk;
    disk.put("/a", "A");
    disk.put("/b", "B");
    const struct file_table *t = disk.table();
    t->rename(t->context, "/a", "/b");
    t->unlink(t->context, "/b");
    std::set<std::set<std::string>> seen;
    disk.crashes_at(disk.op_count(), [&](const std::string &, MemoryFiles &left) {
        std::set<std::string> names;
        for (const auto &[path, bytes] : left.contents()) {
            names.insert(path + "=" + bytes);
        }
        seen.insert(names);
    });
    EXPECT_EQ(seen, (std::set<std::set<std::string>>{
                        {"/a=A", "/b=B"}, // neither
                        {"/b=A"},         // the rename
                        {"/a=A"},         // the unlink without the rename
                        {},               // both
                    }));
}

TEST(MemoryFilesModel, ALostDirectoryTakesItsFilesAlong) {
    MemoryFiles disk;
    const struct file_table *t = disk.table();
    t->mkdir(t->context, "/d", 0777);
    int fd = t->open(t->context, "/d/f", O_WRONLY | O_CREAT, 0666);
    t->fsync(t->context, fd);
    t->close(t->context, fd);
    ASSERT_EQ(file_sync_directory(t, "/d"), 0);
    EXPECT_EQ(values_after_crash(disk, "/d/f"), (std::set<std::string>{"(none)", ""}));
    ASSERT_EQ(file_sync_directory(t, "/"), 0);
    EXPECT_EQ(values_after_crash(disk, "/d/f"), std::set<std::string>{""});
}

} // namespace
