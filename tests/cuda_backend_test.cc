// The CUDA backend as host code sees it, on the simulated device: what it refuses, memory, copies,
// streams and events, recorded steps, and how a failure of the device is told.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "host/model.h"
#include "kernels/cuda/cuda_internal.cuh"
#include "tests/simcuda/simcuda.h"
#include "tests/support/cuda_device.h"
#include "tests/support/device_array.h"

namespace {

class CudaBackendTest : public CudaTest {};

bool contains(const std::string &text, const std::string &part) {
    return text.find(part) != std::string::npos;
}

struct Created {
    enum status status;
    std::string message;
    backend *be = nullptr;
};

Created create(uint32_t hidden, const char *lstm = "auto", const char *precision = "fp32",
               uint32_t device = 0, bool graph = true) {
    backend_options options = {};
    options.device = device;
    options.hidden = hidden;
    options.lstm = lstm;
    options.precision = precision;
    options.graph = graph;
    struct error err = {};
    Created created;
    created.status = backend_cuda_create(&options, &created.be, &err);
    created.message = err.message;
    return created;
}

// ---- a model that trains ----

const model_shape shape = {9, 3, 8, 4};
const batch_limits limits = {4, 20, 8, true};
const std::vector<uint16_t> ids = {1, 2, 3, 4, 5, 6, 7, 8, 1, 3, 2, 6, 5, 5, 4, 1};

struct Part {
    std::vector<uint64_t> first;
    std::vector<uint32_t> length;
    std::vector<uint8_t> label;
};
const Part parts[] = {{{0, 6, 9}, {6, 3, 1}, {1, 0, 1}},
                      {{2}, {8}, {0}},
                      {{10, 3, 8, 0}, {4, 4, 2, 0}, {0, 1, 1, 0}}};

class Training {
  public:
    explicit Training(backend *be) : be_(be), tokens_(be, ids.size()) {
        struct error err = {};
        model_options options = {};
        options.limits = limits;
        options.training = true;
        options.learning_rate = 0.05;
        options.clip_norm = 0.5;
        EXPECT_EQ(model_create(be, &shape, &options, &net_, &err), STATUS_OK) << err.message;
        EXPECT_EQ(model_initialise(net_, 3, &err), STATUS_OK) << err.message;
        tokens_.upload(ids);
    }
    ~Training() { model_free(net_); }
    Training(const Training &) = delete;
    Training &operator=(const Training &) = delete;

    enum status step(struct error *err) {
        const Part &part = parts[steps_ % 3];
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
        return model_train_step(net_, &view, ++steps_, err);
    }
    void steps(size_t count) {
        for (size_t i = 0; i < count; i++) {
            struct error err = {};
            ASSERT_EQ(step(&err), STATUS_OK) << err.message;
        }
    }
    std::vector<unsigned char> state() {
        std::vector<unsigned char> bytes(net_->state_bytes);
        struct error err = {};
        EXPECT_EQ(model_download(net_, bytes.data(), net_->state, bytes.size(), &err), STATUS_OK)
            << err.message;
        return bytes;
    }

