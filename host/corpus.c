/* corpus.c - one pass over a data set: each text is tokenised as it arrives and only ids are kept.
 *
 * While the vocabulary is being learned, ids are provisional (order of first sight, 32 bits); once
 * it is known they are mapped to final ids, cut, put into base order and packed. With a given
 * vocabulary they are final at once. */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "host/corpus.h"

#include <stdlib.h>
#include <string.h>

/* ---- what one pass leaves: examples in the order in which they were pushed ---- */

struct raw_example {
    uint64_t first; /* of its ids in `ids` */
    uint64_t hash;  /* of text and label */
    uint32_t text_bytes;
    uint8_t label;
};

struct raw {
    uint32_t *ids;
    uint64_t id_count, id_capacity;
    struct raw_example *examples; /* [count + 1]: the last one only ends the one before */
    uint64_t count, capacity;
    uint32_t *order; /* [count] base order; NULL: identity */
};

/* Context of the callback. Exactly one of builder and vocabulary is set. */
struct intake {
    struct tokenizer tokenizer;
    struct vocabulary_builder *builder;
    bool count; /* do all tokens count for the vocabulary? */
    const struct vocabulary *vocabulary;
    uint64_t max_length; /* applied at once where the vocabulary is known */
    struct raw *raw;     /* NULL: only learn */
};

static void raw_free(struct raw *raw) {
    free(raw->ids);
    free(raw->examples);
    free(raw->order);
    *raw = (struct raw){0};
}

/* Room for one more element behind `count`, and one to spare. */
static bool reserve(void **array, uint64_t count, uint64_t *capacity, size_t element_bytes) {
    if (count + 1 < *capacity) {
        return true;
    }
    uint64_t wanted = *capacity == 0 ? 4096 : *capacity * 2;
    void *grown = realloc(*array, wanted * element_bytes);
    if (grown == NULL) {
        return false;
    }
    *array = grown;
    *capacity = wanted;
    return true;
}

static enum status no_memory(struct error *err) {
    return error_set(err, STATUS_MEMORY,
                     "no memory for the data (token ids take 4 bytes each while "
                     "they are read)");
}

static bool raw_append_id(struct raw *raw, uint32_t id) {
    void *ids = raw->ids;
    bool fits = reserve(&ids, raw->id_count, &raw->id_capacity, sizeof *raw->ids);
    raw->ids = ids;
    if (fits) {
        raw->ids[raw->id_count++] = id;
    }
    return fits;
}

/* End the example whose ids were appended from `first` on. */
static bool raw_end_example(struct raw *raw, uint64_t first, const char *text, size_t size,
                            unsigned label) {
    void *examples = raw->examples;
    bool fits = reserve(&examples, raw->count, &raw->capacity, sizeof *raw->examples);
    raw->examples = examples;
    if (fits) {
        raw->examples[raw->count++] =
            (struct raw_example){.first = first,
                                 .hash = XXH3_64bits_withSeed(text, size, label),
                                 .text_bytes = (uint32_t)size,
                                 .label = (uint8_t)label};
        raw->examples[raw->count].first = raw->id_count;
    }
    return fits;
}

static enum status take_learning(struct intake *intake, struct error *err) {
    struct token token;
    while (tokenizer_next(&intake->tokenizer, &token)) {
        uint32_t id =
            vocabulary_builder_add(intake->builder, token.bytes, token.size, intake->count);
        if (id == UINT32_MAX || (intake->raw != NULL && !raw_append_id(intake->raw, id))) {
            return no_memory(err);
        }
    }
    return STATUS_OK;
}

static enum status take_known(struct intake *intake, struct error *err) {
    struct token token;
    uint64_t left = intake->max_length == 0 ? UINT64_MAX : intake->max_length;
    while (left-- > 0 && tokenizer_next(&intake->tokenizer, &token)) {
        uint32_t id = vocabulary_lookup(intake->vocabulary, token.bytes, token.size);
        if (!raw_append_id(intake->raw, id)) {
            return no_memory(err);
        }
    }
    return STATUS_OK;
}

