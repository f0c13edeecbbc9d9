// The checkpoint writer on a disk that is slower than the saves come, with every busy policy, at
// compression levels from the fastest to the smallest, on one thread and on several. The disk does
// nothing by itself: each checkpoint stands still at its first write and at its fsync until the
// test lets it finish, so a schedule of saves and finished checkpoints has one outcome, which a
// model of a few lines says beforehand.
#include <errno.h>
#include <gtest/gtest.h>
#include <malloc.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "io/writer.h"
#include "tests/support/small_run.h"

namespace {

// ---- what should happen ----

struct Save {
    uint64_t id, step;
    bool must;
};

// One result in words: "3 saved", "2 dropped", "4 failed", each with the id behind it.
std::string outcome_text(const char *what, uint64_t step, uint64_t id) {
    return std::to_string(step) + " " + what + " (id " + std::to_string(id) + ")";
}

// The policies as io/writer.h promises them: one save is written, one may wait.
class Model {
  public:
    explicit Model(enum writer_busy busy) : busy_(busy) {}

    bool is_idle() const { return under_way_.empty(); }
    size_t under_way() const { return under_way_.size(); }
    // This save makes the trainer wait until a checkpoint is finished.
    bool delays(bool must) const {
        return under_way_.size() == 2 && (must || busy_ == WRITER_BUSY_WAIT);
    }
    void delay() { totals.delayed++; }

    enum save_outcome save(uint64_t step, bool must) {
        totals.requested++;
        if (under_way_.size() == 2) {
            totals.skipped++;
            const Save waiting = under_way_.back();
            if (busy_ == WRITER_BUSY_SKIP || waiting.must) {
                return SAVE_SKIPPED;
            }
            results.push_back(outcome_text("dropped", waiting.step, waiting.id));
            under_way_.pop_back();
        }
        under_way_.push_back({++last_id_, step, must});
        return SAVE_ACCEPTED;
    }

    void finish(bool good) {
        const Save written = under_way_.front();
        under_way_.erase(under_way_.begin());
        results.push_back(outcome_text(good ? "saved" : "failed", written.step, written.id));
        (good ? totals.saved : totals.failed)++;
        if (good) {
            published.insert(written.step);
        }
    }

    struct writer_totals totals = {};
    std::vector<std::string> results; // in the order in which they are to be polled
    std::set<uint64_t> published;     // steps

  private:
    enum writer_busy busy_;
    uint64_t last_id_ = 0;
    std::vector<Save> under_way_; // the first is being written, the second waits
};

// ---- the disk, and a trainer that saves to it ----

// A tensor that never changes, so that a state may be large and a save of it cheap: pieces of words
// that compress, and a last one, shorter, of numbers that hardly do.
constexpr size_t PIECE = size_t{4} << 20, NUMBERS = 80000;

std::string large_tensor(size_t pieces) {
    std::mt19937 random(1);
    std::string text;
    while (text.size() < 65536) {
        const std::string word = "word" + std::to_string(random() % 3000);
        text += word.substr(0, 3 + random() % 6) + ' ';
    }
    std::string bytes(pieces * PIECE, '\0');
    for (size_t i = 0; i < pieces; i++) {
        bytes.replace(i * PIECE, text.size(), text);
    }
    std::normal_distribution<float> weight(0, 0.05F);
    for (size_t i = 0; i < NUMBERS; i++) {
        const float value = weight(random);
        bytes.append(reinterpret_cast<const char *>(&value), sizeof value);
    }
    return bytes;
}

const std::string &usual_tensor() { // three pieces in all
    static const std::string bytes = large_tensor(2);
    return bytes;
}

const struct metadata_pair kMetadata[] = {
    {"created", "2020-01-02T03:04:05Z"}, {"host", "h"}, {"pid", "1"}};

class SlowDisk {
  public:
    SlowDisk(enum writer_busy busy, int level, unsigned threads, const std::string &large)
        : run(busy, FakeBackend::UNIFIED, 0, nullptr, "/run", level, threads), model(busy),
          large_(large) {
        run.files.hold([this](FileCall call, const std::string &path, bool is_directory) {
            const bool first =
                is_checkpoint_write(call, path, is_directory) && begun_.insert(path).second;
            return first || is_checkpoint_sync(call, path, is_directory);
        });
        pinned_ = run.device.host_bytes();
    }
    ~SlowDisk() {
        run.files.release();
        writer_drain(run.writer); // it reads the large tensor
    }