  private:
    backend *be_;
    DeviceArray<uint16_t> tokens_;
    struct model *net_ = nullptr;
    uint64_t steps_ = 0;
};

// ---- creation ----

TEST_F(CudaBackendTest, SaysWhatItIs) {
    CudaBackend device;
    std::string description = device.be->description;
    EXPECT_EQ(description.find("SIMULATED CUDA device, cuda:0 "), 0u) << description;
    for (const char *part : {"fused LSTM kernels", "CUDA graph", "fp32"}) {
        EXPECT_TRUE(contains(description, part)) << description;
    }
    EXPECT_STREQ(device.be->kernel_path, "simulated-cuda-fused");
    EXPECT_STREQ(device.be->device, "cuda:0");
    EXPECT_FALSE(device.be->unified_memory);
    EXPECT_FALSE(backend_cuda_available()) << "auto must never choose the simulated device";
    EXPECT_TRUE(contains(backend_cuda_build(), "SIMULATED"));
}

TEST_F(CudaBackendTest, DescriptionTellsOfRecordedStepsOnlyWhereThereAreAny) {
    CudaChoice choice;
    choice.graph = false;
    CudaBackend device(choice);
    EXPECT_FALSE(contains(device.be->description, "graph")) << device.be->description;
}

TEST_F(CudaBackendTest, RefusesWhatItHasNot) {
    const struct {
        uint32_t hidden;
        const char *lstm, *precision;
        uint32_t device;
        std::vector<std::string> says;
    } rows[] = {
        {64, "auto", "fp32", 3, {"device 3", "1 CUDA device"}},
        {129, "auto", "fp32", 0, {"129", "cuDNN", "128"}},
        {129, "fused", "fp32", 0, {"--lstm fused", "129", "128", "--lstm cudnn"}},
        {64, "cudnn", "fp32", 0, {"cuDNN", "--lstm fused"}},
        {64, "auto", "tf32", 0, {"tf32"}},
        {64, "auto", "bf16", 0, {"bf16"}},
    };
    for (const auto &row : rows) {
        Created created = create(row.hidden, row.lstm, row.precision, row.device);
        EXPECT_EQ(created.status, STATUS_DEVICE) << created.message;
        EXPECT_EQ(created.be, nullptr);
        for (const std::string &part : row.says) {
            EXPECT_TRUE(contains(created.message, part)) << created.message;
        }
    }
}

// The simulated device has fp32 only, so the choice is made behind its back; nothing is computed.
TEST_F(CudaBackendTest, RefusesAPrecisionThatNoProductWouldHave) {
    CudaBackend device;
    cuda_of(device.be)->blas_compute = CUBLAS_COMPUTE_32F_FAST_TF32;
    size_t bytes = 0;
    struct error err = {};
    model_shape words = {CUDA_TABLE_WORDS, 3, 8, 4};
    EXPECT_EQ(device.be->table->workspace_bytes(device.be, &words, &limits, &bytes, &err),
              STATUS_OK)
        << err.message;
    words.vocabulary++;
    model_options options = {};
    options.limits = limits;
    struct model *net = nullptr;
    EXPECT_EQ(model_create(device.be, &words, &options, &net, &err), STATUS_DEVICE);
    for (const char *part : {"--precision tf32", "8192", "8193"}) {
        EXPECT_TRUE(contains(err.message, part)) << err.message;
    }
}

TEST_F(CudaBackendTest, BatchesThatNoMemoryCouldHoldAreRefusedInWords) {
    CudaBackend device;
    model_options options = {};
    options.limits = {4, UINT64_MAX, 8, true};
    struct model *net = nullptr;
    struct error err = {};
    EXPECT_EQ(model_create(device.be, &shape, &options, &net, &err), STATUS_MEMORY);
    EXPECT_TRUE(contains(err.message, "18446744073709551615 tokens")) << err.message;
}

TEST_F(CudaBackendTest, WithoutADeviceTheDriverSpeaks) {
    simcuda::set_device_count(0);
    Created created = create(64);
    EXPECT_EQ(created.status, STATUS_DEVICE);
    EXPECT_TRUE(contains(created.message, "no CUDA-capable device is detected")) << created.message;
    simcuda::set_device_count(1);
}

TEST_F(CudaBackendTest, TakesTheLargestHiddenSize) {
    Created created = create(128, "fused");
    ASSERT_EQ(created.status, STATUS_OK) << created.message;
    created.be->table->free(created.be);
}

// TearDown finds what a failed creation leaves behind.
TEST_F(CudaBackendTest, CreationFailsAtEachAllocationWithoutALeak) {
    unsigned failed = 0;
    for (unsigned nth = 1;; nth++) {
        ASSERT_LT(nth, 50u);
        cuda_schedule(nth);
        simcuda::fail_allocation(nth);
        Created created = create(64);
        if (created.status == STATUS_OK) {
            created.be->table->free(created.be);
            break;
        }
        EXPECT_EQ(created.status, STATUS_MEMORY) << created.message;
        failed++;
    }
    EXPECT_GE(failed, 3u); // the progress word, the partial norms, cuBLAS' workspace
}

TEST_F(CudaBackendTest, OneAfterTheOtherAndTwoAtOnce) {
    for (int round = 0; round < 2; round++) {
        CudaBackend device;
        Training training(device.be);
        training.steps(2);
    }
    CudaBackend a, b;
    Training in_a(a.be), in_b(b.be);
    in_a.steps(3);
    in_b.steps(3);
    EXPECT_EQ(in_a.state(), in_b.state());
}

// ---- memory and copies ----

TEST_F(CudaBackendTest, MemoryIsZeroAndAligned) {
    CudaBackend device;
    for (size_t count : {(size_t)0, (size_t)1, (size_t)1000}) {
        DeviceArray<unsigned char> memory(device.be, count);
        EXPECT_EQ((uintptr_t)memory.data % 64, 0u);
        EXPECT_EQ(memory.download(count), std::vector<unsigned char>(count, 0));
        void *pinned = nullptr;
        struct error err = {};
        ASSERT_EQ(device.be->table->host_alloc(device.be, count, &pinned, &err), STATUS_OK);
        EXPECT_EQ(
            std::vector<unsigned char>(count, 0),
            std::vector<unsigned char>((unsigned char *)pinned, (unsigned char *)pinned + count));
        device.be->table->host_free(device.be, pinned);
    }
    device.be->table->device_free(device.be, nullptr);
    device.be->table->host_free(device.be, nullptr);
}

TEST_F(CudaBackendTest, WantOfMemoryIsNoFailureOfTheDevice) {
    CudaBackend device;
    void *memory = nullptr;
    struct error err = {};
    EXPECT_EQ(device.be->table->device_alloc(device.be, (size_t)1 << 40, &memory, &err),
              STATUS_MEMORY);
    EXPECT_TRUE(contains(err.message, "1099511627776")) << err.message;
    EXPECT_EQ(memory, nullptr);
    Training training(device.be);
    training.steps(2);
}

TEST_F(CudaBackendTest, CopiesGoEveryWayAndZeroesOnlyWhatIsAsked) {
    CudaBackend device;
    const backend_table *table = device.be->table;
    std::vector<uint32_t> sent = {1, 2, 3, 4, 5, 6, 7, 8};
    DeviceArray<uint32_t> a(device.be, sent.size()), b(device.be, sent.size());
    struct error err = {};
    a.upload(sent);
    ASSERT_EQ(table->copy(device.be, b.data, a.data, a.bytes(), BACKEND_STREAM_COMPUTE, &err),
              STATUS_OK);
    ASSERT_EQ(table->copy(device.be, b.data, nullptr, 0, BACKEND_STREAM_COMPUTE, &err), STATUS_OK);
    ASSERT_EQ(
        table->fill_zero(device.be, b.data + 2, 3 * sizeof(uint32_t), BACKEND_STREAM_COMPUTE, &err),
        STATUS_OK);
    ASSERT_EQ(table->fill_zero(device.be, b.data, 0, BACKEND_STREAM_COMPUTE, &err), STATUS_OK);
    EXPECT_EQ(b.download(), (std::vector<uint32_t>{1, 2, 0, 0, 0, 6, 7, 8}));
    EXPECT_EQ(a.download(), sent);
}

// ---- streams and events ----

// What a snapshot does, with the wait on a thread of its own, under many orders of the streams.
TEST_F(CudaBackendTest, EventsOrderStreamsAndThreads) {
    for (uint64_t seed = 1; seed <= 40; seed++) {
        cuda_schedule(seed);
        CudaBackend device;
        const backend_table *table = device.be->table;
        constexpr size_t count = 500;
        DeviceArray<uint32_t> live(device.be, count), staging(device.be, count);
        void *slot = nullptr;
        backend_event *staged = nullptr, *arrived = nullptr;
        struct error err = {};
        ASSERT_EQ(table->host_alloc(device.be, live.bytes(), &slot, &err), STATUS_OK);
        ASSERT_EQ(table->event_create(device.be, &staged, &err), STATUS_OK);
        ASSERT_EQ(table->event_create(device.be, &arrived, &err), STATUS_OK);
        const std::vector<uint32_t> values(count, (uint32_t)seed + 100);
        live.upload(values);
        ASSERT_EQ(table->copy(device.be, staging.data, live.data, live.bytes(),
                              BACKEND_STREAM_COMPUTE, &err),
                  STATUS_OK);
        ASSERT_EQ(table->event_record(device.be, staged, BACKEND_STREAM_COMPUTE, &err), STATUS_OK);
        // Training goes on and overwrites what was staged.
        ASSERT_EQ(
            table->fill_zero(device.be, live.data, live.bytes(), BACKEND_STREAM_COMPUTE, &err),
            STATUS_OK);
        ASSERT_EQ(table->stream_wait_event(device.be, BACKEND_STREAM_COPY, staged, &err),
                  STATUS_OK);
        ASSERT_EQ(
            table->copy(device.be, slot, staging.data, live.bytes(), BACKEND_STREAM_COPY, &err),
            STATUS_OK);
        ASSERT_EQ(table->event_record(device.be, arrived, BACKEND_STREAM_COPY, &err), STATUS_OK);
        std::vector<uint32_t> seen(count);
        bool done = false;
        std::thread writer([&] {
            struct error problem = {};
            EXPECT_EQ(table->event_wait(device.be, arrived, &problem), STATUS_OK);
            std::memcpy(seen.data(), slot, live.bytes());
            EXPECT_EQ(table->event_query(device.be, arrived, &done, &problem), STATUS_OK);
        });
        writer.join();
        EXPECT_EQ(seen, values) << "seed " << seed;
        EXPECT_TRUE(done);
        ASSERT_EQ(table->stream_synchronize(device.be, BACKEND_STREAM_COMPUTE, &err), STATUS_OK);
        table->event_free(device.be, staged);
        table->event_free(device.be, arrived);
        table->host_free(device.be, slot);
    }
}

// An event that nobody waits for is seen to be reached at last, and not before its stream got
// there.
TEST_F(CudaBackendTest, QueryFollowsTheStream) {
    bool was_open = false;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        cuda_schedule(seed);
        CudaBackend device;
        const backend_table *table = device.be->table;
        DeviceArray<uint32_t> memory(device.be, 1000);
        backend_event *event = nullptr;
        struct error err = {};
        ASSERT_EQ(table->event_create(device.be, &event, &err), STATUS_OK);
        bool done = false;
        ASSERT_EQ(table->event_query(device.be, event, &done, &err), STATUS_OK);
        EXPECT_TRUE(done) << "never recorded";
        ASSERT_EQ(
            table->fill_zero(device.be, memory.data, memory.bytes(), BACKEND_STREAM_COMPUTE, &err),
            STATUS_OK);
        ASSERT_EQ(table->event_record(device.be, event, BACKEND_STREAM_COMPUTE, &err), STATUS_OK);
        ASSERT_EQ(table->event_query(device.be, event, &done, &err), STATUS_OK);
        was_open = was_open || !done;
        ASSERT_EQ(table->stream_synchronize(device.be, BACKEND_STREAM_COMPUTE, &err), STATUS_OK);
        ASSERT_EQ(table->event_query(device.be, event, &done, &err), STATUS_OK);
        EXPECT_TRUE(done);
        table->event_free(device.be, event);
    }
    EXPECT_TRUE(was_open) << "no schedule left the event open: this test shows nothing";
}

