#include "host/tokenizer.h"

#include <stdlib.h>
#include <string.h>

/* What becomes of each byte. ' ' stands for white space and '!' for "delete": neither can be part
 * of a token, so one table of bytes holds the three cases. All bytes of 128 and above, control
 * bytes that are no white space, digits and lower-case letters map to themselves. */
enum { BYTE_SPACE = ' ', BYTE_DELETE = '!' };

/* clang-format off */
#define ROW(b) b, b + 1, b + 2, b + 3, b + 4, b + 5, b + 6, b + 7
#define DELETE_4 '!', '!', '!', '!'
static const unsigned char byte_map[256] = {
    0,    1,    2,    3,    4,    5,    6,    7,    8,    ' ', ' ', ' ', ' ', ' ', 14, 15,
    ROW(16),    ROW(24),
    ' ',  '!',  '!',  '!',  DELETE_4, DELETE_4, DELETE_4,
    ROW('0'),   '8',  '9',  '!',  '!',  DELETE_4,
    '!',  'a',  'b',  'c',  'd',  'e',  'f',  'g',  ROW('h'),
    ROW('p'),   'x',  'y',  'z',  '!',  DELETE_4,
    '!',  'a',  'b',  'c',  'd',  'e',  'f',  'g',  ROW('h'),
    ROW('p'),   'x',  'y',  'z',  '!',  '!',  '!',  '!',  127,
    ROW(128),   ROW(136),   ROW(144),   ROW(152),   ROW(160),   ROW(168),   ROW(176),   ROW(184),
    ROW(192),   ROW(200),   ROW(208),   ROW(216),   ROW(224),   ROW(232),   ROW(240),   ROW(248),
};
#undef ROW
#undef DELETE_4
/* clang-format on */

void tokenizer_init(struct tokenizer *tokenizer, bool strip_html) {
    *tokenizer = (struct tokenizer){.strip_html = strip_html};
}

void tokenizer_deinit(struct tokenizer *tokenizer) {
    free(tokenizer->scratch);
    *tokenizer = (struct tokenizer){.strip_html = tokenizer->strip_html};
}

static bool starts_tag(const char *text, const char *end) {
    if (end - text < 2 || text[0] != '<') {
        return false;
    }
    char c = text[1];
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '/' || c == '!';
}

/* Copy `text` with every tag replaced by one space. A '<' that no '>' follows is no tag; the search
 * for
 * '>' happens at most once behind the last one, so the time is linear. Returns the end of the copy.
 */
static char *copy_without_tags(const char *text, size_t size, char *out) {
    const char *end = text + size;
    bool may_close = true;
    while (text < end) {
        if (may_close && starts_tag(text, end)) {
            const char *close = memchr(text, '>', (size_t)(end - text));
            if (close != NULL) {
                *out++ = ' ';
                text = close + 1;
                continue;
            }
            may_close = false;
        }
        *out++ = *text++;
    }
    return out;
}

enum status tokenizer_start(struct tokenizer *tokenizer, const char *text, size_t size,
                            struct error *err) {
    if (size > tokenizer->scratch_capacity) {
        size_t capacity = size < SIZE_MAX / 2 ? size + size / 2 : size;
        char *scratch = malloc(capacity);
        CHECK(scratch != NULL, err, STATUS_MEMORY, "no memory for a text of %zu bytes", size);
        free(tokenizer->scratch);
        tokenizer->scratch = scratch;
        tokenizer->scratch_capacity = capacity;
    }
    tokenizer->start = tokenizer->size = 0;
    tokenizer->space = tokenizer->space_count = 0;
    if (size == 0) { /* `text` may be NULL */
        tokenizer->at = tokenizer->end = NULL;
        return STATUS_OK;
    }
    tokenizer->at = (const unsigned char *)text;
    tokenizer->end = tokenizer->at + size;
    if (tokenizer->strip_html) {
        tokenizer->at = (const unsigned char *)tokenizer->scratch;
        tokenizer->end = (const unsigned char *)copy_without_tags(text, size, tokenizer->scratch);
    }
    return STATUS_OK;
}

/* Clean the next bytes of the text, behind those before, and note where the white space is. Every
 * byte takes the same path: words are so short that a branch for the end of each would be guessed
 * wrong for most of them, which costs more than all the rest. With strip_html the text itself lies
 * in scratch; what is written never overtakes what is read. */
static void clean_stride(struct tokenizer *tokenizer) {
    unsigned char *scratch = (unsigned char *)tokenizer->scratch;
    const unsigned char *at = tokenizer->at;
    size_t left = (size_t)(tokenizer->end - at);
    const unsigned char *stop = at + (left < TOKENIZER_STRIDE ? left : TOKENIZER_STRIDE);
    size_t size = tokenizer->size, count = 0;
    while (at < stop) {
        unsigned char mapped = byte_map[*at++];
        scratch[size] = mapped;
        tokenizer->spaces[count] = size;
        size += mapped != BYTE_DELETE;
        count += mapped == BYTE_SPACE;
    }
    tokenizer->at = at;
    tokenizer->size = size;
    tokenizer->space = 0;
    tokenizer->space_count = count;
}

bool tokenizer_next(struct tokenizer *tokenizer, struct token *out) {
    for (;;) {
        size_t start = tokenizer->start;
        size_t end = tokenizer->size;
        if (tokenizer->space < tokenizer->space_count) {
            end = tokenizer->spaces[tokenizer->space++];
            tokenizer->start = end + 1;
        } else if (tokenizer->at < tokenizer->end) {
            clean_stride(tokenizer);
            continue;
        } else if (start == end) {
            *out = (struct token){0};
            return false;
        } else { /* the last word */
            tokenizer->start = end;
        }
        if (end > start) { /* not white space behind white space */
            *out = (struct token){.bytes = tokenizer->scratch + start, .size = end - start};
            return true;
        }
    }
}
