// host/model.h on a device with its own memory: batches leave through pinned slots, running sums come
// back late, and nothing of it shows in the results.
#include <cstring>
#include <string>
#include <vector>

#include "host/model.h"
#include "tests/support/cuda_device.h"
#include "tests/support/device_array.h"
#include "tests/support/ragged_batch.h"
#include "gtest/gtest.h"

namespace {

constexpr uint64_t STEPS = 14;
constexpr unsigned SCHEDULES = 12;
const model_shape shape = {23, 5, 8, 6};

// All batches of a little run, over one list of tokens, as an epoch has them.
struct Batches {
    Batches() {
        uint32_t word = 1;
        for (uint64_t b = 0; b < STEPS; b++) {
            std::vector<uint32_t> lengths = {(uint32_t)(3 + b % 9), 2, (uint32_t)(b % 2), 0};
            first.emplace_back();
            length.push_back(lengths);
            label.push_back({1, 0, (uint8_t)(b % 2), 1});
            for (uint32_t count : lengths) {
                first.back().push_back(tokens.size());
                for (uint32_t t = 0; t < count; t++) {
                    word = (word * 7 + 3) % shape.vocabulary;
                    tokens.push_back((uint16_t)word);
                }
            }
        }
    }
    batch_limits limits() const {
        batch_limits limits = {};
        limits.sequences = 4;
        limits.total_tokens = 16;
        limits.longest = 12;
        return limits;
    }
    std::vector<uint16_t> tokens;
    std::vector<std::vector<uint64_t>> first;
    std::vector<std::vector<uint32_t>> length;
    std::vector<std::vector<uint8_t>> label;
};

class Trained {
  public:
    explicit Trained(bool graph) : device_({shape.hidden, graph}) {
        model_options options = {};
        options.limits = batches_.limits();
        options.training = true;
        options.learning_rate = 0.01;
        struct error err = {};
        EXPECT_EQ(model_create(device_.be, &shape, &options, &net, &err), STATUS_OK) << err.message;
        EXPECT_EQ(model_initialise(net, 5, &err), STATUS_OK) << err.message;
        size_t bytes = batches_.tokens.size() * sizeof(uint16_t);
        EXPECT_EQ(device_.be->table->device_alloc(device_.be, bytes, &tokens_, &err), STATUS_OK);
        EXPECT_EQ(model_upload(net, tokens_, batches_.tokens.data(), bytes, &err), STATUS_OK);
    }
    ~Trained() {
        device_.be->table->device_free(device_.be, tokens_);
        model_free(net);
    }
    Trained(const Trained &) = delete;
    Trained &operator=(const Trained &) = delete;

    // Step `step` from 1. The caller's arrays are gone when the call has returned.
    void train(uint64_t step) {
        std::vector<uint64_t> first = batches_.first[step - 1];
        std::vector<uint32_t> length = batches_.length[step - 1];
        std::vector<uint8_t> label = batches_.label[step - 1];
        batch_view view = view_of(first, length, label);
        struct error err = {};
        ASSERT_EQ(model_train_step(net, &view, step, &err), STATUS_OK) << err.message;
        std::memset(first.data(), 0xff, first.size() * sizeof first[0]);
        std::memset(length.data(), 0xff, length.size() * sizeof length[0]);
        std::memset(label.data(), 0xff, label.size());
    }
    std::vector<float> logits(uint64_t step) {
        batch_view view =
            view_of(batches_.first[step - 1], batches_.length[step - 1], batches_.label[step - 1]);
        std::vector<float> out(view.sequences);
        struct error err = {};
        EXPECT_EQ(model_forward(net, &view, out.data(), nullptr, &err), STATUS_OK) << err.message;
        return out;
    }
    pass_sums poll(bool wait, uint64_t *step) {
        pass_sums sums = {};
        struct error err = {};
        EXPECT_EQ(model_poll_sums(net, wait, &sums, step, &err), STATUS_OK) << err.message;
        return sums;
    }
    std::string weights() {
        std::string bytes(net->state_bytes, '\0');
        EXPECT_EQ(model_download(net, &bytes[0], net->state, net->state_bytes, nullptr), STATUS_OK);
        return bytes;
    }
    model *net = nullptr;