// ---- recorded steps ----

std::vector<unsigned char> state_after(size_t steps, bool graph, uint64_t *launched) {
    CudaChoice choice;
    choice.graph = graph;
    CudaBackend device(choice);
    Training training(device.be);
    uint64_t before = simcuda::counts().graph_launches;
    training.steps(steps);
    std::vector<unsigned char> state = training.state();
    *launched = simcuda::counts().graph_launches - before;
    return state;
}

// The first step runs as it is, the others as the recording; batches of three shapes.
TEST_F(CudaBackendTest, RecordedStepsHaveTheBitsOfEnqueuedOnes) {
    uint64_t launched = 0;
    std::vector<unsigned char> enqueued = state_after(5, false, &launched);
    EXPECT_EQ(launched, 0u);
    for (uint64_t seed = 1; seed <= 5; seed++) {
        cuda_schedule(seed);
        EXPECT_EQ(state_after(5, true, &launched), enqueued) << "seed " << seed;
        EXPECT_EQ(launched, 4u);
    }
}

struct Call {
    backend *be;
    uint32_t *counter; // device memory
    unsigned calls = 0;
    unsigned fail_at = 0; // which call fails
};

// Zeroes, so that what a launch does can be seen.
enum status zero_it(void *context, struct error *err) {
    Call *call = (Call *)context;
    call->calls++;
    enum status status = call->be->table->fill_zero(call->be, call->counter, sizeof(uint32_t),
                                                    BACKEND_STREAM_COMPUTE, err);
    return call->calls == call->fail_at ? error_set(err, STATUS_INTERNAL, "as the test asked")
                                        : status;
}

