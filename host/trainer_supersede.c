#include <inttypes.h>

#include "host/trainer_internal.h"

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
    if (setup->supersede_best != NULL) {
        TRY(store_supersede_best(setup->store, err));
        progress_warning(setup->progress, "%s", setup->supersede_best);
    }
    return setup->supersede ? supersede_newer(trainer, err) : STATUS_OK;
}
