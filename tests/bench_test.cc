// The benchmark's own parts: that the made-up lengths have the published statistics, that the clock
// counts and takes turns as it says, that operations are
// counted as the mathematics says, and that `cairn bench ops` reports what it measured and on what.
#include <cmath>
#include <csignal>
#include <cstdint>
#include <ctime>
#include <map>
#include <numeric>
#include <regex>
#include <string>
#include <vector>

#include <jansson.h>

#include "bench/bench_clock.h"
#include "bench/bench_lengths.h"
#include "bench/bench_ops_count.h"
#include "bench/bench_peak.h"
#include "host/base/stop.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu_probe.h"
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
    bench_subject subjects[] = {
        {Counted::enqueue, Counted::finish, &a, 1, samples[0], 0, nullptr},
        {Counted::enqueue, Counted::finish, &b, 16, samples[1], 0, nullptr}};
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
    bench_subject subject = {Counted::enqueue, Counted::finish, &a, 1, samples, 0, nullptr};
    const bench_effort effort = {1, 3600.0, 50}; // no call takes an hour: the limit decides
    ASSERT_EQ(bench_clock_run(&subject, 1, &effort, nullptr), STATUS_OK);
    EXPECT_EQ(subject.times, 50u);
    EXPECT_EQ(log, ".a..a.." + std::string(50, 'a') + ".");
}

TEST(BenchClock, FailuresComeBack) {
    std::string log;
    Counted a{'a', &log};
    double samples[1];
    bench_subject subject = {Counted::fail, Counted::finish, &a, 1, samples, 0, nullptr};
    const bench_effort effort = {1, 0.0, 1};
    struct error err = {};
    EXPECT_EQ(bench_clock_run(&subject, 1, &effort, &err), STATUS_DEVICE);
    EXPECT_STREQ(err.message, "it broke");
}

// Says how long it took, and stops the process at its fourth call.
struct Stopping {
    int calls;
    double spent;
    static enum status enqueue(void *context, struct error *) {
        auto *self = static_cast<Stopping *>(context);
        self->spent += 2.0;
        if (++self->calls == 4) {
            stop_raise(SIGTERM);
        }
        return STATUS_OK;
    }
    static enum status finish(void *, struct error *) { return STATUS_OK; }
};

TEST(BenchClock, TakesTheSecondsThatASubjectCounts) {
    Stopping a{};
    double samples[1];
    bench_subject subject = {Stopping::enqueue, Stopping::finish, &a, 1, samples, 0, &a.spent};
    const bench_effort effort = {1, 0.0, 1};
    ASSERT_EQ(bench_clock_run(&subject, 1, &effort, nullptr), STATUS_OK);
    EXPECT_DOUBLE_EQ(samples[0], 2.0);
}

TEST(BenchClock, StopsAfterTheSampleThatIsBeingTaken) {
    Stopping a{};
    double samples[9];
    bench_subject subject = {Stopping::enqueue, Stopping::finish, &a, 1, samples, 0, nullptr};
    const bench_effort effort = {9, 0.0, 1};
    struct error err = {};
    EXPECT_EQ(bench_clock_run(&subject, 1, &effort, &err), STATUS_STOPPED);
    EXPECT_EQ(a.calls, 4);
    stop_reset();
}

TEST(BenchClock, Spread) {
    const double odd[] = {5.0, 1.0, 3.0}, even[] = {4.0, 1.0, 2.0, 9.0};
    bench_spread spread = bench_clock_spread(odd, 3);
    EXPECT_DOUBLE_EQ(spread.median, 3.0);
    EXPECT_DOUBLE_EQ(spread.min, 1.0);
    EXPECT_DOUBLE_EQ(spread.max, 5.0);
    EXPECT_DOUBLE_EQ(bench_clock_spread(even, 4).median, 3.0);
}

