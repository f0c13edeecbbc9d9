/* cairn_checkpoint_save.c - a save: a snapshot of tensors and values, handed to the writer. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "library/handle.h"

#define LIBRARY_TEXT_2(major, minor, patch) "cairn-checkpoint " #major "." #minor "." #patch
#define LIBRARY_TEXT_1(major, minor, patch) LIBRARY_TEXT_2(major, minor, patch)
#define LIBRARY_TEXT                                                                               \
    LIBRARY_TEXT_1(CAIRN_CHECKPOINT_VERSION_MAJOR, CAIRN_CHECKPOINT_VERSION_MINOR,                 \
                   CAIRN_CHECKPOINT_VERSION_PATCH)

enum { METADATA_OF_OURS = 2 }; /* step, library; the writer adds created, host, pid */

_Static_assert((int)CAIRN_STRINGS_MAX + (int)METADATA_OF_OURS <= (int)WRITER_METADATA_MAX,
               "all strings fit into a save");

static enum status check(const struct cairn_checkpoint *handle, uint64_t step, unsigned flags,
                         struct error *err) {
    CHECK(!handle->options.read_only, err, STATUS_USAGE, "the handle is read-only");
    CHECK(handle->may_save, err, STATUS_USAGE,
          "cairn_checkpoint_restore_latest has to succeed before the first save");
    CHECK((flags & ~(unsigned)CAIRN_CHECKPOINT_MUST) == 0, err, STATUS_USAGE, "unknown flags %#x",
          flags);
    CHECK(!handle->has_step || step >= handle->step, err, STATUS_USAGE,
          "step %" PRIu64 " is lower than the last one, %" PRIu64
          ": it would never be the newest checkpoint",
          step, handle->step);
    if (handle->options.on_failure == CAIRN_CHECKPOINT_STOP) {
        CHECK(handle->failure.status == STATUS_OK, err, handle->failure.status, "%s",
              handle->failure.message);
    }
    return STATUS_OK;
}

/* Tensors, then the values that are bytes. */
static size_t list_sources(struct cairn_checkpoint *handle) {
    size_t count = handle->tensor_count;
    for (size_t i = 0; i < handle->bytes.count; i++) {
        const struct value *value = &handle->bytes.items[i];
        struct snapshot_source *source = &handle->sources[count++];
        char name[TENSOR_NAME_CAPACITY];
        uint64_t size = value->size;
        snprintf(name, sizeof name, HANDLE_BYTES_PREFIX "%s", value->key);
        source->view = tensor_make(name, DTYPE_U8, value->bytes, 1, &size);
        source->kind = SNAPSHOT_HOST;
        source->steady = false;
    }
    return count;
}

/* The request is too much for a quick zeroing: only what is used is written. */
static enum status make_request(struct cairn_checkpoint *handle, uint64_t step, unsigned flags,
                                const char *step_text, struct save_request *request,
                                struct error *err) {
    request->step = step;
    request->must = (flags & CAIRN_CHECKPOINT_MUST) != 0;
    request->after_id = 0;
    request->target_count = 1;
    request->targets[0].ring = true;
    request->targets[0].weights_only = false;
    char name[64];
    store_checkpoint_name(step, name);
    CHECK(file_join_path(request->targets[0].path, FILE_PATH_CAPACITY, handle->directory, name),
          err, STATUS_OUTPUT, "the path of %s is too long", name);
    request->metadata[0] = (struct metadata_pair){"step", step_text};
    request->metadata[1] = (struct metadata_pair){"library", LIBRARY_TEXT};
    request->metadata_count = METADATA_OF_OURS;
    for (size_t i = 0; i < handle->strings.count; i++) {
        const struct value *value = &handle->strings.items[i];
        request->metadata[request->metadata_count++] =
            (struct metadata_pair){value->key, value->bytes};
    }
    return STATUS_OK;
}

static enum status save(struct cairn_checkpoint *handle, uint64_t step, unsigned flags,
                        enum cairn_checkpoint_outcome *outcome, struct error *err) {
    TRY(handle_check(handle, err));
    handle_collect(handle);
    TRY(check(handle, step, flags, err));
    struct save_request request;
    char step_text[24];
    snprintf(step_text, sizeof step_text, "%" PRIu64, step);
    TRY(make_request(handle, step, flags, step_text, &request, err));
    enum save_outcome internal;
    TRY(writer_save(handle->writer, handle->sources, list_sources(handle), &request, &internal,
                    err));
    handle->step = step;
    handle->has_step = true;
    if (outcome != NULL) {
        *outcome = internal == SAVE_ACCEPTED ? CAIRN_CHECKPOINT_ACCEPTED : CAIRN_CHECKPOINT_SKIPPED;
    }
    return STATUS_OK;
}

enum cairn_status cairn_checkpoint_save(struct cairn_checkpoint *handle, uint64_t step,
                                        unsigned flags, enum cairn_checkpoint_outcome *outcome,
                                        struct cairn_error *error) {
    struct error err = {STATUS_OK, ""};
    return handle_report(save(handle, step, flags, outcome, &err), &err, error);
}

void cairn_checkpoint_settle(struct cairn_checkpoint *handle) {
    if (handle != NULL && handle->writer != NULL) {
        writer_settle(handle->writer);
    }
}
