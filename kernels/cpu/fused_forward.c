/* fused_forward.c - the recurrence of one slice in one direction. For one block of units at a time,
 * z of all rows is summed in registers and becomes gates, c and h while it is in the nearest cache;
 * only what the backward pass needs goes to memory, and past the caches. */
#include <string.h>

#include "kernels/cpu/fused.h"
#include "kernels/cpu/simd_activation.h"
#include "kernels/cpu/tile.h"

enum { STATE_ROWS = SIMD_LOCKSTEP / 2 }; /* rows whose tanh is taken together */

/* A step of a slice. Rows are sequences; h and c are [count, units]. */
struct step {
    size_t H, units, blocks;
    size_t width, depth;           /* of factors: floats of a row, and those of them in use */
    const float *pack;             /* W_hh, see fused_pack_gates */
    const float *const *word;      /* [count] first block of each row's table row */
    const float *const *next_word; /* the same for what comes after this block */
    size_t next_block;             /* distance of that block */
    size_t table_block;            /* floats from one block of the table to the next */
    const float *h;                /* factors before the step, [count, width] */
    float *next_h;                 /* after it */
    float *next_factors;           /* the same as factors where they are narrower */
    float *c;
    float *z;    /* [count, GATE_LANES] of one block */
    float *kept; /* [blocks, count, FUSED_KEPT, lanes] of this step, or NULL */
};

/* z of a few rows and one block of units. */
ALWAYS_INLINE void forward_tile(const int rows, const struct step *s, size_t block, size_t row) {
    simd sum[SIMD_ROWS][SIMD_VECTORS];
    SIMD_EACH(r, rows) {
        const float *z = s->word[row + (size_t)r] + block * s->table_block;
        simd_prefetch(s->next_word[row + (size_t)r] + s->next_block, GATE_LANES);
        SIMD_EACH(v, SIMD_VECTORS) {
            sum[r][v] = simd_load(z + v * SIMD_LANES);
        }
    }
    struct tile_left h = {.at = s->h + row * s->width, .row = s->width, .depth = 1};
    struct tile_right w = {.at = s->pack + block * s->depth * GATE_LANES, .depth = GATE_LANES};
    tile_multiply(RECURRENT_TERMS, rows, SIMD_VECTORS, sum, s->depth, h, w);
    SIMD_EACH(r, rows) {
        SIMD_EACH(v, SIMD_VECTORS) {
            simd_store(s->z + (row + (size_t)r) * GATE_LANES + v * SIMD_LANES, sum[r][v]);
        }
    }
}

/* z of `rows` rows and one block becomes gates and the new c; o takes the place of z. */
ALWAYS_INLINE void gates_tile(const int rows, const struct step *s, size_t block, size_t row) {
    float *z = s->z + row * GATE_LANES;
    size_t at = row * s->units + block * SIMD_LANES;
    simd gate[SIMD_LOCKSTEP];
    SIMD_EACH(v, 4 * rows) {
        gate[v] = simd_load(z + v * SIMD_LANES);
    }
    simd_gates(4 * rows, gate);
    SIMD_EACH(r, rows) {
        const simd *i = gate + 4 * r;
        float *c_at = s->c + at + (size_t)r * s->units;
        simd c = simd_multiply_add(i[1], simd_load(c_at), i[0] * i[2]);
        simd_store(c_at, c);
        simd_store(z + r * GATE_LANES, i[3]);
        if (s->kept != NULL) {
            float *kept = s->kept + (row + (size_t)r) * FUSED_KEPT * SIMD_LANES;
            simd_stream(kept, i[0]);
            simd_stream(kept + SIMD_LANES, i[1]);
            simd_stream(kept + 2 * SIMD_LANES, i[2]);
            simd_stream(kept + 3 * SIMD_LANES, i[3]);
            simd_stream(kept + 4 * SIMD_LANES, c);
        }
    }
}

/* h = o tanh(c) of `rows` rows and one block. */
ALWAYS_INLINE void state_tile(const int rows, const struct step *s, size_t block, size_t row) {
    size_t at = row * s->units + block * SIMD_LANES;
    simd u[SIMD_LOCKSTEP];
    SIMD_EACH(r, rows) {
        u[r] = simd_load(s->c + at + (size_t)r * s->units);
    }
    simd_tanh(rows, u);
    SIMD_EACH(r, rows) {
        simd o = simd_load(s->z + (row + (size_t)r) * GATE_LANES);
        simd h = o * u[r];
        simd_store(s->next_h + at + (size_t)r * s->units, h);
        if (RECURRENT_TERMS > 1) {
            factors_store(s->next_factors + (row + (size_t)r) * s->width, block * SIMD_LANES, h);
        }
    }
}

/* Apart from each other, product and activations each have all registers: together the compiler
 * keeps the constants of the one where the sums of the other should be. */