static enum status take_example(void *context, const char *text, size_t size, unsigned label,
                                struct error *err) {
    struct intake *intake = context;
    uint64_t first = intake->raw != NULL ? intake->raw->id_count : 0;
    TRY(tokenizer_start(&intake->tokenizer, text, size, err));
    TRY(intake->builder != NULL ? take_learning(intake, err) : take_known(intake, err));
    if (intake->raw != NULL && !raw_end_example(intake->raw, first, text, size, label)) {
        return no_memory(err);
    }
    return STATUS_OK;
}

static enum status copy_order(struct raw *raw, const struct dataset *dataset, struct error *err) {
    const uint32_t *order;
    uint64_t count = dataset_base_order(dataset, &order);
    if (order == NULL) {
        return STATUS_OK;
    }
    raw->order = malloc((count + 1) * sizeof *raw->order);
    if (raw->order == NULL) {
        return no_memory(err);
    }
    memcpy(raw->order, order, count * sizeof *order);
    return STATUS_OK;
}

/* Read a part into `raw`. */
static enum status read_part(struct dataset *dataset, enum dataset_part part, struct intake *intake,
                             struct raw *raw, struct error *err) {
    intake->raw = raw;
    TRY(dataset_read(dataset, part, take_example, intake, err));
    return copy_order(raw, dataset, err);
}

/* ---- from raw examples to a corpus ---- */

static const struct raw_example *example_at(const struct raw *raw, uint64_t index) {
    return &raw->examples[raw->order != NULL ? raw->order[index] : index];
}

/* Tokens of the example that are kept. */
static uint64_t kept_tokens(const struct raw_example *example, uint64_t max_length) {
    uint64_t tokens = example[1].first - example[0].first;
    return max_length != 0 && tokens > max_length ? max_length : tokens;
}

/* Sizes, labels, offsets and fingerprint of the examples [from, to) in base order. */
static enum status describe_examples(const struct raw *raw, uint64_t from, uint64_t to,
                                     uint64_t max_length, struct corpus *out, struct error *err) {
    uint64_t count = to - from;
    uint64_t *hashes = malloc((count + 1) * sizeof *hashes);
    out->first = malloc((count + 1) * sizeof *out->first);
    out->labels = malloc(count + 1);
    if (hashes == NULL || out->first == NULL || out->labels == NULL) {
        free(hashes);
        return no_memory(err);
    }
    for (uint64_t i = 0; i < count; i++) {
        const struct raw_example *example = example_at(raw, from + i);
        uint64_t tokens = kept_tokens(example, max_length);
        out->first[i] = out->token_count;
        out->labels[i] = example->label;
        out->token_count += tokens;
        out->longest = tokens > out->longest ? (uint32_t)tokens : out->longest;
        out->text_bytes += example->text_bytes;
        hashes[i] = example->hash;
    }
    out->first[count] = out->token_count;
    out->examples = count;
    out->fingerprint = XXH3_64bits(hashes, count * sizeof *hashes);
    free(hashes);
    return STATUS_OK;
}

/* Ids of one example, mapped and packed, to the place `at` of the corpus. */
static void pack_ids(const uint32_t *ids, uint64_t count, const uint32_t *remap,
                     struct corpus *corpus, uint64_t at) {
    for (uint64_t i = 0; i < count; i++) {
        uint32_t id = remap != NULL ? remap[ids[i]] : ids[i];
        corpus->unknown_tokens += id == VOCABULARY_UNKNOWN_ID;
        if (corpus->token_bytes == 2) {
            ((uint16_t *)corpus->tokens)[at + i] = (uint16_t)id;
        } else {
            ((uint32_t *)corpus->tokens)[at + i] = id;
        }
    }
}

