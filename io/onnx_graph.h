/* onnx_graph.h - put an ONNX graph together, node by node, and turn it into the bytes of a file.
 *
 * What the graph means is the caller's affair (export_onnx.c); here are the parts that every graph
 * has. Lists of names are one string, the names separated by spaces; "-" stands for an optional
 * output that is left out. A name that begins with a dot belongs to the current scope: in the scope
 * "head" the name ".sum" is "head.sum", so that a piece of graph can be added several times.
 *
 * Usage:
 *     struct onnx_graph *graph = onnx_graph_create("classifier");
 *     onnx_graph_input(graph, "x", ONNX_FLOAT, "batch 64");
 *     onnx_graph_weight(graph, "w", 2, (const uint64_t[]){1, 64}, values);
 *     onnx_graph_node(graph, "Gemm", "y", "x w");
 *     onnx_graph_int(graph, "transB", 1);                      of the node before
 *     onnx_graph_output(graph, "y", ONNX_FLOAT, "batch 1");
 *     TRY(onnx_graph_encode(graph, &about, &bytes, &size, err));
 *     onnx_graph_free(graph);
 *
 * Nothing fails before onnx_graph_encode: running out of memory is remembered until then.
 *
 * THREADS: a graph belongs to one thread.
 */
#ifndef CAIRN_IO_ONNX_GRAPH_H
#define CAIRN_IO_ONNX_GRAPH_H

#include <stddef.h>
#include <stdint.h>

#include "host/base/status.h"
#include "io/checkpoint.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The format's numbers (TensorProto.DataType). */
enum onnx_type { ONNX_FLOAT = 1, ONNX_INT32 = 6, ONNX_INT64 = 7, ONNX_STRING = 8, ONNX_BOOL = 9 };

struct onnx_graph;

/* NULL when there is no memory for it; all other functions then do nothing. */
struct onnx_graph *onnx_graph_create(const char *name);
/* The body of a loop, to be filled like any graph: it sees the parent's names, starts in the
 * parent's scope, and belongs to the parent (never freed by the caller). */
struct onnx_graph *onnx_graph_create_body(struct onnx_graph *parent, const char *name);
void onnx_graph_free(struct onnx_graph *graph);

/* From now on names with a dot in front are of this scope (printf). */
void onnx_graph_scope(struct onnx_graph *graph, const char *format, ...) PRINTF_LIKE(2, 3);
/* The whole name of a name. Valid as long as the graph; "" without memory. */
const char *onnx_graph_name(struct onnx_graph *graph, const char *name);

/* `dims`: a list of numbers and names of sizes that are known at run time only; "?" is a size
 * without a name, "" a scalar. */
void onnx_graph_input(struct onnx_graph *graph, const char *name, enum onnx_type type,
                      const char *dims);
void onnx_graph_output(struct onnx_graph *graph, const char *name, enum onnx_type type,
                       const char *dims);
/* The type of a value in between, for readers that cannot work it out. */
void onnx_graph_value(struct onnx_graph *graph, const char *name, enum onnx_type type,
                      const char *dims);

/* ---- nodes ---- */

/* `op_type` has its domain in front when it is not the standard one: "ai.onnx.ml:LabelEncoder".
 * `inputs` is a printf format. */
void onnx_graph_node(struct onnx_graph *graph, const char *op_type, const char *outputs,
                     const char *inputs, ...) PRINTF_LIKE(4, 5);

/* Attributes of the node that was added last. All values are copied, except the strings of
 * onnx_graph_strings, which must stay valid. */
void onnx_graph_int(struct onnx_graph *graph, const char *name, int64_t value);
void onnx_graph_string(struct onnx_graph *graph, const char *name, const char *value);
void onnx_graph_strings(struct onnx_graph *graph, const char *name, const char *const *values,
                        size_t count);
/* `count` numbers for the caller to fill, zero now; NULL without memory. */
int64_t *onnx_graph_new_ints(struct onnx_graph *graph, const char *name, size_t count);
void onnx_graph_body(struct onnx_graph *graph, const char *name, struct onnx_graph *body);

/* ---- constants ---- */

/* Row-major values, not copied: they must stay valid. */
void onnx_graph_weight(struct onnx_graph *graph, const char *name, uint32_t rank,
                       const uint64_t *shape, const float *values);
/* The same with memory of the graph, zero, for the caller to fill; NULL without memory. */
float *onnx_graph_new_weight(struct onnx_graph *graph, const char *name, uint32_t rank,
                             const uint64_t *shape);
/* A scalar; a vector. Copied. */
void onnx_graph_constant(struct onnx_graph *graph, const char *name, int64_t value);
void onnx_graph_constants(struct onnx_graph *graph, const char *name, const int64_t *values,
                          size_t count);
void onnx_graph_constant_string(struct onnx_graph *graph, const char *name, const char *value);
void onnx_graph_constant_strings(struct onnx_graph *graph, const char *name,
                                 const char *const *values, size_t count);

/* ---- the file ---- */

struct onnx_about {
    int64_t ir_version;
    int64_t opset, ml_opset; /* of the standard domain and of ai.onnx.ml; 0 = not used */
    int64_t model_version;
    const char *producer, *doc;
    const struct metadata_pair *metadata;
    size_t metadata_count;
};

/* The model as bytes; the caller frees *out (malloc). STATUS_MEMORY; STATUS_DATA when it is larger
 * than the 2 GiB that a protobuf message can have. */
MUST_USE enum status onnx_graph_encode(struct onnx_graph *graph, const struct onnx_about *about,
                                       uint8_t **out, size_t *out_bytes, struct error *err);

#ifdef __cplusplus
}
#endif
#endif
