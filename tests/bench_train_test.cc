// `cairn bench train`: that timing the phases of a step changes nothing and counts every operation
// once, that the work of a pass is counted right, and that the program reports all that it promises.
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <jansson.h>

#include "bench/bench_clock.h"
#include "bench/bench_phases.h"
#include "bench/bench_train_run.h"
#include "tests/support/process.h"
#include "tests/support/ragged_batch.h"
#include "gtest/gtest.h"

namespace {

backend *cpu(const char *isa) {
    backend_options options = {};
    options.threads = 2;
    options.isa = isa;
    backend *be = nullptr;
    EXPECT_EQ(backend_cpu_create(&options, &be, nullptr), STATUS_OK);
    return be;
}

// ---- phases ----

constexpr int kSteps = 3;

// The state after kSteps steps with clipping: weights, moments and sums.
std::vector<uint8_t> state_after_training(backend *be) {
    const model_shape shape = {9, 5, 7, 3};
    model_options options = {};
    options.limits = {4, 12, 4, true};
    options.training = true;
    options.learning_rate = 0.01;
    options.clip_norm = 0.1;
    model *net = nullptr;
    EXPECT_EQ(model_create(be, &shape, &options, &net, nullptr), STATUS_OK);
    EXPECT_EQ(model_initialise(net, 1, nullptr), STATUS_OK);
    const RaggedBatch batch({{2, 3, 4, 8}, {5, 2}, {}, {4, 4, 1}}, {1, 0, 1, 0});
    const batch_view view = batch.view();
    for (uint64_t step = 1; step <= kSteps; step++) {
        EXPECT_EQ(model_train_step(net, &view, step, nullptr), STATUS_OK);
    }
    std::vector<uint8_t> state(net->state, net->state + net->state_bytes);
    model_free(net);
    return state;
}

TEST(BenchPhases, CountEveryOperationOnceAndChangeNothing) {
    for (const char *isa : {"auto", "portable", "reference"}) {
        SCOPED_TRACE(isa);
        backend *be = cpu(isa);
        const backend_table *original = be->table;
        const std::vector<uint8_t> plain = state_after_training(be);
        bench_phases phases;
        const double begin = bench_clock_now();
        bench_phases_begin(&phases, be);
        EXPECT_NE(be->table, original);
        const std::vector<uint8_t> timed = state_after_training(be);
        bench_phases_end(&phases);
        const double elapsed = bench_clock_now() - begin;
        EXPECT_EQ(be->table, original);
        EXPECT_EQ(plain, timed);
        const bool fused = std::string(isa) != "reference";
        EXPECT_EQ(phases.calls[BENCH_PHASE_WORDS], fused ? kSteps : 0u);
        EXPECT_EQ(phases.calls[BENCH_PHASE_FORWARD], kSteps);
        EXPECT_EQ(phases.calls[BENCH_PHASE_HEAD], kSteps);
        EXPECT_EQ(phases.calls[BENCH_PHASE_BACKWARD], kSteps);
        EXPECT_EQ(phases.calls[BENCH_PHASE_EMBEDDING], kSteps);
        EXPECT_EQ(phases.calls[BENCH_PHASE_UPDATE], 2u * kSteps); // the norm and Adam
        double sum = 0.0;
        for (double seconds : phases.seconds) {
            EXPECT_GE(seconds, 0.0);
            sum += seconds;
        }
        EXPECT_GT(sum, 0.0);
        EXPECT_LE(sum, elapsed); // no stretch of time belongs to two phases
        be->table->free(be);
    }
}

TEST(BenchPhases, RangesOfOthersAreNotWords) {
    backend *be = cpu("auto");
    bench_phases phases;
    bench_phases_begin(&phases, be);
    be->table->range_begin(be, "save");
    be->table->range_end(be);
    std::thread([be] {
        be->table->range_begin(be, "words");
        be->table->range_end(be);
    }).join();
    EXPECT_EQ(phases.calls[BENCH_PHASE_WORDS], 0u);
    be->table->range_begin(be, "words");
    be->table->range_begin(be, "inner");
    be->table->range_end(be);
    EXPECT_EQ(phases.calls[BENCH_PHASE_WORDS], 0u); // it goes on
    be->table->range_end(be);
    be->table->range_end(be); // of what had begun before
    EXPECT_EQ(phases.calls[BENCH_PHASE_WORDS], 1u);
    bench_phases_end(&phases);
    be->table->free(be);
}

enum status break_down(backend *, const lstm_args *, struct error *err) {
    return error_set(err, STATUS_DEVICE, "it broke");
}

enum status never_replay(backend *, backend_recording **, enum status (*)(void *, struct error *),
                         void *, struct error *err) {
    return error_set(err, STATUS_INTERNAL, "replayed");
}

TEST(BenchPhases, ErrorsComeBackAndRecordingsAreEnqueued) {
    backend *be = cpu("auto");
    const backend_table *own = be->table;
    backend_table broken = *own;
    broken.lstm_forward = break_down;
    broken.replay = never_replay;
    be->table = &broken;
    bench_phases phases;
    bench_phases_begin(&phases, be);
    struct error err = {};
    lstm_args args = {};
    EXPECT_EQ(be->table->lstm_forward(be, &args, &err), STATUS_DEVICE);
    EXPECT_STREQ(err.message, "it broke");
    EXPECT_EQ(phases.calls[BENCH_PHASE_FORWARD], 0u);
    int times = 0;
    backend_recording *recording = nullptr;
    const auto count = [](void *context, struct error *) {
        ++*static_cast<int *>(context);
        return STATUS_OK;
    };
    EXPECT_EQ(be->table->replay(be, &recording, count, &times, nullptr), STATUS_OK);
    EXPECT_EQ(be->table->replay(be, &recording, count, &times, nullptr), STATUS_OK);
    EXPECT_EQ(times, 2);
    bench_phases_end(&phases);
    EXPECT_EQ(be->table, &broken);
    be->table = own;
    be->table->free(be);
}

// ---- the work of a pass, and the pass ----

// A run of `bench train` on a small file, with its options.
class SmallRun : public testing::Test {
  protected:
    void SetUp() override {
        write_file(directory_.file("d.csv"), "text,label\na b a,0\nb,1\nc d,0\nc c c,1\n");
        const char *base = getenv("TMPDIR");
        had_base_ = base != nullptr;
        base_ = had_base_ ? base : "";
        setenv("TMPDIR", scratch_.path().c_str(), 1);
        be_ = cpu("auto");
    }
    void TearDown() override {
        bench_train_run_close(run_);
        be_->table->free(be_);
        options_free(&options_);
        EXPECT_EQ(list_directory(scratch_.path()), std::vector<std::string>{});
        had_base_ ? setenv("TMPDIR", base_.c_str(), 1) : unsetenv("TMPDIR");
    }
    void open(const std::string &more) {
        words_ = words("train --shuffle none --bucket-window 0 --batch-size 2 --embedding-size 3 "
                       "--hidden-size 5 --dense-size 2 --vocabulary-size 0 --data " +
                       directory_.file("d.csv") + " " + more);
        std::vector<char *> argv;
        for (std::string &word : words_) {
            argv.push_back(word.data());
        }
        argv.push_back(nullptr);
        bool exit_early;
        struct error err = {};
        ASSERT_EQ(options_parse(COMMAND_BENCH_TRAIN, static_cast<int>(words_.size()), argv.data(),
                                &options_, &exit_early, &err),
                  STATUS_OK)
            << err.message;
        ASSERT_EQ(bench_train_run_open(&options_, be_, &run_, &err), STATUS_OK) << err.message;
    }
    // The one directory that the run has made for its checkpoints.
    std::string checkpoints() const {
        const std::vector<std::string> names = list_directory(scratch_.path());
        EXPECT_EQ(names.size(), 1u);
        return names.empty() ? "" : scratch_.file(names[0]);
    }

