/* cairn_checkpoint.c - the handle: open, register, poll, wait, close. Saves, values and restores
 * are in files of their own. */
#include "include/cairn/checkpoint.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "host/base/text.h"
#include "library/handle.h"
#include "library/library_device.h"

/* ---- the edge: statuses and messages ---- */

static enum cairn_status public_status(enum status status) {
    static const enum cairn_status table[STATUS_COUNT] = {
        [STATUS_OK] = CAIRN_OK,
        [STATUS_INTERNAL] = CAIRN_ERROR_INTERNAL,
        [STATUS_MEMORY] = CAIRN_ERROR_MEMORY,
        [STATUS_USAGE] = CAIRN_ERROR_USAGE,
        [STATUS_DATA] = CAIRN_ERROR_CORRUPT,
        [STATUS_CORRUPT] = CAIRN_ERROR_CORRUPT,
        [STATUS_INPUT] = CAIRN_ERROR_INPUT,
        [STATUS_DEVICE] = CAIRN_ERROR_DEVICE,
        [STATUS_NONFINITE] = CAIRN_ERROR_NONFINITE,
        [STATUS_OUTPUT] = CAIRN_ERROR_OUTPUT,
        [STATUS_IO] = CAIRN_ERROR_IO,
        [STATUS_STOPPED] = CAIRN_ERROR_INTERNAL,
        [STATUS_MISFIT] = CAIRN_ERROR_MISFIT,
        [STATUS_CONFIG] = CAIRN_ERROR_USAGE,
    };
    _Static_assert(STATUS_COUNT == 14, "a status that is not in the table would be CAIRN_OK");
    return table[status];
}

static void fill_error(struct cairn_error *error, enum status status, const char *message) {
    error->status = public_status(status);
    size_t size = strlen(message);
    size_t copied = size < sizeof error->message ? size : sizeof error->message - 1;
    memcpy(error->message, message, copied);
    error->message[copied] = '\0';
}

enum cairn_status handle_report(enum status status, const struct error *err,
                                struct cairn_error *error) {
    if (error != NULL) {
        fill_error(error, status, status == STATUS_OK ? "" : err->message);
    }
    return public_status(status);
}

enum status handle_check(const struct cairn_checkpoint *handle, struct error *err) {
    CHECK(handle != NULL, err, STATUS_USAGE,
          "the handle is NULL: cairn_checkpoint_open failed or was not called");
    return STATUS_OK;
}

void handle_tell(const struct cairn_checkpoint *handle, enum status status, const char *message) {
    if (handle->options.on_error != NULL) {
        struct cairn_error error;
        fill_error(&error, status, message);
        handle->options.on_error(handle->options.context, &error);
    }
}

const char *cairn_checkpoint_status_text(enum cairn_status status) {
    switch (status) {
    case CAIRN_OK:
        return "ok";
    case CAIRN_ERROR_INTERNAL:
        return "internal error";
    case CAIRN_ERROR_MEMORY:
        return "out of memory";
    case CAIRN_ERROR_USAGE:
        return "wrong usage";
    case CAIRN_ERROR_INPUT:
        return "input missing";
    case CAIRN_ERROR_CORRUPT:
        return "corrupt checkpoint";
    case CAIRN_ERROR_MISFIT:
        return "the checkpoint does not fit the registered tensors";
    case CAIRN_ERROR_NONFINITE:
        return "non-finite value";
    case CAIRN_ERROR_OUTPUT:
        return "the directory may not be used";
    case CAIRN_ERROR_IO:
        return "input/output error";
    case CAIRN_ERROR_DEVICE:
        return "no such device or device failure";
    }
    return "unknown status";
}

unsigned cairn_checkpoint_version(void) {
    return CAIRN_CHECKPOINT_VERSION;
}

bool cairn_checkpoint_has_cuda(void) {
    return library_cuda_built();
}

/* ---- open and close ---- */

