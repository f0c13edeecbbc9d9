/* tokenizer.h - text to tokens to ids: Keras' TextVectorization, byte for byte.
 *
 * Rules (Keras 3, standardize="lower_and_strip_punctuation", split="whitespace"): lower-case ASCII
 * A-Z only; delete the 32 ASCII punctuation characters (they join what they stood between); split
 * on runs of space, tab, LF, VT, FF, CR; no empty tokens. All other bytes pass through. Vocabulary:
 * index 0 is "" (padding), 1 is "[UNK]", then tokens by count descending, ties by bytes descending;
 * a limit counts the two special entries. With strip_html every tag "<...>" that starts with a
 * letter, '/', or '!' becomes a space first (the TensorFlow tutorial's custom step, for all tags).
 *
 * Usage:
 *     TRY(vocabulary_builder_create(&builder, err));
 *     tokenizer_init(&tokenizer, false);
 *     TRY(tokenizer_start(&tokenizer, text, size, err));
 *     while (tokenizer_next(&tokenizer, &token)) {
 *         id = vocabulary_builder_add(builder, token.bytes, token.size, true);
 *     }
 *     TRY(vocabulary_builder_finish(builder, 1000, &vocabulary, remap, err));
 *
 * THREADS: a vocabulary is read-only once made and may be shared; builders and tokenizers belong to
 * one thread.
 */
#ifndef CAIRN_HOST_TOKENIZER_H
#define CAIRN_HOST_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "host/base/status.h"
#include "host/base/text.h"
#include "io/file.h"

#ifdef __cplusplus
extern "C" {
#endif

struct token {
    const char *bytes; /* not NUL-terminated; valid until the next tokenizer_start */
    size_t size;       /* > 0 */
};

enum { TOKENIZER_STRIDE = 512 };

/* Walks over one text at a time. tokenizer_deinit when done (it owns a scratch buffer
 * that it reuses from text to text). */
struct tokenizer {
    bool strip_html;
    char *scratch; /* the text as far as it was cleaned: mapped, white space as ' ', none deleted */
    size_t scratch_capacity;
    const unsigned char *at, *end;   /* the rest of the text, not cleaned yet */
    size_t start, size;              /* where the next token starts in scratch; bytes in scratch */
    size_t spaces[TOKENIZER_STRIDE]; /* where in scratch white space was met in the last stride */
    size_t space, space_count;       /* the next one; how many */
};

void tokenizer_init(struct tokenizer *tokenizer, bool strip_html);
/* Begin a text; it must stay valid while tokens are taken. STATUS_MEMORY. */
MUST_USE enum status tokenizer_start(struct tokenizer *tokenizer, const char *text, size_t size,
                                     struct error *err);
/* The next token; false at the end. */
bool tokenizer_next(struct tokenizer *tokenizer, struct token *out);
void tokenizer_deinit(struct tokenizer *tokenizer);

/* ---- vocabulary ---- */

enum { VOCABULARY_PADDING_ID = 0, VOCABULARY_UNKNOWN_ID = 1 };

struct vocabulary;

/* Number of entries V, the two special ones included. */
uint32_t vocabulary_size(const struct vocabulary *vocabulary);

/* Id of a token; VOCABULARY_UNKNOWN_ID when absent. */
uint32_t vocabulary_lookup(const struct vocabulary *vocabulary, const char *bytes, size_t size);

/* Entry `id` < V. Valid as long as the vocabulary. */
struct token vocabulary_entry(const struct vocabulary *vocabulary, uint32_t id);

/* All entries in index order, each ended by a newline byte (the first line is empty): the
 * `vocabulary` tensor and the vocabulary file. Valid as long as the vocabulary. */
const char *vocabulary_text(const struct vocabulary *vocabulary, size_t *size);

/* From the text of a file or tensor. One token a line; the last newline may be missing; CR LF is
 * accepted in a file. When the first two lines are not "" and "[UNK]" those are put in front (as
 * Keras' set_vocabulary does). STATUS_DATA with `name` and the line: empty line inside, duplicate,
 * a NUL byte, a CR inside a token. `name` is for messages. */
MUST_USE enum status vocabulary_parse(const char *text, size_t size, const char *name,
                                      struct vocabulary **out, struct error *err);
MUST_USE enum status vocabulary_load(const struct file_table *files, const char *path,
                                     struct vocabulary **out, struct error *err);
void vocabulary_free(struct vocabulary *vocabulary);

/* ---- learning ---- */

struct vocabulary_builder;

MUST_USE enum status vocabulary_builder_create(struct vocabulary_builder **out, struct error *err);
/* Count one occurrence and return the token's provisional id (0, 1, 2... in order of first sight),
 * or UINT32_MAX when memory ran out. With `count` false the token only gets an id (test texts). */
uint32_t vocabulary_builder_add(struct vocabulary_builder *builder, const char *bytes, size_t size,
                                bool count);
/* Count one more occurrence of the token with this provisional id. */
void vocabulary_builder_count(struct vocabulary_builder *builder, uint32_t id);
uint32_t vocabulary_builder_tokens(const struct vocabulary_builder *builder);
/* The vocabulary of at most `limit` entries (0 = no limit, else at least 2), and for each
 * provisional id its final id in *remap (malloc, the caller frees; may be NULL). The builder stays
 * usable. */
MUST_USE enum status vocabulary_builder_finish(struct vocabulary_builder *builder, uint64_t limit,
                                               struct vocabulary **out, uint32_t **remap,
                                               struct error *err);
void vocabulary_builder_free(struct vocabulary_builder *builder);

#ifdef __cplusplus
}
#endif
#endif
