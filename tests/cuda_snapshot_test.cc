// The trainer's side of the CUDA backend, the snapshot and the writer's thread at work together: many
// saves while training goes on. Whatever the order in which the streams of the simulated device get
// to run, each checkpoint is the state at its step, bit for bit; and a pipeline that leaves out one
// of its waits is caught.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "host/model.h"
#include "io/checkpoint.h"
#include "io/store.h"
#include "io/writer.h"
#include "tests/support/cuda_device.h"
#include "tests/support/device_array.h"
#include "tests/support/memory_files.h"

namespace {

constexpr size_t step_count = 16;
constexpr size_t long_step_count = 72;

#if defined(__SANITIZE_THREAD__) // many times slower
constexpr uint64_t seed_count = 8;
#elif defined(__SANITIZE_ADDRESS__)
constexpr uint64_t seed_count = 20;
#else
constexpr uint64_t seed_count = 100;
#endif

using Bytes = std::vector<uint8_t>;
using States = std::map<uint64_t, Bytes>; // by step

// ---- a small model that trains, and where it saves ----

const model_shape shape = {7, 3, 4, 3};
const batch_limits limits = {4, 16, 6, true};

// The data set's ids, and the batches in it.
const std::vector<uint16_t> ids = {1, 2, 3, 4, 5, 6, 1, 3, 2, 6, 5, 5, 4, 1};
struct Part {
    std::vector<uint64_t> first;
    std::vector<uint32_t> length;
    std::vector<uint8_t> label;
};
const Part parts[] = {{{0, 6, 9}, {6, 3, 1}, {1, 0, 1}},
                      {{2}, {5}, {0}},
                      {{10, 3, 8, 0}, {4, 4, 2, 0}, {0, 1, 1, 0}}};

class Training {
  public:
    explicit Training(backend *be) : be_(be), tokens_(be, ids.size()) {
        struct error err = {};
        model_options options = {};
        options.limits = limits;
        options.training = true;
        options.learning_rate = 0.1;
        EXPECT_EQ(model_create(be, &shape, &options, &net, &err), STATUS_OK) << err.message;
        EXPECT_EQ(model_initialise(net, 5, &err), STATUS_OK) << err.message;
        tokens_.upload(ids);
    }
    ~Training() { model_free(net); }
    Training(const Training &) = delete;
    Training &operator=(const Training &) = delete;

    void step() {
        const Part &part = parts[steps % 3];
        batch_view view = {};
        view.tokens = tokens_.data;
        view.token_bytes = 2;
        view.sequences = (uint32_t)part.first.size();
        for (uint32_t length : part.length) {
            view.total_tokens += length;
        }
        view.first = part.first.data();
        view.length = part.length.data();
        view.label = part.label.data();
        steps++;
        struct error err = {};
        if (model_train_step(net, &view, steps, &err) != STATUS_OK) {
            problem = err.message;
        }
    }

    // Empty when the device has failed.
    Bytes state() {
        Bytes bytes(net->state_bytes);
        struct error err = {};
        if (model_download(net, bytes.data(), net->state, bytes.size(), &err) != STATUS_OK) {
            problem = err.message;
            return {};
        }
        return bytes;
    }

    model *net = nullptr;
    uint64_t steps = 0;
    std::string problem; // of the latest step that failed

  private:
    backend *be_;
    DeviceArray<uint16_t> tokens_;
};

// What each step leaves, read with everything else standing still.
States expected_states() {
    CudaBackend device({shape.hidden, false});
    Training training(device.be);
    States states;
    for (size_t i = 0; i < long_step_count; i++) {
        training.step();
        states[training.steps] = training.state();
    }
    EXPECT_EQ(training.problem, "");
    return states;
}

class Saving {
  public:
    Saving(backend *be, const Training &training, enum writer_busy busy) : training_(training) {
        struct error err = {}, warning = {};
        store_options options = {0, 0};
        EXPECT_EQ(store_open(disk_.table(), "/run", &options, &store_, &warning, &err), STATUS_OK)
            << err.message;
        writer_options writer = {};
        writer.files = disk_.table();
        writer.store = store_;
        writer.compression_level = 1;
        writer.busy = busy;
        writer.host_capacity = 64;
        EXPECT_EQ(writer_create(&writer, be, training.net->state, training.net->state_bytes,
                                &writer_, &err),
                  STATUS_OK)
            << err.message;
    }
    ~Saving() {
        writer_free(writer_);
        store_close(store_);
    }
    Saving(const Saving &) = delete;
    Saving &operator=(const Saving &) = delete;

