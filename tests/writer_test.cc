// The checkpoint writer in good times: what it publishes, what it does when it is busy, what it
// tells the trainer. Files live in memory; a gate in front of them says how far the writer's thread
// gets.
#include "io/writer.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "host/base/text.h"
#include "tests/support/small_run.h"
#include "tests/support/temporary_directory.h"

namespace {

const std::string BEST = "best.safetensors.zst"; // as the contract names it

// The writer is in the middle of writing step 1, step 2 waits: both slots are taken.
void fill_both_slots(SmallRun *run, bool second_must = false) {
    run->files.hold(is_checkpoint_write);
    ASSERT_EQ(run->save_step(1), SAVE_ACCEPTED);
    run->files.wait_until_held();
    ASSERT_EQ(run->save_step(2, second_must), SAVE_ACCEPTED);
}

// Run `call` on a thread of its own and return when that thread sleeps inside of it.
std::thread start_and_wait_until_it_sleeps(const std::function<void()> &call) {
    std::atomic<long> id{0};
    std::thread thread([&id, call] {
        id = syscall(SYS_gettid);
        call();
    });
    while (id == 0) {
        std::this_thread::yield();
    }
    std::string path = "/proc/self/task/" + std::to_string(id) + "/stat";
    for (char state = 'R'; state != 'S'; std::this_thread::yield()) {
        std::string stat = read_file(path);
        state = stat[stat.rfind(") ") + 2];
    }
    return thread;
}

class WriterOnBoth : public ::testing::TestWithParam<FakeBackend::Kind> {};
INSTANTIATE_TEST_SUITE_P(Kinds, WriterOnBoth,
                         ::testing::Values(FakeBackend::UNIFIED, FakeBackend::ASYNCHRONOUS),
                         [](const auto &kind) {
                             return kind.param == FakeBackend::UNIFIED ? "Unified" : "Asynchronous";
                         });

// ---- what is published ----

enum status append_to_string(void *context, const void *bytes, size_t size, struct error *) {
    static_cast<std::string *>(context)->append(static_cast<const char *>(bytes), size);
    return STATUS_OK;
}

TEST_P(WriterOnBoth, TheFileIsBitForBitASynchronousEncodingOfTheStateAtTheCall) {
    SmallRun run(WRITER_BUSY_SKIP, GetParam());
    run.train_to(12);
    struct save_request request = run.ring_request();
    const struct metadata_pair pairs[] = {
        {"created", "2020-01-02T03:04:05Z"}, {"host", "h"}, {"pid", "1"}, {"note", "n"}};
    std::copy(pairs, pairs + 4, request.metadata);
    request.metadata_count = 4;
    ASSERT_EQ(run.save(request), SAVE_ACCEPTED);
    run.train_to(13);

    std::vector<float> weight(2000), moments(1000);
    for (size_t i = 0; i < 3000; i++) {
        (i < 2000 ? weight[i] : moments[i - 2000]) = expected_weight(12, i);
    }
    int64_t step = 12;
    const uint64_t shape[] = {40, 50}, length[] = {1000}, text[] = {sizeof run.words};
    struct tensor_view tensors[] = {
        tensor_make("weight", DTYPE_F32, weight.data(), 2, shape),
        tensor_make("adam.m.weight", DTYPE_F32, moments.data(), 1, length),
        tensor_make("state.step", DTYPE_I64, &step, 0, nullptr),
        tensor_make("vocabulary", DTYPE_U8, run.words, 1, text)};
    struct checkpoint_encoder *encoder;
    struct error err = {};
    std::string expected;
    uint64_t bytes = 0;
    ASSERT_EQ(checkpoint_encoder_create(1, 1, &encoder, &err), STATUS_OK);
    ASSERT_EQ(checkpoint_encode(encoder, tensors, 4, pairs, 4, append_to_string, &expected, &bytes,
                                nullptr, &err),
              STATUS_OK);
    checkpoint_encoder_free(encoder);

    std::vector<struct save_result> results = run.drain();
    ASSERT_EQ(results.size(), 1u);
    EXPECT_EQ(results[0].status, STATUS_OK) << results[0].message;
    EXPECT_EQ(results[0].bytes, expected.size());
    EXPECT_EQ(results[0].raw_bytes, 3000u * 4 + 8 + 8);
    EXPECT_EQ(results[0].path, run.path(ring_name(12)));
    EXPECT_EQ(results[0].targets_published, 1u);
    EXPECT_TRUE(run.disk.get(run.path(ring_name(12))) == expected);
}

std::map<std::string, std::string> metadata_of(const std::string &bytes) {
    struct error err = {};
    struct checkpoint *checkpoint = nullptr;
    std::map<std::string, std::string> found;
    EXPECT_EQ(checkpoint_decode(bytes.data(), bytes.size(), &checkpoint, &err), STATUS_OK)
        << err.message;
    for (size_t i = 0; checkpoint != nullptr && i < checkpoint->metadata_count; i++) {
        found[checkpoint->metadata[i].key] = checkpoint->metadata[i].value;
    }
    checkpoint_free(checkpoint);
    return found;
}

TEST(Writer, AddsWhenWhereAndByWhomAndCopiesTheCallersStrings) {
    SmallRun run;
    run.train_to(1);
    struct save_request request = run.ring_request();
    char key[] = "run_id", value[] = "abc";
    request.metadata[0] = {key, value};
    request.metadata[1] = {"pid", "mine"};
    request.metadata_count = 2;
    time_t before = time(nullptr);
    run.files.hold([](FileCall call, const std::string &, bool) { return call == FileCall::Open; });
    run.save(request);
    strcpy(key, "xxx");
    strcpy(value, "yyy");
    run.files.release();
    run.drain();
    time_t after = time(nullptr);

    auto found = metadata_of(*run.disk.get(run.path(ring_name(1))));
    EXPECT_EQ(found["run_id"], "abc");
    EXPECT_EQ(found["pid"], "mine");
    char host[256] = "";
    gethostname(host, sizeof host);
    EXPECT_EQ(found["host"], host);
    struct tm utc = {};
    const char *rest = strptime(found["created"].c_str(), "%Y-%m-%dT%H:%M:%SZ", &utc);
    ASSERT_TRUE(rest != nullptr && *rest == '\0') << found["created"];
    EXPECT_GE(timegm(&utc), before);
    EXPECT_LE(timegm(&utc), after);
}

TEST(Writer, MetadataMayBeLong) {
    SmallRun run;
    std::string options(200000, 'o');
    run.train_to(1);
    struct save_request request = run.ring_request();
    request.metadata[0] = {"options", options.c_str()};
    request.metadata_count = 1;
    run.save(request);
    run.drain();
    auto found = metadata_of(*run.disk.get(run.path(ring_name(1))));
    EXPECT_EQ(found["options"], options);
    EXPECT_EQ(found["pid"], std::to_string(getpid()));
}

TEST(Writer, WeightsOnlyLeavesOutWhatOnlyTrainingNeeds) {
    SmallRun run;
    int64_t number = 3;
    struct save_request request = {};
    SmallRun::add_target(&request, run.path("weights.zst"), false);
    request.targets[0].weights_only = true;
    SmallRun::add_target(&request, run.path("whole.zst"), false);
    const char *const names[] = {"weight",      "adam.m.weight", "adam.v.weight", "best.weight",
                                 "last.weight", "state.step",    "history.loss",  "vocabulary",
                                 "text.strip",  "bestial",       "lstm.adam."};
    std::vector<struct snapshot_source> sources;
    for (const char *name : names) {
        sources.push_back(
            {tensor_make(name, DTYPE_I64, &number, 0, nullptr), SNAPSHOT_HOST, false});
    }
    struct error err = {};
    enum save_outcome outcome;
    ASSERT_EQ(writer_save(run.writer, sources.data(), sources.size(), &request, &outcome, &err),
              STATUS_OK);
    std::vector<struct save_result> results = run.drain();
    ASSERT_EQ(results.size(), 1u);
    EXPECT_EQ(results[0].targets_published, 2u);
    EXPECT_EQ(results[0].raw_bytes, 11u * 8);

    std::map<std::string, std::set<std::string>> stored;
    for (const char *file : {"weights.zst", "whole.zst"}) {
        struct checkpoint *checkpoint = nullptr;
        ASSERT_EQ(checkpoint_read_file(run.disk.table(), run.path(file).c_str(), &checkpoint, &err),
                  STATUS_OK)
            << err.message;
        for (size_t i = 0; i < checkpoint->tensor_count; i++) {
            stored[file].insert(checkpoint->tensors[i].name);
        }
        checkpoint_free(checkpoint);
    }
    EXPECT_EQ(stored["weights.zst"], (std::set<std::string>{"weight", "vocabulary", "text.strip",
                                                            "bestial", "lstm.adam."}));
    EXPECT_EQ(stored["whole.zst"], std::set<std::string>(std::begin(names), std::end(names)));
}

TEST(Writer, ALaterSaveOfTheSameStepReplacesTheFile) {
    SmallRun run;
    run.train_to(5);
    run.region[0] = 111;
    run.save(run.ring_request());
    run.drain();
    std::string first = *run.disk.get(run.path(ring_name(5)));
    run.train_to(5);
    run.save(run.ring_request(true));
    std::vector<struct save_result> results = run.drain();
    ASSERT_EQ(results.size(), 1u);
    EXPECT_EQ(results[0].status, STATUS_OK);
    EXPECT_NE(decode_problem(first, 5), "");
    EXPECT_EQ(run.problem_of(5), "");
    EXPECT_EQ(run.checkpoints(), std::set<std::string>{ring_name(5)});
}

// ---- several targets ----

TEST(Writer, TargetsArePublishedInTheirOrderEachDurableBeforeTheNext) {
    SmallRun run;
    run.train_to(3);
    struct save_request request = {};
    request.step = 3;
    SmallRun::add_target(&request, run.path(BEST), false);
    SmallRun::add_target(&request, run.path(ring_name(3)), true);
    run.disk.forget_log();
    run.save(request);
    std::vector<struct save_result> results = run.drain();
    ASSERT_EQ(results.size(), 1u);
    EXPECT_EQ(results[0].targets_published, 2u);
    EXPECT_EQ(results[0].path, run.path(ring_name(3)));

    std::vector<std::string> order; // renames and directory fsyncs
    for (const FileOp &op : run.disk.log()) {
        if (op.call == FileCall::Rename) {
            order.push_back(op.to);
        } else if (op.call == FileCall::Fsync && op.is_directory) {
            order.push_back("fsync " + op.path);
        }
    }
    const std::vector<std::string> expected = {
        run.path(BEST),         "fsync " + std::string("/run"),
        run.path(ring_name(3)), "fsync " + std::string("/run"),
        run.path("checkpoint"), "fsync " + std::string("/run")};
    EXPECT_EQ(order, expected);
}

TEST(Writer, AtEveryCrashTheBestFileIsAtLeastAsNewAsTheNewestOfTheRing) {
    SmallRun run;
    for (uint64_t step : {1, 2}) {
        run.train_to(step);
        struct save_request request = {};
        request.step = step;
        SmallRun::add_target(&request, run.path(BEST), false);
        SmallRun::add_target(&request, run.path(ring_name(step)), true);
        run.save(request);
        run.drain();
    }
    size_t claims = 0;
    run.disk.for_each_crash([&](const std::string &what, MemoryFiles &left) {
        for (uint64_t step : {2, 1}) {
            if (left.exists(run.path(ring_name(step)))) {
                claims++;
                std::optional<std::string> best = left.get(run.path(BEST));
                EXPECT_TRUE(decode_problem(best, step) == "" ||
                            (step == 1 && decode_problem(best, 2) == ""))
                    << what;
                break;
            }
        }
    });
    EXPECT_GT(claims, 10u);
}

TEST(Writer, AfterAFailedTargetTheLaterOnesAreNotPublished) {
    SmallRun run;
    run.train_to(3);
    struct save_request request = {};
    request.step = 3;
    SmallRun::add_target(&request, run.path(BEST), false);
    SmallRun::add_target(&request, run.path("extra.safetensors.zst"), false);
    SmallRun::add_target(&request, run.path(ring_name(3)), true);
    run.files.fail_where(
        [](FileCall call, const std::string &path, bool) {
            return call == FileCall::Write && path.find("extra") != std::string::npos;
        },
        ENOSPC);
    run.save(request);
    std::vector<struct save_result> results = run.drain();
    ASSERT_EQ(results.size(), 1u);
    EXPECT_EQ(results[0].status, STATUS_IO);
    EXPECT_EQ(results[0].targets_published, 1u);
    EXPECT_EQ(results[0].path, run.path("extra.safetensors.zst"));
    EXPECT_EQ(run.checkpoints(), std::set<std::string>{BEST});
    EXPECT_EQ(run.temporaries(), 0u);
}

// ---- busy policies ----

TEST_P(WriterOnBoth, SkipDropsTheNewSave) {
    SmallRun run(WRITER_BUSY_SKIP, GetParam());
    fill_both_slots(&run);
    EXPECT_EQ(run.save_step(3), SAVE_SKIPPED);
    EXPECT_EQ(run.save_step(4), SAVE_SKIPPED);
    run.files.release();
    std::vector<struct save_result> results = run.drain();
    ASSERT_EQ(results.size(), 2u);
    EXPECT_EQ(results[0].step, 1u);
    EXPECT_EQ(results[1].step, 2u);
    EXPECT_EQ(totals_text(run.totals()), "requested 4 saved 2 skipped 2 delayed 0 failed 0 lost 0");
    EXPECT_EQ(run.checkpoints(), (std::set<std::string>{ring_name(1), ring_name(2)}));
    EXPECT_EQ(run.problem_of(1), "");
    EXPECT_EQ(run.problem_of(2), "");
}

TEST_P(WriterOnBoth, LatestReplacesTheWaitingSave) {
    SmallRun run(WRITER_BUSY_LATEST, GetParam());
    fill_both_slots(&run);
    EXPECT_EQ(run.save_step(3), SAVE_ACCEPTED);
    EXPECT_EQ(run.save_step(4), SAVE_ACCEPTED);
    std::vector<struct save_result> dropped = run.results(); // heard of at once
    ASSERT_EQ(dropped.size(), 2u);
    for (size_t i = 0; i < 2; i++) {
        EXPECT_TRUE(dropped[i].dropped);
        EXPECT_EQ(dropped[i].step, i + 2);
        EXPECT_EQ(dropped[i].id, i + 2);
        EXPECT_EQ(dropped[i].targets_published, 0u);
    }
    run.files.release();
    std::vector<struct save_result> results = run.drain();
    ASSERT_EQ(results.size(), 2u);
    EXPECT_EQ(results[0].step, 1u);
    EXPECT_EQ(results[1].step, 4u);
    EXPECT_FALSE(results[1].dropped);
    EXPECT_EQ(totals_text(run.totals()), "requested 4 saved 2 skipped 2 delayed 0 failed 0 lost 0");
    EXPECT_EQ(run.checkpoints(), (std::set<std::string>{ring_name(1), ring_name(4)}));
    EXPECT_EQ(run.problem_of(1), "");
    EXPECT_EQ(run.problem_of(4), "");
}

TEST_P(WriterOnBoth, LatestNeverReplacesASaveThatMustHappen) {
    SmallRun run(WRITER_BUSY_LATEST, GetParam());
    fill_both_slots(&run, true);
    EXPECT_EQ(run.save_step(3), SAVE_SKIPPED);
    run.files.release();
    EXPECT_EQ(run.drain().size(), 2u);
    EXPECT_EQ(totals_text(run.totals()), "requested 3 saved 2 skipped 1 delayed 0 failed 0 lost 0");
    EXPECT_EQ(run.checkpoints(), (std::set<std::string>{ring_name(1), ring_name(2)}));
    EXPECT_EQ(run.problem_of(2), "");
}

TEST_P(WriterOnBoth, WaitBlocksUntilASlotIsFree) {
    SmallRun run(WRITER_BUSY_WAIT, GetParam());
    fill_both_slots(&run);
    enum save_outcome outcome = SAVE_SKIPPED;
    std::thread trainer = start_and_wait_until_it_sleeps([&] { outcome = run.save_step(3); });
    run.files.release();
    trainer.join();
    EXPECT_EQ(outcome, SAVE_ACCEPTED);
    EXPECT_EQ(run.drain().size(), 3u);
    EXPECT_EQ(totals_text(run.totals()), "requested 3 saved 3 skipped 0 delayed 1 failed 0 lost 0");
    for (uint64_t step : {1, 2, 3}) {
        EXPECT_EQ(run.problem_of(step), "");
    }
}

TEST_P(WriterOnBoth, ASaveThatMustHappenWaitsUnderEveryPolicy) {
    for (enum writer_busy busy : {WRITER_BUSY_SKIP, WRITER_BUSY_LATEST, WRITER_BUSY_WAIT}) {
        SmallRun run(busy, GetParam());
        fill_both_slots(&run);
        enum save_outcome outcome = SAVE_SKIPPED;
        std::thread trainer =
            start_and_wait_until_it_sleeps([&] { outcome = run.save_step(3, true); });
        run.files.release();
        trainer.join();
        EXPECT_EQ(outcome, SAVE_ACCEPTED);
        EXPECT_EQ(run.drain().size(), 3u);
        EXPECT_EQ(totals_text(run.totals()),
                  "requested 3 saved 3 skipped 0 delayed 1 failed 0 lost 0");
        EXPECT_EQ(run.problem_of(2), "");
        EXPECT_EQ(run.problem_of(3), "");
    }
}

// ---- the trainer's view ----

TEST(Writer, DrainWithNothingToDoReturnsAndPollFindsNothing) {
    SmallRun run;
    writer_drain(run.writer);
    EXPECT_TRUE(run.results().empty());
    EXPECT_EQ(totals_text(run.totals()), "requested 0 saved 0 skipped 0 delayed 0 failed 0 lost 0");
    EXPECT_EQ(run.totals().stall_seconds_p99, 0.0);
}

TEST(Writer, PollNeverBlocksWhileAFileIsBeingWritten) {
    SmallRun run;
    fill_both_slots(&run);
    EXPECT_TRUE(run.results().empty());
    run.files.let_one_pass();
    run.files.wait_until_held(); // the next write of the same file, or the next file
    run.files.release();
    EXPECT_EQ(run.drain().size(), 2u);
}

TEST(Writer, AResultCarriesTheIdOfItsSave) {
    SmallRun run;
    run.files.fail_where(
        [](FileCall call, const std::string &path, bool) {
            return call == FileCall::Fsync && path.find("ckpt-4.") != std::string::npos;
        },
        EIO);
    std::vector<uint64_t> accepted; // steps, by id - 1
    std::vector<struct save_result> results;
    for (uint64_t step = 1; step <= 60; step++) {
        if (run.save_step(step) == SAVE_ACCEPTED) {
            accepted.push_back(step);
        }
        if (step % 4 == 0) {
            for (const struct save_result &result : run.drain()) {
                results.push_back(result);
            }
        }
    }
    ASSERT_EQ(results.size(), accepted.size());
    for (size_t i = 0; i < results.size(); i++) {
        EXPECT_EQ(results[i].id, i + 1);
        EXPECT_EQ(results[i].step, accepted[i]);
        EXPECT_EQ(results[i].path, run.path(ring_name(accepted[i])));
        EXPECT_EQ(results[i].status, accepted[i] == 4 ? STATUS_IO : STATUS_OK);
        EXPECT_GE(results[i].durable_seconds, results[i].stall_seconds);
        EXPECT_GE(results[i].durable_seconds,
                  results[i].snapshot_seconds + results[i].compress_seconds);
    }
}

// The state file stands still for longer than all the rest takes: who counts it has more.
TEST(Writer, ASaveIsDurableWhenItsNameIsAndNotAfterTheStateFile) {
    SmallRun run;
    run.files.hold([](FileCall call, const std::string &path, bool) {
        return call == FileCall::Fsync && path.find("checkpoint") != std::string::npos &&
               path.find(".safetensors.zst") == std::string::npos;
    });
    const double begin = clock_monotonic_seconds();
    ASSERT_EQ(run.save_step(1), SAVE_ACCEPTED);
    run.files.wait_until_held();
    const double rest = clock_monotonic_seconds() - begin;
    std::this_thread::sleep_for(std::chrono::duration<double>(0.05 + 10 * rest));
    run.files.release();
    const std::vector<struct save_result> results = run.drain();
    ASSERT_EQ(results.size(), 1u);
    EXPECT_GT(results[0].retain_seconds, 10 * rest);
    EXPECT_GT(results[0].durable_seconds, 0.0);
    EXPECT_LT(results[0].durable_seconds, results[0].retain_seconds);
}

TEST(Writer, TotalsSumUpTheStallsOfAcceptedSaves) {
    SmallRun run;
    std::vector<double> stalls;
    for (uint64_t step = 1; step <= 60; step++) {
        run.save_step(step, true);
        for (const struct save_result &result : run.drain()) {
            stalls.push_back(result.stall_seconds);
        }
    }
    ASSERT_EQ(stalls.size(), 60u);
    double sum = 0;
    for (double stall : stalls) {
        EXPECT_GT(stall, 0);
        sum += stall;
    }
    std::sort(stalls.begin(), stalls.end());
    struct writer_totals totals = run.totals();
    EXPECT_NEAR(totals.stall_seconds_total, sum, 1e-9);
    EXPECT_EQ(totals.stall_seconds_max, stalls[59]);
}

// Two saves that are taken at once, two that wait for a slot.
TEST(Writer, PercentilesOfTheStallsAreThoseOfTheNearestRank) {
    SmallRun run(WRITER_BUSY_WAIT);
    run.files.hold([](FileCall call, const std::string &path, bool) {
        return call == FileCall::Rename && path.find("model.ckpt-") != std::string::npos;
    });
    run.save_step(1);
    run.save_step(2);
    for (uint64_t step : {3, 4}) {
        std::thread trainer = start_and_wait_until_it_sleeps([&] { run.save_step(step); });
        run.files.let_one_pass();
        trainer.join();
    }
    run.files.release();
    std::vector<double> stalls;
    for (const struct save_result &result : run.drain()) {
        stalls.push_back(result.stall_seconds);
    }
    ASSERT_EQ(stalls.size(), 4u);
    std::sort(stalls.begin(), stalls.end());
    EXPECT_EQ(run.totals().stall_seconds_p50, stalls[1]); // half of the four are not above it
    EXPECT_EQ(run.totals().stall_seconds_p99, stalls[3]);
    EXPECT_EQ(run.totals().delayed, 2u);
}

TEST(Writer, ResultsThatNobodyPollsAreBoundedAndFailuresStayLongest) {
    SmallRun run;
    run.files.fail_where(
        [](FileCall call, const std::string &path, bool) {
            return call == FileCall::Fsync && path.find("ckpt-2.") != std::string::npos;
        },
        EIO);
    for (uint64_t step = 1; step <= 100; step++) {
        run.save_step(step);
        writer_drain(run.writer);
    }
    EXPECT_EQ(totals_text(run.totals()),
              "requested 100 saved 99 skipped 0 delayed 0 failed 1 lost 36");
    std::vector<struct save_result> results = run.results();
    ASSERT_EQ(results.size(), 64u);
    EXPECT_EQ(results[0].step, 2u);
    EXPECT_EQ(results[0].status, STATUS_IO);
    for (size_t i = 1; i < 64; i++) {
        EXPECT_EQ(results[i].step, 37 + i);
    }
}

TEST(Writer, ResultsThatNobodyPollsAreBoundedEvenWhenAllFailed) {
    SmallRun run;
    run.files.fail_where(
        [](FileCall call, const std::string &, bool) { return call == FileCall::Write; }, ENOSPC);
    for (uint64_t step = 1; step <= 70; step++) {
        run.save_step(step);
        writer_drain(run.writer);
    }
    std::vector<struct save_result> results = run.results();
    ASSERT_EQ(results.size(), 64u);
    EXPECT_EQ(results.front().step, 7u);
    EXPECT_EQ(results.back().step, 70u);
    EXPECT_EQ(totals_text(run.totals()),
              "requested 70 saved 0 skipped 0 delayed 0 failed 70 lost 6");
}

// ---- how it is scheduled ----

std::set<std::string> thread_ids() {
    std::set<std::string> ids;
    for (const auto &entry : std::filesystem::directory_iterator("/proc/self/task")) {
        ids.insert(entry.path().filename());
    }
    return ids;
}

int policy_of(const std::string &thread) {
    return sched_getscheduler(static_cast<pid_t>(std::stol(thread)));
}

// Asleep: all that a fresh thread does before it waits for work is done.
bool is_asleep(const std::string &thread) {
    std::ifstream file("/proc/self/task/" + thread + "/stat");
    std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    const size_t at = text.rfind(") "); // behind the name, which may hold anything
    return at != std::string::npos && text.compare(at + 2, 1, "S") == 0;
}

using Policies = std::multiset<int>; // of the writer's thread and the copier's

// Those of a run begun on a thread of the given policy: when there is nothing to do, while the
// first save is written, and when there is nothing to do again.
void watch_policies(int policy, std::vector<Policies> *seen) {
    const struct sched_param none = {};
    ASSERT_EQ(sched_setscheduler(0, policy, &none), 0);
    const std::set<std::string> before = thread_ids();
    SmallRun run;
    std::set<std::string> ids = thread_ids(), fresh;
    std::set_difference(ids.begin(), ids.end(), before.begin(), before.end(),
                        std::inserter(fresh, fresh.end()));
    ASSERT_EQ(fresh.size(), 2u);
    auto look = [&] {
        Policies policies;
        for (const std::string &thread : fresh) {
            policies.insert(policy_of(thread));
        }
        seen->push_back(policies);
    };
    for (const std::string &thread : fresh) {
        while (!is_asleep(thread)) {
            std::this_thread::yield();
        }
    }
    look();
    run.files.hold(is_checkpoint_write);
    ASSERT_EQ(run.save_step(1), SAVE_ACCEPTED);
    run.files.wait_until_held();
    look();
    run.files.release();
    ASSERT_EQ(run.drain().size(), 1u);
    look();
}

TEST(Writer, ItsThreadsYieldWhileTheyWaitAndTheWriterHurriesWhenItHasRested) {
    std::vector<Policies> seen;
    std::thread(watch_policies, SCHED_OTHER, &seen).join();
    const Policies yielding = {SCHED_BATCH, SCHED_BATCH};
    EXPECT_EQ(seen, (std::vector<Policies>{yielding, {SCHED_BATCH, SCHED_OTHER}, yielding}));
}

TEST(Writer, LeavesAPolicyThatTheUserChose) {
    std::vector<Policies> seen;
    std::thread(watch_policies, SCHED_IDLE, &seen).join();
    EXPECT_EQ(seen, (std::vector<Policies>(3, {SCHED_IDLE, SCHED_IDLE})));
}

TEST(Writer, FreeFinishesWhatIsQueued) {
    MemoryFiles disk;
    FaultyFiles files(disk.table());
    {
        SmallRun run(WRITER_BUSY_SKIP, FakeBackend::ASYNCHRONOUS, 0, files.table());
        run.save_step(1);
        run.save_step(2);
    }
    EXPECT_EQ(decode_problem(disk.get(std::string("/run") + "/" + ring_name(1)), 1), "");
    EXPECT_EQ(decode_problem(disk.get(std::string("/run") + "/" + ring_name(2)), 2), "");
    EXPECT_EQ(disk.open_descriptors(), 0u);
}

} // namespace
