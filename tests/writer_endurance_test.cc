// The checkpoint writer over a long time: two thousand saves leave memory and descriptors as they
// were, and a disk that is slower than the saves makes no queue.
#include "io/writer.h"

#include <gtest/gtest.h>
#include <malloc.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/process.h"
#include "tests/support/small_run.h"
#include "tests/support/temporary_directory.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define HAS_OWN_ALLOCATOR 0 // a sanitizer's, which keeps what was freed
#else
#define HAS_OWN_ALLOCATOR 1
#endif

namespace {

// ---- memory and descriptors ----

struct Usage {
    size_t heap, resident, descriptors;
};

Usage usage() {
    std::ifstream statm("/proc/self/statm");
    size_t pages = 0, resident = 0;
    statm >> pages >> resident;
    const struct mallinfo2 heap = mallinfo2();
    return {heap.uordblks + heap.hblkhd, resident * static_cast<size_t>(sysconf(_SC_PAGESIZE)),
            list_directory("/proc/self/fd").size()};
}

// Less than one pointer a save: what is left of the difference is the list of results that the test
// itself holds, and pages that the allocator touched.
void expect_no_growth(const Usage &before, const Usage &after, size_t saves) {
    EXPECT_EQ(after.descriptors, before.descriptors);
    if (HAS_OWN_ALLOCATOR) {
        EXPECT_LT(after.heap, before.heap + saves * sizeof(void *));
        EXPECT_LT(after.resident, before.resident + 256 * 1024);
    }
}

// Real files, and where possible no disk that has to sync them.
void prefer_memory_for_files() {
    if (access("/dev/shm", W_OK) == 0) {
        setenv("TMPDIR", "/dev/shm", 1);
    }
}

void save_until(SmallRun *run, uint64_t last) {
    for (uint64_t step = static_cast<uint64_t>(run->step) + 1; step <= last; step++) {
        ASSERT_EQ(run->save_step(step), SAVE_ACCEPTED);
        const std::vector<struct save_result> results = run->drain();
        ASSERT_EQ(results.size(), 1u);
        ASSERT_EQ(results[0].status, STATUS_OK) << results[0].message;
    }
}

TEST(WriterEndurance, TwoThousandSavesLeaveMemoryAndDescriptorsAsTheyWere) {
    prefer_memory_for_files();
    TemporaryDirectory directory;
    SmallRun run(WRITER_BUSY_SKIP, FakeBackend::UNIFIED, 2, &file_posix, directory.path());
    ASSERT_EQ(run.open_status(), STATUS_OK) << run.open_message();
    save_until(&run, 200); // whatever grows once has grown
    const Usage before = usage();
    save_until(&run, 2200);
    expect_no_growth(before, usage(), 2000);
    EXPECT_EQ(checkpoint_steps(directory.path()), (std::vector<uint64_t>{2199, 2200}));
    EXPECT_EQ(totals_text(run.totals()),
              "requested 2200 saved 2200 skipped 0 delayed 0 failed 0 lost 0");
}

// A state whose copy takes a while, saved so fast that the next save waits for the one before.
// Every other value is zero: all frames shrink, so that there is something to compress for each
// thread, and always as much (zstd gives memory back that it has not needed for long).
class LargeRun {
  public:
    static constexpr size_t FLOATS = 1 << 20;

    LargeRun(const std::string &directory, unsigned threads)
        : directory_(directory), device_(FakeBackend::UNIFIED), weights_(FLOATS, 0.0F) {
        std::mt19937 random(5);
        for (size_t i = 0; i < FLOATS; i += 2) {
            weights_[i] = static_cast<float>(random());
        }
        struct error err = {}, warning = {};
        const struct store_options keep = {2, 0};
        EXPECT_EQ(store_open(&file_posix, directory.c_str(), &keep, &store_, &warning, &err),
                  STATUS_OK)
            << err.message;
        const struct writer_options options = {
            &file_posix, store_, 1, WRITER_BUSY_WAIT, FLOATS * sizeof(float) + 64, threads, false};
        EXPECT_EQ(writer_create(&options, device_.get(), nullptr, 0, &writer_, &err), STATUS_OK)
            << err.message;
    }
    ~LargeRun() {
        writer_free(writer_);
        store_close(store_);
    }
    LargeRun(const LargeRun &) = delete;
    LargeRun &operator=(const LargeRun &) = delete;

