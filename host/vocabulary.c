/* vocabulary.c - token <-> id, from a file, a tensor, or learned from texts.
 *
 * Vocabulary and builder are the same table: all tokens in one buffer, each ended by a newline
 * (which no token holds), so that the buffer of a vocabulary is at once its file and its tensor;
 * and an open-addressing hash index over it.
 */
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "host/tokenizer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static const char unknown_token[] = "[UNK]";

enum {
    UNKNOWN_TOKEN_SIZE = sizeof unknown_token - 1,
    SLOTS_MIN = 1024,
    VOCABULARY_FILE_BYTES_MAX = 1 << 30,
};

/* ---- the table ---- */

struct slot {
    uint32_t hash;      /* high half of the token's hash: most comparisons end here */
    uint32_t id_plus_1; /* 0: free */
};

struct token_table {
    struct text bytes; /* every token, each followed by '\n' */
    uint64_t *first;   /* [count + 1] where each token starts */
    uint32_t count, capacity;
    struct slot *slots; /* [slot_mask + 1], at most half full */
    uint64_t slot_mask;
};

struct vocabulary {
    struct token_table table;
};

struct vocabulary_builder {
    struct token_table table;
    uint64_t *counts; /* [counts_capacity], the first table.count are in use */
    uint32_t counts_capacity;
};

static struct token table_token(const struct token_table *table, uint32_t id) {
    return (struct token){.bytes = table->bytes.bytes + table->first[id],
                          .size = (size_t)(table->first[id + 1] - table->first[id] - 1)};
}

static void table_free(struct token_table *table) {
    text_free(&table->bytes);
    free(table->first);
    free(table->slots);
}

static bool table_init(struct token_table *table) {
    *table = (struct token_table){.capacity = SLOTS_MIN / 2, .slot_mask = SLOTS_MIN - 1};
    table->first = calloc(table->capacity + 1, sizeof *table->first);
    table->slots = calloc(SLOTS_MIN, sizeof *table->slots);
    if (table->first == NULL || table->slots == NULL) {
        table_free(table);
        return false;
    }
    return true;
}

/* The slot that holds the token, or the free one where it belongs. */
static struct slot *table_slot(const struct token_table *table, uint64_t hash, const char *bytes,
                               size_t size) {
    for (uint64_t at = hash;; at++) {
        struct slot *slot = &table->slots[at & table->slot_mask];
        if (slot->id_plus_1 == 0) {
            return slot;
        }
        if (slot->hash == (uint32_t)(hash >> 32)) {
            struct token token = table_token(table, slot->id_plus_1 - 1);
            if (token.size == size && (size == 0 || memcmp(token.bytes, bytes, size) == 0)) {
                return slot;
            }
        }
    }
}

/* Room for twice as many tokens; the slots are filled anew from the tokens. */
static bool table_grow(struct token_table *table) {
    if (table->capacity > UINT32_MAX / 4) {
        return false;
    }
    uint32_t capacity = table->capacity * 2;
    uint64_t *first = realloc(table->first, ((size_t)capacity + 1) * sizeof *first);
    if (first == NULL) {
        return false;
    }
    table->first = first;
    struct slot *slots = calloc((size_t)capacity * 2, sizeof *slots);
    if (slots == NULL) {
        return false;
    }
    free(table->slots);
    table->slots = slots;
    table->capacity = capacity;
    table->slot_mask = (uint64_t)capacity * 2 - 1;
    for (uint32_t id = 0; id < table->count; id++) {
        struct token token = table_token(table, id);
        uint64_t hash = XXH3_64bits(token.bytes, token.size);
        *table_slot(table, hash, token.bytes, token.size) =
            (struct slot){.hash = (uint32_t)(hash >> 32), .id_plus_1 = id + 1};
    }
    return true;
}

/* Id of the token, which is added when it is new (*added says so; may be NULL). UINT32_MAX when
 * memory ran out. */
