/* Events that carry more than numbers: tables of text, histograms, the graph. */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "io/event_internal.h"

enum { DATA_CLASS_TENSOR = 2 };

/* Two dimensions, as protobuf-c wants them. */
struct shape2 {
    Tb__TensorShape shape;
    Tb__TensorShape__Dim dims[2], *pointers[2];
};

static void shape2_init(struct shape2 *shape, size_t rows, size_t columns) {
    tb__tensor_shape__init(&shape->shape);
    for (size_t i = 0; i < 2; i++) {
        tb__tensor_shape__dim__init(&shape->dims[i]);
        shape->pointers[i] = &shape->dims[i];
    }
    shape->dims[0].size = (int64_t)rows;
    shape->dims[1].size = (int64_t)columns;
    shape->shape.n_dim = 2;
    shape->shape.dim = shape->pointers;
}

/* A tensor for the plug-in (the tab) that draws it. */
static void add_tensor(struct event_file *file, uint64_t step, const char *tag, const char *plugin,
                       Tb__Tensor *tensor) {
    Tb__SummaryMetadata__PluginData data = TB__SUMMARY_METADATA__PLUGIN_DATA__INIT;
    Tb__SummaryMetadata metadata = TB__SUMMARY_METADATA__INIT;
    Tb__Summary__Value value = TB__SUMMARY__VALUE__INIT, *values = &value;
    Tb__Summary summary = TB__SUMMARY__INIT;
    Tb__Event event = TB__EVENT__INIT;
    data.plugin_name = (char *)(uintptr_t)plugin;
    metadata.plugin_data = &data;
    metadata.data_class = DATA_CLASS_TENSOR;
    value.tag = (char *)(uintptr_t)tag;
    value.metadata = &metadata;
    value.value_case = TB__SUMMARY__VALUE__VALUE_TENSOR;
    value.tensor = tensor;
    summary.n_value = 1;
    summary.value = &values;
    event.what_case = TB__EVENT__WHAT_SUMMARY;
    event.summary = &summary;
    event.step = (int64_t)step;
    event_file_add(file, &event);
}

/* ---- text ---- */

void event_file_add_text(struct event_file *file, uint64_t step, const char *tag,
                         const char *const *cells, size_t rows, size_t columns) {
    size_t count = rows * columns;
    ProtobufCBinaryData *strings = calloc(count + 1, sizeof *strings);
    if (strings == NULL) {
        event_file_fail(file);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        strings[i].len = strlen(cells[i]);
        strings[i].data = (uint8_t *)(uintptr_t)cells[i];
    }
    struct shape2 shape;
    shape2_init(&shape, rows, columns);
    Tb__Tensor tensor = TB__TENSOR__INIT;
    tensor.dtype = TB__DATA_TYPE__DT_STRING;
    tensor.tensor_shape = &shape.shape;
    tensor.n_string_val = count;
    tensor.string_val = strings;
    add_tensor(file, step, tag, "text", &tensor);
    free(strings);
}

/* ---- histograms ---- */

struct bucket {
    double left, right, count;
};

/* Least and largest finite value; false when there is none. */
static bool find_range(const float *values, size_t count, double *low, double *high) {
    *low = INFINITY;
    *high = -INFINITY;
    for (size_t i = 0; i < count; i++) {
        double value = (double)values[i];
        if (isfinite(value)) {
            *low = value < *low ? value : *low;
            *high = value > *high ? value : *high;
        }
    }
    return *low <= *high;
}

/* Where all values are the same, every bucket lies there and the last one has them. */
static void fill_buckets(const float *values, size_t count, struct bucket out[EVENT_BUCKETS]) {
    double low, high;
    memset(out, 0, EVENT_BUCKETS * sizeof *out);
    if (!find_range(values, count, &low, &high)) {
        return;
    }
    double width = (high - low) / EVENT_BUCKETS;
    for (size_t i = 0; i < EVENT_BUCKETS; i++) {
        out[i].left = low + (double)i * width;
        out[i].right = i + 1 < EVENT_BUCKETS ? low + (double)(i + 1) * width : high;
    }
    for (size_t i = 0; i < count; i++) {
        double value = (double)values[i];
        if (isfinite(value)) {
            double index = width > 0.0 ? floor((value - low) / width) : EVENT_BUCKETS;
            out[index < EVENT_BUCKETS ? (size_t)index : EVENT_BUCKETS - 1].count += 1.0;
        }
    }
}

void event_file_add_histogram(struct event_file *file, uint64_t step, const char *tag,
                              const float *values, size_t count) {
    struct bucket buckets[EVENT_BUCKETS];
    _Static_assert(sizeof buckets == EVENT_BUCKETS * 3 * sizeof(double), "buckets are a tensor");
    fill_buckets(values, count, buckets);
    struct shape2 shape;
    shape2_init(&shape, EVENT_BUCKETS, 3);
    Tb__Tensor tensor = TB__TENSOR__INIT;
    tensor.dtype = TB__DATA_TYPE__DT_DOUBLE;
    tensor.tensor_shape = &shape.shape;
    tensor.tensor_content.len = sizeof buckets;
    tensor.tensor_content.data = (uint8_t *)buckets;
    add_tensor(file, step, tag, "histograms", &tensor);
}