TEST_F(CudaBackendTest, EnqueueIsCalledTwiceAtMost) {
    CudaBackend device;
    DeviceArray<uint32_t> counter(device.be, 1);
    Call call = {device.be, counter.data};
    backend_recording *recording = nullptr;
    struct error err = {};
    for (unsigned round = 1; round <= 5; round++) {
        counter.upload({round});
        ASSERT_EQ(device.be->table->replay(device.be, &recording, zero_it, &call, &err), STATUS_OK)
            << err.message;
        EXPECT_EQ(counter.download(), std::vector<uint32_t>{0}) << "round " << round;
        EXPECT_EQ(call.calls, round < 2 ? round : 2);
    }
    device.be->table->recording_free(device.be, recording);
    device.be->table->recording_free(device.be, nullptr);
}

// Failing in the plain run or while recording: the error comes through, the stream works, and the
// next call tries again.
TEST_F(CudaBackendTest, AFailedRecordingIsTriedAgain) {
    for (unsigned fail_at : {1u, 2u}) {
        CudaBackend device;
        DeviceArray<uint32_t> counter(device.be, 1);
        Call call = {device.be, counter.data};
        call.fail_at = fail_at;
        backend_recording *recording = nullptr;
        struct error err = {};
        unsigned failures = 0;
        for (unsigned round = 1; round <= 4; round++) {
            counter.upload({round});
            enum status status =
                device.be->table->replay(device.be, &recording, zero_it, &call, &err);
            if (status == STATUS_OK) {
                EXPECT_EQ(counter.download(), std::vector<uint32_t>{0});
            } else {
                EXPECT_EQ(status, STATUS_INTERNAL);
                EXPECT_STREQ(err.message, "as the test asked");
                failures++;
            }
        }
        EXPECT_EQ(failures, 1u);
        EXPECT_EQ(call.calls, 3u); // the failed one, and the two that were needed
        device.be->table->recording_free(device.be, recording);
    }
}

