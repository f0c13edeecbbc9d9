/* writer_targets.c - encode a snapshot and publish it under each of its names. */
#include "io/writer_targets.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { METADATA_ADDED = 3 }; /* created, host, pid */

/* ---- what a target holds ---- */

static bool has_prefix(const char *name, const char *prefix) {
    return strncmp(name, prefix, strlen(prefix)) == 0;
}

static bool is_training_only(const char *name) {
    return has_prefix(name, "adam.") || has_prefix(name, "best.") || has_prefix(name, "last.") ||
           has_prefix(name, "state.") || has_prefix(name, "history.");
}

static size_t select_tensors(struct writer_targets *targets, const struct snapshot_slot *slot,
                             bool weights_only) {
    size_t count = 0;
    for (size_t i = 0; i < slot->tensor_count; i++) {
        if (!weights_only || !is_training_only(slot->tensors[i].name)) {
            targets->tensors[count++] = slot->tensors[i];
        }
    }
    return count;
}

static uint64_t total_bytes(const struct tensor_view *tensors, size_t count) {
    uint64_t total = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t bytes = 0;
        if (tensor_bytes(&tensors[i], &bytes)) {
            total += bytes;
        }
    }
    return total;
}

static void add_metadata(struct metadata_pair *pairs, size_t *count, const char *key,
                         const char *value) {
    for (size_t i = 0; i < *count; i++) {
        if (strcmp(pairs[i].key, key) == 0) {
            return; /* the caller's value wins */
        }
    }
    pairs[*count] = (struct metadata_pair){.key = key, .value = value};
    (*count)++;
}

static void created_text(char *out, size_t capacity) {
    time_t now = time(NULL);
    struct tm utc;
    if (gmtime_r(&now, &utc) == NULL || strftime(out, capacity, "%Y-%m-%dT%H:%M:%SZ", &utc) == 0) {
        snprintf(out, capacity, "unknown");
    }
}

/* ---- one target ---- */

struct encode_job {
    size_t tensor_count; /* of targets->tensors */
    const struct metadata_pair *metadata;
    size_t metadata_count;
};

static enum status sink_to_publish(void *context, const void *bytes, size_t size,
                                   struct error *err) {
    return publish_write(context, bytes, size, err);
}

static enum status publish_tensors(struct writer_targets *targets, const char *path,
                                   const struct encode_job *job, struct save_result *result,
                                   struct error *err) {
    struct publish publish;
    TRY(publish_begin(targets->files, path, &publish, err));
    double compress_seconds = 0;
    enum status status = checkpoint_encode(targets->encoder, targets->tensors, job->tensor_count,
                                           job->metadata, job->metadata_count, sink_to_publish,
                                           &publish, &result->bytes, &compress_seconds, err);
    if (status == STATUS_OK) {
        status = publish_commit(&publish, err);
    } else {
        publish_abort(&publish);
    }
    result->is_renamed = publish.is_renamed;
    result->compress_seconds += compress_seconds;
    result->cpu_seconds += checkpoint_encoder_cpu_seconds(targets->encoder);
    result->write_seconds += publish.write_seconds;
    result->fsync_seconds += publish.fsync_seconds;
    result->rename_seconds += publish.rename_seconds;
    return status;
}

static bool is_gone(const struct writer_targets *targets, const char *path) {
    struct file_stat info;
    return targets->files->stat(targets->files->context, path, &info) == -ENOENT;
}

static enum status write_target(struct writer_targets *targets, const struct snapshot_slot *slot,
                                uint64_t step, const struct save_target *target,
                                struct encode_job job, struct save_result *result,
                                struct error *err) {
    memcpy(result->path, target->path, sizeof result->path);
    result->bytes = 0;
    result->is_renamed = false;
    job.tensor_count = select_tensors(targets, slot, target->weights_only);
    result->raw_bytes = total_bytes(targets->tensors, job.tensor_count);
    if (targets->store != NULL) {
        TRY(store_check_owned(targets->store, true, err));
    }
    TRY(publish_tensors(targets, target->path, &job, result, err));
    result->targets_published++;
    if (!target->ring) {
        return STATUS_OK;
    }
    double before = clock_monotonic_seconds();
    enum status status = store_committed(targets->store, step, err);
    result->retain_seconds += clock_monotonic_seconds() - before;
    if (status != STATUS_OK && is_gone(targets, target->path)) {
        result->targets_published--; /* somebody else deleted it at once */
        result->is_renamed = false;
    }
    return status;
}

enum status writer_targets_write(struct writer_targets *targets, const struct snapshot_slot *slot,
                                 uint64_t step, const struct save_target *list, size_t count,
                                 const struct metadata_pair *metadata, size_t metadata_count,
                                 struct save_result *result, struct error *err) {
    char created[40];
    created_text(created, sizeof created);
    struct metadata_pair pairs[WRITER_METADATA_MAX + METADATA_ADDED];
    struct encode_job job = {.metadata = pairs, .metadata_count = metadata_count};
    memcpy(pairs, metadata, metadata_count * sizeof pairs[0]);
    add_metadata(pairs, &job.metadata_count, "created", created);
    add_metadata(pairs, &job.metadata_count, "host", targets->host);
    add_metadata(pairs, &job.metadata_count, "pid", targets->pid);
    for (size_t i = 0; i < count; i++) {
        TRY(write_target(targets, slot, step, &list[i], job, result, err));
    }
    return STATUS_OK;
}

/* ---- init and deinit ---- */

enum status writer_targets_init(struct writer_targets *targets,
                                const struct writer_options *options, struct error *err) {
    targets->files = options->files;
    targets->store = options->store;
    targets->encoder = NULL;
    if (gethostname(targets->host, sizeof targets->host) != 0) {
        snprintf(targets->host, sizeof targets->host, "unknown");
    }
    targets->host[sizeof targets->host - 1] = '\0'; /* a name that was cut has none */
    snprintf(targets->pid, sizeof targets->pid, "%ld", (long)getpid());
    unsigned threads = options->compression_threads > 0 ? options->compression_threads : 1;
    return checkpoint_encoder_create(options->compression_level, threads, &targets->encoder, err);
}

void writer_targets_deinit(struct writer_targets *targets) {
    checkpoint_encoder_free(targets->encoder);
    targets->encoder = NULL;
}
