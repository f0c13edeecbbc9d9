/* bench_data.c - `cairn bench data`: how long it takes to turn a data set into batches of ids.
 *
 * Two phases read the data: `reading` takes the bytes of every text and drops them, `loading` is
 * what `train` does before its first step. The others work on texts that are in memory already, so
 * that they show what tokens, vocabulary and ids cost without the disk; `ids` is what `predict`
 * does with its input. The phases take turns, repeat by repeat. What was read before comes from the
 * page cache: the first loading, which is not timed, warms it.
 */
#include <stdlib.h>
#include <sys/resource.h>

#include "bench/bench_clock.h"
#include "bench/bench_report.h"
#include "host/batcher.h"
#include "host/cmd.h"
#include "host/corpus.h"

struct kept_texts {
    struct text bytes; /* all texts, one after the other, those of the training part first */
    size_t *ends;      /* [count] where each text ends */
    size_t count, capacity;
    size_t train_count;
};

struct bench_data {
    const struct options *options;
    struct corpus_request request;
    struct corpora corpora; /* of the first loading */
    struct kept_texts texts;
};

/* How much one run of a phase did. */
struct amount {
    uint64_t bytes, examples, tokens; /* 0: not counted */
};

struct phase {
    const char *name;
    enum status (*run)(struct bench_data *bench, struct amount *amount, struct error *err);
    struct amount amount;
    double seconds[BENCH_REPEATS_MAX];
};

/* ---- texts in memory ------------------------------------------------------------------------- */

static enum status keep_text(void *context, const char *text, size_t size, unsigned label,
                             struct error *err) {
    (void)label;
    struct kept_texts *texts = context;
    if (texts->count == texts->capacity) {
        size_t capacity = texts->capacity == 0 ? 4096 : texts->capacity * 2;
        size_t *ends = realloc(texts->ends, capacity * sizeof *ends);
        CHECK(ends != NULL, err, STATUS_MEMORY, "no memory for %zu texts", capacity);
        texts->ends = ends;
        texts->capacity = capacity;
    }
    text_append(&texts->bytes, text, size);
    CHECK(!texts->bytes.failed, err, STATUS_MEMORY, "no memory for the texts");
    texts->ends[texts->count++] = texts->bytes.size;
    return STATUS_OK;
}

/* Both parts, or the one there is. */
static enum status read_parts(const struct bench_data *bench, dataset_callback callback,
                              void *context, struct error *err) {
    struct dataset *dataset;
    TRY(dataset_open(bench->request.files, bench->request.path, &dataset, err));
    enum status status = dataset_read(dataset, DATASET_TRAIN, callback, context, err);
    if (status == STATUS_OK && dataset_has_test(dataset)) {
        status = dataset_read(dataset, DATASET_TEST, callback, context, err);
    }
    dataset_close(dataset);
    return status;
}

/* ---- phases ---------------------------------------------------------------------------------- */

static enum status count_text(void *context, const char *text, size_t size, unsigned label,
                              struct error *err) {
    (void)text, (void)label, (void)err;
    struct amount *amount = context;
    amount->bytes += size;
    amount->examples++;
    return STATUS_OK;
}

static enum status run_reading(struct bench_data *bench, struct amount *amount, struct error *err) {
    return read_parts(bench, count_text, amount, err);
}

static enum status run_loading(struct bench_data *bench, struct amount *amount, struct error *err) {
    struct corpora corpora;
    TRY(corpus_load_training(&bench->request, &corpora, err));
    amount->bytes = corpora.train.text_bytes + corpora.validation.text_bytes;
    amount->examples = corpora.train.examples + corpora.validation.examples;
    amount->tokens = corpora.train.token_count + corpora.validation.token_count;
    corpora_free(&corpora);
    return STATUS_OK;
}

/* What to do with each token; false when memory ran out. */
typedef bool (*token_function)(void *context, const struct token *token);

static enum status each_token(const struct bench_data *bench, size_t texts, token_function take,
                              void *context, struct amount *amount, struct error *err) {
    struct tokenizer tokenizer;
    tokenizer_init(&tokenizer, bench->options->strip_html);
    enum status status = STATUS_OK;
    size_t begin = 0;
    for (size_t i = 0; i < texts && status == STATUS_OK; i++) {
        const size_t end = bench->texts.ends[i];
        status = tokenizer_start(&tokenizer, bench->texts.bytes.bytes + begin, end - begin, err);
        struct token token;
        while (status == STATUS_OK && tokenizer_next(&tokenizer, &token)) {
            amount->tokens++;
            if (!take(context, &token)) {
                status = error_set(err, STATUS_MEMORY, "no memory for the tokens");
            }
        }
        begin = end;
    }
    tokenizer_deinit(&tokenizer);
    amount->bytes = begin;
    amount->examples = texts;
    return status;
}

static bool drop_token(void *context, const struct token *token) {
    uint64_t *bytes = context;
    *bytes += token->size;
    return true;
}

static enum status run_tokens(struct bench_data *bench, struct amount *amount, struct error *err) {
    uint64_t bytes = 0;
    return each_token(bench, bench->texts.count, drop_token, &bytes, amount, err);
}

static bool count_token(void *context, const struct token *token) {
    return vocabulary_builder_add(context, token->bytes, token->size, true) != UINT32_MAX;
}

static enum status run_vocabulary(struct bench_data *bench, struct amount *amount,
                                  struct error *err) {
    struct vocabulary_builder *builder;
    struct vocabulary *vocabulary = NULL;
    TRY(vocabulary_builder_create(&builder, err));
    enum status status =
        each_token(bench, bench->texts.train_count, count_token, builder, amount, err);
    if (status == STATUS_OK) {
        status = vocabulary_builder_finish(builder, bench->options->vocabulary_size, &vocabulary,
                                           NULL, err);
    }
    vocabulary_free(vocabulary);
    vocabulary_builder_free(builder);
    return status;
}