NEVER_INLINE static void multiply_rows(const struct step *s, size_t block, size_t active) {
    for (size_t row = 0; row < active;) {
        uint32_t rows = tile_rows(active - row);
        TILE_WITH_ROWS(rows, forward_tile, s, block, row);
        row += rows;
    }
}

NEVER_INLINE static void activate_rows(const struct step *s, size_t block, size_t active) {
    size_t row = 0;
    for (; row + 2 <= active; row += 2) {
        gates_tile(2, s, block, row);
    }
    if (row < active) {
        gates_tile(1, s, block, row);
    }
    for (row = 0; row + STATE_ROWS <= active; row += STATE_ROWS) {
        state_tile(STATE_ROWS, s, block, row);
    }
    for (; row < active; row++) {
        state_tile(1, s, block, row);
    }
}

/* The last unit's factor shares its place with one of the padding. Its weight is zero, but it may be
 * NaN itself, of zero times infinity. */
static void clear_padding(const struct step *s, size_t active) {
    for (size_t row = 0; row < active; row++) {
        factors_clear(s->next_factors + row * s->width, s->H);
    }
}

/* A block's weights stay in the nearest cache while all rows pass. The rows of the table are too
 * many for it: those of the next block, or of the next step, are fetched meanwhile. */
static void forward_step(struct step *s, const float *const *soon, size_t active) {
    for (size_t block = 0; block < s->blocks; block++) {
        bool last = block + 1 == s->blocks;
        s->next_word = last ? soon : s->word;
        s->next_block = last ? 0 : (block + 1) * s->table_block;
        multiply_rows(s, block, active);
        activate_rows(s, block, active);
        if (s->kept != NULL) {
            s->kept += active * FUSED_KEPT * SIMD_LANES;
        }
    }
    if (s->H % RECURRENT_TERMS != 0) {
        clear_padding(s, active);
    }
}

/* ---- through time ---- */

/* Where the words of step t are in the table; any place for a sequence that has ended. */
static void find_words(const struct fused_job *job, const struct fused_slice *slice, uint32_t t,
                       uint32_t active, const float **word) {
    const float *table = job->ws.table[slice->dir];
    for (uint32_t b = 0; b < active; b++) {
        bool runs = t < slice->length[b];
        size_t slot = runs ? job->ws.slot[fused_token(slice, b, t)] : 0;
        word[b] = table + slot * GATE_LANES;
    }
}

/* Sequence b has ended: h is its final state. */
static void put_final_state(const struct fused_job *job, const struct fused_slice *slice,
                            uint32_t b, const float *h) {
    size_t H = job->args->shape.hidden;
    float *to = job->args->final_state + (slice->first + b) * 2 * H + slice->dir * H;
    memcpy(to, h + b * job->ws.units, H * sizeof(float));
}

static void forward_task(void *context, uint32_t task) {
    const struct fused_job *job = context;
    const struct fused_workspace *ws = &job->ws;
    struct fused_slice slice = fused_slice_make(job, task);
    size_t units = ws->units, state = FUSED_SLICE * units;
    struct step s = {.H = job->args->shape.hidden,
                     .units = units,
                     .blocks = ws->blocks,
                     .width = units / RECURRENT_TERMS,
                     .depth = factors_depth(job->args->shape.hidden),
                     .pack = ws->pack_hh[slice.dir],
                     .table_block = (size_t)*ws->distinct * GATE_LANES,
                     .c = slice.scratch,
                     .z = slice.scratch + 3 * state,
                     .kept = slice.kept};
    float *h[2] = {slice.scratch + state, slice.scratch + 2 * state};
    float *narrow = s.z + FUSED_SLICE * GATE_LANES;
    float *factors[2] = {h[0], h[1]};
    if (RECURRENT_TERMS > 1) {
        factors[0] = narrow;
        factors[1] = narrow + FUSED_SLICE * s.width;
        memset(narrow, 0, FUSED_SLICE * s.width * sizeof(float));
    }
    memset(slice.scratch, 0, 3 * state * sizeof(float));
    const float *word[2][FUSED_SLICE];
    uint32_t active = slice.count;
    find_words(job, &slice, 0, active, word[0]);
    for (uint32_t t = 0;; t++) {
        while (active > 0 && slice.length[active - 1] <= t) {
            put_final_state(job, &slice, --active, h[t % 2]);
        }
        if (active == 0) {
            break;
        }
        find_words(job, &slice, t + 1, active, word[(t + 1) % 2]);
        s.word = word[t % 2];
        s.h = factors[t % 2];
        s.next_h = h[(t + 1) % 2];
        s.next_factors = factors[(t + 1) % 2];
        forward_step(&s, word[(t + 1) % 2], active);
    }
    simd_stream_end();
}

void CPU_SYMBOL(fused_forward)(struct cpu_pool *pool, const struct fused_job *job) {
    cpu_pool_run(pool, (uint32_t)(2 * job->ws.slices), forward_task, (void *)job);
}
