/* tile.h - a block of a matrix product in registers; every product of the fused kernels is made of
 * it.
 *
 *     sum[r][:] += a(r, k) b(k, :)     for k from first to last
 *
 * `terms` says what the elements are: 1, fp32 numbers; RECURRENT_TERMS, factors (factors.h). It,
 * `rows` and `vectors` are constants where a tile is used, so that its sums stay in registers. A
 * row's sum does not depend on the tile it is in: its bits are the same in a tile of 6 rows and of
 * 1.
 */
#ifndef CAIRN_KERNELS_CPU_TILE_H
#define CAIRN_KERNELS_CPU_TILE_H

#include "kernels/cpu/factors.h"

/* Element (r, k) of the left matrix is at[r * row + k * depth]. */
struct tile_left {
    const float *at;
    size_t row, depth;
};

/* The vectors of row k of the right one begin at at[k * depth]. */
struct tile_right {
    const float *at;
    size_t depth;
};

ALWAYS_INLINE void tile_multiply(const int terms, const int rows, const int vectors,
                                 simd sum[SIMD_ROWS][SIMD_VECTORS], size_t depth,
                                 struct tile_left a, struct tile_right b) {
    const float *left[SIMD_ROWS];
    SIMD_EACH(r, rows) {
        left[r] = a.at + (size_t)r * a.row;
    }
    const float *panel = b.at;
    for (size_t k = 0; k < depth; k++, panel += b.depth) {
        if (rows >= vectors) {
            simd w[SIMD_VECTORS];
            SIMD_EACH(v, vectors) {
                w[v] = simd_load(panel + v * SIMD_LANES);
            }
            SIMD_EACH(r, rows) {
                simd x = simd_all(left[r][k * a.depth]);
                SIMD_EACH(v, vectors) {
                    sum[r][v] = factors_multiply_add(terms, x, w[v], sum[r][v]);
                }
            }
        } else {
            simd x[SIMD_ROWS];
            SIMD_EACH(r, rows) {
                x[r] = simd_all(left[r][k * a.depth]);
            }
            SIMD_EACH(v, vectors) {
                simd w = simd_load(panel + v * SIMD_LANES);
                SIMD_EACH(r, rows) {
                    sum[r][v] = factors_multiply_add(terms, x[r], w, sum[r][v]);
                }
            }
        }
    }
}

/* Call function(rows, ...) with `rows` (1 to SIMD_ROWS) as a constant. */
#define TILE_WITH_ROWS(rows, function, ...)                                                        \
    do {                                                                                           \
        switch (rows) {                                                                            \
        case 1:                                                                                    \
            function(1, __VA_ARGS__);                                                              \
            break;                                                                                 \
        case 2:                                                                                    \
            function(2, __VA_ARGS__);                                                              \
            break;                                                                                 \
        case 3:                                                                                    \
            function(SIMD_ROWS < 3 ? SIMD_ROWS : 3, __VA_ARGS__);                                  \
            break;                                                                                 \
        case 4:                                                                                    \
            function(SIMD_ROWS < 4 ? SIMD_ROWS : 4, __VA_ARGS__);                                  \
            break;                                                                                 \
        case 5:                                                                                    \
            function(SIMD_ROWS < 5 ? SIMD_ROWS : 5, __VA_ARGS__);                                  \
            break;                                                                                 \
        default:                                                                                   \
            function(SIMD_ROWS, __VA_ARGS__);                                                      \
        }                                                                                          \
    } while (0)

/* Call function(rows, vectors, ...) with both as constants. */
#define TILE_WITH_SIZE(rows, vectors, function, ...)                                               \
    do {                                                                                           \
        switch (vectors) {                                                                         \
        case 1:                                                                                    \
            TILE_WITH_ROWS(rows, function, 1, __VA_ARGS__);                                        \
            break;                                                                                 \
        case 2:                                                                                    \
            TILE_WITH_ROWS(rows, function, 2, __VA_ARGS__);                                        \
            break;                                                                                 \
        case 3:                                                                                    \
            TILE_WITH_ROWS(rows, function, 3, __VA_ARGS__);                                        \
            break;                                                                                 \
        default:                                                                                   \
            TILE_WITH_ROWS(rows, function, SIMD_VECTORS, __VA_ARGS__);                             \
        }                                                                                          \
    } while (0)

/* The rows of the next tile when `left` remain: tiles of nearly equal height, because low ones
 * cannot keep the arithmetic units busy. */
ALWAYS_INLINE uint32_t tile_rows(size_t left) {
    size_t tiles = (left + SIMD_ROWS - 1) / SIMD_ROWS;
    return (uint32_t)((left + tiles - 1) / tiles);
}

/* Floats of the next group of columns when `left` remain, a multiple of SIMD_LANES. */
ALWAYS_INLINE size_t tile_columns(size_t left) {
    size_t full = SIMD_VECTORS * SIMD_LANES;
    return left < full ? left : full;
}

/* ---- sum of outer products ---- */

struct tile_outer {
    size_t count;         /* terms */
    size_t rows, columns; /* of the result; columns a multiple of SIMD_LANES */
    struct tile_left left;
    struct tile_right right;
    float *total; /* [rows, columns], added to: first the terms are summed by themselves */
};

ALWAYS_INLINE void tile_outer_block(const int rows, const int vectors, const int terms,
                                    const struct tile_outer *o, size_t row, size_t column) {
    simd sum[SIMD_ROWS][SIMD_VECTORS];
    SIMD_EACH(r, rows) {
        SIMD_EACH(v, vectors) {
            sum[r][v] = simd_zero();
        }
    }
    struct tile_left left = {o->left.at + row * o->left.row, o->left.row, o->left.depth};
    struct tile_right right = {o->right.at + column, o->right.depth};
    tile_multiply(terms, rows, vectors, sum, o->count, left, right);
    SIMD_EACH(r, rows) {
        float *to = o->total + (row + (size_t)r) * o->columns + column;
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++, to += SIMD_LANES) {
            simd_store(to, simd_load(to) + sum[r][v]);
        }
    }
}

/* total[i, :] += sum over n of left(i, n) right(n, :). */
ALWAYS_INLINE void tile_outer(const int terms, const struct tile_outer *o) {
    for (size_t column = 0; column < o->columns; column += tile_columns(o->columns - column)) {
        size_t vectors = tile_columns(o->columns - column) / SIMD_LANES;
        for (size_t row = 0; row < o->rows;) {
            uint32_t rows = tile_rows(o->rows - row);
            TILE_WITH_SIZE(rows, vectors, tile_outer_block, terms, o, row, column);
            row += rows;
        }
    }
}

#endif
