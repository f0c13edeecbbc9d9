#include "io/onnx_graph.h"

#include <assert.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/text.h"
#include "io/arena.h"
#include "io/onnx.pb-c.h"

enum { SCOPE_CAPACITY = 64, WORD_CAPACITY = 128 };

struct onnx_graph {
    struct arena *arena; /* one for a graph and its bodies */
    char scope[SCOPE_CAPACITY];
    Onnx__GraphProto proto;
};

/* ---- memory ---------------------------------------------------------------------------------- */

static char *copy_string(struct arena *arena, const char *string) {
    return arena_copy(arena, string, strlen(string) + 1);
}

/* Append to one of protobuf-c's arrays of pointers, which is full when its count is 0 or a power
 * of two. */
static void append(struct arena *arena, void *array_address, size_t *count, void *item) {
    void **array;
    memcpy(&array, array_address, sizeof array);
    if (item == NULL) {
        return;
    }
    if ((*count & (*count - 1)) == 0) {
        void **larger = arena_take(arena, *count == 0 ? 1 : *count * 2, sizeof *larger);
        if (larger == NULL) {
            return;
        }
        if (*count > 0) {
            memcpy(larger, array, *count * sizeof *larger);
        }
        array = larger;
        memcpy(array_address, &array, sizeof array);
    }
    array[(*count)++] = item;
}

/* A new message of the generated type `type`, or NULL. */
#define TAKE(arena, type) ((type *)arena_take((arena), 1, sizeof(type)))

struct onnx_graph *onnx_graph_create(const char *name) {
    struct onnx_graph *graph = calloc(1, sizeof *graph);
    struct arena *arena = calloc(1, sizeof *arena);
    if (graph == NULL || arena == NULL) {
        free(graph);
        free(arena);
        return NULL;
    }
    onnx__graph_proto__init(&graph->proto);
    graph->arena = arena;
    graph->proto.name = copy_string(arena, name);
    return graph;
}

struct onnx_graph *onnx_graph_create_body(struct onnx_graph *parent, const char *name) {
    struct onnx_graph *body = parent == NULL ? NULL : TAKE(parent->arena, struct onnx_graph);
    if (body == NULL) {
        return NULL;
    }
    onnx__graph_proto__init(&body->proto);
    body->arena = parent->arena;
    memcpy(body->scope, parent->scope, sizeof body->scope);
    body->proto.name = copy_string(body->arena, name);
    return body;
}

void onnx_graph_free(struct onnx_graph *graph) {
    if (graph == NULL) {
        return;
    }
    arena_deinit(graph->arena);
    free(graph->arena);
    free(graph);
}

/* ---- names ----------------------------------------------------------------------------------- */

void onnx_graph_scope(struct onnx_graph *graph, const char *format, ...) {
    if (graph == NULL) {
        return;
    }
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(graph->scope, sizeof graph->scope, format, arguments);
    assert(size >= 0 && size < SCOPE_CAPACITY);
    (void)size;
    va_end(arguments);
}

static char *whole_name(struct onnx_graph *graph, const char *name) {
    char whole[SCOPE_CAPACITY + WORD_CAPACITY];
    snprintf(whole, sizeof whole, "%s%s", name[0] == '.' ? graph->scope : "",
             strcmp(name, "-") == 0 ? "" : name);
    return copy_string(graph->arena, whole);
}

const char *onnx_graph_name(struct onnx_graph *graph, const char *name) {
    const char *whole = graph == NULL ? NULL : whole_name(graph, name);
    return whole == NULL ? "" : whole;
}

/* Take the next word off a list; false at its end. */
static bool next_word(const char **list, char word[WORD_CAPACITY]) {
    const char *begin = *list + strspn(*list, " ");
    size_t size = strcspn(begin, " ");
    *list = begin + size;
    assert(size < WORD_CAPACITY);
    snprintf(word, WORD_CAPACITY, "%.*s", (int)size, begin);
    return size > 0;
}

static void append_names(struct onnx_graph *graph, char ***array, size_t *count, const char *list) {
    char word[WORD_CAPACITY];
    while (next_word(&list, word)) {
        append(graph->arena, array, count, whole_name(graph, word));
    }
}

/* ---- types ----------------------------------------------------------------------------------- */

static Onnx__TensorShapeProto__Dimension *make_dimension(struct arena *arena, const char *word) {
    Onnx__TensorShapeProto__Dimension *dimension = TAKE(arena, Onnx__TensorShapeProto__Dimension);
    if (dimension == NULL) {
        return NULL;
    }
    onnx__tensor_shape_proto__dimension__init(dimension);
    int64_t number;
    if (text_parse_i64(word, &number)) {
        dimension->value_case = ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE;
        dimension->dim_value = number;
    } else if (strcmp(word, "?") != 0) {
        dimension->value_case = ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM;
        dimension->dim_param = copy_string(arena, word);
    }
    return dimension;
}

