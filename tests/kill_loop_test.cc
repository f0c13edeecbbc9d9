// The main promise, on the real program: SIGKILL it at random moments, start it again with the same
// command, and the final checkpoint equals that of a run nobody touched, in every bit of every
// tensor.
//
// A kill is aimed (wait for a phase, then a random delay), the process is frozen, its phase is read
// off its files, and only then it is killed: the histogram says what was hit, not what was meant.
// CAIRN_KILL_LOOPS sets the number of kills (default 30); CAIRN_KILL_SEED the seed.
#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <poll.h>
#include <random>
#include <set>
#include <sys/inotify.h>
#include <unistd.h>

#include "io/file.h"
#include "tests/support/process.h"
#include "tests/support/small_data.h"
#include "gtest/gtest.h"

namespace {

enum Phase { kLoading, kMidEpoch, kValidation, kSaving, kBetween, kEnd, kAnywhere, kPhases };
const char *const kPhaseNames[kPhases] = {"start, loading", "mid-epoch", "validation", "saving",
                                          "between",        "end",       "anywhere"};

const size_t kTrainExamples = 256, kValidationExamples = 1200, kBatch = 16, kEpochs = 6;
const uint64_t kStepsPerEpoch = kTrainExamples / kBatch, kLastStep = kStepsPerEpoch * kEpochs;

unsigned long setting(const char *name, unsigned long fallback) {
    const char *text = std::getenv(name);
    return text != nullptr ? std::strtoul(text, nullptr, 10) : fallback;
}

// Blocks until a temporary file of a save appears in a directory.
class SaveWatch {
  public:
    explicit SaveWatch(const std::string &directory)
        : fd_(inotify_init1(IN_CLOEXEC | IN_NONBLOCK)) {
        inotify_add_watch(fd_, directory.c_str(), IN_CREATE);
    }
    ~SaveWatch() { close(fd_); }
    SaveWatch(const SaveWatch &) = delete;
    SaveWatch &operator=(const SaveWatch &) = delete;

    // False when `process` ended before one appeared.
    bool wait(Process *process) {
        for (;;) {
            struct pollfd ready = {fd_, POLLIN, 0};
            if (poll(&ready, 1, 20) > 0 && saw_temporary()) {
                return true;
            }
            if (!process->running()) {
                return false;
            }
        }
    }

  private:
    bool saw_temporary() {
        alignas(struct inotify_event) char buffer[8192];
        const ssize_t bytes = read(fd_, buffer, sizeof buffer);
        bool seen = false;
        for (ssize_t at = 0; at < bytes;) {
            const auto *event = reinterpret_cast<const struct inotify_event *>(buffer + at);
            seen |= std::string(event->name).rfind(PUBLISH_TEMP_PREFIX, 0) == 0;
            at += static_cast<ssize_t>(sizeof *event + event->len);
        }
        return seen;
    }

    int fd_;
};

class KillLoop : public testing::Test {
  protected:
    void SetUp() override {
        write_jsonl(dir_.file("train.jsonl"), small_examples(kTrainExamples, 1));
        write_jsonl(dir_.file("validation.jsonl"), small_examples(kValidationExamples, 2));
        random_.seed(setting("CAIRN_KILL_SEED", 1));
    }

    // Large checkpoints, so that saves take long enough to be hit.
    ProcessOptions command(const std::string &model_dir) const {
        ProcessOptions options;
        options.arguments =
            words("train --learning-rate 1e-3 --patience none --threads 1 "
                  "--save-checkpoints-steps 5 --keep-checkpoint-max 3 --checkpoint-busy wait "
                  "--log-step-count-steps 1 --progress json") +
            large_checkpoints() +
            std::vector<std::string>{"--data",
                                     dir_.file("train.jsonl"),
                                     "--validation-data",
                                     dir_.file("validation.jsonl"),
                                     "--model-dir",
                                     model_dir,
                                     "--epochs",
                                     std::to_string(kEpochs),
                                     "--batch-size",
                                     std::to_string(kBatch)};
        return options;
    }

    unsigned below(unsigned limit) {
        return std::uniform_int_distribution<unsigned>(0, limit - 1)(random_);
    }

    Phase draw_target() {
        // In tenths; saves and validations are short, so most kills are aimed at them.
        static const Phase tenths[] = {kSaving,     kSaving,   kSaving,   kValidation, kValidation,
                                       kValidation, kMidEpoch, kMidEpoch, kAnywhere,   kLoading};
        return below(20) == 0 ? kEnd : tenths[below(10)];
    }