/* The examples [from, to) in base order. `remap` leads from provisional to final ids; NULL: they
 * are final. On failure *out is empty. */
static enum status assemble(const struct raw *raw, uint64_t from, uint64_t to,
                            const struct corpus_request *request,
                            const struct vocabulary *vocabulary, const uint32_t *remap,
                            struct corpus *out, struct error *err) {
    *out = (struct corpus){.token_bytes = vocabulary_size(vocabulary) <= 1 << 16 ? 2 : 4};
    enum status status = describe_examples(raw, from, to, request->max_length, out, err);
    if (status == STATUS_OK) {
        out->tokens = malloc((out->token_count + 1) * out->token_bytes);
        status = out->tokens != NULL ? STATUS_OK : no_memory(err);
    }
    if (status != STATUS_OK) {
        corpus_free(out);
        return status;
    }
    for (uint64_t i = 0; i < out->examples; i++) {
        const struct raw_example *example = example_at(raw, from + i);
        pack_ids(raw->ids + example->first, out->first[i + 1] - out->first[i], remap, out,
                 out->first[i]);
    }
    return STATUS_OK;
}

void corpus_free(struct corpus *corpus) {
    free(corpus->tokens);
    free(corpus->first);
    free(corpus->labels);
    *corpus = (struct corpus){0};
}

void corpora_free(struct corpora *corpora) {
    corpus_free(&corpora->train);
    corpus_free(&corpora->validation);
    vocabulary_free(corpora->vocabulary);
    corpora->vocabulary = NULL;
    text_free(&corpora->notes);
}

/* ---- shared by the three entries ---- */

static enum status add_note(const struct dataset *dataset, struct text *notes, struct error *err) {
    const char *note = dataset_note(dataset);
    if (note != NULL && notes != NULL) {
        text_printf(notes, "%s\n", note);
        CHECK(!notes->failed, err, STATUS_MEMORY, "no memory for notes about the data");
    }
    return STATUS_OK;
}

static void copy_label_names(const struct dataset *dataset,
                             char label_names[2][DATASET_LABEL_CAPACITY]) {
    for (unsigned label = 0; label < 2; label++) {
        strncpy(label_names[label], dataset_label_name(dataset, label), DATASET_LABEL_CAPACITY - 1);
        label_names[label][DATASET_LABEL_CAPACITY - 1] = '\0';
    }
}

/* ---- training and validation ---- */

/* How many of `count` examples train, the rest validating (Keras: the last part of the data). */
static enum status split_at(uint64_t count, double validation_split, uint64_t *out,
                            struct error *err) {
    *out = count;
    if (validation_split > 0) {
        *out = (uint64_t)((double)count * (1 - validation_split));
        CHECK(*out > 0 && *out < count, err, STATUS_USAGE,
              "--validation-split %g of %llu examples leaves %llu for training and %llu for "
              "validation: expected at least one on each side",
              validation_split, (unsigned long long)count, (unsigned long long)*out,
              (unsigned long long)(count - *out));
    }
    return STATUS_OK;
}

/* Bit 0 and 1: is there an example of class 0 and 1 in [from, to)? */
static unsigned classes_in(const struct raw *raw, uint64_t from, uint64_t to) {
    unsigned classes = 0;
    for (uint64_t i = from; i < to; i++) {
        classes |= 1u << example_at(raw, i)->label;
    }
    return classes;
}

/* A file sorted by label makes --validation-split useless: training on one class is an error,
 * validating on one is told. */
static enum status check_split(const struct raw *raw, uint64_t at, const char *path,
                               struct text *notes, struct error *err) {
    CHECK(classes_in(raw, 0, at) == 3, err, STATUS_DATA,
          "%s: --validation-split leaves only one class in the training part: expected both (is "
          "the file "
          "sorted by label? shuffle its lines)",
          path);
    if (at < raw->count && classes_in(raw, at, raw->count) != 3) {
        text_printf(notes,
                    "%s: all %llu validation examples are of one class: is the file sorted by "
                    "label?\n",
                    path, (unsigned long long)(raw->count - at));
    }
    return STATUS_OK;
}

