#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/trainer_internal.h"

/* ---- what the first save replaces ------------------------------------------------------------ */

static bool has_same_tensors(const struct checkpoint *one, const struct checkpoint *other) {
    if (one->tensor_count != other->tensor_count) {
        return false;
    }
    for (size_t i = 0; i < one->tensor_count; i++) {
        const struct tensor_view *a = &one->tensors[i];
        const struct tensor_view *b = tensor_find(other->tensors, other->tensor_count, a->name);
        if (b == NULL || a->dtype != b->dtype || a->rank != b->rank ||
            memcmp(a->shape, b->shape, sizeof a->shape) != 0) {
            return false;
        }
        uint64_t bytes = tensor_known_bytes(a);
        if (bytes > 0 && memcmp(a->data, b->data, (size_t)bytes) != 0) {
            return false;
        }
    }
    return true;
}

/* A copy, not a move: the directory is never without the checkpoint. */
static enum status copy_aside(const struct trainer *trainer, const char *path, const char *name,
                              struct error *err) {
    const struct file_table *files = trainer->setup.files;
    char copy[FILE_PATH_CAPACITY];
    uint8_t *bytes;
    size_t size;
    TRY(file_read_all(files, path, CHECKPOINT_FILE_BYTES_MAX, &bytes, &size, err));
    enum status status = store_aside_path(trainer->setup.store, name, copy, err);
    status = status == STATUS_OK ? file_publish(files, copy, bytes, size, err) : status;
    free(bytes);
    return status;
}

/* Has the ring a checkpoint of that step? A link that leads nowhere just now says where one is. */
static enum status has_step(const struct trainer_setup *setup, uint64_t step, bool *has,
                            struct error *err) {
    struct store_list list = {0};
    bool is_broken_link = false;
    *has = false;
    TRY(store_scan(setup->files, store_directory(setup->store), &list, err));
    for (size_t i = 0; i < list.count; i++) {
        if (list.entries[i].step == step) {
            *has = true;
            is_broken_link = list.entries[i].is_broken_link;
        }
    }
    store_list_free(&list);
    CHECK(!is_broken_link, err, STATUS_INPUT,
          "going back to %s would replace the checkpoint of step %" PRIu64 ", which is a link to a "
          "file that is not there (a disk that is not mounted?): bring it back, or move the link "
          "away",
          setup->resumed_path, step);
    return STATUS_OK;
}

enum status trainer_keep_replaced(struct trainer *trainer, struct error *err) {
    const struct trainer_setup *setup = &trainer->setup;
    const uint64_t step = (uint64_t)trainer->state.step;
    char name[64], path[FILE_PATH_CAPACITY];
    bool has;
    if (!setup->supersede || setup->resumed_in_ring) {
        return STATUS_OK;
    }
    TRY(has_step(setup, step, &has, err));
    store_checkpoint_name(step, name);
    if (!has || !file_join_path(path, sizeof path, store_directory(setup->store), name)) {
        return STATUS_OK;
    }
    struct checkpoint *there = NULL;
    bool same = checkpoint_read_file(setup->files, path, &there, NULL) == STATUS_OK &&
                has_same_tensors(there, setup->resumed);
    checkpoint_free(there);
    if (same) {
        return STATUS_OK;
    }
    TRY(copy_aside(trainer, path, name, err));
    progress_message(setup->progress,
                     "%s is not the same as %s: it was copied into " STORE_SUPERSEDED_DIRECTORY
                     "/ and is replaced",
                     name, setup->resumed_path);
    return STATUS_OK;
}

/* ---- what is moved --------------------------------------------------------------------------- */

/* Newer checkpoints of the ring, where --resume went back. */
static enum status supersede_newer(struct trainer *trainer, struct error *err) {
    struct store *store = trainer->setup.store;
    uint64_t step = (uint64_t)trainer->state.step;
    struct store_list list = {0};
    TRY(store_scan(trainer->setup.files, store_directory(store), &list, err));
    bool some = list.count > 0 && list.entries[list.count - 1].step > step;
    store_list_free(&list);
    TRY(store_supersede_newer(store, step, err));
    if (some) {
        progress_message(trainer->setup.progress,
                         "Went back to step %" PRIu64
                         ": the newer checkpoints were moved into " STORE_SUPERSEDED_DIRECTORY "/",
                         step);
    }
    return STATUS_OK;
}

enum status trainer_supersede(struct trainer *trainer, bool durable, struct error *err) {
    const struct trainer_setup *setup = &trainer->setup;
    if (!setup->supersede && setup->supersede_best == NULL) {
        return STATUS_OK;
    }
    CHECK(durable, err, STATUS_IO,
          "going %s %s needs a save, which failed: checkpoints and logs are as they were",
          setup->supersede ? "back to" : "on from", setup->resumed_path);
    /* The newer ones first: this can be refused, and then the best model is still theirs. */
    if (setup->supersede) {
        TRY(supersede_newer(trainer, err));
    }
    if (setup->supersede_best != NULL) {
        TRY(store_supersede_best(setup->store, err));
        progress_warning(setup->progress, "%s", setup->supersede_best);
    }
    return STATUS_OK;
}
