// Every operation of the CUDA backend against the CPU's (the specification) and, where it is cheap,
// against the double-precision oracle: on the simulated device in a build with CAIRN_CUDA=sim, on a
// real one elsewhere.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "tests/support/cuda_device.h"
#include "tests/support/op_cases.h"
#include "tests/support/op_run.h"

namespace {

// Two results of float arithmetic, each within the tolerances of ops_test.cc from the truth (states
// 2e-6 absolute, gradients 1e-5 of a tensor's largest value): twice that between them.
constexpr double state_tolerance = 4e-6;
constexpr double gradient_tolerance = 2e-5;

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool sanitized = true;
#else
constexpr bool sanitized = false;
#endif

// The largest vocabulary whose words are projected once each (kernels/cuda/cuda_internal.cuh).
constexpr uint32_t table_words = 8192;

RaggedBatch make_batch(const Sequences &sequences, Random &random, uint32_t token_bytes = 2) {
    return RaggedBatch(sequences, make_labels(sequences.size(), random), token_bytes);
}

RaggedBatch make_batch(const std::vector<size_t> &lengths, uint32_t words, Random &random,
                       uint32_t token_bytes = 2) {
    return make_batch(make_sequences(lengths, words, random), random, token_bytes);
}

std::vector<float> flat_weights(OracleModel &oracle, const model_layout &layout) {
    std::vector<float> flat(layout.part_floats);
    auto tensors = oracle.tensors();
    for (size_t i = 0; i < tensors.size(); i++) {
        for (size_t k = 0; k < tensors[i]->size(); k++) {
            flat[layout.offset[i] + k] = (float)(*tensors[i])[k];
        }
    }
    return flat;
}

std::vector<float> random_floats(size_t count, Random &random) {
    std::vector<float> values(count);
    for (float &value : values) {
        value = (float)random.uniform(-1, 1);
    }
    return values;
}

// ---- comparing ----

// Within `tolerance` of the largest value (or of `floor`, where all are small).
void expect_near(const std::vector<float> &ours, const std::vector<float> &theirs, double tolerance,
                 double floor, const std::string &what) {
    ASSERT_EQ(ours.size(), theirs.size()) << what;
    double largest = floor, difference = 0;
    size_t worst = 0;
    for (size_t i = 0; i < ours.size(); i++) {
        ASSERT_TRUE(std::isfinite(theirs[i])) << what << " element " << i << " of the reference";
        ASSERT_TRUE(std::isfinite(ours[i])) << what << " element " << i;
        largest = std::max(largest, std::fabs((double)theirs[i]));
        double d = std::fabs((double)ours[i] - (double)theirs[i]);
        worst = d > difference ? i : worst;
        difference = std::max(difference, d);
    }
    EXPECT_LE(difference, tolerance * largest)
        << what << " element " << worst << " of " << ours.size() << ", the largest is " << largest;
}

void expect_states(const OpResult &ours, const OpResult &theirs) {
    expect_near(ours.final_state, theirs.final_state, state_tolerance, 1, "final_state");
}

void expect_head(const OpResult &ours, const OpResult &theirs, const RaggedBatch &batch) {
    ASSERT_EQ(ours.losses.size(), theirs.losses.size());
    double loss = 0, correct = 0;
    for (size_t b = 0; b < ours.losses.size(); b++) {
        double scale = 1 + std::fabs((double)theirs.logits[b]);
        // The logit sums 2H + D products of states that are off themselves.
        EXPECT_NEAR(ours.logits[b], theirs.logits[b], 2e-5 * scale) << b;
        EXPECT_NEAR(ours.losses[b], theirs.losses[b], 2e-5 * scale) << b;
        EXPECT_NEAR(ours.losses[b], OracleModel::loss(ours.logits[b], batch.view().label[b]),
                    1e-12 * scale)
            << b;
        loss += ours.losses[b];
        correct += (ours.logits[b] > 0) == (batch.view().label[b] == 1);
    }
    EXPECT_NEAR(ours.sums.loss, 10 + loss, 1e-12 * (10 + loss));
    EXPECT_EQ(ours.sums.correct, 20 + correct);
    EXPECT_EQ(ours.sums.examples, 30 + (double)ours.losses.size());
    EXPECT_NEAR(ours.sums.batch_loss, loss / (double)ours.losses.size(), 1e-12 * (1 + loss));
}

// Of the tensors [first, last) of the layout. A sum over N terms of either sign grows as sqrt(N) and
// so does its rounding; from a few hundred terms on the latter is what counts.
void expect_gradients(const OpResult &ours, const OpResult &theirs, size_t first, size_t last,
                      uint64_t tokens) {
    double tolerance = gradient_tolerance * std::max(1.0, std::sqrt((double)tokens / 1000));
    for (size_t i = first; i < last; i++) {
        expect_near(ours.gradients[i], theirs.gradients[i], tolerance, 1e-3,
                    "gradient " + std::to_string(i));
    }
}

void expect_step(const OpResult &ours, const OpResult &theirs, const RaggedBatch &batch) {
    expect_states(ours, theirs);
    expect_head(ours, theirs, batch);
    expect_near(ours.d_final_state, theirs.d_final_state, gradient_tolerance, 1e-3,
                "d_final_state");
    expect_gradients(ours, theirs, 0, MODEL_TENSORS, batch.view().total_tokens);
}

// One model on both backends.
struct Pair {
    Pair(const model_shape &s, const batch_limits &limits, uint64_t seed, uint32_t token_bytes = 2,
         bool graph = true)
        : shape(s), random(seed), oracle(make_oracle(s, random)), cuda(CudaChoice{s.hidden, graph}),
          ours(cuda.be, s, limits, token_bytes), theirs(reference.be, s, limits, token_bytes) {
        std::vector<float> weights = flat_weights(oracle, ours.layout());
        ours.set_weights(weights);
        theirs.set_weights(weights);
    }