    std::vector<struct snapshot_source> sources() {
        std::vector<struct snapshot_source> list = run.sources();
        if (!large_.empty()) {
            const uint64_t shape[] = {large_.size()};
            list.insert(list.begin(), {tensor_make("large", DTYPE_U8, large_.data(), 1, shape),
                                       SNAPSHOT_CONSTANT, false});
        }
        return list;
    }

    // The next step, and its save, as the model says.
    void save(bool must) {
        if (testing::Test::HasFailure()) {
            return; // where the model is wrong, the rest could wait for ever
        }
        run.train_to(static_cast<uint64_t>(run.step) + 1);
        const auto step = static_cast<uint64_t>(run.step);
        if (model.delays(must)) {
            save_and_wait(must);
            EXPECT_EQ(model.save(step, must), SAVE_ACCEPTED);
        } else {
            const enum save_outcome outcome = call_save(must);
            EXPECT_EQ(outcome, model.save(step, must)) << "step " << step;
        }
        settle();
    }

    // The checkpoint that is being written, if there is one, reaches the disk, or fails to.
    void finish(bool good) {
        if (model.is_idle() || testing::Test::HasFailure()) {
            return;
        }
        const uint64_t before = finished();
        if (!good) {
            run.files.fail_where(is_checkpoint_sync, EIO);
        }
        let_it_finish();
        while (finished() == before) {
            std::this_thread::yield();
        }
        run.files.heal();
        model.finish(good);
        settle();
    }

    // 's' a save that may be skipped, 'M' one that must happen, 'F' a checkpoint is finished, 'E'
    // its fsync fails; at the end all that are under way are finished.
    void play(const std::string &schedule) {
        for (char event : schedule) {
            if (event == 's' || event == 'M') {
                save(event == 'M');
            } else {
                finish(event == 'F');
            }
        }
        while (!model.is_idle() && !testing::Test::HasFailure()) {
            finish(true);
        }
    }

    // Everything that can be seen is as the model says.
    void check() {
        EXPECT_EQ(results, model.results);
        EXPECT_EQ(totals_text(run.totals()), totals_text(model.totals));
        const struct writer_totals &totals = model.totals;
        EXPECT_EQ(totals.requested, totals.saved + totals.skipped + totals.failed);
        std::set<std::string> names;
        for (uint64_t step : model.published) {
            names.insert(ring_name(step));
            EXPECT_EQ(run.problem_of(step), "");
        }
        EXPECT_EQ(run.checkpoints(), names);
    }

    // The checkpoints and the results so far; the counts go on.
    void forget() {
        for (const std::string &name : run.checkpoints()) {
            run.disk.remove(run.path(name));
        }
        run.disk.forget_log();
        model.published.clear();
        model.results.clear();
        results.clear();
    }

    // What a writer with one thread and a fast disk makes of the state of `step`.
    std::string expected_file(uint64_t step, int level) {
        run.train_to(step);
        std::vector<struct tensor_view> views;
        for (const struct snapshot_source &source : sources()) {
            views.push_back(source.view);
        }
        struct checkpoint_encoder *encoder;
        struct error err = {};
        std::string bytes;
        EXPECT_EQ(checkpoint_encoder_create(level, 1, &encoder, &err), STATUS_OK);
        EXPECT_EQ(checkpoint_encode(encoder, views.data(), views.size(), kMetadata, 3, append,
                                    &bytes, nullptr, nullptr, &err),
                  STATUS_OK)
            << err.message;
        checkpoint_encoder_free(encoder);
        return bytes;
    }

