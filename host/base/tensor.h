/* tensor.h - a named view of an array: the one currency between model, optimiser and checkpoint.
 *
 * A view owns nothing. `data` points into memory that somebody else keeps alive for as long as the
 * view is used; who that is stands where the view is made (model.h, snapshot.h, checkpoint.h).
 *
 * THREADS: plain values.
 */
#ifndef CAIRN_HOST_BASE_TENSOR_H
#define CAIRN_HOST_BASE_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { TENSOR_NAME_CAPACITY = 96, TENSOR_RANK_MAX = 4 };

/* The model of this program has the first four; the others are for trainers that use the checkpoint
 * library. */
enum dtype {
    DTYPE_F32,
    DTYPE_F64,
    DTYPE_I64,
    DTYPE_U8,
    DTYPE_F16,
    DTYPE_BF16,
    DTYPE_I32,
    DTYPE_COUNT
};

struct tensor_view {
    char name[TENSOR_NAME_CAPACITY]; /* NUL-terminated */
    enum dtype dtype;
    uint32_t rank;                   /* 0 to TENSOR_RANK_MAX; rank 0 is one element */
    uint64_t shape[TENSOR_RANK_MAX]; /* row-major; unused entries are 0 */
    void *data;                      /* tensor_bytes() bytes; may be NULL when that is 0 */
};

/* Bytes of one element. */
size_t dtype_bytes(enum dtype dtype);

/* Name in a safetensors header: "F32", "F64", "I64", "U8", "F16", "BF16", "I32". */
const char *dtype_name(enum dtype dtype);

/* The dtype with that safetensors name; false when Cairn has none. `name` is NUL-terminated. */
bool dtype_from_name(const char *name, enum dtype *out);

/* Printable ASCII without spaces: what every reader and every terminal can show. */
bool tensor_name_is_printable(const char *name);

/* Number of elements and of bytes; false when the product overflows, or a dimension is above
 * 2^63 - 1 (only possible for shapes that came from a file or from another program). */
bool tensor_elements(const struct tensor_view *tensor, uint64_t *out);
bool tensor_bytes(const struct tensor_view *tensor, uint64_t *out);
/* Bytes of a view of which it is known that the product does not overflow: it lies in memory, or
 * was checked before. */
uint64_t tensor_known_bytes(const struct tensor_view *tensor);

/* Make a view; `rank` shape values follow. Asserts that the name fits. */
struct tensor_view tensor_make(const char *name, enum dtype dtype, void *data, uint32_t rank,
                               const uint64_t *shape);

/* The view called `name`, or NULL. */
const struct tensor_view *tensor_find(const struct tensor_view *tensors, size_t count,
                                      const char *name);

/* "[1000, 64]"; `text` holds `capacity` bytes, 96 are always enough. Returns `text`. */
char *tensor_shape_text(const struct tensor_view *tensor, char *text, size_t capacity);

#ifdef __cplusplus
}
#endif
#endif