  private:
    batch_view view_of(const std::vector<uint64_t> &first, const std::vector<uint32_t> &length,
                       const std::vector<uint8_t> &label) const {
        batch_view view = {};
        view.tokens = tokens_;
        view.token_bytes = sizeof(uint16_t);
        view.sequences = (uint32_t)length.size();
        for (uint32_t count : length) {
            view.total_tokens += count;
        }
        view.first = first.data();
        view.length = length.data();
        view.label = label.data();
        return view;
    }
    Batches batches_;
    CudaBackend device_;
    void *tokens_ = nullptr;
};

// The run that waits for the device after every step: the sums of each, and the state at the end.
struct Patient {
    Patient() : sums(1) {
        Trained run(false);
        for (uint64_t step = 1; step <= STEPS; step++) {
            run.train(step);
            uint64_t of = 0;
            sums.push_back(run.poll(true, &of));
            EXPECT_EQ(of, step);
        }
        state = run.weights();
    }
    std::vector<pass_sums> sums; // [step]
    std::string state;
};

bool same(const pass_sums &a, const pass_sums &b) {
    return std::memcmp(&a, &b, sizeof a) == 0;
}

class CudaModel : public CudaTest {};

TEST_F(CudaModel, SumsComeBackInOrderAndNeverLaterThanTheSlots) {
    Patient patient;
    EXPECT_EQ(patient.sums[STEPS].examples, 4.0 * STEPS);
    for (unsigned seed = 1; seed <= SCHEDULES; seed++) {
        for (bool graph : {true, false}) {
            cuda_schedule(seed);
            Trained run(graph);
            uint64_t before = 0;
            for (uint64_t step = 1; step <= STEPS; step++) {
                run.train(step);
                uint64_t of = 0;
                pass_sums sums = run.poll(false, &of);
                ASSERT_GE(of, before) << "seed " << seed;
                ASSERT_LE(of, step) << "seed " << seed;
                ASSERT_LE(step, of + MODEL_STEPS_AHEAD) << "seed " << seed;
                if (of > 0) {
                    ASSERT_TRUE(same(sums, patient.sums[of])) << "seed " << seed << " step " << of;
                }
                before = of;
            }
            uint64_t of = 0;
            ASSERT_TRUE(same(run.poll(true, &of), patient.sums[STEPS])) << "seed " << seed;
            ASSERT_EQ(of, STEPS);
            ASSERT_EQ(run.weights(), patient.state) << "seed " << seed << " graph " << graph;
        }
    }
}

TEST_F(CudaModel, SumsThatWereSetAreNotOverwrittenByLateOnes) {
    for (unsigned seed = 1; seed <= SCHEDULES; seed++) {
        cuda_schedule(seed);
        Trained run(true);
        for (uint64_t step = 1; step <= 6; step++) {
            run.train(step);
        }
        const pass_sums zero = {};
        ASSERT_EQ(model_write_sums(run.net, &zero, nullptr), STATUS_OK);
        uint64_t of = 0;
        ASSERT_TRUE(same(run.poll(false, &of), zero)) << "seed " << seed;
        run.train(7);
        pass_sums sums = run.poll(true, &of);
        ASSERT_EQ(sums.examples, 4.0) << "seed " << seed;
        ASSERT_EQ(of, 7u);
    }
}

// An evaluation between steps goes through the same slots and the same workspace.
// A save is taken in stream order there, and a recorded step could not ask.
TEST_F(CudaModel, NobodyIsAskedBeforeTheStateChanges) {
    Trained run(true);
    unsigned asked = 0;
    model_before_change(
        run.net, [](void *count) { ++*static_cast<unsigned *>(count); }, &asked);
    run.train(1);
    run.train(2);
    uint64_t of = 0;
    run.poll(true, &of);
    EXPECT_EQ(asked, 0u);
}

TEST_F(CudaModel, ForwardPassesBetweenStepsChangeNothing) {
    Patient patient;
    for (unsigned seed = 1; seed <= SCHEDULES; seed++) {
        cuda_schedule(seed);
        Trained run(true);
        std::vector<float> once = run.logits(3);
        ASSERT_EQ(run.logits(3), once);
        for (uint64_t step = 1; step <= STEPS; step++) {
            run.train(step);
            if (step % 3 == 0) {
                run.logits(step % 5 + 1);
            }
        }
        ASSERT_EQ(run.weights(), patient.state) << "seed " << seed;
        ASSERT_NE(run.logits(3), once);
    }
}

} // namespace
