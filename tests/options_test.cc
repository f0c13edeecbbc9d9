// Options: defaults as the contract words them, sources and their precedence, the configuration
// file, what is refused, what a change means at resume, and --help.
#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "host/options.h"
#include "tests/support/temporary_directory.h"

extern char **environ;

namespace {

// Options parsed from words; `train --data demo` where only options are given.
class Parsed {
  public:
    Parsed(enum command command, std::vector<std::string> words) : words_(std::move(words)) {
        words_.insert(words_.begin(), command_name(command));
        std::vector<char *> argv;
        for (std::string &word : words_) {
            argv.push_back(word.data());
        }
        argv.push_back(nullptr);
        status = options_parse(command, static_cast<int>(words_.size()), argv.data(), &options,
                               &exit_early, &error);
    }
    ~Parsed() {
        if (status == STATUS_OK) {
            options_free(&options);
        }
    }
    Parsed(const Parsed &) = delete;
    Parsed &operator=(const Parsed &) = delete;
    std::string message() const { return error.message; }
    const struct options *operator->() const { return &options; }

    enum status status;
    struct options options = {};
    bool exit_early = false;
    struct error error = {};

  private:
    std::vector<std::string> words_;
};

std::vector<std::string> with_demo(std::vector<std::string> words) {
    words.insert(words.begin(), {"--data", "demo"});
    return words;
}

class Train : public Parsed {
  public:
    explicit Train(std::vector<std::string> words = {})
        : Parsed(COMMAND_TRAIN, with_demo(std::move(words))) {}
};

std::string written(const struct options &options) {
    struct text text = {};
    options_write(&options, &text);
    EXPECT_FALSE(text.failed);
    std::string out(text.bytes, text.size);
    text_free(&text);
    return out;
}

// "name = value" lines without quotes, as a map.
std::map<std::string, std::string> as_map(const std::string &config) {
    std::map<std::string, std::string> values;
    size_t begin = 0;
    while (begin < config.size()) {
        const size_t end = config.find('\n', begin);
        const std::string line = config.substr(begin, end - begin);
        const size_t equals = line.find(" =");
        EXPECT_NE(equals, std::string::npos) << line;
        values[line.substr(0, equals)] =
            line.size() > equals + 2 ? line.substr(equals + 3) : std::string();
        begin = end + 1;
    }
    return values;
}

class Environment : public testing::Test {
  protected:
    void SetUp() override {
        for (char **entry = environ; *entry != nullptr; entry++) {
            const std::string name = std::string(*entry).substr(0, std::string(*entry).find('='));
            if (name.rfind("CAIRN_", 0) == 0) {
                saved_.emplace_back(name, getenv(name.c_str()));
            }
        }
        for (const auto &[name, value] : saved_) {
            unsetenv(name.c_str());
        }
    }
    void TearDown() override {
        for (const std::string &name : set_) {
            unsetenv(name.c_str());
        }
        for (const auto &[name, value] : saved_) {
            setenv(name.c_str(), value.c_str(), 1);
        }
    }
    void set(const std::string &name, const std::string &value) {
        setenv(name.c_str(), value.c_str(), 1);
        set_.push_back(name);
    }
    TemporaryDirectory directory;

