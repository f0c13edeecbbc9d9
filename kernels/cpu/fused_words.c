/* fused_words.c - the words of a batch: W_ih E + b of each distinct one before the recurrence, and
 * after it the gradients of E and W_ih from the sums of the gate gradients of each word. */
#include <string.h>

#include "kernels/cpu/cpu_words.h"
#include "kernels/cpu/fused.h"
#include "kernels/cpu/tile.h"

enum {
    WORDS_AT_ONCE = 48, /* rows of the table that one task makes */
    DEPTH_AT_ONCE = 32, /* words whose outer products are summed in registers */
    ZERO_ROWS = 512     /* rows of dE that one task clears */
};

static uint32_t tasks_of(size_t count, size_t each) {
    return (uint32_t)((count + each - 1) / each);
}

/* ---- numbering ---- */

static void number_batch(const struct fused_job *job) {
    const struct fused_workspace *ws = &job->ws;
    cpu_words_number(
        &job->args->batch, job->args->shape.vocabulary,
        &(struct cpu_words){ws->offset, ws->distinct, ws->words, ws->word_slot, ws->slot});
}

/* Number each slice's words by themselves: a slice sums gate gradients into rows of its own.
 * word_slot is free by now and holds these numbers, by place in `words`. */
static void number_slices(const struct fused_job *job) {
    const struct batch_view *batch = &job->args->batch;
    const struct fused_workspace *ws = &job->ws;
    uint64_t row = 0, next = 0;
    for (size_t s = 0; s < ws->slices; s++) {
        ws->slice_first[s] = next;
        size_t end = (s + 1) * FUSED_SLICE;
        end = end < batch->sequences ? end : batch->sequences;
        uint64_t row_end = ws->offset[end - 1] + batch->length[end - 1];
        memset(ws->word_slot, 0xFF, *ws->distinct * sizeof *ws->word_slot);
        for (; row < row_end; row++) {
            uint32_t *place = &ws->word_slot[ws->slot[row]];
            if (*place == UINT32_MAX) {
                *place = (uint32_t)(next - ws->slice_first[s]);
                ws->slice_words[next++] = ws->slot[row];
            }
            ws->slice_slot[row] = *place;
        }
    }
    ws->slice_first[ws->slices] = next;
}

/* ---- table ---- */

/* Everything that the forward pass multiplies by, and the slices' words: nothing of it waits for
 * anything else. */
static void prepare_task(void *context, uint32_t index) {
    const struct fused_job *job = context;
    const struct fused_workspace *ws = &job->ws;
    const struct model_weights *w = &job->args->weights;
    size_t H = job->args->shape.hidden, dir = index % 2;
    if (index == 4) {
        number_slices(job);
    } else if (index < 2) {
        CPU_SYMBOL(fused_pack_gates)
        (ws->pack_ih[dir], w->w_ih[dir], H, job->args->shape.embedding, 1);
        CPU_SYMBOL(fused_pack_gates)(ws->bias[dir], w->bias[dir], H, 1, 1);
    } else {
        CPU_SYMBOL(fused_pack_gates)(ws->pack_hh[dir], w->w_hh[dir], H, H, RECURRENT_TERMS);
    }
}

/* A block of units of the table of one direction. */
struct table_block {
    size_t E;
    const float *bias; /* [GATE_LANES] */
    struct tile_left embedding;
    struct tile_right w;
    float *out; /* [U, GATE_LANES] */
};

ALWAYS_INLINE void table_tile(const int rows, const struct table_block *t, size_t word) {
    simd sum[SIMD_ROWS][SIMD_VECTORS];
    SIMD_EACH(r, rows) {
        SIMD_EACH(v, SIMD_VECTORS) {
            sum[r][v] = simd_load(t->bias + v * SIMD_LANES);
        }
    }
    struct tile_left e = t->embedding;
    e.at += word * e.row;
    tile_multiply(1, rows, SIMD_VECTORS, sum, t->E, e, t->w);
    SIMD_EACH(r, rows) {
        SIMD_EACH(v, SIMD_VECTORS) {
            simd_store(t->out + (word + (size_t)r) * GATE_LANES + v * SIMD_LANES, sum[r][v]);
        }
    }
}

