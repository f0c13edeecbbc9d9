/* cairn_checkpoint_restore.c - find the newest checkpoint that verifies, check that it fits, load
 * it.
 *
 * In this order: everything that can fail without harm (reading, fitting, allocating) comes before
 * the first byte of a registered tensor is written. */
#include <inttypes.h>
#include <string.h>

#include "host/base/text.h"
#include "library/handle.h"
#include "library/library_device.h"

/* What a checkpoint brings, ready to be taken over. */
struct arrival {
    struct checkpoint *checkpoint; /* NULL: there is none */
    const char *name;              /* its file name, for messages */
    uint64_t step;
    struct values strings, bytes;
};

/* ---- does it fit? ---- */

static bool same_shape(const struct tensor_view *a, const struct tensor_view *b) {
    return a->dtype == b->dtype && a->rank == b->rank &&
           memcmp(a->shape, b->shape, a->rank * sizeof a->shape[0]) == 0;
}

static enum status check_registered(const struct cairn_checkpoint *handle,
                                    const struct arrival *arrival, struct error *err) {
    const struct checkpoint *checkpoint = arrival->checkpoint;
    for (size_t i = 0; i < handle->tensor_count; i++) {
        const struct tensor_view *want = &handle->sources[i].view;
        const struct tensor_view *have =
            tensor_find(checkpoint->tensors, checkpoint->tensor_count, want->name);
        CHECK(have != NULL, err, STATUS_MISFIT, "%s has no tensor '%s', which is registered",
              arrival->name, want->name);
        char wanted[96], had[96];
        CHECK(same_shape(want, have), err, STATUS_MISFIT,
              "tensor '%s' is %s %s in %s, and registered as %s %s", want->name,
              dtype_name(have->dtype), tensor_shape_text(have, had, sizeof had), arrival->name,
              dtype_name(want->dtype), tensor_shape_text(want, wanted, sizeof wanted));
    }
    return STATUS_OK;
}

static bool is_bytes_value(const struct tensor_view *tensor) {
    return strncmp(tensor->name, HANDLE_BYTES_PREFIX, strlen(HANDLE_BYTES_PREFIX)) == 0 &&
           tensor->dtype == DTYPE_U8 && tensor->rank == 1;
}

/* The next save would not have it: what one forgot to register must not be lost silently. */
static enum status check_unregistered(const struct cairn_checkpoint *handle,
                                      const struct arrival *arrival, struct error *err) {
    const struct checkpoint *checkpoint = arrival->checkpoint;
    for (size_t i = 0; i < checkpoint->tensor_count; i++) {
        const struct tensor_view *tensor = &checkpoint->tensors[i];
        CHECK(handle->options.read_only || is_bytes_value(tensor) ||
                  handle_is_registered(handle, tensor->name),
              err, STATUS_MISFIT, "%s has a tensor '%s', which is not registered", arrival->name,
              tensor->name);
    }
    return STATUS_OK;
}

/* ---- values ---- */

static enum status take_strings(struct arrival *arrival, struct error *err) {
    const struct checkpoint *checkpoint = arrival->checkpoint;
    for (size_t i = 0; i < checkpoint->metadata_count; i++) {
        const struct metadata_pair *pair = &checkpoint->metadata[i];
        if (!handle_is_own_key(pair->key)) {
            TRY(values_set(&arrival->strings, CAIRN_STRINGS_MAX, pair->key, pair->value,
                           strlen(pair->value), err));
        }
    }
    return STATUS_OK;
}

static enum status take_bytes(struct arrival *arrival, struct error *err) {
    const struct checkpoint *checkpoint = arrival->checkpoint;
    for (size_t i = 0; i < checkpoint->tensor_count; i++) {
        const struct tensor_view *tensor = &checkpoint->tensors[i];
        if (is_bytes_value(tensor)) {
            TRY(values_set(&arrival->bytes, CAIRN_BYTES_MAX,
                           tensor->name + strlen(HANDLE_BYTES_PREFIX), tensor->data,
                           (size_t)tensor->shape[0], err));
        }
    }
    return STATUS_OK;
}

/* Too many of them can only be in a file of another program. */
static enum status take_values(struct arrival *arrival, struct error *err) {
    enum status status = take_strings(arrival, err);
    if (status == STATUS_OK) {
        status = take_bytes(arrival, err);
    }
    return status == STATUS_USAGE ? error_prefix(err, STATUS_MISFIT, "%s", arrival->name) : status;
}

/* ---- memory for saves ---- */

enum { VALUES_SPARE = 64 * 1024 }; /* by so much values can grow before a save allocates */

/* `values`: the bytes that the first save will have. */
static size_t host_bytes(const struct cairn_checkpoint *handle, const struct values *values) {
    size_t total = VALUES_SPARE;
    for (size_t i = 0; i < handle->tensor_count; i++) {
        uint64_t bytes = 0;
        if (handle->sources[i].kind == SNAPSHOT_HOST &&
            tensor_bytes(&handle->sources[i].view, &bytes)) {
            total += (size_t)bytes + sizeof(double); /* each begins at a multiple of it */
        }
    }
    return total + values_bytes(values) + values->count * sizeof(double);
}

