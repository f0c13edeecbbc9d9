// Resume = no stop: a run that was stopped, at whatever point and as often as one likes, ends in
// the very bits of the run that never was: every tensor of the final checkpoint (the restored state
// is among them), history.csv, and the `step` and `epoch` events of history.jsonl apart from times.
// And the number of threads changes nothing.
#include <algorithm>
#include <csignal>
#include <filesystem>

#include "tests/support/train_fixture.h"
#include "gtest/gtest.h"

namespace {

// A flat JSON line without the fields that depend on the clock.
std::string without_times(const std::string &line) {
    std::string rest;
    for (size_t at = 0, end; at < line.size(); at = end) {
        end = std::min(line.find(",\"", at + 1), line.size());
        const std::string field = line.substr(at, end - at);
        if (!contains(field, "_seconds\":") && !contains(field, "examples_per_second\":")) {
            rest += field;
        }
    }
    return rest;
}

std::vector<std::string> timeless_events(const std::string &model_dir) {
    std::vector<std::string> events;
    for (const std::string &line : history_lines(model_dir)) {
        const std::string event = json_field(line, "event");
        if (event == "step" || event == "epoch") {
            events.push_back(without_times(line));
        }
    }
    return events;
}

uint64_t last_step(const std::string &model_dir) {
    const std::vector<uint64_t> steps = checkpoint_steps(model_dir);
    return steps.empty() ? 0 : steps.back();
}

void expect_same_run(const std::string &reference, const std::string &other) {
    ASSERT_GT(last_step(reference), 0u);
    ASSERT_EQ(last_step(other), last_step(reference));
    EXPECT_EQ(checkpoint_difference(checkpoint_path(reference, last_step(reference)),
                                    checkpoint_path(other, last_step(other))),
              "");
    EXPECT_EQ(read_file(other + "/history.csv"), read_file(reference + "/history.csv"));
    const std::vector<std::string> events = timeless_events(reference);
    EXPECT_FALSE(events.empty());
    EXPECT_EQ(timeless_events(other), events);
}

class Resume : public TrainFixture {
  protected:
    std::string reference() const { return dir_.file("reference"); }

    // The run that is compared: `common` for both, the reference without a stop.
    void run_reference(const std::vector<std::string> &common) {
        common_ = common + words("--log-step-count-steps 3");
        ASSERT_EQ(go(reference()), 0);
    }

    int go(const std::string &model_dir, const std::vector<std::string> &more = {}) {
        Outcome outcome =
            train(common_ + std::vector<std::string>{"--model-dir", model_dir} + more);
        EXPECT_EQ(outcome.code, 0) << outcome.err;
        return outcome.code;
    }

    // Stop at each of `stops`, then run to the end.
    void run_with_stops(const std::vector<uint64_t> &stops) {
        for (uint64_t stop : stops) {
            ASSERT_EQ(go(model(), {"--max-steps", std::to_string(stop)}), 0);
            ASSERT_EQ(last_step(model()), stop);
        }
        ASSERT_EQ(go(model()), 0);
        expect_same_run(reference(), model());
    }

    std::vector<std::string> common_;
};

// ---- every data source ----

class Source : public Resume, public testing::WithParamInterface<std::string> {
  protected:
    void SetUp() override {
        Resume::SetUp();
        const std::string kind = GetParam();
        const std::vector<Example> training = small_examples(128, 1), test = small_examples(64, 2);
        if (kind == "demo") {
            data_ = {"--data", "demo", "--batch-size", "512"};
        } else if (kind == "jsonl") {
            data_ = {"--data", dir_.file("train.jsonl"), "--validation-split", "0.2"};
        } else if (kind == "csv" || kind == "tsv") {
            const auto write = kind == "csv" ? write_csv : write_tsv;
            write(dir_.file("train." + kind), training);
            write(dir_.file("validation." + kind), test);
            data_ = {"--data", dir_.file("train." + kind), "--validation-data",
                     dir_.file("validation." + kind)};
        } else {
            write_folder(dir_.file("folder"), training, test);
            data_ = {"--data", dir_.file("folder")};
        }
        if (kind == "tar.zst" && run({.program = "zstd", .arguments = {"--version"}}).code != 0) {
            GTEST_SKIP() << "there is no zstd program to make the archive with";
        }
        if (kind.rfind("tar", 0) == 0) {
            data_ = {"--data", dir_.file("archive." + kind)};
            write_archive(data_.back(), dir_.file("folder"));
        }
    }
};

} // namespace

