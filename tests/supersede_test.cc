// `--resume FILE`: newer checkpoints are moved aside, durably and without losing one.
#include <errno.h>
#include <gtest/gtest.h>
#include <string.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "io/store.h"
#include "tests/support/faulty_files.h"
#include "tests/support/memory_files.h"
#include "tests/support/ring.h"
#include "tests/support/temporary_directory.h"

namespace {

using Steps = std::vector<uint64_t>;
constexpr double kStart = 1.7e9;

const std::string kAside = kRun + "/superseded";

// Where a checkpoint of prepare_superseding is once it was moved: nothing there is replaced.
std::string moved_path(uint64_t step) {
    return step == 40 ? kAside + "/model.ckpt-40-2.safetensors.zst"
                      : kAside + "/" + checkpoint_name(step);
}

constexpr const char *kOlder = "an older one of that name";

// 10 to 50 are there; 40 was superseded once before.
void prepare_superseding(MemoryFiles &disk) {
    Store store = open_store(disk.table(), 0);
    for (uint64_t step : {10, 20, 30, 40, 50}) {
        commit_at(disk, store, step, kStart + static_cast<double>(step));
    }
    disk.put(kAside + "/" + checkpoint_name(40), kOlder);
    disk.forget_log();
}

TEST(Supersede, MovesTheNewerOnesAndRewritesTheStateFile) {
    MemoryFiles disk;
    prepare_superseding(disk);
    Store store = open_store(disk.table(), 0);
    struct error err;
    ASSERT_EQ(store_supersede_newer(store.get(), 30, &err), STATUS_OK) << err.message;
    EXPECT_EQ(ring_steps(disk), (Steps{10, 20, 30}));
    EXPECT_EQ(ring_steps(disk, kAside), (Steps{40, 40, 50})); // with and without a number
    EXPECT_EQ(disk.get(kAside + "/" + checkpoint_name(40)), kOlder);
    EXPECT_EQ(disk.get(moved_path(40)), "checkpoint 40");
    EXPECT_EQ(disk.get(moved_path(50)), "checkpoint 50");
    EXPECT_EQ(listed_steps(state_text(disk)), (Steps{10, 20, 30}));
    EXPECT_NE(state_text(disk).find("timestamps: 1700000030\n"), std::string::npos);
    commit_at(disk, store, 35, kStart + 100);
    EXPECT_EQ(ring_steps(disk), (Steps{10, 20, 30, 35}));
}

TEST(Supersede, WithNothingNewerNothingChanges) {
    MemoryFiles disk;
    prepare_superseding(disk);
    Store store = open_store(disk.table(), 0);
    auto before = disk.contents();
    struct error err;
    ASSERT_EQ(store_supersede_newer(store.get(), 50, &err), STATUS_OK);
    EXPECT_EQ(disk.contents(), before);
}

// Reading the data took minutes; meanwhile the directory was moved and another run began there.
TEST(Supersede, InADirectoryThatIsAnotherRunsNothingChanges) {
    TemporaryDirectory dir;
    const std::string run = dir.file("run");
    const struct store_options options = {5, 0};
    struct store *opened = nullptr;
    struct error err;
    ASSERT_EQ(store_open(&file_posix, run.c_str(), &options, &opened, nullptr, &err), STATUS_OK);
    const Store store(opened);
    std::filesystem::rename(run, dir.file("moved"));
    std::filesystem::create_directory(run);
    const std::set<std::string> theirs = {checkpoint_name(10), checkpoint_name(50), STORE_BEST_FILE,
                                          STORE_STATE_FILE};
    for (const std::string &name : theirs) {
        std::ofstream(run + "/" + name) << "another run's";
    }
    char path[FILE_PATH_CAPACITY];
    for (enum status status :
         {store_supersede_newer(opened, 30, &err), store_supersede_best(opened, &err),
          store_aside_path(opened, STORE_BEST_FILE, path, &err)}) {
        EXPECT_EQ(status, STATUS_OUTPUT);
        EXPECT_NE(strstr(err.message, "was deleted, moved or replaced"), nullptr) << err.message;
    }
    std::set<std::string> left;
    for (const auto &entry : std::filesystem::directory_iterator(run)) {
        left.insert(entry.path().filename());
    }
    EXPECT_EQ(left, theirs);
}

TEST(Supersede, OfTheWholeRingLeavesNoStateFile) {
    MemoryFiles disk;
    prepare_superseding(disk);
    Store store = open_store(disk.table(), 0);
    struct error err;
    ASSERT_EQ(store_supersede_newer(store.get(), 9, &err), STATUS_OK);
    EXPECT_TRUE(ring_steps(disk).empty());
    EXPECT_EQ(ring_steps(disk, kAside), (Steps{10, 20, 30, 40, 40, 50}));
    EXPECT_EQ(state_text(disk), "(none)");
    disk.crashes_at(disk.op_count(), [&](const std::string &what, MemoryFiles &left) {
        EXPECT_TRUE(ring_steps(left).empty()) << what; // none of them comes back
        EXPECT_EQ(state_text(left), "(none)") << what;
    });
}

TEST(Supersede, APowerCutLosesNoCheckpoint) {
    MemoryFiles disk;
    prepare_superseding(disk);
    Store store = open_store(disk.table(), 0);
    struct error err;
    ASSERT_EQ(store_supersede_newer(store.get(), 20, &err), STATUS_OK);
    size_t disks = disk.for_each_crash([&](const std::string &what, MemoryFiles &left) {
        for (uint64_t step : {10, 20, 30, 40, 50}) {
            std::string bytes = "checkpoint " + std::to_string(step);
            EXPECT_TRUE(left.get(checkpoint_path(step)) == bytes ||
                        left.get(moved_path(step)) == bytes)
                << step << " " << what;
        }
        EXPECT_EQ(left.get(kAside + "/" + checkpoint_name(40)), kOlder) << what;
    });
    EXPECT_GT(disks, 10u);
    disk.crashes_at(disk.op_count(), [&](const std::string &what, MemoryFiles &left) {
        EXPECT_EQ(ring_steps(left), (Steps{10, 20})) << what;
        EXPECT_EQ(ring_steps(left, kAside), (Steps{30, 40, 40, 50})) << what;
        EXPECT_TRUE(left.exists(moved_path(40))) << what;
    });
}

TEST(Supersede, EveryCallThatFails) {
    size_t calls;
    struct error err;
    {
        MemoryFiles disk;
        prepare_superseding(disk);
        FaultyFiles files(disk.table());
        Store store = open_store(files.table(), 0);
        files.heal();
        ASSERT_EQ(store_supersede_newer(store.get(), 30, &err), STATUS_OK);
        calls = files.calls();
    }
    size_t failed = 0;
    for (size_t nth = 1; nth <= calls; nth++) {
        MemoryFiles disk;
        prepare_superseding(disk);
        FaultyFiles files(disk.table());
        Store store = open_store(files.table(), 0);
        files.fail(nth, EIO, FaultyFiles::Once);
        enum status status = store_supersede_newer(store.get(), 30, &err);
        SCOPED_TRACE(files.last_failure());
        if (status != STATUS_OK) {
            failed++;
            EXPECT_TRUE(status == STATUS_IO || status == STATUS_OUTPUT);
            EXPECT_NE(strstr(err.message, "EIO"), nullptr) << err.message;
        }
        for (uint64_t listed : listed_steps(state_text(disk))) { // at no time one that is gone
            EXPECT_TRUE(disk.exists(checkpoint_path(listed))) << listed;
        }
        ASSERT_EQ(store_supersede_newer(store.get(), 30, &err), STATUS_OK) << err.message;
        EXPECT_EQ(ring_steps(disk), (Steps{10, 20, 30}));
        EXPECT_EQ(disk.get(kAside + "/" + checkpoint_name(40)), kOlder);
        EXPECT_EQ(disk.get(moved_path(40)), "checkpoint 40");
        EXPECT_EQ(disk.get(moved_path(50)), "checkpoint 50");
        EXPECT_EQ(disk.names(kAside).size(), 3u);
        EXPECT_EQ(listed_steps(state_text(disk)), (Steps{10, 20, 30}));
    }
    EXPECT_GT(failed, 15u);
}

// Whatever refuses does so before the first checkpoint was moved, and says which path it was.
TEST(Supersede, WithoutADirectoryToMoveThemToNothingChanges) {
    MemoryFiles disk;
    FaultyFiles files(disk.table());
    Store store = open_store(files.table(), 0);
    for (uint64_t step : {10, 20, 30}) {
        commit_at(disk, store, step, kStart + static_cast<double>(step));
    }
    const auto before = disk.contents();
    struct error err;
    for (int error : {EACCES, ENOSPC}) {
        files.fail_where([](FileCall call, const std::string &path,
                            bool) { return call == FileCall::Mkdir && path == kAside; },
                         error);
        EXPECT_EQ(store_supersede_newer(store.get(), 10, &err), STATUS_OUTPUT);
        EXPECT_NE(strstr(err.message, kAside.c_str()), nullptr) << err.message;
        EXPECT_NE(strstr(err.message, error == EACCES ? "EACCES" : "ENOSPC"), nullptr)
            << err.message;
        EXPECT_EQ(disk.contents(), before);
        files.heal();
    }
    disk.put(kAside, "somebody's file");
    EXPECT_EQ(store_supersede_newer(store.get(), 10, &err), STATUS_OUTPUT);
    EXPECT_NE(strstr(err.message, "EEXIST"), nullptr) << err.message;
    EXPECT_EQ(ring_steps(disk), (Steps{10, 20, 30}));
    EXPECT_EQ(disk.get(kAside), "somebody's file");
    disk.remove(kAside);
    ASSERT_EQ(store_supersede_newer(store.get(), 10, &err), STATUS_OK) << err.message;
    EXPECT_EQ(ring_steps(disk), (Steps{10}));
    EXPECT_EQ(ring_steps(disk, kAside), (Steps{20, 30}));
}

TEST(Supersede, WithAStateFileThatCannotBeRemovedNothingChanges) {
    MemoryFiles disk;
    prepare_superseding(disk);
    FaultyFiles files(disk.table());
    Store store = open_store(files.table(), 0);
    const auto before = disk.contents();
    files.fail_where([](FileCall call, const std::string &path,
                        bool) { return call == FileCall::Unlink && path == kRun + "/checkpoint"; },
                     EPERM);
    struct error err;
    EXPECT_EQ(store_supersede_newer(store.get(), 9, &err), STATUS_IO);
    EXPECT_NE(strstr(err.message, "/run/checkpoint"), nullptr) << err.message;
    EXPECT_NE(strstr(err.message, "EPERM"), nullptr) << err.message;
    EXPECT_EQ(disk.contents(), before);
    files.heal();
    ASSERT_EQ(store_supersede_newer(store.get(), 9, &err), STATUS_OK) << err.message;
    EXPECT_TRUE(ring_steps(disk).empty());
    EXPECT_EQ(ring_steps(disk, kAside), (Steps{10, 20, 30, 40, 40, 50}));
    EXPECT_EQ(state_text(disk), "(none)");
}

TEST(Supersede, WithAStateFileThatCannotBeRewrittenNothingChanges) {
    MemoryFiles disk;
    prepare_superseding(disk);
    FaultyFiles files(disk.table());
    Store store = open_store(files.table(), 0);
    const auto before = disk.contents();
    files.fail_where(
        [](FileCall call, const std::string &path, bool) {
            return call == FileCall::Rename && path.find("checkpoint") != std::string::npos &&
                   path.find("safetensors") == std::string::npos;
        },
        EACCES);
    struct error err;
    EXPECT_EQ(store_supersede_newer(store.get(), 30, &err), STATUS_IO);
    EXPECT_NE(strstr(err.message, "EACCES"), nullptr) << err.message;
    EXPECT_EQ(disk.contents(), before);
}

// ---- the best model ----

std::string best_of(const MemoryFiles &disk, const std::string &directory,
                    const std::string &name = "best.safetensors.zst") {
    return disk.get(directory + "/" + name).value_or("(none)");
}

TEST(SupersedeBest, NeverOverwritesOneThatWasMovedBefore) {
    MemoryFiles disk;
    Store store = open_store(disk.table(), 0);
    struct error err;
    ASSERT_EQ(store_supersede_best(store.get(), &err), STATUS_OK) << err.message;
    EXPECT_FALSE(disk.exists(kAside)) << "there is none to move";
    for (const char *best : {"first", "second", "third"}) {
        disk.put(kRun + "/best.safetensors.zst", best);
        ASSERT_EQ(store_supersede_best(store.get(), &err), STATUS_OK) << err.message;
        EXPECT_FALSE(disk.exists(kRun + "/best.safetensors.zst"));
    }
    EXPECT_EQ(best_of(disk, kAside), "first");
    EXPECT_EQ(best_of(disk, kAside, "best-2.safetensors.zst"), "second");
    EXPECT_EQ(best_of(disk, kAside, "best-3.safetensors.zst"), "third");
}

// A link to another disk that is not mounted now leads nowhere, but is all that tells where.
TEST(SupersedeBest, ReplacesNoLinkThatLeadsNowhere) {
    const TemporaryDirectory dir;
    const std::string aside = dir.file("superseded/"), name = "best.safetensors.zst";
    write_file(dir.file(name), "the best");
    std::filesystem::create_directory(aside);
    std::filesystem::create_symlink("/not/mounted/best.zst", aside + name);
    const struct store_options options = {};
    struct store *opened;
    struct error err;
    ASSERT_EQ(store_open(&file_posix, dir.path().c_str(), &options, &opened, nullptr, &err),
              STATUS_OK)
        << err.message;
    const Store store(opened);
    ASSERT_EQ(store_supersede_best(store.get(), &err), STATUS_OK) << err.message;
    EXPECT_EQ(std::filesystem::read_symlink(aside + name), "/not/mounted/best.zst");
    EXPECT_EQ(read_file(aside + "best-2.safetensors.zst"), "the best");
}

TEST(SupersedeBest, APowerCutLeavesItInOneOfTheTwoPlaces) {
    MemoryFiles disk;
    disk.put(kRun + "/best.safetensors.zst", "the best");
    Store store = open_store(disk.table(), 0);
    struct error err;
    ASSERT_EQ(store_supersede_best(store.get(), &err), STATUS_OK) << err.message;
    disk.for_each_crash([](const std::string &what, MemoryFiles &left) {
        EXPECT_TRUE(best_of(left, kRun) == "the best" || best_of(left, kAside) == "the best")
            << what;
    });
    disk.crashes_at(disk.op_count(), [](const std::string &what, MemoryFiles &left) {
        EXPECT_EQ(best_of(left, kRun), "(none)") << what;
        EXPECT_EQ(best_of(left, kAside), "the best") << what;
    });
}

TEST(SupersedeBest, EveryFailingCallIsReportedAndLosesNothing) {
    for (size_t nth = 1; nth < 100; nth++) {
        MemoryFiles disk;
        disk.put(kRun + "/best.safetensors.zst", "the best");
        FaultyFiles files(disk.table());
        Store store = open_store(files.table(), 0);
        files.fail(nth, EIO, FaultyFiles::Once);
        struct error err;
        const enum status status = store_supersede_best(store.get(), &err);
        EXPECT_TRUE(best_of(disk, kRun) == "the best" || best_of(disk, kAside) == "the best");
        if (files.failures() == 0) {
            EXPECT_EQ(status, STATUS_OK);
            EXPECT_GT(nth, 5u);
            return;
        }
        if (status != STATUS_OK) {
            EXPECT_NE(strstr(err.message, "EIO"), nullptr) << err.message;
            EXPECT_EQ(store_supersede_best(store.get(), &err), STATUS_OK) << err.message;
        }
        EXPECT_EQ(best_of(disk, kAside), "the best");
    }
    FAIL() << "it makes more calls than that";
}

} // namespace