static enum status create_writer(struct cairn_checkpoint *handle, const struct values *values,
                                 struct error *err) {
    static const enum writer_busy busy[] = {[CAIRN_CHECKPOINT_SKIP] = WRITER_BUSY_SKIP,
                                            [CAIRN_CHECKPOINT_LATEST] = WRITER_BUSY_LATEST,
                                            [CAIRN_CHECKPOINT_WAIT] = WRITER_BUSY_WAIT};
    struct writer_options options = {.files = handle->files,
                                     .store = handle->store,
                                     .compression_level = handle->options.compression_level,
                                     .compression_threads = handle->options.compression_threads,
                                     .busy = busy[handle->options.busy],
                                     .host_capacity = host_bytes(handle, values)};
    size_t gathered = snapshot_gathered_bytes(handle->sources, handle->tensor_count);
    return writer_create(&options, handle->be, NULL, gathered, &handle->writer, err);
}

static enum status start(struct cairn_checkpoint *handle, const struct values *values,
                         struct error *err) {
    if (handle->be != NULL) {
        return STATUS_OK;
    }
    TRY(handle->cuda_device == HANDLE_NO_DEVICE
            ? library_host_create(&handle->be, err)
            : library_cuda_create(handle->cuda_device, handle->options.cuda_stream, &handle->be,
                                  err));
    if (handle->options.read_only) {
        return STATUS_OK;
    }
    enum status status = create_writer(handle, values, err);
    if (status != STATUS_OK) { /* the list of tensors stays open, so that it can be tried again */
        handle->be->table->free(handle->be);
        handle->be = NULL;
    }
    return status;
}

/* ---- loading ---- */

static enum status copy_tensors(struct cairn_checkpoint *handle,
                                const struct checkpoint *checkpoint, struct error *err) {
    struct backend *be = handle->be;
    for (size_t i = 0; i < handle->tensor_count; i++) {
        const struct snapshot_source *source = &handle->sources[i];
        const struct tensor_view *have =
            tensor_find(checkpoint->tensors, checkpoint->tensor_count, source->view.name);
        uint64_t bytes = 0;
        if (!tensor_bytes(have, &bytes) || bytes == 0) {
            continue;
        }
        if (source->kind == SNAPSHOT_HOST) {
            memcpy(source->view.data, have->data, (size_t)bytes);
        } else {
            TRY(be->table->copy(be, source->view.data, have->data, (size_t)bytes,
                                BACKEND_STREAM_COMPUTE, err));
        }
    }
    return be->table->stream_synchronize(be, BACKEND_STREAM_COMPUTE, err);
}

static void take_over(struct cairn_checkpoint *handle, struct arrival *arrival) {
    values_free(&handle->strings);
    values_free(&handle->bytes);
    handle->strings = arrival->strings;
    handle->bytes = arrival->bytes;
    arrival->strings.count = arrival->bytes.count = 0;
    handle->step = arrival->step;
    handle->has_step = true;
    if (handle->store != NULL) {
        store_protect(handle->store, arrival->step);
    }
}

static enum status load(struct cairn_checkpoint *handle, struct arrival *arrival,
                        struct error *err) {
    TRY(check_registered(handle, arrival, err));
    TRY(check_unregistered(handle, arrival, err));
    TRY(take_values(arrival, err));
    TRY(start(handle, &arrival->bytes, err));
    TRY(copy_tensors(handle, arrival->checkpoint, err));
    take_over(handle, arrival);
    return STATUS_OK;
}

static void tell_damage(void *context, const char *path, const char *reason) {
    struct error told = {STATUS_OK, ""};
    error_set(&told, STATUS_CORRUPT, "%s is damaged and was passed over: %s", path, reason);
    handle_tell(context, told.status, told.message);
}

/* Open made the directory and locked it: without it "no checkpoint" would be no fresh start but
 * everything lost. */
static enum status check_directory(const struct cairn_checkpoint *handle, struct error *err) {
    return handle->store == NULL ? STATUS_OK : store_check_owned(handle->store, false, err);
}

static enum status restore(struct cairn_checkpoint *handle, bool *found, uint64_t *step,
                           struct error *err) {
    struct arrival arrival = {0};
    char path[FILE_PATH_CAPACITY], directory[FILE_PATH_CAPACITY];
    TRY(handle_check(handle, err));
    CHECK(found != NULL, err, STATUS_USAGE,
          "cairn_checkpoint_restore_latest needs `found`: a fresh start has to be told apart");
    *found = false;
    if (handle->writer != NULL) {
        writer_drain(handle->writer);
        handle_collect(handle);
    }
    handle->may_save = false;
    TRY(check_directory(handle, err));
    TRY(store_load_newest(handle->files, handle->directory, tell_damage, handle,
                          &arrival.checkpoint, path, err));
    enum status status = STATUS_OK;
    if (arrival.checkpoint == NULL) {
        status = start(handle, &handle->bytes, err);
    } else {
        arrival.name = file_split_path(path, directory, sizeof directory);
        status = store_parse_name(arrival.name, &arrival.step)
                     ? load(handle, &arrival, err)
                     : error_set(err, STATUS_INTERNAL, "%s is no checkpoint's name", arrival.name);
    }
    *found = status == STATUS_OK && arrival.checkpoint != NULL;
    handle->may_save = status == STATUS_OK;
    handle->has_step = handle->has_step && *found; /* a fresh start may save any step */
    if (handle->may_save) { /* what failed before was given up with the state that it was of */
        handle->failure = (struct error){STATUS_OK, ""};
        handle->newest = STATUS_OK;
    }
    if (*found && step != NULL) {
        *step = arrival.step;
    }
    values_free(&arrival.strings);
    values_free(&arrival.bytes);
    checkpoint_free(arrival.checkpoint);
    return status;
}

enum cairn_status cairn_checkpoint_restore_latest(struct cairn_checkpoint *handle, bool *found,
                                                  uint64_t *step, struct cairn_error *error) {
    struct error err = {STATUS_OK, ""};
    return handle_report(restore(handle, found, step, &err), &err, error);
}
