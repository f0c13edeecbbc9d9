/* fused_backward.c - gradients of the recurrence of one slice in one direction.
 *
 * The kept gates become gate gradients, block by block of units, and each block's part of dh is
 * summed right away. Gate gradients of FUSED_CHUNK rows stay in cache until dW_hh, db and the
 * sums per word have taken them up, and are never written to memory. tanh(c) and with it h are
 * computed again: that is cheaper than to keep them. */
#include <string.h>

#include "kernels/cpu/fused.h"
#include "kernels/cpu/simd_activation.h"
#include "kernels/cpu/tile.h"

enum {
    STATE_ROWS = SIMD_LOCKSTEP / 2,        /* rows whose tanh is taken together */
    AHEAD_ROWS = 8,                        /* from the row that is fetched to the one in use */
    FACTORS = GATE_LANES / RECURRENT_TERMS /* floats of a row of dz as factors */
};

/* A slice on its way back. */
struct walk {
    const struct fused_job *job;
    struct fused_slice slice;
    size_t units, blocks;
    const float *pack; /* W_hh, see fused_pack_depth */

    /* the step */
    uint32_t active;
    const float *kept;   /* of the step, [blocks, active, FUSED_KEPT, lanes] */
    const float *before; /* of the step before it, NULL at the first step */
    const float *begin;  /* of the slice */
    uint32_t before_active;
    float *dh, *next_dh; /* [count, units] gradient of h after the step and before it */
    float *dc;           /* [count, units] of c, moves from after the step to before it */
    float *u, *u_before; /* [count, units] tanh(c) after the step and before it */
    float *factors;      /* [count, FACTORS] dz of one block where factors are narrower */

    /* the chunk: rows that wait for flush() */
    size_t rows;
    float *dz;                  /* [blocks, FUSED_CHUNK, GATE_LANES] */
    float *h;                   /* [FUSED_CHUNK, units] before the row's step */
    uint32_t word[FUSED_CHUNK]; /* among the slice's */

    /* the slice's gradients so far */
    float *db;   /* [4 units] in gate order */
    float *dw;   /* [4 units, units] in gate order */
    float *sums; /* [blocks, the slice's words, GATE_LANES] */
    size_t words;
};

/* ---- one step ---- */

/* tanh(c) and h before the step, of `rows` rows and one block. */
ALWAYS_INLINE void states_tile(const int rows, const struct walk *w, size_t block, size_t row) {
    size_t at = row * w->units + block * SIMD_LANES;
    const size_t next = FUSED_KEPT * SIMD_LANES;
    const float *before = w->before + (block * w->before_active + row) * next;
    simd u[SIMD_LOCKSTEP];
    SIMD_EACH(r, rows) {
        u[r] = simd_load(before + (size_t)r * next + 4 * SIMD_LANES);
        simd_prefetch(before + ((size_t)r + AHEAD_ROWS) * next + 3 * SIMD_LANES, 2 * SIMD_LANES);
    }
    simd_tanh(rows, u);
    SIMD_EACH(r, rows) {
        size_t h = (w->rows + row + (size_t)r) * w->units + block * SIMD_LANES;
        simd o = simd_load(before + (size_t)r * next + 3 * SIMD_LANES);
        simd_store(w->u_before + at + (size_t)r * w->units, u[r]);
        simd_store(w->h + h, o * u[r]);
    }
}

