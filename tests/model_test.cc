// Layout, initialisation and buffers of the model.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "host/model.h"
#include "kernels/backend.h"
#include "tests/support/ragged_batch.h"

namespace {

constexpr model_shape tutorial = {1000, 64, 64, 64};

class Model : public testing::Test {
  protected:
    void SetUp() override {
        backend_options options = {};
        options.threads = 1;
        options.isa = "auto";
        ASSERT_EQ(backend_cpu_create(&options, &be, nullptr), STATUS_OK);
    }
    void TearDown() override { be->table->free(be); }

    model *make(const model_shape &shape, bool training = true, bool keep_best = false) {
        model_options options = {};
        options.limits = {4, 40, 10, training};
        options.training = training;
        options.keep_best = keep_best;
        options.learning_rate = 0.01;
        model *net = nullptr;
        struct error err = {};
        EXPECT_EQ(model_create(be, &shape, &options, &net, &err), STATUS_OK) << err.message;
        return net;
    }

    model *initialised(const model_shape &shape, uint64_t seed) {
        model *net = make(shape);
        EXPECT_EQ(model_initialise(net, seed, nullptr), STATUS_OK);
        return net;
    }

    std::vector<float> weights(const model *net) {
        return std::vector<float>(net->weights, net->weights + net->layout.parameters);
    }

    std::map<std::string, std::vector<float>> by_name(const model *net) {
        tensor_view views[MODEL_TENSORS];
        model_views(net, "", net->weights, views);
        std::map<std::string, std::vector<float>> out;
        for (const auto &view : views) {
            uint64_t count = 0;
            EXPECT_TRUE(tensor_elements(&view, &count));
            const float *data = static_cast<const float *>(view.data);
            out[view.name] = std::vector<float>(data, data + count);
        }
        return out;
    }

