// Signals, each case in a child process of its own: what the first and the second one do, and how a
// command is run.
#include <errno.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>
#include <string>

#include "host/base/stop.h"
#include "host/signals.h"
#include "tests/support/temporary_directory.h"

namespace {

char seen_blocked; // its address tells that a thread blocks the signals

// Wait in the child until the stop flag is up; the parent's test has a time limit.
void await_stop() {
    while (stop_signal() == 0) {
        sched_yield();
    }
}

// Run `body` in a child, which ends with what it returns. `act` may send it signals once the child
// says that it is ready. Returns waitpid's status.
int in_child(const std::function<int(int ready_fd)> &body,
             const std::function<void(pid_t child, int ready_fd)> &act = nullptr) {
    int pipes[2];
    EXPECT_EQ(pipe(pipes), 0);
    fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) {
        close(pipes[0]);
        alarm(60); // a child that waits for ever ends by SIGALRM, which fails the test
        _exit(body(pipes[1]));
    }
    close(pipes[1]);
    if (act) {
        act(child, pipes[0]);
    }
    close(pipes[0]);
    int status = -1;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    return status;
}

void say_ready(int fd) {
    const char byte = 'x';
    if (write(fd, &byte, 1) != 1) {
        _exit(120);
    }
}

void await_ready(int fd) {
    char byte;
    ASSERT_EQ(read(fd, &byte, 1), 1);
}

int start_or_exit() {
    if (signals_start(nullptr) != STATUS_OK) {
        _exit(121);
    }
    return 0;
}

class StopSignal : public testing::TestWithParam<int> {};

TEST_P(StopSignal, TheFirstRaisesTheFlagTheSecondEndsTheProcess) {
    const int number = GetParam();
    const int status = in_child(
        [&](int fd) {
            start_or_exit();
            say_ready(fd);
            await_stop();
            if (stop_signal() != number) {
                return 1;
            }
            say_ready(fd);
            for (;;) {
                pause();
            }
        },
        [&](pid_t child, int fd) {
            await_ready(fd);
            kill(child, number);
            await_ready(fd);
            kill(child, SIGTERM); // any other one is the second
        });
    ASSERT_TRUE(WIFEXITED(status)) << status;
    EXPECT_EQ(WEXITSTATUS(status), 128 + SIGTERM);
}

INSTANTIATE_TEST_SUITE_P(Each, StopSignal, testing::Values(SIGTERM, SIGINT, SIGUSR1, SIGHUP),
                         [](const testing::TestParamInfo<int> &info) {
                             return std::string(signals_name(info.param));
                         });

