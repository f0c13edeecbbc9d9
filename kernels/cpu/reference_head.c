/* reference_head.c - dense head, loss, gradient norm and Adam (see ops.h for the mathematics). */
#include <math.h>
#include <string.h>

#include "kernels/cpu/cpu_workspace.h"
#include "kernels/cpu/product.h"
#include "kernels/cpu/reference.h"

/* ---- head ---- */

struct head_job {
    const struct head_args *args;
    struct cpu_workspace ws;
    struct packed dense;
    struct product_outer outer;
};

static uint32_t slices_of(size_t rows) {
    return (uint32_t)((rows + CPU_SLICE - 1) / CPU_SLICE);
}

/* The rows of the batch that one task works on. */
static size_t slice_rows(const struct head_job *job, uint32_t index, size_t *first) {
    *first = (size_t)index * CPU_SLICE;
    size_t left = job->args->batch.sequences - *first;
    return left < CPU_SLICE ? left : CPU_SLICE;
}

static void pack_forward_task(void *context, uint32_t index) {
    (void)index;
    struct head_job *job = context;
    size_t D = job->args->shape.dense, S = 2 * (size_t)job->args->shape.hidden;
    job->dense = product_pack(job->ws.head_pack, job->args->weights.dense_weight, S, D, 1, S);
}

static void forward_task(void *context, uint32_t index) {
    const struct head_job *job = context;
    const struct model_weights *w = &job->args->weights;
    size_t D = job->args->shape.dense, S = 2 * (size_t)job->args->shape.hidden;
    size_t first;
    size_t count = slice_rows(job, index, &first);
    const float *a[CPU_SLICE] = {0}, *init[CPU_SLICE] = {0};
    float *out[CPU_SLICE] = {0};
    for (size_t r = 0; r < count; r++) {
        a[r] = job->args->final_state + (first + r) * S;
        init[r] = w->dense_bias;
        out[r] = job->ws.hidden + (first + r) * D;
    }
    product_rows(&job->dense, count, a, init, out);
    for (size_t r = 0; r < count; r++) {
        double logit = w->output_bias[0];
        for (size_t d = 0; d < D; d++) {
            out[r][d] = out[r][d] < 0.0f ? 0.0f : out[r][d]; /* this way round a NaN stays */
            logit += (double)w->output_weight[d] * (double)out[r][d];
        }
        job->args->logits[first + r] = (float)logit;
    }
}

/* Losses, running sums and the gradient of each logit, one example after the other. */
static void measure_loss(const struct head_job *job) {
    const struct head_args *args = job->args;
    uint32_t B = args->batch.sequences;
    double total = 0.0;
    double correct = 0.0;
    for (uint32_t b = 0; b < B; b++) {
        double logit = args->logits[b];
        double y = args->batch.label[b];
        double loss = (logit > 0.0 ? logit : 0.0) - logit * y + log1p(exp(-fabs(logit)));
        total += loss;
        correct += (logit > 0.0) == (y > 0.5) ? 1.0 : 0.0;
        if (args->losses != NULL) {
            args->losses[b] = loss;
        }
        if (args->sums != NULL) {
            args->sums->loss += loss;
        }
        job->ws.d_logit[b] = (float)((1.0 / (1.0 + exp(-logit)) - y) / B);
    }
    if (args->sums != NULL) {
        args->sums->correct += correct;
        args->sums->examples += B;
        args->sums->batch_loss = total / B;
    }
}

/* Gradient of the dense layer's output, and with it everything that depends on one output unit
 * only. */
static void output_grad_task(void *context, uint32_t index) {
    (void)index;
    const struct head_job *job = context;
    size_t D = job->args->shape.dense;
    const float *output_weight = job->args->weights.output_weight;
    float *restrict d_weight = job->args->gradients.output_weight;
    float d_bias = 0.0f;
    memset(d_weight, 0, D * sizeof(float));
    for (size_t b = 0; b < job->args->batch.sequences; b++) {
        float d_logit = job->ws.d_logit[b];
        const float *restrict a = job->ws.hidden + b * D;
        float *restrict d_a = job->ws.d_hidden + b * D;
        d_bias += d_logit;
        for (size_t d = 0; d < D; d++) {
            d_weight[d] = multiply_add(d_logit, a[d], d_weight[d]);
            d_a[d] = a[d] > 0.0f ? d_logit * output_weight[d] : 0.0f;
        }
    }
    job->args->gradients.output_bias[0] = d_bias;
}

static void dense_grad_task(void *context, uint32_t index) {
    product_outer_task(&((const struct head_job *)context)->outer, index);
}

static void pack_backward_task(void *context, uint32_t index) {
    (void)index;
    struct head_job *job = context;
    size_t D = job->args->shape.dense, S = 2 * (size_t)job->args->shape.hidden;
    job->dense = product_pack(job->ws.head_pack, job->args->weights.dense_weight, D, S, S, 1);
}

static void state_grad_task(void *context, uint32_t index) {
    const struct head_job *job = context;
    size_t D = job->args->shape.dense, S = 2 * (size_t)job->args->shape.hidden;
    size_t first;
    size_t count = slice_rows(job, index, &first);
    const float *a[CPU_SLICE] = {0};
    float *out[CPU_SLICE] = {0};
    for (size_t r = 0; r < count; r++) {
        a[r] = job->ws.d_hidden + (first + r) * D;
        out[r] = job->args->d_final_state + (first + r) * S;
    }
    product_rows(&job->dense, count, a, NULL, out);
}