// The comparison itself: it tells apart what is not the same run.
TEST_F(Resume, AnotherSeedIsAnotherRun) {
    run_reference({});
    ASSERT_EQ(go(model(), {"--seed", "2"}), 0);
    const std::string difference =
        checkpoint_difference(checkpoint_path(reference(), 16), checkpoint_path(model(), 16));
    EXPECT_TRUE(contains(difference, "embedding.weight")) << difference;
    EXPECT_TRUE(contains(difference, "adam.v.dense.bias")) << difference;
    EXPECT_NE(timeless_events(reference()), timeless_events(model()));
}

// Stops in mid-epoch, at an epoch's end, right after it, and twice in a row.
TEST_P(Source, StopsByMaxSteps) {
    run_reference({"--epochs", "3"});
    const uint64_t per_epoch = last_step(reference()) / 3;
    ASSERT_GE(per_epoch, 3u);
    run_with_stops({2, per_epoch, per_epoch + 1, 2 * per_epoch + per_epoch / 2});
}

INSTANTIATE_TEST_SUITE_P(Every, Source,
                         testing::Values("demo", "folder", "tar", "tar.gz", "tar.zst", "csv", "tsv",
                                         "jsonl"),
                         [](const testing::TestParamInfo<std::string> &information) {
                             std::string name = information.param;
                             std::replace(name.begin(), name.end(), '.', '_');
                             return name;
                         });

// The same tree gives the same run, packed or not.
TEST_F(Resume, FolderAndArchiveAreTheSameData) {
    write_folder(dir_.file("folder"), small_examples(128, 1), small_examples(64, 2));
    write_archive(dir_.file("folder.tar.gz"), dir_.file("folder"));
    data_ = {"--data", dir_.file("folder")};
    ASSERT_EQ(go(reference()), 0);
    ASSERT_EQ(go(model(), {"--max-steps", "9"}), 0);
    data_.back() = dir_.file("folder.tar.gz");
    ASSERT_EQ(go(model()), 0); // goes on with the other form of the same data
    expect_same_run(reference(), model());
}

// ---- every order of the data ----

TEST_F(Resume, ShuffleBuffer) {
    run_reference({"--shuffle", "buffer", "--shuffle-buffer", "40", "--epochs", "3"});
    run_with_stops({3, 8, 13, 21});
}

TEST_F(Resume, PlainOrderWithoutWindows) {
    run_reference({"--shuffle", "none", "--bucket-window", "0", "--epochs", "3"});
    run_with_stops({3, 8, 13, 21});
}

TEST_F(Resume, ShortLastBatch) {
    run_reference({"--batch-size", "24", "--bucket-window", "48", "--epochs", "3"});
    ASSERT_EQ(last_step(reference()), 18u); // 128 = 5 * 24 + 8
    run_with_stops({5, 6, 7, 12, 17});
}

TEST_F(Resume, EveryStepIsAStop) {
    run_reference({});
    std::vector<uint64_t> stops;
    for (uint64_t step = 1; step < 2 * kStepsPerEpoch; step++) {
        stops.push_back(step);
    }
    run_with_stops(stops);
}

TEST_F(Resume, ClippedGradients) {
    run_reference({"--clip-norm", "0.05", "--epochs", "3"});
    run_with_stops({3, 11});
}

// ---- patience ----

// Overfitting on purpose: the run ends early, and every stop falls into the epochs without
// improvement.
TEST_F(Resume, DuringPatience) {
    for (const char *restore : {"no", "yes"}) {
        std::vector<std::string> common = {"--learning-rate", "0.05", "--patience", "3",
                                           "--epochs",        "60"};
        if (std::string(restore) == "yes") {
            common.push_back("--restore-best-weights");
        }
        run_reference(common);
        const uint64_t end = last_step(reference()), epochs = end / kStepsPerEpoch;
        ASSERT_LT(epochs, 60u) << "never stopped early";
        ASSERT_GT(epochs, 3u);
        run_with_stops({end - 3 * kStepsPerEpoch + 1, end - 2 * kStepsPerEpoch,
                        end - kStepsPerEpoch + 4, end - 1});
        std::filesystem::remove_all(reference());
        std::filesystem::remove_all(model());
    }
}