TEST(Signals, ThreadsMadeLaterDoNotSeeThem) {
    const int status = in_child(
        [](int fd) {
            start_or_exit();
            pthread_t thread;
            pthread_create(
                &thread, nullptr,
                [](void *) -> void * {
                    sigset_t mask;
                    pthread_sigmask(SIG_SETMASK, nullptr, &mask);
                    return sigismember(&mask, SIGTERM) == 1 && sigismember(&mask, SIGHUP) == 1
                               ? &seen_blocked
                               : nullptr;
                },
                nullptr);
            void *result;
            pthread_join(thread, &result);
            say_ready(fd);
            await_stop();
            return result == &seen_blocked ? 0 : 1;
        },
        [](pid_t child, int fd) {
            await_ready(fd);
            kill(child, SIGINT);
        });
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST(Signals, AnIgnoredHangupStaysIgnored) {
    const int status = in_child(
        [](int fd) {
            signal(SIGHUP, SIG_IGN); // as nohup does
            start_or_exit();
            say_ready(fd);
            await_stop();
            return stop_signal();
        },
        [](pid_t child, int fd) {
            await_ready(fd);
            kill(child, SIGHUP);
            kill(child, SIGHUP);
            kill(child, SIGUSR1);
        });
    ASSERT_TRUE(WIFEXITED(status)) << status;
    EXPECT_EQ(WEXITSTATUS(status), SIGUSR1);
}

TEST(Signals, AClosedPipeIsAnErrorNotADeath) {
    const int status = in_child([](int) {
        start_or_exit();
        int pipes[2];
        if (pipe(pipes) != 0) {
            return 1;
        }
        close(pipes[0]);
        return write(pipes[1], "x", 1) == -1 && errno == EPIPE ? 0 : 2;
    });
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

TEST(Signals, Names) {
    EXPECT_STREQ(signals_name(SIGTERM), "SIGTERM");
    EXPECT_STREQ(signals_name(SIGHUP), "SIGHUP");
    EXPECT_STRNE(signals_name(12345), "");
}

// ---- commands ----

int run(const std::string &command) {
    int code = -1;
    struct error error = {};
    EXPECT_EQ(signals_run_command(command.c_str(), &code, &error), STATUS_OK) << error.message;
    return code;
}

TEST(RunCommand, ExitCodes) {
    EXPECT_EQ(run("true"), 0);
    EXPECT_EQ(run("  false\t"), 1);
    EXPECT_EQ(run("sh -c 'exit 7'"), 7);
    EXPECT_EQ(run("sh -c 'kill -KILL $$'"), 128 + SIGKILL);
}

// Each word of the command on a line of its own.
TEST(RunCommand, WordsAndQuotesWithoutAShell) {
    TemporaryDirectory directory;
    const std::string file = directory.file("words");
    const std::string lines = "sh -c 'for w; do echo \"$w\"; done >" + file + "' sh ";
    EXPECT_EQ(run(lines + "plain 'one two' \"it's\" a'b'\"c\" '' $HOME ; | > *"), 0);
    EXPECT_EQ(read_file(file), "plain\none two\nit's\nabc\n\n$HOME\n;\n|\n>\n*\n");
}

TEST(RunCommand, WhatCannotBeRun) {
    int code = -1;
    struct error error = {};
    EXPECT_EQ(signals_run_command("/no/such/command x", &code, &error), STATUS_INPUT);
    EXPECT_NE(std::string(error.message).find("/no/such/command"), std::string::npos);
    for (const char *bad : {"", "   ", "a 'b", "\"", "''"}) {
        EXPECT_EQ(signals_run_command(bad, &code, &error), STATUS_USAGE) << bad;
        EXPECT_EQ(signals_check_command(bad, &error), STATUS_USAGE) << bad;
    }
    EXPECT_EQ(signals_check_command("a 'b c'", &error), STATUS_OK);
}

TEST(RunCommand, TheChildHasNoSignalBlockedAndPrintsToStderr) {
    TemporaryDirectory directory;
    const std::string file = directory.file("mask");
    const int status = in_child([&](int) {
        start_or_exit();
        int code = -1;
        // The lines of /proc for the child itself: nothing blocked, none of ours ignored; stdout is
        // stderr.
        const std::string command = "sh -c 'grep -E \"^Sig(Blk|Ign)\" /proc/self/status >" + file +
                                    "; test /proc/self/fd/1 -ef /proc/self/fd/2'";
        return signals_run_command(command.c_str(), &code, nullptr) == STATUS_OK ? code : 100;
    });
    ASSERT_TRUE(WIFEXITED(status)) << status;
    EXPECT_EQ(WEXITSTATUS(status), 0);
    const std::string masks = read_file(file);
    EXPECT_EQ(masks.find("SigBlk:\t0000000000000000\n"), 0u) << masks;
    const size_t ignored = masks.find("SigIgn:\t");
    ASSERT_NE(ignored, std::string::npos) << masks;
    for (int signal : {SIGPIPE, SIGXFSZ}) {
        EXPECT_EQ(std::stoull(masks.substr(ignored + 8), nullptr, 16) >> (signal - 1) & 1, 0u)
            << masks;
    }
}

TEST(RunCommand, IsEndedByTheSignalsThatWeBlock) {
    const int status = in_child([](int) {
        start_or_exit();
        int code = -1;
        return signals_run_command("sh -c 'kill -TERM $$; sleep 60'", &code, nullptr) == STATUS_OK
                   ? code
                   : 100;
    });
    ASSERT_TRUE(WIFEXITED(status)) << status;
    EXPECT_EQ(WEXITSTATUS(status), 128 + SIGTERM);
}

} // namespace