/* dz of one row and block, and dc before the step. */
ALWAYS_INLINE void cell_backward(const struct walk *w, size_t block, size_t row, bool first) {
    size_t at = row * w->units + block * SIMD_LANES;
    const size_t next = FUSED_KEPT * SIMD_LANES;
    const float *kept = w->kept + (block * w->active + row) * next;
    simd i = simd_load(kept), f = simd_load(kept + SIMD_LANES);
    simd g = simd_load(kept + 2 * SIMD_LANES), o = simd_load(kept + 3 * SIMD_LANES);
    simd c = simd_zero();
    if (!first) { /* before the first step there is nothing, not even a place */
        c = simd_load(w->before + (block * w->before_active + row) * next + 4 * SIMD_LANES);
    }
    simd dh = simd_load(w->dh + at), u = simd_load(w->u + at);
    simd_prefetch(kept + AHEAD_ROWS * next, 3 * SIMD_LANES);
    const simd one = simd_all(1.0f);
    simd d = simd_multiply_add(dh * o, simd_multiply_add(-u, u, one), simd_load(w->dc + at));
    float *dz = w->dz + (block * FUSED_CHUNK + w->rows + row) * GATE_LANES;
    const simd gates[4] = {d * g * (i * (one - i)), d * c * (f * (one - f)),
                           d * i * simd_multiply_add(-g, g, one), dh * u * (o * (one - o))};
    SIMD_EACH(v, 4) {
        simd_store(dz + v * SIMD_LANES, gates[v]);
        if (RECURRENT_TERMS > 1) {
            factors_store(w->factors + row * FACTORS, (size_t)v * SIMD_LANES, gates[v]);
        }
    }
    simd_store(w->dc + at, d * f);
}

/* dh before the step += dz W_hh, the part of one block of units. */
ALWAYS_INLINE void backward_tile(const int rows, const int vectors, const struct walk *w,
                                 size_t block, size_t row, size_t column) {
    float *out = w->next_dh + row * w->units + column;
    simd sum[SIMD_ROWS][SIMD_VECTORS];
    SIMD_EACH(r, rows) {
        SIMD_EACH(v, vectors) {
            sum[r][v] =
                block == 0 ? simd_zero() : simd_load(out + (size_t)r * w->units + v * SIMD_LANES);
        }
    }
    const float *numbers = w->dz + (block * FUSED_CHUNK + w->rows + row) * GATE_LANES;
    struct tile_left dz = {.at = RECURRENT_TERMS > 1 ? w->factors + row * FACTORS : numbers,
                           .row = FACTORS,
                           .depth = 1};
    struct tile_right w_hh = {.at = w->pack + (block * w->units + column) * FACTORS,
                              .depth = (size_t)vectors * SIMD_LANES};
    tile_multiply(RECURRENT_TERMS, rows, vectors, sum, FACTORS, dz, w_hh);
    SIMD_EACH(r, rows) {
        SIMD_EACH(v, vectors) {
            simd_store(out + (size_t)r * w->units + v * SIMD_LANES, sum[r][v]);
        }
    }
}

/* Where the numbers of this block lie that the next step of the walk will be the first to touch:
 * they come from far away, and a product is a good time to fetch them. */
static const float *kept_ahead(const struct walk *w, size_t block) {
    size_t floats = w->active * FUSED_KEPT * SIMD_LANES;
    size_t behind = (w->blocks - block) * floats;
    return (size_t)(w->before - w->begin) >= behind ? w->before - behind : w->before;
}

NEVER_INLINE static void multiply_rows(const struct walk *w, size_t block) {
    const float *ahead = kept_ahead(w, block);
    for (size_t column = 0; column < w->units; column += tile_columns(w->units - column)) {
        size_t vectors = tile_columns(w->units - column) / SIMD_LANES;
        for (size_t row = 0; row < w->active;) {
            uint32_t rows = tile_rows(w->active - row);
            simd_prefetch_far(ahead, rows * FUSED_KEPT * SIMD_LANES);
            ahead += rows * FUSED_KEPT * SIMD_LANES;
            TILE_WITH_SIZE(rows, vectors, backward_tile, w, block, row, column);
            row += rows;
        }
    }
}

/* The first step of all has nothing before it: h and c are zero there. */
static void differentiate_first(struct walk *w, size_t block) {
    for (size_t row = 0; row < w->active; row++) {
        simd_store(w->h + (w->rows + row) * w->units + block * SIMD_LANES, simd_zero());
        cell_backward(w, block, row, true);
    }
}

NEVER_INLINE static void differentiate_rows(struct walk *w, size_t block) {
    size_t row = 0;
    for (; row + STATE_ROWS <= w->active; row += STATE_ROWS) {
        states_tile(STATE_ROWS, w, block, row);
    }
    for (; row < w->active; row++) {
        states_tile(1, w, block, row);
    }
    for (row = 0; row < w->active; row++) {
        cell_backward(w, block, row, false);
    }
}

