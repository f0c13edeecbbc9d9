/* reference.c - the bidirectional LSTM and its gradients (see ops.h for the mathematics).
 *
 * Forward: W_ih E + b is computed once per distinct word of the batch; the recurrence gathers those
 * rows. A task carries a slice of CPU_SLICE sequences of one direction through time: the sequences
 * still running are a prefix of the slice, because lengths descend. Backward: the gates of each
 * token become gradients of z in place; dW_hh and db are products over all tokens; for dE and dW_ih
 * the gradients are first summed per distinct word, in token order.
 */
#include "kernels/cpu/reference.h"

#include <string.h>

#include "kernels/cpu/activation.h"
#include "kernels/cpu/cpu_words.h"
#include "kernels/cpu/cpu_workspace.h"
#include "kernels/cpu/product.h"

/* One call: the arguments, the divided workspace and the matrices packed for it. */
struct job {
    const struct lstm_args *args;
    struct cpu_workspace ws;
    struct packed w_ih[2], w_hh[2];
    struct product_outer outer[2];
    uint32_t outer_tasks; /* per direction */
};

static struct job make_job(const struct lstm_args *args) {
    return (struct job){.args = args,
                        .ws =
                            cpu_workspace_make(args->workspace, &args->shape, args->batch.sequences,
                                               args->batch.total_tokens, args->training)};
}

static uint32_t slices_of(size_t rows) {
    return (uint32_t)((rows + CPU_SLICE - 1) / CPU_SLICE);
}

/* ---- words of the batch ---- */

static void index_words(const struct job *job) {
    const struct cpu_workspace *ws = &job->ws;
    cpu_words_number(
        &job->args->batch, job->args->shape.vocabulary,
        &(struct cpu_words){ws->offset, ws->distinct, ws->words, ws->word_slot, ws->slot});
}

/* ---- forward ---- */

static void pack_forward_task(void *context, uint32_t dir) {
    struct job *job = context;
    size_t E = job->args->shape.embedding, H = job->args->shape.hidden;
    const struct model_weights *w = &job->args->weights;
    job->w_ih[dir] = product_pack(job->ws.pack_ih[dir], w->w_ih[dir], E, 4 * H, 1, E);
    job->w_hh[dir] = product_pack(job->ws.pack_hh[dir], w->w_hh[dir], H, 4 * H, 1, H);
}

/* table[u] = W_ih embedding[words[u]] + b for CPU_SLICE words; both directions take turns. */
static void table_task(void *context, uint32_t index) {
    const struct job *job = context;
    uint32_t dir = index % 2;
    size_t first = (size_t)(index / 2) * CPU_SLICE;
    size_t left = *job->ws.distinct - first;
    size_t count = left < CPU_SLICE ? left : CPU_SLICE;
    size_t E = job->args->shape.embedding, H = job->args->shape.hidden;
    const float *a[CPU_SLICE] = {0}, *init[CPU_SLICE] = {0};
    float *out[CPU_SLICE] = {0};
    for (size_t r = 0; r < count; r++) {
        a[r] = job->args->weights.embedding + job->ws.words[first + r] * E;
        init[r] = job->args->weights.bias[dir];
        out[r] = job->ws.table[dir] + (first + r) * 4 * H;
    }
    product_rows(&job->w_ih[dir], count, a, init, out);
}

/* One step of one sequence: z [4H] becomes the gates i, f, g, o; c and h [H] move on. */
static void cell_forward(size_t H, float *z, float *restrict c, float *restrict h) {
    float *restrict zi = z;
    float *restrict zf = z + H;
    float *restrict zg = z + 2 * H;
    float *restrict zo = z + 3 * H;
    for (size_t j = 0; j < H; j++) {
        float i = activation_sigmoid(zi[j]);
        float f = activation_sigmoid(zf[j]);
        float g = activation_tanh(zg[j]);
        float o = activation_sigmoid(zo[j]);
        float next = multiply_add(f, c[j], i * g);
        zi[j] = i;
        zf[j] = f;
        zg[j] = g;
        zo[j] = o;
        c[j] = next;
        h[j] = o * activation_tanh(next);
    }
}