/* Options without what was added since version 0.1.0. */
#define OPTIONS_BYTES_MIN offsetof(struct cairn_checkpoint_options, compression_threads)

static enum status check_options(const struct cairn_checkpoint_options *options,
                                 struct error *err) {
    CHECK(options->compression_level >= -7 && options->compression_level <= 19, err, STATUS_USAGE,
          "compression level %d: a level from -7 to 19 is needed", options->compression_level);
    CHECK(options->compression_threads <= 64, err, STATUS_USAGE,
          "%" PRIu32 " compression threads: at most 64 are possible", options->compression_threads);
    CHECK(options->keep_every_seconds >= 0.0, err, STATUS_USAGE,
          "keep_every_seconds %g: 0 or more is needed", options->keep_every_seconds);
    CHECK((unsigned)options->busy <= CAIRN_CHECKPOINT_WAIT &&
              (unsigned)options->on_failure <= CAIRN_CHECKPOINT_STOP,
          err, STATUS_USAGE, "options.busy or options.on_failure is none of its enum's values");
    return STATUS_OK;
}

/* The caller's options, of which a program built with an older header has only the first fields. */
static enum status take_options(const struct cairn_checkpoint_options *options,
                                struct cairn_checkpoint_options *out, struct error *err) {
    static const struct cairn_checkpoint_options defaults = CAIRN_CHECKPOINT_OPTIONS_INIT;
    *out = defaults;
    if (options != NULL) {
        CHECK(options->size >= OPTIONS_BYTES_MIN && options->size <= sizeof *options, err,
              STATUS_USAGE,
              "options.size is %zu, %zu to %zu are expected: begin with "
              "CAIRN_CHECKPOINT_OPTIONS_INIT, and use a library that is not older than the header",
              options->size, OPTIONS_BYTES_MIN, sizeof *options);
        memcpy(out, options, options->size);
        out->size = sizeof *out;
    }
    return check_options(out, err);
}

static enum status open_store(struct cairn_checkpoint *handle, struct error *err) {
    struct store_options options = {.keep_max = handle->options.keep_max,
                                    .keep_every_n_seconds = handle->options.keep_every_seconds};
    struct error warning = {STATUS_OK, ""};
    TRY(store_open(handle->files, handle->directory, &options, &handle->store, &warning, err));
    if (warning.status != STATUS_OK) {
        handle_tell(handle, STATUS_OK, warning.message);
    }
    return STATUS_OK;
}

static enum status init_handle(struct cairn_checkpoint *handle, const char *directory,
                               struct error *err) {
    handle->cuda_device = HANDLE_NO_DEVICE;
    handle->directory = strdup(directory);
    handle->sources = calloc(SNAPSHOT_TENSORS_MAX, sizeof *handle->sources);
    CHECK(handle->directory != NULL && handle->sources != NULL, err, STATUS_MEMORY,
          "no memory for a checkpoint handle");
    return handle->options.read_only ? STATUS_OK : open_store(handle, err);
}

static void free_handle(struct cairn_checkpoint *handle) {
    writer_free(handle->writer);
    if (handle->be != NULL) {
        handle->be->table->free(handle->be);
    }
    store_close(handle->store);
    values_free(&handle->strings);
    values_free(&handle->bytes);
    free(handle->sources);
    free(handle->directory);
    free(handle);
}

enum status handle_open(const struct file_table *files, const char *directory,
                        const struct cairn_checkpoint_options *options,
                        struct cairn_checkpoint **out, struct error *err) {
    struct cairn_checkpoint_options taken;
    CHECK(out != NULL, err, STATUS_USAGE, "cairn_checkpoint_open needs `out`");
    *out = NULL;
    CHECK(directory != NULL && directory[0] != '\0', err, STATUS_USAGE,
          "cairn_checkpoint_open needs the path of a directory");
    TRY(take_options(options, &taken, err));
    struct cairn_checkpoint *handle = calloc(1, sizeof *handle);
    CHECK(handle != NULL, err, STATUS_MEMORY, "no memory for a checkpoint handle");
    handle->files = files;
    handle->options = taken;
    enum status status = init_handle(handle, directory, err);
    if (status != STATUS_OK) {
        free_handle(handle);
        return status;
    }
    *out = handle;
    return STATUS_OK;
}

