// The program's front door: commands, help and version, and what becomes of standard output.
#include <regex>
#include <string>

#include "host/options.h"
#include "tests/support/process.h"
#include "gtest/gtest.h"

namespace {

Outcome shell(const std::string &script) {
    return run({.program = "/bin/sh", .arguments = {"-c", script}});
}

TEST(Main, WithoutACommandItSaysHowToUseIt) {
    const Outcome outcome = run_cairn({});
    EXPECT_EQ(outcome.code, 2);
    EXPECT_EQ(outcome.out, "");
    for (int c = 0; c < COMMAND_COUNT; c++) {
        EXPECT_TRUE(contains(outcome.err, command_name(static_cast<enum command>(c))));
    }
}

TEST(Main, HelpGoesToStandardOutput) {
    const Outcome help = run_cairn({"--help"});
    EXPECT_EQ(help.code, 0);
    EXPECT_EQ(help.err, "");
    for (int c = 0; c < COMMAND_COUNT; c++) {
        const std::string name = command_name(static_cast<enum command>(c));
        EXPECT_TRUE(contains(help.out, name));
        const Outcome by_flag = run_cairn(words(name) + words("--help"));
        const Outcome by_word = run_cairn(words("help") + words(name));
        EXPECT_EQ(by_flag.code, 0);
        EXPECT_EQ(by_flag.err, "");
        EXPECT_TRUE(contains(by_flag.out, "Usage: cairn " + name));
        EXPECT_EQ(by_word.code, 0);
        EXPECT_EQ(by_word.out, by_flag.out);
    }
    EXPECT_EQ(run_cairn({"help"}).out, help.out);
}

TEST(Main, VersionNamesBackendsAndInstructionSets) {
    const Outcome version = run_cairn({"--version"});
    EXPECT_EQ(version.code, 0);
    EXPECT_TRUE(std::regex_search(
        version.out, std::regex("^cairn [0-9.]+\nrevision: (unknown|[0-9a-f]{12,40}(-dirty)?)\n")))
        << version.out;
    EXPECT_TRUE(contains(version.out, "cpu")) << version.out;
    EXPECT_TRUE(contains(version.out, "portable")) << version.out;
}

TEST(Main, UnknownCommandsAreUsageErrorsWithTheNearestName) {
    for (const auto &words :
         {std::vector<std::string>{"trian"}, std::vector<std::string>{"help", "trian"}}) {
        const Outcome outcome = run_cairn(words);
        EXPECT_EQ(outcome.code, 2);
        EXPECT_EQ(outcome.out, "");
        EXPECT_TRUE(contains(outcome.err, "\"trian\"")) << outcome.err;
        EXPECT_TRUE(contains(outcome.err, "\"train\"")) << outcome.err;
    }
    EXPECT_EQ(run_cairn({"zzzzzzzzzzzz"}).code, 2);
    EXPECT_EQ(run_cairn({"--verison"}).code, 2);
}

TEST(Main, BenchListsTheBenchmarks) {
    const Outcome alone = run_cairn({"bench"});
    EXPECT_EQ(alone.code, 2);
    EXPECT_EQ(alone.out, "");
    for (const char *line : {"bench --help", "help bench"}) {
        const Outcome help = run_cairn(words(line));
        EXPECT_EQ(help.code, 0);
        EXPECT_EQ(help.err, "");
        EXPECT_EQ(help.out, alone.err);
        for (const char *name : {"train", "ops", "data", "checkpoint"}) {
            EXPECT_TRUE(contains(help.out, std::string("\n  ") + name + " ")) << help.out;
        }
    }
    for (const char *line : {"bench trian", "help bench trian", "bench trian --help"}) {
        const Outcome unknown = run_cairn(words(line));
        EXPECT_EQ(unknown.code, 2);
        EXPECT_EQ(unknown.out, "");
        EXPECT_EQ(unknown.err, alone.err + "cairn: there is no benchmark \"trian\"; did you mean "
                                           "\"train\"?\n");
    }
    // No command but a benchmark is one behind the word, and none without it.
    EXPECT_EQ(run_cairn(words("bench predict")).code, 2);
    EXPECT_EQ(run_cairn(words("ops")).code, 2);
    EXPECT_TRUE(contains(run_cairn({"bnech"}).err, "\"bench\""));
}

TEST(Main, ErrorsBeginWithProgramAndCommand) {
    const Outcome outcome = run_cairn({"train", "--epochs", "none"});
    EXPECT_EQ(outcome.code, 2);
    EXPECT_EQ(outcome.err, "cairn train: --epochs none: expected an integer from 1\n");
}

TEST(Main, AFullDiskUnderStandardOutputIsAnError) {
    const Outcome outcome = shell(CAIRN_BINARY " --version >/dev/full");
    EXPECT_EQ(outcome.code, 74);
    EXPECT_TRUE(contains(outcome.err, "No space left")) << outcome.err;
    // More than one buffer: where the last one is empty, only the earlier failure is known.
    const Outcome large = shell(CAIRN_BINARY " train --help >/dev/full");
    EXPECT_EQ(large.code, 74);
    EXPECT_TRUE(contains(large.err, "could not be written")) << large.err;
}

TEST(Main, AClosedStandardOutputIsAnError) {
    const Outcome outcome = shell(CAIRN_BINARY " train --help >&-");
    EXPECT_EQ(outcome.code, 74) << outcome.err;
}

TEST(Main, AReaderThatHasGoneIsNone) {
    // A pipe that the shell itself reads and closes before the program starts.
    TemporaryDirectory directory;
    const std::string pipe = directory.file("pipe");
    const Outcome outcome = shell("mkfifo " + pipe + " && exec 3<>" + pipe + " 4>" + pipe +
                                  " 3>&- && " CAIRN_BINARY " train --help >&4");
    EXPECT_EQ(outcome.code, 0);
    EXPECT_EQ(outcome.err, "");
}

} // namespace