/* Count the tokens of the first `examples` in base order, and end the learning. */
static enum status learn(struct intake *intake, const struct raw *raw, uint64_t examples,
                         uint64_t limit, struct vocabulary **out, uint32_t **remap,
                         struct error *err) {
    if (!intake->count) {
        for (uint64_t i = 0; i < examples; i++) {
            const struct raw_example *example = example_at(raw, i);
            for (uint64_t at = example[0].first; at < example[1].first; at++) {
                vocabulary_builder_count(intake->builder, raw->ids[at]);
            }
        }
    }
    return vocabulary_builder_finish(intake->builder, limit, out, remap, err);
}

/* Read the training part, learn the vocabulary where none is given, assemble `out->train` and, with
 * a split, `out->validation`. */
static enum status load_train(const struct corpus_request *request, struct dataset *dataset,
                              struct intake *intake, struct raw *raw, struct corpora *out,
                              struct error *err) {
    TRY(read_part(dataset, DATASET_TRAIN, intake, raw, err));
    copy_label_names(dataset, out->label_names);
    uint64_t at;
    TRY(split_at(raw->count, request->validation_split, &at, err));
    TRY(check_split(raw, at, request->path, &out->notes, err));
    uint32_t *remap = NULL;
    if (request->vocabulary == NULL) {
        TRY(learn(intake, raw, at, request->vocabulary_limit, &out->vocabulary, &remap, err));
    }
    const struct vocabulary *vocabulary =
        request->vocabulary != NULL ? request->vocabulary : out->vocabulary;
    enum status status = assemble(raw, 0, at, request, vocabulary, remap, &out->train, err);
    if (status == STATUS_OK && at < raw->count) {
        status = assemble(raw, at, raw->count, request, vocabulary, remap, &out->validation, err);
    }
    free(remap);
    return status;
}

/* The test part of a data set where it has one, else all of it. */
static enum status load_test(const struct corpus_request *request, struct dataset *dataset,
                             const struct vocabulary *vocabulary, struct corpus *out,
                             struct error *err) {
    struct raw raw = {0};
    struct intake intake = {.vocabulary = vocabulary, .max_length = request->max_length};
    tokenizer_init(&intake.tokenizer, request->strip_html);
    enum dataset_part part = dataset_has_test(dataset) ? DATASET_TEST : DATASET_TRAIN;
    enum status status = read_part(dataset, part, &intake, &raw, err);
    if (status == STATUS_OK) {
        status = assemble(&raw, 0, raw.count, request, vocabulary, NULL, out, err);
    }
    tokenizer_deinit(&intake.tokenizer);
    raw_free(&raw);
    return status;
}

/* Validation data that are not a split of the training data. */
static enum status load_validation(const struct corpus_request *request, struct dataset *dataset,
                                   struct corpora *out, struct error *err) {
    const char *path = request->validation_path != NULL ? request->validation_path : "";
    const struct vocabulary *vocabulary =
        request->vocabulary != NULL ? request->vocabulary : out->vocabulary;
    if (strcmp(path, "none") == 0 || (path[0] == '\0' && !dataset_has_test(dataset))) {
        return STATUS_OK;
    }
    if (path[0] == '\0') {
        return load_test(request, dataset, vocabulary, &out->validation, err);
    }
    struct dataset *other;
    TRY(dataset_open(request->files, path, &other, err));
    enum status status = load_test(request, other, vocabulary, &out->validation, err);
    if (status == STATUS_OK) {
        status = add_note(other, &out->notes, err);
    }
    dataset_close(other);
    return status;
}