static void backward_step(struct walk *w) {
    for (size_t block = 0; block < w->blocks; block++) {
        if (w->before == NULL) {
            differentiate_first(w, block);
        } else {
            differentiate_rows(w, block);
            multiply_rows(w, block);
        }
    }
}

/* ---- a chunk of rows ---- */

/* One block's dz into the sums of its words and into db. */
static void add_sums(struct walk *w, size_t block) {
    const float *dz = w->dz + block * FUSED_CHUNK * GATE_LANES;
    float *sums = w->sums + block * w->words * GATE_LANES;
    simd total[4] = {simd_zero(), simd_zero(), simd_zero(), simd_zero()};
    for (size_t row = 0; row < w->rows; row++, dz += GATE_LANES) {
        float *to = sums + (size_t)w->word[row] * GATE_LANES;
        simd_prefetch(sums + (size_t)w->word[(row + AHEAD_ROWS) % FUSED_CHUNK] * GATE_LANES,
                      GATE_LANES);
        for (int gate = 0; gate < 4; gate++) {
            simd value = simd_load(dz + gate * SIMD_LANES);
            total[gate] += value;
            simd_store(to + gate * SIMD_LANES, simd_load(to + gate * SIMD_LANES) + value);
        }
    }
    float *db = w->db + block * GATE_LANES;
    for (int gate = 0; gate < 4; gate++) {
        simd_store(db + gate * SIMD_LANES, simd_load(db + gate * SIMD_LANES) + total[gate]);
    }
}

/* h and dz of the chunk become factors where they lie: nothing else reads them after this. */
static void flush(struct walk *w) {
    factors_rows(w->h, w->rows, w->units);
    for (size_t block = 0; block < w->blocks; block++) {
        float *dz = w->dz + block * FUSED_CHUNK * GATE_LANES;
        add_sums(w, block);
        factors_rows(dz, w->rows, GATE_LANES);
        const struct tile_outer outer = {.count = factors_depth(w->rows),
                                         .rows = GATE_LANES,
                                         .columns = w->units,
                                         .left = {.at = dz, .row = 1, .depth = GATE_LANES},
                                         .right = {.at = w->h, .depth = w->units},
                                         .total = w->dw + block * GATE_LANES * w->units};
        tile_outer(RECURRENT_TERMS, &outer);
    }
    w->rows = 0;
}

/* ---- through time ---- */

static struct walk walk_make(const struct fused_job *job, uint32_t task) {
    const struct fused_workspace *ws = &job->ws;
    struct walk w = {.job = job, .slice = fused_slice_make(job, task)};
    size_t units = ws->units, state = FUSED_SLICE * units;
    float *next = w.slice.scratch;
    w.units = units;
    w.blocks = ws->blocks;
    w.pack = ws->pack_hh[w.slice.dir];
    w.begin = w.slice.kept;
    w.dh = next;
    w.next_dh = next + state;
    w.dc = next + 2 * state;
    w.u = next + 3 * state;
    w.u_before = next + 4 * state;
    w.dz = next + 5 * state;
    w.h = w.dz + FUSED_CHUNK * 4 * units;
    w.db = w.h + FUSED_CHUNK * units;
    w.dw = w.db + 4 * units;
    w.factors = w.dw + 4 * units * units;
    memset(w.dh, 0, 5 * state * sizeof(float));
    memset(w.db, 0, (4 * units + 4 * units * units) * sizeof(float));
    uint64_t first = ws->slice_first[w.slice.index];
    w.words = ws->slice_first[w.slice.index + 1] - first;
    w.sums = ws->sums[w.slice.dir] + first * 4 * units;
    memset(w.sums, 0, w.words * 4 * units * sizeof(float));
    return w;
}