// ---- failures of the device ----

// The backend's table with its ops spied upon. Static, because a table's entries have no context.
const backend_table *whole;
backend_table spied;
std::function<void(const std::string &)> before_op;

enum status spy_forward(backend *be, const lstm_args *args, struct error *err) {
    before_op("lstm_forward");
    return whole->lstm_forward(be, args, err);
}
enum status spy_head(backend *be, const head_args *args, struct error *err) {
    before_op("head_forward_backward");
    return whole->head_forward_backward(be, args, err);
}
enum status spy_backward(backend *be, const lstm_args *args, struct error *err) {
    before_op("lstm_backward");
    return whole->lstm_backward(be, args, err);
}
enum status spy_embedding(backend *be, const lstm_args *args, struct error *err) {
    before_op("embedding_grad");
    return whole->embedding_grad(be, args, err);
}
enum status spy_norm(backend *be, const norm_args *args, struct error *err) {
    before_op("global_norm");
    return whole->global_norm(be, args, err);
}
enum status spy_adam(backend *be, const adam_args *args, struct error *err) {
    before_op("adam_step");
    return whole->adam_step(be, args, err);
}

void spy_on(backend *be) {
    whole = be->table;
    spied = *whole;
    spied.lstm_forward = spy_forward;
    spied.head_forward_backward = spy_head;
    spied.lstm_backward = spy_backward;
    spied.embedding_grad = spy_embedding;
    spied.global_norm = spy_norm;
    spied.adam_step = spy_adam;
    be->table = &spied;
}

// The message of the failed step, whenever it comes: in the step itself or behind it.
std::string message_of_failure(backend *be, Training *training) {
    struct error err = {};
    enum status status = training->step(&err);
    if (status == STATUS_OK) {
        status = be->table->stream_synchronize(be, BACKEND_STREAM_COMPUTE, &err);
    }
    EXPECT_EQ(status, STATUS_DEVICE);
    return err.message;
}

class CudaFailure : public CudaTest, public testing::WithParamInterface<const char *> {};

INSTANTIATE_TEST_SUITE_P(Ops, CudaFailure,
                         testing::Values("lstm_forward", "head_forward_backward", "lstm_backward",
                                         "embedding_grad", "global_norm", "adam_step"));

