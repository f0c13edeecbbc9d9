// Every operation of the CPU backend against a double-precision oracle (support/oracle_model.h),
// with every instruction set that this processor has, and the promise that bits do not depend on
// threads or batches.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "host/model.h"
#include "kernels/backend.h"
#include "tests/support/op_cases.h"
#include "tests/support/ragged_batch.h"

namespace {

// Float rounding through a few dozen steps; seen: states 3e-7 absolute, gradients 2e-6 of a
// tensor's largest value.
constexpr double state_tolerance = 2e-6;
constexpr double gradient_tolerance = 1e-5;

std::vector<std::string> isas() {
    std::vector<std::string> names;
    for (const char *const *name = backend_cpu_isa_names(); *name != nullptr; name++) {
        names.push_back(*name);
    }
    return names;
}

// A model on one backend with an oracle's weights and room for exactly one batch.
class Net {
  public:
    Net(const std::string &isa, uint32_t threads, const OracleModel &oracle,
        const RaggedBatch &batch, double clip_norm = 0, double learning_rate = 0.01) {
        struct error err = {};
        backend_options options = {};
        options.threads = threads;
        options.isa = isa.c_str();
        EXPECT_EQ(backend_cpu_create(&options, &be, &err), STATUS_OK) << err.message;
        model_options model_options = {};
        batch_view view = batch.view();
        model_options.limits = {view.sequences, view.total_tokens, batch.longest(), true};
        model_options.training = true;
        model_options.learning_rate = learning_rate;
        model_options.clip_norm = clip_norm;
        EXPECT_EQ(model_create(be, &oracle.shape, &model_options, &net, &err), STATUS_OK)
            << err.message;
        OracleModel copy = oracle;
        auto tensors = copy.tensors();
        for (size_t i = 0; i < tensors.size(); i++) {
            for (size_t k = 0; k < tensors[i]->size(); k++) {
                net->weights[net->layout.offset[i] + k] = (float)(*tensors[i])[k];
            }
        }
        // Nothing may rely on what was in an output before.
        std::fill_n(net->gradients, net->layout.part_floats, std::nanf(""));
        std::fill_n(net->final_state, view.sequences * 2 * oracle.shape.hidden, std::nanf(""));
        std::fill_n(net->d_final_state, view.sequences * 2 * oracle.shape.hidden, std::nanf(""));
    }
    ~Net() {
        model_free(net);
        be->table->free(be);
    }
    Net(const Net &) = delete;
    Net &operator=(const Net &) = delete;

    lstm_args lstm(const batch_view &view, bool training) const {
        lstm_args args = {};
        args.shape = net->shape;
        args.batch = view;
        args.weights = model_weights_at(net, net->weights);
        args.gradients = model_weights_at(net, net->gradients);
        args.final_state = net->final_state;
        args.d_final_state = net->d_final_state;
        args.workspace = net->workspace;
        args.training = training;
        return args;
    }
    head_args head(const batch_view &view, bool training, pass_sums *sums) const {
        head_args args = {};
        args.shape = net->shape;
        args.batch = view;
        args.weights = model_weights_at(net, net->weights);
        args.gradients = model_weights_at(net, net->gradients);
        args.final_state = net->final_state;
        args.d_final_state = net->d_final_state;
        args.logits = net->logits;
        args.losses = net->losses;
        args.sums = sums;
        args.workspace = net->workspace;
        args.training = training;
        return args;
    }
    std::vector<float> values(const float *part, size_t tensor) const {
        uint64_t count = 0;
        EXPECT_TRUE(tensor_elements(&net->layout.tensors[tensor], &count));
        const float *begin = part + net->layout.offset[tensor];
        return std::vector<float>(begin, begin + count);
    }