// Which of so many samples in order, counted from 1, tables of the sign test name as the ends of
// the interval (Conover, Practical Nonparametric Statistics, 3.2).
TEST(BenchClock, TheMediansConfidenceIntervalIsThatOfTheSignTest) {
    const struct {
        unsigned count;
        double low, high;
    } cases[] = {{6, 1, 6}, {9, 2, 8}, {10, 2, 9}, {20, 6, 15}, {25, 8, 18}, {100, 40, 61}};
    for (const auto &known : cases) {
        SCOPED_TRACE(known.count);
        std::vector<double> samples(known.count);
        for (unsigned i = 0; i < known.count; i++) {
            samples[i] = known.count - i;
        }
        const bench_interval interval = bench_clock_confidence(samples.data(), known.count);
        EXPECT_EQ(interval.low, known.low);
        EXPECT_EQ(interval.high, known.high);
    }
    const double few[] = {1, 2, 3, 4, 5};
    EXPECT_TRUE(std::isnan(bench_clock_confidence(few, 5).low));
    EXPECT_TRUE(std::isnan(bench_clock_confidence(few, 1).high));
    std::vector<double> most(BENCH_REPEATS_MAX, 7.0);
    EXPECT_EQ(bench_clock_confidence(most.data(), BENCH_REPEATS_MAX).low, 7.0);
}

// ---- counted operations, the peak ----

TEST(BenchOpsCount, IsThatOfTheMathematics) {
    struct model model = {};
    model.shape = {1000, 32, 64, 16}; // V, E, H, D
    struct bench_rig rig = {};
    rig.model = &model;
    rig.batch.total_tokens = 100;
    rig.batch.sequences = 7;
    rig.words = 10;
    // Three products of [4H] with [H] for each token and direction, a multiply-add being two.
    EXPECT_DOUBLE_EQ(bench_ops_count_forward(&rig) + bench_ops_count_backward(&rig),
                     3.0 * 8 * 64 * 64 * 100 * 2);
    EXPECT_DOUBLE_EQ(bench_ops_count_backward(&rig), 2 * bench_ops_count_forward(&rig));
    // Per word and direction: dz [4H] W_ih for the embedding, dz' e for W_ih, [4H, E] both.
    EXPECT_DOUBLE_EQ(bench_ops_count_embedding_grad(&rig), 2.0 * 2 * (4 * 64 * 32) * 10 * 2);
    // Per sequence D x 2H and 1 x D; forward, for the input and for the weights.
    EXPECT_DOUBLE_EQ(bench_ops_count_head(&rig), 3.0 * 2 * (16 * 128 + 16) * 7);
}

TEST(BenchPeak, CountsWhatAllThreadsDo) {
    struct error err = {};
    for (const char *const *isa = backend_cpu_isa_names(); *isa != nullptr; isa++) {
        struct bench_peak *peak = nullptr;
        ASSERT_EQ(bench_peak_create(*isa, 3, 0.001, &peak, &err), STATUS_OK) << err.message;
        const bool reference = std::string(*isa) == "reference"; // has no peak of its own
        EXPECT_STREQ(bench_peak_isa(peak), reference ? backend_cpu_isa_names()[0] : *isa);
        EXPECT_EQ(bench_peak_threads(peak), 3u);
        const struct cpu_probe *probe = cpu_probe_find(bench_peak_isa(peak));
        ASSERT_NE(probe, nullptr);
        const double rounds = bench_peak_flops(peak) / (3 * probe->multiply_add(1));
        EXPECT_GE(rounds, 1.0);
        EXPECT_DOUBLE_EQ(rounds, std::round(rounds)) << "the same number on each thread";
        EXPECT_EQ(bench_peak_run(peak, &err), STATUS_OK);
        const double once = *bench_peak_spent(peak);
        EXPECT_GT(once, 0.0);
        EXPECT_EQ(bench_peak_run(peak, &err), STATUS_OK);
        EXPECT_GT(*bench_peak_spent(peak), once);
        bench_peak_free(peak);
    }
}

TEST(BenchPeak, DefaultsAndRefusals) {
    struct error err = {};
    struct bench_peak *peak = nullptr;
    EXPECT_EQ(bench_peak_create("z80", 1, 0.001, &peak, &err), STATUS_DEVICE);
    EXPECT_TRUE(contains(err.message, "z80")) << err.message;
    EXPECT_EQ(peak, nullptr);
    ASSERT_EQ(bench_peak_create("auto", 0, 0.001, &peak, &err), STATUS_OK) << err.message;
    EXPECT_EQ(bench_peak_threads(peak), backend_cpu_default_threads());
    bench_peak_free(peak);
    double rate = 0.0;
    ASSERT_EQ(bench_peak_measure("auto", 1, 0.007, &rate, &err), STATUS_OK) << err.message;
    EXPECT_GT(rate, 0.0);
}

