// `--resume FILE`: newer checkpoints are moved aside, durably and without losing one.
#include <errno.h>
#include <gtest/gtest.h>
#include <string.h>

#include "io/store.h"
#include "tests/support/faulty_files.h"
#include "tests/support/memory_files.h"
#include "tests/support/ring.h"

namespace {

using Steps = std::vector<uint64_t>;
constexpr double kStart = 1.7e9;

const std::string kAside = kRun + "/superseded";

// 10 to 50 are there; 40 was superseded once before.
void prepare_superseding(MemoryFiles &disk) {
    Store store = open_store(disk.table(), 0);
    for (uint64_t step : {10, 20, 30, 40, 50}) {
        commit_at(disk, store, step, kStart + static_cast<double>(step));
    }
    disk.put(kAside + "/" + checkpoint_name(40), "an older one of that name");
    disk.forget_log();
}

TEST(Supersede, MovesTheNewerOnesAndRewritesTheStateFile) {
    MemoryFiles disk;
    prepare_superseding(disk);
    Store store = open_store(disk.table(), 0);
    struct error err;
    ASSERT_EQ(store_supersede_newer(store.get(), 30, &err), STATUS_OK) << err.message;
    EXPECT_EQ(ring_steps(disk), (Steps{10, 20, 30}));
    EXPECT_EQ(ring_steps(disk, kAside), (Steps{40, 50}));
    EXPECT_EQ(disk.get(kAside + "/" + checkpoint_name(40)), "checkpoint 40");
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

TEST(Supersede, OfTheWholeRingLeavesNoStateFile) {
    MemoryFiles disk;
    prepare_superseding(disk);
    Store store = open_store(disk.table(), 0);
    struct error err;
    ASSERT_EQ(store_supersede_newer(store.get(), 9, &err), STATUS_OK);
    EXPECT_TRUE(ring_steps(disk).empty());
    EXPECT_EQ(ring_steps(disk, kAside), (Steps{10, 20, 30, 40, 50}));
    EXPECT_EQ(state_text(disk), "(none)");
    disk.crashes_at(disk.op_count(), [&](const std::string &what, MemoryFiles &left) {
        EXPECT_TRUE(ring_steps(left).empty()) << what; // none of them comes back
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
                        left.get(kAside + "/" + checkpoint_name(step)) == bytes)
                << step << " " << what;
        }
    });
    EXPECT_GT(disks, 10u);
    disk.crashes_at(disk.op_count(), [&](const std::string &what, MemoryFiles &left) {
        EXPECT_EQ(ring_steps(left), (Steps{10, 20})) << what;
        EXPECT_EQ(ring_steps(left, kAside), (Steps{30, 40, 50})) << what;
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
        ASSERT_EQ(store_supersede_newer(store.get(), 30, &err), STATUS_OK) << err.message;
        EXPECT_EQ(ring_steps(disk), (Steps{10, 20, 30}));
        EXPECT_EQ(ring_steps(disk, kAside), (Steps{40, 50}));
    }
    EXPECT_GT(failed, 15u);
}

} // namespace
