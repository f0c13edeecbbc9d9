#include "bench/bench_ops_count.h"

enum { DIRECTIONS = 2, GATES = 4, MULTIPLY_ADD = 2 };

/* One product of every token with a matrix of the shape of W_hh, in both directions. */
static double recurrent_product(const struct bench_rig *rig) {
    double H = rig->model->shape.hidden;
    return (double)rig->batch.total_tokens * DIRECTIONS * GATES * MULTIPLY_ADD * H * H;
}

double bench_ops_count_forward(const struct bench_rig *rig) {
    return recurrent_product(rig);
}

double bench_ops_count_backward(const struct bench_rig *rig) {
    return 2.0 * recurrent_product(rig);
}

double bench_ops_count_embedding_grad(const struct bench_rig *rig) {
    double H = rig->model->shape.hidden, E = rig->model->shape.embedding;
    return 2.0 * rig->words * DIRECTIONS * GATES * MULTIPLY_ADD * H * E;
}

double bench_ops_count_head(const struct bench_rig *rig) {
    double H = rig->model->shape.hidden, D = rig->model->shape.dense;
    return 3.0 * rig->batch.sequences * MULTIPLY_ADD * (DIRECTIONS * H * D + D);
}
