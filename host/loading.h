/* loading.h - from a checkpoint on disk to something that can be asked: vocabulary, text rules,
 * weights.
 *
 * What evaluate, predict, tokenize and export share. Sizes, vocabulary and text rules come from the
 * checkpoint; options only say which one. Nothing here takes a lock or writes.
 *
 * Usage:
 *     struct loaded loaded = {0};
 *     TRY(loading_open(options, &loaded, err));              finds, reads and verifies
 *     TRY(loading_create_model(&loaded, be, &limits, &model, err));
 *     loading_close(&loaded);
 *
 * THREADS: main thread.
 */
#ifndef CAIRN_HOST_LOADING_H
#define CAIRN_HOST_LOADING_H

#include <stdbool.h>
#include <stdint.h>

#include "host/base/status.h"
#include "host/model.h"
#include "host/options.h"
#include "host/tokenizer.h"
#include "io/checkpoint.h"
#include "io/dataset.h"
#include "io/model_names.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How texts become ids, and what the answer is called. */
struct text_rules {
    bool strip_html;
    uint64_t max_length;
    char label_names[2][DATASET_LABEL_CAPACITY];
};

struct loaded {
    struct checkpoint *checkpoint; /* NULL: untrained (--allow-untrained) */
    char path[FILE_PATH_CAPACITY]; /* of the checkpoint; "" when untrained */
    uint64_t step;                 /* meaningful if has_step */
    bool has_step;
    struct vocabulary *vocabulary;
    struct text_rules rules;
    struct model_shape shape;
    uint64_t seed; /* of the initial weights when untrained */
};

/* The checkpoint that --model-dir and --checkpoint name, with its vocabulary and rules. Damaged
 * newer ones are named on stderr. Without one: STATUS_INPUT saying where was looked, unless
 * --allow-untrained gives initial weights (vocabulary from --vocabulary, or learned from --data).
 */
MUST_USE enum status loading_open(const struct options *options, struct loaded *out,
                                  struct error *err);

/* Text rules and label names of a checkpoint; where it has none: nothing is stripped or cut, "neg"
 * and "pos". */
void loading_read_rules(const struct checkpoint *checkpoint, struct text_rules *rules);

/* Vocabulary and text rules of a checkpoint. `vocabulary_file` is used when the checkpoint holds
 * none
 * ("" = then it is an error). */
MUST_USE enum status loading_read_text(const struct checkpoint *checkpoint, const char *path,
                                       const char *vocabulary_file, struct vocabulary **vocabulary,
                                       struct text_rules *rules, struct error *err);

/* The sizes that a checkpoint's tensors have. STATUS_MISFIT naming a missing or misshapen tensor.
 */
MUST_USE enum status loading_shape(const struct checkpoint *checkpoint, const char *path,
                                   struct model_shape *out, struct error *err);

/* Do the weights (with `moments` Adam's m and v too) have the shapes that sizes `want` ask for?
 * STATUS_MISFIT naming the first tensor that does not, both shapes, the options that differ and the
 * two ways out: the old value, or `way_out` ("choose another --model-dir for the new model"). */
MUST_USE enum status loading_check_fit(const struct checkpoint *checkpoint, const char *path,
                                       const struct model_shape *want, bool moments,
                                       const char *way_out, struct error *err);

/* Is the vocabulary in `file` the checkpoint's own? "" and a checkpoint without one are fine.
 * STATUS_MISFIT. */
MUST_USE enum status loading_check_vocabulary(const struct checkpoint *checkpoint, const char *path,
                                              const char *file, struct error *err);

/* Copy tensors `prefix` + name into a part of the model (weights, m, v, best). The caller has made
 * sure of the shapes (resume.h, loading_shape); still checked:
 * STATUS_MISFIT. STATUS_NONFINITE for a value that no training state has. */
MUST_USE enum status loading_upload(struct model *model, float *part, const char *prefix,
                                    const struct checkpoint *checkpoint, struct error *err);

/* A forward-only model with the loaded (or initial) weights. The caller calls model_free. */
MUST_USE enum status loading_create_model(const struct loaded *loaded, struct backend *be,
                                          const struct batch_limits *limits, struct model **out,
                                          struct error *err);

/* The backend that --device, --threads, --isa, --lstm, --cuda-graph and --precision ask for, for a
 * model of hidden size `hidden`. STATUS_DEVICE for what this build or machine lacks. The caller calls
 * be->table->free. */
MUST_USE enum status loading_create_backend(const struct options *options, uint64_t hidden,
                                            struct backend **out, struct error *err);

/* Does the file `path` lie directly in `directory`, whatever way either is written? */
bool loading_lies_in(const char *path, const char *directory);

/* A store_damage_callback: names the checkpoint that is passed over on stderr. */
void loading_name_damage(void *context, const char *path, const char *reason);

void loading_close(struct loaded *loaded);

#ifdef __cplusplus
}
#endif
#endif