    backend *be = nullptr;
    model *net = nullptr;
};

// Compare one gradient tensor with derivatives of `value` by the oracle's elements; where the
// tensor is large, only `samples` elements of it.
void expect_gradient(const std::vector<float> &ours, std::vector<double> &parameter,
                     const std::function<double()> &value, size_t samples, Random &random,
                     const char *name) {
    ASSERT_EQ(ours.size(), parameter.size()) << name;
    double largest = 1e-3; // tensors whose gradient is all but zero are compared absolutely
    for (float g : ours) {
        ASSERT_TRUE(std::isfinite(g)) << name;
        largest = std::max(largest, std::fabs((double)g));
    }
    bool all = parameter.size() <= samples;
    for (size_t s = 0; s < std::min(samples, parameter.size()); s++) {
        size_t i = all ? s : random.below((uint32_t)parameter.size());
        double exact = OracleModel::derivative(parameter[i], value);
        EXPECT_NEAR((double)ours[i], exact, gradient_tolerance * largest)
            << name << " element " << i;
    }
}

struct Shape {
    model_shape shape;
    std::vector<size_t> lengths;
};

// Hidden sizes from 1 over odd ones to beyond a block of every kernel; batches of 1 and of more
// sequences than a slice holds; lengths 0 and 1.
const Shape shapes[] = {
    {{2, 1, 1, 1}, {1}},
    {{5, 3, 2, 3}, {4, 0, 1, 7, 4}},
    {{7, 2, 3, 1}, {0, 0}},
    {{9, 4, 5, 17}, {1, 1, 1}},
    {{11, 17, 7, 5}, {6, 2, 9, 0, 3, 5, 1}},
    {{40, 8, 16, 16}, {12, 3, 8}},
    {{13, 5, 17, 33}, std::vector<size_t>(35, 2)},
    {{30, 33, 31, 9}, {11, 1, 0, 5}},
    {{50, 64, 64, 64}, {9, 2, 14, 7}},
    {{20, 70, 65, 66}, {5, 8}},
};

class Ops : public testing::TestWithParam<std::string> {};

TEST_P(Ops, LstmForwardGivesTheOraclesStates) {
    for (const Shape &row : shapes) {
        SCOPED_TRACE("hidden " + std::to_string(row.shape.hidden));
        Random random(row.shape.hidden);
        OracleModel oracle = make_oracle(row.shape, random);
        Sequences sequences = make_sequences(row.lengths, row.shape.vocabulary, random);
        RaggedBatch batch(sequences, make_labels(sequences.size(), random));
        for (bool training : {true, false}) {
            Net net(GetParam(), 2, oracle, batch);
            batch_view view = batch.view();
            lstm_args args = net.lstm(view, training);
            ASSERT_EQ(net.be->table->lstm_forward(net.be, &args, nullptr), STATUS_OK);
            size_t width = 2 * row.shape.hidden;
            for (size_t k = 0; k < sequences.size(); k++) {
                auto expected = oracle.final_state(sequences[batch.order()[k]]);
                for (size_t j = 0; j < width; j++) {
                    ASSERT_NEAR(net.net->final_state[k * width + j], expected[j], state_tolerance)
                        << "sequence " << k << " unit " << j;
                }
            }
        }
    }
}

TEST_P(Ops, HeadGivesLogitsLossesSumsAndGradients) {
    for (const Shape &row : shapes) {
        SCOPED_TRACE("hidden " + std::to_string(row.shape.hidden));
        Random random(100 + row.shape.hidden);
        OracleModel oracle = make_oracle(row.shape, random);
        Sequences sequences = make_sequences(row.lengths, row.shape.vocabulary, random);
        RaggedBatch batch(sequences, make_labels(sequences.size(), random));
        Net net(GetParam(), 2, oracle, batch);
        batch_view view = batch.view();
        size_t B = view.sequences, width = 2 * row.shape.hidden;
        std::vector<OracleModel::Vector> states(B, OracleModel::Vector(width));
        for (size_t b = 0; b < B; b++) {
            for (size_t j = 0; j < width; j++) {
                net.net->final_state[b * width + j] = (float)random.uniform(-1, 1);
                states[b][j] = (double)net.net->final_state[b * width + j];
            }
        }
        pass_sums sums = {10, 20, 30, 40};
        head_args args = net.head(view, true, &sums);
        ASSERT_EQ(net.be->table->head_forward_backward(net.be, &args, nullptr), STATUS_OK);

        double total = 0, correct = 0;
        for (size_t b = 0; b < B; b++) {
            double logit = oracle.logit(states[b]);
            double scale = 1 + std::fabs(logit);
            EXPECT_NEAR(net.net->logits[b], logit, 2e-6 * scale);
            EXPECT_NEAR(net.net->losses[b], OracleModel::loss(logit, view.label[b]), 2e-6 * scale);
            total += net.net->losses[b];
            correct += (net.net->logits[b] > 0) == (view.label[b] == 1);
        }
        EXPECT_NEAR(sums.loss, 10 + total, 1e-12 * (10 + total));
        EXPECT_EQ(sums.correct, 20 + correct);
        EXPECT_EQ(sums.examples, 30 + (double)B);
        EXPECT_NEAR(sums.batch_loss, total / (double)B, 1e-12 * (1 + total));

        auto mean_loss = [&] {
            double sum = 0;
            for (size_t b = 0; b < B; b++) {
                sum += OracleModel::loss(oracle.logit(states[b]), view.label[b]);
            }
            return sum / (double)B;
        };
        const char *names[] = {"dense.weight", "dense.bias", "output.weight", "output.bias"};
        for (size_t i = 7; i < MODEL_TENSORS; i++) {
            expect_gradient(net.values(net.net->gradients, i), *oracle.tensors()[i], mean_loss, 60,
                            random, names[i - 7]);
        }
        for (size_t b = 0; b < B; b++) {
            std::vector<float> ours(net.net->d_final_state + b * width,
                                    net.net->d_final_state + (b + 1) * width);
            expect_gradient(ours, states[b], mean_loss, 8, random, "d_final_state");
        }
    }
}

TEST_P(Ops, HeadWithoutLabelsGivesTheSameLogits) {
    Random random(5);
    model_shape shape = {6, 2, 9, 11};
    OracleModel oracle = make_oracle(shape, random);
    Sequences sequences = make_sequences({5, 3, 0}, 6, random);
    RaggedBatch batch(sequences, make_labels(3, random));
    Net net(GetParam(), 1, oracle, batch);
    batch_view view = batch.view();
    lstm_args lstm = net.lstm(view, false);
    ASSERT_EQ(net.be->table->lstm_forward(net.be, &lstm, nullptr), STATUS_OK);
    head_args with = net.head(view, false, nullptr);
    ASSERT_EQ(net.be->table->head_forward_backward(net.be, &with, nullptr), STATUS_OK);
    std::vector<float> logits(net.net->logits, net.net->logits + 3);
    view.label = nullptr;
    head_args without = net.head(view, false, nullptr);
    without.losses = nullptr;
    std::fill_n(net.net->logits, 3, 0.0f);
    ASSERT_EQ(net.be->table->head_forward_backward(net.be, &without, nullptr), STATUS_OK);
    EXPECT_EQ(std::memcmp(logits.data(), net.net->logits, 3 * sizeof(float)), 0);
}

// The recurrence alone: the gradient of sum(d_final_state * final_state) for a random
// d_final_state.
TEST_P(Ops, LstmBackwardAndEmbeddingGradAreTheDerivatives) {
    for (const Shape &row : shapes) {
        SCOPED_TRACE("hidden " + std::to_string(row.shape.hidden));
        Random random(200 + row.shape.hidden);
        OracleModel oracle = make_oracle(row.shape, random);
        Sequences sequences = make_sequences(row.lengths, row.shape.vocabulary, random);
        RaggedBatch batch(sequences, make_labels(sequences.size(), random));
        Net net(GetParam(), 2, oracle, batch);
        batch_view view = batch.view();
        size_t width = 2 * row.shape.hidden;
        for (size_t i = 0; i < view.sequences * width; i++) {
            net.net->d_final_state[i] = (float)random.uniform(-1, 1);
        }
        auto objective = [&] {
            double sum = 0;
            for (size_t k = 0; k < sequences.size(); k++) {
                auto state = oracle.final_state(sequences[batch.order()[k]]);
                for (size_t j = 0; j < width; j++) {
                    sum += (double)net.net->d_final_state[k * width + j] * state[j];
                }
            }
            return sum;
        };
        lstm_args args = net.lstm(view, true);
        ASSERT_EQ(net.be->table->lstm_forward(net.be, &args, nullptr), STATUS_OK);
        ASSERT_EQ(net.be->table->lstm_backward(net.be, &args, nullptr), STATUS_OK);
        ASSERT_EQ(net.be->table->embedding_grad(net.be, &args, nullptr), STATUS_OK);
        size_t samples = row.shape.hidden < 6 ? 300 : 8;
        for (size_t i = 0; i < 7; i++) {
            expect_gradient(net.values(net.net->gradients, i), *oracle.tensors()[i], objective,
                            samples, random, net.net->layout.tensors[i].name);
        }
    }
}

TEST_P(Ops, WholeGradientIsTheDerivativeOfTheLoss) {
    Random random(1);
    model_shape shape = {9, 3, 4, 5};
    OracleModel oracle = make_oracle(shape, random);
    Sequences sequences = make_sequences({3, 0, 1, 8, 1, 5}, 8, random); // word 8 never occurs
    std::vector<uint8_t> labels = make_labels(sequences.size(), random);
    RaggedBatch batch(sequences, labels);
    Net net(GetParam(), 3, oracle, batch);
    batch_view view = batch.view();
    ASSERT_EQ(model_gradients(net.net, &view, nullptr), STATUS_OK);
    auto value = [&] { return oracle.mean_loss(sequences, labels); };
    for (size_t i = 0; i < MODEL_TENSORS; i++) {
        expect_gradient(net.values(net.net->gradients, i), *oracle.tensors()[i], value, 1000,
                        random, net.net->layout.tensors[i].name);
    }
    std::vector<float> embedding = net.values(net.net->gradients, 0);
    for (size_t e = 0; e < shape.embedding; e++) {
        EXPECT_EQ(embedding[8 * shape.embedding + e], 0.0f) << "of a word that does not occur";
    }
}

// ---- the same bits ----

std::vector<float> gradient_bits(const Net &net) {
    return std::vector<float>(net.net->gradients, net.net->gradients + net.net->layout.parameters);
}

bool same_bits(const std::vector<float> &a, const std::vector<float> &b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST_P(Ops, ThreadsDoNotChangeABit) {
    Random random(7);
    model_shape shape = {60, 20, 33, 18};
    OracleModel oracle = make_oracle(shape, random, 0.5);
    for (size_t B : {1u, 2u, 5u, 40u}) {
        SCOPED_TRACE("batch of " + std::to_string(B));
        std::vector<size_t> lengths(B);
        for (auto &length : lengths) {
            length = random.below(25);
        }
        lengths[0] = 70;
        Sequences sequences = make_sequences(lengths, shape.vocabulary, random);
        RaggedBatch batch(sequences, make_labels(B, random));
        std::vector<float> weights, gradients, logits;
        for (uint32_t threads : {1u, 2u, 3u, 8u}) {
            SCOPED_TRACE(std::to_string(threads) + " threads");
            Net net(GetParam(), threads, oracle, batch, 0.5);
            batch_view view = batch.view();
            for (uint64_t step = 1; step <= 3; step++) {
                ASSERT_EQ(model_train_step(net.net, &view, step, nullptr), STATUS_OK);
            }
            std::vector<float> w(net.net->weights, net.net->weights + net.net->layout.parameters);
            std::vector<float> out(B);
            ASSERT_EQ(model_forward(net.net, &view, out.data(), nullptr, nullptr), STATUS_OK);
            if (threads == 1) {
                weights = w;
                gradients = gradient_bits(net);
                logits = out;
            }
            EXPECT_TRUE(same_bits(w, weights));
            EXPECT_TRUE(same_bits(gradient_bits(net), gradients));
            EXPECT_TRUE(same_bits(out, logits));
        }
    }
}

TEST_P(Ops, ALogitDoesNotDependOnItsBatch) {
    Random random(8);
    model_shape shape = {30, 12, 21, 10};
    OracleModel oracle = make_oracle(shape, random, 0.5);
    std::vector<size_t> lengths;
    for (size_t i = 0; i < 37; i++) {
        lengths.push_back(random.below(30));
    }
    Sequences sequences = make_sequences(lengths, shape.vocabulary, random);
    std::vector<uint8_t> labels = make_labels(sequences.size(), random);
    RaggedBatch all(sequences, labels);
    Net net(GetParam(), 2, oracle, all);
    batch_view view = all.view();
    std::vector<float> together(sequences.size());
    std::vector<double> losses(sequences.size());
    ASSERT_EQ(model_forward(net.net, &view, together.data(), losses.data(), nullptr), STATUS_OK);
    for (size_t k = 0; k < sequences.size(); k++) {
        size_t from = all.order()[k];
        RaggedBatch one({sequences[from]}, {labels[from]}, 4); // and not on the width of the ids
        batch_view single = one.view();
        float alone;
        double loss;
        ASSERT_EQ(model_forward(net.net, &single, &alone, &loss, nullptr), STATUS_OK);
        EXPECT_EQ(alone, together[k]) << "sequence " << from;
        EXPECT_EQ(loss, losses[k]) << "sequence " << from;
    }
}

TEST_P(Ops, TrainingAndInferenceGiveTheSameStates) {
    Random random(9);
    model_shape shape = {30, 12, 35, 10};
    OracleModel oracle = make_oracle(shape, random);
    Sequences sequences = make_sequences({9, 4, 0, 17, 17}, shape.vocabulary, random);
    RaggedBatch batch(sequences, make_labels(5, random));
    Net net(GetParam(), 2, oracle, batch);
    std::vector<float> states[2];
    for (bool training : {false, true}) {
        batch_view view = batch.view();
        lstm_args args = net.lstm(view, training);
        ASSERT_EQ(net.be->table->lstm_forward(net.be, &args, nullptr), STATUS_OK);
        states[training].assign(net.net->final_state, net.net->final_state + 5 * 2 * 35);
    }
    EXPECT_TRUE(same_bits(states[0], states[1]));
}

// ---- long texts, bad numbers ----

// Far from both ends the gradient of a long review is below 1e-38: it must be zero there, not
// denormal, and the caller's own arithmetic must keep its denormals.
TEST_P(Ops, ALongReviewLeavesNoDenormals) {
    Random random(10);
    const uint32_t T = 3000;
    model_shape shape = {T + 1, 4, 6, 3};
    OracleModel oracle = make_oracle(shape, random, 0.1);
    std::vector<uint32_t> ids(T);
    std::iota(ids.begin(), ids.end(),
              1u); // each word once: an embedding row's gradient is one token's
    RaggedBatch batch({ids}, {1});
    Net net(GetParam(), 2, oracle, batch);
    batch_view view = batch.view();
    ASSERT_EQ(model_gradients(net.net, &view, nullptr), STATUS_OK);
    size_t zeros = 0;
    for (float g : gradient_bits(net)) {
        ASSERT_NE(std::fpclassify(g), FP_SUBNORMAL);
        ASSERT_TRUE(std::isfinite(g));
        zeros += g == 0.0f;
    }
    EXPECT_GT(zeros, (size_t)T) << "the text is too short to reach the denormals";
    EXPECT_LT(zeros, gradient_bits(net).size() - 100);
    volatile float tiny = std::numeric_limits<float>::min();
    EXPECT_GT(tiny / 4, 0.0f) << "the caller's floating-point mode was not restored";

    // The end of the text still has the right gradient.
    auto value = [&] { return oracle.mean_loss({ids}, {1}); };
    std::vector<float> embedding = net.values(net.net->gradients, 0);
    for (size_t word : {1u, 2u, T - 1, T}) {
        size_t i = word * shape.embedding;
        double exact = OracleModel::derivative(oracle.embedding[i], value);
        EXPECT_NEAR(embedding[i], exact, 1e-4 * std::fabs(exact) + 1e-9) << "word " << word;
    }
}

TEST_P(Ops, NonFiniteWeightsShowInTheLoss) {
    Random random(11);
    model_shape shape = {6, 3, 5, 4};
    Sequences sequences = make_sequences({4, 2}, 6, random);
    RaggedBatch batch(sequences, {0, 1});
    for (size_t tensor = 0; tensor < MODEL_TENSORS; tensor++) {
        OracleModel oracle = make_oracle(shape, random);
        std::fill(oracle.tensors()[tensor]->begin(), oracle.tensors()[tensor]->end(), std::nan(""));
        Net net(GetParam(), 1, oracle, batch);
        batch_view view = batch.view();
        float logits[2];
        double losses[2];
        ASSERT_EQ(model_forward(net.net, &view, logits, losses, nullptr), STATUS_OK);
        EXPECT_TRUE(std::isnan(losses[0])) << net.net->layout.tensors[tensor].name;
        EXPECT_TRUE(std::isnan(losses[1])) << net.net->layout.tensors[tensor].name;
    }
}

TEST_P(Ops, LargeLogitsHaveExactLosses) {
    Random random(12);
    model_shape shape = {3, 1, 1, 1};
    for (double z : {-200.0, -30.0, 0.0, 30.0, 200.0}) {
        OracleModel oracle(shape); // all zero: the logit is the last bias
        oracle.output_bias[0] = z;
        RaggedBatch batch({{1}, {1}}, {0, 1});
        Net net(GetParam(), 1, oracle, batch);
        batch_view view = batch.view();
        float logits[2];
        double losses[2];
        ASSERT_EQ(model_forward(net.net, &view, logits, losses, nullptr), STATUS_OK);
        // log(1 + e^z) and log(1 + e^-z); of the smaller one a series where the sum would round
        double x = std::exp(-std::fabs(z));
        double small = x < 1e-5 ? x - x * x / 2 : std::log(1 + x);
        double large = std::fabs(z) + small;
        EXPECT_DOUBLE_EQ(losses[0], z > 0 ? large : small) << z;
        EXPECT_DOUBLE_EQ(losses[1], z > 0 ? small : large) << z;
    }
}

// ---- clipping ----

TEST_P(Ops, ClippedStepUsesTheScaledGradient) {
    Random random(13);
    model_shape shape = {9, 3, 4, 5};
    OracleModel oracle = make_oracle(shape, random);
    RaggedBatch batch(make_sequences({3, 1, 8}, 9, random), {0, 1, 1});
    batch_view view = batch.view();
    const double clip = 0.01;
    Net clipped(GetParam(), 1, oracle, batch, clip), plain(GetParam(), 1, oracle, batch);
    ASSERT_EQ(model_train_step(clipped.net, &view, 1, nullptr), STATUS_OK);
    ASSERT_EQ(model_train_step(plain.net, &view, 1, nullptr), STATUS_OK);
    double squares = 0;
    for (size_t i = 0; i < plain.net->layout.parameters; i++) {
        squares += std::pow((double)plain.net->gradients[i], 2);
    }
    double norm = std::sqrt(squares);
    ASSERT_GT(norm, clip);
    for (size_t i = 0; i < plain.net->layout.parameters; i++) {
        EXPECT_NEAR(clipped.net->m[i], plain.net->m[i] * clip / norm, 1e-9);
    }
}

std::string isa_name(const testing::TestParamInfo<std::string> &info) {
    return info.param;
}
INSTANTIATE_TEST_SUITE_P(Isa, Ops, testing::ValuesIn(isas()), isa_name);

} // namespace