    void save_until(uint64_t last) {
        while (step_ < last) {
            writer_settle(writer_);
            std::fill(weights_.begin(), weights_.begin() + 100, static_cast<float>(++step_));
            save();
            look_at_results();
        }
        writer_drain(writer_);
        look_at_results();
    }
    uint64_t whole() const { return whole_; }
    struct writer_totals totals() {
        return writer_get_totals(writer_);
    }

  private:
    void save() {
        const uint64_t shape[] = {FLOATS};
        const struct snapshot_source source = {
            tensor_make("weight", DTYPE_F32, weights_.data(), 1, shape), SNAPSHOT_HOST, true};
        struct save_request request = {};
        request.step = step_;
        SmallRun::add_target(&request, directory_ + "/" + ring_name(step_), true);
        struct error err = {};
        enum save_outcome outcome = SAVE_SKIPPED;
        ASSERT_EQ(writer_save(writer_, &source, 1, &request, &outcome, &err), STATUS_OK)
            << err.message;
        ASSERT_EQ(outcome, SAVE_ACCEPTED);
    }
    void look_at_results() {
        struct save_result result;
        while (writer_poll(writer_, &result)) {
            EXPECT_EQ(result.status, STATUS_OK) << result.message;
            whole_ += result.put_off_bytes == FLOATS * sizeof(float);
        }
    }