// The second kernel of an op fails on the device, after the call that enqueued it: a later call of
// another kind tells which op it was. (A failing kernel does not run, so an op of one kernel only
// has not said yet that it began: the one before it is named.)
TEST_P(CudaFailure, IsToldWithTheNameOfTheOperation) {
    const std::string op = GetParam();
    CudaChoice choice;
    choice.graph = false;
    // How many kernels the op has: those that run between it and what follows.
    uint64_t begun = 0, kernels = 0;
    {
        CudaBackend device(choice);
        Training training(device.be);
        bool inside = false;
        spy_on(device.be);
        auto look = [&](const std::string &next) {
            struct error err = {};
            ASSERT_EQ(whole->stream_synchronize(device.be, BACKEND_STREAM_COMPUTE, &err),
                      STATUS_OK);
            kernels = inside ? simcuda::counts().launches - begun : kernels;
            inside = next == op;
            begun = simcuda::counts().launches;
        };
        before_op = look;
        training.steps(1);
        look("");
    }
    ASSERT_GE(kernels, 1u);
    cuda_schedule(2);
    CudaBackend device(choice);
    Training training(device.be);
    spy_on(device.be);
    std::string last, expected;
    before_op = [&](const std::string &next) {
        if (next == op) {
            struct error err = {};
            ASSERT_EQ(whole->stream_synchronize(device.be, BACKEND_STREAM_COMPUTE, &err),
                      STATUS_OK);
            simcuda::fail_launch(kernels > 1 ? 2 : 1);
            expected = kernels > 1 ? op : last;
        }
        last = next;
    };
    std::string message = message_of_failure(device.be, &training);
    EXPECT_EQ(message.find("CUDA " + expected + ": "), 0u) << message;
    EXPECT_TRUE(contains(message, "cudaErrorLaunchFailure")) << message;
}

// A copy fails on the device while a step is recorded, and a call in the middle of an op notices,
// which cannot ask the device as long as the recording lasts: the failure is still the device's.
struct Lost {
    backend *be;
    uint32_t *memory;
    backend_event *event;
    unsigned calls;
};

enum status lose_the_device(void *context, struct error *err) {
    Lost *lost = (Lost *)context;
    if (++lost->calls == 2) {
        std::thread([&] {
            EXPECT_EQ(lost->be->table->event_wait(lost->be, lost->event, nullptr), STATUS_DEVICE);
        }).join();
    }
    CUDA_TRY(cudaMemsetAsync(lost->memory, 0, sizeof(uint32_t),
                             cuda_of(lost->be)->stream[BACKEND_STREAM_COMPUTE]),
             "middle of an op", err);
    return STATUS_OK;
}

TEST_F(CudaBackendTest, AFailureWhileRecordingIsTheDevices) {
    unsigned while_recording = 0;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        cuda_schedule(seed);
        CudaBackend device;
        const backend_table *table = device.be->table;
        DeviceArray<uint32_t> memory(device.be, 1000);
        Lost lost = {device.be, memory.data, nullptr, 0};
        backend_recording *recording = nullptr;
        struct error err = {};
        ASSERT_EQ(table->event_create(device.be, &lost.event, &err), STATUS_OK);
        ASSERT_EQ(table->replay(device.be, &recording, lose_the_device, &lost, &err), STATUS_OK);
        ASSERT_EQ(table->stream_synchronize(device.be, BACKEND_STREAM_COMPUTE, &err), STATUS_OK);
        simcuda::fail_copy(1);
        ASSERT_EQ(
            table->fill_zero(device.be, memory.data, memory.bytes(), BACKEND_STREAM_COPY, &err),
            STATUS_OK);
        if (table->event_record(device.be, lost.event, BACKEND_STREAM_COPY, &err) == STATUS_OK) {
            EXPECT_EQ(table->replay(device.be, &recording, lose_the_device, &lost, &err),
                      STATUS_DEVICE);
        }
        EXPECT_EQ(std::string(err.message).find("CUDA before the first operation: "), 0u)
            << err.message;
        while_recording += lost.calls == 2;
        table->recording_free(device.be, recording);
        table->event_free(device.be, lost.event);
    }
    EXPECT_GT(while_recording, 0u) << "no schedule reached the recording: this test shows nothing";
}