/* The sequence's last step: its state's gradient comes in. */
static void enter(struct walk *w, uint32_t b) {
    size_t H = w->job->args->shape.hidden, units = w->units;
    const float *d = w->job->args->d_final_state + (w->slice.first + b) * 2 * H + w->slice.dir * H;
    memcpy(w->dh + b * units, d, H * sizeof(float));
    for (size_t block = 0; block < w->blocks; block++) {
        const float *kept = w->kept + (block * w->active + b) * FUSED_KEPT * SIMD_LANES;
        simd c = simd_load(kept + 4 * SIMD_LANES);
        simd_tanh(1, &c);
        simd_store(w->u + b * units + block * SIMD_LANES, c);
    }
}

/* Sequences of the slice that have a step t. */
static uint32_t active_at(const struct fused_slice *slice, uint32_t from, uint32_t t) {
    while (from < slice->count && slice->length[from] > t) {
        from++;
    }
    return from;
}

static void note_words(struct walk *w, uint32_t t) {
    for (uint32_t b = 0; b < w->active; b++) {
        w->word[w->rows + b] = w->job->ws.slice_slot[fused_token(&w->slice, b, t)];
    }
}

static void swap(float **a, float **b) {
    float *kept = *a;
    *a = *b;
    *b = kept;
}

/* Go from after step t to before it. */
static void step_back(struct walk *w, uint32_t t) {
    size_t row = w->units * FUSED_KEPT;
    uint32_t entered = w->active;
    w->active = w->before_active;
    w->kept = w->before;
    w->before_active = t > 0 ? active_at(&w->slice, w->active, t - 1) : 0;
    w->before = t > 0 ? w->kept - w->before_active * row : NULL;
    for (; entered < w->active; entered++) {
        enter(w, entered);
    }
    if (w->rows + w->active > FUSED_CHUNK) {
        flush(w);
    }
    note_words(w, t);
    backward_step(w);
    w->rows += w->active;
    swap(&w->dh, &w->next_dh);
    swap(&w->u, &w->u_before);
}

static void backward_task(void *context, uint32_t index) {
    const struct fused_job *job = context;
    /* What the forward pass wrote last may still be in a cache. */
    uint32_t task = (uint32_t)(2 * job->ws.slices) - 1 - index;
    struct walk w = walk_make(job, task);
    uint32_t steps = w.slice.length[0];
    if (steps > 0) {
        w.before_active = active_at(&w.slice, 0, steps - 1);
        w.before = w.slice.kept + (w.slice.tokens - w.before_active) * w.units * FUSED_KEPT;
    }
    for (uint32_t t = steps; t-- > 0;) {
        step_back(&w, t);
    }
    flush(&w);
}

/* ---- all slices together ---- */

static void pack_task(void *context, uint32_t dir) {
    const struct fused_job *job = context;
    size_t H = job->args->shape.hidden;
    CPU_SYMBOL(fused_pack_depth)
    (job->ws.pack_hh[dir], job->args->weights.w_hh[dir], H, H, job->ws.units, RECURRENT_TERMS);
}

/* db and dW_hh of one direction: the slices' sums, slice after slice. */
static void reduce_task(void *context, uint32_t dir) {
    const struct fused_job *job = context;
    const struct fused_workspace *ws = &job->ws;
    size_t H = job->args->shape.hidden, units = ws->units;
    size_t count = 4 * units + 4 * units * units;
    size_t db = units * (FUSED_SLICE * 5 + FUSED_CHUNK * 5);
    float *total = ws->states + dir * ws->scratch + db;
    for (size_t s = 1; s < ws->slices; s++) {
        const float *from = ws->states + (2 * s + dir) * ws->scratch + db;
        for (size_t j = 0; j < count; j += SIMD_LANES) {
            simd_store(total + j, simd_load(total + j) + simd_load(from + j));
        }
    }
    CPU_SYMBOL(fused_unpack)(job->args->gradients.bias[dir], total, H, 1, 1);
    CPU_SYMBOL(fused_unpack)(job->args->gradients.w_hh[dir], total + 4 * units, H, H, units);
}

void CPU_SYMBOL(fused_backward)(struct cpu_pool *pool, const struct fused_job *job) {
    cpu_pool_run(pool, 2, pack_task, (void *)job);
    cpu_pool_run(pool, (uint32_t)(2 * job->ws.slices), backward_task, (void *)job);
    cpu_pool_run(pool, 2, reduce_task, (void *)job);
}
