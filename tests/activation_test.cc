// sigmoid and tanh of the CPU kernels against libm in double precision, with and without fused
// multiply-add.
#include <algorithm>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>

namespace separate {
#include "kernels/cpu/activation.h"
}
#undef CAIRN_KERNELS_CPU_ACTIVATION_H
#undef CAIRN_KERNELS_CPU_MULTIPLY_ADD_H
#undef ALWAYS_INLINE
#define MULTIPLY_ADD_FUSED
namespace fused {
#include "kernels/cpu/activation.h"
}

namespace {

// Distance in units of the last place of the exact result.
double ulps(float ours, double exact) {
    int exponent;
    std::frexp(exact, &exponent);
    return std::fabs((double)ours - exact) / std::ldexp(1.0, std::max(exponent, -125) - 24);
}

float from_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

struct Worst {
    double ulps = 0;
    float at = 0;
};

// Every 251st float is a matter of seconds. CAIRN_ACTIVATION_STEP=1 takes every one, some minutes.
uint32_t walking_step() {
    const char *step = std::getenv("CAIRN_ACTIVATION_STEP");
    return step == nullptr ? 251 : (uint32_t)std::max(1, std::atoi(step));
}

// Walks over floats of both signs from 2^-126 to `limit`.
template <typename Ours, typename Exact> Worst worst_error(float limit, Ours ours, Exact exact) {
    Worst worst;
    const uint32_t step = walking_step();
    for (uint32_t bits = 0x00800000; from_bits(bits) <= limit; bits += step) {
        for (float x : {from_bits(bits), -from_bits(bits)}) {
            double error = ulps(ours(x), exact((double)x));
            if (!(error <= worst.ulps)) {
                worst = {error, x};
            }
        }
    }
    return worst;
}

double sigmoid(double x) {
    return 1.0 / (1.0 + std::exp(-x));
}

#define EXPECT_WITHIN(worst_expression, bound)                                                     \
    do {                                                                                           \
        Worst worst = worst_expression;                                                            \
        EXPECT_LE(worst.ulps, bound) << "at " << worst.at;                                         \
        printf("largest error %.4f ulp at %a\n", worst.ulps, (double)worst.at);                    \
    } while (0)

TEST(Activation, SigmoidIsWithinItsBound) {
    EXPECT_WITHIN(worst_error(87.0f, separate::activation_sigmoid, sigmoid), 2.5);
    EXPECT_WITHIN(worst_error(87.0f, fused::activation_sigmoid, sigmoid), 2.5);
}

TEST(Activation, TanhIsWithinItsBoundInRelativeTerms) {
    auto exact = [](double x) { return std::tanh(x); };
    EXPECT_WITHIN(worst_error(100.0f, separate::activation_tanh, exact), 3.0);
    EXPECT_WITHIN(worst_error(100.0f, fused::activation_tanh, exact), 3.0);
}

template <typename Sigmoid, typename Tanh> void expect_ends(Sigmoid sig, Tanh tangent) {
    const float infinity = std::numeric_limits<float>::infinity();
    EXPECT_EQ(sig(0.0f), 0.5f);
    EXPECT_EQ(tangent(0.0f), 0.0f);
    for (float x : {88.0f, 1000.0f, 1e30f, infinity}) {
        EXPECT_EQ(sig(x), 1.0f);
        EXPECT_EQ(tangent(x), 1.0f);
        EXPECT_EQ(tangent(-x), -1.0f);
        EXPECT_GE(sig(-x), std::numeric_limits<float>::min()) << "a denormal";
        EXPECT_LE(sig(-x), 1.7e-38f);
    }
    EXPECT_TRUE(std::isnan(sig(std::nanf(""))));
    EXPECT_TRUE(std::isnan(tangent(std::nanf(""))));
    for (float x = -12.0f; x < 12.0f; x += 0.01f) {
        EXPECT_LE(std::fabs(tangent(x)), 1.0f);
        EXPECT_LE(sig(x), 1.0f);
        EXPECT_GT(sig(x), 0.0f);
    }
}

TEST(Activation, EndsOfTheRangeAndNaN) {
    expect_ends(separate::activation_sigmoid, separate::activation_tanh);
    expect_ends(fused::activation_sigmoid, fused::activation_tanh);
}

} // namespace