static enum status load_both(const struct corpus_request *request, struct dataset *dataset,
                             struct corpora *out, struct error *err) {
    struct raw raw = {0};
    struct intake intake = {.vocabulary = request->vocabulary,
                            .max_length = request->max_length,
                            .count = request->validation_split <= 0};
    tokenizer_init(&intake.tokenizer, request->strip_html);
    enum status status = STATUS_OK;
    if (request->vocabulary == NULL) {
        status = vocabulary_builder_create(&intake.builder, err);
    }
    if (status == STATUS_OK) {
        status = load_train(request, dataset, &intake, &raw, out, err);
    }
    tokenizer_deinit(&intake.tokenizer);
    vocabulary_builder_free(intake.builder);
    raw_free(&raw);
    TRY(status);
    if (request->validation_split <= 0) {
        TRY(load_validation(request, dataset, out, err));
    }
    return add_note(dataset, &out->notes, err);
}

enum status corpus_load_training(const struct corpus_request *request, struct corpora *out,
                                 struct error *err) {
    *out = (struct corpora){0};
    struct dataset *dataset;
    TRY(dataset_open(request->files, request->path, &dataset, err));
    enum status status = load_both(request, dataset, out, err);
    dataset_close(dataset);
    if (status != STATUS_OK) {
        corpora_free(out);
    }
    return status;
}

/* ---- evaluation and vocabulary ---- */

enum status corpus_load_evaluation(const struct corpus_request *request, struct corpus *out,
                                   char label_names[2][DATASET_LABEL_CAPACITY], struct text *notes,
                                   struct error *err) {
    *out = (struct corpus){0};
    struct dataset *dataset;
    TRY(dataset_open(request->files, request->path, &dataset, err));
    enum status status = load_test(request, dataset, request->vocabulary, out, err);
    if (status == STATUS_OK && label_names != NULL) {
        copy_label_names(dataset, label_names);
    }
    if (status == STATUS_OK) {
        status = add_note(dataset, notes, err);
    }
    dataset_close(dataset);
    if (status != STATUS_OK) {
        corpus_free(out);
    }
    return status;
}

/* Texts need not be remembered unless a split, known only at the end, says which of them count. */
static enum status learn_part(const struct corpus_request *request, struct dataset *dataset,
                              struct intake *intake, struct raw *raw, struct vocabulary **out,
                              struct error *err) {
    if (intake->count) {
        TRY(dataset_read(dataset, DATASET_TRAIN, take_example, intake, err));
        return vocabulary_builder_finish(intake->builder, request->vocabulary_limit, out, NULL,
                                         err);
    }
    uint64_t at;
    TRY(read_part(dataset, DATASET_TRAIN, intake, raw, err));
    TRY(split_at(raw->count, request->validation_split, &at, err));
    return learn(intake, raw, at, request->vocabulary_limit, out, NULL, err);
}

static enum status learn_only(const struct corpus_request *request, struct dataset *dataset,
                              struct vocabulary **out, struct error *err) {
    struct raw raw = {0};
    struct intake intake = {.count = request->validation_split <= 0};
    tokenizer_init(&intake.tokenizer, request->strip_html);
    enum status status = vocabulary_builder_create(&intake.builder, err);
    if (status == STATUS_OK) {
        status = learn_part(request, dataset, &intake, &raw, out, err);
    }
    tokenizer_deinit(&intake.tokenizer);
    vocabulary_builder_free(intake.builder);
    raw_free(&raw);
    return status;
}

enum status corpus_learn_vocabulary(const struct corpus_request *request, struct vocabulary **out,
                                    struct text *notes, struct error *err) {
    struct dataset *dataset;
    TRY(dataset_open(request->files, request->path, &dataset, err));
    enum status status = learn_only(request, dataset, out, err);
    if (status == STATUS_OK) {
        status = add_note(dataset, notes, err);
        if (status != STATUS_OK) {
            vocabulary_free(*out);
        }
    }
    dataset_close(dataset);
    return status;
}
