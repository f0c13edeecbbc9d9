/* Writing event files: names, buffer, scalars. */
#include "io/event_file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/event_internal.h"
#include "io/event_record.h"

struct event_file {
    const struct file_table *files;
    int fd;
    uint64_t bytes;              /* whole records in the file */
    struct text buffer;          /* framed records on their way there */
    struct event_buffer message; /* reused */
    char path[FILE_PATH_CAPACITY];
};

/* ---- the buffer ---- */

static void buffer_append(ProtobufCBuffer *base, size_t size, const uint8_t *bytes) {
    text_append(&((struct event_buffer *)base)->text, bytes, size);
}

void event_buffer_init(struct event_buffer *buffer) {
    *buffer = (struct event_buffer){.base.append = buffer_append};
}

void event_file_fail(struct event_file *file) {
    file->buffer.failed = true;
}

void event_file_add(struct event_file *file, Tb__Event *event) {
    event->wall_time = clock_wall_seconds();
    struct text *message = &file->message.text;
    text_clear(message);
    tb__event__pack_to_buffer(event, &file->message.base);
    if (message->failed) {
        event_file_fail(file);
    }
    event_record_append(&file->buffer, message->bytes, message->size);
}

bool event_file_is_dirty(const struct event_file *file) {
    return file->buffer.size > 0 || file->buffer.failed;
}

enum status event_file_flush(struct event_file *file, struct error *err) {
    CHECK(!file->buffer.failed, err, STATUS_MEMORY, "out of memory for %s", file->path);
    if (file->buffer.size == 0) {
        return STATUS_OK;
    }
    const struct file_table *files = file->files;
    enum status status =
        file_write_all(files, file->fd, file->path, file->buffer.bytes, file->buffer.size, err);
    if (status != STATUS_OK) {
        /* Best effort: a torn record is where readers stop, and the next start cuts it. */
        files->truncate(files->context, file->fd, file->bytes);
        return status;
    }
    file->bytes += file->buffer.size;
    text_clear(&file->buffer);
    return STATUS_OK;
}

/* ---- opening ---- */

/* The newest `<seconds>` of the names so far: a file of the same second, or one written before the
 * clock was set back, must sort before the new one. */
static int note_newest(void *user, const char *name) {
    uint64_t *newest = user;
    size_t prefix = strlen(EVENT_NAME_PREFIX);
    if (strncmp(name, EVENT_NAME_PREFIX, prefix) == 0) {
        uint64_t seconds = strtoull(name + prefix, NULL, 10);
        if (seconds > *newest && seconds < 9999999999u) {
            *newest = seconds;
        }
    }
    return 0;
}

static void make_name(uint64_t newest, char *out, size_t capacity) {
    char host[64] = "";
    if (gethostname(host, sizeof host - 1) != 0 || host[0] == '\0') {
        snprintf(host, sizeof host, "unknown");
    }
    for (char *at = host; *at != '\0'; at++) {
        bool plain = (*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z') ||
                     (*at >= '0' && *at <= '9') || *at == '-' || *at == '.';
        *at = plain ? *at : '_';
    }
    double now = clock_wall_seconds();
    uint64_t seconds = now > 0.0 ? (uint64_t)now : 0;
    seconds = seconds > newest ? seconds : newest + 1;
    snprintf(out, capacity, EVENT_NAME_PREFIX "%010llu.%s.%ld.0", (unsigned long long)seconds, host,
             (long)getpid());
}

static enum status create(struct event_file *file, const char *directory, struct error *err) {
    const struct file_table *files = file->files;
    char name[160], reason[256];
    uint64_t newest = 0;
    if (file_make_directories(files, directory, err) != STATUS_OK) {
        return STATUS_IO;
    }
    int result = files->list(files->context, directory, note_newest, &newest);
    CHECK(result >= 0, err, STATUS_IO, "cannot list %s: %s", directory,
          file_errno_text(result, reason, sizeof reason));
    make_name(newest, name, sizeof name);
    CHECK(file_join_path(file->path, sizeof file->path, directory, name), err, STATUS_IO,
          "the path of %s is too long", name);
    file->fd = files->open(files->context, file->path,
                           O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
    CHECK(file->fd >= 0, err, STATUS_IO, "cannot create %s: %s", file->path,
          file_errno_text(file->fd, reason, sizeof reason));
    return STATUS_OK;
}

enum status event_file_open(const struct file_table *files, const char *directory,
                            struct event_file **out, struct error *err) {
    *out = NULL;
    struct event_file *file = calloc(1, sizeof *file);
    CHECK(file != NULL, err, STATUS_MEMORY, "out of memory for event files");
    file->files = files;
    file->fd = -1;
    event_buffer_init(&file->message);
    enum status status = create(file, directory, err);
    if (status != STATUS_OK) {
        event_file_close(file);
        return status;
    }
    Tb__SourceMetadata source = TB__SOURCE_METADATA__INIT;
    Tb__Event event = TB__EVENT__INIT;
    source.writer = EVENT_WRITER;
    event.what_case = TB__EVENT__WHAT_FILE_VERSION;
    event.file_version = "brain.Event:2";
    event.source_metadata = &source;
    event_file_add(file, &event);
    *out = file;
    return STATUS_OK;
}

void event_file_close(struct event_file *file) {
    if (file == NULL) {
        return;
    }
    if (file->fd >= 0) {
        file->files->close(file->files->context, file->fd);
    }
    text_free(&file->buffer);
    text_free(&file->message.text);
    free(file);
}

/* ---- markers and scalars ---- */

void event_file_add_start(struct event_file *file, uint64_t step) {
    Tb__SessionLog log = TB__SESSION_LOG__INIT;
    Tb__Event event = TB__EVENT__INIT;
    log.status = TB__SESSION_LOG__STATUS__START;
    event.what_case = TB__EVENT__WHAT_SESSION_LOG;
    event.session_log = &log;
    event.step = (int64_t)step;
    event_file_add(file, &event);
}

void event_file_add_scalars(struct event_file *file, uint64_t step,
                            const struct event_scalar *scalars, size_t count) {
    Tb__Summary__Value values[EVENT_SCALARS_MAX], *pointers[EVENT_SCALARS_MAX];
    assert(count > 0 && count <= EVENT_SCALARS_MAX);
    for (size_t i = 0; i < count; i++) {
        tb__summary__value__init(&values[i]);
        values[i].tag = (char *)(uintptr_t)scalars[i].tag;
        values[i].value_case = TB__SUMMARY__VALUE__VALUE_SIMPLE_VALUE;
        values[i].simple_value = (float)scalars[i].value;
        pointers[i] = &values[i];
    }
    Tb__Summary summary = TB__SUMMARY__INIT;
    Tb__Event event = TB__EVENT__INIT;
    summary.n_value = count;
    summary.value = pointers;
    event.what_case = TB__EVENT__WHAT_SUMMARY;
    event.summary = &summary;
    event.step = (int64_t)step;
    event_file_add(file, &event);
}