struct id_sum {
    const struct vocabulary *vocabulary;
    uint64_t sum;
};

static bool look_up_token(void *context, const struct token *token) {
    struct id_sum *ids = context;
    ids->sum += vocabulary_lookup(ids->vocabulary, token->bytes, token->size);
    return true;
}

static enum status run_ids(struct bench_data *bench, struct amount *amount, struct error *err) {
    struct id_sum ids = {.vocabulary = bench->corpora.vocabulary};
    return each_token(bench, bench->texts.count, look_up_token, &ids, amount, err);
}

/* All batches of the first epoch. */
static enum status run_batches(struct bench_data *bench, struct amount *amount, struct error *err) {
    struct batcher_options batcher_options = batcher_options_of(bench->options);
    struct batcher *batcher;
    TRY(batcher_create(&batcher_options, &bench->corpora.train, &batcher, err));
    enum status status = batcher_start(batcher, 0, 0, err);
    struct batch *batch;
    while (status == STATUS_OK && (batch = batcher_next(batcher)) != NULL) {
        batcher_recycle(batcher, batch);
    }
    batcher_free(batcher);
    amount->examples = bench->corpora.train.examples;
    amount->tokens = bench->corpora.train.token_count;
    return status;
}

/* ---- measuring ------------------------------------------------------------------------------- */

static enum status measure(struct bench_data *bench, struct phase *phases, size_t count,
                           struct error *err) {
    for (unsigned repeat = 0; repeat < bench->options->repeats; repeat++) {
        for (size_t i = 0; i < count; i++) {
            phases[i].amount = (struct amount){0};
            double begin = bench_clock_now();
            TRY(phases[i].run(bench, &phases[i].amount, err));
            phases[i].seconds[repeat] = bench_clock_now() - begin;
        }
    }
    return STATUS_OK;
}

static void report_rate(struct bench_report *report, const struct phase *phase, unsigned repeats,
                        const char *name, const char *unit, double amount) {
    double rates[BENCH_REPEATS_MAX];
    for (unsigned i = 0; i < repeats; i++) {
        rates[i] = amount / phase->seconds[i];
    }
    if (amount > 0) {
        bench_report_figure(report, name, unit, 1.0, rates, repeats);
    }
}

static void report_phase(struct bench_report *report, const struct phase *phase, unsigned repeats) {
    bench_report_section(report, phase->name);
    bench_report_figure(report, "time", "s", 1.0, phase->seconds, repeats);
    report_rate(report, phase, repeats, "text", "MB/s", (double)phase->amount.bytes * 1e-6);
    report_rate(report, phase, repeats, "examples", "1/s", (double)phase->amount.examples);
    report_rate(report, phase, repeats, "tokens", "M/s", (double)phase->amount.tokens * 1e-6);
}

static void report_facts(struct bench_report *report, const struct bench_data *bench,
                         double peak_bytes) {
    const struct corpora *corpora = &bench->corpora;
    bench_report_fact(report, "data", "%s", bench->options->data);
    bench_report_number(report, "training examples", (double)corpora->train.examples, "");
    bench_report_number(report, "validation examples", (double)corpora->validation.examples, "");
    bench_report_number(report, "vocabulary", (double)vocabulary_size(corpora->vocabulary), "");
    bench_report_number(report, "peak memory of loading", peak_bytes * 1e-6, "MB");
}

/* The peak is that of the whole process, so it is taken before anything but loading has run. */
static enum status prepare(struct bench_data *bench, struct bench_report *report,
                           struct error *err) {
    TRY(corpus_load_training(&bench->request, &bench->corpora, err));
    struct rusage usage;
    CHECK(getrusage(RUSAGE_SELF, &usage) == 0, err, STATUS_INTERNAL, "getrusage failed");
    report_facts(report, bench, (double)usage.ru_maxrss * 1024);
    TRY(read_parts(bench, keep_text, &bench->texts, err));
    bench->texts.train_count = (size_t)bench->corpora.train.examples;
    return STATUS_OK;
}

static enum status run(struct bench_data *bench, struct bench_report *report, struct error *err) {
    struct phase phases[] = {
        {.name = "reading", .run = run_reading},
        {.name = "loading", .run = run_loading},
        {.name = "tokens, from memory", .run = run_tokens},
        {.name = "vocabulary of the training part, from memory", .run = run_vocabulary},
        {.name = "ids, from memory", .run = run_ids},
        {.name = "batches of an epoch", .run = run_batches},
    };
    size_t count = sizeof phases / sizeof phases[0];
    TRY(prepare(bench, report, err));
    TRY(measure(bench, phases, count, err));
    for (size_t i = 0; i < count; i++) {
        report_phase(report, &phases[i], (unsigned)bench->options->repeats);
    }
    return bench_report_write(report, err);
}

enum status cmd_bench_data(const struct options *options, int *exit_code, struct error *err) {
    (void)exit_code;
    struct bench_data bench = {.options = options,
                               .request = {
                                   .files = &file_posix,
                                   .path = options->data,
                                   .validation_path = "",
                                   .vocabulary_limit = options->vocabulary_size,
                                   .max_length = options->max_length,
                                   .strip_html = options->strip_html,
                               }};
    struct bench_report *report = NULL;
    TRY(bench_report_create(options, stdout, &report, err));
    enum status status = run(&bench, report, err);
    bench_report_free(report);
    corpora_free(&bench.corpora);
    text_free(&bench.texts.bytes);
    free(bench.texts.ends);
    return status;
}