static uint32_t table_intern(struct token_table *table, const char *bytes, size_t size,
                             bool *added) {
    uint64_t hash = XXH3_64bits(bytes, size);
    struct slot *slot = table_slot(table, hash, bytes, size);
    if (added != NULL) {
        *added = slot->id_plus_1 == 0;
    }
    if (slot->id_plus_1 != 0) {
        return slot->id_plus_1 - 1;
    }
    if (table->count == table->capacity) {
        if (!table_grow(table)) {
            return UINT32_MAX;
        }
        slot = table_slot(table, hash, bytes, size);
    }
    text_append(&table->bytes, bytes, size);
    text_append(&table->bytes, "\n", 1);
    if (table->bytes.failed) {
        return UINT32_MAX;
    }
    uint32_t id = table->count++;
    table->first[id + 1] = table->bytes.size;
    *slot = (struct slot){.hash = (uint32_t)(hash >> 32), .id_plus_1 = id + 1};
    return id;
}

/* ---- vocabulary ---- */

static enum status no_memory(struct error *err) {
    return error_set(err, STATUS_MEMORY, "no memory for the vocabulary");
}

/* A vocabulary with its two special entries. */
static enum status vocabulary_create(struct vocabulary **out, struct error *err) {
    struct vocabulary *vocabulary = malloc(sizeof *vocabulary);
    if (vocabulary == NULL || !table_init(&vocabulary->table)) {
        free(vocabulary);
        return no_memory(err);
    }
    if (table_intern(&vocabulary->table, "", 0, NULL) != VOCABULARY_PADDING_ID ||
        table_intern(&vocabulary->table, unknown_token, UNKNOWN_TOKEN_SIZE, NULL) !=
            VOCABULARY_UNKNOWN_ID) {
        vocabulary_free(vocabulary);
        return no_memory(err);
    }
    *out = vocabulary;
    return STATUS_OK;
}

void vocabulary_free(struct vocabulary *vocabulary) {
    if (vocabulary != NULL) {
        table_free(&vocabulary->table);
        free(vocabulary);
    }
}

uint32_t vocabulary_size(const struct vocabulary *vocabulary) {
    return vocabulary->table.count;
}

uint32_t vocabulary_lookup(const struct vocabulary *vocabulary, const char *bytes, size_t size) {
    const struct slot *slot = table_slot(&vocabulary->table, XXH3_64bits(bytes, size), bytes, size);
    return slot->id_plus_1 != 0 ? slot->id_plus_1 - 1 : VOCABULARY_UNKNOWN_ID;
}

struct token vocabulary_entry(const struct vocabulary *vocabulary, uint32_t id) {
    assert(id < vocabulary->table.count);
    return table_token(&vocabulary->table, id);
}

const char *vocabulary_text(const struct vocabulary *vocabulary, size_t *size) {
    *size = vocabulary->table.bytes.size;
    return vocabulary->table.bytes.bytes;
}

/* ---- parsing ---- */

struct line_cursor {
    const char *at, *end;
    uint64_t number; /* of the line taken last, from 1 */
};

/* The next line without its end (LF, CR LF or the end of the text); false when there is none. */
static bool take_line(struct line_cursor *cursor, struct token *line) {
    if (cursor->at == cursor->end) {
        return false;
    }
    const char *newline = memchr(cursor->at, '\n', (size_t)(cursor->end - cursor->at));
    const char *stop = newline != NULL ? newline : cursor->end;
    *line = (struct token){.bytes = cursor->at, .size = (size_t)(stop - cursor->at)};
    if (line->size > 0 && stop[-1] == '\r') {
        line->size--;
    }
    cursor->at = newline != NULL ? newline + 1 : cursor->end;
    cursor->number++;
    return true;
}

/* Skip the two special lines where the text starts with them. */
static void skip_special_lines(struct line_cursor *cursor) {
    struct line_cursor ahead = *cursor;
    struct token line;
    if (take_line(&ahead, &line) && line.size == 0 && take_line(&ahead, &line) &&
        line.size == UNKNOWN_TOKEN_SIZE &&
        memcmp(line.bytes, unknown_token, UNKNOWN_TOKEN_SIZE) == 0) {
        *cursor = ahead;
    }
}