// ---- cairn bench ops ----

Outcome ops(const std::string &arguments) {
    return run_cairn(words("bench ops " + arguments));
}

std::string text(json_t *object, const char *name) {
    const char *value = json_string_value(json_object_get(object, name));
    return value != nullptr ? value : "";
}

double number(json_t *object, const char *name) {
    return json_number_value(json_object_get(object, name));
}

class BenchOps : public testing::Test {
  protected:
    ~BenchOps() override { json_decref(root); }
    Outcome go(const std::string &arguments) {
        const std::string path = directory.file("ops.json");
        Outcome outcome = ops(arguments + " --device cpu --quick --json " + path);
        root = json_load_file(path.c_str(), 0, nullptr);
        return outcome;
    }
    json_t *array(const char *name) const { return json_object_get(root, name); }
    // Names of the variants of a section, and how many entries each has.
    std::map<std::string, int> variants(const std::string &section) const {
        std::map<std::string, int> found;
        size_t i;
        json_t *entry;
        json_array_foreach(array("entries"), i, entry) {
            if (text(entry, "section") == section) {
                found[text(entry, "variant")]++;
            }
        }
        return found;
    }
    TemporaryDirectory directory;
    json_t *root = nullptr;
};

TEST_F(BenchOps, ReportsTheCpuAsTheCpu) {
    Outcome outcome = go("");
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_TRUE(contains(outcome.out, "figures of the CPU")) << outcome.out;
    ASSERT_NE(root, nullptr);
    EXPECT_EQ(text(root, "figures_of"), "cpu");
    EXPECT_EQ(json_array_size(array("failures")), 0u);
    EXPECT_EQ(json_object_size(array("length_sets")), 2u);
    EXPECT_NE(text(array("machine"), "processor"), "");
    EXPECT_GE(number(array("machine"), "cores"), 1.0);
    EXPECT_EQ(text(array("options"), "device"), "cpu");
    for (const char *section : {"recurrence", "batch", "ragged", "step", "save"}) {
        EXPECT_FALSE(variants(section).empty()) << section;
    }
    EXPECT_TRUE(variants("operations").empty());
    size_t i;
    json_t *entry;
    json_array_foreach(array("entries"), i, entry) {
        const double median = number(entry, "median");
        EXPECT_TRUE(std::isfinite(median)) << i;
        json_t *samples = json_object_get(entry, "samples");
        ASSERT_EQ(json_array_size(samples), number(entry, "repeats")) << text(entry, "op");
        if (json_array_size(samples) == 2) {
            const double a = json_number_value(json_array_get(samples, 0)),
                         b = json_number_value(json_array_get(samples, 1));
            EXPECT_NEAR((a + b) / 2.0, median, 1e-4 * (std::fabs(a) + std::fabs(b)));
        }
        // Differences of times may be negative where times are tiny.
        if (text(entry, "unit") == "us" && json_is_false(json_object_get(entry, "derived"))) {
            EXPECT_GT(median, 0.0) << text(entry, "op");
        }
    }
}

// One of them: all begin their JSON in the same place.
TEST_F(BenchOps, TheJsonSaysWhichCommitWasMeasuredAndWhen) {
    const std::time_t before = std::time(nullptr);
    ASSERT_EQ(go("--section step --hidden-size 8").code, 0);
    const std::string revision = text(root, "revision"), date = text(root, "date");
    EXPECT_TRUE(std::regex_match(revision, std::regex("unknown|[0-9a-f]{12,40}(-dirty)?")))
        << revision;
    std::tm utc = {};
    ASSERT_NE(strptime(date.c_str(), "%Y-%m-%dT%H:%M:%SZ", &utc), nullptr) << date;
    EXPECT_GE(timegm(&utc), before);
    EXPECT_LE(timegm(&utc), std::time(nullptr));
}

