// Which checkpoints stay: the state file and the deletions after a commit, kept ones, superseded
// ones, across restarts, failing calls and power cuts.
#include <errno.h>
#include <gtest/gtest.h>
#include <string.h>

#include <algorithm>
#include <deque>
#include <random>
#include <set>

#include "io/store.h"
#include "tests/support/faulty_files.h"
#include "tests/support/memory_files.h"
#include "tests/support/ring.h"

namespace {

using Steps = std::vector<uint64_t>;
constexpr double kHour = 3600;
constexpr double kStart = 1.7e9;

// ---- the simple cases ----

TEST(Retention, KeepsTheNewestByStep) {
    MemoryFiles disk;
    Store store = open_store(disk.table(), 3);
    for (uint64_t step : {0, 9, 10, 99, 100}) {
        commit_at(disk, store, step, kStart + static_cast<double>(step));
    }
    EXPECT_EQ(ring_steps(disk), (Steps{10, 99, 100}));
    EXPECT_EQ(state_text(disk), "model_checkpoint_path: \"model.ckpt-100.safetensors.zst\"\n"
                                "all_model_checkpoint_paths: \"model.ckpt-10.safetensors.zst\"\n"
                                "all_model_checkpoint_paths: \"model.ckpt-99.safetensors.zst\"\n"
                                "all_model_checkpoint_paths: \"model.ckpt-100.safetensors.zst\"\n"
                                "all_model_checkpoint_timestamps: 1700000010\n"
                                "all_model_checkpoint_timestamps: 1700000099\n"
                                "all_model_checkpoint_timestamps: 1700000100\n");
}

TEST(Retention, ZeroKeepsAll) {
    MemoryFiles disk;
    Store store = open_store(disk.table(), 0);
    Steps all;
    for (uint64_t step = 0; step < 40; step++) {
        commit_at(disk, store, step, kStart);
        all.push_back(step);
    }
    EXPECT_EQ(ring_steps(disk), all);
    EXPECT_EQ(listed_steps(state_text(disk)), all);
}

TEST(Retention, ALowerLimitDeletesAsManyAsNeededAtOnce) {
    MemoryFiles disk;
    Store store = open_store(disk.table(), 0);
    for (uint64_t step = 0; step < 10; step++) {
        commit_at(disk, store, step, kStart);
    }
    store = nullptr;
    store = open_store(disk.table(), 2);
    EXPECT_EQ(ring_steps(disk).size(), 10u); // opening deletes nothing
    commit_at(disk, store, 10, kStart);
    EXPECT_EQ(ring_steps(disk), (Steps{9, 10}));
}

TEST(Retention, AfterARestartTheDirectoryCountsNotTheStateFile) {
    for (bool state_is_lost : {false, true}) {
        MemoryFiles disk;
        {
            Store store = open_store(disk.table(), 3);
            for (uint64_t step : {1, 2, 3}) {
                commit_at(disk, store, step, kStart);
            }
        }
        if (state_is_lost) {
            disk.remove(kRun + "/checkpoint");
        }
        disk.put(checkpoint_path(0), "put back by hand");
        disk.remove(checkpoint_path(2));
        Store store = open_store(disk.table(), 3);
        commit_at(disk, store, 4, kStart);
        EXPECT_EQ(ring_steps(disk), (Steps{1, 3, 4}));
    }
}

TEST(Retention, TouchesOnlyTheRing) {
    MemoryFiles disk;
    std::set<std::string> foreign = {
        "best.safetensors.zst", "history.csv",  "model.ckpt-01.safetensors.zst",
        "model.ckpt-1.index",   "model.ckpt-x", "model.ckpt-2.safetensors.zst.bak"};
    for (const std::string &name : foreign) {
        disk.put(kRun + "/" + name, "foreign");
    }
    disk.make_directory(checkpoint_path(1)); // a directory called like a checkpoint
    Store store = open_store(disk.table(), 1);
    for (uint64_t step : {3, 4, 5}) {
        commit_at(disk, store, step, kStart);
    }
    std::vector<std::string> names = disk.names(kRun);
    foreign.insert({checkpoint_name(1), checkpoint_name(5), "checkpoint", ".cairn-lock"});
    EXPECT_EQ(std::set<std::string>(names.begin(), names.end()), foreign);
}

TEST(Retention, ASecondSaveOfAStepReplacesTheFirst) {
    MemoryFiles disk;
    Store store = open_store(disk.table(), 2);
    commit_at(disk, store, 1, kStart);
    commit_at(disk, store, 2, kStart + 1);
    commit_at(disk, store, 2, kStart + 50);
    EXPECT_EQ(ring_steps(disk), (Steps{1, 2}));
    EXPECT_EQ(listed_steps(state_text(disk)), (Steps{1, 2}));
    EXPECT_NE(state_text(disk).find("timestamps: 1700000050\n"), std::string::npos);
    EXPECT_EQ(state_text(disk).find("timestamps: 1700000001\n"), std::string::npos);
}

// 200 was damaged, so the run went on from 100. With a limit of 1 the commit of 150 must not delete
// 150 or keep 200 in its place.
TEST(Retention, ANewerStepOfAnotherRunIsNeitherCountedNorDeletedUntilItIsPassed) {
    MemoryFiles disk;
    disk.put(checkpoint_path(100), "good");
    disk.put(checkpoint_path(200), "damaged");
    Store store = open_store(disk.table(), 1);
    store_protect(store.get(), 100);
    commit_at(disk, store, 150, kStart);
    EXPECT_EQ(ring_steps(disk), (Steps{150, 200}));
    EXPECT_EQ(listed_steps(state_text(disk)), Steps{150});
    commit_at(disk, store, 250, kStart);
    EXPECT_EQ(ring_steps(disk), Steps{250});
}

TEST(Retention, TheOneResumedFromStaysUntilANewerOneIsCommitted) {
    MemoryFiles disk;
    disk.put(checkpoint_path(50), "older");
    disk.put(checkpoint_path(100), "resumed from");
    Store store = open_store(disk.table(), 1);
    store_protect(store.get(), 100);
    commit_at(disk, store, 100, kStart); // saved again at once: the same step
    EXPECT_EQ(ring_steps(disk), Steps{100});
    commit_at(disk, store, 150, kStart);
    EXPECT_EQ(ring_steps(disk), Steps{150});
}

TEST(Retention, ACheckpointThatVanishedIsAnError) {
    MemoryFiles disk;
    Store store = open_store(disk.table(), 1);
    commit_at(disk, store, 1, kStart);
    std::string before = state_text(disk);
    struct error err;
    EXPECT_EQ(store_committed(store.get(), 2, &err), STATUS_IO);
    EXPECT_NE(strstr(err.message, "step 2"), nullptr) << err.message;
    EXPECT_EQ(ring_steps(disk), Steps{1});
    EXPECT_EQ(state_text(disk), before);
}

// ---- one per so many hours for ever ----

TEST(KeepEvery, OnePerHourStaysBesidesTheRing) {
    MemoryFiles disk;
    Store store = open_store(disk.table(), 2, kHour);
    for (uint64_t i = 0; i <= 24; i++) { // every ten minutes
        commit_at(disk, store, i, kStart + static_cast<double>(i) * 600);
    }
    // The clock starts just before the first save: 6, 12 and 18 were each saved an hour after the
    // last one that stayed. (24 is among the newest.)
    EXPECT_EQ(ring_steps(disk), (Steps{6, 12, 18, 23, 24}));
}

TEST(KeepEvery, GoesOnAcrossRestartsAndWithoutTheStateFile) {
    for (bool lose_state : {false, true}) {
        MemoryFiles disk;
        Store store = open_store(disk.table(), 2, kHour);
        for (uint64_t i = 0; i <= 24; i++) {
            if (i % 5 == 4) {
                store = nullptr;
                if (lose_state) {
                    disk.remove(kRun + "/checkpoint");
                }
                store = open_store(disk.table(), 2, kHour);
            }
            commit_at(disk, store, i, kStart + static_cast<double>(i) * 600);
        }
        Steps left = ring_steps(disk);
        if (!lose_state) {
            EXPECT_EQ(left, (Steps{6, 12, 18, 23, 24}));
            continue;
        }
        // Where nothing is known the oldest there is stays, and an hour is counted from it: once 2
        // was the oldest at a restart, 8, 14 and 20 follow.
        EXPECT_EQ(left, (Steps{2, 8, 14, 20, 23, 24}));
    }
}

TEST(KeepEvery, WhatWasKeptStaysWhenTheOptionIsTurnedOff) {
    MemoryFiles disk;
    Store store = open_store(disk.table(), 1, kHour);
    for (uint64_t i = 0; i <= 14; i++) {
        commit_at(disk, store, i, kStart + static_cast<double>(i) * 600);
    }
    EXPECT_EQ(ring_steps(disk), (Steps{6, 12, 14}));
    store = nullptr;
    store = open_store(disk.table(), 1);
    for (uint64_t i = 15; i <= 40; i++) {
        commit_at(disk, store, i, kStart + static_cast<double>(i) * 600);
    }
    EXPECT_EQ(ring_steps(disk), (Steps{6, 12, 40}));
}

// cp -r gives every file the time of the copy; the state file still knows better.
TEST(KeepEvery, ACopyOfTheDirectoryKeepsThem) {
    MemoryFiles disk;
    Store store = open_store(disk.table(), 2, kHour);
    for (uint64_t i = 0; i <= 24; i++) {
        commit_at(disk, store, i, kStart + static_cast<double>(i) * 600);
    }
    store = nullptr;
    for (uint64_t step : ring_steps(disk)) {
        disk.set_modified(checkpoint_path(step), kStart + 1e6);
    }
    store = open_store(disk.table(), 2, kHour);
    for (uint64_t i = 25; i <= 27; i++) {
        commit_at(disk, store, i, kStart + 1e6 + static_cast<double>(i) * 600);
    }
    // 24 was saved an hour after 18, 25 eleven days after 24.
    EXPECT_EQ(ring_steps(disk), (Steps{6, 12, 18, 24, 25, 26, 27}));
}

TEST(KeepEvery, AClockThatWasSetBackDeletesNothingThatWasThere) {
    MemoryFiles disk;
    Store store = open_store(disk.table(), 2, kHour);
    for (uint64_t i = 0; i <= 13; i++) {
        commit_at(disk, store, i, kStart + static_cast<double>(i) * 600);
    }
    Steps before = ring_steps(disk);
    ASSERT_EQ(before, (Steps{6, 12, 13}));
    for (uint64_t i = 14; i <= 20; i++) { // a day earlier
        commit_at(disk, store, i, kStart - 24 * kHour + static_cast<double>(i) * 600);
    }
    std::set<uint64_t> left;
    for (uint64_t step : ring_steps(disk)) {
        left.insert(step);
    }
    for (uint64_t step : {6, 12, 19, 20}) {
        EXPECT_EQ(left.count(step), 1u) << step;
    }
    EXPECT_LE(left.size(), 6u); // and the retention goes on
}

TEST(KeepEvery, AClockThatWasSetBackAndAStateFileThatFailsDeleteNothingThatWasThere) {
    MemoryFiles disk;
    FaultyFiles files(disk.table());
    Store store = open_store(files.table(), 1, kHour);
    for (uint64_t i = 0; i <= 4; i++) {
        commit_at(disk, store, i, kStart + static_cast<double>(i) * kHour);
    }
    ASSERT_EQ(ring_steps(disk), (Steps{1, 2, 3, 4}));
    const double before_all = kStart - 5 * kHour;
    disk.set_now(before_all);
    files.fail_where(
        [](FileCall call, const std::string &path, bool) {
            return call == FileCall::Rename &&
                   path.find("cairn-tmp-checkpoint") != std::string::npos;
        },
        EIO);
    struct error err;
    EXPECT_NE(commit(files.table(), store, 5, &err), STATUS_OK);
    files.heal();
    for (uint64_t i = 6; i <= 8; i++) {
        commit_at(disk, store, i, before_all + static_cast<double>(i) * 600);
    }
    const Steps left = ring_steps(disk), kept = {1, 2, 3};
    EXPECT_TRUE(std::includes(left.begin(), left.end(), kept.begin(), kept.end()))
        << ::testing::PrintToString(left);
}

// ---- at random, against a model ----

// tf.train.CheckpointManager as its documentation has it, with perfect memory: a queue of
// candidates, each with the time at which it was saved; what leaves the queue is deleted or stays
// for ever.
struct Manager {
    uint32_t keep_max;
    double every;
    double last_preserved;
    std::deque<std::pair<uint64_t, double>> candidates;
    std::set<uint64_t> kept_for_ever;