static enum status parse_line(struct vocabulary *vocabulary, struct token line, uint64_t number,
                              const char *name, struct error *err) {
    CHECK(
        line.size > 0, err, STATUS_DATA,
        "%s: line %llu is empty: expected one token a line (only the first line, which stands for "
        "padding, is empty, and then the second is [UNK])",
        name, (unsigned long long)number);
    CHECK(memchr(line.bytes, '\0', line.size) == NULL, err, STATUS_DATA,
          "%s: line %llu holds a NUL byte: expected a text file with one token a line", name,
          (unsigned long long)number);
    /* Written into a checkpoint and read again it would be another token: one CR ends a line. */
    CHECK(
        memchr(line.bytes, '\r', line.size) == NULL, err, STATUS_DATA,
        "%s: line %llu holds a carriage return in the token: expected one token a line, each line "
        "ended by LF or CR LF",
        name, (unsigned long long)number);
    bool added;
    uint32_t id = table_intern(&vocabulary->table, line.bytes, line.size, &added);
    if (id == UINT32_MAX) {
        return no_memory(err);
    }
    if (!added) {
        char token[96];
        return error_set(err, STATUS_DATA,
                         "%s: line %llu repeats the token \"%s\", which has the index %u already: "
                         "expected every token once",
                         name, (unsigned long long)number,
                         text_escape(line.bytes, line.size, token, sizeof token), id);
    }
    return STATUS_OK;
}

enum status vocabulary_parse(const char *text, size_t size, const char *name,
                             struct vocabulary **out, struct error *err) {
    CHECK(size > 0, err, STATUS_DATA, "%s is empty: expected a vocabulary, one token a line", name);
    struct vocabulary *vocabulary;
    TRY(vocabulary_create(&vocabulary, err));
    struct line_cursor cursor = {.at = text, .end = text + size};
    skip_special_lines(&cursor);
    struct token line;
    while (take_line(&cursor, &line)) {
        enum status status = parse_line(vocabulary, line, cursor.number, name, err);
        if (status != STATUS_OK) {
            vocabulary_free(vocabulary);
            return status;
        }
    }
    *out = vocabulary;
    return STATUS_OK;
}

