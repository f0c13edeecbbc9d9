#include "host/base/tensor.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    size_t bytes;
} dtypes[DTYPE_COUNT] = {
    [DTYPE_F32] = {"F32", 4}, [DTYPE_F64] = {"F64", 8}, [DTYPE_I64] = {"I64", 8},
    [DTYPE_U8] = {"U8", 1},   [DTYPE_F16] = {"F16", 2}, [DTYPE_BF16] = {"BF16", 2},
    [DTYPE_I32] = {"I32", 4},
};

size_t dtype_bytes(enum dtype dtype) {
    assert((unsigned)dtype < DTYPE_COUNT);
    return dtypes[dtype].bytes;
}

const char *dtype_name(enum dtype dtype) {
    assert((unsigned)dtype < DTYPE_COUNT);
    return dtypes[dtype].name;
}

bool dtype_from_name(const char *name, enum dtype *out) {
    for (int i = 0; i < DTYPE_COUNT; i++) {
        if (strcmp(name, dtypes[i].name) == 0) {
            *out = (enum dtype)i;
            return true;
        }
    }
    return false;
}

bool tensor_elements(const struct tensor_view *tensor, uint64_t *out) {
    assert(tensor->rank <= TENSOR_RANK_MAX);
    uint64_t elements = 1;
    for (uint32_t i = 0; i < tensor->rank; i++) {
        if (tensor->shape[i] > INT64_MAX || /* JSON has no larger numbers, nor has ssize_t */
            __builtin_mul_overflow(elements, tensor->shape[i], &elements)) {
            return false;
        }
    }
    *out = elements;
    return true;
}

bool tensor_name_is_printable(const char *name) {
    for (; *name != '\0'; name++) {
        if (*name < 0x21 || *name > 0x7E) {
            return false;
        }
    }
    return true;
}

bool tensor_bytes(const struct tensor_view *tensor, uint64_t *out) {
    uint64_t elements;
    if (!tensor_elements(tensor, &elements)) {
        return false;
    }
    return !__builtin_mul_overflow(elements, (uint64_t)dtype_bytes(tensor->dtype), out);
}

uint64_t tensor_known_bytes(const struct tensor_view *tensor) {
    uint64_t bytes = 0;
    bool fits = tensor_bytes(tensor, &bytes);
    assert(fits);
    (void)fits;
    return bytes;
}

struct tensor_view tensor_make(const char *name, enum dtype dtype, void *data, uint32_t rank,
                               const uint64_t *shape) {
    assert(strlen(name) < TENSOR_NAME_CAPACITY);
    assert(rank <= TENSOR_RANK_MAX);
    struct tensor_view tensor = {.dtype = dtype, .rank = rank, .data = data};
    memcpy(tensor.name, name, strlen(name) + 1);
    for (uint32_t i = 0; i < rank; i++) {
        tensor.shape[i] = shape[i];
    }
    return tensor;
}

const struct tensor_view *tensor_find(const struct tensor_view *tensors, size_t count,
                                      const char *name) {
    for (size_t i = 0; i < count; i++) {
        if (strcmp(tensors[i].name, name) == 0) {
            return &tensors[i];
        }
    }
    return NULL;
}

char *tensor_shape_text(const struct tensor_view *tensor, char *text, size_t capacity) {
    assert(tensor->rank <= TENSOR_RANK_MAX);
    char whole[96]; /* 4 numbers of at most 20 digits, separators, brackets */
    size_t used = 0;
    whole[used++] = '[';
    for (uint32_t i = 0; i < tensor->rank; i++) {
        int n = snprintf(whole + used, sizeof whole - used, "%s%" PRIu64, i > 0 ? ", " : "",
                         tensor->shape[i]);
        used += (size_t)n;
    }
    whole[used++] = ']';
    whole[used] = '\0';
    snprintf(text, capacity, "%s", whole);
    return text;
}