    // As the trainer calls it.
    enum save_outcome call_save(bool must) {
        struct save_request request = run.ring_request(must);
        std::copy(std::begin(kMetadata), std::end(kMetadata), request.metadata);
        request.metadata_count = 3;
        const std::vector<struct snapshot_source> list = sources();
        enum save_outcome outcome = SAVE_SKIPPED;
        struct error err = {};
        EXPECT_EQ(writer_save(run.writer, list.data(), list.size(), &request, &outcome, &err),
                  STATUS_OK)
            << err.message;
        return outcome;
    }

    SmallRun run;
    Model model;
    std::vector<std::string> results;

  private:
    // The file's own sync: every checkpoint comes by it once.
    static bool is_checkpoint_sync(FileCall call, const std::string &path, bool is_directory) {
        return call == FileCall::Fsync && !is_directory &&
               path.find(".safetensors.zst") != std::string::npos;
    }

    static enum status append(void *context, const void *bytes, size_t size, struct error *) {
        static_cast<std::string *>(context)->append(static_cast<const char *>(bytes), size);
        return STATUS_OK;
    }

    uint64_t finished() {
        const struct writer_totals totals = run.totals();
        return totals.saved + totals.failed;
    }

    void let_it_finish() {
        run.files.let_one_pass(); // the first write
        run.files.let_one_pass(); // the fsync
    }

    // Both slots are taken: the call does not return before the disk finishes a checkpoint.
    void save_and_wait(bool must) {
        const uint64_t delayed = run.totals().delayed;
        enum save_outcome outcome = SAVE_SKIPPED;
        std::atomic<bool> has_returned{false};
        std::thread trainer([&] {
            outcome = call_save(must);
            has_returned = true;
        });
        while (run.totals().delayed == delayed && !has_returned) {
            std::this_thread::yield();
        }
        EXPECT_FALSE(has_returned) << "nobody waited for the disk";
        let_it_finish();
        trainer.join();
        EXPECT_EQ(outcome, SAVE_ACCEPTED);
        model.delay();
        model.finish(true);
    }

    // The writer has begun what it can begin; results are fetched; nothing has piled up.
    void settle() {
        if (!model.is_idle()) {
            run.files.wait_until_held();
        }
        for (const struct save_result &result : run.results()) {
            const bool good = result.status == STATUS_OK;
            const char *what = result.dropped ? "dropped" : good ? "saved" : "failed";
            results.push_back(outcome_text(what, result.step, result.id));
            EXPECT_EQ(result.path, run.path(ring_name(result.step)));
            EXPECT_EQ(result.targets_published, good && !result.dropped ? 1u : 0u);
            EXPECT_EQ(result.status == STATUS_IO && strstr(result.message, "EIO") != nullptr,
                      !good);
        }
        const struct writer_totals totals = run.totals();
        const uint64_t under_way = totals.requested - totals.saved - totals.skipped - totals.failed;
        EXPECT_EQ(under_way, model.under_way());
        EXPECT_LE(under_way, 2u);
        EXPECT_LE(run.temporaries(), 1u);
        EXPECT_EQ(run.device.host_bytes(), pinned_);
    }