enum status vocabulary_load(const struct file_table *files, const char *path,
                            struct vocabulary **out, struct error *err) {
    uint8_t *bytes;
    size_t size;
    TRY(file_read_all(files, path, VOCABULARY_FILE_BYTES_MAX, &bytes, &size, err));
    /* Editors of Windows put a byte order mark in front; no token starts with one by intent. */
    size_t skip = size >= 3 && memcmp(bytes, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
    enum status status = vocabulary_parse((const char *)bytes + skip, size - skip, path, out, err);
    free(bytes);
    return status;
}

/* ---- learning ---- */

enum status vocabulary_builder_create(struct vocabulary_builder **out, struct error *err) {
    struct vocabulary_builder *builder = calloc(1, sizeof *builder);
    if (builder == NULL || !table_init(&builder->table)) {
        free(builder);
        return no_memory(err);
    }
    *out = builder;
    return STATUS_OK;
}

void vocabulary_builder_free(struct vocabulary_builder *builder) {
    if (builder != NULL) {
        table_free(&builder->table);
        free(builder->counts);
        free(builder);
    }
}

static bool counts_reserve(struct vocabulary_builder *builder) {
    if (builder->counts_capacity == builder->table.capacity) {
        return true;
    }
    uint64_t *counts = realloc(builder->counts, builder->table.capacity * sizeof *counts);
    if (counts == NULL) {
        return false;
    }
    memset(counts + builder->counts_capacity, 0,
           (builder->table.capacity - builder->counts_capacity) * sizeof *counts);
    builder->counts = counts;
    builder->counts_capacity = builder->table.capacity;
    return true;
}

uint32_t vocabulary_builder_add(struct vocabulary_builder *builder, const char *bytes, size_t size,
                                bool count) {
    uint32_t id = table_intern(&builder->table, bytes, size, NULL);
    if (id == UINT32_MAX || !counts_reserve(builder)) {
        return UINT32_MAX;
    }
    builder->counts[id] += count;
    return id;
}

void vocabulary_builder_count(struct vocabulary_builder *builder, uint32_t id) {
    assert(id < builder->table.count);
    builder->counts[id]++;
}

uint32_t vocabulary_builder_tokens(const struct vocabulary_builder *builder) {
    return builder->table.count;
}

/* Order of the vocabulary: count descending, then bytes descending (a longer token before its
 * prefix). */
static int compare_candidates(const void *left, const void *right, void *context) {
    const struct vocabulary_builder *builder = context;
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    if (builder->counts[a] != builder->counts[b]) {
        return builder->counts[a] > builder->counts[b] ? -1 : 1;
    }
    struct token x = table_token(&builder->table, a), y = table_token(&builder->table, b);
    int order = memcmp(y.bytes, x.bytes, x.size < y.size ? x.size : y.size);
    if (order != 0) {
        return order;
    }
    return (x.size < y.size) - (x.size > y.size);
}

/* The special entries have their places already; Keras drops them from the counts. */
static bool is_special(struct token token) {
    return token.size == 0 || (token.size == UNKNOWN_TOKEN_SIZE &&
                               memcmp(token.bytes, unknown_token, UNKNOWN_TOKEN_SIZE) == 0);
}

/* The smallest count a token needs to be among the first `wanted` (1 when all are wanted): most
 * tokens of a large corpus occur once or twice and need not be sorted. */
static uint64_t least_count(const struct vocabulary_builder *builder, uint64_t wanted) {
    enum { BUCKETS = 4096 };
    uint64_t tokens_with[BUCKETS] = {0};
    for (uint32_t id = 0; id < builder->table.count; id++) {
        uint64_t count = builder->counts[id];
        tokens_with[count < BUCKETS ? count : BUCKETS - 1]++;
    }
    uint64_t tokens = 0;
    for (uint64_t count = BUCKETS - 1; count > 1; count--) {
        tokens += tokens_with[count];
        if (tokens >= wanted + 2) { /* two of them may be the special ones */
            return count;
        }
    }
    return 1;
}

/* The provisional ids that may enter the vocabulary, sorted. The caller frees *out. */
static bool sorted_candidates(struct vocabulary_builder *builder, uint64_t wanted, uint32_t **out,
                              uint32_t *out_count) {
    uint32_t *candidates = malloc(((size_t)builder->table.count + 1) * sizeof *candidates);
    if (candidates == NULL) {
        return false;
    }
    uint64_t least = least_count(builder, wanted);
    uint32_t count = 0;
    for (uint32_t id = 0; id < builder->table.count; id++) {
        if (builder->counts[id] >= least && !is_special(table_token(&builder->table, id))) {
            candidates[count++] = id;
        }
    }
    qsort_r(candidates, count, sizeof *candidates, compare_candidates, builder);
    *out = candidates;
    *out_count = count < wanted ? count : (uint32_t)wanted;
    return true;
}

/* For each provisional id its final one. NULL when memory ran out. */
static uint32_t *make_remap(const struct vocabulary_builder *builder, const uint32_t *chosen,
                            uint32_t chosen_count) {
    uint32_t *remap = malloc(((size_t)builder->table.count + 1) * sizeof *remap);
    if (remap == NULL) {
        return NULL;
    }
    for (uint32_t id = 0; id < builder->table.count; id++) {
        remap[id] = VOCABULARY_UNKNOWN_ID;
    }
    for (uint32_t i = 0; i < chosen_count; i++) {
        remap[chosen[i]] = VOCABULARY_UNKNOWN_ID + 1 + i;
    }
    return remap;
}

enum status vocabulary_builder_finish(struct vocabulary_builder *builder, uint64_t limit,
                                      struct vocabulary **out, uint32_t **remap,
                                      struct error *err) {
    assert(limit == 0 || limit >= 2);
    struct vocabulary *vocabulary;
    TRY(vocabulary_create(&vocabulary, err));
    uint64_t wanted = limit == 0 ? UINT32_MAX : limit - 2;
    uint32_t *chosen = NULL, *map = NULL;
    uint32_t count = 0;
    if (!sorted_candidates(builder, wanted, &chosen, &count)) {
        goto fail;
    }
    for (uint32_t i = 0; i < count; i++) {
        struct token token = table_token(&builder->table, chosen[i]);
        if (table_intern(&vocabulary->table, token.bytes, token.size, NULL) == UINT32_MAX) {
            goto fail;
        }
    }
    if (remap != NULL) {
        map = make_remap(builder, chosen, count);
        if (map == NULL) {
            goto fail;
        }
        *remap = map;
    }
    free(chosen);
    *out = vocabulary;
    return STATUS_OK;
fail:
    free(chosen);
    vocabulary_free(vocabulary);
    return no_memory(err);
}