/* What a slice of sequences of one direction needs at every step. */
struct slice {
    uint32_t dir, first, count;
    size_t H;
    const uint32_t *length; /* [count] descending */
    const uint64_t *offset; /* [count] */
    float *h, *c, *z;       /* [count, H], [count, H], [count, 4H]; backward: dh, dc, unused */
};

static struct slice make_slice(const struct job *job, uint32_t index) {
    const struct batch_view *batch = &job->args->batch;
    struct slice s = {
        .dir = index % 2, .first = index / 2 * CPU_SLICE, .H = job->args->shape.hidden};
    uint32_t left = batch->sequences - s.first;
    s.count = left < CPU_SLICE ? left : CPU_SLICE;
    s.length = batch->length + s.first;
    s.offset = job->ws.offset + s.first;
    s.h = job->ws.scratch + (size_t)index * CPU_SLICE * 6 * s.H;
    s.c = s.h + CPU_SLICE * s.H;
    s.z = s.c + CPU_SLICE * s.H;
    return s;
}

/* Row of the token that sequence b of the slice reads at step t. */
static size_t row_at(const struct slice *s, uint32_t b, uint32_t t) {
    return s->offset[b] + (s->dir == 0 ? t : s->length[b] - 1 - t);
}

static void forward_step(const struct job *job, const struct slice *s, uint32_t active,
                         uint32_t t) {
    const struct cpu_workspace *ws = &job->ws;
    size_t H = s->H;
    const float *a[CPU_SLICE] = {0}, *init[CPU_SLICE] = {0};
    float *out[CPU_SLICE] = {0};
    for (uint32_t b = 0; b < active; b++) {
        size_t row = row_at(s, b, t);
        a[b] = s->h + b * H;
        init[b] = ws->table[s->dir] + (size_t)ws->slot[row] * 4 * H;
        out[b] = s->z + b * 4 * H;
        if (job->args->training) {
            out[b] = ws->gates[s->dir] + row * 4 * H;
            memcpy(ws->hiddens[s->dir] + row * H, s->h + b * H, H * sizeof(float));
            memcpy(ws->cells[s->dir] + row * H, s->c + b * H, H * sizeof(float));
        }
    }
    product_rows(&job->w_hh[s->dir], active, a, init, out);
    for (uint32_t b = 0; b < active; b++) {
        cell_forward(H, out[b], s->c + b * H, s->h + b * H);
    }
}

static void forward_task(void *context, uint32_t index) {
    const struct job *job = context;
    struct slice s = make_slice(job, index);
    memset(s.h, 0, 2 * CPU_SLICE * s.H * sizeof(float)); /* h and c */
    uint32_t active = s.count;
    for (uint32_t t = 0; t < s.length[0]; t++) {
        while (s.length[active - 1] <= t) {
            active--;
        }
        forward_step(job, &s, active, t);
    }
    for (uint32_t b = 0; b < s.count; b++) {
        float *state = job->args->final_state + ((size_t)s.first + b) * 2 * s.H + s.dir * s.H;
        memcpy(state, s.h + b * s.H, s.H * sizeof(float));
    }
}

static void lstm_forward(struct cpu_pool *pool, const struct lstm_args *args) {
    struct job job = make_job(args);
    index_words(&job);
    cpu_pool_run(pool, 2, pack_forward_task, &job);
    cpu_pool_run(pool, 2 * slices_of(*job.ws.distinct), table_task, &job);
    cpu_pool_run(pool, 2 * slices_of(args->batch.sequences), forward_task, &job);
}

/* ---- backward ---- */

static void pack_backward_task(void *context, uint32_t dir) {
    struct job *job = context;
    size_t H = job->args->shape.hidden;
    job->w_hh[dir] =
        product_pack(job->ws.pack_hh[dir], job->args->weights.w_hh[dir], 4 * H, H, H, 1);
}

/* One step back of one sequence: the gates in z [4H] become gradients of z. `c` [H] is the cell
 * state before the step, dh the gradient of h after it; dc [H] moves from after the step to before
 * it. */