enum cairn_status cairn_checkpoint_open(const char *directory,
                                        const struct cairn_checkpoint_options *options,
                                        struct cairn_checkpoint **out, struct cairn_error *error) {
    struct error err = {STATUS_OK, ""};
    return handle_report(handle_open(&file_posix, directory, options, out, &err), &err, error);
}

/* ---- tensors ---- */

_Static_assert(CHECKPOINT_CONTENT_BYTES_MAX == (uint64_t)64 << 30, "what header and messages say");

enum status handle_check_name(const char *what, const char *name, size_t bytes_max,
                              struct error *err) {
    size_t size = name == NULL ? 0 : strlen(name);
    bool good = size > 0 && size <= bytes_max;
    for (size_t i = 0; i < size && good; i++) {
        good = name[i] > ' ' && name[i] <= '~';
    }
    char shown[160];
    CHECK(good, err, STATUS_USAGE,
          "%s '%s': 1 to %zu printable ASCII characters without spaces are needed", what,
          text_escape(size == 0 ? "" : name, size, shown, sizeof shown), bytes_max);
    return STATUS_OK;
}

static enum status dtype_of(enum cairn_dtype dtype, enum dtype *out, struct error *err) {
    static const enum dtype table[] = {
        [CAIRN_F32] = DTYPE_F32, [CAIRN_F64] = DTYPE_F64, [CAIRN_I64] = DTYPE_I64,
        [CAIRN_U8] = DTYPE_U8,   [CAIRN_F16] = DTYPE_F16, [CAIRN_BF16] = DTYPE_BF16,
        [CAIRN_I32] = DTYPE_I32,
    };
    CHECK((size_t)dtype < sizeof table / sizeof table[0], err, STATUS_USAGE,
          "dtype %d is none of enum cairn_dtype", (int)dtype);
    *out = table[dtype];
    return STATUS_OK;
}

static enum status make_view(const struct cairn_tensor *tensor, struct tensor_view *out,
                             uint64_t *bytes, struct error *err) {
    enum dtype dtype = DTYPE_U8;
    TRY(handle_check_name("tensor", tensor->name, CAIRN_NAME_BYTES_MAX, err));
    TRY(dtype_of(tensor->dtype, &dtype, err));
    CHECK(tensor->rank <= CAIRN_RANK_MAX, err, STATUS_USAGE,
          "tensor '%s' has rank %u, 0 to %d are possible", tensor->name, tensor->rank,
          CAIRN_RANK_MAX);
    *out = tensor_make(tensor->name, dtype, tensor->data, tensor->rank, tensor->shape);
    CHECK(tensor_bytes(out, bytes), err, STATUS_USAGE,
          "the shape of tensor '%s' overflows, or has a dimension above 2^63 - 1", tensor->name);
    CHECK(*bytes <= CHECKPOINT_CONTENT_BYTES_MAX, err, STATUS_USAGE,
          "tensor '%s' is larger than the 64 GiB that a checkpoint may be", tensor->name);
    CHECK(*bytes == 0 || tensor->data != NULL, err, STATUS_USAGE, "tensor '%s' has no data",
          tensor->name);
    return STATUS_OK;
}