    void save(bool must) {
        const uint64_t bytes[] = {training_.net->state_bytes};
        snapshot_source source = {tensor_make("state", DTYPE_U8, training_.net->state, 1, bytes),
                                  SNAPSHOT_DEVICE, false};
        save_request request = {};
        request.step = training_.steps;
        request.must = must;
        std::string path = path_of(training_.steps);
        path.copy(request.targets[0].path, sizeof request.targets[0].path - 1);
        request.targets[0].ring = true;
        request.target_count = 1;
        struct error err = {};
        enum save_outcome outcome;
        EXPECT_EQ(writer_save(writer_, &source, 1, &request, &outcome, &err), STATUS_OK)
            << err.message;
    }

    // Every checkpoint that was written, when all are.
    States saved() {
        writer_drain(writer_);
        States states;
        for (uint64_t step = 1; step <= step_count; step++) {
            std::optional<std::string> bytes = disk_.get(path_of(step));
            struct checkpoint *checkpoint = nullptr;
            if (!bytes) {
                continue;
            }
            if (checkpoint_decode(bytes->data(), bytes->size(), &checkpoint, nullptr) !=
                STATUS_OK) {
                states[step] = {}; // its bytes changed while they were written: no step's state
                continue;
            }
            const tensor_view *tensor =
                tensor_find(checkpoint->tensors, checkpoint->tensor_count, "state");
            const uint8_t *data = static_cast<const uint8_t *>(tensor->data);
            states[step] = Bytes(data, data + tensor->shape[0]);
            checkpoint_free(checkpoint);
        }
        return states;
    }

  private:
    static std::string path_of(uint64_t step) {
        return "/run/model.ckpt-" + std::to_string(step) + ".safetensors.zst";
    }

