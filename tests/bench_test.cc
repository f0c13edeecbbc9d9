// The benchmark's own parts: that the made-up lengths have the published statistics, that the clock
// counts and takes turns as it says, and that gpu_ops reports what it measured and on what.
#include <cmath>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include <jansson.h>

#include "bench/bench_clock.h"
#include "bench/bench_lengths.h"
#include "tests/support/process.h"
#include "gtest/gtest.h"

namespace {

// ---- lengths ----

std::vector<uint32_t> lengths(double low, double high, uint32_t divisor, uint32_t count) {
    std::vector<uint32_t> filled(count);
    bench_lengths_fill(low, high, divisor, filled.data(), count);
    return filled;
}

TEST(BenchLengths, AreThoseOfTheReviews) {
    // Published: median 174, mean 232.9, 10 to 2469, 90 % below 457, 99 % below 910.
    const std::vector<uint32_t> all = lengths(0.0, 1.0, 1, 25000);
    EXPECT_NEAR(all[12500], 174, 1);
    EXPECT_NEAR(std::accumulate(all.begin(), all.end(), 0.0) / 25000.0, 232.9, 1.0);
    EXPECT_NEAR(all.front(), 2469, 40);
    EXPECT_EQ(all.back(), 10u);
    EXPECT_NEAR(all[2500], 457, 1);
    EXPECT_NEAR(all[250], 910, 1);
    EXPECT_DOUBLE_EQ(bench_lengths_quantile(1.0), 2469.0);
}

TEST(BenchLengths, DescendAndAreNeverZero) {
    for (uint32_t count : {1u, 2u, 64u, 256u}) {
        const std::vector<uint32_t> some = lengths(0.0, 1.0, 100, count);
        EXPECT_GE(some.back(), 1u);
        for (size_t i = 1; i < some.size(); i++) {
            EXPECT_LE(some[i], some[i - 1]);
        }
    }
    // One of the 64 batches of a window: all of about the same length.
    const std::vector<uint32_t> window = lengths(42.0 / 64.0, 43.0 / 64.0, 1, 64);
    EXPECT_LT(window.front() - window.back(), window.front() / 20);
}

// ---- the clock ----

struct Counted {
    char name;
    std::string *log;
    static enum status enqueue(void *context, struct error *) {
        auto *self = static_cast<Counted *>(context);
        self->log->push_back(self->name);
        return STATUS_OK;
    }
    static enum status finish(void *context, struct error *) {
        static_cast<Counted *>(context)->log->push_back('.');
        return STATUS_OK;
    }
    static enum status fail(void *, struct error *err) {
        return error_set(err, STATUS_DEVICE, "it broke");
    }
};

TEST(BenchClock, TakesTurnsAndCounts) {
    std::string log;
    Counted a{'a', &log}, b{'b', &log};
    double samples[2][3];
    bench_subject subjects[] = {{Counted::enqueue, Counted::finish, &a, 1, samples[0], 0},
                                {Counted::enqueue, Counted::finish, &b, 16, samples[1], 0}};
    const bench_effort effort = {3, 0.0, 100};
    ASSERT_EQ(bench_clock_run(subjects, 2, &effort, nullptr), STATUS_OK);
    // Two calls to warm up, then one a sample, each between two waits.
    EXPECT_EQ(log, ".a..a..b..b." + std::string(".a..b.") + ".a..b." + ".a..b.");
    EXPECT_EQ(subjects[0].times, 1u);
    EXPECT_EQ(subjects[1].times, 16u);
}

TEST(BenchClock, RepeatsWhatIsShort) {
    std::string log;
    Counted a{'a', &log};
    double samples[1];
    bench_subject subject = {Counted::enqueue, Counted::finish, &a, 1, samples, 0};
    const bench_effort effort = {1, 3600.0, 50}; // no call takes an hour: the limit decides
    ASSERT_EQ(bench_clock_run(&subject, 1, &effort, nullptr), STATUS_OK);
    EXPECT_EQ(subject.times, 50u);
    EXPECT_EQ(log, ".a..a.." + std::string(50, 'a') + ".");
}

TEST(BenchClock, FailuresComeBack) {
    std::string log;
    Counted a{'a', &log};
    double samples[1];
    bench_subject subject = {Counted::fail, Counted::finish, &a, 1, samples, 0};
    const bench_effort effort = {1, 0.0, 1};
    struct error err = {};
    EXPECT_EQ(bench_clock_run(&subject, 1, &effort, &err), STATUS_DEVICE);
    EXPECT_STREQ(err.message, "it broke");
}

TEST(BenchClock, Spread) {
    const double odd[] = {5.0, 1.0, 3.0}, even[] = {4.0, 1.0, 2.0, 9.0};
    bench_spread spread = bench_clock_spread(odd, 3);
    EXPECT_DOUBLE_EQ(spread.median, 3.0);
    EXPECT_DOUBLE_EQ(spread.min, 1.0);
    EXPECT_DOUBLE_EQ(spread.max, 5.0);
    EXPECT_DOUBLE_EQ(bench_clock_spread(even, 4).median, 3.0);
}

// ---- gpu_ops ----

Outcome gpu_ops(const std::vector<std::string> &arguments) {
    ProcessOptions options;
    options.program = CAIRN_GPU_OPS;
    options.arguments = arguments;
    return run(options);
}

TEST(GpuOps, ReportsTheCpuAsTheCpu) {
    TemporaryDirectory directory;
    const std::string path = directory.file("ops.json");
    Outcome outcome = gpu_ops(words("--device cpu --quick --json " + path));
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_TRUE(contains(outcome.out, "figures of the CPU")) << outcome.out;
    json_t *root = json_load_file(path.c_str(), 0, nullptr);
    ASSERT_NE(root, nullptr);
    EXPECT_STREQ(json_string_value(json_object_get(root, "figures_of")), "cpu");
    EXPECT_EQ(json_array_size(json_object_get(root, "failures")), 0u);
    size_t i, per_step = 0;
    json_t *entry;
    json_array_foreach(json_object_get(root, "entries"), i, entry) {
        const std::string op = json_string_value(json_object_get(entry, "op"));
        per_step += op.find("per step") != std::string::npos;
        const std::string unit = json_string_value(json_object_get(entry, "unit"));
        const double median = json_number_value(json_object_get(entry, "median"));
        EXPECT_TRUE(std::isfinite(median)) << op;
        // Differences of times may be negative where times are tiny.
        if (unit == "us" && json_is_false(json_object_get(entry, "derived"))) {
            EXPECT_GT(median, 0.0) << op;
        }
    }
    // Forward, inference and backward; 2 batch sizes.
    EXPECT_EQ(per_step, 6u);
    json_decref(root);
}

TEST(GpuOps, ExitCodes) {
    EXPECT_EQ(gpu_ops({"--help"}).code, 0);
    EXPECT_EQ(gpu_ops({"--device", "gpu"}).code, 2);
    EXPECT_EQ(gpu_ops({"--repeats", "0"}).code, 2);
    EXPECT_EQ(gpu_ops({"--section", "nothing"}).code, 2);
    EXPECT_EQ(gpu_ops(words("--device cuda:99 --quick")).code, 69);
    EXPECT_EQ(gpu_ops(words("--device cpu --quick --section step --json /nowhere/x.json")).code,
              74);
}

} // namespace
