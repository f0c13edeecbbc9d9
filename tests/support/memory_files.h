// memory_files.h - a file system in memory that knows what a power cut may leave of it.
//
// MemoryFiles fills io/file.h's table. It keeps, besides what programs see, a log of every call,
// from which it can build each disk that a crash after the first n calls may leave:
//   data         a file's bytes are durable up to its last successful fsync; what came after is
//   kept,
//                lost, torn (a prefix cut at 512 or 4096 bytes) or replaced by zeros;
//   names        a directory's entries are durable up to that directory's last fsync; of the
//   creations,
//                renames, unlinks and mkdirs since then any subset may have reached the disk
//                (prefixes only when there are more than six); one rename is atomic; fsync of a
//                file says nothing about its name.
//
//     MemoryFiles disk;
//     disk.put("/run/checkpoint", "old");            durable, not logged
//     file_publish(disk.table(), "/run/checkpoint", "new", 3, &err);
//     disk.for_each_crash([](const std::string &what, MemoryFiles &left) { recover from `left` });
//
// Paths: "/a/b"; a path without the leading slash counts from the root; "." and empty parts vanish;
// there is no "..". "/" always exists. Links and permissions are not modelled.
// Misuse of a descriptor (unknown, closed) is -EBADF and counted: see bad_descriptor_uses().
// THREADS: any thread may call anything; the log order is the order in which calls took effect.
#ifndef CAIRN_TESTS_SUPPORT_MEMORY_FILES_H
#define CAIRN_TESTS_SUPPORT_MEMORY_FILES_H

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "io/file.h"

enum class FileCall {
    Open,
    Read,
    Write,
    Fsync,
    Close,
    Truncate,
    Rename,
    Unlink,
    Mkdir,
    Stat,
    StatOpen,
    Lock,
    List
};
const char *file_call_name(FileCall call);

// One call as it was made. `path` is the descriptor's for calls on descriptors.
struct FileOp {
    FileCall call;
    std::string path;
    std::string to;            // Rename
    bool is_directory = false; // Fsync: of a directory
    bool created = false;      // Open: a new file was made
    uint64_t inode = 0;        // file it worked on
    uint64_t offset = 0;       // Write: where; Truncate: new size
    std::string bytes;         // Write: what
    long result = 0;           // what the caller got
    double now = 0;            // the clock of set_now at that moment
    std::string text() const;  // "rename /a -> /b" for messages
};

class MemoryFiles {
  public:
    MemoryFiles();
    ~MemoryFiles();
    MemoryFiles(const MemoryFiles &) = delete;
    MemoryFiles &operator=(const MemoryFiles &) = delete;

    const struct file_table *table() const { return &table_; }

    // ---- the test's own access: nothing of it is logged ----
    void put(const std::string &path, const std::string &bytes); // makes directories too; durable
    void make_directory(const std::string &path);                // durable
    void remove(const std::string &path);                        // durable
    std::optional<std::string> get(const std::string &path) const;
    bool exists(const std::string &path) const;
    std::vector<std::string> names(const std::string &directory) const; // sorted
    void set_now(double wall_seconds); // modified_seconds of what is written from now on
    void set_modified(const std::string &path, double wall_seconds);
    void set_lock_error(int negative_errno); // every lock call returns it; 0: locks work
    size_t open_descriptors() const;
    size_t bad_descriptor_uses() const;

    // ---- the log ----
    std::vector<FileOp> log() const;
    size_t op_count() const;
    // Everything as it is now is durable; the log starts anew. Descriptors stay open.
    void forget_log();

    // ---- crashes ----
    // After which numbers of calls the disk can differ: 0 and every call that changed something.
    std::vector<size_t> crash_points() const;
    // Every distinct disk that a power cut after the first `op_count` calls may leave. `visit` gets
    // a description for messages, and the disk, with no descriptor open and no lock held.
    void
    crashes_at(size_t op_count,
               const std::function<void(const std::string &what, MemoryFiles &left)> &visit) const;
    // crashes_at for every crash point; returns how many disks were visited.
    size_t for_each_crash(
        const std::function<void(const std::string &what, MemoryFiles &left)> &visit) const;

    // All files by path (directories: name with a slash at the end, empty bytes). For comparisons.
    std::map<std::string, std::string> contents() const;

  private:
    struct Model;
    friend struct MemoryTable;
    mutable std::mutex mutex_;
    std::unique_ptr<Model> model_;
    struct file_table table_;
};

#endif
