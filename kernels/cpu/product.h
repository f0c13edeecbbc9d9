/* product.h - the two matrix products that everything in the reference is made of.
 *
 * product_rows: out[r, :] = init[r, :] + a[r, :] W, rows anywhere in memory. W is packed into
 * panels of PRODUCT_COLUMNS columns padded with zeros; a block of PRODUCT_ROWS rows times one panel
 * is summed in registers. A row's sum runs over the depth from first to last whatever the block it
 * is in, so its bits depend on nothing but the row.
 *
 * product_outer: out[i, :] = sum over n of d[n, i] x[n, :], in partial sums of PRODUCT_TOKENS
 * terms. The order is that of n and does not depend on how the rows i are dealt out to threads.
 *
 * The block sizes are what gcc 12 keeps in registers.
 */
#ifndef CAIRN_KERNELS_CPU_PRODUCT_H
#define CAIRN_KERNELS_CPU_PRODUCT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cpu/cpu_workspace.h"
#include "kernels/cpu/multiply_add.h"

#if defined(__AVX512F__)
enum { PRODUCT_ROWS = 4, PRODUCT_COLUMNS = 64 };
#elif defined(__AVX2__) || defined(__aarch64__)
enum { PRODUCT_ROWS = 4, PRODUCT_COLUMNS = 16 };
#else
enum { PRODUCT_ROWS = 2, PRODUCT_COLUMNS = 16 };
#endif
_Static_assert(CPU_PACK_COLUMNS % PRODUCT_COLUMNS == 0,
               "the workspace must have room for the padding");

enum { PRODUCT_TOKENS = 64, PRODUCT_OUTER_ROWS = 32 };

/* ---- a matrix in panels ---- */

struct packed {
    const float *data; /* [panels][depth][PRODUCT_COLUMNS] */
    size_t depth, columns;
};

/* Element (k, j) of the matrix is source[k * depth_stride + j * column_stride]. `data` holds depth
 * times `columns` rounded up to a multiple of CPU_PACK_COLUMNS floats. */
static inline struct packed product_pack(float *data, const float *source, size_t depth,
                                         size_t columns, size_t depth_stride,
                                         size_t column_stride) {
    float *at = data;
    for (size_t j0 = 0; j0 < columns; j0 += PRODUCT_COLUMNS) {
        for (size_t k = 0; k < depth; k++) {
            for (size_t j = j0; j < j0 + PRODUCT_COLUMNS; j++) {
                *at++ = j < columns ? source[k * depth_stride + j * column_stride] : 0.0f;
            }
        }
    }
    return (struct packed){.data = data, .depth = depth, .columns = columns};
}

/* ---- rows times matrix ---- */

/* `rows` is a constant where this is called, so that the sums stay in registers. */
ALWAYS_INLINE void product_block(const int rows, const float *const *a, const float *const *init,
                                 float *const *out, const float *panel, size_t depth) {
    float sum[PRODUCT_ROWS][PRODUCT_COLUMNS];
    for (int r = 0; r < rows; r++) {
        for (int j = 0; j < PRODUCT_COLUMNS; j++) {
            sum[r][j] = init[r][j];
        }
    }
    for (size_t k = 0; k < depth; k++) {
        for (int j = 0; j < PRODUCT_COLUMNS; j++) {
            float w = panel[k * PRODUCT_COLUMNS + (size_t)j];
            for (int r = 0; r < rows; r++) {
                sum[r][j] = multiply_add(a[r][k], w, sum[r][j]);
            }
        }
    }
    for (int r = 0; r < rows; r++) {
        for (int j = 0; j < PRODUCT_COLUMNS; j++) {
            out[r][j] = sum[r][j];
        }
    }
}

/* One block whose panel may be cut by the matrix' last column. */
ALWAYS_INLINE void product_block_cut(const int rows, const float *const *a,
                                     const float *const *init, float *const *out,
                                     const struct packed *w, size_t column) {
    const float *panel = w->data + column * w->depth;
    size_t valid = w->columns - column;
    const float *init_at[PRODUCT_ROWS];
    float *out_at[PRODUCT_ROWS];
    float edge[PRODUCT_ROWS][PRODUCT_COLUMNS];
    bool inside = valid >= PRODUCT_COLUMNS;
    if (!inside || init == NULL) {
        memset(edge, 0, sizeof edge);
    }
    for (int r = 0; r < rows; r++) {
        if (!inside && init != NULL) {
            memcpy(edge[r], init[r] + column, valid * sizeof(float));
        }
        init_at[r] = inside && init != NULL ? init[r] + column : edge[r];
        out_at[r] = inside ? out[r] + column : edge[r];
    }
    product_block(rows, a, init_at, out_at, panel, w->depth);
    for (int r = 0; r < rows && !inside; r++) {
        memcpy(out[r] + column, edge[r], valid * sizeof(float));
    }
}

