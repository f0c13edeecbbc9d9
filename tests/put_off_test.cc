// Copies that are put off: all bytes arrive, whoever makes them and in whatever pieces.
#include "io/put_off.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>
#include <vector>

namespace {

constexpr size_t PIECE = 2 << 20; // what one thread takes at once

std::vector<uint8_t> random_bytes(size_t size) {
    std::mt19937 random(static_cast<unsigned>(size));
    std::vector<uint8_t> bytes(size);
    for (size_t i = 0; i < size; i += 61) {
        bytes[i] = static_cast<uint8_t>(random());
    }
    return bytes;
}

class PutOff : public ::testing::Test {
  protected:
    void SetUp() override {
        struct error err = {};
        ASSERT_EQ(put_off_init(&list, 3, &err), STATUS_OK) << err.message;
    }
    void TearDown() override { put_off_deinit(&list); }

    struct put_off list = {};
};

TEST_F(PutOff, NothingIsCopiedBeforeFinishAndAllAfterIt) {
    for (size_t size :
         {size_t{1}, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 8 * PIECE - 1, 8 * PIECE + 5}) {
        std::vector<uint8_t> from = random_bytes(size), to(size, 9), before = to;
        put_off_clear(&list);
        put_off_add(&list, to.data(), from.data(), size);
        EXPECT_EQ(to, before) << size;
        put_off_finish(&list);
        EXPECT_EQ(to, from) << size;
    }
}

TEST_F(PutOff, FinishedCopiesAreNotMadeAgain) {
    std::vector<uint8_t> from = random_bytes(100), to(100);
    put_off_add(&list, to.data(), from.data(), 100);
    put_off_finish(&list);
    const std::vector<uint8_t> kept = to;
    from.assign(100, 1);
    put_off_finish(&list);
    EXPECT_EQ(to, kept);
}

TEST_F(PutOff, CopiesThatGoOnAreJoinedAndEmptyOnesAreNone) {
    std::vector<uint8_t> from = random_bytes(1000), to(1000);
    for (size_t at = 0; at < 1000; at += 10) { // there is room for three
        put_off_add(&list, to.data() + at, from.data() + at, 10);
        put_off_add(&list, to.data(), from.data(), 0);
    }
    EXPECT_EQ(list.count, 1u);
    put_off_finish(&list);
    EXPECT_EQ(to, from);
}

// Neighbours in the source alone, or in the destination alone, are copies of their own.
TEST_F(PutOff, CopiesThatDoNotGoOnStayApart) {
    std::vector<uint8_t> from = random_bytes(30), to(40), expected(40);
    put_off_add(&list, to.data(), from.data(), 10);
    put_off_add(&list, to.data() + 20, from.data() + 10, 10);
    put_off_add(&list, to.data() + 30, from.data(), 10);
    put_off_finish(&list);
    std::copy_n(from.begin(), 10, expected.begin());
    std::copy_n(from.begin() + 10, 10, expected.begin() + 20);
    std::copy_n(from.begin(), 10, expected.begin() + 30);
    EXPECT_EQ(to, expected);
}

TEST_F(PutOff, ClearForgetsWhatWasNotMade) {
    std::vector<uint8_t> from = random_bytes(100), to(100), empty = to;
    put_off_add(&list, to.data(), from.data(), 100);
    put_off_clear(&list);
    put_off_finish(&list);
    EXPECT_EQ(to, empty);
}

TEST_F(PutOff, AnAssistantMakesThemAndSaysHowMany) {
    const size_t size = 3 * PIECE + 7;
    std::vector<uint8_t> from = random_bytes(size), to(size);
    put_off_add(&list, to.data(), from.data(), PIECE + 1);
    put_off_finish(&list);
    put_off_add(&list, to.data() + PIECE + 1, from.data() + PIECE + 1, size - PIECE - 1);
    put_off_assist(&list);
    EXPECT_EQ(to, from);
    EXPECT_EQ(list.assisted_bytes, size - PIECE - 1); // not what finish had copied
    EXPECT_GT(list.assisted_cpu_seconds, 0.0);
    put_off_assist(&list);
    EXPECT_EQ(list.assisted_bytes, size - PIECE - 1);
    put_off_clear(&list);
    EXPECT_EQ(list.assisted_bytes, 0u);
    EXPECT_EQ(list.assisted_cpu_seconds, 0.0);
}

// A copy that goes on where one ends that is already made: nobody looks at that one any more.
TEST_F(PutOff, WhatIsAddedBehindAMadeCopyIsCopiedToo) {
    std::vector<uint8_t> from = random_bytes(300), to(300);
    for (size_t at = 0; at < 300; at += 100) {
        put_off_add(&list, to.data() + at, from.data() + at, 100);
        put_off_assist(&list);
    }
    EXPECT_EQ(to, from);
}

TEST_F(PutOff, AnAssistantMayBeThereWhileTheyAreAdded) {
    std::vector<uint8_t> from = random_bytes(3000), to(3000);
    std::atomic<bool> done{false};
    std::thread assistant([&] {
        while (!done) {
            put_off_assist(&list);
        }
    });
    for (int round = 0; round < 2000; round++) {
        put_off_clear(&list);
        std::fill(to.begin(), to.end(), static_cast<uint8_t>(9));
        for (size_t at = 0; at < 3000; at += 1000) {
            put_off_add(&list, to.data() + at, from.data() + at, 1000);
        }
        put_off_finish(&list);
        ASSERT_EQ(to, from) << round;
    }
    done = true;
    assistant.join();
}

// What was taken when the list is cleared is copied to its end before clear returns.
TEST_F(PutOff, AfterClearNobodyCopies) {
    const size_t size = 64 * PIECE;
    std::vector<uint8_t> from(size, 1), to(size);
    put_off_add(&list, to.data(), from.data(), size);
    std::thread other([&] { put_off_finish(&list); });
    auto begun = [&] {
        pthread_mutex_lock(&list.mutex);
        bool yes = list.offset > 0 || list.next > 0;
        pthread_mutex_unlock(&list.mutex);
        return yes;
    };
    while (!begun()) {
        std::this_thread::yield();
    }
    put_off_clear(&list);
    // Whole pieces, and nothing behind the first one that was not taken.
    size_t copied = 0;
    while (copied < size && to[copied] == 1) {
        copied++;
    }
    EXPECT_EQ(copied % PIECE, 0u);
    EXPECT_EQ(std::count(to.begin() + static_cast<ptrdiff_t>(copied), to.end(), 1), 0);
    other.join();
    EXPECT_TRUE(copied == size || to[copied] == 0) << "copied after clear";
}

// Each that returns from finish must find everything there, what the others copied included.
TEST_F(PutOff, SeveralThreadsShareTheWork) {
    const size_t size = 9 * PIECE + 123; // past the cache
    std::vector<uint8_t> from = random_bytes(size), to(size);
    put_off_add(&list, to.data(), from.data(), size);
    std::vector<std::thread> threads;
    std::vector<char> complete(3, 0);
    for (size_t i = 0; i < complete.size(); i++) {
        threads.emplace_back([&, i] {
            put_off_finish(&list);
            complete[i] = to == from;
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(complete, std::vector<char>(3, 1));
}

} // namespace