    std::string large_;
    std::set<std::string> begun_; // guarded by the files' mutex
    size_t pinned_ = 0;
};

const std::string kSmall;

// ---- every short schedule ----

class SlowDiskPolicy : public ::testing::TestWithParam<enum writer_busy> {};

const char *busy_name(enum writer_busy busy) {
    return busy == WRITER_BUSY_SKIP ? "Skip" : busy == WRITER_BUSY_LATEST ? "Latest" : "Wait";
}

INSTANTIATE_TEST_SUITE_P(Busy, SlowDiskPolicy,
                         ::testing::Values(WRITER_BUSY_SKIP, WRITER_BUSY_LATEST, WRITER_BUSY_WAIT),
                         [](const auto &busy) { return busy_name(busy.param); });

// Both slots are taken, then come all sequences of five events, on one writer after the other.
TEST_P(SlowDiskPolicy, EveryScheduleEndsAsPromised) {
    const std::string events = "sMFE";
    for (char first : events) {
        for (char second : events) {
            SlowDisk disk(GetParam(), 1, 1, kSmall);
            for (char third : events) {
                for (char fourth : events) {
                    for (char fifth : events) {
                        const std::string schedule{'s', 's', first, second, third, fourth, fifth};
                        SCOPED_TRACE(schedule);
                        disk.play(schedule);
                        disk.check();
                        disk.forget();
                        ASSERT_FALSE(HasFailure());
                    }
                }
            }
        }
    }
}

// ---- policies, levels and threads together ----

using Combination = std::tuple<enum writer_busy, int, unsigned>;

class SlowDiskCombined : public ::testing::TestWithParam<Combination> {};

std::string combination_name(const ::testing::TestParamInfo<Combination> &combination) {
    const auto [busy, level, threads] = combination.param;
    return std::string(busy_name(busy)) + "Level" + (level < 0 ? "Minus" : "") +
           std::to_string(std::abs(level)) + "Threads" + std::to_string(threads);
}

INSTANTIATE_TEST_SUITE_P(
    All, SlowDiskCombined,
    ::testing::Combine(::testing::Values(WRITER_BUSY_SKIP, WRITER_BUSY_LATEST, WRITER_BUSY_WAIT),
                       ::testing::Values(-7, 1, 3, 19), ::testing::Values(1U, 3U)),
    combination_name);

struct Expected {
    const char *totals;
    std::set<uint64_t> steps;
};

// Of the schedule below, worked out by hand. Step 4 must be saved; the checkpoint that is being
// written at E fails.
const char kSchedule[] = "sssMsFssEsFFs";
Expected expected_of(enum writer_busy busy) {
    switch (busy) {
    case WRITER_BUSY_SKIP: // 3, 5 and 7 find both slots taken, 4 waits for 1 and fails
        return {"requested 9 saved 5 skipped 3 delayed 1 failed 1 lost 0", {1, 2, 6, 8, 9}};
    case WRITER_BUSY_LATEST: // 3 replaces 2, 5 finds 4 waiting, 7 replaces 6, 4 fails
        return {"requested 9 saved 5 skipped 3 delayed 1 failed 1 lost 0", {1, 3, 7, 8, 9}};
    case WRITER_BUSY_WAIT: // 3, 4, 5 and 7 wait, 6 fails
        break;
    }
    return {"requested 9 saved 8 skipped 0 delayed 4 failed 1 lost 0", {1, 2, 3, 4, 5, 7, 8, 9}};
}

TEST_P(SlowDiskCombined, CountsAndBytesAreThoseOfThePolicyAndTheLevel) {
    const auto [busy, level, threads] = GetParam();
    SlowDisk disk(busy, level, threads, usual_tensor());
    disk.play(kSchedule);
    disk.check();
    const Expected expected = expected_of(busy);
    EXPECT_EQ(totals_text(disk.run.totals()), expected.totals);
    EXPECT_EQ(disk.model.published, expected.steps);
    for (uint64_t step : expected.steps) {
        const std::optional<std::string> file = disk.run.disk.get(disk.run.path(ring_name(step)));
        ASSERT_TRUE(file.has_value()) << step;
        EXPECT_TRUE(*file == disk.expected_file(step, level)) << step;
    }
}

// ---- levels ----

size_t file_bytes(int level) {
    SlowDisk disk(WRITER_BUSY_SKIP, level, 1, usual_tensor());
    disk.play("s");
    disk.check();
    return disk.run.disk.get(disk.run.path(ring_name(1)))->size();
}

TEST(SlowDisk, AHigherLevelMakesASmallerFile) {
    const size_t fastest = file_bytes(-7), usual = file_bytes(1), three = file_bytes(3);
    const size_t smallest = file_bytes(19);
    EXPECT_LT(smallest, fastest);
    EXPECT_LT(smallest, three);
    // Below level 3 the numbers are stored as they are.
    EXPECT_GT(fastest, NUMBERS * sizeof(float));
    EXPECT_GT(usual, NUMBERS * sizeof(float));
    EXPECT_LT(three, usual);
}

// ---- threads ----

size_t thread_count() {
    auto tasks = std::filesystem::directory_iterator("/proc/self/task");
    return static_cast<size_t>(std::distance(begin(tasks), end(tasks)));
}

// While the disk does not take the first frame the other threads make those behind it, as many as
// there is room for, and wait: the state has more pieces than that.
TEST(SlowDisk, ThreadsCompressWhileTheDiskStandsStillAndLeaveWithTheSave) {
    const std::string large = large_tensor(6);
    for (unsigned threads : {1u, 3u}) {
        SlowDisk disk(WRITER_BUSY_SKIP, 1, threads, large);
        const size_t before = thread_count();
        size_t writes = 0;
        disk.run.files.hold([&writes](FileCall call, const std::string &path, bool directory) {
            // The header is a frame of its own, made before.
            return is_checkpoint_write(call, path, directory) && ++writes == 2;
        });
        disk.run.train_to(1);
        ASSERT_EQ(disk.call_save(false), SAVE_ACCEPTED);
        disk.run.files.wait_until_held();
        EXPECT_EQ(thread_count(), before + threads - 1);
        disk.run.files.release();
        const std::vector<struct save_result> results = disk.run.drain();
        ASSERT_EQ(results.size(), 1u);
        EXPECT_EQ(results[0].status, STATUS_OK) << results[0].message;
        EXPECT_EQ(thread_count(), before);
    }
}

// ---- memory ----

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool HAS_LIBC_MALLOC = false; // mallinfo2 sees nothing
#else
constexpr bool HAS_LIBC_MALLOC = true;
#endif

size_t heap_bytes() {
    const struct mallinfo2 heap = mallinfo2();
    return heap.uordblks + heap.hblkhd;
}

// Saves that come while nothing moves are counted and leave nothing behind, polled or not. (Under
// WAIT the second of them would wait.)
TEST(SlowDisk, AThousandSavesOnADiskThatStandsStillTakeNoMemory) {
    for (enum writer_busy busy : {WRITER_BUSY_SKIP, WRITER_BUSY_LATEST}) {
        SlowDisk disk(busy, 1, 3, usual_tensor());
        disk.save(false);
        size_t heap = 0;
        for (uint64_t i = 1; i <= 1100; i++) {
            disk.run.train_to(1 + i);
            disk.call_save(false);
            if (i == 100) {
                heap = heap_bytes(); // whatever grows once has grown
            }
        }
        EXPECT_EQ(heap_bytes(), HAS_LIBC_MALLOC ? heap : heap_bytes());
        EXPECT_LE(disk.run.temporaries(), 1u);
        const struct writer_totals totals = disk.run.totals();
        EXPECT_EQ(totals.requested, 1101u);
        EXPECT_EQ(totals.skipped, 1099u);
        disk.run.files.release();
        writer_drain(disk.run.writer);
        // Skipped or replaced: of the 1100, SKIP took the first and LATEST has the last.
        EXPECT_EQ(
            disk.run.checkpoints(),
            (std::set<std::string>{ring_name(1), ring_name(busy == WRITER_BUSY_SKIP ? 2 : 1101)}));
        EXPECT_EQ(disk.run.totals().saved, 2u);
    }
}

} // namespace