static Onnx__ValueInfoProto *make_value(struct onnx_graph *graph, const char *name,
                                        enum onnx_type type, const char *dims) {
    struct arena *arena = graph->arena;
    Onnx__ValueInfoProto *value = TAKE(arena, Onnx__ValueInfoProto);
    Onnx__TypeProto *whole = TAKE(arena, Onnx__TypeProto);
    Onnx__TypeProto__Tensor *tensor = TAKE(arena, Onnx__TypeProto__Tensor);
    Onnx__TensorShapeProto *shape = TAKE(arena, Onnx__TensorShapeProto);
    if (arena->failed) {
        return NULL;
    }
    onnx__value_info_proto__init(value);
    onnx__type_proto__init(whole);
    onnx__type_proto__tensor__init(tensor);
    onnx__tensor_shape_proto__init(shape);
    char word[WORD_CAPACITY];
    while (next_word(&dims, word)) {
        append(arena, &shape->dim, &shape->n_dim, make_dimension(arena, word));
    }
    tensor->has_elem_type = 1;
    tensor->elem_type = (int32_t)type;
    tensor->shape = shape;
    whole->value_case = ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE;
    whole->tensor_type = tensor;
    value->name = whole_name(graph, name);
    value->type = whole;
    return value;
}

void onnx_graph_input(struct onnx_graph *graph, const char *name, enum onnx_type type,
                      const char *dims) {
    if (graph != NULL) {
        append(graph->arena, &graph->proto.input, &graph->proto.n_input,
               make_value(graph, name, type, dims));
    }
}

void onnx_graph_output(struct onnx_graph *graph, const char *name, enum onnx_type type,
                       const char *dims) {
    if (graph != NULL) {
        append(graph->arena, &graph->proto.output, &graph->proto.n_output,
               make_value(graph, name, type, dims));
    }
}

void onnx_graph_value(struct onnx_graph *graph, const char *name, enum onnx_type type,
                      const char *dims) {
    if (graph != NULL) {
        append(graph->arena, &graph->proto.value_info, &graph->proto.n_value_info,
               make_value(graph, name, type, dims));
    }
}

/* ---- nodes ----------------------------------------------------------------------------------- */

void onnx_graph_node(struct onnx_graph *graph, const char *op_type, const char *outputs,
                     const char *inputs, ...) {
    Onnx__NodeProto *node = graph == NULL ? NULL : TAKE(graph->arena, Onnx__NodeProto);
    if (node == NULL) {
        return;
    }
    char list[4 * WORD_CAPACITY];
    va_list arguments;
    va_start(arguments, inputs);
    int size = vsnprintf(list, sizeof list, inputs, arguments);
    assert(size >= 0 && (size_t)size < sizeof list);
    (void)size;
    va_end(arguments);
    onnx__node_proto__init(node);
    append_names(graph, &node->input, &node->n_input, list);
    append_names(graph, &node->output, &node->n_output, outputs);
    const char *colon = strchr(op_type, ':');
    node->op_type = copy_string(graph->arena, colon == NULL ? op_type : colon + 1);
    if (colon != NULL) {
        node->domain = copy_string(graph->arena, op_type);
        if (node->domain != NULL) {
            node->domain[colon - op_type] = '\0';
        }
    }
    /* Messages of runtimes name the node; what it computes is the best name for it. */
    for (size_t i = 0; i < node->n_output && node->name == NULL; i++) {
        node->name = node->output[i][0] == '\0' ? NULL : node->output[i];
    }
    append(graph->arena, &graph->proto.node, &graph->proto.n_node, node);
}

/* An attribute of the last node; NULL without memory. */
static Onnx__AttributeProto *add_attribute(struct onnx_graph *graph, const char *name,
                                           Onnx__AttributeProto__AttributeType type) {
    if (graph == NULL || graph->arena->failed) {
        return NULL;
    }
    Onnx__AttributeProto *attribute = TAKE(graph->arena, Onnx__AttributeProto);
    if (attribute == NULL) {
        return NULL;
    }
    onnx__attribute_proto__init(attribute);
    attribute->name = copy_string(graph->arena, name);
    attribute->has_type = 1;
    attribute->type = type;
    Onnx__NodeProto *node = graph->proto.node[graph->proto.n_node - 1];
    append(graph->arena, &node->attribute, &node->n_attribute, attribute);
    return attribute;
}

