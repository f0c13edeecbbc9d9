// Stop signals against the real program, in every phase: a good save and exit 75 from training, a
// prompt end from everything else, and a second signal that does not wait.
//
// Loading is held still by a named pipe as the data: the reader waits for us, not for a clock.
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <sys/stat.h>
#include <unistd.h>

#include "io/file.h"
#include "tests/support/checkpoint_edit.h"
#include "tests/support/process.h"
#include "tests/support/small_data.h"
#include "gtest/gtest.h"

namespace {

const size_t kTrain = 256, kBatch = 16;
const uint64_t kStepsPerEpoch = kTrain / kBatch;

// A named pipe that a child reads from.
class Pipe {
  public:
    explicit Pipe(const std::string &path) : path_(path) {
        std::signal(SIGPIPE, SIG_IGN);
        if (mkfifo(path.c_str(), 0600) != 0) {
            ADD_FAILURE() << path << ": " << std::strerror(errno);
        }
    }
    ~Pipe() { shut(); }
    Pipe(const Pipe &) = delete;
    Pipe &operator=(const Pipe &) = delete;

    const std::string &path() const { return path_; }

    // Opens once the child has opened its end.
    bool open_for(Process *process) {
        return process->wait_for([&] {
            fd_ = open(path_.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
            return fd_ >= 0;
        });
    }

    void say(const std::string &text) const {
        EXPECT_EQ(write(fd_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
    }

    // Keep talking until the child closes its end.
    void talk_until_closed(Process *process, const std::string &line) const {
        EXPECT_TRUE(process->wait_for([&] {
            const ssize_t written = write(fd_, line.data(), line.size());
            return written < 0 && errno == EPIPE;
        })) << process->err();
    }

    void shut() {
        if (fd_ >= 0) {
            close(fd_);
        }
        fd_ = -1;
    }

  private:
    std::string path_;
    int fd_ = -1;
};

const char *const kLine = "{\"text\": \"a bright film\", \"label\": 1}\n"
                          "{\"text\": \"a dull film\", \"label\": 0}\n";

class Signals : public testing::Test {
  protected:
    void SetUp() override {
        write_jsonl(dir_.file("train.jsonl"), small_examples(kTrain, 1));
        write_jsonl(dir_.file("validation.jsonl"), small_examples(1200, 2));
    }

    // Far more epochs than any test waits for.
    ProcessOptions train(const std::vector<std::string> &more = {}) const {
        ProcessOptions options;
        options.arguments = words("train --epochs 100000 --patience none --threads 1 "
                                  "--log-step-count-steps 1 --model-dir " +
                                  model()) +
                            std::vector<std::string>{"--data",
                                                     dir_.file("train.jsonl"),
                                                     "--validation-data",
                                                     dir_.file("validation.jsonl"),
                                                     "--batch-size",
                                                     std::to_string(kBatch)} +
                            more;
        return options;
    }

    std::string model() const { return dir_.file("model"); }

    uint64_t last_step() const {
        uint64_t step = 0;
        for (const std::string &line : history_lines(model())) {
            if (json_field(line, "event") == "step") {
                step = std::strtoull(json_field(line, "step").c_str(), nullptr, 10);
            }
        }
        return step;
    }

    size_t epochs_done() const {
        size_t epochs = 0;
        for (const std::string &line : history_lines(model())) {
            epochs += json_field(line, "event") == "epoch" ? 1 : 0;
        }
        return epochs;
    }

    bool in_mid_epoch() const { return last_step() % kStepsPerEpoch != 0; }
    bool in_validation() const { return last_step() / kStepsPerEpoch > epochs_done(); }

    bool in_a_save() const {
        for (const std::string &name : list_directory(model())) {
            if (name.rfind(PUBLISH_TEMP_PREFIX, 0) == 0) {
                return true;
            }
        }
        return false;
    }

    // The newest checkpoint is good, is that of the last step that was logged, and can be gone on
    // from.
    void expect_good_save(std::vector<std::string> more) {
        const std::vector<uint64_t> steps = checkpoint_steps(model());
        ASSERT_FALSE(steps.empty());
        EXPECT_EQ(steps.back(), last_step());
        Outcome verify = run_cairn({"checkpoints", "--model-dir", model(), "--verify"});
        EXPECT_EQ(verify.code, 0) << verify.err;
        EXPECT_FALSE(in_a_save());
        more.insert(more.end(), {"--max-steps", std::to_string(steps.back() + 3)});
        Outcome resumed = run(train(more));
        EXPECT_EQ(resumed.code, 0) << resumed.err;
        EXPECT_EQ(checkpoint_steps(model()).back(), steps.back() + 3);
    }

    // As in_a_save, for a checkpoint: the state file and others are published the same way.
    bool in_a_checkpoint_save() const {
        for (const std::string &name : list_directory(model())) {
            if (name.rfind(PUBLISH_TEMP_PREFIX "model.ckpt-", 0) == 0) {
                return true;
            }
        }
        return false;
    }

    // Stop the process in the very moment that `moment` describes: it must still hold when nothing
    // of the process runs any more, and then the signal is sent. False when it was never met.
    bool stop_train_in(Process *process, const std::function<bool()> &moment, int number) {
        for (int attempt = 0; attempt < 50; attempt++) {
            if (!process->wait_for(moment) || !process->freeze()) {
                return false;
            }
            const bool met = moment();
            if (met) {
                process->signal(number);
            }
            process->signal(SIGCONT);
            if (met) {
                EXPECT_EQ(process->wait(20), 75) << process->err();
                return true;
            }
        }
        return false;
    }

    void stop_train_when(const std::function<bool()> &moment, int number,
                         const std::vector<std::string> &more = {}) {
        Process process(train(more));
        ASSERT_TRUE(process.wait_for(moment)) << process.err();
        process.signal(number);
        EXPECT_EQ(process.wait(20), 75) << process.err();
        expect_good_save(more);
    }

    TemporaryDirectory dir_;
};

} // namespace

// ---- training ----

TEST_F(Signals, TermInMidEpoch) {
    stop_train_when([&] { return last_step() > kStepsPerEpoch && in_mid_epoch(); }, SIGTERM);
}

TEST_F(Signals, InterruptInMidEpoch) {
    stop_train_when([&] { return last_step() > 2 && in_mid_epoch(); }, SIGINT);
}

TEST_F(Signals, User1InMidEpoch) {
    stop_train_when([&] { return last_step() > 2 && in_mid_epoch(); }, SIGUSR1);
}

TEST_F(Signals, HangupInMidEpoch) {
    stop_train_when([&] { return last_step() > 2 && in_mid_epoch(); }, SIGHUP);
}

// The epoch is trained and its validation broken off: the state says that it is still to come, and
// there is no result of it. A run that was past its validation when it was stopped does not count,
// but the validation is so much longer than what follows that ten runs in a row cannot be.
TEST_F(Signals, TermInValidation) {
    for (int attempt = 0; attempt < 10; attempt++) {
        std::filesystem::remove_all(model());
        Process process(train());
        ASSERT_TRUE(stop_train_in(
            &process, [&] { return last_step() >= kStepsPerEpoch && in_validation(); }, SIGTERM))
            << process.err();
        const uint64_t step = last_step();
        ASSERT_EQ(step % kStepsPerEpoch, 0u);
        ASSERT_EQ(checkpoint_steps(model()).back(), step);
        const std::string saved = checkpoint_path(model(), step);
        if (checkpoint_count(saved, "state.phase") != 1) {
            continue;
        }
        const uint64_t finished = step / kStepsPerEpoch - 1;
        EXPECT_EQ(epochs_done(), finished);
        EXPECT_EQ(checkpoint_count(saved, "state.epoch"), static_cast<int64_t>(finished));
        EXPECT_EQ(checkpoint_rows(saved, "history.epochs"), static_cast<int64_t>(finished));
        expect_good_save({});
        EXPECT_EQ(epochs_done(), finished + 1); // the resumed run made up for it
        return;
    }
    FAIL() << "no validation was ever broken off";
}

TEST_F(Signals, TermDuringASave) {
    // A save at every step, and slow ones: the moment is met soon.
    const std::vector<std::string> more = words("--save-checkpoints-steps 1") + large_checkpoints();
    Process process(train(more));
    ASSERT_TRUE(stop_train_in(
        &process, [&] { return last_step() > 2 && in_a_checkpoint_save(); }, SIGTERM))
        << process.err();
    expect_good_save(more);
}

// Within a second at the default size; five here, for a machine that has other work too.
TEST_F(Signals, StopsWithinASecondAtTheDefaultSize) {
    using clock = std::chrono::steady_clock;
    ProcessOptions options;
    options.arguments = {
        "train",      "--data", "demo",        "--epochs", "100000",
        "--patience", "none",   "--model-dir", model(),    "--log-step-count-steps",
        "1"};
    Process process(options);
    ASSERT_TRUE(process.wait_for([&] { return last_step() > 5; })) << process.err();
    const clock::time_point begin = clock::now();
    process.signal(SIGTERM);
    EXPECT_EQ(process.wait(20), 75) << process.err();
    EXPECT_LT(std::chrono::duration<double>(clock::now() - begin).count(), 5.0);
    EXPECT_EQ(checkpoint_steps(model()).back(), last_step());
}

// A stop in the middle of an epoch validates nothing: the epoch is not over.
TEST_F(Signals, StopInMidEpochRunsNoValidation) {
    Process process(train());
    ASSERT_TRUE(process.wait_for([&] { return last_step() > 2 && in_mid_epoch(); }));
    process.signal(SIGTERM);
    ASSERT_EQ(process.wait(20), 75) << process.err();
    EXPECT_EQ(epochs_done(), last_step() / kStepsPerEpoch - (last_step() % kStepsPerEpoch == 0));
}

TEST_F(Signals, HangupIsIgnoredUnderNohup) {
    ProcessOptions options = train({"--max-steps", "200"});
    options.ignore_hangup = true;
    Process process(options);
    ASSERT_TRUE(process.wait_for([&] { return last_step() > 2; })) << process.err();
    process.signal(SIGHUP);
    EXPECT_EQ(process.wait(), 0) << process.err();
    EXPECT_EQ(last_step(), 200u);
}

TEST_F(Signals, PreemptExitCode) {
    Process process(train({"--preempt-exit-code", "99"}));
    ASSERT_TRUE(process.wait_for([&] { return last_step() > 2; })) << process.err();
    process.signal(SIGTERM);
    EXPECT_EQ(process.wait(20), 99) << process.err();
}

// Nobody knows the name of a temporary model directory: the message has to say it.
// What it says would go on must go on: not be refused, nor go back once more.
TEST_F(Signals, TheCommandThatGoesOnIsWithoutTheResumeThatWouldNot) {
    const struct {
        const char *resume, *says;
    } cases[] = {{"never", "the same command again without --resume to go on"},
                 {"auto", "the same command again to go on"},
                 {"model.ckpt-0.safetensors.zst", "again without --resume to go on"}};
    for (const auto &start : cases) {
        SCOPED_TRACE(start.resume);
        const size_t before = history_lines(model()).size();
        Process process(train({"--resume", start.resume, "--keep-checkpoint-max", "0"}));
        // Going back takes lines away; then steps are logged once more.
        ASSERT_TRUE(process.wait_for([&] {
            return last_step() > 2 && (before == 0 || history_lines(model()).size() != before);
        })) << process.err();
        process.signal(SIGTERM);
        EXPECT_EQ(process.wait(20), 75);
        EXPECT_TRUE(contains(process.err(), start.says)) << process.err();
    }
}

TEST_F(Signals, TemporaryModelDirectoryIsNamed) {
    std::filesystem::create_directories(dir_.file("tmp"));
    ProcessOptions options = {.program = "",
                              .arguments = {"train", "--data", dir_.file("train.jsonl"), "--epochs",
                                            "100000", "--patience", "none"}};
    options.environment["TMPDIR"] = dir_.file("tmp");
    Process process(options);
    std::string directory;
    ASSERT_TRUE(process.wait_for([&] {
        for (const std::string &name : list_directory(dir_.file("tmp"))) {
            directory = dir_.file("tmp") + "/" + name;
        }
        return !directory.empty() && !checkpoint_steps(directory).empty();
    })) << process.err();
    process.signal(SIGTERM);
    EXPECT_EQ(process.wait(20), 75);
    EXPECT_TRUE(contains(process.err(), "--model-dir " + directory)) << process.err();
}

// ---- --requeue-command ----

TEST_F(Signals, RequeueCommandRunsWithoutAShell) {
    const std::string mark = dir_.file("a mark; $(echo no)");
    Process process(train({"--requeue-command", "touch '" + mark + "'"}));
    ASSERT_TRUE(process.wait_for([&] { return last_step() > 2; })) << process.err();
    EXPECT_FALSE(exists(mark));
    process.signal(SIGTERM);
    EXPECT_EQ(process.wait(20), 75) << process.err();
    EXPECT_TRUE(exists(mark)) << process.err();
    EXPECT_FALSE(contains(process.err(), "no)") && exists(dir_.file("a")));
}

// What starts at once, and does not wait in a queue, must find the directory free.
TEST_F(Signals, RequeueCommandMayBeTheNextTrainer) {
    std::string next = CAIRN_BINARY;
    for (const std::string &word : train({"--max-steps", "1"}).arguments) { // it has done that
        next += " '" + word + "'";
    }
    Process process(train({"--requeue-command", next}));
    ASSERT_TRUE(process.wait_for([&] { return last_step() > 2; })) << process.err();
    process.signal(SIGTERM);
    EXPECT_EQ(process.wait(20), 75) << process.err();
    EXPECT_FALSE(contains(process.err(), "--requeue-command ended")) << process.err();
    EXPECT_FALSE(contains(process.err(), "another trainer")) << process.err();
}

TEST_F(Signals, RequeueCommandDoesNotRunForAnInterrupt) {
    const std::string mark = dir_.file("mark");
    Process process(train({"--requeue-command", "touch " + mark}));
    ASSERT_TRUE(process.wait_for([&] { return last_step() > 2; })) << process.err();
    process.signal(SIGINT);
    EXPECT_EQ(process.wait(20), 75) << process.err();
    EXPECT_FALSE(exists(mark));
}

// ---- loading and vocabulary ----

class Held : public Signals, public testing::WithParamInterface<int> {};

// One signal while the data are read: the program notices at the next example, not at the last.
TEST_P(Held, TrainStopsWhileLoading) {
    Pipe pipe(dir_.file("held.jsonl"));
    Process process(
        {.program = "", .arguments = {"train", "--data", pipe.path(), "--model-dir", model()}});
    ASSERT_TRUE(pipe.open_for(&process)) << process.err();
    pipe.say(kLine);
    process.signal(GetParam());
    pipe.talk_until_closed(&process, kLine);
    EXPECT_EQ(process.wait(20), 75) << process.err();
    EXPECT_TRUE(checkpoint_steps(model()).empty());
}

// Stopped before it went back, it must be told to go back once more; with nothing saved, to begin.
TEST_F(Signals, TheCommandThatWasStoppedBeforeTrainingIsToBeRunAsItWas) {
    ASSERT_EQ(run(train({"--max-steps", "3"})).code, 0);
    for (const char *resume : {"model.ckpt-0.safetensors.zst", "never"}) {
        SCOPED_TRACE(resume);
        Pipe pipe(dir_.file(std::string("held-") + resume + ".jsonl"));
        const bool fresh = std::strcmp(resume, "never") == 0;
        Process process(train({"--data", pipe.path(), "--resume", resume, "--model-dir",
                               fresh ? dir_.file("fresh") : model()}));
        ASSERT_TRUE(pipe.open_for(&process)) << process.err();
        pipe.say(kLine);
        process.signal(SIGTERM);
        pipe.talk_until_closed(&process, kLine);
        EXPECT_EQ(process.wait(20), 75) << process.err();
        EXPECT_TRUE(contains(process.err(), "Run the same command again to go on.\n"))
            << process.err();
    }
    EXPECT_EQ(checkpoint_steps(model()), (std::vector<uint64_t>{0, 3}));
}

TEST_P(Held, VocabularyStopsWhileLearning) {
    Pipe pipe(dir_.file("held.jsonl"));
    Process process({.program = "", .arguments = {"vocabulary", "--data", pipe.path()}});
    ASSERT_TRUE(pipe.open_for(&process)) << process.err();
    pipe.say(kLine);
    process.signal(GetParam());
    pipe.talk_until_closed(&process, kLine);
    EXPECT_EQ(process.wait(20), 75) << process.err();
    EXPECT_EQ(process.out(), "");
}

// The second one does not wait for anything: the reader is stuck in a read() that never returns.
TEST_P(Held, SecondSignalLeavesAtOnce) {
    Pipe pipe(dir_.file("held.jsonl"));
    Process process(
        {.program = "", .arguments = {"train", "--data", pipe.path(), "--model-dir", model()}});
    ASSERT_TRUE(pipe.open_for(&process)) << process.err();
    pipe.say(kLine);
    process.signal(GetParam());
    // A pending signal is not queued twice: the second must find the first one taken. SIGUSR1 and
    // SIGTERM are two different numbers, so one of them is always deliverable.
    const int second = GetParam() == SIGTERM ? SIGUSR1 : SIGTERM;
    process.signal(second);
    const int code = process.wait(20);
    EXPECT_TRUE(code == 128 + second || code == 128 + GetParam()) << code << process.err();
}

INSTANTIATE_TEST_SUITE_P(Each, Held, testing::Values(SIGTERM, SIGINT, SIGUSR1, SIGHUP),
                         [](const testing::TestParamInfo<int> &information) {
                             return std::string(sigabbrev_np(information.param));
                         });

// ---- evaluate and predict ----

TEST_F(Signals, EvaluateStopsPromptly) {
    ASSERT_EQ(run(train({"--max-steps", "1"})).code, 0);
    Pipe pipe(dir_.file("held.jsonl"));
    Process process(
        {.program = "", .arguments = {"evaluate", "--data", pipe.path(), "--model-dir", model()}});
    ASSERT_TRUE(pipe.open_for(&process)) << process.err();
    pipe.say(kLine);
    process.signal(SIGTERM);
    pipe.talk_until_closed(&process, kLine);
    EXPECT_EQ(process.wait(20), 75) << process.err();
    EXPECT_EQ(process.out(), "");
}

TEST_F(Signals, EvaluateStopsBetweenBatches) {
    ASSERT_EQ(run(train({"--max-steps", "1"})).code, 0);
    write_jsonl(dir_.file("many.jsonl"), small_examples(30000, 3));
    Process process({.program = "",
                     .arguments = {"evaluate", "--data", dir_.file("many.jsonl"), "--model-dir",
                                   model(), "--threads", "1", "--progress", "bar"}});
    ASSERT_TRUE(process.wait_for_err("Evaluating")) << process.err();
    process.signal(SIGTERM);
    EXPECT_EQ(process.wait(20), 75) << process.err();
    EXPECT_EQ(process.out(), "");
}

// Waiting on standard input for a text that nobody types; what was asked before has been answered.
TEST_F(Signals, PredictStopsWhileWaitingForInput) {
    ASSERT_EQ(run(train({"--max-steps", "1"})).code, 0);
    Pipe pipe(dir_.file("texts"));
    ProcessOptions options = {.program = "", .arguments = {"predict", "--model-dir", model()}};
    options.input_path = pipe.path();
    Process process(options);
    ASSERT_TRUE(pipe.open_for(&process)) << process.err();
    pipe.say("a bright film\n");
    ASSERT_TRUE(process.wait_for([&] { return contains(process.out(), "a bright film\n"); }));
    process.signal(SIGTERM);
    EXPECT_EQ(process.wait(20), 75) << process.err();
}

// SIGPIPE is quiet: a reader that has seen enough is no error message.
TEST_F(Signals, ClosedPipeIsQuiet) {
    ASSERT_EQ(run(train({"--max-steps", "1"})).code, 0);
    std::string lines;
    for (int i = 0; i < 20000; i++) {
        lines += "a bright film\n";
    }
    write_file(dir_.file("texts"), lines);
    Outcome outcome =
        run({.program = "bash",
             .arguments = {"-c", "\"$0\" predict --model-dir \"$1\" \"$2\" | head -n 1",
                           CAIRN_BINARY, model(), dir_.file("texts")}});
    EXPECT_EQ(outcome.code, 0);
    EXPECT_EQ(std::count(outcome.out.begin(), outcome.out.end(), '\n'), 1);
    EXPECT_EQ(outcome.err, "");
}