    // Where a process stands, by its files. Exact when it is frozen.
    Phase phase(const std::string &model_dir) const {
        uint64_t step = 0, epochs = 0;
        bool started = false, ended = false;
        for (const std::string &line : history_lines(model_dir)) {
            const std::string event = json_field(line, "event");
            if (event == "start") {
                started = old_starts_.count(line) == 0;
            } else if (event == "step") {
                step = std::strtoull(json_field(line, "step").c_str(), nullptr, 10);
            }
            epochs += event == "epoch" ? 1 : 0;
            ended = event == "end";
        }
        if (!started) {
            return kLoading;
        }
        for (const std::string &name : list_directory(model_dir)) {
            if (name.rfind(PUBLISH_TEMP_PREFIX, 0) == 0) {
                return kSaving;
            }
        }
        if (step % kStepsPerEpoch != 0) {
            return kMidEpoch;
        }
        if (step / kStepsPerEpoch > epochs) {
            return kValidation;
        }
        return ended || step == kLastStep ? kEnd : kBetween;
    }

    void remember_starts(const std::string &model_dir) {
        for (const std::string &line : history_lines(model_dir)) {
            if (json_field(line, "event") == "start") {
                old_starts_.insert(line);
            }
        }
    }

    // Wait for the moment of the kill; false when the process ended before it.
    bool aim(Process *process, const std::string &model_dir, Phase target) {
        if (target == kSaving) {
            SaveWatch watch(model_dir);
            const unsigned which = 1 + below(3);
            for (unsigned i = 0; i < which; i++) {
                if (!watch.wait(process)) {
                    return false;
                }
            }
            usleep(below(8000));
            return true;
        }
        if (target == kLoading || target == kAnywhere) {
            usleep(below(target == kLoading ? 30000 : 600000));
            return true;
        }
        if (!process->wait_for([&] { return phase(model_dir) == target; })) {
            return false;
        }
        usleep(below(target == kValidation ? 30000 : 3000));
        return true;
    }

    // One life of the process. True when it was killed, false when it came to its end.
    bool live_and_kill(const std::string &model_dir) {
        const Phase target = draw_target();
        remember_starts(model_dir);
        std::filesystem::create_directories(model_dir); // so that it can be watched from the start
        Process process(command(model_dir));
        if (aim(&process, model_dir, target) && process.freeze()) {
            hits_[phase(model_dir)]++;
            process.signal(SIGKILL);
            process.wait();
            return true;
        }
        EXPECT_EQ(process.wait(), 0) << process.err();
        return false;
    }

    void expect_same_end(const std::string &model_dir, const std::string &reference) {
        EXPECT_EQ(checkpoint_difference(checkpoint_path(reference, kLastStep),
                                        checkpoint_path(model_dir, kLastStep)),
                  "");
        EXPECT_EQ(checkpoint_difference(reference + "/best.safetensors.zst",
                                        model_dir + "/best.safetensors.zst"),
                  "");
        EXPECT_EQ(read_file(reference + "/history.csv"), read_file(model_dir + "/history.csv"));
        // A kill behind the last rename may leave one that retention would have taken; a temporary
        // file never stays, because the next start removes it.
        for (const std::string &name : list_directory(model_dir)) {
            EXPECT_NE(name.rfind(PUBLISH_TEMP_PREFIX, 0), 0u) << name;
        }
    }

    bool enough(unsigned long kills, unsigned long wanted) const {
        return kills >= wanted && hits_[kSaving] >= 5 && hits_[kValidation] >= 5 &&
               hits_[kMidEpoch] >= 5;
    }

    void print_histogram(unsigned long kills, unsigned runs) const {
        std::printf("%lu kills in %u runs:\n", kills, runs);
        for (int i = 0; i < kAnywhere; i++) {
            std::printf("  %-15s %4u %s\n", kPhaseNames[i], hits_[i],
                        std::string(hits_[i], '#').c_str());
        }
    }

    TemporaryDirectory dir_;
    std::mt19937 random_;
    std::set<std::string> old_starts_;
    std::array<unsigned, kPhases> hits_ = {};
};

} // namespace

TEST_F(KillLoop, FinalCheckpointIsThatOfAnUntouchedRun) {
    const std::string reference = dir_.file("reference");
    Outcome untouched = run(command(reference));
    ASSERT_EQ(untouched.code, 0) << untouched.err;

    const unsigned long wanted = setting("CAIRN_KILL_LOOPS", 30);
    unsigned long kills = 0;
    unsigned runs = 0;
    // Far more lives than it should take: a phase that cannot be hit ends the loop and fails below.
    for (unsigned long lives = 0; !enough(kills, wanted) && lives < 20 * wanted; runs++) {
        const std::string model_dir = dir_.file("run" + std::to_string(runs));
        bool alive = true;
        while (alive && !enough(kills, wanted) && lives++ < 20 * wanted) {
            alive = live_and_kill(model_dir);
            kills += alive ? 1 : 0;
        }
        if (alive) {
            Outcome last = run(command(model_dir));
            ASSERT_EQ(last.code, 0) << last.err;
        }
        expect_same_end(model_dir, reference);
        if (HasFailure()) {
            break;
        }
    }
    print_histogram(kills, runs);
    EXPECT_GE(kills, wanted);
    EXPECT_GE(hits_[kSaving], 5u);
    EXPECT_GE(hits_[kValidation], 5u);
    EXPECT_GE(hits_[kMidEpoch], 5u);
}
