// The checkpoint writer in bad times: disks and devices that fail, states that may not be saved;
// and what it costs: one thread, no descriptors, no memory that grows.
#include "io/writer.h"

#include <gtest/gtest.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/small_run.h"
#include "tests/support/temporary_directory.h"

namespace {

const std::string BEST = "best.safetensors.zst"; // as the contract names it

class WriterFailureOnBoth : public ::testing::TestWithParam<FakeBackend::Kind> {};
INSTANTIATE_TEST_SUITE_P(Kinds, WriterFailureOnBoth,
                         ::testing::Values(FakeBackend::UNIFIED, FakeBackend::ASYNCHRONOUS),
                         [](const auto &kind) {
                             return kind.param == FakeBackend::UNIFIED ? "Unified" : "Asynchronous";
                         });

// ---- failures ----

TEST_P(WriterFailureOnBoth, AnErrorAtAnyFileCallIsReportedOnceAndTheNextSaveSucceeds) {
    size_t calls = 0, failed = 0, renamed_only = 0;
    {
        SmallRun run(WRITER_BUSY_SKIP, GetParam());
        run.files.heal(); // counts from here
        run.save_step(1);
        run.drain();
        calls = run.files.calls();
    }
    ASSERT_GT(calls, 8u);
    for (size_t nth = 1; nth <= calls; nth++) {
        SmallRun run(WRITER_BUSY_SKIP, GetParam());
        run.save_step(1);
        ASSERT_EQ(run.drain().size(), 1u);
        run.files.heal();
        run.files.fail(nth, EIO, FaultyFiles::Once);
        run.save_step(2);
        std::vector<struct save_result> results = run.drain();
        ASSERT_EQ(results.size(), 1u);
        SCOPED_TRACE(run.files.last_failure());
        EXPECT_EQ(run.temporaries(), 0u);
        EXPECT_EQ(run.problem_of(1), "");
        bool ok = results[0].status == STATUS_OK;
        if (!ok) {
            failed++;
            EXPECT_EQ(results[0].status, STATUS_IO);
            EXPECT_NE(strstr(results[0].message, "EIO"), nullptr) << results[0].message;
        } else {
            EXPECT_EQ(run.problem_of(2), "");
        }
        EXPECT_EQ(run.totals().failed, ok ? 0u : 1u);
        // Renamed is there; published is durable, whatever failed behind it.
        const bool there = run.disk.exists(run.path(ring_name(2)));
        EXPECT_EQ(results[0].is_renamed, there);
        EXPECT_EQ(results[0].target_count, 1u);
        EXPECT_TRUE(there || results[0].targets_published == 0);
        renamed_only += there && results[0].targets_published == 0 ? 1 : 0;

        run.files.heal();
        run.save_step(3);
        results = run.drain();
        ASSERT_EQ(results.size(), 1u);
        EXPECT_EQ(results[0].status, STATUS_OK) << results[0].message;
        EXPECT_EQ(run.problem_of(3), "");
        EXPECT_EQ(run.totals().failed, ok ? 0u : 1u); // sticky
        EXPECT_EQ(run.totals().saved, ok ? 3u : 2u);
        EXPECT_EQ(run.disk.open_descriptors(), 2u); // of the directory and its lock
        EXPECT_EQ(run.files.uses_after_failed_fsync(), 0u);
    }
    EXPECT_GT(failed, 8u);
    EXPECT_EQ(renamed_only, 2u); // the directory is opened, and synced
}

TEST(WriterFailure, AnErrorInTheMiddleOfAWriteLeavesNoTemporary) {
    SmallRun run;
    run.save_step(1);
    run.drain();
    run.files.short_writes(1000); // the file takes several calls
    run.files.heal();
    run.files.count_only(is_checkpoint_write);
    run.files.fail(3, ENOSPC, FaultyFiles::Once);
    run.save_step(2);
    std::vector<struct save_result> results = run.drain();
    ASSERT_EQ(results.size(), 1u);
    EXPECT_EQ(results[0].status, STATUS_IO);
    EXPECT_EQ(run.files.failures(), 1u);
    EXPECT_NE(strstr(results[0].message, "ENOSPC"), nullptr) << results[0].message;
    EXPECT_EQ(run.checkpoints(), std::set<std::string>{ring_name(1)});
    EXPECT_EQ(run.temporaries(), 0u);

    run.save_step(3); // short writes go on and do no harm
    results = run.drain();
    ASSERT_EQ(results.size(), 1u);
    EXPECT_EQ(results[0].status, STATUS_OK) << results[0].message;
    EXPECT_EQ(run.problem_of(3), "");
    EXPECT_EQ(totals_text(run.totals()), "requested 3 saved 2 skipped 0 delayed 0 failed 1 lost 0");
}

// A disk with room for no byte of a save, for one, for two, and so on until it is saved: its
// checkpoint, and the state file behind it.
TEST(WriterFailure, ADiskThatIsFullAtAnyByteOfASaveKeepsWhatWasThere) {
    SmallRun run(WRITER_BUSY_SKIP, FakeBackend::UNIFIED, 2);
    for (uint64_t step : {1, 2}) {
        run.save_step(step);
        run.drain();
    }
    const std::map<std::string, std::string> before = run.disk.contents();
    size_t unpublished = 0, published = 0;
    for (bool saved = false; !saved;) {
        const size_t room = unpublished + published;
        run.files.room(room);
        run.save_step(3);
        const std::vector<struct save_result> results = run.drain();
        ASSERT_EQ(results.size(), 1u);
        SCOPED_TRACE(room);
        saved = results[0].status == STATUS_OK;
        if (!saved) {
            ASSERT_EQ(results[0].status, STATUS_IO);
            ASSERT_NE(strstr(results[0].message, "ENOSPC"), nullptr) << results[0].message;
            ASSERT_EQ(run.files.room_used(), room);
            // Whole and durable before the state file: it stays.
            std::map<std::string, std::string> after = run.disk.contents();
            const bool there = after.erase(run.path(ring_name(3))) > 0;
            ASSERT_TRUE(there || published == 0);
            ASSERT_EQ(there ? run.problem_of(3) : "", "");
            ASSERT_TRUE(after == before);
            run.disk.remove(run.path(ring_name(3)));
            (there ? published : unpublished)++;
        }
    }
    EXPECT_EQ(run.problem_of(3), "");
    EXPECT_EQ(run.checkpoints(), (std::set<std::string>{ring_name(2), ring_name(3)}));
    EXPECT_GT(unpublished, SmallRun::FLOATS); // they compress a little
    EXPECT_GT(published, ring_name(3).size());
    EXPECT_EQ(run.totals().failed, unpublished + published);
}

// How far a save came: its files, or its files without what follows them.
TEST(WriterFailure, AFileThatSomebodyDeletesAtOnceIsNotPublished) {
    SmallRun run;
    run.save_step(1);
    ASSERT_EQ(run.drain()[0].targets_published, 1u);
    run.files.fail_where(
        [&](FileCall call, const std::string &, bool) {
            if (call == FileCall::List) { // behind the rename
                run.disk.remove(run.path(ring_name(2)));
            }
            return false;
        },
        EIO);
    run.save_step(2);
    std::vector<struct save_result> results = run.drain();
    ASSERT_EQ(results.size(), 1u);
    EXPECT_EQ(results[0].status, STATUS_IO);
    EXPECT_NE(strstr(results[0].message, "vanished"), nullptr) << results[0].message;
    EXPECT_EQ(results[0].target_count, 1u);
    EXPECT_EQ(results[0].targets_published, 0u);

    run.files.heal();
    run.files.fail_where(
        [](FileCall call, const std::string &path, bool) {
            return call == FileCall::Rename && path.find("checkpoint.") != std::string::npos;
        },
        EIO);
    run.save_step(3);
    results = run.drain();
    ASSERT_EQ(results.size(), 1u);
    EXPECT_EQ(results[0].status, STATUS_IO);
    EXPECT_NE(strstr(results[0].message, "EIO"), nullptr) << results[0].message;
    EXPECT_EQ(results[0].target_count, 1u);
    EXPECT_EQ(results[0].targets_published, 1u);
    EXPECT_EQ(run.problem_of(3), "");
}

TEST_P(WriterFailureOnBoth, NonFiniteIsRefusedWhileTheOlderFilesStay) {
    SmallRun run(WRITER_BUSY_SKIP, GetParam());
    run.save_step(1);
    run.drain();
    auto before = run.disk.contents();
    run.train_to(2);
    run.poison_weight();
    struct save_request request = {};
    request.step = 2;
    SmallRun::add_target(&request, run.path(BEST), false);
    SmallRun::add_target(&request, run.path(ring_name(2)), true);
    run.save(request);
    std::vector<struct save_result> results = run.drain();
    ASSERT_EQ(results.size(), 1u);
    EXPECT_EQ(results[0].status, STATUS_NONFINITE);
    EXPECT_NE(strstr(results[0].message, "weight"), nullptr) << results[0].message;
    EXPECT_EQ(results[0].targets_published, 0u);
    EXPECT_EQ(run.disk.contents(), before);

    run.save_step(3);
    EXPECT_EQ(run.drain()[0].status, STATUS_OK);
    EXPECT_EQ(run.problem_of(3), "");
    EXPECT_EQ(totals_text(run.totals()), "requested 3 saved 2 skipped 0 delayed 0 failed 1 lost 0");
}

// A state that claims the best model of a save that came to nothing is not published either.
TEST_P(WriterFailureOnBoth, ASaveThatBuildsOnAnUnpublishedOneIsNotPublished) {
    SmallRun run(WRITER_BUSY_WAIT, GetParam());
    run.save_step(1); // id 1
    run.train_to(2);
    run.poison_weight();
    struct save_request best = {};
    best.step = 2;
    best.must = true;
    SmallRun::add_target(&best, run.path(BEST), false);
    run.save(best); // id 2: refused
    run.train_to(3);
    struct save_request claims = run.ring_request();
    claims.after_id = 2;
    run.save(claims); // id 3
    run.train_to(4);
    struct save_request builds_on_good = run.ring_request();
    builds_on_good.after_id = 1;
    run.save(builds_on_good); // id 4
    std::vector<struct save_result> results = run.drain();
    ASSERT_EQ(results.size(), 4u);
    EXPECT_EQ(results[1].status, STATUS_NONFINITE);
    EXPECT_EQ(results[2].status, STATUS_IO);
    EXPECT_EQ(results[2].targets_published, 0u);
    EXPECT_NE(strstr(results[2].message, "best model"), nullptr) << results[2].message;
    EXPECT_EQ(results[3].status, STATUS_OK) << results[3].message;
    EXPECT_EQ(run.checkpoints(), (std::set<std::string>{ring_name(1), ring_name(4)}));
}

TEST_P(WriterFailureOnBoth, ADeviceThatFailsTheSnapshotIsReportedByTheCall) {
    SmallRun run(WRITER_BUSY_SKIP, GetParam());
    for (uint64_t step = 1; step <= 5; step++) { // more often than there are slots
        run.train_to(step);
        struct save_request request = run.ring_request();
        std::vector<struct snapshot_source> list = run.sources();
        enum save_outcome outcome = SAVE_ACCEPTED;
        struct error err = {};
        run.device.fail_call(1);
        EXPECT_EQ(writer_save(run.writer, list.data(), list.size(), &request, &outcome, &err),
                  STATUS_DEVICE);
        run.device.fail_call(0);
        EXPECT_NE(strstr(err.message, "as the test asked"), nullptr) << err.message;
    }
    run.save_step(6);
    std::vector<struct save_result> results = run.drain();
    ASSERT_EQ(results.size(), 1u);
    EXPECT_EQ(results[0].id, 1u); // failed snapshots were never accepted
    EXPECT_EQ(run.problem_of(6), "");
    EXPECT_EQ(totals_text(run.totals()), "requested 6 saved 1 skipped 0 delayed 0 failed 5 lost 0");
}

TEST(WriterFailure, ADeviceThatFailsTheCopyLaterIsReportedByTheResult) {
    SmallRun run;
    run.train_to(1);
    run.device.fail_call(3); // copy, event_record; then event_wait on the writer's thread
    run.save(run.ring_request());
    std::vector<struct save_result> results = run.drain();
    ASSERT_EQ(results.size(), 1u);
    EXPECT_EQ(results[0].status, STATUS_DEVICE);
    EXPECT_NE(strstr(results[0].message, "event_wait"), nullptr) << results[0].message;
    EXPECT_EQ(results[0].path, run.path(ring_name(1)));
    EXPECT_TRUE(run.checkpoints().empty());
}

TEST_P(WriterFailureOnBoth, EveryFailureOfTheDeviceAtCreateLeavesNothingBehind) {
    FakeBackend device(GetParam());
    MemoryFiles disk;
    std::vector<float> region(SmallRun::FLOATS);
    struct writer_options options = {disk.table(), nullptr, 1, WRITER_BUSY_SKIP, 64, 1, false};
    unsigned tried = 0;
    for (enum status status = STATUS_DEVICE; status != STATUS_OK; tried++) {
        struct writer *writer;
        struct error err = {};
        device.fail_call(tried + 1);
        status = writer_create(&options, device.get(), region.data(),
                               SmallRun::FLOATS * sizeof(float), &writer, &err);
        device.fail_call(0);
        EXPECT_EQ(writer == nullptr, status != STATUS_OK);
        writer_free(writer);
    }
    EXPECT_GE(tried, 5u);
    EXPECT_EQ(disk.op_count(), 0u); // creating touches no file
}

// ---- the thread ----

std::set<std::string> tasks() {
    std::set<std::string> found;
    for (const auto &entry : std::filesystem::directory_iterator("/proc/self/task")) {
        found.insert(entry.path().filename());
    }
    return found;
}

// The signals that a thread blocks, as the kernel shows them: bit n - 1 for signal n.
unsigned long long blocked_signals(const std::string &task) {
    std::ifstream status("/proc/self/task/" + task + "/status");
    unsigned long long blocked = 0;
    for (std::string line; std::getline(status, line);) {
        if (line.rfind("SigBlk:", 0) == 0) {
            blocked = std::stoull(line.substr(7), nullptr, 16);
        }
    }
    return blocked;
}

TEST(WriterThread, ItsThreadsBlockAllSignalsAndOnlyItsThreads) {
    std::thread([] {}).join(); // with the first one a sanitizer starts a thread of its own
    FakeBackend device(FakeBackend::UNIFIED);
    MemoryFiles disk;
    const struct writer_options options = {disk.table(), nullptr, 1,    WRITER_BUSY_SKIP,
                                           64,           1,       false};
    std::set<std::string> before = tasks();
    sigset_t mask_before, mask_after;
    sigemptyset(&mask_before);
    sigaddset(&mask_before, SIGUSR2);
    pthread_sigmask(SIG_SETMASK, &mask_before, nullptr);
    struct writer *writer = nullptr;
    ASSERT_EQ(writer_create(&options, device.get(), nullptr, 0, &writer, nullptr), STATUS_OK);
    pthread_sigmask(SIG_SETMASK, nullptr, &mask_after);
    size_t added = 0;
    for (const std::string &task : tasks()) {
        if (before.count(task) == 1) {
            continue;
        }
        added++;
        unsigned long long blocked = blocked_signals(task);
        for (int signal : {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGPIPE, SIGALRM, SIGCHLD}) {
            EXPECT_TRUE(blocked >> (signal - 1) & 1) << strsignal(signal);
            EXPECT_EQ(sigismember(&mask_before, signal), sigismember(&mask_after, signal));
        }
    }
    EXPECT_EQ(added, 2u);
    writer_free(writer);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool MALLOC_IS_LIBC = false; // mallinfo2 sees nothing; leaks are the sanitizer's to find
#else
constexpr bool MALLOC_IS_LIBC = true;
#endif

size_t open_files() {
    size_t count = 0;
    for ([[maybe_unused]] const auto &entry :
         std::filesystem::directory_iterator("/proc/self/fd")) {
        count++;
    }
    return count;
}

TEST(WriterThread, DescriptorsAndMemoryStayConstantOverFiveHundredSaves) {
    TemporaryDirectory directory;
    SmallRun run(WRITER_BUSY_WAIT, FakeBackend::ASYNCHRONOUS, 3, &file_posix, directory.path());
    size_t files = 0, memory = 0;
    for (uint64_t step = 1; step <= 500; step++) {
        ASSERT_EQ(run.save_step(step), SAVE_ACCEPTED);
        if (step % 100 == 0) {
            for (const struct save_result &result : run.drain()) {
                ASSERT_EQ(result.status, STATUS_OK) << result.message;
            }
            size_t now = mallinfo2().uordblks;
            if (step > 100) {
                EXPECT_EQ(open_files(), files);
                EXPECT_LE(now, memory + 4096) << "after " << step << " saves";
            }
            files = open_files();
            memory = MALLOC_IS_LIBC ? now : SIZE_MAX - 4096;
        }
    }
    EXPECT_EQ(run.totals().saved, 500u);
    std::string newest = read_file(directory.file(ring_name(500)));
    EXPECT_EQ(decode_problem(newest, 500), "");
    // The lock, the state file, three checkpoints.
    auto entries = std::filesystem::directory_iterator(directory.path());
    EXPECT_EQ(std::distance(begin(entries), end(entries)), 5);
}

TEST(WriterThread, ManySavesInAllPoliciesKeepTheirPromises) {
    for (enum writer_busy busy : {WRITER_BUSY_SKIP, WRITER_BUSY_LATEST, WRITER_BUSY_WAIT}) {
        SmallRun run(busy, FakeBackend::ASYNCHRONOUS, 2);
        uint64_t accepted = 0, skipped = 0, dropped = 0, saved = 0, last_id = 0;
        auto collect = [&](const std::vector<struct save_result> &results) {
            for (const struct save_result &result : results) {
                EXPECT_EQ(result.status, STATUS_OK) << result.message;
                dropped += result.dropped;
                saved += !result.dropped;
                last_id = result.dropped ? last_id : result.id;
            }
        };
        for (uint64_t step = 1; step <= 150; step++) {
            (run.save_step(step, step % 13 == 0) == SAVE_ACCEPTED ? accepted : skipped)++;
            collect(run.results());
        }
        EXPECT_EQ(run.save_step(151, true), SAVE_ACCEPTED);
        collect(run.drain());
        struct writer_totals totals = run.totals();
        EXPECT_EQ(totals.requested, 151u);
        EXPECT_EQ(totals.saved, saved);
        EXPECT_EQ(totals.skipped, skipped + dropped);
        EXPECT_EQ(saved + dropped, accepted + 1);
        EXPECT_EQ(last_id, accepted + 1);
        EXPECT_EQ(run.problem_of(151), "");
        if (busy == WRITER_BUSY_WAIT) {
            EXPECT_EQ(saved, 151u);
        }
    }
}

} // namespace