    backend *be = nullptr;
};

// ---- layout ----

TEST_F(Model, TheTutorialsModelHas138369Parameters) {
    model_layout layout;
    ASSERT_EQ(model_layout_make(&tutorial, &layout, nullptr), STATUS_OK);
    EXPECT_EQ(layout.parameters, 138369u);
    EXPECT_EQ(layout.part_floats % 16, 0u);
    EXPECT_GE(layout.part_floats, layout.parameters);
}

TEST_F(Model, NamesAndShapesAreTheContracts) {
    const std::map<std::string, std::string> expected = {{"embedding.weight", "[7, 3]"},
                                                         {"lstm.weight_ih_l0", "[20, 3]"},
                                                         {"lstm.weight_ih_l0_reverse", "[20, 3]"},
                                                         {"lstm.weight_hh_l0", "[20, 5]"},
                                                         {"lstm.weight_hh_l0_reverse", "[20, 5]"},
                                                         {"lstm.bias_l0", "[20]"},
                                                         {"lstm.bias_l0_reverse", "[20]"},
                                                         {"dense.weight", "[2, 10]"},
                                                         {"dense.bias", "[2]"},
                                                         {"output.weight", "[1, 2]"},
                                                         {"output.bias", "[1]"}};
    model_shape shape = {7, 3, 5, 2};
    model_layout layout;
    ASSERT_EQ(model_layout_make(&shape, &layout, nullptr), STATUS_OK);
    std::map<std::string, std::string> found;
    size_t next = 0;
    for (int i = 0; i < MODEL_TENSORS; i++) {
        char text[96];
        const tensor_view &tensor = layout.tensors[i];
        found[tensor.name] = tensor_shape_text(&tensor, text, sizeof text);
        EXPECT_EQ(tensor.dtype, DTYPE_F32);
        EXPECT_EQ(tensor.data, nullptr);
        EXPECT_EQ(layout.offset[i], next) << tensor.name;
        uint64_t count = 0;
        ASSERT_TRUE(tensor_elements(&tensor, &count));
        next += count;
    }
    EXPECT_EQ(found, expected);
    EXPECT_EQ(layout.parameters, next);
}

TEST_F(Model, SizesOfZeroOrBeyondMemoryAreRefused) {
    model_layout layout;
    struct error err = {};
    for (int i = 0; i < 4; i++) {
        uint32_t sizes[4] = {5, 5, 5, 5};
        sizes[i] = 0;
        model_shape shape = {sizes[0], sizes[1], sizes[2], sizes[3]};
        EXPECT_EQ(model_layout_make(&shape, &layout, &err), STATUS_USAGE);
    }
    model_shape huge = {0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF};
    EXPECT_EQ(model_layout_make(&huge, &layout, &err), STATUS_USAGE);
    EXPECT_NE(std::string(err.message).find("4294967295"), std::string::npos) << err.message;
}

TEST_F(Model, AModelLargerThanMemoryIsAnError) {
    model_shape large = {0x7FFFFFFF, 1u << 20, 1, 1}; // 8 PiB of embedding: legal, but not here
    model_options options = {};
    options.limits = {1, 1, 1, true};
    options.training = true;
    model *net = nullptr;
    struct error err = {};
    EXPECT_EQ(model_create(be, &large, &options, &net, &err), STATUS_MEMORY);
    EXPECT_EQ(net, nullptr);
    EXPECT_NE(std::string(err.message).find("weights"), std::string::npos) << err.message;
}

TEST_F(Model, PartsLieInTheStateBufferInOrder) {
    for (bool keep_best : {false, true}) {
        model *net = make(tutorial, true, keep_best);
        size_t part = net->layout.part_floats;
        EXPECT_EQ((void *)net->weights, (void *)net->state);
        EXPECT_EQ(net->m, net->weights + part);
        EXPECT_EQ(net->v, net->weights + 2 * part);
        EXPECT_EQ(net->best, keep_best ? net->weights + 3 * part : nullptr);
        EXPECT_EQ((void *)net->sums, (void *)(net->weights + (keep_best ? 4 : 3) * part));
        EXPECT_EQ(net->state_bytes, (size_t)((uint8_t *)(net->sums + 1) - net->state));
        for (void *at : {(void *)net->weights, (void *)net->m, (void *)net->v, (void *)net->sums}) {
            EXPECT_EQ((uintptr_t)at % 64, 0u);
        }
        model_free(net);
    }
    model *net = make(tutorial, false);
    EXPECT_EQ(net->m, nullptr);
    EXPECT_EQ(net->v, nullptr);
    EXPECT_EQ(net->best, nullptr);
    EXPECT_EQ(net->gradients, nullptr);
    model_free(net);
    model_free(nullptr);
}

TEST_F(Model, ViewsAndWeightPointersAgree) {
    model *net = make({7, 3, 5, 2});
    tensor_view views[MODEL_TENSORS];
    model_views(net, "adam.m.", net->m, views);
    model_weights w = model_weights_at(net, net->m);
    const std::map<std::string, float *> expected = {
        {"adam.m.embedding.weight", w.embedding},
        {"adam.m.lstm.weight_ih_l0", w.w_ih[0]},
        {"adam.m.lstm.weight_ih_l0_reverse", w.w_ih[1]},
        {"adam.m.lstm.weight_hh_l0", w.w_hh[0]},
        {"adam.m.lstm.weight_hh_l0_reverse", w.w_hh[1]},
        {"adam.m.lstm.bias_l0", w.bias[0]},
        {"adam.m.lstm.bias_l0_reverse", w.bias[1]},
        {"adam.m.dense.weight", w.dense_weight},
        {"adam.m.dense.bias", w.dense_bias},
        {"adam.m.output.weight", w.output_weight},
        {"adam.m.output.bias", w.output_bias}};
    std::map<std::string, float *> found;
    for (const auto &view : views) {
        found[view.name] = static_cast<float *>(view.data);
    }
    EXPECT_EQ(found, expected);
    model_free(net);
}

// ---- initialisation ----

// A uniform distribution on +-limit: nothing beyond, the ends nearly reached, mean 0, variance
// limit^2/3.
void expect_uniform(const std::vector<float> &values, double limit, const std::string &name) {
    double lowest = 0, highest = 0, sum = 0, squares = 0;
    for (float value : values) {
        lowest = std::min(lowest, (double)value);
        highest = std::max(highest, (double)value);
        sum += value;
        squares += (double)value * (double)value;
    }
    double n = (double)values.size(), near = limit * (1 - 12 / n);
    EXPECT_LE(highest, limit * 1.000001) << name;
    EXPECT_GE(lowest, -limit * 1.000001) << name;
    EXPECT_GT(highest, near) << name;
    EXPECT_LT(lowest, -near) << name;
    EXPECT_NEAR(sum / n, 0, 5 * limit / std::sqrt(3 * n)) << name;
    EXPECT_NEAR(squares / n, limit * limit / 3, 5 * limit * limit * std::sqrt(4.0 / 45 / n))
        << name;
}

TEST_F(Model, InitialValuesHaveKerasDistributions) {
    model *net = initialised({1000, 32, 48, 56}, 3);
    auto t = by_name(net);
    const double E = 32, H = 48, D = 56;
    expect_uniform(t["embedding.weight"], 0.05, "embedding");
    for (std::string suffix : {"", "_reverse"}) {
        expect_uniform(t["lstm.weight_ih_l0" + suffix], std::sqrt(6 / (E + 4 * H)),
                       "w_ih" + suffix);
        for (size_t row = 0; row < 4 * 48; row++) {
            float forget = row >= 48 && row < 2 * 48 ? 1.0f : 0.0f;
            EXPECT_EQ(t["lstm.bias_l0" + suffix][row], forget) << row;
        }
    }
    expect_uniform(t["dense.weight"], std::sqrt(6 / (2 * H + D)), "dense");
    expect_uniform(t["output.weight"], std::sqrt(6 / (D + 1)), "output");
    EXPECT_EQ(t["dense.bias"], std::vector<float>(56, 0.0f));
    EXPECT_EQ(t["output.bias"], std::vector<float>(1, 0.0f));
    EXPECT_NE(t["lstm.weight_ih_l0"], t["lstm.weight_ih_l0_reverse"]);
    EXPECT_NE(t["lstm.weight_hh_l0"], t["lstm.weight_hh_l0_reverse"]);
    model_free(net);
}

// Keras' recurrent kernel is [H, 4H] with orthonormal rows; ours is its transpose.
TEST_F(Model, RecurrentKernelsAreOrthogonal) {
    for (uint32_t H : {1u, 2u, 7u, 64u}) {
        model *net = initialised({3, 2, H, 2}, 5);
        auto t = by_name(net);
        for (std::string name : {"lstm.weight_hh_l0", "lstm.weight_hh_l0_reverse"}) {
            const std::vector<float> &w = t[name];
            double trace = 0;
            for (size_t a = 0; a < H; a++) {
                for (size_t b = 0; b < H; b++) {
                    double sum = 0;
                    for (size_t row = 0; row < 4 * H; row++) {
                        sum += (double)w[row * H + a] * (double)w[row * H + b];
                    }
                    EXPECT_NEAR(sum, a == b ? 1 : 0, 1e-6) << name << " " << a << " " << b;
                }
                trace += w[a * H + a];
            }
            EXPECT_LT(std::fabs(trace), 0.5 * H + 0.999) << name << " is close to the identity";
        }
        model_free(net);
    }
}

// The sign convention spreads Q evenly (Haar measure): its entries have mean 0 and variance 1 / 4H.
// Without it, the first column of Q would always point against its normal vector.
TEST_F(Model, RecurrentKernelsAreSpreadEvenly) {
    const uint32_t H = 8;
    double sum = 0, squares = 0, n = 0;
    for (uint64_t seed = 0; seed < 200; seed++) {
        model *net = initialised({2, 1, H, 1}, seed);
        std::vector<float> kernel = by_name(net)["lstm.weight_hh_l0"];
        for (float value : kernel) {
            sum += value;
            squares += (double)value * (double)value;
            n++;
        }
        model_free(net);
    }
    const double variance = 1.0 / (4 * H);
    EXPECT_NEAR(sum / n, 0, 5 * std::sqrt(variance / n));
    EXPECT_NEAR(squares / n, variance, 1e-6); // columns have length 1
}

TEST_F(Model, SameSeedSameBitsOtherSeedOther) {
    model *a = initialised(tutorial, 1), *b = initialised(tutorial, 1),
          *c = initialised(tutorial, 2);
    EXPECT_EQ(weights(a), weights(b));
    auto first = by_name(a), other = by_name(c);
    for (const char *name : {"embedding.weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0",
                             "lstm.weight_hh_l0_reverse", "dense.weight", "output.weight"}) {
        EXPECT_NE(first[name], other[name]) << name;
    }
    model_free(a);
    model_free(b);
    model_free(c);
}

TEST_F(Model, InitialiseClearsMomentsAndSums) {
    model *net = initialised({5, 2, 3, 2}, 1);
    std::memset(net->m, 0x3F, 2 * net->layout.part_floats * sizeof(float));
    pass_sums sums = {1, 2, 3, 4};
    ASSERT_EQ(model_write_sums(net, &sums, nullptr), STATUS_OK);
    ASSERT_EQ(model_initialise(net, 1, nullptr), STATUS_OK);
    for (size_t i = 0; i < 2 * net->layout.part_floats; i++) {
        ASSERT_EQ(net->m[i], 0.0f);
    }
    ASSERT_EQ(model_read_sums(net, &sums, nullptr), STATUS_OK);
    EXPECT_EQ(sums.loss + sums.correct + sums.examples + sums.batch_loss, 0);
    model_free(net);
}

// ---- steps ----

TEST_F(Model, TrainingLowersTheLossAndSumsAddUp) {
    model *net = initialised({6, 4, 5, 4}, 1);
    RaggedBatch batch({{2, 3, 4}, {5, 2}, {4}, {}}, {1, 0, 1, 0});
    batch_view view = batch.view();
    double first = 0, last = 0, total = 0;
    for (uint64_t step = 1; step <= 60; step++) {
        ASSERT_EQ(model_train_step(net, &view, step, nullptr), STATUS_OK);
        pass_sums sums;
        ASSERT_EQ(model_read_sums(net, &sums, nullptr), STATUS_OK);
        first = step == 1 ? sums.batch_loss : first;
        last = sums.batch_loss;
        total += 4 * sums.batch_loss;
        EXPECT_EQ(sums.examples, 4.0 * (double)step);
        EXPECT_NEAR(sums.loss, total, 1e-9);
    }
    EXPECT_NEAR(first, std::log(2.0), 0.05);
    EXPECT_LT(last, first / 3);
    model_free(net);
}

TEST_F(Model, GradientsChangeNeitherWeightsNorSums) {
    model *net = initialised({6, 4, 5, 4}, 1);
    RaggedBatch batch({{2, 3, 4}}, {1});
    batch_view view = batch.view();
    auto before = weights(net);
    ASSERT_EQ(model_gradients(net, &view, nullptr), STATUS_OK);
    EXPECT_EQ(weights(net), before);
    pass_sums sums;
    ASSERT_EQ(model_read_sums(net, &sums, nullptr), STATUS_OK);
    EXPECT_EQ(sums.examples, 0);
    model_free(net);
}

TEST_F(Model, BestWeightsAreCapturedAndRestored) {
    model *net = make({6, 4, 5, 4}, true, true);
    ASSERT_EQ(model_initialise(net, 1, nullptr), STATUS_OK);
    RaggedBatch batch({{2, 3, 4}}, {1});
    batch_view view = batch.view();
    ASSERT_EQ(model_train_step(net, &view, 1, nullptr), STATUS_OK);
    auto best = weights(net);
    ASSERT_EQ(model_capture_best(net, nullptr), STATUS_OK);
    ASSERT_EQ(model_train_step(net, &view, 2, nullptr), STATUS_OK);
    auto last = weights(net);
    EXPECT_NE(last, best);
    ASSERT_EQ(model_swap_best(net, nullptr), STATUS_OK);
    EXPECT_EQ(weights(net), best);
    ASSERT_EQ(model_swap_best(net, nullptr), STATUS_OK); // nothing was lost
    EXPECT_EQ(weights(net), last);
    model_free(net);
}

// Who reads the state between steps is told before any of it changes, and not before it must be.
TEST_F(Model, AnnouncesEachChangeOfTheState) {
    model *net = make({6, 4, 5, 4}, true, true);
    ASSERT_EQ(model_initialise(net, 1, nullptr), STATUS_OK);
    RaggedBatch batch({{2, 3, 4}}, {1});
    batch_view view = batch.view();
    struct Watcher {
        model *net;
        std::vector<std::vector<float>> seen;      // weights, m, v, best at each announcement
        std::vector<std::vector<float>> gradients; // those of the step are there by then
        std::vector<float> state() const {
            const size_t floats = net->layout.part_floats;
            return std::vector<float>(net->weights, net->weights + 4 * floats);
        }
        static void hear(void *context) {
            Watcher *self = static_cast<Watcher *>(context);
            const size_t floats = self->net->layout.part_floats;
            self->seen.push_back(self->state());
            self->gradients.emplace_back(self->net->gradients, self->net->gradients + floats);
        }
    } watcher{net, {}, {}};
    model_before_change(net, Watcher::hear, &watcher);
    std::vector<std::vector<float>> before;
    auto change = [&](auto call) {
        before.push_back(watcher.state());
        ASSERT_EQ(call(), STATUS_OK);
        EXPECT_NE(watcher.state(), before.back());
    };
    change([&] { return model_train_step(net, &view, 1, nullptr); });
    change([&] { return model_capture_best(net, nullptr); });
    change([&] { return model_train_step(net, &view, 2, nullptr); });
    change([&] { return model_swap_best(net, nullptr); });
    EXPECT_EQ(watcher.seen, before);
    EXPECT_NE(watcher.gradients[0], std::vector<float>(net->layout.part_floats, 0.0F));

    // These change nothing of it.
    float logit;
    ASSERT_EQ(model_gradients(net, &view, nullptr), STATUS_OK);
    ASSERT_EQ(model_forward(net, &view, &logit, nullptr, nullptr), STATUS_OK);
    const pass_sums sums = {};
    ASSERT_EQ(model_write_sums(net, &sums, nullptr), STATUS_OK);
    EXPECT_EQ(watcher.seen.size(), 4u);
    model_free(net);
}

} // namespace
