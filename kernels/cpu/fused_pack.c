/* fused_pack.c - weights into the order in which the loops read them, and gradients back. */
#include <string.h>

#include "kernels/cpu/fused.h"
#include "kernels/cpu/tile.h"

/* Units of the block that begins at `unit`. */
static size_t block_units(size_t H, size_t unit) {
    return H - unit < SIMD_LANES ? H - unit : SIMD_LANES;
}

/* Leave the matrix [depth, columns] as it is, or make it factors; returns its floats. */
static size_t factors_of(int terms, float *matrix, size_t depth, size_t columns) {
    if (terms == 1) {
        return depth * columns;
    }
    factors_rows(matrix, depth, columns);
    return factors_depth(depth) * columns;
}

void CPU_SYMBOL(fused_pack_gates)(float *to, const float *w, size_t H, size_t depth, int terms) {
    for (size_t unit = 0; unit < H; unit += SIMD_LANES) {
        size_t valid = block_units(H, unit);
        memset(to, 0, valid < SIMD_LANES ? depth * GATE_LANES * sizeof(float) : 0);
        for (size_t gate = 0; gate < 4; gate++) {
            for (size_t j = 0; j < valid; j++) {
                const float *from = w + (gate * H + unit + j) * depth;
                for (size_t k = 0; k < depth; k++) {
                    to[k * GATE_LANES + gate * SIMD_LANES + j] = from[k];
                }
            }
        }
        to += factors_of(terms, to, depth, GATE_LANES);
    }
}

/* Columns [column, column + group) of a block's gates. */
static void pack_group(float *to, const float *w, size_t H, size_t unit, size_t columns,
                       size_t column, size_t group) {
    size_t valid = columns - column < group ? columns - column : group;
    memset(to, 0, GATE_LANES * group * sizeof(float));
    for (size_t gate = 0; gate < 4; gate++) {
        for (size_t j = 0; j < block_units(H, unit); j++) {
            memcpy(to + (gate * SIMD_LANES + j) * group,
                   w + (gate * H + unit + j) * columns + column, valid * sizeof(float));
        }
    }
}

void CPU_SYMBOL(fused_pack_depth)(float *to, const float *w, size_t H, size_t columns,
                                  size_t padded, int terms) {
    for (size_t unit = 0; unit < H; unit += SIMD_LANES) {
        for (size_t column = 0; column < padded;) {
            size_t group = tile_columns(padded - column);
            pack_group(to, w, H, unit, columns, column, group);
            to += factors_of(terms, to, GATE_LANES, group);
            column += group;
        }
    }
}

void CPU_SYMBOL(fused_unpack)(float *to, const float *sums, size_t H, size_t columns,
                              size_t padded) {
    for (size_t gate = 0; gate < 4; gate++) {
        for (size_t j = 0; j < H; j++) {
            size_t at = j / SIMD_LANES * GATE_LANES + gate * SIMD_LANES + j % SIMD_LANES;
            memcpy(to + (gate * H + j) * columns, sums + at * padded, columns * sizeof(float));
        }
    }
}