static enum status check_place(struct cairn_checkpoint *handle, const struct cairn_tensor *tensor,
                               struct error *err) {
    CHECK(tensor->memory == CAIRN_HOST || tensor->memory == CAIRN_CUDA, err, STATUS_USAGE,
          "tensor '%s': memory is neither CAIRN_HOST nor CAIRN_CUDA", tensor->name);
    if (tensor->memory == CAIRN_HOST || tensor->data == NULL) {
        return STATUS_OK;
    }
    int device = HANDLE_NO_DEVICE;
    enum status status = library_cuda_device_of(tensor->data, &device, err);
    if (status != STATUS_OK) {
        return error_prefix(err, status, "tensor '%s'", tensor->name);
    }
    CHECK(handle->cuda_device == HANDLE_NO_DEVICE || handle->cuda_device == device, err,
          STATUS_DEVICE, "tensor '%s' lies on CUDA device %d, others on %d: one handle, one device",
          tensor->name, device, handle->cuda_device);
    handle->cuda_device = device;
    return STATUS_OK;
}

uint64_t handle_bytes(const struct cairn_checkpoint *handle) {
    return handle->tensor_bytes_total + values_bytes(&handle->bytes);
}

bool handle_is_registered(const struct cairn_checkpoint *handle, const char *name) {
    for (size_t i = 0; i < handle->tensor_count; i++) {
        if (strcmp(handle->sources[i].view.name, name) == 0) {
            return true;
        }
    }
    return false;
}

static enum status add(struct cairn_checkpoint *handle, const struct cairn_tensor *tensor,
                       bool steady, struct error *err) {
    struct tensor_view view;
    uint64_t bytes = 0;
    TRY(handle_check(handle, err));
    CHECK(tensor != NULL, err, STATUS_USAGE, "a tensor is needed, not NULL");
    CHECK(handle->be == NULL, err, STATUS_USAGE,
          "tensors are registered before the first cairn_checkpoint_restore_latest");
    TRY(make_view(tensor, &view, &bytes, err));
    CHECK(strncmp(view.name, HANDLE_BYTES_PREFIX, strlen(HANDLE_BYTES_PREFIX)) != 0, err,
          STATUS_USAGE,
          "tensor '%s': names that begin with " HANDLE_BYTES_PREFIX " are those of "
          "cairn_checkpoint_set_bytes",
          view.name);
    CHECK(strcmp(view.name, "__metadata__") != 0, err, STATUS_USAGE,
          "tensor '%s': that name is the file format's own", view.name);
    CHECK(!handle_is_registered(handle, view.name), err, STATUS_USAGE,
          "tensor '%s' is registered already", view.name);
    CHECK(handle->tensor_count < CAIRN_TENSORS_MAX, err, STATUS_USAGE,
          "tensor '%s' would be number %zu, %d are possible", view.name, handle->tensor_count + 1,
          CAIRN_TENSORS_MAX);
    CHECK(handle_bytes(handle) + bytes <= CHECKPOINT_CONTENT_BYTES_MAX, err, STATUS_USAGE,
          "with tensor '%s' all of them are together larger than the 64 GiB that a checkpoint may "
          "be",
          view.name);
    TRY(check_place(handle, tensor, err));
    handle->tensor_bytes_total += bytes;
    struct snapshot_source *source = &handle->sources[handle->tensor_count++];
    source->view = view;
    source->kind = tensor->memory == CAIRN_CUDA ? SNAPSHOT_DEVICE : SNAPSHOT_HOST;
    source->steady = steady;
    return STATUS_OK;
}

enum cairn_status cairn_checkpoint_add(struct cairn_checkpoint *handle,
                                       const struct cairn_tensor *tensor,
                                       struct cairn_error *error) {
    struct error err = {STATUS_OK, ""};
    return handle_report(add(handle, tensor, false, &err), &err, error);
}

enum cairn_status cairn_checkpoint_add_steady(struct cairn_checkpoint *handle,
                                              const struct cairn_tensor *tensor,
                                              struct cairn_error *error) {
    struct error err = {STATUS_OK, ""};
    return handle_report(add(handle, tensor, true, &err), &err, error);
}

/* ---- what became of saves ---- */

