// Whole training runs made with Keras, replayed step by step with every instruction set that this
// processor has. Not with --precision bf16: Keras' results are those of fp32, and a bound on how far
// bf16 may stray from them over a whole run would be too wide to find a mistake. fused_test holds it
// to the reference, step by step.
#include <gtest/gtest.h>

#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "tests/support/golden_run.h"

namespace {

class TrainingGolden : public testing::Test {
  protected:
    void SetUp() override {
        cases = golden_cases();
        if (cases.empty()) {
            GTEST_SKIP() << "no golden cases: " << golden_directory()
                         << " is missing (CAIRN_GOLDEN_DIR)";
        }
    }
    std::vector<GoldenCase> cases;
};

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool sanitized = true;
#else
constexpr bool sanitized = false;
#endif

// Sanitizers slow the kernels' inner loops down a hundred times. Under them the best instruction
// set and short texts have to do; ops_test has all instruction sets under sanitizers too.
bool too_slow(const GoldenCase &c) {
    return sanitized && c.tokens() > 20000;
}

std::vector<std::string> isas() {
    std::vector<std::string> names;
    for (const char *const *name = backend_cpu_isa_names(); *name != nullptr; name++) {
        names.push_back(*name);
    }
    names.resize(sanitized ? 1 : names.size());
    return names;
}

TEST_F(TrainingGolden, TokenIdsAreKeras) {
    for (const GoldenCase &c : cases) {
        SCOPED_TRACE(c.name);
        ASSERT_EQ(c.first_ids.size(), std::min(c.batch, c.ids.size()));
        for (size_t i = 0; i < c.first_ids.size(); i++) {
            EXPECT_EQ(c.ids[i], c.first_ids[i]) << "text " << i;
        }
    }
}

// A fresh replay of every case on every instruction set.
void for_each_replay(const std::vector<GoldenCase> &cases,
                     const std::function<void(GoldenReplay &)> &check) {
    size_t checked = 0;
    for (const GoldenCase &c : cases) {
        if (too_slow(c)) {
            printf("%s is too long for a build with sanitizers\n", c.name.c_str());
            continue;
        }
        checked++;
        for (const std::string &isa : isas()) {
            SCOPED_TRACE(c.name + " " + isa);
            error err = {};
            backend_options options = {};
            options.threads = 2;
            options.isa = isa.c_str();
            backend *be = nullptr;
            ASSERT_EQ(backend_cpu_create(&options, &be, &err), STATUS_OK) << err.message;
            {
                GoldenReplay run(c, be);
                check(run);
            }
            be->table->free(be);
        }
    }
    EXPECT_GT(checked, 0u);
}

TEST_F(TrainingGolden, FirstStepLogitsAndGradients) {
    for_each_replay(cases, [](GoldenReplay &run) { run.check_first_step(); });
}

TEST_F(TrainingGolden, LossesFinalWeightsAndPredictions) {
    for_each_replay(cases, [](GoldenReplay &run) { run.check_training(); });
}

} // namespace