/* ---- the graph ---- */

enum { ATTRIBUTES = 3 };

/* A node with everything it points to. */
struct node {
    Tb__NodeDef def;
    char *inputs[EVENT_NODE_INPUTS_MAX];
    Tb__NodeDef__Attribute attributes[ATTRIBUTES], *attribute_pointers[ATTRIBUTES];
    Tb__AttrValue values[ATTRIBUTES];
    Tb__AttrValue__ListValue list;
    Tb__TensorShape shape, *shape_pointer;
    Tb__TensorShape__Dim dims[EVENT_NODE_RANK_MAX], *dim_pointers[EVENT_NODE_RANK_MAX];
};

static Tb__AttrValue *add_attribute(struct node *node, const char *key) {
    size_t i = node->def.n_attr++;
    assert(i < ATTRIBUTES);
    tb__node_def__attribute__init(&node->attributes[i]);
    tb__attr_value__init(&node->values[i]);
    node->attributes[i].key = (char *)(uintptr_t)key;
    node->attributes[i].value = &node->values[i];
    node->attribute_pointers[i] = &node->attributes[i];
    return &node->values[i];
}

static void set_shape(struct node *node, const struct event_node *from) {
    tb__tensor_shape__init(&node->shape);
    for (size_t i = 0; i < from->rank; i++) {
        tb__tensor_shape__dim__init(&node->dims[i]);
        node->dims[i].size = from->shape[i];
        node->dim_pointers[i] = &node->dims[i];
    }
    node->shape.n_dim = from->rank;
    node->shape.dim = node->dim_pointers;
    node->shape_pointer = &node->shape;
}

/* `dtype` and `shape` are what a person reads in the node's box, `_output_shapes` is what
 * TensorBoard writes beside the edges. */
static void set_attributes(struct node *node, const struct event_node *from) {
    Tb__AttrValue *value = add_attribute(node, "dtype");
    value->value_case = TB__ATTR_VALUE__VALUE_TYPE;
    value->type = from->dtype == EVENT_FLOAT ? TB__DATA_TYPE__DT_FLOAT : TB__DATA_TYPE__DT_INT32;
    value = add_attribute(node, "shape");
    value->value_case = TB__ATTR_VALUE__VALUE_SHAPE;
    value->shape = &node->shape;
    value = add_attribute(node, "_output_shapes");
    tb__attr_value__list_value__init(&node->list);
    node->list.n_shape = 1;
    node->list.shape = &node->shape_pointer;
    value->value_case = TB__ATTR_VALUE__VALUE_LIST;
    value->list = &node->list;
}

static void set_node(struct node *node, const struct event_node *from) {
    tb__node_def__init(&node->def);
    node->def.name = (char *)(uintptr_t)from->name;
    node->def.op = (char *)(uintptr_t)from->op;
    node->def.input = node->inputs;
    for (size_t i = 0; i < EVENT_NODE_INPUTS_MAX && from->inputs[i] != NULL; i++) {
        node->inputs[node->def.n_input++] = (char *)(uintptr_t)from->inputs[i];
    }
    node->def.attr = node->attribute_pointers;
    set_shape(node, from);
    set_attributes(node, from);
}

void event_file_add_graph(struct event_file *file, const struct event_node *nodes, size_t count) {
    struct node *full = calloc(count, sizeof *full);
    Tb__NodeDef **pointers = calloc(count, sizeof *pointers);
    struct event_buffer packed;
    event_buffer_init(&packed);
    if (full != NULL && pointers != NULL) {
        Tb__VersionDef version = TB__VERSION_DEF__INIT;
        Tb__GraphDef graph = TB__GRAPH_DEF__INIT;
        for (size_t i = 0; i < count; i++) {
            set_node(&full[i], &nodes[i]);
            pointers[i] = &full[i].def;
        }
        version.producer = 1;
        graph.n_node = count;
        graph.node = pointers;
        graph.versions = &version;
        tb__graph_def__pack_to_buffer(&graph, &packed.base);
        Tb__Event event = TB__EVENT__INIT;
        event.what_case = TB__EVENT__WHAT_GRAPH_DEF;
        event.graph_def.len = packed.text.size;
        event.graph_def.data = (uint8_t *)packed.text.bytes;
        event_file_add(file, &event);
    }
    if (full == NULL || pointers == NULL || packed.text.failed) {
        event_file_fail(file);
    }
    text_free(&packed.text);
    free(pointers);
    free(full);
}