static void add_event(struct cairn_checkpoint *handle, const struct save_result *result,
                      const char *message) {
    if (handle->event_count == HANDLE_EVENTS_MAX) {
        handle->event_first = (handle->event_first + 1) % HANDLE_EVENTS_MAX;
        handle->event_count--;
    }
    size_t index = (handle->event_first + handle->event_count++) % HANDLE_EVENTS_MAX;
    struct cairn_checkpoint_event *event = &handle->events[index];
    fill_error(&event->error, result->status, message);
    event->step = result->step;
    event->dropped = result->dropped;
    event->bytes = result->bytes;
    event->raw_bytes = result->raw_bytes;
    event->stall_seconds = result->stall_seconds;
    event->durable_seconds = result->durable_seconds;
    event->put_off_bytes = result->put_off_bytes;
}

/* How far the save came is in the message, for the event as for the callback. */
static void note_failure(struct cairn_checkpoint *handle, const struct save_result *result) {
    const char *what = result->targets_published > 0
                           ? "is durable, but the state file or the deletion of old checkpoints "
                             "failed"
                       : result->is_renamed ? "is there, but not known to be durable"
                                            : "was not saved";
    error_set(&handle->failure, result->status, "the checkpoint of step %llu %s: %s",
              (unsigned long long)result->step, what, result->message);
}

void handle_collect(struct cairn_checkpoint *handle) {
    struct save_result result;
    while (handle->writer != NULL && writer_poll(handle->writer, &result)) {
        if (!result.dropped) {
            handle->newest = result.status;
        }
        if (result.status == STATUS_OK) {
            add_event(handle, &result, "");
        } else {
            note_failure(handle, &result);
            add_event(handle, &result, handle->failure.message);
            handle_tell(handle, result.status, handle->failure.message);
        }
    }
}

const struct cairn_checkpoint_event *cairn_checkpoint_poll(struct cairn_checkpoint *handle) {
    if (handle == NULL) {
        return NULL;
    }
    handle_collect(handle);
    if (handle->event_count == 0) {
        return NULL;
    }
    handle->polled = handle->events[handle->event_first];
    handle->event_first = (handle->event_first + 1) % HANDLE_EVENTS_MAX;
    handle->event_count--;
    return &handle->polled;
}

static enum status wait_for_all(struct cairn_checkpoint *handle, struct error *err) {
    TRY(handle_check(handle, err));
    if (handle->writer != NULL) {
        writer_drain(handle->writer);
        handle_collect(handle);
    }
    return handle->newest == STATUS_OK
               ? STATUS_OK
               : error_set(err, handle->newest, "%s", handle->failure.message);
}

enum cairn_status cairn_checkpoint_wait(struct cairn_checkpoint *handle,
                                        struct cairn_error *error) {
    struct error err = {STATUS_OK, ""};
    return handle_report(wait_for_all(handle, &err), &err, error);
}

enum cairn_status cairn_checkpoint_close(struct cairn_checkpoint *handle,
                                         struct cairn_error *error) {
    struct error err = {STATUS_OK, ""};
    enum status status = STATUS_OK;
    if (handle != NULL) {
        status = wait_for_all(handle, &err);
        free_handle(handle);
    }
    return handle_report(status, &err, error);
}

const struct cairn_checkpoint_totals *cairn_checkpoint_get_totals(struct cairn_checkpoint *handle) {
    static const struct cairn_checkpoint_totals none;
    if (handle == NULL) {
        return &none;
    }
    struct cairn_checkpoint_totals *totals = &handle->totals;
    if (handle->writer != NULL) {
        struct writer_totals from = writer_get_totals(handle->writer);
        totals->requested = from.requested;
        totals->saved = from.saved;
        totals->skipped = from.skipped;
        totals->failed = from.failed;
        totals->delayed = from.delayed;
        totals->stall_seconds_total = from.stall_seconds_total;
        totals->stall_seconds_max = from.stall_seconds_max;
        totals->stall_seconds_p50 = from.stall_seconds_p50;
        totals->stall_seconds_p99 = from.stall_seconds_p99;
    }
    return totals;
}