    // Step, recurrence, head and inference of one batch.
    void compare_all(const RaggedBatch &batch) {
        compare_step(batch);
        size_t B = batch.view().sequences, width = 2 * shape.hidden;
        std::vector<float> d_final = random_floats(B * width, random);
        OpResult a = ours.recurrence(batch, d_final), b = theirs.recurrence(batch, d_final);
        expect_states(a, b);
        expect_gradients(a, b, 0, 7, batch.view().total_tokens);

        std::vector<float> states = random_floats(B * width, random);
        for (bool training : {true, false}) {
            a = ours.head(batch, states, training);
            b = theirs.head(batch, states, training);
            expect_head(a, b, batch);
            if (training) {
                expect_near(a.d_final_state, b.d_final_state, gradient_tolerance, 1e-3,
                            "d_final_state");
                expect_gradients(a, b, 7, MODEL_TENSORS, B);
            }
        }
        a = ours.inference(batch);
        expect_states(a, theirs.inference(batch));
        OpResult unlabelled = ours.inference(batch, false);
        EXPECT_EQ(std::memcmp(a.logits.data(), unlabelled.logits.data(), B * sizeof(float)), 0);
        EXPECT_EQ(unlabelled.sums.examples, 30) << "sums without labels";
    }

    void compare_step(const RaggedBatch &batch) {
        expect_step(ours.step(batch), theirs.step(batch), batch);
    }