void CPU_SYMBOL(reference_head_forward_backward)(struct cpu_pool *pool,
                                                 const struct head_args *args) {
    uint32_t B = args->batch.sequences;
    struct head_job job = {.args = args,
                           .ws = cpu_workspace_make(args->workspace, &args->shape, B,
                                                    args->batch.total_tokens, args->training)};
    cpu_pool_run(pool, 1, pack_forward_task, &job);
    cpu_pool_run(pool, slices_of(B), forward_task, &job);
    if (args->batch.label != NULL) {
        measure_loss(&job);
    }
    if (!args->training) {
        return;
    }
    cpu_pool_run(pool, 1, output_grad_task, &job);
    cpu_pool_run(pool, 1, pack_backward_task, &job);
    cpu_pool_run(pool, slices_of(B), state_grad_task, &job);
    job.outer = (struct product_outer){.count = B,
                                       .d = job.ws.d_hidden,
                                       .rows = args->shape.dense,
                                       .x = args->final_state,
                                       .columns = 2 * (size_t)args->shape.hidden,
                                       .out = args->gradients.dense_weight,
                                       .row_sums = args->gradients.dense_bias};
    cpu_pool_run(pool, product_outer_tasks(args->shape.dense), dense_grad_task, &job);
}

/* ---- global norm ---- */

/* A fixed number of parts, each summed in NORM_LANES interleaved sums: the order depends on the
 * count alone. */
enum { NORM_PARTS = 64, NORM_LANES = 8 };

struct norm_job {
    const struct norm_args *args;
    double part[NORM_PARTS];
};

static void norm_task(void *context, uint32_t index) {
    struct norm_job *job = context;
    size_t step = (job->args->count + NORM_PARTS - 1) / NORM_PARTS;
    size_t begin = step * index;
    size_t end = begin + step < job->args->count ? begin + step : job->args->count;
    const float *g = job->args->gradients;
    double lanes[NORM_LANES] = {0};
    size_t i = begin;
    for (; i + NORM_LANES <= end; i += NORM_LANES) {
        for (size_t lane = 0; lane < NORM_LANES; lane++) {
            double value = g[i + lane];
            lanes[lane] += value * value;
        }
    }
    for (size_t lane = 0; i < end; i++, lane++) {
        lanes[lane] += (double)g[i] * (double)g[i];
    }
    double sum = 0.0;
    for (size_t lane = 0; lane < NORM_LANES; lane++) {
        sum += lanes[lane];
    }
    job->part[index] = sum;
}

void CPU_SYMBOL(reference_global_norm)(struct cpu_pool *pool, const struct norm_args *args) {
    struct norm_job job = {.args = args};
    cpu_pool_run(pool, NORM_PARTS, norm_task, &job);
    double sum = 0.0;
    for (int i = 0; i < NORM_PARTS; i++) {
        sum += job.part[i];
    }
    double norm = sqrt(sum);
    *args->norm = norm;
    *args->scale =
        args->clip_norm > 0.0 && norm > args->clip_norm ? (float)(args->clip_norm / norm) : 1.0f;
}

/* ---- Adam ---- */

enum { ADAM_CHUNK = 8192 };

struct adam_job {
    const struct adam_args *args;
    float scale, rate, take_m, take_v, epsilon; /* take: the share of the difference */
};

static void adam_range(const struct adam_job *job, size_t count, float *restrict p,
                       float *restrict m, float *restrict v, const float *restrict gradients) {
    float scale = job->scale, rate = job->rate, epsilon = job->epsilon;
    float take_m = job->take_m, take_v = job->take_v;
    for (size_t i = 0; i < count; i++) {
        float g = gradients[i] * scale;
        float mi = multiply_add(g - m[i], take_m, m[i]);
        float vi = multiply_add(multiply_add(g, g, -v[i]), take_v, v[i]);
        m[i] = mi;
        v[i] = vi;
        p[i] -= rate * mi / (sqrtf(vi) + epsilon);
    }
}

static void adam_task(void *context, uint32_t index) {
    const struct adam_job *job = context;
    const struct adam_args *args = job->args;
    size_t begin = (size_t)index * ADAM_CHUNK;
    size_t left = args->count - begin;
    adam_range(job, left < ADAM_CHUNK ? left : ADAM_CHUNK, args->parameters + begin,
               args->m + begin, args->v + begin, args->gradients + begin);
}

void CPU_SYMBOL(reference_adam_step)(struct cpu_pool *pool, const struct adam_args *args) {
    struct adam_job job = {.args = args,
                           .scale = args->scale != NULL ? *args->scale : 1.0f,
                           .rate = args->inputs->rate,
                           .take_m = (float)(1.0 - args->beta1),
                           .take_v = (float)(1.0 - args->beta2),
                           .epsilon = (float)args->epsilon};
    cpu_pool_run(pool, (uint32_t)((args->count + ADAM_CHUNK - 1) / ADAM_CHUNK), adam_task, &job);
}
