// The program itself on the simulated device: what it says, what it refuses, that its results depend
// on neither the schedule nor the graph, and how it ends when the device fails.
#include <cstdlib>
#include <filesystem>
#include <map>

#include "tests/support/train_fixture.h"

namespace {

class CudaProcess : public TrainFixture {
  protected:
    // Training on the simulated device with `seed` of its schedules.
    Outcome go(const std::vector<std::string> &more, const std::string &seed = "1",
               const std::map<std::string, std::string> &environment = {}) const {
        ProcessOptions options;
        options.arguments = train_arguments(more);
        options.environment = environment;
        options.environment["CAIRN_DEVICE"] = "cuda";
        options.environment["CAIRN_SIM_SEED"] = seed;
        options.environment["CAIRN_SIM_STRICT"] = "1"; // a reported fault is exit 86
        return run(options);
    }

    void expect_same_run(const std::string &a, const std::string &b) {
        std::vector<uint64_t> steps = checkpoint_steps(a);
        ASSERT_FALSE(steps.empty());
        ASSERT_EQ(steps, checkpoint_steps(b));
        for (uint64_t step : steps) {
            EXPECT_EQ(checkpoint_difference(checkpoint_path(a, step), checkpoint_path(b, step)), "")
                << "step " << step;
        }
        EXPECT_EQ(read_file(a + "/history.csv"), read_file(b + "/history.csv"));
    }
};

// ---- what it says ----

TEST_F(CudaProcess, VersionAndHeaderSaySimulated) {
    Outcome version = run_cairn({"--version"});
    EXPECT_EXIT_CODE(version, 0);
    EXPECT_TRUE(contains(version.out, "SIMULATED")) << version.out;
    Outcome trained = go({"--max-steps", "2"});
    EXPECT_EXIT_CODE(trained, 0);
    EXPECT_SAYS(trained, "Device: SIMULATED CUDA device, cuda:0");
    Outcome inspected = run_cairn({"inspect", checkpoint_path(model(), 2)});
    EXPECT_TRUE(contains(inspected.out, "simulated-cuda-fused")) << inspected.out;
}

TEST_F(CudaProcess, AutoIsTheCpu) {
    Outcome trained = train({"--device", "auto", "--max-steps", "2"});
    EXPECT_EXIT_CODE(trained, 0);
    EXPECT_SAYS(trained, "Device: CPU");
}

// What puts the other process tests on the device does so.
TEST_F(CudaProcess, TestsRunOnTheDeviceThatTheyAreToldTo) {
    setenv("CAIRN_TEST_DEVICE", "cuda", 1);
    Outcome trained = train({"--max-steps", "2"});
    unsetenv("CAIRN_TEST_DEVICE");
    EXPECT_EXIT_CODE(trained, 0);
    EXPECT_SAYS(trained, "Device: SIMULATED");
}

// ---- what it refuses ----

TEST_F(CudaProcess, WhatTheDeviceLacksIs69) {
    const struct {
        const char *options, *says;
    } rows[] = {
        {"--hidden-size 129", "129"},
        {"--lstm cudnn", "--lstm cudnn"},
        {"--lstm fused --hidden-size 160", "--lstm fused"},
        {"--precision tf32", "--precision"},
        {"--device cuda:64", "cuda:64"},
        {"--isa portable", "--isa portable"},
    };
    for (const auto &row : rows) {
        SCOPED_TRACE(row.options);
        Outcome outcome = go(words(row.options));
        EXPECT_EXIT_CODE(outcome, 69);
        EXPECT_SAYS(outcome, row.says);
        EXPECT_TRUE(checkpoint_steps(model()).empty());
    }
}

// ---- the same bits ----

TEST_F(CudaProcess, SchedulesAndTheGraphChangeNothing) {
    const std::vector<std::string> saves = {
        "--save-checkpoints-steps", "3", "--keep-checkpoint-max", "0", "--clip-norm", "0.5",
        "--restore-best-weights"};
    Outcome first = go(saves);
    ASSERT_EQ(first.code, 0) << first.err;
    for (int seed = 2; seed <= 9; seed++) {
        SCOPED_TRACE("schedule " + std::to_string(seed));
        const std::string other = dir_.file("model" + std::to_string(seed));
        Outcome again = go(saves + std::vector<std::string>{"--model-dir", other, "--cuda-graph",
                                                            seed % 3 == 0 ? "off" : "on"},
                           std::to_string(seed));
        ASSERT_EQ(again.code, 0) << again.err;
        expect_same_run(model(), other);
    }
}

// The same mathematics: one epoch's loss on the device is the CPU's to rounding.
TEST_F(CudaProcess, LearnsWhatTheCpuLearns) {
    const std::string other = dir_.file("cpu");
    ASSERT_EQ(go({}).code, 0);
    ASSERT_EQ(train({"--model-dir", other, "--device", "cpu"}).code, 0);
    auto losses = [](const std::string &directory) {
        std::vector<double> values;
        for (const std::string &line : history_lines(directory)) {
            if (json_field(line, "event") == "epoch") {
                values.push_back(std::atof(json_field(line, "loss").c_str()));
                values.push_back(std::atof(json_field(line, "val_loss").c_str()));
            }
        }
        return values;
    };
    std::vector<double> ours = losses(model()), theirs = losses(other);
    ASSERT_EQ(ours.size(), 4u);
    ASSERT_EQ(theirs.size(), 4u);
    for (size_t i = 0; i < ours.size(); i++) {
        EXPECT_GT(theirs[i], 0);
        EXPECT_NEAR(ours[i], theirs[i], 1e-4 * theirs[i]);
    }
}

TEST_F(CudaProcess, GoesOnFromACheckpointOfTheCpuWithAWarning) {
    ASSERT_EQ(train({"--device", "cpu", "--max-steps", "5"}).code, 0);
    Outcome resumed = go({"--max-steps", "7"});
    EXPECT_EXIT_CODE(resumed, 0);
    EXPECT_SAYS(resumed, "Resumed from");
    EXPECT_SAYS(resumed, "simulated-cuda-fused");
    EXPECT_EQ(checkpoint_steps(model()).back(), 7u);
}

// ---- a device that fails ----

class CudaFailure : public CudaProcess {
  protected:
    const std::vector<std::string> saves_ = {"--save-checkpoints-steps", "2"};

