// The fused CPU kernels against the reference, which ops_test holds against a double-precision
// oracle: many shapes, the same bits for any number of threads, bad numbers, activations; with fp32
// and, where the processor has it, with bf16 factors in the recurrence.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "host/base/rng.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu_probe.h"
#include "tests/support/op_run.h"
#include "tests/support/ragged_batch.h"

namespace scalar {
#define MULTIPLY_ADD_FUSED
#include "kernels/cpu/activation.h"
} // namespace scalar

namespace {

// Both round in float, in another order; seen: states 3e-7, gradients 1e-6 of a tensor's largest
// value.
constexpr double state_tolerance = 2e-6;
constexpr double gradient_tolerance = 1e-5;

// bf16 has 8 bits of significand: rounding moves a factor by 1 in 256 at most.
constexpr double bf16_rounding = 1.0 / 256;

// The instruction set avx512 with --precision bf16.
const std::string bf16_path = "avx512-bf16";

backend_options options_for(const std::string &path) {
    backend_options options = {};
    options.isa = path == bf16_path ? "avx512" : path.c_str();
    options.precision = path == bf16_path ? "bf16" : "fp32";
    return options;
}

std::vector<std::string> fused_isas() {
    std::vector<std::string> names;
    for (const char *const *name = backend_cpu_isa_names(); *name != nullptr; name++) {
        if (*name != std::string("reference")) {
            names.push_back(*name);
        }
    }
    return names;
}

std::vector<std::string> fused_paths() {
    std::vector<std::string> names = fused_isas();
    backend_options options = options_for(bf16_path);
    backend *be = nullptr;
    if (backend_cpu_create(&options, &be, nullptr) == STATUS_OK) {
        be->table->free(be);
        names.push_back(bf16_path);
    }
    return names;
}

struct Random {
    explicit Random(uint64_t seed) : rng(rng_make(seed, RNG_STREAM_DEMO, 78)) {}
    float uniform(double limit) { return (float)((2 * rng_uniform(&rng) - 1) * limit); }
    uint32_t below(uint32_t bound) { return (uint32_t)rng_below(&rng, bound); }
    struct rng rng;
};

struct Case {
    model_shape shape;
    uint32_t sequences, longest; // lengths are drawn from 0 to `longest`
};

RaggedBatch make_batch(const Case &c, Random &random) {
    std::vector<std::vector<uint32_t>> sequences(c.sequences);
    std::vector<uint8_t> labels(c.sequences);
    for (size_t b = 0; b < sequences.size(); b++) {
        sequences[b].resize(b == 0 ? c.longest : random.below(c.longest + 1));
        for (uint32_t &id : sequences[b]) {
            id = random.below(c.shape.vocabulary);
        }
        labels[b] = (uint8_t)random.below(2);
    }
    return RaggedBatch(sequences, labels);
}

// A backend and the operations on it.
struct Device {
    Device(const std::string &path, uint32_t threads, const model_shape &shape,
           const batch_limits &limits) {
        backend_options options = options_for(path);
        options.threads = threads;
        EXPECT_EQ(backend_cpu_create(&options, &be, nullptr), STATUS_OK);
        run = std::make_unique<OpRun>(be, shape, limits);
    }
    ~Device() {
        run.reset();
        be->table->free(be);
    }
    backend *be = nullptr;
    std::unique_ptr<OpRun> run;
};

batch_limits limits_of(const RaggedBatch &batch) {
    batch_view view = batch.view();
    return {view.sequences, view.total_tokens, batch.longest(), true};
}

std::vector<float> make_weights(const model_layout &layout, const model_shape &shape,
                                Random &random) {
    std::vector<float> weights(layout.part_floats);
    for (float &w : weights) {
        w = random.uniform(1.5 / std::sqrt((double)shape.hidden));
    }
    return weights;
}

double largest_of(const std::vector<float> &values) {
    double largest = 1e-3;
    for (float value : values) {
        largest = std::max(largest, std::fabs((double)value));
    }
    return largest;
}

// Infinite when there is a NaN or one has more.
double difference(const std::vector<float> &a, const std::vector<float> &b) {
    double worst = a.size() == b.size() ? 0 : INFINITY;
    for (size_t i = 0; i < std::min(a.size(), b.size()); i++) {
        double d = std::fabs((double)a[i] - (double)b[i]);
        worst = std::isfinite(d) ? std::max(worst, d) : INFINITY;
    }
    return worst;
}

// How far the reference moves when every element of W_hh moves by what bf16 rounds off at most, up
// or down: {final_state, gradients of the tensors}, the largest of a few draws.
std::vector<double> response(Device &reference, const RaggedBatch &batch,
                             const std::vector<float> &d_state, std::vector<float> weights,
                             const OpResult &unmoved, Random &random) {
    std::vector<double> moved(8, 0);
    const model_layout &layout = reference.run->layout();
    for (int draw = 0; draw < 3; draw++) {
        std::vector<float> other = weights;
        for (size_t tensor : {2u, 5u}) {
            for (size_t i = 0;
                 i < layout.tensors[tensor].shape[0] * layout.tensors[tensor].shape[1]; i++) {
                double sign = random.below(2) == 0 ? 1 : -1;
                other[layout.offset[tensor] + i] *= (float)(1 + sign * bf16_rounding);
            }
        }
        reference.run->set_weights(other);
        OpResult result = reference.run->recurrence(batch, d_state);
        moved[0] = std::max(moved[0], difference(result.final_state, unmoved.final_state));
        for (size_t i = 0; i < 7; i++) {
            moved[1 + i] =
                std::max(moved[1 + i], difference(result.gradients[i], unmoved.gradients[i]));
        }
    }
    reference.run->set_weights(weights);
    return moved;
}

// Both factors of a product round, each by as much as `response` moves one of them, and not alike at
// every step: four times that. dW_hh has roundings of its own, of dz and h.
std::vector<double> bf16_tolerance(std::vector<double> response, const OpResult &reference) {
    for (double &r : response) {
        r *= 4;
    }
    for (size_t tensor : {2u, 5u}) {
        response[1 + tensor] += 2 * bf16_rounding * largest_of(reference.gradients[tensor]);
    }
    return response;
}

class Fused : public testing::TestWithParam<std::string> {
  protected:
    // One step on the reference and on the fused kernels.
    void compare(const Case &c) {
        SCOPED_TRACE("H " + std::to_string(c.shape.hidden) + " B " + std::to_string(c.sequences) +
                     " T " + std::to_string(c.longest));
        Random random(c.shape.hidden * 1000 + c.sequences);
        RaggedBatch batch = make_batch(c, random);
        Device ours(GetParam(), 2, c.shape, limits_of(batch));
        Device theirs("reference", 2, c.shape, limits_of(batch));
        auto weights = make_weights(ours.run->layout(), c.shape, random);
        ours.run->set_weights(weights);
        theirs.run->set_weights(weights);
        std::vector<float> d_state((size_t)c.sequences * 2 * c.shape.hidden);
        for (float &d : d_state) {
            d = random.uniform(1);
        }
        OpResult a = ours.run->recurrence(batch, d_state);
        OpResult b = theirs.run->recurrence(batch, d_state);
        std::vector<double> rounding(8, 0);
        if (GetParam() == bf16_path) {
            rounding = bf16_tolerance(response(theirs, batch, d_state, weights, b, random), b);
        }
        EXPECT_LE(difference(a.final_state, b.final_state),
                  state_tolerance * largest_of(b.final_state) + rounding[0]);
        for (size_t i = 0; i < 7; i++) { // the head's are not the recurrence's
            EXPECT_LE(difference(a.gradients[i], b.gradients[i]),
                      gradient_tolerance * largest_of(b.gradients[i]) + rounding[1 + i])
                << ours.run->layout().tensors[i].name;
        }
        OpResult forward = ours.run->inference(batch);
        EXPECT_EQ(std::memcmp(forward.final_state.data(), a.final_state.data(),
                              a.final_state.size() * sizeof(float)),
                  0)
            << "without backward to follow";
    }
};

TEST_P(Fused, AgreesWithTheReferenceForEveryKindOfHiddenSize) {
    for (uint32_t H : {1u,  2u,  3u,  4u,  5u,  7u,  8u,  9u,  15u,  16u,  17u, 31u,
                       32u, 33u, 47u, 48u, 63u, 64u, 65u, 80u, 100u, 112u, 128u}) {
        compare({{11, 1 + H / 2, H, 3}, 1 + H % 7, 9});
    }
}

TEST_P(Fused, AgreesWithTheReferenceForLargeSizes) {
    compare({{300, 200, 255, 5}, 5, 7});
    compare({{300, 65, 256, 5}, 9, 6});
}

TEST_P(Fused, AgreesWithTheReferenceForEveryBatchSize) {
    for (uint32_t B :
         {1u, 2u, 3u, 5u, 6u, 7u, 12u, 13u, 15u, 16u, 17u, 31u, 33u, 64u, 100u, 300u}) {
        compare({{40, 9, 18, 4}, B, 12});
    }
}

TEST_P(Fused, AgreesWithTheReferenceOnShortAndEmptyTexts) {
    compare({{5, 3, 20, 2}, 20, 0});
    compare({{5, 3, 20, 2}, 20, 1});
    compare({{5, 3, 20, 2}, 1, 1});
    compare({{5, 3, 20, 2}, 40, 2});
}

TEST_P(Fused, AgreesWithTheReferenceWhenEveryWordIsNew) {
    compare({{60000, 5, 10, 2}, 20, 150});
}

TEST_P(Fused, ThreadsDoNotChangeABit) {
    Case c = {{200, 20, 40, 18}, 70, 60};
    Random random(7);
    RaggedBatch batch = make_batch(c, random);
    std::vector<float> weights;
    OpResult alone;
    for (uint32_t threads : {1u, 2u, 3u, 8u}) {
        SCOPED_TRACE(std::to_string(threads) + " threads");
        Device device(GetParam(), threads, c.shape, limits_of(batch));
        if (threads == 1) {
            weights = make_weights(device.run->layout(), c.shape, random);
        }
        device.run->set_weights(weights);
        for (int repeat = 0; repeat < 3; repeat++) {
            OpResult result = device.run->step(batch);
            if (threads == 1 && repeat == 0) {
                alone = result;
            }
            EXPECT_EQ(bits_difference(result, alone), "");
        }
    }
}

// A NaN or an infinity in any parameter of the recurrence must be seen in the states that depend
// on it, and nowhere else: sequences without tokens stay zero.
TEST_P(Fused, BadNumbersShow) {
    Case c = {{9, 3, 21, 4}, 6, 5};
    for (float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
        for (size_t tensor = 0; tensor < 7; tensor++) {
            Random random(11);
            RaggedBatch batch = make_batch(c, random);
            Device ours(GetParam(), 2, c.shape, limits_of(batch));
            Device theirs("reference", 2, c.shape, limits_of(batch));
            auto weights = make_weights(ours.run->layout(), c.shape, random);
            weights[ours.run->layout().offset[tensor]] = bad;
            ours.run->set_weights(weights);
            theirs.run->set_weights(weights);
            OpResult a = ours.run->step(batch), b = theirs.run->step(batch);
            for (size_t i = 0; i < a.final_state.size(); i++) {
                EXPECT_EQ(std::isnan(a.final_state[i]), std::isnan(b.final_state[i])) << i;
            }
            for (size_t i = 0; i < a.losses.size(); i++) {
                EXPECT_EQ(std::isnan(a.losses[i]), std::isnan(b.losses[i])) << i;
            }
        }
    }
}

// Otherwise fp32 would be what was tested.
TEST_P(Fused, OnlyBf16RoundsItsFactors) {
    Case c = {{50, 20, 32, 3}, 20, 30};
    Random random(5);
    RaggedBatch batch = make_batch(c, random);
    Device ours(GetParam(), 2, c.shape, limits_of(batch));
    Device theirs("reference", 2, c.shape, limits_of(batch));
    auto weights = make_weights(ours.run->layout(), c.shape, random);
    ours.run->set_weights(weights);
    theirs.run->set_weights(weights);
    OpResult a = ours.run->step(batch), b = theirs.run->step(batch);
    bool rounds = difference(a.final_state, b.final_state) > 1e-4;
    EXPECT_EQ(rounds, GetParam() == bf16_path);
}

// ---- activations ----

class Probe : public testing::TestWithParam<std::string> {};

bool fuses(const std::string &isa) {
#if defined(__aarch64__)
    return true;
#else
    return isa != "portable";
#endif
}

// Every 97th float of both signs, and the ends of the range; activation_test has the errors of the
// scalar functions, and separate products for instruction sets that cannot fuse.
TEST_P(Probe, ActivationsHaveTheBitsOfTheScalarOnes) {
    const cpu_probe *probe = cpu_probe_find(GetParam().c_str());
    ASSERT_NE(probe, nullptr);
    std::vector<float> x;
    for (uint64_t bits = 0; bits < (1ull << 32); bits += 97) {
        uint32_t word = (uint32_t)bits;
        float value;
        std::memcpy(&value, &word, sizeof value);
        bool subnormal = std::fpclassify(value) == FP_SUBNORMAL;
        if (!std::isnan(value) && !subnormal) { // the kernels flush subnormals before
            x.push_back(value);
        }
        if (x.size() == 1 << 16 || bits + 97 >= (1ull << 32)) {
            std::vector<float> sigmoid(x.size()), tangent(x.size());
            probe->activate(x.data(), sigmoid.data(), tangent.data(), x.size());
            for (size_t i = 0; i < x.size() && fuses(GetParam()); i++) {
                float s = scalar::activation_sigmoid(x[i]), t = scalar::activation_tanh(x[i]);
                ASSERT_EQ(sigmoid[i], s) << x[i];
                ASSERT_EQ(tangent[i], t) << x[i];
            }
            for (size_t i = 0; i < x.size() && !fuses(GetParam()); i++) {
                ASSERT_NEAR(sigmoid[i], scalar::activation_sigmoid(x[i]), 2e-7) << x[i];
                ASSERT_NEAR(tangent[i], scalar::activation_tanh(x[i]), 3e-7) << x[i];
            }
            x.clear();
        }
    }
}

TEST_P(Probe, ActivationsOfNaNAreNaN) {
    const cpu_probe *probe = cpu_probe_find(GetParam().c_str());
    for (size_t count : {1u, 3u, 65u}) {
        std::vector<float> x(count, std::nanf("")), sigmoid(count), tangent(count);
        probe->activate(x.data(), sigmoid.data(), tangent.data(), count);
        for (size_t i = 0; i < count; i++) {
            EXPECT_TRUE(std::isnan(sigmoid[i]) && std::isnan(tangent[i])) << i;
        }
    }
}

TEST_P(Probe, TheProbeCountsItsWork) {
    const cpu_probe *probe = cpu_probe_find(GetParam().c_str());
    EXPECT_GT(probe->multiply_add(1), 0);
    EXPECT_EQ(probe->multiply_add(10), 10 * probe->multiply_add(1));
    EXPECT_EQ(cpu_probe_find("z80"), nullptr);
}

std::string path_name(const testing::TestParamInfo<std::string> &info) {
    std::string name = info.param;
    std::replace(name.begin(), name.end(), '-', '_');
    return name;
}
INSTANTIATE_TEST_SUITE_P(Isa, Fused, testing::ValuesIn(fused_paths()), path_name);
INSTANTIATE_TEST_SUITE_P(Isa, Probe, testing::ValuesIn(fused_isas()), path_name);

} // namespace