    void save(uint64_t step, double now) {
        if (!candidates.empty() && candidates.back().first == step) {
            candidates.pop_back();
        }
        candidates.emplace_back(step, now);
        while (keep_max > 0 && candidates.size() > keep_max) {
            auto [oldest, time] = candidates.front();
            candidates.pop_front();
            if (every > 0 && time - every >= last_preserved) {
                last_preserved = time;
                kept_for_ever.insert(oldest);
            }
        }
    }

    Steps on_disk() const {
        std::set<uint64_t> all = kept_for_ever;
        for (const auto &candidate : candidates) {
            all.insert(candidate.first);
        }
        return Steps(all.begin(), all.end());
    }
};

TEST(RetentionProperty, DoesWhatTensorFlowsManagerDoes) {
    std::mt19937 random(5);
    auto pick = [&](uint64_t n) { return random() % n; };
    for (int round = 0; round < 120; round++) {
        MemoryFiles disk;
        double every = pick(3) == 0 ? 0 : static_cast<double>(1 + pick(40)) * 100;
        auto keep = static_cast<uint32_t>(pick(5));
        double now = kStart;
        Manager manager = {keep, every, now - 1, {}, {}};
        Store store = open_store(disk.table(), keep, every);
        uint64_t step = 0;
        for (int i = 0; i < 60; i++) {
            commit_at(disk, store, step, now);
            manager.save(step, now);
            ASSERT_EQ(ring_steps(disk), manager.on_disk())
                << "round " << round << ", step " << step << ", keep " << keep << ", every "
                << every;
            EXPECT_EQ(listed_steps(state_text(disk)).back(), step);
            step += pick(8) == 0 ? 0 : 1 + pick(300); // sometimes the same step again
            now += static_cast<double>(1 + pick(900));
            if (pick(6) == 0) { // a restart, perhaps with another limit
                keep = static_cast<uint32_t>(pick(5));
                manager.keep_max = keep;
                store = nullptr;
                store = open_store(disk.table(), keep, every);
            }
        }
    }
}

// ---- failures ----

// A directory with a commit at hand that deletes two and keeps one for ever.
void prepare(MemoryFiles &disk) {
    Store store = open_store(disk.table(), 0, kHour);
    for (uint64_t i = 0; i <= 7; i++) {
        commit_at(disk, store, i, kStart + static_cast<double>(i) * 600);
    }
    disk.set_now(kStart + 8 * 600);
    disk.forget_log();
}

const Steps after_commit = {6, 7, 8}; // 0 to 5 are gone, 6 was saved an hour after the start

TEST(RetentionFaults, EveryCallOnceAndForEver) {
    size_t calls;
    struct error err;
    {
        MemoryFiles disk;
        prepare(disk);
        FaultyFiles files(disk.table());
        Store store = open_store(files.table(), 2, kHour);
        files.heal();
        ASSERT_EQ(commit(files.table(), store, 8, &err), STATUS_OK);
        calls = files.calls();
        ASSERT_EQ(ring_steps(disk), after_commit);
    }
    size_t failed = 0;
    for (auto repeat : {FaultyFiles::Once, FaultyFiles::ForEver}) {
        for (size_t nth = 1; nth <= calls; nth++) {
            MemoryFiles disk;
            prepare(disk);
            FaultyFiles files(disk.table());
            Store store = open_store(files.table(), 2, kHour);
            files.fail(nth, EIO, repeat);
            enum status status = commit(files.table(), store, 8, &err);
            SCOPED_TRACE(std::to_string(nth) + ": " + files.last_failure());
            Steps left = ring_steps(disk);
            std::set<uint64_t> there(left.begin(), left.end());
            EXPECT_TRUE(there.count(6) == 1 && there.count(7) == 1);
            if (status != STATUS_OK) {
                failed++;
                EXPECT_EQ(status, STATUS_IO);
                EXPECT_NE(strstr(err.message, "EIO"), nullptr) << err.message;
                EXPECT_NE(strstr(err.message, kRun.c_str()), nullptr) << err.message;
            } else {
                EXPECT_EQ(left, after_commit);
            }
            if (listed_steps(state_text(disk)).back() == 7) { // the state file is the old one
                EXPECT_GE(left.size(), 8u);                   // so nothing was deleted
            }
            // The next commit makes good what was left undone.
            files.heal();
            disk.set_now(kStart + 9 * 600);
            ASSERT_EQ(commit(files.table(), store, 9, &err), STATUS_OK) << err.message;
            Steps then = ring_steps(disk);
            there = std::set<uint64_t>(then.begin(), then.end());
            EXPECT_TRUE(there.count(6) == 1 && there.count(9) == 1);
            EXPECT_EQ(then.size(), 3u);
            EXPECT_EQ(listed_steps(state_text(disk)), then);
            store = nullptr;
            EXPECT_EQ(disk.open_descriptors(), 0u);
        }
    }
    EXPECT_GT(failed, 2 * (7u + 8u + 8u)); // publishing twice, the scan, the deletions
}

TEST(RetentionFaults, ADeletionThatFailsIsReportedAndTheOthersAreDone) {
    MemoryFiles disk;
    prepare(disk);
    FaultyFiles files(disk.table());
    Store store = open_store(files.table(), 2, kHour);
    files.fail_where([](FileCall call, const std::string &path,
                        bool) { return call == FileCall::Unlink && path == checkpoint_path(3); },
                     EACCES);
    struct error err;
    EXPECT_EQ(commit(files.table(), store, 8, &err), STATUS_IO);
    EXPECT_NE(strstr(err.message, "model.ckpt-3."), nullptr) << err.message;
    EXPECT_NE(strstr(err.message, "EACCES"), nullptr) << err.message;
    EXPECT_EQ(ring_steps(disk), (Steps{3, 6, 7, 8}));
}

TEST(RetentionFaults, AFileThatSomebodyElseDeletedIsNoFailure) {
    MemoryFiles disk;
    prepare(disk);
    FaultyFiles files(disk.table());
    Store store = open_store(files.table(), 2, kHour);
    files.fail_where(
        [&](FileCall call, const std::string &path, bool) {
            if (call == FileCall::Unlink && path == checkpoint_path(3)) {
                disk.remove(path);
            }
            return false;
        },
        EIO);
    struct error err;
    EXPECT_EQ(commit(files.table(), store, 8, &err), STATUS_OK) << err.message;
    EXPECT_EQ(ring_steps(disk), after_commit);
}

// ---- power cuts ----

// Whatever a power cut leaves, opening again and saving the same step ends where the undisturbed
// run ended, and at no point was a checkpoint lost that was to stay.
TEST(RetentionCrash, TheSameDecisionsAreMadeAgain) {
    MemoryFiles disk;
    prepare(disk);
    Store store = open_store(disk.table(), 2, kHour);
    struct error err;
    ASSERT_EQ(commit(disk.table(), store, 8, &err), STATUS_OK);
    store = nullptr;
    ASSERT_EQ(ring_steps(disk), after_commit);
    size_t unchanged = 0, finished = 0;
    size_t disks = disk.for_each_crash([&](const std::string &what, MemoryFiles &left) {
        Steps found = ring_steps(left);
        std::set<uint64_t> there(found.begin(), found.end());
        EXPECT_TRUE(there.count(6) == 1 && there.count(7) == 1) << what;
        unchanged += found.size() == 8 && there.count(8) == 0;
        finished += found == after_commit;
        for (uint64_t step : found) {
            EXPECT_EQ(left.get(checkpoint_path(step)), "checkpoint " + std::to_string(step))
                << what;
        }
        Store again = open_store(left.table(), 2, kHour);
        left.set_now(kStart + 8 * 600);
        ASSERT_EQ(commit(left.table(), again, 8, &err), STATUS_OK) << what << err.message;
        EXPECT_EQ(ring_steps(left), after_commit) << what;
    });
    EXPECT_GT(disks, 50u);
    EXPECT_GT(unchanged, 5u);
    EXPECT_GT(finished, 0u);
}

// A deletion that reached the disk before the state file that forgets the deleted one would leave
// other tools with a list of files that are gone.
TEST(RetentionCrash, TheStateFileNeverListsWhatIsGone) {
    MemoryFiles disk;
    prepare(disk);
    Store store = open_store(disk.table(), 2, kHour);
    struct error err;
    ASSERT_EQ(commit(disk.table(), store, 8, &err), STATUS_OK);
    disk.for_each_crash([&](const std::string &what, MemoryFiles &left) {
        Steps found = ring_steps(left);
        for (uint64_t step : listed_steps(state_text(left))) {
            EXPECT_EQ(std::count(found.begin(), found.end(), step), 1) << step << " " << what;
        }
    });
}

} // namespace
