// The training runs made with Keras, replayed on the CUDA backend at the tolerances of the CPU's.
#include <gtest/gtest.h>

#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "tests/support/cuda_device.h"
#include "tests/support/golden_run.h"

namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t all_tokens = 20000;
#else
constexpr size_t all_tokens = SIZE_MAX;
#endif

class CudaGolden : public CudaTest {
  protected:
    void SetUp() override {
        CudaTest::SetUp();
        if (IsSkipped()) {
            return;
        }
        cases = golden_cases();
        if (cases.empty()) {
            GTEST_SKIP() << "no golden cases: " << golden_directory()
                         << " is missing (CAIRN_GOLDEN_DIR)";
        }
    }

    // A fresh replay of every case that is not too long.
    void for_each_replay(bool graph, size_t tokens_max,
                         const std::function<void(GoldenReplay &)> &check) {
        size_t checked = 0;
        for (const GoldenCase &golden : cases) {
            if (golden.tokens() > tokens_max) {
                printf("%s is too long for this test or build\n", golden.name.c_str());
                continue;
            }
            SCOPED_TRACE(golden.name);
            CudaBackend device({golden.shape.hidden, graph});
            GoldenReplay replay(golden, device.be);
            check(replay);
            checked++;
        }
        EXPECT_GT(checked, 0u);
    }

    std::vector<GoldenCase> cases;
};

TEST_F(CudaGolden, FirstStepLogitsAndGradients) {
    for_each_replay(true, all_tokens, [](GoldenReplay &run) { run.check_first_step(); });
}

TEST_F(CudaGolden, LossesFinalWeightsAndPredictions) {
    for_each_replay(true, all_tokens, [](GoldenReplay &run) { run.check_training(); });
}

TEST_F(CudaGolden, ShortTextsWithoutAGraph) {
    for_each_replay(false, 20000, [](GoldenReplay &run) { run.check_training(); });
}

} // namespace
