/* dataset_demo.c - the built-in corpus: short film reviews made from templates, the same on every
 * machine.
 *
 * What decides a review is never a word but how words stand together:
 * - negation: "not good" is negative, "hardly dull" positive;
 * - contrast: of two opinions the one behind "but" or "however" counts, or the one outside
 *   "although";
 * - order: of "at first ..., in the end ..." the end counts.
 *
 * Two opinions of one review contradict each other, so that both classes hold the same words; a
 * third of the reviews has one opinion only, which leaves single words a slight tendency, as in
 * real reviews, and gives training a slope to start from. A bag of words stays below 65 % on the
 * test part (tests/demo_test.cc), a recurrent network learns it within a few epochs. */
#include <ctype.h>
#include <string.h>

#include "host/base/rng.h"
#include "io/dataset_readers.h"

enum { TRAIN_EXAMPLES = 6000, TEST_EXAMPLES = 1000 };

/* Part of the meaning of the corpus, never to be changed. */
static const uint64_t demo_seed = 1;

/* Out of 100: reviews with one opinion, and negated opinions in reviews with one and with two. */
enum { SINGLE_PERCENT = 35, SINGLE_NEGATED_PERCENT = 30, PAIR_NEGATED_PERCENT = 25 };

/* ---- words ---- */

struct words {
    const char *const *list;
    size_t count;
};
#define WORDS(array)                                                                               \
    { array, sizeof array / sizeof array[0] }

static const char *const subjects[] = {
    "story",      "acting",    "ending",  "music",   "dialogue", "camera work", "pace",
    "script",     "cast",      "humour",  "plot",    "lighting", "scenery",     "editing",
    "soundtrack", "direction", "opening", "romance", "action",   "atmosphere",  "second half",
};
static const char *const good[] = {
    "good",  "great",  "brilliant", "charming",   "funny",  "clever",     "moving", "gripping",
    "fresh", "honest", "warm",      "convincing", "lovely", "delightful", "superb",
};
static const char *const bad[] = {
    "bad",   "dull",  "boring", "weak",      "clumsy", "silly",    "flat", "slow",
    "tired", "noisy", "cold",   "confusing", "awful",  "dreadful", "poor",
};
static const char *const negations[] = {"not", "never", "hardly", "not at all"};
static const char *const emphases[] = {"really ", "always ", "truly ", "quite ", "", ""};
static const char *const verbs[] = {"was", "is", "seemed", "felt"};
static const char *const people[] = {
    "my brother",   "my sister",   "two friends",      "the whole family", "an old friend",
    "my neighbour", "my daughter", "a few colleagues", "my parents",       "a friend from school",
};
static const char *const occasions[] = {
    "last night", "on Sunday", "on a rainy evening", "last week",           "after work",
    "on a train", "yesterday", "in a small cinema",  "during the holidays", "at home",
};

/* ---- templates ----
 * {S} a subject, {O} another one, {V} a verb, {W} the opinion that decides, {L} one that
 * contradicts it, {P} people, {T} an occasion. */

static const char *const openings[] = {
    "I watched this film {T} with {P}.",
    "We saw it {T}.",
    "I heard about it from {P}.",
    "Here is my review of this movie.",
};
static const char *const single_opinions[] = {
    "The {S} {V} {W}.",
    "I would say the {S} {V} {W}.",
    "For me the {S} {V} {W} from start to finish.",
    "This film {V} {W}.",
};
static const char *const opinion_pairs[] = {
    "The {S} {V} {L}, but the {O} {V} {W}.",
    "Although the {S} {V} {L}, the {O} {V} {W}.",
    "The {O} {V} {W}, although the {S} {V} {L}.",
    "At first the {S} {V} {L} and in the end {W}.",
    "It {V} {W} rather than {L}.",
    "The {S} {V} {L}. However, the {O} {V} {W}.",
};
static const char *const closings[] = {
    "That is what I told {P}.", "{P} agreed with me.", "That is all I can say.", "", "",
};

/* ---- writing ---- */

struct demo {
    struct rng rng;
    struct text text;
    unsigned label;
    unsigned negated_percent;
    size_t subject, other_subject;
};