    const Training &training_;
    MemoryFiles disk_;
    store *store_ = nullptr;
    writer *writer_ = nullptr;
};

// Train and save after every step.
States train_and_save(backend *be, enum writer_busy busy) {
    Training training(be);
    States states;
    {
        Saving saving(be, training, busy);
        for (size_t i = 0; i < step_count; i++) {
            training.step();
            saving.save(i + 1 == step_count);
        }
        states = saving.saved();
    }
    EXPECT_EQ(training.problem, "");
    return states;
}

// Steps whose checkpoint is not the state that it should be.
size_t wrong_states(const States &saved, const States &expected) {
    size_t wrong = 0;
    for (const auto &entry : saved) {
        wrong += entry.second != expected.at(entry.first);
    }
    return wrong;
}

// ---- the pipeline as it is ----

class CudaSnapshot : public CudaTest, public testing::WithParamInterface<enum writer_busy> {};

INSTANTIATE_TEST_SUITE_P(Busy, CudaSnapshot,
                         testing::Values(WRITER_BUSY_WAIT, WRITER_BUSY_LATEST, WRITER_BUSY_SKIP),
                         [](const auto &busy) {
                             return busy.param == WRITER_BUSY_WAIT     ? "Wait"
                                    : busy.param == WRITER_BUSY_LATEST ? "Latest"
                                                                       : "Skip";
                         });

TEST_P(CudaSnapshot, EachCheckpointIsTheStateAtItsStepUnderEverySchedule) {
    States expected = expected_states();
    for (uint64_t seed = 1; seed <= seed_count; seed++) {
        SCOPED_TRACE("schedule " + std::to_string(seed));
        cuda_schedule(seed);
        States saved;
        {
            CudaBackend device({shape.hidden, true});
            saved = train_and_save(device.be, GetParam());
        }
        if (GetParam() == WRITER_BUSY_WAIT) {
            ASSERT_EQ(saved.size(), step_count);
        }
        ASSERT_EQ(saved.count(step_count), 1u) << "the last save";
        ASSERT_EQ(wrong_states(saved, expected), 0u);
        ASSERT_EQ(cuda_faults(), "");
    }
}

// ---- without one of its waits ----

// The backend's table with one entry that does nothing. Static, because a table's entries have no
// room for more.
backend_table faulty;
const backend_table *whole;
std::thread::id trainer;

enum status no_stream_wait(backend *, enum backend_stream, backend_event *, struct error *) {
    return STATUS_OK;
}

enum status no_wait_of_the_writer(backend *be, backend_event *event, struct error *err) {
    return std::this_thread::get_id() == trainer ? whole->event_wait(be, event, err) : STATUS_OK;
}

enum status no_wait_of_the_trainer(backend *be, backend_event *event, struct error *err) {
    return std::this_thread::get_id() == trainer ? STATUS_OK : whole->event_wait(be, event, err);
}

// Schedules of the first `seeds` under which what `run` makes with the faulty table differs from what it
// should be, or is reported.
size_t schedules_that_catch(const std::function<void(backend_table *)> &spoil,
                            const std::function<States(backend *)> &run,
                            uint64_t seeds = seed_count) {
    States expected = expected_states();
    size_t caught = 0;
    trainer = std::this_thread::get_id();
    for (uint64_t seed = 1; seed <= seeds; seed++) {
        cuda_schedule(seed);
        States found;
        {
            CudaBackend device({shape.hidden, true});
            whole = device.be->table;
            faulty = *whole;
            spoil(&faulty);
            device.be->table = &faulty;
            found = run(device.be);
        }
        // Reports of a fault that was planted are no failure of this test.
        bool reported = !cuda_take_faults().empty();
        caught += reported || wrong_states(found, expected) > 0;
    }
    return caught;
}

States save_always(backend *be) {
    return train_and_save(be, WRITER_BUSY_WAIT);
}

// Without a save nothing makes the trainer wait but its own slots. Long, because the device must fall
// behind by all of them before a missing wait shows. Half a batch may point anywhere: then the device
// fails, and the state is empty.
States train_only(backend *be) {
    Training training(be);
    for (size_t i = 0; i < long_step_count; i++) {
        training.step();
    }
    return {{training.steps, training.state()}};
}

class CudaSnapshotFaults : public CudaTest {
  protected:
    void SetUp() override {
        CudaTest::SetUp();
        if (!IsSkipped() && !cuda_is_simulated()) {
            GTEST_SKIP() << "gpu: a real device has no schedules to choose from";
        }
    }
};

TEST_F(CudaSnapshotFaults, NothingIsCaughtWithoutAFault) {
    EXPECT_EQ(schedules_that_catch([](backend_table *) {}, train_only, seed_count / 4), 0u);
}

TEST_F(CudaSnapshotFaults, ACopyStreamThatDoesNotWaitForTheStagingCopy) {
    size_t caught = schedules_that_catch(
        [](backend_table *table) { table->stream_wait_event = no_stream_wait; }, save_always);
    EXPECT_GE(caught, seed_count * 95 / 100);
}

TEST_F(CudaSnapshotFaults, AWriterThatDoesNotWaitForTheCopy) {
    size_t caught = schedules_that_catch(
        [](backend_table *table) { table->event_wait = no_wait_of_the_writer; }, save_always);
    EXPECT_GE(caught, seed_count * 95 / 100);
}

TEST_F(CudaSnapshotFaults, ATrainerThatFillsABatchSlotStillUnderWay) {
    size_t caught = schedules_that_catch(
        [](backend_table *table) { table->event_wait = no_wait_of_the_trainer; }, train_only);
    EXPECT_GE(caught, seed_count * 95 / 100);
}

} // namespace
