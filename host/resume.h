/* resume.h - from where does a run go on, and may it?
 *
 * Resume is the default: the newest checkpoint of the model directory that verifies. What a
 * checkpoint fixes is compared with what is asked for before anything is loaded into the model:
 * sizes and vocabulary must fit (STATUS_MISFIT), what decides order, text or data must be the same
 * (STATUS_CONFIG, unless --allow-change), the rest may differ.
 *
 * Usage (cmd_train.c):
 *     TRY(resume_find(options, store, &resume, err));          which checkpoint, if any
 *     TRY(resume_check_options(&resume, options, err));        before data are read
 *     TRY(resume_check_data(&resume, options, &corpora, err)); once they are
 *     resume_close(&resume);
 *
 * THREADS: main thread. Warnings go to stderr.
 */
#ifndef CAIRN_HOST_RESUME_H
#define CAIRN_HOST_RESUME_H

#include <stdbool.h>

#include "host/base/status.h"
#include "host/corpus.h"
#include "host/options.h"
#include "host/run_state.h"
#include "io/checkpoint.h"
#include "io/store.h"

#ifdef __cplusplus
extern "C" {
#endif

struct resume {
    struct checkpoint *checkpoint; /* NULL: a fresh run */
    char path[FILE_PATH_CAPACITY];
    bool in_ring;         /* path is a checkpoint of the store's ring */
    bool monitor_changed; /* --monitor or --mode differ: remembered best values are another metric's
                           */
    bool supersede; /* --resume named a file of this directory: newer ones are to be moved away */
    bool changed;   /* options, kernels or data: what came after it is not computed again */
    bool best_is_there, best_has_step; /* a file of the best model; its step can be read */
    uint64_t best_step;
    bool best_of_other_monitor; /* says the file itself */
    const char *supersede_best; /* what to say once the best model was moved away; NULL: it stays */
    bool best_unusable;         /* missing, damaged, another one or moved away */
    char best_text[320];        /* private */
    struct run_state state;     /* read from it */
};

/* Follow --resume: auto, never (STATUS_OUTPUT when the directory has checkpoints) or FILE (of this
 * directory: newer ones are superseded, by the trainer once it can start; from elsewhere: counts
 * only while the directory has none). Damaged checkpoints are named on stderr. STATUS_CORRUPT when
 * there are some and none verifies. */
MUST_USE enum status resume_find(const struct options *options, struct store *store,
                                 struct resume *out, struct error *err);

/* Compare options with those in the checkpoint, and its tensors with the model that they ask for. A
 * --vocabulary file must hold the checkpoint's own vocabulary. Sets monitor_changed. A best model
 * that cannot be used is named on stderr. Does nothing for a fresh run. */
MUST_USE enum status resume_check_options(struct resume *resume, const struct options *options,
                                          const char *kernel_path, struct error *err);

/* Compare the data's fingerprints. Whether the best model stays where it is is known then:
 * supersede_best. */
MUST_USE enum status resume_check_data(struct resume *resume, const struct options *options,
                                       const struct corpora *corpora, struct error *err);

/* Is there nothing left to do? Then `text` says why, with both numbers. */
bool resume_already_there(const struct resume *resume, const struct options *options, char *text,
                          size_t capacity);

void resume_close(struct resume *resume);

#ifdef __cplusplus
}
#endif
#endif
