// Whose directory is it? Asked before each file of a save: after somebody has deleted, moved or put
// back what a living run has open, and where the file system has no locks at all.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <string.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "io/store.h"
#include "tests/support/faulty_files.h"
#include "tests/support/memory_files.h"
#include "tests/support/ring.h"
#include "tests/support/temporary_directory.h"

namespace {

const std::string kLock = kRun + "/.cairn-lock";

Store open_at(const struct file_table *files, const std::string &directory, enum status expected,
              std::string *message = nullptr) {
    const struct store_options options = {5, 0};
    struct store *store = nullptr;
    struct error err = {};
    EXPECT_EQ(store_open(files, directory.c_str(), &options, &store, nullptr, &err), expected)
        << err.message;
    if (message != nullptr) {
        *message = err.message;
    }
    return Store(store);
}

void expect_owned(const Store &store, enum status expected, const std::string &part = "") {
    struct error err = {};
    EXPECT_EQ(store_check_owned(store.get(), true, &err), expected) << err.message;
    if (expected != STATUS_OK) {
        EXPECT_NE(strstr(err.message, part.c_str()), nullptr) << err.message;
    }
}

void empty_in_place(MemoryFiles &disk, const std::string &path) {
    const struct file_table *files = disk.table();
    int fd = files->open(files->context, path.c_str(), O_RDWR, 0);
    ASSERT_GE(fd, 0);
    ASSERT_EQ(files->truncate(files->context, fd, 0), 0);
    ASSERT_EQ(files->close(files->context, fd), 0);
}

// Every such call on the lock file fails, until heal().
void refuse(FaultyFiles &files, FileCall call, int error) {
    files.fail_where([call](FileCall made, const std::string &path,
                            bool) { return made == call && path == kLock; },
                     error);
}

// ---- with locks ----

TEST(StoreLock, WhatWasOpenedIsOurs) {
    MemoryFiles disk;
    Store store = open_store(disk.table(), 5);
    expect_owned(store, STATUS_OK);
}

// Process ids and host names say nothing: in containers every trainer is "pid 1" of one host. Here
// they are those of this very process.
TEST(StoreLock, ADirectoryMadeAnewIsNotOursWhateverItsLockSays) {
    TemporaryDirectory dir;
    const std::string run = dir.path() + "/run";
    Store first = open_at(&file_posix, run, STATUS_OK);
    std::filesystem::remove_all(run);
    expect_owned(first, STATUS_OUTPUT, "was deleted, moved or replaced");
    std::filesystem::create_directory(run);
    expect_owned(first, STATUS_OUTPUT, "was deleted, moved or replaced");
    EXPECT_FALSE(std::filesystem::exists(run + "/.cairn-lock")) << "the other's to make";
    Store second = open_at(&file_posix, run, STATUS_OK);
    expect_owned(first, STATUS_OUTPUT, "was deleted, moved or replaced");
    expect_owned(second, STATUS_OK);
}

TEST(StoreLock, ADirectoryThatWasMovedIsNotThereAnyMore) {
    TemporaryDirectory dir;
    Store store = open_at(&file_posix, dir.path() + "/run", STATUS_OK);
    std::filesystem::rename(dir.path() + "/run", dir.path() + "/moved");
    expect_owned(store, STATUS_OUTPUT, "was deleted, moved or replaced");
    std::filesystem::rename(dir.path() + "/moved", dir.path() + "/run");
    expect_owned(store, STATUS_OK);
}

TEST(StoreLock, ALinkThatNamesAnotherDirectoryNowIsNotOurs) {
    TemporaryDirectory dir;
    std::filesystem::create_directory(dir.path() + "/a");
    std::filesystem::create_directory(dir.path() + "/b");
    std::filesystem::create_directory_symlink("a", dir.path() + "/run");
    Store store = open_at(&file_posix, dir.path() + "/run", STATUS_OK);
    expect_owned(store, STATUS_OK);
    std::filesystem::remove(dir.path() + "/run");
    std::filesystem::create_directory_symlink("b", dir.path() + "/run");
    expect_owned(store, STATUS_OUTPUT, "was deleted, moved or replaced");
}

// A backup that is put back writes into the lock file, or puts another in its place.
TEST(StoreLock, ALockFileThatWasOverwrittenIsOursStill) {
    MemoryFiles disk;
    Store store = open_store(disk.table(), 5);
    empty_in_place(disk, kLock);
    expect_owned(store, STATUS_OK);
    open_at(disk.table(), kRun, STATUS_OUTPUT);
}

TEST(StoreLock, ALockFileThatWasDeletedOrReplacedAloneIsLockedAnew) {
    for (bool replaced : {false, true}) {
        MemoryFiles disk;
        {
            Store store = open_store(disk.table(), 5);
            const std::string owner = disk.get(kLock).value();
            disk.remove(kLock);
            if (replaced) {
                disk.put(kLock, "pid 1 on host other\n");
            }
            expect_owned(store, STATUS_OK);
            EXPECT_EQ(disk.get(kLock), owner);
            std::string message;
            open_at(disk.table(), kRun, STATUS_OUTPUT, &message);
            EXPECT_NE(message.find(owner.substr(0, owner.size() - 1)), std::string::npos)
                << message;
            expect_owned(store, STATUS_OK);
        }
        EXPECT_EQ(disk.open_descriptors(), 0u);
    }
}

TEST(StoreLock, ALockFileThatCannotBeMadeAnewIsTriedAgain) {
    MemoryFiles disk;
    FaultyFiles files(disk.table());
    Store store = open_at(files.table(), kRun, STATUS_OK);
    disk.remove(kLock);
    refuse(files, FileCall::Open, EMFILE);
    expect_owned(store, STATUS_IO, "EMFILE");
    files.heal();
    expect_owned(store, STATUS_OK);
}

TEST(StoreLock, ALockThatAnotherTookMeanwhileIsTheOthersUntilItEnds) {
    MemoryFiles disk;
    Store first = open_store(disk.table(), 5);
    disk.remove(kLock);
    Store second = open_at(disk.table(), kRun, STATUS_OK);
    expect_owned(first, STATUS_OUTPUT, "another trainer");
    expect_owned(first, STATUS_OUTPUT, "another trainer");
    expect_owned(second, STATUS_OK);
    second.reset();
    expect_owned(first, STATUS_OK);
}

// All that was in it is deleted, the lock file as well, and another run begins and ends there: to
// go on would mix two runs, and retention would delete the other's.
TEST(StoreLock, ADirectoryThatWasEmptiedIsNotOursForGood) {
    for (bool committed : {false, true}) {
        for (bool begun_anew : {false, true}) {
            MemoryFiles disk;
            disk.put(checkpoint_path(10), "of ours");
            Store first = open_store(disk.table(), 1);
            store_protect(first.get(), 10); // resumed from
            if (committed) {
                commit_at(disk, first, 20, 1.7e9);
            }
            for (uint64_t step : {10, 20}) {
                disk.remove(checkpoint_path(step));
            }
            expect_owned(first, STATUS_OK); // the lock keeps others out
            disk.remove(kLock);
            if (begun_anew) {
                Store second = open_at(disk.table(), kRun, STATUS_OK);
                for (uint64_t step : {10, 20}) {
                    commit_at(disk, second, step, 1.8e9);
                }
                expect_owned(first, STATUS_OUTPUT, "another trainer");
            }
            const std::vector<uint64_t> left = ring_steps(disk);
            for (int again = 0; again < 2; again++) {
                expect_owned(first, STATUS_OUTPUT, "was emptied since");
            }
            Store third = open_at(disk.table(), kRun, STATUS_OK);
            expect_owned(third, STATUS_OK);
            expect_owned(first, STATUS_OUTPUT, "was emptied since");
            EXPECT_EQ(ring_steps(disk), left);
        }
    }
}

TEST(StoreLock, WithItsNewestCheckpointTheDirectoryIsOursStill) {
    MemoryFiles disk;
    Store store = open_store(disk.table(), 5);
    commit_at(disk, store, 10, 1.7e9);
    commit_at(disk, store, 20, 1.7e9);
    disk.remove(checkpoint_path(10));
    disk.remove(kLock);
    expect_owned(store, STATUS_OK);
}

TEST(StoreLock, WhatCannotBeLookedAtIsAnError) {
    MemoryFiles disk;
    FaultyFiles files(disk.table());
    Store store = open_at(files.table(), kRun, STATUS_OK);
    for (FileCall call : {FileCall::Stat, FileCall::StatOpen}) {
        files.fail_where([call](FileCall made, const std::string &, bool) { return made == call; },
                         EIO);
        expect_owned(store, STATUS_IO, "EIO");
        files.heal();
        expect_owned(store, STATUS_OK);
    }
    // A file that a network file system's server no longer knows is gone.
    files.fail_where([](FileCall made, const std::string &,
                        bool is_directory) { return made == FileCall::StatOpen && is_directory; },
                     ESTALE);
    disk.remove(kLock);
    expect_owned(store, STATUS_OUTPUT, "was deleted, moved or replaced");
    files.heal();
    expect_owned(store, STATUS_OK);
}

TEST(StoreLock, NothingStaysOpenWhereOpeningFails) {
    for (size_t nth = 1; nth < 100; nth++) {
        MemoryFiles disk;
        FaultyFiles files(disk.table());
        files.fail(nth, EMFILE, FaultyFiles::Once);
        const struct store_options options = {5, 0};
        struct store *store = nullptr;
        if (store_open(files.table(), kRun.c_str(), &options, &store, nullptr, nullptr) ==
                STATUS_OK &&
            files.failures() == 0) {
            store_close(store);
            EXPECT_EQ(disk.open_descriptors(), 0u);
            EXPECT_GT(nth, 5u);
            return;
        }
        store_close(store);
        EXPECT_EQ(disk.open_descriptors(), 0u) << files.last_failure();
    }
    FAIL() << "opening makes more calls than that";
}

// ---- without locks ----

struct Lockless : testing::Test {
    Lockless() { disk.set_lock_error(-ENOLCK); }
    MemoryFiles disk;
};

// It is refused later, for its options say, or ends: the trainer that was there saves on.
TEST_F(Lockless, WhoNeverSavesTakesNothing) {
    Store first = open_at(disk.table(), kRun, STATUS_OK);
    expect_owned(first, STATUS_OK);
    const std::string owner = disk.get(kLock).value();
    EXPECT_NE(owner, "");
    open_at(disk.table(), kRun, STATUS_OK);
    EXPECT_EQ(disk.get(kLock), owner);
    expect_owned(first, STATUS_OK);
    EXPECT_EQ(store_check_owned(first.get(), false, nullptr), STATUS_OK);

    empty_in_place(disk, kLock); // of another process the text would differ
    Store restored = open_at(disk.table(), kRun, STATUS_OK);
    EXPECT_EQ(store_check_owned(restored.get(), false, nullptr), STATUS_OK);
    EXPECT_EQ(disk.get(kLock), "");
}

// Who is in the middle of a save has a temporary, which looks like one that a kill left.
TEST_F(Lockless, TemporariesAreRemovedByWhoClaimsTheDirectory) {
    const std::string theirs = kRun + "/.cairn-tmp-model.ckpt-8.safetensors.zst.7-0a1b2c3d.0";
    const std::string pid = std::to_string(getpid());
    // In a container a process that was killed had our process id.
    const std::vector<std::string> killed = {kRun + "/.cairn-tmp-history.csv." + pid + ".0",
                                             kRun + "/.cairn-tmp-x.zst." + pid + "-00000000.0",
                                             kRun + "/.cairn-tmp-x"};
    struct publish ours;
    struct error err = {};
    Store first = open_at(disk.table(), kRun, STATUS_OK);
    expect_owned(first, STATUS_OK);
    const std::string log = kRun + "/history.csv";
    ASSERT_EQ(publish_begin(disk.table(), log.c_str(), &ours, &err), STATUS_OK) << err.message;
    disk.put(theirs, "half");
    for (const std::string &path : killed) {
        disk.put(path, "half");
    }
    Store second = open_at(disk.table(), kRun, STATUS_OK);
    EXPECT_EQ(store_check_owned(second.get(), false, nullptr), STATUS_OK);
    EXPECT_TRUE(disk.exists(theirs));
    expect_owned(second, STATUS_OK);
    EXPECT_FALSE(disk.exists(theirs));
    for (const std::string &path : killed) {
        EXPECT_FALSE(disk.exists(path)) << path;
    }
    EXPECT_TRUE(disk.exists(ours.temp_path)) << "a log that another thread of this process writes";
    publish_abort(&ours);
    disk.put(theirs, "half");
    expect_owned(second, STATUS_OK);
    EXPECT_TRUE(disk.exists(theirs)) << "once is enough";
}

// The directory is still ours: the next save tries again.
TEST_F(Lockless, AClaimThatCannotBeWrittenIsTriedAgain) {
    FaultyFiles files(disk.table());
    Store store = open_at(files.table(), kRun, STATUS_OK);
    files.fail_where(
        [](FileCall made, const std::string &, bool) { return made == FileCall::Write; }, ENOSPC);
    expect_owned(store, STATUS_IO, "ENOSPC");
    files.heal();
    expect_owned(store, STATUS_OK);
    expect_owned(store, STATUS_OK); // nothing of the first try is in the file
}

TEST_F(Lockless, OfTwoTheOneThatBeganToSaveLastGoesOn) {
    Store first = open_at(disk.table(), kRun, STATUS_OK);
    expect_owned(first, STATUS_OK);
    Store second = open_at(disk.table(), kRun, STATUS_OK);
    empty_in_place(disk, kLock); // of another process the text would differ
    expect_owned(first, STATUS_OUTPUT, "which did not say its pid yet");
    expect_owned(second, STATUS_OK);
    const std::string owner = disk.get(kLock).value();
    first.reset();
    EXPECT_EQ(disk.get(kLock), owner) << "whoever ends leaves the other's claim alone";
    expect_owned(second, STATUS_OK);
}

// Its lock file is a new one, which we may open: the claim in it is the other's all the same.
TEST_F(Lockless, AClaimInANewLockFileIsNotTakenBack) {
    for (bool emptied : {false, true}) {
        disk.put(checkpoint_path(10), "of ours");
        Store first = open_at(disk.table(), kRun, STATUS_OK);
        store_protect(first.get(), 10); // resumed from
        expect_owned(first, STATUS_OK);
        std::string other = disk.get(kLock).value(); // "pid N on host H\n", of the same length
        other[4] = other[4] == '9' ? '8' : '9';
        disk.remove(kLock);
        if (emptied) {
            disk.remove(checkpoint_path(10));
        }
        disk.put(kLock, other);
        const std::string shown = "(" + other.substr(0, other.size() - 1) + ")";
        for (int again = 0; again < 2; again++) {
            expect_owned(first, STATUS_OUTPUT, emptied ? "was emptied" : shown);
            EXPECT_EQ(disk.get(kLock), other);
        }
        disk.remove(kLock);
    }
}

TEST_F(Lockless, AClaimStandsWhereTheLockFileWasDeletedAlone) {
    FaultyFiles files(disk.table());
    Store first = open_at(files.table(), kRun, STATUS_OK);
    expect_owned(first, STATUS_OK);
    const std::string owner = disk.get(kLock).value();
    for (FileCall call : {FileCall::Open, FileCall::Read, FileCall::Write}) {
        disk.remove(kLock);
        refuse(files, call, EIO);
        expect_owned(first, STATUS_IO, "EIO");
        files.heal();
        expect_owned(first, STATUS_OK);
        EXPECT_EQ(disk.get(kLock), owner) << file_call_name(call);
    }
}

// What fails before it is known whose claim is in the file does not make it ours.
TEST_F(Lockless, AClaimThatCannotBeReadIsNotTaken) {
    FaultyFiles files(disk.table());
    Store first = open_at(files.table(), kRun, STATUS_OK);
    expect_owned(first, STATUS_OK);
    disk.remove(kLock);
    disk.put(kLock, "pid 7 on host other\n");
    for (FileCall call : {FileCall::Open, FileCall::Lock, FileCall::Read}) {
        refuse(files, call, EIO);
        expect_owned(first, STATUS_IO, "EIO");
        files.heal();
    }
    expect_owned(first, STATUS_OUTPUT, "pid 7 on host other");
    EXPECT_EQ(disk.get(kLock), "pid 7 on host other\n");
}

// Who goes back moves checkpoints away: of two it is the one that goes on.
TEST_F(Lockless, WhoPutsAsideClaimsTheDirectory) {
    Store first = open_at(disk.table(), kRun, STATUS_OK);
    commit_at(disk, first, 10, 1.7e9);
    expect_owned(first, STATUS_OK);
    empty_in_place(disk, kLock); // of another process the text would differ
    Store second = open_at(disk.table(), kRun, STATUS_OK);
    struct error err = {};
    ASSERT_EQ(store_supersede_newer(second.get(), 10, &err), STATUS_OK) << err.message;
    ASSERT_EQ(store_supersede_best(second.get(), &err), STATUS_OK) << err.message;
    EXPECT_EQ(disk.get(kLock), "") << "nothing to be moved";
    ASSERT_EQ(store_supersede_newer(second.get(), 5, &err), STATUS_OK) << err.message;
    EXPECT_NE(disk.get(kLock), "");
}

TEST_F(Lockless, WhatCannotBeReadIsAnError) {
    FaultyFiles files(disk.table());
    Store store = open_at(files.table(), kRun, STATUS_OK);
    expect_owned(store, STATUS_OK);
    for (FileCall call : {FileCall::Open, FileCall::Read}) {
        refuse(files, call, EIO);
        expect_owned(store, STATUS_IO, "EIO");
        files.heal();
    }
    expect_owned(store, STATUS_OK);
}

} // namespace