    model_shape shape;
    Random random;
    OracleModel oracle;
    CudaBackend cuda;
    ReferenceBackend reference;
    OpRun ours, theirs;
};

// ---- every hidden size ----

class CudaOpsHidden : public CudaTest, public testing::WithParamInterface<uint32_t> {};

INSTANTIATE_TEST_SUITE_P(Sizes, CudaOpsHidden,
                         testing::Values(1, 5, 16, 17, 31, 32, 48, 64, 80, 96, 100, 112, 128),
                         [](const auto &name) { return std::to_string(name.param); });

// One workspace, sized for batches far larger, meets batch after batch.
TEST_P(CudaOpsHidden, EveryOpGivesTheReferencesValues) {
    uint32_t H = GetParam();
    Pair pair({37, 3 + H % 16, H, 5 + H % 8}, {90, 4000, 1000, true}, H);
    const std::vector<std::vector<size_t>> batches = {{12, 3, 0, 1, 7},           {0, 0, 0},  {1},
                                                      std::vector<size_t>(20, 2), {33, 1, 0}, {0}};
    for (const auto &lengths : batches) {
        SCOPED_TRACE("batch of " + std::to_string(lengths.size()) + ", longest " +
                     std::to_string(lengths[0]));
        pair.compare_all(make_batch(lengths, 37, pair.random));
    }
}

TEST_P(CudaOpsHidden, StatesAreTheOracles) {
    uint32_t H = GetParam();
    Pair pair({23, 9, H, 4}, {8, 200, 100, true}, 100 + H);
    Sequences sequences = make_sequences({14, 0, 1, 6, 2}, 23, pair.random);
    RaggedBatch batch = make_batch(sequences, pair.random);
    std::vector<float> ours = pair.ours.inference(batch).final_state;
    for (size_t k = 0; k < sequences.size(); k++) {
        auto expected = pair.oracle.final_state(sequences[batch.order()[k]]);
        for (size_t j = 0; j < 2 * H; j++) {
            ASSERT_NEAR(ours[k * 2 * H + j], expected[j], state_tolerance / 2)
                << "sequence " << k << " unit " << j;
        }
    }
}

// ---- whole gradients ----

class CudaOps : public CudaTest {};

TEST_F(CudaOps, WholeGradientIsTheDerivativeOfTheLoss) {
    for (uint32_t words : {9u, table_words + 1}) {
        model_shape shape = {words, 3, 4, 5};
        Pair pair(shape, {6, 18, 8, true}, 1);
        // The words of a small vocabulary, so that no word of the large one beyond them has a
        // gradient. Word 8 never occurs.
        Sequences sequences = make_sequences({3, 0, 1, 8, 1, 5}, 8, pair.random);
        std::vector<uint8_t> labels = {1, 0, 0, 1, 1, 0};
        OpResult result = pair.ours.step(RaggedBatch(sequences, labels));
        auto tensors = pair.oracle.tensors();
        for (size_t i = 0; i < MODEL_TENSORS; i++) {
            const std::vector<float> &ours = result.gradients[i];
            double largest = 1e-3;
            for (float g : ours) {
                largest = std::max(largest, std::fabs((double)g));
            }
            size_t count = i == 0 ? 9 * shape.embedding : ours.size();
            for (size_t k = 0; k < count; k++) {
                double exact = OracleModel::derivative(
                    (*tensors[i])[k], [&] { return pair.oracle.mean_loss(sequences, labels); });
                EXPECT_NEAR(ours[k], exact, gradient_tolerance / 2 * largest)
                    << "tensor " << i << " element " << k;
            }
        }
        for (size_t k = 8 * shape.embedding; k < result.gradients[0].size(); k++) {
            ASSERT_EQ(result.gradients[0][k], 0.0f) << "of a word that does not occur";
        }
    }
}

// ---- batches of every size ----

TEST_F(CudaOps, BatchesOfOneToTwoHundred) {
    Pair pair({50, 7, 16, 9}, {200, 1000, 20, true}, 2);
    for (uint32_t B : {1,  2,  3,  4,  5,  7,  8,   9,   15,  16,  17,  31,  32,  33,
                       47, 63, 64, 65, 96, 99, 127, 128, 129, 150, 191, 192, 193, 200}) {
        SCOPED_TRACE("batch of " + std::to_string(B));
        std::vector<size_t> lengths(B);
        for (auto &length : lengths) {
            length = pair.random.below(5);
        }
        pair.compare_step(make_batch(lengths, 50, pair.random));
    }
}

// Around the multiples of rows that one block sorts, sums or multiplies.
TEST_F(CudaOps, RowsAroundTheBlocksOfEveryKernel) {
    Pair pair({300, 5, 3, 3}, {40, 2600, 200, true}, 3);
    for (size_t rows :
         {31, 32, 33, 255, 256, 257, 511, 512, 513, 1023, 1024, 1025, 2047, 2049, 2560}) {
        SCOPED_TRACE(std::to_string(rows) + " rows");
        size_t B = 1 + rows / 80;
        std::vector<size_t> lengths(B, rows / B);
        lengths[0] += rows % B;
        pair.compare_step(make_batch(lengths, 300, pair.random));
    }
}

// The sizes that people train with.
TEST_F(CudaOps, TheDefaultSizes) {
    Pair pair({1000, 64, 64, 64}, {64, 64 * 300, 300, true}, 4);
    for (size_t longest : {10u, 3u}) {
        std::vector<size_t> lengths(longest == 10 ? 64 : 9);
        for (auto &length : lengths) {
            length = 1 + pair.random.below((uint32_t)longest);
        }
        pair.compare_step(make_batch(lengths, 1000, pair.random));
    }
}

// ---- words ----

struct Words {
    const char *name;
    uint32_t vocabulary, used; // ids are below `used`
    uint32_t token_bytes;
};

class CudaOpsWords : public CudaTest, public testing::WithParamInterface<Words> {};

const Words words[] = {{"Two", 2, 2, 2},
                       {"OneOfTwo", 2, 1, 2},
                       {"Bytes", 256, 256, 2},
                       {"BytesAndOne", 257, 257, 2},
                       {"WideIds", 257, 257, 4},
                       {"LargestTable", table_words, table_words, 2},
                       {"SmallestPlain", table_words + 1, table_words + 1, 2},
                       {"PlainOneWord", table_words + 1, 1, 4},
                       {"AllShortIds", 65536, 65536, 2},
                       {"MoreThanShortIds", 70001, 70001, 4}};

INSTANTIATE_TEST_SUITE_P(Sizes, CudaOpsWords, testing::ValuesIn(words),
                         [](const auto &name) { return std::string(name.param.name); });

TEST_P(CudaOpsWords, GradientsAreSummedByWord) {
    const Words &row = GetParam();
    Pair pair({row.vocabulary, 5, 6, 3}, {30, 2000, 300, true}, 5, row.token_bytes);
    for (const std::vector<size_t> &lengths :
         {std::vector<size_t>{70, 30, 30, 9, 1, 0}, std::vector<size_t>(24, 60), {1}, {0, 0}}) {
        Sequences sequences = make_sequences(lengths, row.used, pair.random);
        if (!sequences[0].empty()) {
            sequences[0][0] = row.used - 1; // the last word too
        }
        pair.compare_step(make_batch(sequences, pair.random, row.token_bytes));
    }
}

TEST_F(CudaOps, TheWidthOfIdsChangesNoBit) {
    model_shape shape = {400, 6, 20, 5};
    OpResult results[2];
    for (uint32_t wide : {0u, 1u}) {
        uint32_t bytes = wide == 1 ? 4 : 2;
        Pair pair(shape, {10, 300, 60, true}, 6, bytes);
        results[wide] = pair.ours.step(make_batch({50, 20, 20, 7, 0}, 400, pair.random, bytes));
    }
    EXPECT_EQ(bits_difference(results[0], results[1]), "");
}

// The same words and weights in a vocabulary that fits the table and in one that is larger by one.
TEST_F(CudaOps, TableAndPlainPathAgree) {
    OpResult results[2];
    for (uint32_t plain : {0u, 1u}) {
        model_shape shape = {table_words + plain, 9, 24, 7};
        Pair pair(shape, {40, 1500, 60, true}, 7);
        Random random(70);
        OracleModel oracle = make_oracle({table_words, 9, 24, 7}, random);
        oracle.embedding.resize((size_t)shape.vocabulary * shape.embedding);
        pair.ours.set_weights(flat_weights(oracle, pair.ours.layout()));
        RaggedBatch batch = make_batch(std::vector<size_t>(30, 45), table_words, random);
        results[plain] = pair.ours.step(batch);
        results[plain].gradients[0].resize((size_t)table_words * shape.embedding);
    }
    expect_states(results[0], results[1]);
    expect_gradients(results[0], results[1], 0, MODEL_TENSORS, 1350);
}

// ---- long sequences ----

TEST_F(CudaOps, SequencesOfThousandsOfSteps) {
    for (uint32_t vocabulary : {100u, table_words + 1}) {
        Pair pair({vocabulary, 4, 20, 6}, {6, 6000, 4000, true}, 8);
        pair.compare_step(make_batch(sanitized ? std::vector<size_t>{1100, 300, 5, 0, 1}
                                               : std::vector<size_t>{3500, 1200, 5, 0, 1},
                                     100, pair.random));
    }
}

TEST_F(CudaOps, AHundredThousandSteps) {
    const size_t T = sanitized ? 5000 : 100000;
    Pair pair({20, 2, 2, 2}, {2, 100000, 100000, true}, 9);
    pair.compare_step(make_batch({T}, 20, pair.random));
}

// ---- numbers ----

TEST_F(CudaOps, LargeLogitsHaveExactLosses) {
    model_shape shape = {3, 1, 1, 1};
    for (double z : {-200.0, -30.0, 0.0, 30.0, 200.0}) {
        Pair pair(shape, {2, 2, 1, true}, 10);
        OracleModel oracle(shape); // all zero: the logit is the last bias
        oracle.output_bias[0] = z;
        pair.ours.set_weights(flat_weights(oracle, pair.ours.layout()));
        OpResult result = pair.ours.inference(RaggedBatch({{1}, {1}}, {0, 1}));
        double x = std::exp(-std::fabs(z));
        double small = x < 1e-5 ? x - x * x / 2 : std::log(1 + x);
        double large = std::fabs(z) + small;
        EXPECT_DOUBLE_EQ(result.losses[0], z > 0 ? large : small) << z;
        EXPECT_DOUBLE_EQ(result.losses[1], z > 0 ? small : large) << z;
    }
}

TEST_F(CudaOps, NonFiniteWeightsShowInTheLoss) {
    model_shape shape = {6, 3, 5, 4};
    Pair pair(shape, {2, 6, 4, true}, 11);
    RaggedBatch batch = make_batch({4, 2}, 6, pair.random);
    for (size_t tensor = 0; tensor < MODEL_TENSORS; tensor++) {
        OracleModel oracle = pair.oracle;
        std::fill(oracle.tensors()[tensor]->begin(), oracle.tensors()[tensor]->end(), std::nan(""));
        pair.ours.set_weights(flat_weights(oracle, pair.ours.layout()));
        OpResult result = pair.ours.inference(batch);
        EXPECT_TRUE(std::isnan(result.losses[0])) << "tensor " << tensor;
        EXPECT_TRUE(std::isnan(result.losses[1])) << "tensor " << tensor;
    }
}

// ---- the optimiser ----

const size_t counts[] = {1, 3, 31, 255, 256, 257, 1000, 65536, 65537, 138369};

TEST_F(CudaOps, GlobalNormAndScale) {
    CudaBackend device;
    Random random(12);
    for (size_t count : counts) {
        SCOPED_TRACE(std::to_string(count) + " gradients");
        std::vector<float> values = random_floats(count, random);
        double square = 0;
        for (float g : values) {
            square += (double)g * (double)g;
        }
        double norm = std::sqrt(square);
        DeviceArray<float> gradients(device.be, count), scale(device.be, 1);
        DeviceArray<double> found(device.be, 1);
        gradients.upload(values);
        for (double clip : {0.0, norm / 3, norm * 3}) {
            scale.spoil();
            found.spoil();
            norm_args args = {gradients.data, count, clip, scale.data, found.data};
            struct error err = {};
            ASSERT_EQ(device.be->table->global_norm(device.be, &args, &err), STATUS_OK)
                << err.message;
            // A sum of squares of floats in double: count roundings of 1e-16 at most.
            EXPECT_NEAR(found.download()[0], norm, 1e-12 * norm);
            double expected = clip > 0 && norm > clip ? clip / norm : 1;
            EXPECT_NEAR(scale.download()[0], expected, 1e-7 * expected);
        }
        values[count / 2] = std::nanf("");
        gradients.upload(values);
        norm_args args = {gradients.data, count, 1, scale.data, found.data};
        ASSERT_EQ(device.be->table->global_norm(device.be, &args, nullptr), STATUS_OK);
        EXPECT_FALSE(std::isfinite(found.download()[0]));
    }
}

TEST_F(CudaOps, AdamStep) {
    CudaBackend device;
    Random random(13);
    for (size_t count : counts) {
        SCOPED_TRACE(std::to_string(count) + " parameters");
        DeviceArray<float> p(device.be, count), m(device.be, count), v(device.be, count),
            g(device.be, count), scale(device.be, 1);
        DeviceArray<step_inputs> inputs(device.be, 1);
        std::vector<float> p0 = random_floats(count, random), m0 = random_floats(count, random),
                           v0 = random_floats(count, random), g0 = random_floats(count, random);
        for (float &value : v0) {
            value *= value;
        }
        scale.upload(std::vector<float>{0.25f});
        step_inputs step = {};
        step.rate = 0.01f;
        inputs.upload({step});
        for (bool clipped : {false, true}) {
            p.upload(p0);
            m.upload(m0);
            v.upload(v0);
            g.upload(g0);
            adam_args args = {};
            args.parameters = p.data;
            args.m = m.data;
            args.v = v.data;
            args.gradients = g.data;
            args.count = count;
            args.scale = clipped ? scale.data : nullptr;
            args.inputs = inputs.data;
            args.beta1 = 0.9;
            args.beta2 = 0.999;
            args.epsilon = 1e-7;
            ASSERT_EQ(device.be->table->adam_step(device.be, &args, nullptr), STATUS_OK);
            std::vector<float> p1 = p.download(), m1 = m.download(), v1 = v.download();
            for (size_t i = 0; i < count; i++) {
                double grad = (double)g0[i] * (clipped ? 0.25 : 1.0);
                double em = m0[i] + (grad - m0[i]) * 0.1;
                double ev = v0[i] + (grad * grad - v0[i]) * 0.001;
                // Roundings of float: of the sum's terms, not of the sum.
                ASSERT_NEAR(m1[i], em, 3e-7) << i;
                ASSERT_NEAR(v1[i], ev, 3e-7) << i;
                // The division magnifies the error of m and v by what is divided by.
                double update = (double)step.rate * em / (std::sqrt(ev) + 1e-7);
                double off =
                    (double)step.rate * 3e-7 / (std::sqrt(std::max(0.0, ev - 3e-7)) + 1e-7);
                ASSERT_NEAR(p1[i], p0[i] - update, 3e-7 + 2e-6 * std::fabs(update) + 2 * off) << i;
            }
        }
    }
}

// ---- the same bits ----

std::vector<RaggedBatch> bits_batches(Random &random) {
    std::vector<RaggedBatch> batches;
    batches.push_back(make_batch({30, 12, 12, 5, 1, 0}, 60, random));
    batches.push_back(make_batch({3}, 60, random));
    batches.push_back(make_batch(std::vector<size_t>(30, 4), 60, random));
    batches.push_back(make_batch({0, 0}, 60, random));
    batches.push_back(make_batch({30, 12, 12, 5, 1, 0}, 60, random));
    return batches;
}

// Gradients of several batches, one after the other in the same workspace.
std::vector<OpResult> bits_run(const model_shape &shape, bool graph) {
    Pair pair(shape, {32, 400, 64, true}, 14, 2, graph);
    std::vector<OpResult> results;
    for (const RaggedBatch &batch : bits_batches(pair.random)) {
        results.push_back(pair.ours.step(batch));
    }
    return results;
}

void expect_same_bits(const std::vector<OpResult> &a, const std::vector<OpResult> &b) {
    ASSERT_EQ(a.size(), b.size());
    for (size_t i = 0; i < a.size(); i++) {
        EXPECT_EQ(bits_difference(a[i], b[i]), "") << "batch " << i;
    }
}

const model_shape bits_shapes[] = {{60, 9, 17, 11}, {table_words + 1, 9, 17, 11}};

TEST_F(CudaOps, RunsRepeatToTheBit) {
    for (const model_shape &shape : bits_shapes) {
        std::vector<OpResult> once = bits_run(shape, true);
        expect_same_bits(bits_run(shape, true), once);
        expect_same_bits(bits_run(shape, false), once);
    }
}

// Threads of a block, blocks and streams in other orders; recorded and not.
TEST_F(CudaOps, SchedulesChangeNoBit) {
    for (const model_shape &shape : bits_shapes) {
        std::vector<OpResult> once = bits_run(shape, true);
        for (uint64_t seed = 2; seed <= (sanitized ? 6 : 25); seed++) {
            SCOPED_TRACE("schedule " + std::to_string(seed));
            cuda_schedule(seed);
            expect_same_bits(bits_run(shape, seed % 2 == 0), once);
        }
    }
}

TEST_F(CudaOps, ALogitDoesNotDependOnItsBatch) {
    Pair pair({30, 12, 21, 10}, {40, 900, 30, true}, 15);
    std::vector<size_t> lengths;
    for (size_t i = 0; i < 37; i++) {
        lengths.push_back(pair.random.below(12));
    }
    Sequences sequences = make_sequences(lengths, 30, pair.random);
    std::vector<uint8_t> labels(37, 1);
    RaggedBatch all(sequences, labels);
    OpResult together = pair.ours.inference(all);
    for (size_t k = 0; k < sequences.size(); k++) {
        OpResult alone = pair.ours.inference(RaggedBatch({sequences[all.order()[k]]}, {1}));
        EXPECT_EQ(alone.logits[0], together.logits[k]) << k;
        EXPECT_EQ(alone.losses[0], together.losses[k]) << k;
    }
}

TEST_F(CudaOps, TrainingAndInferenceGiveTheSameBits) {
    for (const model_shape &shape : bits_shapes) {
        Pair pair(shape, {8, 100, 40, true}, 16);
        RaggedBatch batch = make_batch({9, 4, 0, 17, 17}, 60, pair.random);
        OpResult training = pair.ours.step(batch), inference = pair.ours.inference(batch);
        EXPECT_EQ(std::memcmp(training.final_state.data(), inference.final_state.data(),
                              training.final_state.size() * sizeof(float)),
                  0);
        EXPECT_EQ(std::memcmp(training.logits.data(), inference.logits.data(),
                              training.logits.size() * sizeof(float)),
                  0);
    }
}

} // namespace
