/* The classifier as an ONNX graph, and what its metadata says.
 *
 *     token_ids [batch, time], lengths [batch] -> Gather - LSTM - Gemm - Relu - Gemm -> logit
 *
 * Without text the graph keeps to opset 17, the newest that ONNX 1.12 knows; the operators on
 * strings came with opset 20.
 */
#include <stdlib.h>
#include <string.h>

#include "host/base/text.h"
#include "io/export.h"
#include "io/export_onnx_text.h"
#include "io/onnx_graph.h"

enum { METADATA_COUNT = 8 };

/* ---- weights --------------------------------------------------------------------------------- */

static const float *weight_values(const struct export_model *model, const char *name) {
    return export_weight(model, name)->data;
}

/* ONNX has the gates in order i, o, f, g; the model has i, f, g, o. A row has `columns` values. */
static void copy_gates(float *to, const float *from, size_t hidden, size_t columns) {
    static const size_t gate_of[4] = {0, 3, 1, 2};
    size_t gate = hidden * columns;
    for (size_t i = 0; i < 4; i++) {
        memcpy(to + i * gate, from + gate_of[i] * gate, gate * sizeof *to);
    }
}

/* Both directions of one of the LSTM's arrays; `stride` is the distance between them in `to`. */
static void copy_directions(float *to, size_t stride, const struct export_model *model,
                            const char *const names[2], size_t columns) {
    for (size_t i = 0; i < 2 && to != NULL; i++) {
        copy_gates(to + i * stride, weight_values(model, names[i]), (size_t)model->hidden_size,
                   columns);
    }
}

static void add_lstm_weights(struct onnx_graph *graph, const struct export_model *model) {
    static const char *const input[] = {"lstm.weight_ih_l0", "lstm.weight_ih_l0_reverse"};
    static const char *const recurrent[] = {"lstm.weight_hh_l0", "lstm.weight_hh_l0_reverse"};
    static const char *const bias[] = {"lstm.bias_l0", "lstm.bias_l0_reverse"};
    const uint64_t gates = 4 * model->hidden_size;
    const uint64_t e = model->embedding_size, h = model->hidden_size;
    copy_directions(onnx_graph_new_weight(graph, "lstm.W", 3, (const uint64_t[]){2, gates, e}),
                    gates * e, model, input, (size_t)e);
    copy_directions(onnx_graph_new_weight(graph, "lstm.R", 3, (const uint64_t[]){2, gates, h}),
                    gates * h, model, recurrent, (size_t)h);
    /* Two biases for each gate, of which only the sum counts: the second stays zero. */
    copy_directions(onnx_graph_new_weight(graph, "lstm.B", 2, (const uint64_t[]){2, 2 * gates}),
                    2 * gates, model, bias, 1);
}

static void add_weight(struct onnx_graph *graph, const struct export_model *model,
                       const char *name) {
    const struct tensor_view *weight = export_weight(model, name);
    onnx_graph_weight(graph, name, weight->rank, weight->shape, weight->data);
}

static void add_weights(struct onnx_graph *graph, const struct export_model *model) {
    static const char *const names[] = {"embedding.weight", "dense.weight", "dense.bias",
                                        "output.weight", "output.bias"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        add_weight(graph, model, names[i]);
    }
    add_lstm_weights(graph, model);
}

/* ---- graph ----------------------------------------------------------------------------------- */

/* A length of 0 leaves the initial states, which are zero. Runtimes have no batch-major LSTM. */
static void add_lstm(struct onnx_graph *graph, const struct export_model *model) {
    onnx_graph_node(graph, "Transpose", "ids_by_time", "token_ids");
    onnx_graph_node(graph, "Gather", "embedded", "embedding.weight ids_by_time");
    onnx_graph_node(graph, "Cast", "sequence_lens", "lengths");
    onnx_graph_int(graph, "to", ONNX_INT32);
    onnx_graph_node(graph, "LSTM", "- last_states", "embedded lstm.W lstm.R lstm.B sequence_lens");
    onnx_graph_string(graph, "direction", "bidirectional");
    onnx_graph_int(graph, "hidden_size", (int64_t)model->hidden_size);
    onnx_graph_node(graph, "Transpose", "states_by_text", "last_states");
    int64_t *order = onnx_graph_new_ints(graph, "perm", 3);
    if (order != NULL) {
        memcpy(order, (const int64_t[]){1, 0, 2}, 3 * sizeof *order);
    }
    onnx_graph_constants(graph, "features_shape",
                         (const int64_t[]){-1, 2 * (int64_t)model->hidden_size}, 2);
    onnx_graph_node(graph, "Reshape", "features", "states_by_text features_shape");
}