static void cell_backward(size_t H, float *z, const float *restrict c, const float *restrict dh,
                          float *restrict dc) {
    float *restrict zi = z;
    float *restrict zf = z + H;
    float *restrict zg = z + 2 * H;
    float *restrict zo = z + 3 * H;
    for (size_t j = 0; j < H; j++) {
        float i = zi[j], f = zf[j], g = zg[j], o = zo[j];
        float u = activation_tanh(multiply_add(f, c[j], i * g)); /* as forward: the same bits */
        float d = multiply_add(dh[j] * o, multiply_add(-u, u, 1.0f), dc[j]);
        zi[j] = d * g * (i * (1.0f - i));
        zf[j] = d * c[j] * (f * (1.0f - f));
        zg[j] = d * i * multiply_add(-g, g, 1.0f);
        zo[j] = dh[j] * u * (o * (1.0f - o));
        dc[j] = d * f;
    }
}

static void backward_step(const struct job *job, const struct slice *s, uint32_t active,
                          uint32_t t) {
    size_t H = s->H;
    const float *a[CPU_SLICE] = {0};
    float *out[CPU_SLICE] = {0};
    for (uint32_t b = 0; b < active; b++) {
        size_t row = row_at(s, b, t);
        float *gates = job->ws.gates[s->dir] + row * 4 * H;
        a[b] = gates;
        out[b] = s->h + b * H;
        cell_backward(H, gates, job->ws.cells[s->dir] + row * H, s->h + b * H, s->c + b * H);
    }
    if (t > 0) {
        product_rows(&job->w_hh[s->dir], active, a, NULL, out);
    }
}

static void backward_task(void *context, uint32_t index) {
    const struct job *job = context;
    struct slice s = make_slice(job, index);
    memset(s.c, 0, CPU_SLICE * s.H * sizeof(float));
    for (uint32_t b = 0; b < s.count; b++) {
        const float *d = job->args->d_final_state + ((size_t)s.first + b) * 2 * s.H + s.dir * s.H;
        memcpy(s.h + b * s.H, d, s.H * sizeof(float));
    }
    uint32_t active = 0;
    for (uint32_t t = s.length[0]; t-- > 0;) {
        while (active < s.count && s.length[active] > t) {
            active++;
        }
        backward_step(job, &s, active, t);
    }
}

static void outer_task(void *context, uint32_t index) {
    const struct job *job = context;
    product_outer_task(&job->outer[index / job->outer_tasks], index % job->outer_tasks);
}

static void lstm_backward(struct cpu_pool *pool, const struct lstm_args *args) {
    struct job job = make_job(args);
    size_t H = args->shape.hidden;
    cpu_pool_run(pool, 2, pack_backward_task, &job);
    cpu_pool_run(pool, 2 * slices_of(args->batch.sequences), backward_task, &job);
    for (int dir = 0; dir < 2; dir++) {
        job.outer[dir] = (struct product_outer){.count = args->batch.total_tokens,
                                                .d = job.ws.gates[dir],
                                                .rows = 4 * H,
                                                .x = job.ws.hiddens[dir],
                                                .columns = H,
                                                .out = args->gradients.w_hh[dir],
                                                .row_sums = args->gradients.bias[dir]};
    }
    job.outer_tasks = product_outer_tasks(4 * H);
    cpu_pool_run(pool, 2 * job.outer_tasks, outer_task, &job);
}

/* ---- gradients of embedding and input weights ---- */

enum { SUM_COLUMNS = 32, ZERO_ROWS = 512 };

static uint32_t sum_tasks(size_t H) {
    return (uint32_t)((4 * H + SUM_COLUMNS - 1) / SUM_COLUMNS);
}

