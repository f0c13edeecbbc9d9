/* corpus.h - a data set as token ids in memory: what training and evaluation walk over.
 *
 * All ids of a part lie in one array (16 bits each while V <= 65,536, else 32), examples in base
 * order, offsets beside it. Texts are not kept. The fingerprint is a pure function of the texts and
 * labels in base order, the same for a folder and for an archive of it.
 *
 * Usage:
 *     struct corpus_request request = {
 *         .files = &file_posix, .path = "demo", .vocabulary_limit = 1000};
 *     TRY(corpus_load_training(&request, &corpora, err));
 *     corpora.train, corpora.validation, corpora.vocabulary ...
 *     corpora_free(&corpora);
 *
 * THREADS: loading on the main thread (polls stop_signal: STATUS_STOPPED), while dataset_read's own
 * thread reads ahead; read-only afterwards.
 */
#ifndef CAIRN_HOST_CORPUS_H
#define CAIRN_HOST_CORPUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/base/status.h"
#include "host/base/text.h"
#include "host/tokenizer.h"
#include "io/dataset.h"

#ifdef __cplusplus
extern "C" {
#endif

struct corpus {
    void *tokens;         /* [token_count] ids */
    uint32_t token_bytes; /* 2 or 4 */
    uint64_t token_count;
    uint64_t *first; /* [examples + 1] index of each example's first token */
    uint8_t *labels; /* [examples] */
    uint64_t examples;
    uint32_t longest;     /* tokens of the longest example */
    uint64_t fingerprint; /* of texts and labels in base order */
    uint64_t text_bytes;
    uint64_t unknown_tokens; /* how many ids are VOCABULARY_UNKNOWN_ID */
};

struct corpus_request {
    const struct file_table *files;
    const char *path;
    const char *validation_path; /* "" = test part of path where there is one, "none" = none, else a
                                    path (its test part where it has one, else all of it) */
    double validation_split;     /* > 0: the last part of the training data instead */
    const struct vocabulary
        *vocabulary; /* given (borrowed), or NULL: learn from the training part */
    uint64_t vocabulary_limit;
    uint64_t max_length; /* tokens, 0 = no cut */
    bool strip_html;
};

struct corpora {
    struct corpus train, validation; /* validation.examples is 0 when there is none */
    struct vocabulary *vocabulary;   /* learned; NULL when one was given */
    char label_names[2][DATASET_LABEL_CAPACITY];
    struct text notes; /* lines about entries that were not used */
};

/* Training and validation data. STATUS_USAGE when validation_split leaves a side without examples,
 * STATUS_DATA when it leaves the training side with one class. On failure *out is empty. */
MUST_USE enum status corpus_load_training(const struct corpus_request *request, struct corpora *out,
                                          struct error *err);

/* The test part of `path` where it has one, else all of it, with a given vocabulary; label_names
 * may be NULL. The caller calls corpus_free. */
MUST_USE enum status corpus_load_evaluation(const struct corpus_request *request,
                                            struct corpus *out,
                                            char label_names[2][DATASET_LABEL_CAPACITY],
                                            struct text *notes, struct error *err);

/* Learn a vocabulary from the training part only (the `vocabulary` command). */
MUST_USE enum status corpus_learn_vocabulary(const struct corpus_request *request,
                                             struct vocabulary **out, struct text *notes,
                                             struct error *err);

void corpus_free(struct corpus *corpus);
void corpora_free(struct corpora *corpora);

#ifdef __cplusplus
}
#endif
#endif