  private:
    std::vector<std::pair<std::string, std::string>> saved_;
    std::vector<std::string> set_;
};

using Options = Environment;

// ---- defaults ----

// Typed from the contract, section 1; not from the table.
const std::map<std::string, std::string> kContract = {
    {"validation-data", ""},
    {"validation-split", "0"},
    {"validation-steps", "0"},
    {"shuffle", "full"},
    {"shuffle-buffer", "10000"},
    {"bucket-window", "4096"},
    {"seed", "1"},
    {"vocabulary-size", "1000"},
    {"vocabulary", ""},
    {"max-length", "0"},
    {"strip-html", "off"},
    {"embedding-size", "64"},
    {"hidden-size", "64"},
    {"dense-size", "64"},
    {"epochs", "10"},
    {"steps", "0"},
    {"max-steps", "0"},
    {"batch-size", "64"},
    {"learning-rate", "0.0001"},
    {"clip-norm", "0"},
    {"device", "auto"},
    {"threads", "0"},
    {"isa", "auto"},
    {"lstm", "auto"},
    {"cuda-graph", "on"},
    {"precision", "fp32"},
    {"model-dir", ""},
    {"save-checkpoints-secs", "600"},
    {"save-checkpoints-steps", "0"},
    {"keep-checkpoint-max", "5"},
    {"keep-checkpoint-every-n-hours", "0"},
    {"resume", "auto"},
    {"init-from", ""},
    {"checkpoint-busy", "skip"},
    {"checkpoint-on-error", "warn"},
    {"compression-level", "1"},
    {"compression-threads", "1"},
    {"allow-change", "off"},
    {"checkpoint-filepath", ""},
    {"monitor", "val_loss"},
    {"mode", "auto"},
    {"save-best-only", "off"},
    {"save-weights-only", "off"},
    {"save-freq", "epoch"},
    {"initial-value-threshold", "none"},
    {"patience", "5"},
    {"min-delta", "0"},
    {"baseline", "none"},
    {"restore-best-weights", "off"},
    {"start-from-epoch", "0"},
    {"progress", "auto"},
    {"verbose", "1"},
    {"log-step-count-steps", "100"},
    {"save-summary-steps", "100"},
    {"tensorboard", "on"},
    {"histogram-freq", "0"},
    {"preempt-exit-code", "75"},
    {"requeue-command", ""},
};

TEST_F(Options, TrainDefaultsAreTheContracts) {
    Train train;
    ASSERT_EQ(train.status, STATUS_OK) << train.message();
    std::map<std::string, std::string> found = as_map(written(train.options)), expected = kContract;
    expected["data"] = "demo";
    EXPECT_EQ(found, expected);
    EXPECT_EQ(train->learning_rate, 1e-4);
    EXPECT_EQ(train->patience, 5);
    EXPECT_EQ(train->save_freq_batches, 0u);
    EXPECT_TRUE(std::isnan(train->baseline));
    EXPECT_TRUE(std::isnan(train->initial_value_threshold));
    EXPECT_FALSE(options_given(&train.options, "epochs"));
    EXPECT_TRUE(options_given(&train.options, "data"));
}

TEST_F(Options, EveryCommandHasItsOptions) {
    const std::map<enum command, std::vector<std::string>> expected = {
        {COMMAND_EVALUATE,
         {"data", "model-dir", "checkpoint", "allow-untrained", "vocabulary", "device", "threads",
          "isa", "lstm", "precision"}},
        {COMMAND_PREDICT,
         {"model-dir", "checkpoint", "allow-untrained", "vocabulary", "input-format", "format",
          "device", "threads"}},
        {COMMAND_TOKENIZE, {"vocabulary", "model-dir", "checkpoint", "max-length", "input-format"}},
        {COMMAND_CHECKPOINTS, {"model-dir", "verify"}},
        {COMMAND_EXPORT,
         {"model-dir", "checkpoint", "vocabulary", "format", "output", "with-text"}},
        {COMMAND_VOCABULARY, {"data", "vocabulary-size", "strip-html"}},
        {COMMAND_BENCH_TRAIN,
         {"data", "vocabulary-size", "hidden-size", "batch-size", "steps", "device", "threads",
          "isa", "save-checkpoints-steps", "repeats", "json"}},
        {COMMAND_BENCH_OPS, {"hidden-size", "device", "threads", "isa", "repeats", "json"}},
        {COMMAND_BENCH_DATA, {"data", "vocabulary-size", "repeats", "json"}},
    };
    for (const auto &[command, names] : expected) {
        for (const std::string &name : names) {
            bool taken = false;
            for (size_t i = 0; i < options_row_count(); i++) {
                taken |= name == options_row(i).name && (options_row(i).commands >> command & 1);
            }
            EXPECT_TRUE(taken) << command_name(command) << " --" << name;
        }
    }
}

TEST_F(Options, FieldsTakeWhatFlagsSay) {
    Train train({"--validation-split=0.25",
                 "--shuffle",
                 "buffer",
                 "--seed",
                 "18446744073709551615",
                 "--strip-html",
                 "--compression-level",
                 "-7",
                 "--patience",
                 "none",
                 "--save-freq",
                 "250",
                 "--baseline",
                 "-1.5e-3",
                 "--checkpoint-busy",
                 "wait",
                 "--monitor",
                 "accuracy",
                 "--mode",
                 "max",
                 "--progress",
                 "json",
                 "--vocabulary-size",
                 "0",
                 "--resume",
                 "some/file",
                 "--device",
                 "cuda:3"});
    ASSERT_EQ(train.status, STATUS_OK) << train.message();
    EXPECT_EQ(train->validation_split, 0.25);
    EXPECT_EQ(train->shuffle, SHUFFLE_BUFFER);
    EXPECT_EQ(train->seed, UINT64_MAX);
    EXPECT_TRUE(train->strip_html);
    EXPECT_EQ(train->compression_level, -7);
    EXPECT_EQ(train->patience, -1);
    EXPECT_STREQ(train->save_freq, "250");
    EXPECT_EQ(train->save_freq_batches, 250u);
    EXPECT_EQ(train->baseline, -1.5e-3);
    EXPECT_EQ(train->checkpoint_busy, BUSY_WAIT);
    EXPECT_STREQ(train->monitor, "accuracy");
    EXPECT_EQ(train->mode, MONITOR_MAX);
    EXPECT_EQ(train->progress, PROGRESS_JSON);
    EXPECT_EQ(train->vocabulary_size, 0u);
    EXPECT_STREQ(train->resume, "some/file");
    EXPECT_STREQ(train->device, "cuda:3");
}

TEST_F(Options, OfARepeatedOptionTheLastCounts) {
    Train train({"--epochs", "3", "--epochs=4", "--strip-html", "--strip-html=off"});
    ASSERT_EQ(train.status, STATUS_OK) << train.message();
    EXPECT_EQ(train->epochs, 4u);
    EXPECT_FALSE(train->strip_html);
}

TEST_F(Options, PositionalFile) {
    Parsed predict(COMMAND_PREDICT, {"-", "--model-dir", "m"});
    ASSERT_EQ(predict.status, STATUS_OK) << predict.message();
    EXPECT_STREQ(predict->file, "-");
    Parsed inspect(COMMAND_INSPECT, {"a b.zst"});
    ASSERT_EQ(inspect.status, STATUS_OK) << inspect.message();
    EXPECT_STREQ(inspect->file, "a b.zst");
    EXPECT_EQ(Parsed(COMMAND_INSPECT, {"a", "b"}).status, STATUS_USAGE);
    EXPECT_EQ(Train({"stray"}).status, STATUS_USAGE);
    EXPECT_NE(Train({"--strip-html", "off"}).message().find("\"off\""), std::string::npos);
}

// ---- what is refused ----

void expect_refused(const Parsed &parsed, enum status status,
                    const std::vector<std::string> &parts) {
    EXPECT_EQ(parsed.status, status) << parsed.message();
    for (const std::string &part : parts) {
        EXPECT_NE(parsed.message().find(part), std::string::npos)
            << "\"" << part << "\" is not in: " << parsed.message();
    }
}

TEST_F(Options, BadValuesAreRefusedWithNameAndValue) {
    const std::vector<std::pair<std::string, std::vector<std::string>>> bad = {
        {"validation-split", {"1", "-0.1", "1.5", "nan", "x", "0.5x"}},
        {"validation-steps", {"-1", "1.5", "x"}},
        {"shuffle", {"Full", "x", "0"}},
        {"shuffle-buffer", {"0", "-1", "x"}},
        {"bucket-window", {"-1", "x"}},
        {"seed", {"-1", "18446744073709551616", "1e3", " 1", "0x10"}},
        {"vocabulary-size", {"1", "-2", "2147483648"}},
        {"max-length", {"-1", "x"}},
        {"strip-html", {"maybe", "2"}},
        {"embedding-size", {"0", "65537", "-1"}},
        {"hidden-size", {"0", "x"}},
        {"dense-size", {"0", "64.0"}},
        {"epochs", {"0", "-1", "x", "1e1"}},
        {"steps", {"-1", "x"}},
        {"max-steps", {"-1", "x"}},
        {"batch-size", {"0", "-1", "16777217"}},
        {"learning-rate", {"0", "-1e-4", "inf", "nan", "x"}},
        {"clip-norm", {"-1", "inf", "x"}},
        {"device", {"gpu", "cuda:", "cuda:x", "cuda:-1", "CPU"}},
        {"threads", {"-1", "4097", "x"}},
        {"lstm", {"standard", ""}},
        {"cuda-graph", {"maybe", "1"}},
        {"precision", {"fp16", "x"}},
        {"save-checkpoints-secs", {"-1", "inf", "x"}},
        {"save-checkpoints-steps", {"-1", "x"}},
        {"keep-checkpoint-max", {"-1", "x"}},
        {"keep-checkpoint-every-n-hours", {"-1", "x"}},
        {"checkpoint-busy", {"drop"}},
        {"checkpoint-on-error", {"ignore"}},
        {"compression-level", {"-8", "20", "x"}},
        {"compression-threads", {"0", "65", "x"}},
        {"checkpoint-filepath", {"model.ckpt-7", "a/model.ckpt-x.zst", "dir/", "{epoch", "{acc}"}},
        {"monitor", {"val_acc", "f1"}},
        {"mode", {"up"}},
        {"save-freq", {"0", "-1", "batch"}},
        {"initial-value-threshold", {"x", "nan", "inf"}},
        {"patience", {"-1", "off", "1.5"}},
        {"min-delta", {"x", "nan"}},
        {"baseline", {"x", "inf"}},
        {"start-from-epoch", {"-1"}},
        {"progress", {"plot"}},
        {"verbose", {"3", "-1", "x"}},
        {"log-step-count-steps", {"-1"}},
        {"save-summary-steps", {"-1", "x"}},
        {"tensorboard", {"maybe", "1"}},
        {"histogram-freq", {"-1", "epoch"}},
        {"preempt-exit-code", {"256", "-1"}},
        {"requeue-command", {"'open", "a \"b", "  "}},
    };
    for (const auto &[name, values] : bad) {
        for (const std::string &value : values) {
            SCOPED_TRACE("--" + name + "=" + value);
            expect_refused(Train({"--" + name + "=" + value}), STATUS_USAGE, {"--" + name});
            const Train by_set({"--set", name + "=" + value});
            expect_refused(by_set, STATUS_USAGE, {name});
        }
    }
    expect_refused(Train({"--epochs", "0"}), STATUS_USAGE, {"--epochs 0", "from 1"});
    expect_refused(Train({"--mode", "up"}), STATUS_USAGE, {"auto, min or max"});
    expect_refused(Train({"--vocabulary-size", "1"}), STATUS_USAGE, {"from 2", "or 0"});
}

TEST_F(Options, EveryOptionIsKnownToTheTestOfBadOnes) {
    // An option with a range that nobody tries to break would be a hole above.
    Train train;
    for (const auto &[name, value] : as_map(written(train.options))) {
        EXPECT_TRUE(kContract.count(name) == 1 || name == "data") << name;
    }
}

TEST_F(Options, EmptyValuesAreRefusedOnTheCommandLine) {
    // An unset shell variable must not turn into a temporary directory.
    expect_refused(Train({"--model-dir", ""}), STATUS_USAGE, {"--model-dir"});
    expect_refused(Train({"--model-dir="}), STATUS_USAGE, {"--model-dir"});
    expect_refused(Train({"--set", "model-dir="}), STATUS_USAGE, {"model-dir"});
}

TEST_F(Options, UnknownOptionsAreNamedWithTheNearest) {
    expect_refused(Train({"--epoch-s", "3"}), STATUS_USAGE, {"--epoch-s", "--epochs"});
    expect_refused(Train({"--batchsize=3"}), STATUS_USAGE, {"--batchsize", "--batch-size"});
    expect_refused(Train({"--qqqqqqqqqq"}), STATUS_USAGE, {"--qqqqqqqqqq", "--help"});
    expect_refused(Train({"-e", "3"}), STATUS_USAGE, {"-e"});
    expect_refused(Train({"--set", "epoch-s=3"}), STATUS_USAGE, {"epoch-s", "epochs"});
    expect_refused(Train({"--set", "epochs"}), STATUS_USAGE, {"name=value"});
    expect_refused(Train({"--set", "=3"}), STATUS_USAGE, {"name=value"});
    expect_refused(Train({"--verify"}), STATUS_USAGE, {"--verify", "checkpoints"});
    expect_refused(Train({"--\x01x"}), STATUS_USAGE, {"\\x01"});
    expect_refused(Parsed(COMMAND_CHECKPOINTS, {"--epochs", "3"}), STATUS_USAGE,
                   {"--epochs", "train"});
}

TEST_F(Options, BenchmarksHaveDefaultsOfTheirOwn) {
    Parsed bench(COMMAND_BENCH_TRAIN, {});
    ASSERT_EQ(bench.status, STATUS_OK) << bench.message();
    EXPECT_STREQ(bench->data, "demo");
    EXPECT_EQ(bench->repeats, 5u);
    EXPECT_STREQ(bench->json, "");
    EXPECT_STREQ(Parsed(COMMAND_BENCH_DATA, {"--data", "x"})->data, "x");
    Parsed checkpoint(COMMAND_BENCH_CHECKPOINT, {});
    ASSERT_EQ(checkpoint.status, STATUS_OK) << checkpoint.message();
    EXPECT_STREQ(checkpoint->data, "demo");
    EXPECT_EQ(checkpoint->repeats, 6u);
    EXPECT_EQ(Parsed(COMMAND_BENCH_CHECKPOINT, {"--repeats", "5"})->repeats, 5u);
    EXPECT_EQ(checkpoint->kills, 30u);
    EXPECT_EQ(checkpoint->saves, 0u);
    EXPECT_STREQ(checkpoint->storage, "dir,tmpfs");
    EXPECT_STREQ(checkpoint->keep_state, "");
    EXPECT_STREQ(Parsed(COMMAND_BENCH_CHECKPOINT, {"--keep-state", "f"})->keep_state, "f");
    EXPECT_FALSE(checkpoint->quick);
    expect_refused(Parsed(COMMAND_BENCH_CHECKPOINT, {"--kills", "256"}), STATUS_USAGE,
                   {"--kills", "0 to 255"});
    expect_refused(Parsed(COMMAND_BENCH_DATA, {"--kills", "1"}), STATUS_USAGE,
                   {"--kills", "bench checkpoint"});
    expect_refused(Parsed(COMMAND_BENCH_TRAIN, {"--keep-state", "f"}), STATUS_USAGE,
                   {"--keep-state", "bench checkpoint"});
    for (const char *bad : {"0", "256", "many"}) {
        expect_refused(Parsed(COMMAND_BENCH_OPS, {"--repeats", bad}), STATUS_USAGE,
                       {"--repeats", "1 to 255"});
    }
}

TEST_F(Options, MissingValuesAreNamed) {
    expect_refused(Train({"--epochs"}), STATUS_USAGE, {"--epochs needs a value"});
    expect_refused(Train({"--config"}), STATUS_USAGE, {"--config needs a value"});
    expect_refused(Train({"--help=x"}), STATUS_USAGE, {"--help takes no value"});
    expect_refused(Train({"--save"}), STATUS_USAGE, {"several options"});
    Train abbreviated({"--epoc", "3"}); // argp takes unambiguous beginnings
    ASSERT_EQ(abbreviated.status, STATUS_OK) << abbreviated.message();
    EXPECT_EQ(abbreviated->epochs, 3u);
}

TEST_F(Options, WhatACommandCannotDoWithout) {
    expect_refused(Parsed(COMMAND_TRAIN, {}), STATUS_USAGE, {"--data"});
    expect_refused(Parsed(COMMAND_VOCABULARY, {}), STATUS_USAGE, {"--data"});
    expect_refused(Parsed(COMMAND_EVALUATE, {"--data", "demo"}), STATUS_USAGE, {"--model-dir"});
    expect_refused(Parsed(COMMAND_EVALUATE, {"--model-dir", "m"}), STATUS_USAGE, {"--data"});
    expect_refused(Parsed(COMMAND_PREDICT, {}), STATUS_USAGE, {"--model-dir", "--checkpoint"});
    expect_refused(Parsed(COMMAND_PREDICT, {"--checkpoint", "best"}), STATUS_USAGE,
                   {"--model-dir"});
    expect_refused(Parsed(COMMAND_PREDICT, {"--allow-untrained"}), STATUS_USAGE,
                   {"--data", "--vocabulary"});
    expect_refused(Parsed(COMMAND_TOKENIZE, {}), STATUS_USAGE, {"--vocabulary"});
    expect_refused(Parsed(COMMAND_CHECKPOINTS, {}), STATUS_USAGE, {"--model-dir"});
    expect_refused(Parsed(COMMAND_INSPECT, {}), STATUS_USAGE, {"FILE"});
    expect_refused(Parsed(COMMAND_EXPORT, {"--model-dir", "m"}), STATUS_USAGE, {"--output"});
    expect_refused(Parsed(COMMAND_EXPORT, {"--output", "o"}), STATUS_USAGE, {"--model-dir"});
    EXPECT_EQ(Parsed(COMMAND_EXPORT, {"--checkpoint", "f", "--output", "o"}).status, STATUS_OK);
    EXPECT_EQ(Parsed(COMMAND_PREDICT, {"--checkpoint", "f.zst"}).status, STATUS_OK);
    EXPECT_EQ(Parsed(COMMAND_PREDICT, {"--allow-untrained", "--vocabulary", "v"}).status,
              STATUS_OK);
    EXPECT_EQ(Parsed(COMMAND_TOKENIZE, {"--vocabulary", "v"}).status, STATUS_OK);
}

// ---- options that exclude each other ----

TEST_F(Options, StepsAndMaxStepsExcludeEachOther) {
    expect_refused(Train({"--steps", "3", "--max-steps", "5"}), STATUS_USAGE,
                   {"--steps", "--max-steps"});
    EXPECT_EQ(Train({"--steps", "3", "--max-steps", "0"}).status, STATUS_OK);
}

TEST_F(Options, SaveTimerAndSaveStepsExcludeEachOther) {
    expect_refused(Train({"--save-checkpoints-secs", "30", "--save-checkpoints-steps", "5"}),
                   STATUS_USAGE, {"--save-checkpoints-secs", "--save-checkpoints-steps"});
    Train steps({"--save-checkpoints-steps", "5"});
    EXPECT_EQ(steps->save_checkpoints_steps, 5u);
    EXPECT_EQ(steps->save_checkpoints_secs, 0.0); // one turns the other off
    Train neither({"--save-checkpoints-secs", "0"});
    EXPECT_EQ(neither.status, STATUS_OK);
    write_file(directory.file("c"), "save-checkpoints-secs = 30\n");
    Train flag_wins({"--config", directory.file("c"), "--save-checkpoints-steps", "7"});
    ASSERT_EQ(flag_wins.status, STATUS_OK) << flag_wins.message();
    EXPECT_EQ(flag_wins->save_checkpoints_secs, 0.0);
    write_file(directory.file("d"), "save-checkpoints-steps = 30\n");
    Train timer_wins({"--config", directory.file("d"), "--save-checkpoints-secs", "7"});
    ASSERT_EQ(timer_wins.status, STATUS_OK) << timer_wins.message();
    EXPECT_EQ(timer_wins->save_checkpoints_steps, 0u);
    write_file(directory.file("e"), "save-checkpoints-steps = 30\nsave-checkpoints-secs = 3\n");
    EXPECT_EQ(Train({"--config", directory.file("e")}).status, STATUS_USAGE);
}

TEST_F(Options, ValidationSplitAndDataExcludeEachOther) {
    EXPECT_EQ(Train({"--validation-split", "0.1", "--validation-data", "x"}).status, STATUS_USAGE);
    EXPECT_EQ(Train({"--validation-data", "none"}).status, STATUS_OK);
}

TEST_F(Options, TemplatesFitTheSaveFrequency) {
    EXPECT_EQ(Train({"--checkpoint-filepath", "{epoch:02d}-{val_loss:.2f}.zst"}).status, STATUS_OK);
    EXPECT_EQ(Train({"--checkpoint-filepath", "{batch}"}).status, STATUS_USAGE);
    EXPECT_EQ(Train({"--checkpoint-filepath", "{batch}", "--save-freq", "9"}).status, STATUS_OK);
    EXPECT_EQ(Train({"--checkpoint-filepath", "{val_loss}", "--save-freq", "9"}).status,
              STATUS_USAGE);
}

// ---- sources ----

TEST_F(Options, PrecedenceIsFlagEnvironmentFileDefault) {
    const std::string config = directory.file("c.ini");
    write_file(config, "epochs = 2\nbatch-size = 2\nseed = 2\n");
    set("CAIRN_EPOCHS", "3");
    set("CAIRN_BATCH_SIZE", "3");
    set("CAIRN_HIDDEN_SIZE", "3");
    Train train({"--epochs", "4", "--config", config});
    ASSERT_EQ(train.status, STATUS_OK) << train.message();
    EXPECT_EQ(train->epochs, 4u);
    EXPECT_EQ(train->batch_size, 3u);
    EXPECT_EQ(train->hidden_size, 3u);
    EXPECT_EQ(train->seed, 2u);
    EXPECT_EQ(train->dense_size, 64u);
    for (const char *name : {"epochs", "batch-size", "hidden-size", "seed"}) {
        EXPECT_TRUE(options_given(&train.options, name)) << name;
    }
    EXPECT_FALSE(options_given(&train.options, "dense-size"));
}

TEST_F(Options, SetIsAFlagAndTheLastFlagCounts) {
    set("CAIRN_EPOCHS", "3");
    EXPECT_EQ(Train({"--set", "epochs=5"})->epochs, 5u);
    EXPECT_EQ(Train({"--epochs", "6", "--set", "epochs=5"})->epochs, 5u);
    EXPECT_EQ(Train({"--set", "epochs=5", "--epochs", "6"})->epochs, 6u);
    EXPECT_TRUE(Train({"--set", "strip-html=on"})->strip_html);
}

TEST_F(Options, EnvironmentTakesOnlyOptions) {
    set("CAIRN_GOLDEN_DIR", "somewhere");
    set("CAIRN_NO_SUCH_OPTION", "1");
    set("CAIRN_EPOCHS", "");      // empty is not set
    set("CAIRN_VERIFY", "maybe"); // of another command
    set("CAIRN_STRIP_HTML", "1");
    Train train;
    ASSERT_EQ(train.status, STATUS_OK) << train.message();
    EXPECT_EQ(train->epochs, 10u);
    EXPECT_TRUE(train->strip_html);
    set("CAIRN_BATCH_SIZE", "many");
    expect_refused(Train(), STATUS_CONFIG, {"CAIRN_BATCH_SIZE", "many", "integer"});
}

TEST_F(Options, EnvironmentMayNameTheFile) {
    write_file(directory.file("a"), "epochs = 2\n");
    write_file(directory.file("b"), "epochs = 3\n");
    set("CAIRN_CONFIG", directory.file("a"));
    EXPECT_EQ(Train()->epochs, 2u);
    EXPECT_EQ(Train({"--config", directory.file("b")})->epochs, 3u);
}

// ---- the file ----

TEST_F(Options, FileSyntax) {
    write_file(directory.file("c"), "# comment\n; comment\n\nepochs=2\nbatch-size : 3 ; why\r\n"
                                    "data = a file\nseed = 7\nseed = 8\n"
                                    "requeue-command = \"a\\x3b \\\"b\\\" \\\\ \"\\\n   \"c\"\n"
                                    "verify = on");
    Parsed train(COMMAND_TRAIN, {"--config", directory.file("c")});
    ASSERT_EQ(train.status, STATUS_OK) << train.message();
    EXPECT_EQ(train->epochs, 2u);
    EXPECT_EQ(train->batch_size, 3u);
    EXPECT_STREQ(train->data, "a file");
    EXPECT_EQ(train->seed, 8u); // the last counts
    EXPECT_STREQ(train->requeue_command, "a; \"b\" \\ c");
}

// predict and export have a --format each: every command gets its own, and the file of another
// command may hold either.
TEST_F(Options, TwoCommandsMayHaveDifferentOptionsOfOneName) {
    Parsed predict(COMMAND_PREDICT, {"--model-dir", "m", "--format", "jsonl"});
    ASSERT_EQ(predict.status, STATUS_OK) << predict.message();
    EXPECT_EQ(predict->format, OUTPUT_JSONL);
    EXPECT_TRUE(options_given(&predict.options, "format"));
    Parsed exported(COMMAND_EXPORT,
                    {"--model-dir", "m", "--output", "o", "--set", "format=onnx", "--with-text"});
    ASSERT_EQ(exported.status, STATUS_OK) << exported.message();
    EXPECT_EQ(exported->export_format, EXPORT_ONNX);
    EXPECT_TRUE(options_given(&exported.options, "format"));
    EXPECT_EQ(as_map(written(exported.options))["format"], "onnx");
    EXPECT_EQ(Parsed(COMMAND_EXPORT, {"--model-dir", "m", "--output", "o"})->export_format,
              EXPORT_SAFETENSORS);
    for (const char *value : {"jsonl", "keras"}) {
        write_file(directory.file("c"), std::string("format = ") + value + "\n");
        EXPECT_EQ(Train({"--config", directory.file("c")}).status, STATUS_OK) << value;
    }
    write_file(directory.file("c"), "format = jsonl\n");
    expect_refused(Parsed(COMMAND_EXPORT, {"--config", directory.file("c")}), STATUS_CONFIG,
                   {"jsonl", "safetensors"});
    write_file(directory.file("c"), "format = pickle\n");
    expect_refused(Train({"--config", directory.file("c")}), STATUS_CONFIG, {"pickle"});
}

TEST_F(Options, FileErrorsNameFileAndLine) {
    const std::vector<std::pair<std::string, int>> bad = {
        {"epochs = 2\nepocs = 3\n", 2},
        {"epochs = 2\n\n# x\nseed = minus\n", 4},
        {"no value here\n", 1},
        {"epochs = 2\n[section]\nseed = 3\n", 3},
        {"data = x\n  seed = 3\n", 2},
        {"epochs = 2\ndata = \"open\n", 2},
        {"data = \"a ; b\"\n", 1},
        {"data = \"\\q\"\n", 1},
        {"data = \"\\x00\"\n", 1},
        {"seed = 1\ndata = \"a\"\\\nseed = 2\n", 2},
        {"seed = 1\ndata = \"a\"\\\n", 2},
        {"seed = 1\ndata = \"a\"\\\n  b\n", 3},
        {"seed = 1\ndata = " + std::string(300, 'x') + "\n", 2},
        {std::string("seed = 1\nda\0ta = 3\n", 19), 2},
        {"verify = perhaps\n", 1}, // of another command, and yet checked
    };
    for (const auto &[content, line] : bad) {
        SCOPED_TRACE(content);
        write_file(directory.file("c.ini"), content);
        expect_refused(Train({"--config", directory.file("c.ini")}), STATUS_CONFIG,
                       {directory.file("c.ini") + ":" + std::to_string(line) + ": "});
    }
    write_file(directory.file("c.ini"), "epocs = 3\n");
    expect_refused(Train({"--config", directory.file("c.ini")}), STATUS_CONFIG,
                   {"epocs", "did you mean epochs"});
    expect_refused(Train({"--config", directory.file("absent")}), STATUS_CONFIG,
                   {"--config", "absent"});
}

TEST_F(Options, WhatIsWrittenReadsBackTheSame) {
    const std::vector<std::vector<std::string>> runs = {
        {},
        {"--learning-rate", "0.1", "--min-delta", "1e-300", "--baseline", "0.30000000000000004",
         "--clip-norm", "3.3333333333333335", "--validation-split", "0.1"},
        {"--save-checkpoints-steps", "7", "--max-steps", "9", "--patience", "none"},
        {"--requeue-command", "sbatch 'a b' ; \"x\" \\ # = : [y]", "--model-dir", " spaces "},
        {"--model-dir", "tab\there\nand a new line", "--vocabulary", "\"quoted\"", "--init-from",
         ";semi", "--data", "# hash"},
        {"--model-dir", std::string(700, 'x') + ";" + std::string(120, '\\') + " ",
         "--requeue-command", std::string(150, ' ') + "y"},
        {"--data", "d\xC3\xA4t\xC3\xA4 \xFF", "--strip-html", "--save-freq", "12", "--seed",
         "18446744073709551615", "--initial-value-threshold", "-0.25"},
    };
    for (const std::vector<std::string> &words : runs) {
        Train first(words);
        ASSERT_EQ(first.status, STATUS_OK) << first.message();
        const std::string text = written(first.options);
        SCOPED_TRACE(text);
        write_file(directory.file("c.ini"), text);
        Parsed second(COMMAND_TRAIN, {"--config", directory.file("c.ini")});
        ASSERT_EQ(second.status, STATUS_OK) << second.message();
        EXPECT_EQ(written(second.options), text);
        EXPECT_STREQ(second->model_dir, first->model_dir);
        EXPECT_STREQ(second->requeue_command, first->requeue_command);
        EXPECT_STREQ(second->vocabulary, first->vocabulary);
        EXPECT_STREQ(second->init_from, first->init_from);
        EXPECT_STREQ(second->data, first->data);
        EXPECT_EQ(second->learning_rate, first->learning_rate);
        EXPECT_EQ(second->min_delta, first->min_delta);
        EXPECT_EQ(second->clip_norm, first->clip_norm);
        EXPECT_EQ(second->patience, first->patience);
        EXPECT_EQ(second->seed, first->seed);
        EXPECT_EQ(std::isnan(second->baseline), std::isnan(first->baseline));
        EXPECT_TRUE(std::isnan(first->baseline) || second->baseline == first->baseline);
        struct option_difference difference;
        size_t count = 99;
        ASSERT_EQ(options_compare(&first.options, text.data(), text.size(), &difference, 1, &count,
                                  nullptr),
                  STATUS_OK);
        EXPECT_EQ(count, 0u);
    }
}

// ---- set and compare ----

TEST_F(Options, SetChecksAsAFlagDoes) {
    Train train;
    struct error error = {};
    EXPECT_EQ(options_set(&train.options, "hidden-size", "128", nullptr), STATUS_OK);
    EXPECT_EQ(train->hidden_size, 128u);
    EXPECT_FALSE(options_given(&train.options, "hidden-size"));
    EXPECT_EQ(options_set(&train.options, "hidden-size", "0", &error), STATUS_USAGE);
    EXPECT_EQ(train->hidden_size, 128u);
    EXPECT_EQ(options_set(&train.options, "nothing", "0", &error), STATUS_USAGE);
}

std::map<std::string, struct option_difference> compare(const struct options &now,
                                                        const std::string &saved) {
    std::map<std::string, struct option_difference> found;
    struct option_difference differences[128];
    size_t count = 0;
    struct error error = {};
    EXPECT_EQ(options_compare(&now, saved.data(), saved.size(), differences, 128, &count, &error),
              STATUS_OK)
        << error.message;
    for (size_t i = 0; i < count; i++) {
        found[differences[i].name] = differences[i];
    }
    return found;
}

TEST_F(Options, WhatAChangeMeansAtResume) {
    // Another value for each option of train, and what the contract, section 4, makes of it.
    const std::vector<std::tuple<std::string, std::string, enum option_change>> changes = {
        {"epochs", "20", OPTION_CHANGE_FREE},
        {"max-steps", "20", OPTION_CHANGE_FREE},
        {"save-checkpoints-secs", "1", OPTION_CHANGE_FREE},
        {"keep-checkpoint-max", "1", OPTION_CHANGE_FREE},
        {"compression-level", "3", OPTION_CHANGE_FREE},
        {"compression-threads", "2", OPTION_CHANGE_FREE},
        {"checkpoint-busy", "wait", OPTION_CHANGE_FREE},
        {"checkpoint-filepath", "x", OPTION_CHANGE_FREE},
        {"patience", "none", OPTION_CHANGE_FREE},
        {"progress", "json", OPTION_CHANGE_FREE},
        {"threads", "3", OPTION_CHANGE_FREE},
        {"device", "cpu", OPTION_CHANGE_FREE},
        {"data", "elsewhere", OPTION_CHANGE_FREE},
        {"model-dir", "elsewhere", OPTION_CHANGE_FREE},
        {"vocabulary", "elsewhere", OPTION_CHANGE_FREE},
        {"learning-rate", "1e-3", OPTION_CHANGE_WARN},
        {"clip-norm", "1", OPTION_CHANGE_WARN},
        {"isa", "portable", OPTION_CHANGE_WARN},
        {"lstm", "cudnn", OPTION_CHANGE_WARN},
        {"cuda-graph", "off", OPTION_CHANGE_FREE},
        {"seed", "2", OPTION_CHANGE_REFUSED},
        {"batch-size", "32", OPTION_CHANGE_REFUSED},
        {"shuffle", "none", OPTION_CHANGE_REFUSED},
        {"shuffle-buffer", "3", OPTION_CHANGE_REFUSED},
        {"bucket-window", "0", OPTION_CHANGE_REFUSED},
        {"max-length", "9", OPTION_CHANGE_REFUSED},
        {"strip-html", "on", OPTION_CHANGE_REFUSED},
        {"vocabulary-size", "99", OPTION_CHANGE_REFUSED},
        {"validation-split", "0.5", OPTION_CHANGE_REFUSED},
        {"embedding-size", "16", OPTION_CHANGE_MISFIT},
        {"hidden-size", "16", OPTION_CHANGE_MISFIT},
        {"dense-size", "16", OPTION_CHANGE_MISFIT},
    };
    Train then;
    const std::string saved = written(then.options);
    const std::map<std::string, std::string> before = as_map(saved);
    for (const auto &[name, value, change] : changes) {
        Train now({"--set", name + "=" + value});
        ASSERT_EQ(now.status, STATUS_OK) << now.message();
        const auto found = compare(now.options, saved);
        ASSERT_EQ(found.size(), 1u) << name;
        ASSERT_EQ(found.begin()->first, name);
        EXPECT_EQ(found.begin()->second.change, change) << name;
        EXPECT_EQ(found.begin()->second.saved, before.at(name));
        EXPECT_EQ(found.begin()->second.now, as_map(written(now.options)).at(name));
    }
}

TEST_F(Options, CompareIsByValueNotByText) {
    Train now({"--learning-rate", "0.001"});
    EXPECT_TRUE(compare(now.options, "learning-rate = 1.0e-3\nstrip-html = no\n").empty());
    EXPECT_TRUE(compare(now.options, "").empty());
    EXPECT_TRUE(compare(now.options, "an-option-of-tomorrow = 3\n").empty());
    EXPECT_EQ(compare(now.options, "seed = 4\n").size(), 1u);
    struct option_difference difference;
    size_t count;
    for (const std::string bad : {"seed = x\n", "rubbish\n", "seed = 1\n seed = 2\n"}) {
        struct error error = {};
        EXPECT_EQ(
            options_compare(&now.options, bad.data(), bad.size(), &difference, 1, &count, &error),
            STATUS_CORRUPT);
        EXPECT_EQ(error.status, STATUS_CORRUPT);
        EXPECT_NE(error.message[0], '\0');
    }
    const std::string many = "seed = 4\nepochs = 4\nhidden-size = 4\n";
    struct option_difference two[2];
    ASSERT_EQ(options_compare(&now.options, many.data(), many.size(), two, 2, &count, nullptr),
              STATUS_OK);
    EXPECT_EQ(count, 2u); // no more than there is room for
}

// ---- help ----

// Text with every run of white space made one space: argp breaks lines where it likes.
std::string squeeze(const std::string &text) {
    std::string out;
    for (char c : text) {
        const bool blank = c == ' ' || c == '\n';
        if (!blank || (!out.empty() && out.back() != ' ')) {
            out += blank ? ' ' : c;
        }
    }
    return out;
}

std::string help_of(enum command command, const std::string &flag, bool *good) {
    testing::internal::CaptureStdout();
    Parsed parsed(command, {flag});
    fflush(stdout);
    *good = parsed.status == STATUS_OK && parsed.exit_early;
    return testing::internal::GetCapturedStdout();
}

bool takes_name(int command, const std::string &name) {
    for (size_t i = 0; i < options_row_count(); i++) {
        if (name == options_row(i).name && (options_row(i).commands >> command & 1) != 0) {
            return true;
        }
    }
    return false;
}

TEST_F(Options, HelpListsEveryOptionWithItsDefault) {
    for (int c = 0; c < COMMAND_COUNT; c++) {
        bool good;
        const std::string help = squeeze(help_of(static_cast<enum command>(c), "--help", &good));
        EXPECT_TRUE(good);
        EXPECT_NE(help.find(std::string("cairn ") + command_name(static_cast<enum command>(c))),
                  std::string::npos);
        for (size_t i = 0; i < options_row_count(); i++) {
            const struct option_row_info row = options_row(i);
            const std::string flag = std::string("--") + row.name;
            const bool taken = (row.commands >> c & 1) != 0;
            if (!taken && takes_name(c, row.name)) {
                continue; /* another option of that name */
            }
            const size_t at = std::min(help.find(" " + flag + "="), help.find(" " + flag + "[="));
            EXPECT_EQ(at != std::string::npos, taken) << flag;
            if (taken) {
                const size_t next = help.find("(default: ", at);
                ASSERT_NE(next, std::string::npos) << flag;
                EXPECT_EQ(help.compare(next + 10, std::string(row.default_shown).size() + 1,
                                       std::string(row.default_shown) + ")"),
                          0)
                    << flag;
            }
        }
        for (const char *general : {"--config=", "--set=", "--print-config", "--help", "--usage"}) {
            EXPECT_NE(help.find(general), std::string::npos) << general;
        }
    }
}

TEST_F(Options, HelpAndUsageNeedNothingElse) {
    bool good;
    EXPECT_NE(help_of(COMMAND_TRAIN, "--usage", &good).find("--epochs"), std::string::npos);
    EXPECT_TRUE(good);
    set("CAIRN_EPOCHS", "rubbish");
    help_of(COMMAND_TRAIN, "--help", &good);
    EXPECT_TRUE(good);
}

TEST_F(Options, PrintConfigPrintsWhatCounts) {
    testing::internal::CaptureStdout();
    Parsed parsed(COMMAND_TRAIN, {"--print-config", "--epochs", "3"});
    fflush(stdout);
    const std::string text = testing::internal::GetCapturedStdout();
    ASSERT_EQ(parsed.status, STATUS_OK) << parsed.message();
    EXPECT_TRUE(parsed.exit_early);
    EXPECT_EQ(as_map(text).at("epochs"), "3");
    EXPECT_EQ(text, written(parsed.options));
}

// A text that just fits its line would leave one of blanks behind it.
TEST_F(Options, HelpHasNoLineOfBlanks) {
    for (int c = 0; c < COMMAND_COUNT; c++) {
        bool good;
        std::istringstream help(help_of(static_cast<enum command>(c), "--help", &good));
        for (std::string line, before; std::getline(help, line); before = line) {
            EXPECT_TRUE(line.empty() || line.find_first_not_of(' ') != std::string::npos) << before;
        }
    }
}

TEST_F(Options, HelpHasNoShortOptions) {
    bool good;
    const std::string help = help_of(COMMAND_TRAIN, "--help", &good);
    for (size_t at = help.find(" -"); at != std::string::npos; at = help.find(" -", at + 1)) {
        EXPECT_TRUE(help[at + 2] == '-' || help[at + 2] == ',' || help[at + 2] == ' ')
            << help.substr(at, 20);
    }
}

} // namespace