    std::string directory_;
    FakeBackend device_;
    std::vector<float> weights_;
    struct store *store_ = nullptr;
    struct writer *writer_ = nullptr;
    uint64_t step_ = 0, whole_ = 0; // saves that copied nothing in their call
};

class WriterEnduranceLarge : public ::testing::TestWithParam<unsigned> {};

TEST_P(WriterEnduranceLarge, SavesThatArePutOffLeaveMemoryAndDescriptorsAsTheyWere) {
    constexpr uint64_t warm = HAS_OWN_ALLOCATOR ? 30 : 5, saves = HAS_OWN_ALLOCATOR ? 150 : 20;
    prefer_memory_for_files();
    TemporaryDirectory directory;
    mallopt(M_ARENA_MAX, 1); // no heap for each thread that comes and goes
    LargeRun run(directory.path(), GetParam());
    ASSERT_FALSE(HasFailure());
    run.save_until(warm);
    const Usage before = usage();
    run.save_until(warm + saves);
    expect_no_growth(before, usage(), saves);
    EXPECT_EQ(run.whole(), warm + saves);
    EXPECT_EQ(checkpoint_steps(directory.path()),
              (std::vector<uint64_t>{warm + saves - 1, warm + saves}));
    EXPECT_EQ(run.totals().saved, warm + saves);
}

INSTANTIATE_TEST_SUITE_P(CompressionThreads, WriterEnduranceLarge, ::testing::Values(1u, 2u));

// ---- a slow disk ----

// The sync of a checkpoint's own file: every checkpoint comes by it once.
bool is_checkpoint_sync(FileCall call, const std::string &path, bool is_directory) {
    return call == FileCall::Fsync && !is_directory &&
           path.find(".safetensors.zst") != std::string::npos;
}

constexpr uint64_t kSteps = 100, kTick = 5;

// Saves after every step on a disk that finishes one checkpoint in every kTick steps. Returns the
// steps whose checkpoints there are in the end.
std::set<uint64_t> train_on_a_slow_disk(SmallRun *run, uint64_t *skipped_at_once) {
    const size_t pinned = run->device.host_bytes();
    *skipped_at_once = 0;
    run->files.hold(is_checkpoint_sync);
    for (uint64_t step = 1; step <= kSteps; step++) {
        *skipped_at_once += run->save_step(step) == SAVE_SKIPPED;
        if (step == 1) {
            run->files.wait_until_held(); // it is being written, no longer waiting
        }
        EXPECT_LE(run->temporaries(), 1u);
        EXPECT_EQ(run->device.host_bytes(), pinned);
        if (step % kTick == 0) {
            const uint64_t saved = run->totals().saved;
            run->files.let_one_pass();
            while (run->totals().saved == saved) { // its slot is free
                std::this_thread::yield();
            }
            run->files.wait_until_held(); // the one that waited has begun
        }
    }
    run->files.release();
    run->drain();
    std::set<uint64_t> steps;
    for (uint64_t step = 1; step <= kSteps; step++) {
        if (run->problem_of(step).empty()) {
            steps.insert(step);
        }
    }
    EXPECT_EQ(run->checkpoints().size(), steps.size());
    return steps;
}

TEST(WriterEndurance, SkipOnASlowDiskTakesTheFirstSaveAfterEachThatWasFinished) {
    SmallRun run(WRITER_BUSY_SKIP);
    uint64_t skipped;
    std::set<uint64_t> expected = {1, 2};
    for (uint64_t tick = kTick; tick < kSteps; tick += kTick) {
        expected.insert(tick + 1);
    }
    EXPECT_EQ(train_on_a_slow_disk(&run, &skipped), expected);
    EXPECT_EQ(skipped, kSteps - expected.size());
    EXPECT_EQ(totals_text(run.totals()),
              "requested 100 saved 21 skipped 79 delayed 0 failed 0 lost 0");
}

TEST(WriterEndurance, LatestOnASlowDiskWritesTheNewestThatWaited) {
    SmallRun run(WRITER_BUSY_LATEST);
    uint64_t skipped;
    std::set<uint64_t> expected = {1};
    for (uint64_t tick = kTick; tick <= kSteps; tick += kTick) {
        expected.insert(tick);
    }
    EXPECT_EQ(train_on_a_slow_disk(&run, &skipped), expected);
    EXPECT_EQ(skipped, 0u); // all were accepted, 79 were replaced
    const struct writer_totals totals = run.totals();
    EXPECT_EQ(totals.requested, kSteps);
    EXPECT_EQ(totals.saved, 21u);
    EXPECT_EQ(totals.skipped, 79u);
    EXPECT_EQ(totals.delayed, 0u);
}

TEST(WriterEndurance, WaitOnASlowDiskSavesEveryStepAndCountsTheDelays) {
    constexpr uint64_t steps = 12;
    SmallRun run(WRITER_BUSY_WAIT);
    const size_t pinned = run.device.host_bytes();
    run.files.hold(is_checkpoint_sync);
    ASSERT_EQ(run.save_step(1), SAVE_ACCEPTED);
    run.files.wait_until_held();
    ASSERT_EQ(run.save_step(2), SAVE_ACCEPTED);
    for (uint64_t step = 3; step <= steps; step++) {
        std::thread trainer([&run, step] { EXPECT_EQ(run.save_step(step), SAVE_ACCEPTED); });
        while (run.totals().delayed < step - 2) { // the writer has found no free slot for it
            std::this_thread::yield();
        }
        run.files.let_one_pass();
        trainer.join();
        EXPECT_EQ(run.device.host_bytes(), pinned);
        run.files.wait_until_held(); // the older of the two has begun
    }
    run.files.release();
    run.drain();
    EXPECT_EQ(run.checkpoints().size(), steps);
    EXPECT_EQ(totals_text(run.totals()),
              "requested 12 saved 12 skipped 0 delayed 10 failed 0 lost 0");
}

} // namespace