// Everything that can fail does so, each time with the reason; what frees still works.
TEST_F(CudaBackendTest, ALostDeviceIsReportedByEveryCall) {
    CudaBackend device;
    const backend_table *table = device.be->table;
    Training training(device.be);
    DeviceArray<uint32_t> memory(device.be, 10);
    backend_event *event = nullptr, *other_event = nullptr;
    backend_recording *recording = nullptr;
    void *other = nullptr;
    bool done = false;
    Call call = {device.be, memory.data};
    struct error err = {};
    ASSERT_EQ(table->event_create(device.be, &event, &err), STATUS_OK);
    training.steps(3);
    ASSERT_EQ(table->stream_synchronize(device.be, BACKEND_STREAM_COMPUTE, &err), STATUS_OK);
    simcuda::fail_copy(1);
    ASSERT_EQ(table->fill_zero(device.be, memory.data, 4, BACKEND_STREAM_COPY, &err), STATUS_OK);
    ASSERT_EQ(table->stream_synchronize(device.be, BACKEND_STREAM_COPY, &err), STATUS_DEVICE);
    const struct {
        const char *name;
        std::function<enum status(struct error *)> run;
    } calls[] = {
        {"device_alloc",
         [&](struct error *e) { return table->device_alloc(device.be, 10, &other, e); }},
        {"host_alloc",
         [&](struct error *e) { return table->host_alloc(device.be, 10, &other, e); }},
        {"copy",
         [&](struct error *e) {
             return table->copy(device.be, memory.data, memory.data + 4, 8, BACKEND_STREAM_COPY, e);
         }},
        {"fill_zero",
         [&](struct error *e) {
             return table->fill_zero(device.be, memory.data, 8, BACKEND_STREAM_COMPUTE, e);
         }},
        {"stream_synchronize",
         [&](struct error *e) {
             return table->stream_synchronize(device.be, BACKEND_STREAM_COPY, e);
         }},
        {"event_create",
         [&](struct error *e) { return table->event_create(device.be, &other_event, e); }},
        {"event_record",
         [&](struct error *e) {
             return table->event_record(device.be, event, BACKEND_STREAM_COPY, e);
         }},
        {"stream_wait_event",
         [&](struct error *e) {
             return table->stream_wait_event(device.be, BACKEND_STREAM_COPY, event, e);
         }},
        {"event_wait", [&](struct error *e) { return table->event_wait(device.be, event, e); }},
        {"event_query",
         [&](struct error *e) { return table->event_query(device.be, event, &done, e); }},
        {"replay",
         [&](struct error *e) { return table->replay(device.be, &recording, zero_it, &call, e); }},
        {"replay", [&](struct error *e) { return training.step(e); }},
    };
    for (const auto &each : calls) {
        struct error problem = {};
        EXPECT_EQ(each.run(&problem), STATUS_DEVICE) << each.name;
        EXPECT_EQ(std::string(problem.message).find("CUDA adam_step: "), 0u)
            << each.name << ": " << problem.message;
    }
    EXPECT_EQ(call.calls, 0u);
    table->event_free(device.be, event);
}

// ---- profiler ranges ----

TEST_F(CudaBackendTest, ProfilerRangesAreBalanced) {
    simcuda::ProfilerRanges before = simcuda::profiler_ranges();
    {
        CudaBackend device;
        Training training(device.be);
        device.be->table->range_begin(device.be, "epoch");
        training.steps(3);
        device.be->table->range_end(device.be);
        simcuda::fail_launch(1);
        struct error err = {};
        for (int i = 0; i < 20 && training.step(&err) == STATUS_OK; i++) {
        }
        EXPECT_NE(std::string(err.message), "") << "the device was to fail";
    }
    simcuda::ProfilerRanges after = simcuda::profiler_ranges();
    EXPECT_GT(after.pushes, before.pushes + 6);
    EXPECT_EQ(after.pushes - before.pushes, after.pops - before.pops);
    EXPECT_EQ(after.unmatched_pops, before.unmatched_pops);
}

// ---- end ----

TEST_F(CudaBackendTest, FreedWhileStepsAreUnderWay) {
    for (uint64_t seed = 1; seed <= 6; seed++) {
        cuda_schedule(seed);
        CudaBackend device;
        Training training(device.be);
        training.steps(3);
    }
}

} // namespace
