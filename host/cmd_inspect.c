/* `cairn inspect FILE`: what one checkpoint holds. Its bytes may come from anywhere, so everything
 * printed from them is escaped. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/text.h"
#include "host/cmd.h"
#include "io/checkpoint.h"

/* ---- escaped output ---- */

static enum status print_escaped(const char *bytes, size_t size, struct error *err) {
    size_t capacity = 4 * size + 4; /* \xHH for every byte */
    char *escaped = malloc(capacity);
    CHECK(escaped != NULL, err, STATUS_MEMORY, "no memory to print %zu bytes", size);
    fputs(text_escape(bytes, size, escaped, capacity), stdout);
    free(escaped);
    return STATUS_OK;
}

/* Values of several lines (the options) go below their key, indented. */
static enum status print_block(const char *value, struct error *err) {
    while (*value != '\0') {
        size_t line = strcspn(value, "\n");
        printf("\n    ");
        TRY(print_escaped(value, line, err));
        value += line + (value[line] == '\n');
    }
    return STATUS_OK;
}

/* ---- the parts ---- */

static bool is_digest(const char *key) {
    return strncmp(key, "digest.", 7) == 0;
}

/* Number of characters of the longest key or name, so that columns line up. */
static int widest_key(const struct checkpoint *checkpoint) {
    size_t width = 0;
    for (size_t i = 0; i < checkpoint->metadata_count; i++) {
        size_t length = strlen(checkpoint->metadata[i].key);
        width = !is_digest(checkpoint->metadata[i].key) && length > width ? length : width;
    }
    return width < 40 ? (int)width : 40;
}

/* The digests stand beside their tensors. */
static enum status print_metadata(const struct checkpoint *checkpoint, struct error *err) {
    int width = widest_key(checkpoint);
    printf("\nmetadata\n");
    for (size_t i = 0; i < checkpoint->metadata_count; i++) {
        const struct metadata_pair *pair = &checkpoint->metadata[i];
        if (is_digest(pair->key)) {
            continue;
        }
        size_t length = strlen(pair->key);
        printf("  ");
        TRY(print_escaped(pair->key, length, err));
        if (strchr(pair->value, '\n') != NULL) {
            TRY(print_block(pair->value, err));
        } else {
            printf("%*s  ", length < (size_t)width ? width - (int)length : 0, "");
            TRY(print_escaped(pair->value, strlen(pair->value), err));
        }
        printf("\n");
    }
    return STATUS_OK;
}

static void print_tensor(const struct checkpoint *checkpoint, const struct tensor_view *tensor,
                         int width) {
    char shape[96], name[4 * TENSOR_NAME_CAPACITY], digest[40];
    char key[TENSOR_NAME_CAPACITY + 8] = "digest.";
    const char *hex = checkpoint_metadata(checkpoint, strcat(key, tensor->name));
    text_escape(tensor->name, strlen(tensor->name), name, sizeof name);
    printf("  %-*s  %-4s  %-16s  %12" PRIu64 "  %s\n", width, name, dtype_name(tensor->dtype),
           tensor_shape_text(tensor, shape, sizeof shape), tensor_known_bytes(tensor),
           hex == NULL ? "-" : text_escape(hex, strlen(hex), digest, sizeof digest));
}

static void print_tensors(const struct checkpoint *checkpoint) {
    uint64_t total = 0;
    int width = 4;
    for (size_t i = 0; i < checkpoint->tensor_count; i++) {
        int length = (int)strlen(checkpoint->tensors[i].name);
        width = length > width ? length : width;
        total += tensor_known_bytes(&checkpoint->tensors[i]);
    }
    printf("\ntensors: %zu, %" PRIu64 " bytes\n", checkpoint->tensor_count, total);
    printf("  %-*s  %-4s  %-16s  %12s  %s\n", width, "name", "", "shape", "bytes", "xxh3-128");
    for (size_t i = 0; i < checkpoint->tensor_count; i++) {
        print_tensor(checkpoint, &checkpoint->tensors[i], width);
    }
}

/* One number of the run's state, where the checkpoint has it (weights alone do not). */
static void print_state(const struct checkpoint *checkpoint, const char *label, const char *name) {
    const struct tensor_view *tensor =
        tensor_find(checkpoint->tensors, checkpoint->tensor_count, name);
    if (tensor != NULL && tensor->dtype == DTYPE_I64 &&
        tensor_known_bytes(tensor) == sizeof(int64_t)) {
        int64_t value;
        memcpy(&value, tensor->data, sizeof value);
        printf("%-8s %" PRId64 "\n", label, value);
    }
}

static enum status print_checkpoint(const char *path, const struct checkpoint *checkpoint,
                                    struct error *err) {
    printf("%-8s ", "file");
    TRY(print_escaped(path, strlen(path), err));
    printf("\n%-8s %s\n", "format",
           checkpoint->plain ? "safetensors, not compressed" : "safetensors in zstd frames");
    printf("%-8s %" PRIu64 "\n", "bytes", checkpoint->file_bytes);
    printf("%-8s %s\n", "xxh3-128", checkpoint->plain ? "-" : checkpoint->digest);
    print_state(checkpoint, "step", "state.step");
    print_state(checkpoint, "epoch", "state.epoch");
    TRY(print_metadata(checkpoint, err));
    print_tensors(checkpoint);
    return STATUS_OK;
}

enum status cmd_inspect(const struct options *options, int *exit_code, struct error *err) {
    (void)exit_code;
    CHECK(options->file[0] != '\0', err, STATUS_USAGE, "inspect needs the FILE to look at");
    struct checkpoint *checkpoint;
    TRY(checkpoint_read_file(&file_posix, options->file, &checkpoint, err));
    enum status status = print_checkpoint(options->file, checkpoint, err);
    checkpoint_free(checkpoint);
    return status;
}
