/* The model as TensorBoard's Graphs tab draws it: one box per layer, the sizes on the edges. The
 * names of operations are TensorFlow's where it has them. */
#include <stdio.h>
#include <string.h>

#include "host/summary.h"

enum { NAME_CAPACITY = 64, NODES_MAX = 32 };

void summary_node_name(const char *tensor, char *out, size_t capacity) {
    snprintf(out, capacity, "%s", tensor);
    char *dot = strchr(out, '.');
    if (dot != NULL) {
        *dot = '/';
    }
}

/* Letters of a shape: B batch, N tokens of the batch (both unknown), E, H, D sizes, C 2H, 1 one. */
static int64_t size_of(char letter, const struct model_shape *shape) {
    switch (letter) {
    case 'E':
        return shape->embedding;
    case 'H':
        return shape->hidden;
    case 'C':
        return 2 * (int64_t)shape->hidden;
    case 'D':
        return shape->dense;
    case '1':
        return 1;
    default:
        return -1;
    }
}

struct row {
    const char *name, *op, *shape;
    const char *inputs[EVENT_NODE_INPUTS_MAX];
};

static const struct row rows[] = {
    {"inputs/tokens", "Placeholder", "N", {NULL}},
    {"inputs/lengths", "Placeholder", "B", {NULL}},
    {"inputs/labels", "Placeholder", "B", {NULL}},
    {"embedding/lookup", "GatherV2", "NE", {"embedding/weight", "inputs/tokens"}},
    {"lstm/forward",
     "LSTM",
     "BH",
     {"embedding/lookup", "inputs/lengths", "lstm/weight_ih_l0", "lstm/weight_hh_l0",
      "lstm/bias_l0"}},
    {"lstm/backward",
     "LSTM",
     "BH",
     {"embedding/lookup", "inputs/lengths", "lstm/weight_ih_l0_reverse",
      "lstm/weight_hh_l0_reverse", "lstm/bias_l0_reverse"}},
    {"lstm/concat", "ConcatV2", "BC", {"lstm/forward", "lstm/backward"}},
    {"dense/MatMul", "MatMul", "BD", {"lstm/concat", "dense/weight"}},
    {"dense/BiasAdd", "BiasAdd", "BD", {"dense/MatMul", "dense/bias"}},
    {"dense/Relu", "Relu", "BD", {"dense/BiasAdd"}},
    {"output/MatMul", "MatMul", "B1", {"dense/Relu", "output/weight"}},
    {"output/BiasAdd", "BiasAdd", "B1", {"output/MatMul", "output/bias"}},
    {"loss/cross_entropy",
     "SigmoidCrossEntropyWithLogits",
     "B",
     {"output/BiasAdd", "inputs/labels"}},
    {"loss/mean", "Mean", "", {"loss/cross_entropy"}},
    {"accuracy/correct", "Equal", "B", {"output/BiasAdd", "inputs/labels"}},
    {"accuracy/mean", "Mean", "", {"accuracy/correct"}},
    {"optimiser/Adam", "Adam", "", {"loss/mean"}},
};

enum { ROW_COUNT = sizeof rows / sizeof rows[0] };
_Static_assert(ROW_COUNT + MODEL_TENSORS <= NODES_MAX, "room for every node");

void summary_add_graph(struct event_file *file, const struct model *model) {
    struct event_node nodes[NODES_MAX];
    char names[MODEL_TENSORS][NAME_CAPACITY];
    size_t count = 0;
    memset(nodes, 0, sizeof nodes);
    for (size_t i = 0; i < MODEL_TENSORS; i++) {
        const struct tensor_view *tensor = &model->layout.tensors[i];
        summary_node_name(tensor->name, names[i], NAME_CAPACITY);
        struct event_node *node = &nodes[count++];
        *node = (struct event_node){.name = names[i], .op = "Variable", .rank = tensor->rank};
        for (size_t d = 0; d < tensor->rank; d++) {
            node->shape[d] = (int64_t)tensor->shape[d];
        }
    }
    for (size_t i = 0; i < ROW_COUNT; i++) {
        const struct row *row = &rows[i];
        struct event_node *node = &nodes[count++];
        *node = (struct event_node){.name = row->name, .op = row->op, .rank = strlen(row->shape)};
        node->dtype = strncmp(row->name, "inputs/", 7) == 0 ? EVENT_INT32 : EVENT_FLOAT;
        memcpy(node->inputs, row->inputs, sizeof node->inputs);
        for (size_t d = 0; d < node->rank; d++) {
            node->shape[d] = size_of(row->shape[d], &model->shape);
        }
    }
    event_file_add_graph(file, nodes, count);
}
