// small_run.h - a training run as small as the checkpoint writer can see it: a state on a fake
// device, a model directory on a disk in memory (behind a FaultyFiles), a store, a writer.
//
//     SmallRun run(WRITER_BUSY_SKIP);
//     run.save_step(7);                       train to step 7, save it into the ring
//     std::vector<struct save_result> results = run.drain();
//     EXPECT_EQ(run.problem_of(7), "");
//
// Every value of the state is a function of the step, computed by expected_weight; nothing that
// reads a checkpoint back is compared with what the writer was given.
#ifndef CAIRN_TESTS_SUPPORT_SMALL_RUN_H
#define CAIRN_TESTS_SUPPORT_SMALL_RUN_H

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "io/store.h"
#include "io/writer.h"
#include "tests/support/fake_backend.h"
#include "tests/support/faulty_files.h"
#include "tests/support/memory_files.h"

// "model.ckpt-7.safetensors.zst", spelt out independently of the store.
std::string ring_name(uint64_t step);

// The state of step `step`: F32 "weight" [40, 50] is values 0 to 1999, F32 "adam.m.weight" [1000]
// the rest; besides I64 "state.step" and U8 "vocabulary".
float expected_weight(uint64_t step, size_t i);

// Why a decoded checkpoint, or the bytes of one, is not the state of `step`; "" when it is.
std::string state_problem(const struct checkpoint &checkpoint, uint64_t step);
std::string decode_problem(const std::optional<std::string> &bytes, uint64_t step);

class SmallRun {
  public:
    static constexpr size_t FLOATS = 3000;

    // `table`: a disk of the test's own instead of this->files.
    explicit SmallRun(enum writer_busy busy = WRITER_BUSY_SKIP,
                      FakeBackend::Kind kind = FakeBackend::UNIFIED, uint32_t keep_max = 0,
                      const struct file_table *table = nullptr,
                      const std::string &directory = "/run", int level = 1, unsigned threads = 1);
    ~SmallRun();
    SmallRun(const SmallRun &) = delete;
    SmallRun &operator=(const SmallRun &) = delete;

    // How opening went. When it failed there is no writer and save fails the test.
    enum status open_status() const { return open_status_; }
    const std::string &open_message() const { return open_message_; }

    std::string path(const std::string &name) const { return directory_ + "/" + name; }

    void train_to(uint64_t to); // in stream order, as an optimiser step does
    void poison_weight();       // a NaN
    std::vector<struct snapshot_source> sources();

    // A request for the current step: its checkpoint in the ring; the best file before it.
    struct save_request ring_request(bool must = false) const;
    struct save_request best_and_ring_request(bool must = false) const;
    static void add_target(struct save_request *request, const std::string &path, bool ring);

    enum save_outcome save(const struct save_request &request);
    enum save_outcome save_step(uint64_t to, bool must = false);
    std::vector<struct save_result> results(); // all that can be polled
    std::vector<struct save_result> drain();
    struct writer_totals totals() {
        return writer_get_totals(writer);
    }

    // What is on this->disk.
    std::string problem_of(uint64_t saved) const; // of the ring's checkpoint
    std::set<std::string> checkpoints() const;    // names ending in .safetensors.zst
    size_t temporaries() const;

    MemoryFiles disk;
    FaultyFiles files;
    FakeBackend device;
    float *region = nullptr;
    int64_t step = 0;
    char words[8] = "a\nb\nc\n";
    struct store *store = nullptr;
    struct writer *writer = nullptr;

  private:
    enum status open(enum writer_busy busy, uint32_t keep_max, const struct file_table *table,
                     int level, unsigned threads);

    std::string directory_;
    enum status open_status_;
    std::string open_message_;
};

// A write into a checkpoint, for FaultyFiles.
bool is_checkpoint_write(FileCall call, const std::string &path, bool is_directory);

// "requested 4 saved 2 skipped 2 delayed 0 failed 0 lost 0"
std::string totals_text(const struct writer_totals &totals);

#endif