    void SetUp() override {
        CudaProcess::SetUp();
        ASSERT_EQ(go(saves_ + std::vector<std::string>{"--model-dir", untouched()}).code, 0);
    }
    std::string untouched() const { return dir_.file("untouched"); }

    // What was saved before is good, and the run that goes on from it ends as the untouched one.
    void expect_nothing_lost() {
        Outcome verified = run_cairn({"checkpoints", "--verify", "--model-dir", model()});
        EXPECT_EXIT_CODE(verified, 0);
        Outcome resumed = go(saves_);
        EXPECT_EXIT_CODE(resumed, 0);
        EXPECT_SAYS(resumed, "Resumed from");
        uint64_t last = 2 * kStepsPerEpoch;
        EXPECT_EQ(checkpoint_difference(checkpoint_path(untouched(), last),
                                        checkpoint_path(model(), last)),
                  "");
        EXPECT_EQ(read_file(untouched() + "/history.csv"), read_file(model() + "/history.csv"));
    }

    bool names_an_operation(const std::string &text) {
        for (const char *name : {"lstm_forward", "head_forward_backward", "lstm_backward",
                                 "embedding_grad", "global_norm", "adam_step"}) {
            if (contains(text, std::string("CUDA ") + name)) {
                return true;
            }
        }
        return false;
    }
};

TEST_F(CudaFailure, AKernelThatFailsIs69AndNamesTheOperation) {
    for (const char *nth : {"30", "77", "111", "150", "201"}) {
        SCOPED_TRACE(std::string("launch ") + nth);
        std::filesystem::remove_all(model());
        Outcome failed = go(saves_, "3", {{"CAIRN_SIM_FAIL_LAUNCH", nth}});
        EXPECT_EXIT_CODE(failed, 69);
        EXPECT_TRUE(names_an_operation(failed.err)) << failed.err;
        EXPECT_SAYS(failed, "cudaErrorLaunchFailure");
        ASSERT_FALSE(checkpoint_steps(model()).empty()) << failed.err;
        expect_nothing_lost();
    }
}

TEST_F(CudaFailure, TheFirstKernelThatFailsIs69BeforeAnythingElse) {
    Outcome failed = go(saves_, "3", {{"CAIRN_SIM_FAIL_LAUNCH", "1"}});
    EXPECT_EXIT_CODE(failed, 69);
    EXPECT_SAYS(failed, "--device cuda");
    EXPECT_TRUE(checkpoint_steps(model()).empty());
}

TEST_F(CudaFailure, ACopyThatFailsIs69AndLosesNothing) {
    for (const char *nth : {"40", "55", "70", "85"}) {
        SCOPED_TRACE(std::string("copy ") + nth);
        std::filesystem::remove_all(model());
        Outcome failed = go(saves_, "4", {{"CAIRN_SIM_FAIL_COPY", nth}});
        EXPECT_EXIT_CODE(failed, 69);
        EXPECT_SAYS(failed, "cudaErrorECCUncorrectable");
        ASSERT_FALSE(checkpoint_steps(model()).empty()) << failed.err;
        expect_nothing_lost();
    }
}

TEST_F(CudaFailure, MemoryThatIsNotThereIsSaid) {
    for (const char *nth : {"1", "3", "6", "10", "14"}) {
        SCOPED_TRACE(std::string("allocation ") + nth);
        std::filesystem::remove_all(model());
        Outcome failed = go(saves_, "5", {{"CAIRN_SIM_FAIL_ALLOC", nth}});
        EXPECT_NE(failed.code, 0);
        EXPECT_LT(failed.code, 80) << failed.err; // no signal, no fault of ours
        EXPECT_SAYS(failed, "memory");
    }
}

} // namespace