static void copy_embedding(const struct fused_job *job, size_t word, size_t end) {
    size_t E = job->args->shape.embedding, inputs = job->ws.inputs;
    for (; word < end; word++) {
        float *to = job->ws.embedding + word * inputs;
        memcpy(to, job->args->weights.embedding + job->ws.words[word] * E, E * sizeof(float));
        memset(to + E, 0, (inputs - E) * sizeof(float));
    }
}

/* The rows of WORDS_AT_ONCE words, both directions. */
static void table_task(void *context, uint32_t index) {
    const struct fused_job *job = context;
    const struct fused_workspace *ws = &job->ws;
    size_t first = (size_t)index * WORDS_AT_ONCE, end = first + WORDS_AT_ONCE;
    end = end < *ws->distinct ? end : *ws->distinct;
    copy_embedding(job, first, end);
    size_t E = job->args->shape.embedding;
    for (size_t i = 0; i < 2 * ws->blocks; i++) {
        size_t dir = i % 2, block = i / 2;
        const struct table_block t = {
            .E = E,
            .bias = ws->bias[dir] + block * GATE_LANES,
            .embedding = {.at = ws->embedding, .row = ws->inputs, .depth = 1},
            .w = {.at = ws->pack_ih[dir] + block * E * GATE_LANES, .depth = GATE_LANES},
            .out = ws->table[dir] + block * *ws->distinct * GATE_LANES};
        for (size_t word = first; word < end;) {
            uint32_t rows = tile_rows(end - word);
            TILE_WITH_ROWS(rows, table_tile, &t, word);
            word += rows;
        }
    }
}

void CPU_SYMBOL(fused_words_table)(struct cpu_pool *pool, const struct fused_job *job) {
    number_batch(job);
    cpu_pool_run(pool, job->args->training ? 5 : 4, prepare_task, (void *)job);
    cpu_pool_run(pool, tasks_of(*job->ws.distinct, WORDS_AT_ONCE), table_task, (void *)job);
}

/* ---- gradients ---- */

/* A block of table[dir] = the slices' sums for each word, slice after slice. */
static void merge_slices(const struct fused_job *job, size_t dir, size_t block) {
    const struct fused_workspace *ws = &job->ws;
    float *table = ws->table[dir] + block * *ws->distinct * GATE_LANES;
    memset(table, 0, *ws->distinct * GATE_LANES * sizeof(float));
    for (size_t s = 0; s < ws->slices; s++) {
        size_t first = ws->slice_first[s], count = ws->slice_first[s + 1] - first;
        const float *from = ws->sums[dir] + (first * ws->blocks + block * count) * GATE_LANES;
        for (size_t i = 0; i < count; i++, from += GATE_LANES) {
            float *to = table + (size_t)ws->slice_words[first + i] * GATE_LANES;
            for (size_t j = 0; j < GATE_LANES; j += SIMD_LANES) {
                simd_store(to + j, simd_load(to + j) + simd_load(from + j));
            }
        }
    }
}

static void zero_embedding(const struct fused_job *job, size_t part) {
    size_t first = part * ZERO_ROWS;
    size_t left = job->args->shape.vocabulary - first;
    size_t rows = left < ZERO_ROWS ? left : ZERO_ROWS;
    size_t E = job->args->shape.embedding;
    memset(job->args->gradients.embedding + first * E, 0, rows * E * sizeof(float));
}

/* What the two products wait for: packed weights, merged slices, and zeros for absent words. */
static void gather_task(void *context, uint32_t index) {
    const struct fused_job *job = context;
    const struct fused_workspace *ws = &job->ws;
    const struct model_shape *shape = &job->args->shape;
    if (index < 2) {
        CPU_SYMBOL(fused_pack_depth)
        (ws->pack_ih[index], job->args->weights.w_ih[index], shape->hidden, shape->embedding,
         ws->inputs, 1);
    } else if (index < 2 + 2 * ws->blocks) {
        merge_slices(job, index % 2, (index - 2) / 2);
    } else {
        zero_embedding(job, index - 2 - 2 * ws->blocks);
    }
}

/* The part of a row that lies within dE. */
static void put_row(float *to, const float *from, size_t column, size_t group, size_t E) {
    memcpy(to + column, from, (E - column < group ? E - column : group) * sizeof(float));
}

