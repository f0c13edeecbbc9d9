#include <stdlib.h>
#include <string.h>

#include "host/base/memory.h"
#include "library/library_device.h"

enum { ALIGNMENT = 64 };

/* Everything has happened when its call returns, so one event serves for all. */
struct backend_event {
    char unused;
};

static struct backend_event *the_event(struct backend *be) {
    return (struct backend_event *)(void *)be;
}

/* Written, not only reserved: a later copy into it takes no page fault. */
static enum status alloc(struct backend *be, size_t bytes, void **out, struct error *err) {
    (void)be;
    size_t rounded = (bytes + ALIGNMENT) / ALIGNMENT * ALIGNMENT;
    void *memory = aligned_alloc(ALIGNMENT, rounded);
    CHECK(memory != NULL, err, STATUS_MEMORY, "no memory for %zu bytes", bytes);
    memory_ask_large_pages(memory, rounded);
    memset(memory, 0, rounded);
    *out = memory;
    return STATUS_OK;
}

static void release(struct backend *be, void *memory) {
    (void)be;
    free(memory);
}

static enum status copy(struct backend *be, void *dst, const void *src, size_t bytes,
                        enum backend_stream stream, struct error *err) {
    (void)be, (void)stream, (void)err;
    memory_copy(dst, src, bytes);
    return STATUS_OK;
}

static enum status synchronize(struct backend *be, enum backend_stream stream, struct error *err) {
    (void)be, (void)stream, (void)err;
    return STATUS_OK;
}

static enum status wait_on_stream(struct backend *be, enum backend_stream stream,
                                  struct backend_event *event, struct error *err) {
    (void)be, (void)stream, (void)event, (void)err;
    return STATUS_OK;
}

static enum status event_create(struct backend *be, struct backend_event **out, struct error *err) {
    (void)err;
    *out = the_event(be);
    return STATUS_OK;
}

static void event_free(struct backend *be, struct backend_event *event) {
    (void)be, (void)event;
}

static enum status event_record(struct backend *be, struct backend_event *event,
                                enum backend_stream stream, struct error *err) {
    (void)be, (void)event, (void)stream, (void)err;
    return STATUS_OK;
}

static enum status event_wait(struct backend *be, struct backend_event *event, struct error *err) {
    (void)be, (void)event, (void)err;
    return STATUS_OK;
}

static void range_begin(struct backend *be, const char *name) {
    (void)be, (void)name;
}

static void range_end(struct backend *be) {
    (void)be;
}

static void free_backend(struct backend *be) {
    free(be);
}

static const struct backend_table host_table = {
    .device_alloc = alloc,
    .device_free = release,
    .host_alloc = alloc,
    .host_free = release,
    .copy = copy,
    .stream_synchronize = synchronize,
    .stream_wait_event = wait_on_stream,
    .event_create = event_create,
    .event_free = event_free,
    .event_record = event_record,
    .event_wait = event_wait,
    .range_begin = range_begin,
    .range_end = range_end,
    .free = free_backend,
};

enum status library_host_create(struct backend **out, struct error *err) {
    struct backend *be = calloc(1, sizeof *be);
    CHECK(be != NULL, err, STATUS_MEMORY, "no memory for the checkpoint library");
    be->table = &host_table;
    be->device = "host";
    be->kernel_path = "";
    be->unified_memory = true;
    *out = be;
    return STATUS_OK;
}
