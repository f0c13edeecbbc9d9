// libcairn-checkpoint in bad times, over files in memory: damaged files, a second writer, a disk
// that is slow, full or broken, tensors that diverged. And a reader beside it, which must disturb
// nothing.
#include "include/cairn/checkpoint.h"

#include <gtest/gtest.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "tests/support/library_trainer.h"

namespace {

using Trainer = LibraryTrainer;

// ---- a read-only handle ----

TEST(LibraryFailure, AReadOnlyHandleTakesAPartAndChangesNothing) {
    MemoryFiles disk;
    Trainer writer(&disk);
    writer.start();
    writer.save_step(10); // and keeps its lock
    auto before = disk.contents();
    Trainer reader(&disk);
    reader.options.read_only = true;
    ASSERT_EQ(reader.open(), CAIRN_OK) << reader.error.message;
    ASSERT_EQ(reader.add({"weight", CAIRN_F32, CAIRN_HOST, reader.weight, 2, {2, 3}}), CAIRN_OK);
    ASSERT_EQ(reader.restore(), CAIRN_OK) << reader.error.message;
    EXPECT_EQ(reader.weight[5], 10.625F);
    EXPECT_EQ(reader.save(), CAIRN_ERROR_USAGE);
    EXPECT_EQ(reader.wait(), CAIRN_OK);
    EXPECT_EQ(cairn_checkpoint_poll(reader.saves.get()), nullptr);
    EXPECT_EQ(cairn_checkpoint_get_totals(reader.saves.get())->requested, 0u);
    EXPECT_TRUE(disk.contents() == before);
    writer.save_step(20);
    ASSERT_EQ(reader.restore(), CAIRN_OK);
    EXPECT_EQ(reader.step, 20u);
    disk.remove(checkpoint_path(20));
    EXPECT_EQ(disk.get(checkpoint_path(10)), before.at(checkpoint_path(10)));
}

TEST(LibraryFailure, AReadOnlyHandleMakesNoDirectory) {
    MemoryFiles disk;
    Trainer reader(&disk);
    reader.options.read_only = true;
    ASSERT_EQ(reader.open(), CAIRN_OK);
    ASSERT_EQ(reader.restore(), CAIRN_OK);
    EXPECT_FALSE(reader.found);
    EXPECT_FALSE(disk.exists(kRun));
}

// ---- two writers ----

TEST(LibraryFailure, ASecondWriterIsRefusedUntilTheFirstCloses) {
    MemoryFiles disk;
    Trainer first(&disk), second(&disk);
    first.start();
    EXPECT_EQ(second.open(), CAIRN_ERROR_OUTPUT);
    EXPECT_EQ(second.saves, nullptr);
    EXPECT_TRUE(second.message_has(std::to_string(getpid()).c_str())) << second.error.message;
    first.saves.reset();
    EXPECT_EQ(second.open(), CAIRN_OK);
}

// Deleted, and begun anew by somebody else: the lock is on a file that is no longer there.
TEST(LibraryFailure, ADirectoryThatIsNowAnotherRunsIsLeftAlone) {
    MemoryFiles disk;
    Trainer first(&disk), second(&disk);
    first.start();
    first.save_step(10);
    for (const std::string &name : disk.names(kRun)) {
        disk.remove(kRun + "/" + name);
    }
    disk.remove(kRun);
    for (bool made_anew : {false, true}) {
        if (made_anew) {
            second.start();
            second.save_step(5);
        }
        first.train_to(first.step + 10);
        ASSERT_EQ(first.save(), CAIRN_OK);
        EXPECT_EQ(first.wait(), CAIRN_ERROR_OUTPUT);
        EXPECT_TRUE(first.message_has("was deleted, moved or replaced")) << first.error.message;
    }
    EXPECT_EQ(ring_steps(disk), std::vector<uint64_t>{5});
    second.saves.reset(); // it has ended: what is there is still not the first one's
    ASSERT_EQ(first.save(), CAIRN_OK);
    EXPECT_EQ(first.wait(), CAIRN_ERROR_OUTPUT);
    EXPECT_EQ(first.restore(), CAIRN_ERROR_OUTPUT);
    EXPECT_EQ(ring_steps(disk), std::vector<uint64_t>{5});
}

TEST(LibraryFailure, AFileSystemWithoutLocksIsAWarning) {
    MemoryFiles disk;
    disk.set_lock_error(-ENOSYS);
    Trainer trainer(&disk);
    trainer.start();
    ASSERT_EQ(trainer.told.errors.size(), 1u);
    EXPECT_EQ(trainer.told.errors[0].status, CAIRN_OK);
    EXPECT_NE(trainer.told.errors[0].message[0], '\0');
}

// One that is started beside a living one, to look or by mistake, takes nothing from it before it
// saves.
TEST(LibraryFailure, WithoutLocksARestoreClaimsNothing) {
    MemoryFiles disk;
    disk.set_lock_error(-ENOSYS);
    const std::string lock = kRun + "/.cairn-lock";
    Trainer first(&disk), second(&disk);
    first.start();
    first.save_step(10);
    ASSERT_NE(disk.get(lock), "");
    const std::string temporary = kRun + "/.cairn-tmp-model.ckpt-20.safetensors.zst.7.0";
    disk.put(temporary, "half");
    disk.put(lock, "");
    second.start();
    EXPECT_TRUE(second.found);
    EXPECT_EQ(disk.get(lock), "");
    EXPECT_TRUE(disk.exists(temporary));
    second.save_step(20);
    EXPECT_NE(disk.get(lock), "");
    EXPECT_FALSE(disk.exists(temporary));
}

// ---- damage ----

TEST(LibraryFailure, ADamagedCheckpointIsToldAndTheOneBeforeItIsUsed) {
    MemoryFiles disk;
    make_run(&disk, {10, 20, 30});
    flip_a_bit(&disk, 30);
    Trainer trainer(&disk);
    trainer.start();
    EXPECT_TRUE(trainer.found);
    EXPECT_EQ(trainer.step, 20u);
    EXPECT_TRUE(trainer.is_trained_to(20));
    ASSERT_EQ(trainer.told.errors.size(), 1u);
    EXPECT_TRUE(trainer.told.heard(CAIRN_ERROR_CORRUPT, "model.ckpt-30."));
    trainer.save_step(25);
    trainer.save_step(30);
    EXPECT_EQ(ring_steps(disk), (std::vector<uint64_t>{10, 20, 25, 30}));
}

TEST(LibraryFailure, WhenAllAreDamagedNothingStartsAfresh) {
    MemoryFiles disk;
    make_run(&disk, {10, 20});
    flip_a_bit(&disk, 10);
    flip_a_bit(&disk, 20);
    Trainer trainer(&disk);
    ASSERT_EQ(trainer.open(), CAIRN_OK);
    trainer.add_all();
    EXPECT_EQ(trainer.restore(), CAIRN_ERROR_CORRUPT);
    EXPECT_FALSE(trainer.found);
    EXPECT_EQ(trainer.told.errors.size(), 2u);
    EXPECT_EQ(trainer.words[2], 'x');
    trainer.step = 30;
    EXPECT_EQ(trainer.save(), CAIRN_ERROR_USAGE);
}

// Retention must not take the one that training goes on from before there is a newer one.
TEST(LibraryFailure, TheRestoredCheckpointStaysUntilANewerIsDurable) {
    MemoryFiles disk;
    make_run(&disk, {10, 20});
    flip_a_bit(&disk, 20);
    Trainer trainer(&disk);
    trainer.options.keep_max = 1;
    trainer.start();
    ASSERT_EQ(trainer.step, 10u);
    ASSERT_EQ(trainer.save(), CAIRN_OK);
    ASSERT_EQ(trainer.wait(), CAIRN_OK);
    EXPECT_TRUE(disk.exists(checkpoint_path(10)));
    trainer.save_step(20);
    EXPECT_EQ(ring_steps(disk), std::vector<uint64_t>{20});
}

// ---- a busy writer ----

// Step 1 is being written, step 2 waits.
void fill_both_copies(Trainer *trainer) {
    trainer->start();
    trainer->files.hold(is_checkpoint_write);
    trainer->train_to(1);
    ASSERT_EQ(trainer->save(), CAIRN_OK);
    trainer->files.wait_until_held();
    trainer->train_to(2);
    ASSERT_EQ(trainer->save(), CAIRN_OK);
    ASSERT_EQ(trainer->outcome, CAIRN_CHECKPOINT_ACCEPTED);
}

TEST(LibraryFailure, SkipLeavesASaveOut) {
    MemoryFiles disk;
    Trainer trainer(&disk);
    fill_both_copies(&trainer);
    trainer.train_to(3);
    ASSERT_EQ(trainer.save(), CAIRN_OK);
    EXPECT_EQ(trainer.outcome, CAIRN_CHECKPOINT_SKIPPED);
    trainer.files.release();
    ASSERT_EQ(trainer.wait(), CAIRN_OK);
    EXPECT_EQ(ring_steps(disk), (std::vector<uint64_t>{1, 2}));
    const cairn_checkpoint_totals *totals = cairn_checkpoint_get_totals(trainer.saves.get());
    EXPECT_EQ(totals->requested, 3u);
    EXPECT_EQ(totals->saved, 2u);
    EXPECT_EQ(totals->skipped, 1u);
    EXPECT_EQ(totals->failed, 0u);
    EXPECT_GT(totals->stall_seconds_max, 0.0);
}

TEST(LibraryFailure, LatestReplacesTheOneThatWaits) {
    MemoryFiles disk;
    Trainer trainer(&disk);
    trainer.options.busy = CAIRN_CHECKPOINT_LATEST;
    fill_both_copies(&trainer);
    trainer.train_to(3);
    ASSERT_EQ(trainer.save(), CAIRN_OK);
    EXPECT_EQ(trainer.outcome, CAIRN_CHECKPOINT_ACCEPTED);
    trainer.files.release();
    ASSERT_EQ(trainer.wait(), CAIRN_OK);
    EXPECT_EQ(ring_steps(disk), (std::vector<uint64_t>{1, 3}));
    std::vector<uint64_t> dropped, durable;
    while (const cairn_checkpoint_event *event = cairn_checkpoint_poll(trainer.saves.get())) {
        (event->dropped ? dropped : durable).push_back(event->step);
        EXPECT_EQ(event->error.status, CAIRN_OK);
        EXPECT_EQ(event->bytes > 0, !event->dropped);
    }
    EXPECT_EQ(dropped, std::vector<uint64_t>{2});
    EXPECT_EQ(durable, (std::vector<uint64_t>{1, 3}));
}

TEST(LibraryFailure, WaitAndMustWaitForACopy) {
    for (bool must : {false, true}) {
        MemoryFiles disk;
        Trainer trainer(&disk);
        trainer.options.busy = must ? CAIRN_CHECKPOINT_SKIP : CAIRN_CHECKPOINT_WAIT;
        trainer.start();
        for (uint64_t step = 1; step <= 6; step++) {
            trainer.train_to(step);
            ASSERT_EQ(trainer.save(must ? CAIRN_CHECKPOINT_MUST : 0), CAIRN_OK);
            EXPECT_EQ(trainer.outcome, CAIRN_CHECKPOINT_ACCEPTED);
        }
        ASSERT_EQ(trainer.wait(), CAIRN_OK);
        EXPECT_EQ(cairn_checkpoint_get_totals(trainer.saves.get())->saved, 6u);
        EXPECT_EQ(ring_steps(disk), (std::vector<uint64_t>{2, 3, 4, 5, 6}));
    }
}

TEST(LibraryFailure, UnknownFlagsAreRefused) {
    MemoryFiles disk;
    Trainer trainer(&disk);
    trainer.start();
    EXPECT_EQ(trainer.save(2), CAIRN_ERROR_USAGE);
}

// More events than are kept: the newest stay.
TEST(LibraryFailure, EventsThatNobodyAsksForDoNotPileUp) {
    MemoryFiles disk;
    Trainer trainer(&disk);
    trainer.options.busy = CAIRN_CHECKPOINT_WAIT;
    trainer.start();
    for (uint64_t step = 1; step <= 100; step++) {
        trainer.train_to(step);
        ASSERT_EQ(trainer.save(), CAIRN_OK);
    }
    ASSERT_EQ(trainer.wait(), CAIRN_OK);
    std::vector<uint64_t> steps;
    while (const cairn_checkpoint_event *event = cairn_checkpoint_poll(trainer.saves.get())) {
        steps.push_back(event->step);
    }
    ASSERT_EQ(steps.size(), 64u);
    EXPECT_EQ(steps.front(), 37u);
    EXPECT_EQ(steps.back(), 100u);
}

// ---- failures in the background ----

TEST(LibraryFailure, AFullDiskIsToldAndLaterSavesAreTried) {
    MemoryFiles disk;
    Trainer trainer(&disk);
    trainer.start();
    trainer.save_step(1);
    ASSERT_NE(cairn_checkpoint_poll(trainer.saves.get()), nullptr);
    trainer.files.fail_where(is_checkpoint_write, ENOSPC);
    trainer.train_to(2);
    ASSERT_EQ(trainer.save(), CAIRN_OK);
    EXPECT_EQ(trainer.wait(), CAIRN_ERROR_IO);
    EXPECT_TRUE(trainer.message_has("ENOSPC")) << trainer.error.message;
    ASSERT_EQ(trainer.told.errors.size(), 1u);
    EXPECT_TRUE(trainer.told.heard(CAIRN_ERROR_IO, "step 2"));
    const cairn_checkpoint_event *event = cairn_checkpoint_poll(trainer.saves.get());
    ASSERT_NE(event, nullptr);
    EXPECT_EQ(event->step, 2u);
    EXPECT_EQ(event->error.status, CAIRN_ERROR_IO);
    EXPECT_EQ(ring_steps(disk), std::vector<uint64_t>{1});
    trainer.files.heal();
    trainer.save_step(3); // waits, and the newest is durable
    EXPECT_EQ(ring_steps(disk), (std::vector<uint64_t>{1, 3}));
    EXPECT_EQ(cairn_checkpoint_get_totals(trainer.saves.get())->failed, 1u);
}

// The file is there: what failed came after it.
TEST(LibraryFailure, AFailureBehindADurableCheckpointSaysSo) {
    MemoryFiles disk;
    Trainer trainer(&disk);
    trainer.start();
    trainer.files.fail_where(
        [](FileCall call, const std::string &path, bool) {
            return call == FileCall::Write && path.find("model.ckpt-") == std::string::npos;
        },
        EIO);
    trainer.train_to(2);
    ASSERT_EQ(trainer.save(), CAIRN_OK);
    EXPECT_EQ(trainer.wait(), CAIRN_ERROR_IO);
    EXPECT_TRUE(trainer.message_has("step 2 is durable, but the state file"))
        << trainer.error.message;
    const cairn_checkpoint_event *event = cairn_checkpoint_poll(trainer.saves.get());
    ASSERT_NE(event, nullptr);
    EXPECT_EQ(event->error.status, CAIRN_ERROR_IO);
    EXPECT_STREQ(event->error.message, trainer.error.message); // as far as the others say
    ASSERT_EQ(trainer.told.errors.size(), 1u);
    EXPECT_STREQ(event->error.message, trainer.told.errors[0].message);
    trainer.files.heal();
    EXPECT_EQ(ring_steps(disk), std::vector<uint64_t>{2});
}

// Renamed, but the name is not known to be on the disk: a restart finds it, a power cut may lose it.
TEST(LibraryFailure, ASaveThatIsThereButMayBeLostIsNotCalledUnsaved) {
    MemoryFiles disk;
    Trainer trainer(&disk);
    trainer.start();
    trainer.save_step(1);
    trainer.files.fail_where([](FileCall call, const std::string &path,
                                bool) { return call == FileCall::Fsync && path == kRun; },
                             EIO);
    trainer.train_to(2);
    ASSERT_EQ(trainer.save(), CAIRN_OK);
    EXPECT_EQ(trainer.wait(), CAIRN_ERROR_IO);
    EXPECT_TRUE(trainer.message_has("step 2 is there, but not known to be durable"))
        << trainer.error.message;
    EXPECT_TRUE(disk.exists(checkpoint_path(2)));
    trainer.files.heal();
    trainer.save_step(3);
}

TEST(LibraryFailure, StopMakesLaterSavesFail) {
    MemoryFiles disk;
    Trainer trainer(&disk);
    trainer.options.on_failure = CAIRN_CHECKPOINT_STOP;
    trainer.start();
    trainer.files.fail_where(is_checkpoint_write, EIO);
    trainer.train_to(2);
    ASSERT_EQ(trainer.save(), CAIRN_OK);
    EXPECT_EQ(trainer.wait(), CAIRN_ERROR_IO);
    trainer.files.heal();
    trainer.train_to(3);
    EXPECT_EQ(trainer.save(), CAIRN_ERROR_IO);
    EXPECT_TRUE(trainer.message_has("step 2")) << trainer.error.message;
}

// A run that diverged goes back to its last good state and on from there.
TEST(LibraryFailure, AfterStopARestoreBeginsAnew) {
    MemoryFiles disk;
    Trainer trainer(&disk);
    trainer.options.on_failure = CAIRN_CHECKPOINT_STOP;
    trainer.start();
    trainer.save_step(1);
    trainer.train_to(2);
    trainer.weight[0] = NAN;
    ASSERT_EQ(trainer.save(), CAIRN_OK);
    EXPECT_EQ(trainer.wait(), CAIRN_ERROR_NONFINITE);
    ASSERT_EQ(trainer.restore(), CAIRN_OK);
    EXPECT_EQ(trainer.step, 1u);
    EXPECT_EQ(trainer.wait(), CAIRN_OK); // nothing has failed since
    trainer.save_step(3);
    EXPECT_EQ(ring_steps(disk), (std::vector<uint64_t>{1, 3}));
}

// Nothing was ever saved, or all of it was taken away: a restore that finds nothing begins anew.
TEST(LibraryFailure, AFreshStartAfterSavesMaySaveAnyStep) {
    for (bool failed : {false, true}) {
        MemoryFiles disk;
        Trainer trainer(&disk);
        trainer.options.on_failure = CAIRN_CHECKPOINT_STOP;
        trainer.start();
        if (failed) {
            trainer.files.fail_where(is_checkpoint_write, ENOSPC);
        }
        trainer.train_to(100);
        ASSERT_EQ(trainer.save(), CAIRN_OK);
        EXPECT_EQ(trainer.wait(), failed ? CAIRN_ERROR_IO : CAIRN_OK);
        trainer.files.heal();
        disk.remove(checkpoint_path(100));
        ASSERT_EQ(trainer.restore(), CAIRN_OK) << trainer.error.message;
        EXPECT_FALSE(trainer.found);
        trainer.save_step(50);
        EXPECT_EQ(ring_steps(disk), std::vector<uint64_t>{50});
    }
}

// "No checkpoint", and a fresh start, is what a directory that has gone must not mean.
TEST(LibraryFailure, ARestoreFromADirectoryThatHasGoneFails) {
    MemoryFiles disk;
    Trainer trainer(&disk);
    trainer.start();
    trainer.save_step(1);
    disk.remove(kRun + "/.cairn-lock");
    disk.remove(kRun);
    EXPECT_EQ(trainer.restore(), CAIRN_ERROR_OUTPUT);
    EXPECT_TRUE(trainer.message_has("was deleted, moved or replaced")) << trainer.error.message;
    disk.make_directory(kRun); // and somebody makes it anew
    EXPECT_EQ(trainer.restore(), CAIRN_ERROR_OUTPUT);
    EXPECT_EQ(trainer.save(), CAIRN_ERROR_USAGE) << "not before a restore succeeds";
}

TEST(LibraryFailure, CloseSaysThatTheLastSaveFailed) {
    MemoryFiles disk;
    Trainer trainer(&disk);
    trainer.start();
    trainer.files.fail_where(is_checkpoint_write, EDQUOT);
    ASSERT_EQ(trainer.save(), CAIRN_OK);
    EXPECT_EQ(cairn_checkpoint_close(trainer.saves.release(), &trainer.error), CAIRN_ERROR_IO);
    EXPECT_TRUE(trainer.message_has("EDQUOT")) << trainer.error.message;
    EXPECT_EQ(disk.open_descriptors(), 0u);
}

TEST(LibraryFailure, NonFiniteTensorsAreNotPublishedUnlessTheirNameSaysSo) {
    MemoryFiles disk;
    Trainer trainer(&disk);
    ASSERT_EQ(trainer.open(), CAIRN_OK);
    trainer.add_all();
    double best = NAN;
    ASSERT_EQ(trainer.add({"state.best", CAIRN_F64, CAIRN_HOST, &best, 0, {}}), CAIRN_OK);
    ASSERT_EQ(trainer.restore(), CAIRN_OK);
    trainer.save_step(1);
    trainer.train_to(2);
    trainer.weight[3] = std::numeric_limits<float>::infinity();
    ASSERT_EQ(trainer.save(), CAIRN_OK);
    EXPECT_EQ(trainer.wait(), CAIRN_ERROR_NONFINITE);
    EXPECT_TRUE(trainer.message_has("weight")) << trainer.error.message;
    EXPECT_EQ(ring_steps(disk), std::vector<uint64_t>{1});
}

// Two-byte floats: their largest finite value is saved, the one above it is an infinity.
TEST(LibraryFailure, HalfPrecisionIsSavedAndChecked) {
    const struct {
        cairn_dtype dtype;
        uint16_t largest;
    } cases[] = {{CAIRN_F16, 0x7BFF}, {CAIRN_BF16, 0xFF7F}};
    for (const auto &one : cases) {
        MemoryFiles disk;
        uint16_t half[3] = {0x3C00, one.largest, 0x0001};
        int32_t count[2] = {-1, 1 << 30};
        Trainer trainer(&disk);
        ASSERT_EQ(trainer.open(), CAIRN_OK);
        ASSERT_EQ(trainer.add({"half", one.dtype, CAIRN_HOST, half, 1, {3}}), CAIRN_OK);
        ASSERT_EQ(trainer.add({"count", CAIRN_I32, CAIRN_HOST, count, 1, {2}}), CAIRN_OK);
        ASSERT_EQ(trainer.restore(), CAIRN_OK);
        trainer.save_step(1);
        half[1]++;
        ASSERT_EQ(trainer.save(), CAIRN_OK);
        EXPECT_EQ(trainer.wait(), CAIRN_ERROR_NONFINITE);
        EXPECT_TRUE(trainer.message_has("element 1 of 'half'")) << trainer.error.message;
        half[0] = half[1] = 0;
        count[0] = count[1] = 0;
        ASSERT_EQ(trainer.restore(), CAIRN_OK) << trainer.error.message;
        EXPECT_EQ(half[0], 0x3C00);
        EXPECT_EQ(half[1], one.largest);
        EXPECT_EQ(count[0], -1);
        EXPECT_EQ(count[1], 1 << 30);
    }
}

// Whatever call of opening and the first restore fails: an error with a message, nothing left open.
TEST(LibraryFailure, EveryFailingCallWhileStartingIsReported) {
    MemoryFiles good;
    make_run(&good, {10});
    size_t calls = 0, failed = 0;
    for (size_t nth = 1; nth == 1 || nth <= calls; nth++) {
        MemoryFiles disk;
        disk.put(checkpoint_path(10), good.get(checkpoint_path(10)).value());
        Trainer trainer(&disk);
        trainer.files.fail(nth, EIO, FaultyFiles::Once);
        cairn_status status = trainer.open();
        if (status == CAIRN_OK) {
            trainer.add_all();
            status = trainer.restore();
        }
        calls = std::max(calls, trainer.files.calls());
        if (status == CAIRN_OK) { // a hint, or an optional step; never a fresh start
            EXPECT_TRUE(trainer.found && trainer.is_trained_to(10)) << nth;
        } else {
            failed++;
            EXPECT_NE(trainer.error.message[0], '\0');
        }
        trainer.saves.reset();
        EXPECT_EQ(disk.open_descriptors(), 0u) << nth;
        EXPECT_EQ(disk.get(checkpoint_path(10)), good.get(checkpoint_path(10)));
    }
    EXPECT_GT(failed, 5u);
}

} // namespace
