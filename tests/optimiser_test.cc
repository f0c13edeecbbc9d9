// Global norm and Adam of the CPU backend against their formulas in double precision, with every
// instruction set that this processor has.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "tests/support/op_cases.h"

namespace {

std::vector<std::string> isas() {
    std::vector<std::string> names;
    for (const char *const *name = backend_cpu_isa_names(); *name != nullptr; name++) {
        names.push_back(*name);
    }
    return names;
}

class Optimiser : public testing::TestWithParam<std::string> {
  protected:
    void SetUp() override {
        backend_options options = {};
        options.threads = 3;
        options.isa = GetParam().c_str();
        ASSERT_EQ(backend_cpu_create(&options, &be, nullptr), STATUS_OK);
    }
    void TearDown() override { be->table->free(be); }
    backend *be = nullptr;
};

TEST_P(Optimiser, GlobalNormAndScale) {
    Random random(20);
    for (size_t count : {1u, 7u, 63u, 64u, 65u, 1000u, 20001u}) {
        std::vector<float> g(count);
        double squares = 0;
        for (float &value : g) {
            value = (float)random.uniform(-3, 3);
            squares += (double)value * (double)value;
        }
        double exact = std::sqrt(squares);
        for (double clip : {0.0, exact * 2, exact / 2, 1e-3}) {
            float scale = -1;
            double norm = -1;
            norm_args args = {g.data(), count, clip, &scale, &norm};
            ASSERT_EQ(be->table->global_norm(be, &args, nullptr), STATUS_OK);
            EXPECT_NEAR(norm, exact, 1e-12 * exact);
            float expected = clip > 0 && exact > clip ? (float)(clip / exact) : 1.0f;
            EXPECT_FLOAT_EQ(scale, expected) << count << " " << clip;
        }
    }
}

TEST_P(Optimiser, NormOfNonFiniteGradientsIsNonFinite) {
    for (float bad : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
        std::vector<float> g(500, 1.0f);
        g[497] = bad;
        float scale = 0;
        double norm = 0;
        norm_args args = {g.data(), g.size(), 1.0, &scale, &norm};
        ASSERT_EQ(be->table->global_norm(be, &args, nullptr), STATUS_OK);
        EXPECT_FALSE(std::isfinite(norm));
        EXPECT_FALSE(std::isfinite(g[497] * scale)) << "clipping hid it";
    }
}

TEST_P(Optimiser, AdamFollowsItsFormulaInDoublePrecision) {
    Random random(21);
    const size_t count = 20011;
    const double rate = 0.003, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-7;
    std::vector<float> p(count), m(count), v(count), g(count);
    for (float &value : p) {
        value = (float)random.uniform(-1, 1);
    }
    std::vector<double> pd(p.begin(), p.end()), md(count), vd(count);
    const float scale = 0.25f;
    for (uint64_t t = 1; t <= 20; t++) {
        const double step_size =
            rate * std::sqrt(1 - std::pow(beta2, (double)t)) / (1 - std::pow(beta1, (double)t));
        for (size_t i = 0; i < count; i++) {
            // Some rows are never seen after step 5; their moments must decay all the same.
            g[i] = i % 3 == 0 && t > 5
                       ? 0.0f
                       : (float)(random.uniform(-1, 1) * std::pow(10, -(double)(i % 6)));
            double gd = (double)g[i] * (t % 2 == 0 ? (double)scale : 1.0);
            md[i] = beta1 * md[i] + (1 - beta1) * gd;
            vd[i] = beta2 * vd[i] + (1 - beta2) * gd * gd;
            pd[i] -= step_size * md[i] / (std::sqrt(vd[i]) + epsilon);
        }
        step_inputs inputs = {};
        inputs.rate = (float)step_size;
        adam_args args = {
            p.data(), m.data(), v.data(), g.data(), count, t % 2 == 0 ? &scale : nullptr,
            &inputs,  beta1,    beta2,    epsilon};
        ASSERT_EQ(be->table->adam_step(be, &args, nullptr), STATUS_OK);
    }
    for (size_t i = 0; i < count; i++) {
        // Seen: 1e-6 of a step and of a moment, after 20 roundings.
        ASSERT_NEAR(p[i], pd[i], 1e-6) << i;
        ASSERT_NEAR(m[i], md[i], 1e-6 * (1e-6 + std::pow(10, -(double)(i % 6)))) << i;
        ASSERT_NEAR(v[i], vd[i], 2e-6 * vd[i] + 1e-30) << i;
    }
}

TEST_P(Optimiser, AdamWithOneWeight) {
    float p = 1, m = 0.5f, v = 0.25f, g = 0.5f;
    step_inputs inputs = {};
    inputs.rate = 0.1f;
    adam_args args = {&p, &m, &v, &g, 1, nullptr, &inputs, 0.9, 0.999, 1e-7};
    ASSERT_EQ(be->table->adam_step(be, &args, nullptr), STATUS_OK);
    EXPECT_EQ(m, 0.5f);
    EXPECT_EQ(v, 0.25f);
    EXPECT_FLOAT_EQ(p, 0.9f); // m / sqrt(v) is 1
}

std::string isa_name(const testing::TestParamInfo<std::string> &info) {
    return info.param;
}
INSTANTIATE_TEST_SUITE_P(Isa, Optimiser, testing::ValuesIn(isas()), isa_name);

} // namespace