TEST_F(BenchOps, RatesOfEveryInstructionSetAndNumberOfThreads) {
    Outcome outcome = go("--isa all --threads 2 --section recurrence --hidden-size 24");
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    ASSERT_NE(root, nullptr);
    std::map<std::string, int> expected;
    for (const char *const *isa = backend_cpu_isa_names(); *isa != nullptr; isa++) {
        // Two batches; forward, inference, both, backward, embedding_grad, head, norm and Adam.
        expected[*isa] = expected[std::string(*isa) + "/1"] = 2 * 7;
    }
    EXPECT_EQ(variants("recurrence"), expected);
    EXPECT_EQ(json_array_size(array("bars")), 2 * expected.size());
    // A peak for each instruction set but the reference, which has none of its own.
    EXPECT_EQ(json_array_size(array("peaks")), 2 * (expected.size() - 2));
    size_t i;
    json_t *entry;
    json_array_foreach(array("entries"), i, entry) {
        if (text(entry, "op") == "lstm_forward + backward") {
            json_t *batch = json_object_get(entry, "batch");
            const double flops = 3.0 * 8 * 24 * 24 * number(batch, "tokens") * 2;
            // The slowest sample has the lowest rate; 1 GFLOP/s is 1000 operations a microsecond.
            const double lowest = number(json_object_get(entry, "gflops"), "min");
            EXPECT_NEAR(lowest * 1e3 * number(entry, "max") / flops, 1.0, 1e-3);
        }
    }
    json_array_foreach(array("bars"), i, entry) {
        const double rate = number(json_object_get(entry, "gflops"), "median");
        EXPECT_GT(rate, 0.0);
        const double share = number(json_object_get(entry, "share"), "median");
        EXPECT_NEAR(share * number(entry, "peak_gflops") / rate, 1.0, 1e-3);
        EXPECT_EQ(number(entry, "hidden"), 24.0);
    }
}

TEST_F(BenchOps, TakesTheSizesThatAreAskedFor) {
    ASSERT_EQ(go("--section step --threads 1 --embedding-size 3 --hidden-size 5 --dense-size 7 "
                 "--vocabulary-size 11 --batch-size 6")
                  .code,
              0);
    EXPECT_EQ(json_array_size(array("entries")), 2u); // the two batches
    size_t i;
    json_t *entry;
    json_array_foreach(array("entries"), i, entry) {
        json_t *shape = json_object_get(entry, "shape");
        EXPECT_EQ(number(shape, "embedding"), 3.0);
        EXPECT_EQ(number(shape, "hidden"), 5.0);
        EXPECT_EQ(number(shape, "dense"), 7.0);
        EXPECT_EQ(number(shape, "vocabulary"), 11.0);
        EXPECT_EQ(number(json_object_get(entry, "batch"), "sequences"), 6.0);
        EXPECT_EQ(number(entry, "threads"), 1.0);
    }
}

TEST(BenchOpsProgram, StopsOnTheFirstSignal) {
    TemporaryDirectory directory;
    const std::string path = directory.file("ops.json");
    ProcessOptions options;
    options.arguments = words("bench ops --device cpu --json " + path);
    Process bench(options);
    ASSERT_TRUE(bench.wait_for([&] { return exists(path); })); // it is about to measure
    bench.signal(SIGTERM);
    EXPECT_EQ(bench.wait(), 75) << bench.err();
    EXPECT_TRUE(contains(bench.err(), "stopped by a signal")) << bench.err();
    EXPECT_FALSE(exists(path));
}

TEST(BenchOpsProgram, ExitCodes) {
    EXPECT_EQ(ops("--help").code, 0);
    EXPECT_EQ(ops("--device gpu").code, 2);
    EXPECT_EQ(ops("--repeats 0").code, 2);
    EXPECT_EQ(ops("--section nothing").code, 2);
    EXPECT_EQ(ops("--device cpu --section operations").code, 2); // a GPU's
    EXPECT_EQ(ops("--vocabulary-size 0").code, 2);
    EXPECT_EQ(ops("--batch-size 1025").code, 2);
    EXPECT_EQ(ops("--device cpu --isa z80").code, 69);
    EXPECT_EQ(ops("--device cpu --isa portable,portable").code, 69);
    EXPECT_EQ(ops("--device cuda:99 --quick").code, 69);
    EXPECT_EQ(ops("--device cpu --quick --section step --json /nowhere/x.json").code, 73);
}

} // namespace
