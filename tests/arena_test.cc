// Many small pieces that are freed together; address and leak checkers watch the rest.
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <vector>

#include "io/arena.h"

namespace {

TEST(Arena, PiecesAreZeroAlignedAndApart) {
    struct arena arena = {};
    std::vector<unsigned char *> pieces;
    for (size_t size = 1; size < 200; size++) {
        auto *piece = static_cast<unsigned char *>(arena_take(&arena, size, 3));
        ASSERT_NE(piece, nullptr);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(piece) % alignof(uint64_t), 0u);
        for (size_t i = 0; i < 3 * size; i++) {
            ASSERT_EQ(piece[i], 0) << size;
        }
        memset(piece, static_cast<int>(size), 3 * size);
        pieces.push_back(piece);
    }
    for (size_t size = 1; size < 200; size++) { // nobody wrote into another one's
        for (size_t i = 0; i < 3 * size; i++) {
            ASSERT_EQ(pieces[size - 1][i], size);
        }
    }
    EXPECT_FALSE(arena.failed);
    arena_deinit(&arena);
}

TEST(Arena, CopiesAreTheirOwn) {
    struct arena arena = {};
    char word[] = "weights";
    char *copy = static_cast<char *>(arena_copy(&arena, word, sizeof word));
    word[0] = 'x';
    EXPECT_STREQ(copy, "weights");
    EXPECT_NE(arena_copy(&arena, nullptr, 0), nullptr);
    EXPECT_FALSE(arena.failed);
    arena_deinit(&arena);
}

TEST(Arena, AFailureIsRemembered) {
    struct arena arena = {};
    ASSERT_NE(arena_take(&arena, 1, 8), nullptr);
    EXPECT_EQ(arena_take(&arena, SIZE_MAX / 2, 3), nullptr); // the product overflows
    EXPECT_TRUE(arena.failed);
    EXPECT_EQ(arena_take(&arena, 1, 1), nullptr);
    EXPECT_EQ(arena_copy(&arena, "x", 1), nullptr);
    arena_deinit(&arena);
    struct arena other = {};
    EXPECT_EQ(arena_take(&other, SIZE_MAX, 1), nullptr); // no room for what the arena adds
    EXPECT_TRUE(other.failed);
    arena_deinit(&other);
}

} // namespace