/* out[r] = init[r] + a[r] W for `rows` rows; init NULL is zero; out[r] may be init[r]. */
static inline void product_rows(const struct packed *w, size_t rows, const float *const *a,
                                const float *const *init, float *const *out) {
    for (size_t column = 0; column < w->columns; column += PRODUCT_COLUMNS) {
        size_t r = 0;
        for (; r + PRODUCT_ROWS <= rows; r += PRODUCT_ROWS) {
            product_block_cut(PRODUCT_ROWS, a + r, init ? init + r : NULL, out + r, w, column);
        }
        for (; r < rows; r++) {
            product_block_cut(1, a + r, init ? init + r : NULL, out + r, w, column);
        }
    }
}

/* ---- sum of outer products ---- */

struct product_outer {
    size_t count;   /* terms n */
    const float *d; /* [count, rows] */
    size_t rows;    /* of the result */
    const float *x; /* [.., columns] */
    size_t columns;
    const uint32_t *index; /* row of x that belongs to term n; NULL: n itself */
    float *out;            /* [rows, columns], overwritten */
    float *row_sums;       /* [rows], overwritten with the sum over n of d[n, :]; may be NULL */
};

/* out[r, :] += sum of d[n, r] x[n, :] over one run of terms, x of it packed into a panel. */
ALWAYS_INLINE void product_outer_block(const int rows, const float *d, size_t d_stride,
                                       size_t count, const float *panel, float *out,
                                       size_t out_stride, size_t valid) {
    float sum[PRODUCT_ROWS][PRODUCT_COLUMNS] = {{0}};
    for (size_t n = 0; n < count; n++) {
        for (int j = 0; j < PRODUCT_COLUMNS; j++) {
            float x = panel[n * PRODUCT_COLUMNS + (size_t)j];
            for (int r = 0; r < rows; r++) {
                sum[r][j] = multiply_add(d[n * d_stride + (size_t)r], x, sum[r][j]);
            }
        }
    }
    for (int r = 0; r < rows; r++) {
        for (size_t j = 0; j < valid; j++) {
            out[(size_t)r * out_stride + j] += sum[r][j];
        }
    }
}

/* Copy columns [column, column + valid) of a run of x's rows into a panel padded with zeros. */
static inline void product_outer_panel(const struct product_outer *job, size_t first, size_t count,
                                       size_t column, size_t valid, float *panel) {
    for (size_t n = 0; n < count; n++) {
        size_t row = job->index ? job->index[first + n] : first + n;
        const float *x = job->x + row * job->columns + column;
        float *to = panel + n * PRODUCT_COLUMNS;
        memcpy(to, x, valid * sizeof(float));
        memset(to + valid, 0, (PRODUCT_COLUMNS - valid) * sizeof(float));
    }
}

/* Rows [row, end) of the result from one run of terms. */
static inline void product_outer_run(const struct product_outer *job, size_t first, size_t count,
                                     size_t row, size_t end) {
    float panel[PRODUCT_TOKENS * PRODUCT_COLUMNS];
    const float *d = job->d + first * job->rows;
    for (size_t column = 0; column < job->columns; column += PRODUCT_COLUMNS) {
        size_t left = job->columns - column;
        size_t valid = left < PRODUCT_COLUMNS ? left : PRODUCT_COLUMNS;
        product_outer_panel(job, first, count, column, valid, panel);
        size_t i = row;
        for (; i + PRODUCT_ROWS <= end; i += PRODUCT_ROWS) {
            product_outer_block(PRODUCT_ROWS, d + i, job->rows, count, panel,
                                job->out + i * job->columns + column, job->columns, valid);
        }
        for (; i < end; i++) {
            product_outer_block(1, d + i, job->rows, count, panel,
                                job->out + i * job->columns + column, job->columns, valid);
        }
    }
}

/* Tasks that product_outer_task divides the rows into. */
static inline uint32_t product_outer_tasks(size_t rows) {
    return (uint32_t)((rows + PRODUCT_OUTER_ROWS - 1) / PRODUCT_OUTER_ROWS);
}

static inline void product_outer_task(const struct product_outer *job, size_t task) {
    size_t row = task * PRODUCT_OUTER_ROWS;
    size_t end = row + PRODUCT_OUTER_ROWS < job->rows ? row + PRODUCT_OUTER_ROWS : job->rows;
    memset(job->out + row * job->columns, 0, (end - row) * job->columns * sizeof(float));
    float total[PRODUCT_OUTER_ROWS] = {0};
    for (size_t first = 0; first < job->count; first += PRODUCT_TOKENS) {
        size_t left = job->count - first;
        size_t count = left < PRODUCT_TOKENS ? left : PRODUCT_TOKENS;
        product_outer_run(job, first, count, row, end);
        float part[PRODUCT_OUTER_ROWS] = {0};
        for (size_t n = first; n < first + count; n++) {
            for (size_t i = row; i < end; i++) {
                part[i - row] += job->d[n * job->rows + i];
            }
        }
        for (size_t i = 0; i < PRODUCT_OUTER_ROWS; i++) {
            total[i] += part[i];
        }
    }
    if (job->row_sums != NULL) {
        memcpy(job->row_sums + row, total, (end - row) * sizeof(float));
    }
}

#endif