static const char *pick(struct demo *demo, struct words words) {
    return words.list[rng_below(&demo->rng, words.count)];
}
#define PICK(demo, array) pick(demo, (struct words)WORDS(array))

static bool happens(struct demo *demo, unsigned percent) {
    return rng_below(&demo->rng, 100) < percent;
}

static void write_opinion(struct demo *demo, unsigned positive) {
    if (happens(demo, demo->negated_percent)) {
        text_printf(&demo->text, "%s ", PICK(demo, negations));
        positive = !positive;
    } else {
        text_printf(&demo->text, "%s", PICK(demo, emphases));
    }
    text_printf(&demo->text, "%s", positive ? PICK(demo, good) : PICK(demo, bad));
}

static void write_slot(struct demo *demo, char slot) {
    switch (slot) {
    case 'S':
        text_printf(&demo->text, "%s", subjects[demo->subject]);
        break;
    case 'O':
        text_printf(&demo->text, "%s", subjects[demo->other_subject]);
        break;
    case 'V':
        text_printf(&demo->text, "%s", PICK(demo, verbs));
        break;
    case 'W':
        write_opinion(demo, demo->label);
        break;
    case 'L':
        write_opinion(demo, !demo->label);
        break;
    case 'P':
        text_printf(&demo->text, "%s", PICK(demo, people));
        break;
    default:
        text_printf(&demo->text, "%s", PICK(demo, occasions));
        break;
    }
}

/* Append a sentence, its slots filled from left to right and its first letter a capital. */
static void write_sentence(struct demo *demo, const char *template) {
    if (template[0] == '\0') {
        return;
    }
    if (demo->text.size > 0) {
        text_append(&demo->text, " ", 1);
    }
    size_t start = demo->text.size;
    for (const char *at = template; *at != '\0'; at++) {
        if (*at == '{') {
            write_slot(demo, at[1]);
            at += 2;
        } else {
            text_append(&demo->text, at, 1);
        }
    }
    if (!demo->text.failed) {
        demo->text.bytes[start] = (char)toupper((unsigned char)demo->text.bytes[start]);
    }
}

static void write_review(struct demo *demo) {
    text_clear(&demo->text);
    demo->label = (unsigned)rng_below(&demo->rng, 2);
    size_t count = sizeof subjects / sizeof subjects[0];
    demo->subject = (size_t)rng_below(&demo->rng, count);
    demo->other_subject = (demo->subject + 1 + (size_t)rng_below(&demo->rng, count - 1)) % count;
    write_sentence(demo, PICK(demo, openings));
    if (happens(demo, SINGLE_PERCENT)) {
        demo->negated_percent = SINGLE_NEGATED_PERCENT;
        write_sentence(demo, PICK(demo, single_opinions));
    } else {
        demo->negated_percent = PAIR_NEGATED_PERCENT;
        write_sentence(demo, PICK(demo, opinion_pairs));
    }
    write_sentence(demo, PICK(demo, closings));
}

static enum status demo_open(struct dataset *dataset, struct error *err) {
    (void)err;
    dataset->has_test = true;
    return STATUS_OK;
}

static enum status demo_read(struct dataset *dataset, enum dataset_part part, struct error *err) {
    struct demo demo = {.rng = rng_make(demo_seed, RNG_STREAM_DEMO, (uint32_t)part)};
    uint32_t examples = part == DATASET_TRAIN ? TRAIN_EXAMPLES : TEST_EXAMPLES;
    enum status status = STATUS_OK;
    for (uint32_t i = 0; i < examples && status == STATUS_OK; i++) {
        write_review(&demo);
        if (demo.text.failed) {
            status = error_set(err, STATUS_MEMORY, "no memory for the demo corpus");
            break;
        }
        status = dataset_push(dataset, demo.text.bytes, demo.text.size, demo.label,
                              demo.label ? "pos" : "neg", 3, err);
    }
    text_free(&demo.text);
    return status;
}

const struct dataset_reader dataset_demo = {
    .name = "demo corpus", .open = demo_open, .read = demo_read};