TEST_F(Resume, BestModelIsNotForgotten) {
    run_reference({"--learning-rate", "0.05", "--patience", "none", "--epochs", "8"});
    run_with_stops({20, 40, 60});
    EXPECT_EQ(checkpoint_difference(reference() + "/best.safetensors.zst",
                                    model() + "/best.safetensors.zst"),
              "");
}

// ---- signals ----

// SIGTERM wherever it falls, again and again, until the run is through.
TEST_F(Resume, StopsBySignal) {
    run_reference({"--epochs", "120", "--patience", "none"}); // long enough on a busy machine
    unsigned stops = 0;
    for (int code = 75; code == 75;) {
        const uint64_t begin = last_step(model());
        Process process({.program = "", .arguments = train_arguments(common_)});
        process.wait_for([&] {
            const std::vector<std::string> lines = history_lines(model());
            return std::any_of(lines.begin(), lines.end(), [&](const std::string &line) {
                return json_field(line, "event") == "step" &&
                       std::stoull(json_field(line, "step")) > begin + 20;
            });
        });
        process.signal(SIGTERM);
        code = process.wait();
        ASSERT_TRUE(code == 0 || code == 75) << process.err();
        stops += code == 75 ? 1 : 0;
    }
    EXPECT_GE(stops, 3u);
    expect_same_run(reference(), model());
}

// ---- threads ----

TEST_F(Resume, ThreadsChangeNothing) {
    for (const char *batch : {"1", "5", "64"}) {
        run_reference({"--batch-size", batch, "--max-steps", "40", "--epochs", "20", "--patience",
                       "none", "--hidden-size", "20"});
        for (const char *threads : {"2", "3", "8"}) {
            ASSERT_EQ(go(model(), {"--threads", threads}), 0);
            expect_same_run(reference(), model());
            std::filesystem::remove_all(model());
        }
        std::filesystem::remove_all(reference());
    }
}

// ---- kernels ----

// Every path of this processor: what `cairn --version` lists, and bf16 where it is not refused.
TEST_F(Resume, EveryKernelPathContinues) {
    const std::string version = run_cairn({"--version"}).out, key = "instruction sets:";
    ASSERT_TRUE(contains(version, key)) << version;
    std::vector<std::vector<std::string>> paths;
    for (const std::string &isa : words(version.substr(version.find(key) + key.size()))) {
        paths.push_back({"--isa", isa});
    }
    ASSERT_GE(paths.size(), 2u) << version; // portable and reference are everywhere
    paths.push_back({"--precision", "bf16"});
    const std::vector<std::string> sizes = words("--hidden-size 20 --threads 2");
    for (const std::vector<std::string> &path : paths) {
        SCOPED_TRACE(path[1]);
        if (path[1] == "bf16" &&
            train(path + std::vector<std::string>{"--model-dir", model()}).code == 69) {
            printf("this processor has no bf16\n"); // cpu_backend_test knows which have it
            continue;
        }
        std::filesystem::remove_all(model());
        run_reference(sizes + path);
        run_with_stops({3, 8, 13});
        std::filesystem::remove_all(model());
        std::filesystem::remove_all(reference());
    }
}

// To another precision and back: allowed, and said to be more than another set of last bits.
TEST_F(Resume, AnotherPrecisionIsSaid) {
    const std::vector<std::string> bf16 = {"--precision", "bf16", "--max-steps", "3"};
    if (train(bf16).code == 69) {
        printf("this processor has no bf16\n");
        return;
    }
    for (const std::string steps : {"6", "9"}) {
        const std::string precision = steps == "6" ? "fp32" : "bf16";
        const Outcome outcome = train({"--precision", precision, "--max-steps", steps});
        EXPECT_EXIT_CODE(outcome, 0);
        EXPECT_SAYS(outcome, "Warning: the checkpoint was computed by cpu-fused-avx512");
        EXPECT_SAYS(outcome, "products of another precision");
        EXPECT_SAYS(outcome, "(--precision pins it)");
    }
}
