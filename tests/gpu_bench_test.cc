// bench/gpu.sh on the simulated device: every section runs or says why not, a failure is recorded
// and does not stop the others, and figures that are not of a GPU are not published as such.
#include <cstdlib>
#include <set>
#include <string>
#include <vector>

#include <sys/stat.h>

#include <jansson.h>

#include "tests/support/process.h"
#include "gtest/gtest.h"

namespace {

const std::string kScript = CAIRN_SOURCE_DIR "/bench/gpu.sh";

class GpuBench : public testing::Test {
  protected:
    ~GpuBench() override { json_decref(root_); }

    Outcome go(const std::vector<std::string> &more, const std::string &fail = "") {
        ProcessOptions options;
        options.program = kScript;
        options.arguments = words("--device sim --quick --build " CAIRN_BUILD_DIR " --output") +
                            std::vector<std::string>{file()} + more;
        if (!fail.empty()) {
            options.environment["CAIRN_GPU_FAIL"] = fail;
        }
        Outcome outcome = finish(options);
        root_ = json_load_file(file().c_str(), 0, nullptr);
        return outcome;
    }

    // A machine that does much else takes its time.
    static Outcome finish(const ProcessOptions &options) {
        Process process(options);
        const int code = process.wait(600);
        return {code, process.out(), process.err()};
    }

    std::string file() const { return directory_.file("gpu.json"); }
    json_t *section(const char *name) const {
        return json_object_get(json_object_get(root_, "sections"), name);
    }
    std::string status(const char *name) const {
        const char *text = json_string_value(json_object_get(section(name), "status"));
        return text != nullptr ? text : "";
    }
    json_t *data(const char *name) const { return json_object_get(section(name), "data"); }

    TemporaryDirectory directory_;
    json_t *root_ = nullptr;
};

double number(json_t *object, const char *name) {
    return json_number_value(json_object_get(object, name));
}

TEST_F(GpuBench, EverySectionRunsOrSaysWhyNot) {
    Outcome outcome = go({});
    ASSERT_EQ(outcome.code, 0) << outcome.out << outcome.err;
    ASSERT_NE(root_, nullptr);
    EXPECT_TRUE(json_is_true(json_object_get(root_, "simulated")));
    EXPECT_TRUE(contains(outcome.out, "SIMULATED")) << outcome.out;
    for (const char *name :
         {"machine", "build", "tests", "process", "ops", "epochs", "saves", "checkpoint"}) {
        EXPECT_EQ(status(name), "ok") << name;
        EXPECT_NE(data(name), nullptr) << name;
    }
    for (const char *name : {"memcheck", "racecheck", "torch"}) {
        EXPECT_EQ(status(name), "skipped") << name;
        EXPECT_NE(json_object_get(section(name), "why"), nullptr) << name;
    }
    EXPECT_EQ(json_array_size(json_object_get(root_, "failed")), 0u);

    EXPECT_GT(number(data("tests"), "passed"), 0.0);
    EXPECT_GT(number(data("process"), "passed"), 0.0);
    EXPECT_EQ(json_array_size(json_object_get(data("tests"), "failed")), 0u);

    EXPECT_STREQ(json_string_value(json_object_get(data("ops"), "figures_of")), "simulated device");
    EXPECT_EQ(json_array_size(json_object_get(data("ops"), "failures")), 0u);
    size_t i;
    json_t *entry;
    json_array_foreach(json_object_get(data("ops"), "entries"), i, entry) {
        if (json_is_false(json_object_get(entry, "derived")) &&
            std::string("us") == json_string_value(json_object_get(entry, "unit"))) {
            EXPECT_GT(number(entry, "median"), 0.0) << i;
        }
        EXPECT_STREQ(json_string_value(json_object_get(entry, "kernel_path")),
                     "simulated-cuda-fused");
    }
    EXPECT_GT(i, 50u);
    // The simulated device has no cuDNN: that is told, not hidden.
    EXPECT_GT(json_array_size(json_object_get(data("ops"), "absent")), 0u);

    for (const char *variant : {"fused-graph", "fused-no-graph", "random-order"}) {
        json_t *run = json_object_get(data("epochs"), variant);
        EXPECT_GT(number(run, "median_after_first"), 0.0) << variant;
    }
    EXPECT_EQ(json_object_get(data("epochs"), "cudnn"), nullptr);
    EXPECT_GT(number(data("saves"), "saves"), 1.0);
    EXPECT_GT(number(json_object_get(data("saves"), "stall_us"), "median"), 0.0);

    std::set<std::string> timed; // ways to save whose stall is known
    json_array_foreach(json_object_get(data("checkpoint"), "figures"), i, entry) {
        if (std::string("stall p50") == json_string_value(json_object_get(entry, "name"))) {
            EXPECT_GT(number(entry, "median"), 0.0) << i;
            timed.insert(json_string_value(json_object_get(entry, "section")));
        }
    }
    for (const char *way : {"async+zstd", "direct+zstd"}) {
        EXPECT_EQ(timed.count(std::string("dir, real, ") + way + ", every 10"), 1u) << way;
    }
    // Where the data lie is nobody's business.
    EXPECT_STREQ(
        json_string_value(json_object_get(json_object_get(data("checkpoint"), "options"), "data")),
        "small.csv");
}

TEST_F(GpuBench, AFailureIsRecordedAndStopsNothing) {
    Outcome outcome = go({"--sections", "build,ops,saves"}, "ops");
    EXPECT_EQ(outcome.code, 1) << outcome.out << outcome.err;
    ASSERT_NE(root_, nullptr);
    json_t *failed = json_object_get(root_, "failed");
    ASSERT_EQ(json_array_size(failed), 1u);
    EXPECT_STREQ(json_string_value(json_array_get(failed, 0)), "ops");
    EXPECT_EQ(status("ops"), "failed");
    EXPECT_GT(json_array_size(json_object_get(section("ops"), "error")), 0u);
    EXPECT_EQ(status("saves"), "ok");
}

TEST_F(GpuBench, WhatIsNotOfAGpuIsNotPublishedAsSuch) {
    ProcessOptions options;
    options.program = kScript;
    options.arguments = words("--device sim --build " CAIRN_BUILD_DIR " --output " CAIRN_SOURCE_DIR
                              "/bench/results/x.json");
    EXPECT_EQ(run(options).code, 2);

    // A machine that seems to have a card, and a build that is not for it.
    const std::string card = directory_.file("nvidia-smi");
    write_file(card, "#!/bin/sh\n"
                     "case \"$*\" in\n"
                     "--list-gpus) echo 'GPU 0: a card' ;;\n"
                     "*) printf 'name, compute_cap\\na card, 9.0\\n' ;;\n"
                     "esac\n");
    ASSERT_EQ(chmod(card.c_str(), 0755), 0);
    options.program = "env";
    options.arguments = {"PATH=" + directory_.path() + ":" + getenv("PATH"), kScript};
    options.arguments =
        options.arguments +
        words("--quick --sections ops --build " CAIRN_BUILD_DIR " --output " + file());
    Outcome refused = finish(options);
    EXPECT_EQ(refused.code, 1) << refused.out << refused.err;
    EXPECT_TRUE(contains(refused.out, "figures of the simulated device")) << refused.out;
    root_ = json_load_file(file().c_str(), 0, nullptr);
    ASSERT_NE(root_, nullptr);
    EXPECT_EQ(status("ops"), "failed");
    EXPECT_EQ(data("ops"), nullptr);
}

} // namespace