static void add_head(struct onnx_graph *graph) {
    onnx_graph_node(graph, "Gemm", "dense", "features dense.weight dense.bias");
    onnx_graph_int(graph, "transB", 1);
    onnx_graph_node(graph, "Relu", "activated", "dense");
    onnx_graph_node(graph, "Gemm", "logit_column", "activated output.weight output.bias");
    onnx_graph_int(graph, "transB", 1);
    onnx_graph_constants(graph, "logit_axis", (const int64_t[]){1}, 1);
    onnx_graph_node(graph, "Squeeze", "logit", "logit_column logit_axis");
    onnx_graph_node(graph, "Sigmoid", "probability", "logit");
}

static struct onnx_graph *build(const struct export_model *model, bool with_text) {
    struct onnx_graph *graph = onnx_graph_create("text_classifier");
    if (with_text) {
        export_onnx_text(graph, model);
    } else {
        onnx_graph_input(graph, "token_ids", ONNX_INT64, "batch time");
        onnx_graph_input(graph, "lengths", ONNX_INT64, "batch");
    }
    add_weights(graph, model);
    add_lstm(graph, model);
    add_head(graph);
    if (with_text) {
        export_onnx_label(graph, model);
    }
    onnx_graph_output(graph, "probability", ONNX_FLOAT, "batch");
    onnx_graph_output(graph, "logit", ONNX_FLOAT, "batch");
    return graph;
}

/* ---- metadata -------------------------------------------------------------------------------- */

static void append_json_list(struct text *out, const char *const *strings, size_t count) {
    text_printf(out, "[");
    for (size_t i = 0; i < count; i++) {
        text_printf(out, i > 0 ? "," : "");
        text_append_json(out, strings[i], strlen(strings[i]));
    }
    text_printf(out, "]");
}

static const char ids_doc[] =
    "Probability that a text is of class 1. token_ids: the ids of each text's tokens, filled up at "
    "the end with 0; lengths: how many tokens each text has (0 is fine). The metadata say how a "
    "text becomes ids: replace every tag by a space if strip_html, change A-Z to a-z, delete ASCII "
    "punctuation, split at ASCII white space, keep the first max_length tokens (0: all); a token's "
    "id is its place in vocabulary, or 1.";
static const char text_doc[] =
    "Label of each text, and the probability that it is of class 1. The text rules are in the "
    "graph.";

struct description {
    struct text vocabulary, labels, max_length, step;
};

static enum status encode(struct onnx_graph *graph, const struct export_model *model,
                          bool with_text, struct description *says, uint8_t **bytes, size_t *size,
                          struct error *err) {
    append_json_list(&says->vocabulary, model->tokens, (size_t)model->vocabulary_size);
    append_json_list(&says->labels, model->label_names, 2);
    text_printf(&says->max_length, "%llu", (unsigned long long)model->max_length);
    text_printf(&says->step, "%llu", (unsigned long long)model->step);
    CHECK(!says->vocabulary.failed && !says->labels.failed && !says->max_length.failed &&
              !says->step.failed,
          err, STATUS_MEMORY, "no memory for the vocabulary");
    const struct metadata_pair metadata[METADATA_COUNT] = {
        {"vocabulary", says->vocabulary.bytes},
        {"standardize", "lower_and_strip_punctuation"},
        {"split", "whitespace"},
        {"strip_html", model->strip_html ? "true" : "false"},
        {"max_length", says->max_length.bytes},
        {"label_names", says->labels.bytes},
        {"unknown_id", "1"},
        {"step", says->step.bytes}, /* the last one: left out where it is unknown */
    };
    const struct onnx_about about = {
        .ir_version = with_text ? 9 : 8,
        .opset = with_text ? 20 : 17,
        .ml_opset = with_text ? 3 : 0,
        .model_version = model->has_step ? (int64_t)model->step : 0,
        .producer = "cairn",
        .doc = with_text ? text_doc : ids_doc,
        .metadata = metadata,
        .metadata_count = METADATA_COUNT - !model->has_step,
    };
    return onnx_graph_encode(graph, &about, bytes, size, err);
}

enum status export_onnx(const struct file_table *files, const struct export_model *model,
                        const char *path, bool with_text, struct error *err) {
    struct onnx_graph *graph = build(model, with_text);
    struct description says = {0};
    uint8_t *bytes = NULL;
    size_t size = 0;
    enum status status = encode(graph, model, with_text, &says, &bytes, &size, err);
    if (status == STATUS_OK) {
        status = export_publish(files, path, bytes, size, err);
    }
    free(bytes);
    text_free(&says.vocabulary);
    text_free(&says.labels);
    text_free(&says.max_length);
    text_free(&says.step);
    onnx_graph_free(graph);
    return status;
}