    TemporaryDirectory directory_, scratch_;
    std::vector<std::string> words_;
    bool had_base_ = false;
    std::string base_;
    backend *be_ = nullptr;
    struct options options_ = {};
    bench_train_run *run_ = nullptr;
};

TEST_F(SmallRun, CountsTokensWordsAndOperations) {
    open("");
    bench_train_work work;
    ASSERT_EQ(bench_train_run_work(run_, 0, &work, nullptr), STATUS_OK);
    EXPECT_EQ(work.steps, 2u);
    EXPECT_EQ(work.examples, 4u);
    EXPECT_EQ(work.tokens, 9u);
    EXPECT_EQ(work.words, 4u); // a, b; c, d
    // Per token and direction three products with a [4H, H] matrix, per word three with [4H, E].
    EXPECT_DOUBLE_EQ(work.recurrence, 9 * 2 * 3 * 2.0 * (20 * 5));
    EXPECT_DOUBLE_EQ(work.word_products, 4 * 2 * 3 * 2.0 * (20 * 3));
    // [D, 2H] and [1, D].
    EXPECT_DOUBLE_EQ(work.head, 4 * 3 * 2.0 * (2 * 10 + 2));
    EXPECT_GE(work.order_seconds, 0.0);
}

TEST_F(SmallRun, StepsCutAPassShort) {
    open("--steps 1");
    bench_train_work work;
    ASSERT_EQ(bench_train_run_work(run_, 0, &work, nullptr), STATUS_OK);
    EXPECT_EQ(work.steps, 1u);
    EXPECT_EQ(work.tokens, 4u);
    EXPECT_EQ(work.words, 2u);
}

TEST_F(SmallRun, MoreStepsThanAnEpochAreAnEpoch) {
    open("--steps 99");
    bench_train_work work;
    ASSERT_EQ(bench_train_run_work(run_, 0, &work, nullptr), STATUS_OK);
    EXPECT_EQ(work.steps, 2u);
}

TEST_F(SmallRun, APassSavesWhatWasAskedFor) {
    open("--save-checkpoints-steps 1");
    bench_train_pass pass;
    ASSERT_EQ(bench_train_run_pass(run_, 0, false, &pass, nullptr), STATUS_OK);
    EXPECT_EQ(pass.saves, 2u);
    EXPECT_EQ(pass.skipped, 0u);
    EXPECT_GT(pass.seconds, pass.batch_seconds + pass.save_seconds);
    EXPECT_GT(pass.save_seconds_max, 0.0);
    EXPECT_EQ(checkpoint_steps(checkpoints()), std::vector<uint64_t>{2}); // the latest is kept
}

TEST_F(SmallRun, WithoutOneItSavesAtTheEndIfTold) {
    open("");
    bench_train_pass pass;
    ASSERT_EQ(bench_train_run_pass(run_, 0, false, &pass, nullptr), STATUS_OK);
    EXPECT_EQ(pass.saves, 0u);
    EXPECT_EQ(checkpoint_steps(checkpoints()), std::vector<uint64_t>{});
    ASSERT_EQ(bench_train_run_pass(run_, 1, true, &pass, nullptr), STATUS_OK);
    EXPECT_EQ(pass.saves, 1u);
    EXPECT_EQ(checkpoint_steps(checkpoints()), std::vector<uint64_t>{4}); // the model went on
}

// ---- the program ----

using Figures = std::map<std::string, json_t *>; // by "section/name"

Figures figures_of(json_t *root) {
    Figures figures;
    size_t i;
    json_t *figure;
    json_array_foreach(json_object_get(root, "figures"), i, figure) {
        const std::string key = std::string(json_string_value(json_object_get(figure, "section"))) +
                                "/" + json_string_value(json_object_get(figure, "name"));
        EXPECT_EQ(figures.count(key), 0u) << key;
        figures[key] = figure;
    }
    return figures;
}

double number(const json_t *object, const char *key) {
    return json_number_value(json_object_get(object, key));
}

class BenchTrain : public testing::Test {
  protected:
    Outcome bench(const std::string &more) {
        ProcessOptions options;
        options.arguments = words("bench train " + more);
        options.environment = {{"TMPDIR", scratch_.path()}};
        Outcome outcome = run(options);
        EXPECT_EQ(list_directory(scratch_.path()), std::vector<std::string>{});
        return outcome;
    }
    TemporaryDirectory directory_, scratch_;
};

TEST_F(BenchTrain, ReportsAllThatItPromises) {
    const std::string path = directory_.file("train.json");
    const Outcome outcome = bench("--data demo --device cpu --steps 5 --repeats 1 --json " + path);
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(outcome.err, "");
    std::unique_ptr<json_t, void (*)(json_t *)> root(json_load_file(path.c_str(), 0, nullptr),
                                                     [](json_t *value) { json_decref(value); });
    ASSERT_NE(root, nullptr);
    EXPECT_STREQ(json_string_value(json_object_get(root.get(), "benchmark")), "bench train");
    EXPECT_EQ(number(root.get(), "repeats"), 1);
    json_t *machine = json_object_get(root.get(), "machine");
    EXPECT_GT(json_string_length(json_object_get(machine, "processor")), 0u);
    EXPECT_GE(number(machine, "cores"), 1);
    json_t *device = json_object_get(root.get(), "device");
    EXPECT_STREQ(json_string_value(json_object_get(device, "name")), "cpu");
    EXPECT_GE(number(device, "threads"), 1);
    EXPECT_GT(number(json_object_get(root.get(), "facts"), "peak memory"), 0);

    const Figures figures = figures_of(root.get());
    const std::vector<std::string> positive = {"training/pass",
                                               "training/step",
                                               "training/tokens",
                                               "training/examples",
                                               "training/recurrence",
                                               "training/all products",
                                               "training/multiply-add peak",
                                               "training/recurrence of peak",
                                               "phases/words",
                                               "phases/forward",
                                               "phases/head",
                                               "phases/backward",
                                               "phases/embedding",
                                               "phases/update",
                                               "phases/wait for batches",
                                               "phases/snapshots",
                                               "phases/saves",
                                               "phases/all of it",
                                               "phases/longest stall of a save",
                                               "phases/order, in background",
                                               "phases/forward and backward",
                                               "phases/of multiply-add peak",
                                               "evaluation/evaluation",
                                               "evaluation/examples"};
    for (const std::string &key : positive) {
        ASSERT_EQ(figures.count(key), 1u) << key;
        EXPECT_GT(number(figures.at(key), "median"), 0.0) << key;
        EXPECT_EQ(json_array_size(json_object_get(figures.at(key), "samples")), 1u) << key;
        const std::string name = key.substr(key.find('/') + 1);
        EXPECT_TRUE(contains(outcome.out, "  " + name + " ")) << key;
    }
    ASSERT_EQ(figures.count("phases/rest"), 1u);
    EXPECT_EQ(figures.size(), positive.size() + 1);

    // What follows from what: 5 batches of 64 examples, V 1000 and E = H = D = 64.
    const auto median = [&](const char *key) { return number(figures.at(key), "median"); };
    EXPECT_NEAR(median("training/step") * 5e-3, median("training/pass"),
                1e-9 * median("training/pass"));
    EXPECT_NEAR(median("training/examples") * median("training/pass"), 320, 1e-6);
    EXPECT_NEAR(median("training/recurrence") * 1e9, median("training/tokens") * 2 * 24 * 64 * 64,
                1e-6 * 1e9);
    EXPECT_GT(median("training/all products"), median("training/recurrence"));
    EXPECT_NEAR(median("training/recurrence of peak") * median("training/multiply-add peak"),
                100 * median("training/recurrence"), 1e-6 * 100);
}

TEST_F(BenchTrain, ReportsSavesMadeAndSkipped) {
    const std::string path = directory_.file("train.json");
    const Outcome outcome = bench("--data demo --device cpu --steps 4 --repeats 1 --threads 1 "
                                  "--isa portable --save-checkpoints-steps 2 --json " +
                                  path);
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    std::unique_ptr<json_t, void (*)(json_t *)> root(json_load_file(path.c_str(), 0, nullptr),
                                                     [](json_t *value) { json_decref(value); });
    ASSERT_NE(root, nullptr);
    const Figures figures = figures_of(root.get());
    for (const std::string section : {"training", "phases"}) {
        ASSERT_EQ(figures.count(section + "/saves"), 1u);
        ASSERT_EQ(figures.count(section + "/skipped saves"), 1u);
        EXPECT_EQ(number(figures.at(section + "/saves"), "median") +
                      number(figures.at(section + "/skipped saves"), "median"),
                  2.0);
    }
    // The peak is the machine's, not that of the instruction set asked for.
    const std::string peak = json_string_value(
        json_object_get(json_object_get(root.get(), "facts"), "multiply-add peak"));
    EXPECT_EQ(peak, std::string("of ") + backend_cpu_isa_names()[0] + ", 1 thread");
}

// A figure is not lost for the name of a file.
TEST_F(BenchTrain, PathsNeedNotBeUtf8) {
    const std::string data = directory_.file("d\xFF.csv"), json = directory_.file("j\xFF.json");
    write_file(data, "text,label\na b a,0\nb,1\nc d,0\nc c c,1\n");
    const Outcome outcome = bench("--device cpu --repeats 1 --data " + data + " --json " + json);
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_TRUE(contains(outcome.out, "d\\xFF.csv")) << outcome.out;
    std::unique_ptr<json_t, void (*)(json_t *)> root(json_load_file(json.c_str(), 0, nullptr),
                                                     [](json_t *value) { json_decref(value); });
    ASSERT_NE(root, nullptr);
    json_t *options = json_object_get(root.get(), "options");
    EXPECT_TRUE(contains(json_string_value(json_object_get(options, "data")), "d\\xFF.csv"));
    EXPECT_TRUE(contains(json_string_value(json_object_get(options, "json")), "j\\xFF.json"));
}

TEST_F(BenchTrain, WholeEpochsAreCalledThat) {
    const Outcome outcome =
        bench("--device cpu --hidden-size 8 --embedding-size 8 --repeats 1 --isa reference");
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_TRUE(contains(outcome.out, "  epoch ")) << outcome.out;
    EXPECT_FALSE(contains(outcome.out, "  words ")) << outcome.out; // the reference has none
}

TEST_F(BenchTrain, Errors) {
    const std::string path = directory_.file("x.json");
    const Outcome nowhere = bench("--json /nowhere/x.json");
    EXPECT_EQ(nowhere.code, 73);
    EXPECT_TRUE(contains(nowhere.err, "cairn bench train: --json /nowhere/x.json")) << nowhere.err;
    EXPECT_EQ(bench("--data /nowhere --json " + path).code, 66);
    EXPECT_FALSE(exists(path));
    write_file(path, "kept");
    EXPECT_EQ(bench("--data /nowhere --json " + path).code, 66);
    EXPECT_EQ(read_file(path), "kept");
    EXPECT_EQ(bench("--device cpu --isa sse9").code, 69);
    EXPECT_EQ(bench("--epochs 3").code, 2);
}

} // namespace
