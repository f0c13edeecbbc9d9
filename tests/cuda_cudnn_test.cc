// The recurrence by cuDNN against the CPU's reference loops, for hidden sizes that the fused kernels
// have and have not. Only on a real device, in a build with cuDNN.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "host/base/rng.h"
#include "tests/support/cuda_device.h"
#include "tests/support/op_run.h"
#include "gtest/gtest.h"

namespace {

struct Random {
    explicit Random(uint64_t seed) : rng(rng_make(seed, RNG_STREAM_DEMO, 79)) {}
    float uniform(double spread) { return (float)((2 * rng_uniform(&rng) - 1) * spread); }
    uint32_t below(uint32_t bound) { return (uint32_t)rng_below(&rng, bound); }
    struct rng rng;
};

RaggedBatch make_batch(const std::vector<size_t> &lengths, uint32_t words, Random &random) {
    std::vector<std::vector<uint32_t>> sequences;
    std::vector<uint8_t> labels;
    for (size_t length : lengths) {
        std::vector<uint32_t> ids(length);
        for (uint32_t &id : ids) {
            id = random.below(words);
        }
        sequences.push_back(ids);
        labels.push_back((uint8_t)random.below(2));
    }
    return RaggedBatch(sequences, labels);
}

// Float rounding over at most a hundred steps and a few hundred terms; cuDNN's sums have another
// order than ours.
constexpr double state_tolerance = 1e-5;
constexpr double gradient_tolerance = 5e-5;

void expect_near(const std::vector<float> &ours, const std::vector<float> &theirs, double tolerance,
                 double floor, const std::string &what) {
    ASSERT_EQ(ours.size(), theirs.size()) << what;
    double largest = floor;
    for (float value : theirs) {
        largest = std::max(largest, std::fabs((double)value));
    }
    for (size_t i = 0; i < ours.size(); i++) {
        ASSERT_NEAR(ours[i], theirs[i], tolerance * largest) << what << " element " << i;
    }
}

void expect_step(const OpResult &ours, const OpResult &theirs) {
    expect_near(ours.final_state, theirs.final_state, state_tolerance, 1, "final_state");
    expect_near(ours.logits, theirs.logits, state_tolerance, 1, "logits");
    for (size_t i = 0; i < MODEL_TENSORS; i++) {
        expect_near(ours.gradients[i], theirs.gradients[i], gradient_tolerance, 1e-3,
                    "gradient " + std::to_string(i));
    }
}

class CudaCudnn : public CudaTest, public testing::WithParamInterface<model_shape> {
  protected:
    void SetUp() override {
        CudaTest::SetUp();
        if (!IsSkipped() && !cuda_has_cudnn()) {
            GTEST_SKIP() << "gpu: no cuDNN here (" << backend_cuda_build() << ")";
        }
    }
};

TEST_P(CudaCudnn, StepsAreTheReferences) {
    const model_shape shape = GetParam();
    const std::vector<std::vector<size_t>> batches = {
        {9, 0, 31, 1, 7, 7, 0, 18}, {1},         {0, 0, 0}, {100, 3},
        std::vector<size_t>(40, 6), {5, 4, 3, 0}};
    batch_limits limits = {};
    limits.sequences = 40;
    limits.total_tokens = 240;
    limits.longest = 100;
    limits.training = true;
    CudaBackend cuda(CudaChoice{shape.hidden, true, "cudnn"});
    ReferenceBackend reference;
    Random random(shape.hidden);
    OpRun ours(cuda.be, shape, limits), theirs(reference.be, shape, limits);
    std::vector<float> weights(ours.layout().part_floats);
    for (float &weight : weights) {
        weight = random.uniform(1 / std::sqrt((double)shape.hidden));
    }
    ours.set_weights(weights);
    theirs.set_weights(weights);
    for (const std::vector<size_t> &lengths : batches) {
        SCOPED_TRACE(testing::PrintToString(lengths));
        RaggedBatch batch = make_batch(lengths, shape.vocabulary, random);
        OpResult result = ours.step(batch);
        expect_step(result, theirs.step(batch));
        OpResult forward = ours.inference(batch); // between steps, as a validation is
        expect_near(forward.final_state, result.final_state, state_tolerance, 1, "inference");
        EXPECT_EQ(bits_difference(ours.step(batch), result), "") << "the same bits again";
    }
}

// What `predict` asks for: the tokens bound the memory, not 256 times the longest text. The gates
// and states of both directions are 12 H floats a token; the bound leaves room for three times that.
TEST_P(CudaCudnn, TokensBoundTheWorkspace) {
    const model_shape shape = GetParam();
    const batch_limits limits = {256, 131072, 131072, false};
    CudaBackend cuda(CudaChoice{shape.hidden, true, "cudnn"});
    size_t bytes = 0, again = 0;
    struct error err = {};
    ASSERT_EQ(cuda.be->table->workspace_bytes(cuda.be, &shape, &limits, &bytes, &err), STATUS_OK)
        << err.message;
    EXPECT_LT(bytes,
              2 * limits.total_tokens * (shape.embedding + 20u * shape.hidden) * 4 + (64 << 20));
    EXPECT_EQ(cuda.be->table->workspace_bytes(cuda.be, &shape, &limits, &again, &err), STATUS_OK);
    EXPECT_EQ(again, bytes);
}

TEST_P(CudaCudnn, RefusesToTrainOnTextsTooLongForIt) {
    const model_shape shape = GetParam();
    batch_limits limits = {4, 70000, 65535, true};
    CudaBackend cuda(CudaChoice{shape.hidden, true, "cudnn"});
    size_t bytes = 0;
    struct error err = {};
    EXPECT_EQ(cuda.be->table->workspace_bytes(cuda.be, &shape, &limits, &bytes, &err), STATUS_OK)
        << err.message;
    limits.longest++;
    EXPECT_EQ(cuda.be->table->workspace_bytes(cuda.be, &shape, &limits, &bytes, &err),
              STATUS_DEVICE);
    for (const char *part : {"65536", "--max-length 65535", "--lstm fused"}) {
        EXPECT_NE(std::string(err.message).find(part), std::string::npos) << err.message;
    }
}

INSTANTIATE_TEST_SUITE_P(Sizes, CudaCudnn,
                         testing::Values(model_shape{50, 16, 64, 8}, model_shape{50, 7, 129, 5},
                                         model_shape{9000, 33, 200, 16}));

} // namespace
