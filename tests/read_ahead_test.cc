// Reading ahead: the callback sees what it would see without the thread, failures come in the order
// of the examples, and no more than a few blocks wait.
#include "io/read_ahead.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace {

using Push = std::function<status(const std::string &, unsigned)>;
using Examples = std::vector<std::pair<std::string, unsigned>>;

// read_ahead with lambdas; `err` is that of the side that runs.
struct Reading {
    std::function<status(const Push &, error *)> source;
    std::function<status(const std::string &, unsigned, error *)> callback;
    std::string message;

    static status call_source(void *context, dataset_callback push, void *push_context,
                              error *err) {
        Push function = [&](const std::string &text, unsigned label) {
            return push(push_context, text.data(), text.size(), label, err);
        };
        return static_cast<Reading *>(context)->source(function, err);
    }

    static status call_callback(void *context, const char *text, size_t size, unsigned label,
                                error *err) {
        return static_cast<Reading *>(context)->callback(std::string(text, size), label, err);
    }

    status run() {
        error err = {};
        status result = read_ahead(call_source, this, call_callback, this, &err);
        message = err.message;
        return result;
    }
};

Examples some_examples(size_t count, size_t longest) {
    std::mt19937 random(5);
    Examples examples;
    for (size_t i = 0; i < count; i++) {
        examples.emplace_back(std::string(random() % longest, static_cast<char>('a' + i % 26)),
                              static_cast<unsigned>(random() % 2));
    }
    return examples;
}

// What came out when all of these went in.
Examples passed_through(const Examples &examples) {
    Examples seen;
    Reading reading;
    reading.source = [&](const Push &push, error *) {
        for (const auto &[text, label] : examples) {
            EXPECT_EQ(push(text, label), STATUS_OK);
        }
        return STATUS_OK;
    };
    reading.callback = [&](const std::string &text, unsigned label, error *) {
        seen.emplace_back(text, label);
        return STATUS_OK;
    };
    EXPECT_EQ(reading.run(), STATUS_OK) << reading.message;
    return seen;
}

TEST(ReadAhead, EverythingInOrder) {
    EXPECT_EQ(passed_through({}), Examples());
    Examples few = {{"", 1}, {"one", 0}, {"", 0}};
    EXPECT_EQ(passed_through(few), few);
    Examples many_blocks = some_examples(5000, 2000);
    EXPECT_EQ(passed_through(many_blocks), many_blocks);
    Examples tiny = some_examples(10 * READ_AHEAD_BLOCK_EXAMPLES + 1, 3);
    EXPECT_EQ(passed_through(tiny), tiny);
    Examples longer_than_a_block = some_examples(20, 4 * READ_AHEAD_BLOCK_BYTES);
    EXPECT_EQ(passed_through(longer_than_a_block), longer_than_a_block);
}

TEST(ReadAhead, CallbackOnTheCallersThreadSourceOnOneWithoutSignals) {
    pthread_t caller = pthread_self();
    Reading reading;
    reading.source = [&](const Push &push, error *) {
        EXPECT_FALSE(pthread_equal(pthread_self(), caller));
        sigset_t mask;
        pthread_sigmask(SIG_SETMASK, nullptr, &mask);
        EXPECT_TRUE(sigismember(&mask, SIGTERM) == 1 && sigismember(&mask, SIGINT) == 1);
        return push("text", 0);
    };
    reading.callback = [&](const std::string &, unsigned, error *) {
        EXPECT_TRUE(pthread_equal(pthread_self(), caller));
        return STATUS_OK;
    };
    EXPECT_EQ(reading.run(), STATUS_OK);
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, nullptr, &mask);
    EXPECT_EQ(sigismember(&mask, SIGTERM), 0);
}

TEST(ReadAhead, FailureOfTheSourceComesBehindItsExamples) {
    for (size_t good : {0, 1, 3000}) {
        size_t seen = 0;
        Reading reading;
        reading.source = [&](const Push &push, error *err) {
            for (size_t i = 0; i < good; i++) {
                EXPECT_EQ(push(std::string(500, 'x'), 1), STATUS_OK);
            }
            return error_set(err, STATUS_DATA, "file %zu is bad", good);
        };
        reading.callback = [&](const std::string &, unsigned, error *) {
            seen++;
            return STATUS_OK;
        };
        EXPECT_EQ(reading.run(), STATUS_DATA);
        EXPECT_EQ(reading.message, "file " + std::to_string(good) + " is bad");
        EXPECT_EQ(seen, good);
    }
}

TEST(ReadAhead, FailureOfTheCallbackEndsAnEndlessSource) {
    for (size_t last : {1, 2, 2000}) {
        size_t seen = 0;
        Reading reading;
        reading.source = [&](const Push &push, error *err) {
            for (;;) {
                status result = push(std::string(500, 'x'), 1);
                if (result != STATUS_OK) {
                    return error_set(err, result, "not this one");
                }
            }
        };
        reading.callback = [&](const std::string &, unsigned, error *err) {
            return ++seen < last ? STATUS_OK : error_set(err, STATUS_MEMORY, "example %zu", seen);
        };
        EXPECT_EQ(reading.run(), STATUS_MEMORY);
        EXPECT_EQ(reading.message, "example " + std::to_string(last));
        EXPECT_EQ(seen, last);
    }
}

TEST(ReadAhead, EarlierFailureWins) {
    size_t seen = 0;
    Reading reading;
    reading.source = [&](const Push &push, error *err) {
        for (int i = 0; i < 5; i++) {
            EXPECT_EQ(push("text", 1), STATUS_OK);
        }
        return error_set(err, STATUS_IO, "behind example 5");
    };
    reading.callback = [&](const std::string &, unsigned, error *err) {
        return ++seen < 3 ? STATUS_OK : error_set(err, STATUS_MEMORY, "at example 3");
    };
    EXPECT_EQ(reading.run(), STATUS_MEMORY);
    EXPECT_EQ(reading.message, "at example 3");
}

TEST(ReadAhead, NeverMoreThanItsBlocksAhead) {
    std::atomic<size_t> pushed{0};
    size_t taken = 0, most = 0;
    Reading reading;
    reading.source = [&](const Push &push, error *) {
        for (int i = 0; i < 20000; i++) {
            EXPECT_EQ(push(std::string(1000, 'x'), 1), STATUS_OK);
            pushed += 1000;
        }
        return STATUS_OK;
    };
    reading.callback = [&](const std::string &text, unsigned, error *) {
        most = std::max(most, pushed.load() - std::min(taken, pushed.load()));
        taken += text.size();
        return STATUS_OK;
    };
    EXPECT_EQ(reading.run(), STATUS_OK);
    EXPECT_EQ(taken, 20000u * 1000);
    EXPECT_LE(most, static_cast<size_t>(READ_AHEAD_BLOCKS) * READ_AHEAD_BLOCK_BYTES);
}

} // namespace