/* A band of columns of table[u] = sum of the gate gradients of u's tokens, in token order. */
static void sum_words_task(void *context, uint32_t index) {
    const struct job *job = context;
    size_t H = job->args->shape.hidden;
    uint32_t dir = index % 2;
    size_t column = (size_t)(index / 2) * SUM_COLUMNS;
    size_t left = 4 * H - column;
    size_t width = left < SUM_COLUMNS ? left : SUM_COLUMNS;
    float *table = job->ws.table[dir] + column;
    const float *gates = job->ws.gates[dir] + column;
    for (uint32_t u = 0; u < *job->ws.distinct; u++) {
        memset(table + u * 4 * H, 0, width * sizeof(float));
    }
    for (size_t n = 0; n < job->args->batch.total_tokens; n++) {
        float *restrict to = table + (size_t)job->ws.slot[n] * 4 * H;
        const float *restrict from = gates + n * 4 * H;
        for (size_t j = 0; j < width; j++) {
            to[j] += from[j];
        }
    }
}

static void zero_embedding_task(void *context, uint32_t index) {
    const struct job *job = context;
    size_t first = (size_t)index * ZERO_ROWS;
    size_t left = job->args->shape.vocabulary - first;
    size_t rows = left < ZERO_ROWS ? left : ZERO_ROWS;
    size_t E = job->args->shape.embedding;
    memset(job->args->gradients.embedding + first * E, 0, rows * E * sizeof(float));
}

static void pack_embedding_task(void *context, uint32_t dir) {
    struct job *job = context;
    size_t E = job->args->shape.embedding, H = job->args->shape.hidden;
    job->w_ih[dir] =
        product_pack(job->ws.pack_ih[dir], job->args->weights.w_ih[dir], 4 * H, E, E, 1);
}

/* dE[word] = sums W_ih of the forward direction, then of the reverse one, for CPU_SLICE words. */
static void embedding_rows_task(void *context, uint32_t index) {
    const struct job *job = context;
    size_t E = job->args->shape.embedding, H = job->args->shape.hidden;
    size_t first = (size_t)index * CPU_SLICE;
    size_t left = *job->ws.distinct - first;
    size_t count = left < CPU_SLICE ? left : CPU_SLICE;
    const float *a[CPU_SLICE] = {0}, *init[CPU_SLICE] = {0};
    float *out[CPU_SLICE] = {0};
    for (int dir = 0; dir < 2; dir++) {
        for (size_t r = 0; r < count; r++) {
            a[r] = job->ws.table[dir] + (first + r) * 4 * H;
            out[r] = job->args->gradients.embedding + job->ws.words[first + r] * E;
            init[r] = out[r];
        }
        product_rows(&job->w_ih[dir], count, a, dir == 0 ? NULL : init, out);
    }
}

static void embedding_grad(struct cpu_pool *pool, const struct lstm_args *args) {
    struct job job = make_job(args);
    size_t E = args->shape.embedding, H = args->shape.hidden;
    cpu_pool_run(pool, 2 * sum_tasks(H), sum_words_task, &job);
    cpu_pool_run(pool, (args->shape.vocabulary + ZERO_ROWS - 1) / ZERO_ROWS, zero_embedding_task,
                 &job);
    cpu_pool_run(pool, 2, pack_embedding_task, &job);
    cpu_pool_run(pool, slices_of(*job.ws.distinct), embedding_rows_task, &job);
    for (int dir = 0; dir < 2; dir++) {
        job.outer[dir] = (struct product_outer){.count = *job.ws.distinct,
                                                .d = job.ws.table[dir],
                                                .rows = 4 * H,
                                                .x = args->weights.embedding,
                                                .columns = E,
                                                .index = job.ws.words,
                                                .out = args->gradients.w_ih[dir]};
    }
    job.outer_tasks = product_outer_tasks(4 * H);
    cpu_pool_run(pool, 2 * job.outer_tasks, outer_task, &job);
}

const struct cpu_kernels CPU_SYMBOL(cpu_kernels) = {
    .isa = CPU_ISA_TEXT,
    .path = "cpu-reference-" CPU_ISA_TEXT,
    .workspace_bytes = cpu_workspace_bytes,
    .lstm_forward = lstm_forward,
    .lstm_backward = lstm_backward,
    .embedding_grad = embedding_grad,
    .head_forward_backward = CPU_SYMBOL(reference_head_forward_backward),
    .global_norm = CPU_SYMBOL(reference_global_norm),
    .adam_step = CPU_SYMBOL(reference_adam_step),
};