/* dE[word, column..] = sums W_ih of the forward direction, then of the reverse one. */
ALWAYS_INLINE void embedding_tile(const int rows, const int vectors, const struct fused_job *job,
                                  size_t word, size_t column) {
    const struct fused_workspace *ws = &job->ws;
    simd sum[SIMD_ROWS][SIMD_VECTORS];
    SIMD_EACH(r, rows) {
        SIMD_EACH(v, vectors) {
            sum[r][v] = simd_zero();
        }
    }
    size_t group = (size_t)vectors * SIMD_LANES;
    for (size_t i = 0; i < 2 * ws->blocks; i++) {
        size_t dir = i / ws->blocks, block = i % ws->blocks;
        struct tile_left dz = {.at = ws->table[dir] + (block * *ws->distinct + word) * GATE_LANES,
                               .row = GATE_LANES,
                               .depth = 1};
        struct tile_right w = {.at = ws->pack_ih[dir] + (block * ws->inputs + column) * GATE_LANES,
                               .depth = group};
        tile_multiply(1, rows, vectors, sum, GATE_LANES, dz, w);
    }
    size_t E = job->args->shape.embedding;
    SIMD_EACH(r, rows) {
        float row[SIMD_VECTORS * SIMD_LANES];
        SIMD_EACH(v, vectors) {
            simd_store(row + v * SIMD_LANES, sum[r][v]);
        }
        put_row(job->args->gradients.embedding + ws->words[word + (size_t)r] * E, row, column,
                group, E);
    }
}

static void embedding_task(void *context, uint32_t index) {
    const struct fused_job *job = context;
    const struct fused_workspace *ws = &job->ws;
    size_t first = (size_t)index * WORDS_AT_ONCE, end = first + WORDS_AT_ONCE;
    end = end < *ws->distinct ? end : *ws->distinct;
    for (size_t column = 0; column < ws->inputs; column += tile_columns(ws->inputs - column)) {
        size_t vectors = tile_columns(ws->inputs - column) / SIMD_LANES;
        for (size_t word = first; word < end;) {
            uint32_t rows = tile_rows(end - word);
            TILE_WITH_SIZE(rows, vectors, embedding_tile, job, word, column);
            word += rows;
        }
    }
}

/* Block `index / 2` of dW_ih, summed in the place of the packed W_ih. */
static void w_ih_task(void *context, uint32_t index) {
    const struct fused_job *job = context;
    const struct fused_workspace *ws = &job->ws;
    size_t dir = index % 2, block = index / 2, U = *ws->distinct;
    float *total = ws->pack_ih[dir] + block * GATE_LANES * ws->inputs;
    memset(total, 0, GATE_LANES * ws->inputs * sizeof(float));
    for (size_t word = 0; word < U; word += DEPTH_AT_ONCE) {
        const struct tile_outer outer = {
            .count = U - word < DEPTH_AT_ONCE ? U - word : DEPTH_AT_ONCE,
            .rows = GATE_LANES,
            .columns = ws->inputs,
            .left = {.at = ws->table[dir] + (block * U + word) * GATE_LANES,
                     .row = 1,
                     .depth = GATE_LANES},
            .right = {.at = ws->embedding + word * ws->inputs, .depth = ws->inputs},
            .total = total};
        tile_outer(1, &outer);
    }
}

static void unpack_task(void *context, uint32_t dir) {
    const struct fused_job *job = context;
    const struct fused_workspace *ws = &job->ws;
    const struct model_shape *shape = &job->args->shape;
    CPU_SYMBOL(fused_unpack)
    (job->args->gradients.w_ih[dir], ws->pack_ih[dir], shape->hidden, shape->embedding, ws->inputs);
}

void CPU_SYMBOL(fused_words_gradients)(struct cpu_pool *pool, const struct fused_job *job) {
    const struct fused_workspace *ws = &job->ws;
    uint32_t blocks = (uint32_t)(2 * ws->blocks);
    cpu_pool_run(pool, 2 + blocks + tasks_of(job->args->shape.vocabulary, ZERO_ROWS), gather_task,
                 (void *)job);
    cpu_pool_run(pool, tasks_of(*ws->distinct, WORDS_AT_ONCE), embedding_task, (void *)job);
    cpu_pool_run(pool, blocks, w_ih_task, (void *)job);
    cpu_pool_run(pool, 2, unpack_task, (void *)job);
}