/* Bytes that are only read: protobuf-c has no const. */
static ProtobufCBinaryData borrow(const void *bytes, size_t size) {
    ProtobufCBinaryData data = {.len = size};
    memcpy(&data.data, &bytes, sizeof bytes);
    return data;
}

static ProtobufCBinaryData *borrow_strings(struct arena *arena, const char *const *values,
                                           size_t count) {
    ProtobufCBinaryData *strings = arena_take(arena, count, sizeof *strings);
    for (size_t i = 0; strings != NULL && i < count; i++) {
        strings[i] = borrow(values[i], strlen(values[i]));
    }
    return strings;
}

void onnx_graph_int(struct onnx_graph *graph, const char *name, int64_t value) {
    Onnx__AttributeProto *attribute =
        add_attribute(graph, name, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT);
    if (attribute != NULL) {
        attribute->has_i = 1;
        attribute->i = value;
    }
}

int64_t *onnx_graph_new_ints(struct onnx_graph *graph, const char *name, size_t count) {
    Onnx__AttributeProto *attribute =
        add_attribute(graph, name, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INTS);
    if (attribute == NULL) {
        return NULL;
    }
    attribute->ints = arena_take(graph->arena, count, sizeof *attribute->ints);
    attribute->n_ints = attribute->ints == NULL ? 0 : count;
    return attribute->ints;
}

void onnx_graph_string(struct onnx_graph *graph, const char *name, const char *value) {
    Onnx__AttributeProto *attribute =
        add_attribute(graph, name, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRING);
    const char *copy = attribute == NULL ? NULL : copy_string(graph->arena, value);
    if (copy != NULL) {
        attribute->has_s = 1;
        attribute->s = borrow(copy, strlen(copy));
    }
}

void onnx_graph_strings(struct onnx_graph *graph, const char *name, const char *const *values,
                        size_t count) {
    Onnx__AttributeProto *attribute =
        add_attribute(graph, name, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRINGS);
    if (attribute != NULL) {
        attribute->strings = borrow_strings(graph->arena, values, count);
        attribute->n_strings = attribute->strings == NULL ? 0 : count;
    }
}

void onnx_graph_body(struct onnx_graph *graph, const char *name, struct onnx_graph *body) {
    Onnx__AttributeProto *attribute =
        add_attribute(graph, name, ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__GRAPH);
    if (attribute != NULL && body != NULL) {
        attribute->g = &body->proto;
    }
}

/* ---- constants ------------------------------------------------------------------------------- */

static Onnx__TensorProto *add_tensor(struct onnx_graph *graph, const char *name,
                                     enum onnx_type type, uint32_t rank, const uint64_t *shape) {
    Onnx__TensorProto *tensor = graph == NULL ? NULL : TAKE(graph->arena, Onnx__TensorProto);
    if (tensor == NULL) {
        return NULL;
    }
    onnx__tensor_proto__init(tensor);
    tensor->name = whole_name(graph, name);
    tensor->has_data_type = 1;
    tensor->data_type = (int32_t)type;
    tensor->dims = arena_copy(graph->arena, shape, rank * sizeof *shape);
    tensor->n_dims = tensor->dims == NULL ? 0 : rank;
    append(graph->arena, &graph->proto.initializer, &graph->proto.n_initializer, tensor);
    return tensor;
}

static void add_values(struct onnx_graph *graph, const char *name, enum onnx_type type,
                       uint32_t rank, const uint64_t *shape, const void *values, size_t bytes) {
    Onnx__TensorProto *tensor = add_tensor(graph, name, type, rank, shape);
    if (tensor != NULL) {
        tensor->has_raw_data = 1;
        tensor->raw_data = borrow(values, values == NULL ? 0 : bytes);
    }
}

static size_t float_bytes(uint32_t rank, const uint64_t *shape) {
    size_t bytes = sizeof(float);
    for (uint32_t i = 0; i < rank; i++) {
        bytes *= shape[i];
    }
    return bytes;
}

void onnx_graph_weight(struct onnx_graph *graph, const char *name, uint32_t rank,
                       const uint64_t *shape, const float *values) {
    add_values(graph, name, ONNX_FLOAT, rank, shape, values, float_bytes(rank, shape));
}

float *onnx_graph_new_weight(struct onnx_graph *graph, const char *name, uint32_t rank,
                             const uint64_t *shape) {
    size_t bytes = float_bytes(rank, shape);
    float *values = graph == NULL ? NULL : arena_take(graph->arena, bytes, 1);
    if (values != NULL) {
        add_values(graph, name, ONNX_FLOAT, rank, shape, values, bytes);
    }
    return values;
}

