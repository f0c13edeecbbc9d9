// faulty_files.h - a file table in front of another one that fails, shortens, drops, reorders or
// holds back calls.
//
//     MemoryFiles disk;
//     FaultyFiles files(disk.table());
//     files.fail(3, EIO, FaultyFiles::ForEver);       the third counted call and all later ones
//     ...run...  files.calls() says how many there were, files.failures() how many failed
//
// The loop "for all N": run once without a fault to learn calls(), then with fail(n) for n
// = 1..calls(). A failing call has no effect on the inner table, with three exceptions that are
// real: close frees the descriptor, write lets the first half through (a disk that fills up), and
// what after_effect() says. THREADS: any thread may call anything, also while other threads are
// inside the table.
#ifndef CAIRN_TESTS_SUPPORT_FAULTY_FILES_H
#define CAIRN_TESTS_SUPPORT_FAULTY_FILES_H

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "io/file.h"
#include "tests/support/memory_files.h"

class FaultyFiles {
  public:
    // `path` is the descriptor's for calls on descriptors, the source for Rename. `is_directory` is
    // true for calls on a descriptor that was opened with O_DIRECTORY. It runs under this object's
    // mutex: it may use the inner table's disk, not this object.
    using Match = std::function<bool(FileCall call, const std::string &path, bool is_directory)>;
    enum Repeat { Once, ForEver };

    explicit FaultyFiles(const struct file_table *inner);
    const struct file_table *table() const { return &table_; }

    // ---- failing ----
    void fail(size_t nth, int error_number, Repeat repeat); // nth counted call from now, from 1
    void fail_where(Match match, int error_number);         // every such call, besides
    void heal();                                            // no more failures; counts from 0 again
    void count_only(Match match);    // which calls are counted (and can be the Nth); default: all
    void after_effect(bool on);      // a failing rename, unlink or mkdir happens all the same
    void short_writes(size_t bytes); // no write takes more than this at once; 0: as the inner table
    void room(size_t bytes);  // writes take so many bytes more, then it is ENOSPC, until heal
    size_t room_used() const; // of them
    size_t calls() const;     // counted calls
    size_t failures() const;
    std::string last_failure() const; // "fsync /run/x", "" when none failed

    // ---- wrong disks, and mutants of the protocol ----
    void drop_file_fsync(bool on);      // reports success, does nothing
    void drop_directory_fsync(bool on); // reports success, does nothing
    void drop_fsync_where(Match match); // reports success, does nothing
    void fsync_after_rename(bool on); // fsync and close of a file happen only after the next rename
    size_t dropped() const;           // calls that drop_* or fsync_after_rename changed

    // A descriptor whose fsync failed may only be closed: calls that broke this.
    size_t uses_after_failed_fsync() const;

    // ---- holding calls back ----
    void hold(Match match); // such calls block from now on, before they take effect
    void wait_until_held(size_t callers = 1); // until that many calls are blocked
    void let_one_pass(); // one blocked call goes on (the next one if none is blocked now)
    void release();      // all go on, nothing is held any more

  private:
    struct Descriptor {
        std::string path;
        bool is_directory = false;
        bool fsync_failed = false;
        bool late_fsync = false;
    };
    friend struct FaultyTable;
    int enter(FileCall call, const std::string &path, bool is_directory); // 0 or the error
    Descriptor descriptor(int fd) const;
    Descriptor use(int fd);
    size_t short_write_bytes() const;
    bool take_room(size_t wanted, size_t *granted);
    bool has_after_effect() const;
    void note_failed_fsync(int fd);
    bool drops_fsync(int fd);
    bool forget(int fd); // true: its close waits for a rename
    std::vector<int> take_late();

    const struct file_table *inner_;
    struct file_table table_;
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::map<int, Descriptor> descriptors_;
    std::vector<int> late_; // descriptors whose fsync and close wait for a rename
    Match counted_, always_, held_, dropped_fsync_;
    size_t nth_ = 0, calls_ = 0, failures_ = 0, dropped_ = 0, uses_after_failed_fsync_ = 0;
    size_t short_bytes_ = 0, blocked_ = 0, passes_ = 0;
    size_t room_ = SIZE_MAX, room_used_ = 0;
    int error_ = 0, always_error_ = 0;
    Repeat repeat_ = Once;
    std::string last_failure_;
    bool after_effect_ = false, drop_file_fsync_ = false, drop_directory_fsync_ = false;
    bool fsync_after_rename_ = false;
};

#endif