static void add_ints(struct onnx_graph *graph, const char *name, uint32_t rank,
                     const int64_t *values, size_t count) {
    if (graph != NULL) {
        size_t bytes = count * sizeof *values;
        add_values(graph, name, ONNX_INT64, rank, (const uint64_t[]){count},
                   arena_copy(graph->arena, values, bytes), bytes);
    }
}

void onnx_graph_constant(struct onnx_graph *graph, const char *name, int64_t value) {
    add_ints(graph, name, 0, &value, 1);
}

void onnx_graph_constants(struct onnx_graph *graph, const char *name, const int64_t *values,
                          size_t count) {
    add_ints(graph, name, 1, values, count);
}

static void add_strings(struct onnx_graph *graph, const char *name, uint32_t rank,
                        const char *const *values, size_t count) {
    Onnx__TensorProto *tensor =
        add_tensor(graph, name, ONNX_STRING, rank, (const uint64_t[]){count});
    ProtobufCBinaryData *strings =
        tensor == NULL ? NULL : borrow_strings(graph->arena, values, count);
    for (size_t i = 0; strings != NULL && i < count; i++) {
        strings[i] =
            borrow(arena_copy(graph->arena, strings[i].data, strings[i].len + 1), strings[i].len);
    }
    if (strings != NULL) {
        tensor->string_data = strings;
        tensor->n_string_data = count;
    }
}

void onnx_graph_constant_string(struct onnx_graph *graph, const char *name, const char *value) {
    add_strings(graph, name, 0, &value, 1);
}

void onnx_graph_constant_strings(struct onnx_graph *graph, const char *name,
                                 const char *const *values, size_t count) {
    add_strings(graph, name, 1, values, count);
}

/* ---- the file -------------------------------------------------------------------------------- */

static void append_opset(struct arena *arena, Onnx__ModelProto *model, const char *domain,
                         int64_t version) {
    Onnx__OperatorSetIdProto *opset = version == 0 ? NULL : TAKE(arena, Onnx__OperatorSetIdProto);
    if (opset != NULL) {
        onnx__operator_set_id_proto__init(opset);
        opset->domain = copy_string(arena, domain);
        opset->has_version = 1;
        opset->version = version;
        append(arena, &model->opset_import, &model->n_opset_import, opset);
    }
}

static void append_metadata(struct arena *arena, Onnx__ModelProto *model,
                            const struct metadata_pair *pair) {
    Onnx__StringStringEntryProto *entry = TAKE(arena, Onnx__StringStringEntryProto);
    if (entry != NULL) {
        onnx__string_string_entry_proto__init(entry);
        entry->key = copy_string(arena, pair->key);
        entry->value = copy_string(arena, pair->value);
        append(arena, &model->metadata_props, &model->n_metadata_props, entry);
    }
}

enum status onnx_graph_encode(struct onnx_graph *graph, const struct onnx_about *about,
                              uint8_t **out, size_t *out_bytes, struct error *err) {
    CHECK(graph != NULL, err, STATUS_MEMORY, "no memory for an ONNX graph");
    struct arena *arena = graph->arena;
    Onnx__ModelProto model;
    onnx__model_proto__init(&model);
    model.has_ir_version = model.has_model_version = 1;
    model.ir_version = about->ir_version;
    model.model_version = about->model_version;
    model.producer_name = copy_string(arena, about->producer);
    model.doc_string = copy_string(arena, about->doc);
    model.graph = &graph->proto;
    append_opset(arena, &model, "", about->opset);
    append_opset(arena, &model, "ai.onnx.ml", about->ml_opset);
    for (size_t i = 0; i < about->metadata_count; i++) {
        append_metadata(arena, &model, &about->metadata[i]);
    }
    CHECK(!arena->failed, err, STATUS_MEMORY, "no memory for an ONNX graph");
    size_t size = onnx__model_proto__get_packed_size(&model);
    CHECK(size <= INT32_MAX, err, STATUS_DATA,
          "the model takes %zu bytes as ONNX, and such a file ends at 2 GiB (protobuf's limit): a "
          "smaller --vocabulary-size or --embedding-size fits, or another --format",
          size);
    uint8_t *bytes = malloc(size);
    CHECK(bytes != NULL, err, STATUS_MEMORY, "no memory for %zu bytes of ONNX", size);
    *out_bytes = onnx__model_proto__pack(&model, bytes);
    *out = bytes;
    return STATUS_OK;
}
