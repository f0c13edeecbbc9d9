#include "io/export_onnx_text.h"

#include <stddef.h>

/* White space that becomes a space, and the ASCII punctuation, as in tokenizer.h. */
static const char white_space[] = "\t\n\v\f\r";
static const char punctuation[] = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~";

static void add_constants(struct onnx_graph *graph) {
    onnx_graph_constant_string(graph, "empty", "");
    onnx_graph_constant_string(graph, "space", " ");
    onnx_graph_constant(graph, "zero", 0);
    onnx_graph_constant(graph, "one", 1);
    onnx_graph_constants(graph, "one_column", (const int64_t[]){1}, 1);
}

/* A loop over the columns of ".parts" [N, k]: ".columns" is their number. */
static void count_columns(struct onnx_graph *graph) {
    onnx_graph_node(graph, "Shape", ".parts_shape", ".parts");
    onnx_graph_node(graph, "Gather", ".columns", ".parts_shape one");
}

/* The inputs and the output that every body has first. */
static struct onnx_graph *begin_body(struct onnx_graph *graph, const char *name) {
    struct onnx_graph *body = onnx_graph_create_body(graph, name);
    onnx_graph_input(body, ".i", ONNX_INT64, "");
    onnx_graph_input(body, ".go", ONNX_BOOL, "");
    onnx_graph_node(body, "Identity", ".go_on", ".go");
    onnx_graph_output(body, ".go_on", ONNX_BOOL, "");
    return body;
}

/* Column ".i" of a value that is as wide as ".parts". */
static void take_column(struct onnx_graph *body, const char *output, const char *input) {
    onnx_graph_node(body, "Gather", output, "%s .i", input);
    onnx_graph_int(body, "axis", 1);
}

/* ---- replacing ------------------------------------------------------------------------------- */

/* joined += (i > 0 and a part of this text ? by : "") + part; rows with fewer parts than others are
 * filled up with "". */
static struct onnx_graph *join_body(struct onnx_graph *graph, const char *by) {
    struct onnx_graph *body = begin_body(graph, "join");
    const char *joined = ".joined";
    onnx_graph_input(body, joined, ONNX_STRING, "?");
    take_column(body, ".part", ".parts");
    if (by != NULL) {
        onnx_graph_node(body, "Greater", ".behind", ".i zero");
        onnx_graph_node(body, "Less", ".within", ".i .counts");
        onnx_graph_node(body, "And", ".between", ".behind .within");
        onnx_graph_node(body, "Where", ".glue", ".between %s empty", by);
        onnx_graph_node(body, "StringConcat", ".glued", ".joined .glue");
        joined = ".glued";
    }
    onnx_graph_node(body, "StringConcat", ".longer", "%s .part", joined);
    onnx_graph_output(body, ".longer", ONNX_STRING, "?");
    return body;
}

/* Every `character` of the strings `input` [N] becomes the string constant `by` (NULL: nothing).
 * Returns the result's name. */
static const char *replace(struct onnx_graph *graph, const char *input, char character,
                           const char *by) {
    const char find[] = {character, '\0'};
    onnx_graph_scope(graph, "%s_%02x", by == NULL ? "delete" : "replace", (unsigned)character);
    onnx_graph_node(graph, "StringSplit", ".parts .counts", "%s", input);
    onnx_graph_string(graph, "delimiter", find);
    count_columns(graph);
    onnx_graph_node(graph, "Shape", ".shape", "%s", input);
    onnx_graph_node(graph, "Expand", ".nothing", "empty .shape");
    onnx_graph_node(graph, "Loop", ".result", ".columns - .nothing");
    onnx_graph_body(graph, "body", join_body(graph, by));
    /* Type inference loses the shape of what a loop carries, and StringSplit's needs it. */
    onnx_graph_value(graph, ".result", ONNX_STRING, "?");
    return onnx_graph_name(graph, ".result");
}

/* ---- strip_html ------------------------------------------------------------------------------ */

/* What is behind the first '>' of each part -> ".rest", with the space that the tag becomes;
 * whether there is one -> ".closes". */
static void split_off_tag_ends(struct onnx_graph *graph) {
    onnx_graph_node(graph, "StringSplit", ".halves .half_counts", ".parts");
    onnx_graph_string(graph, "delimiter", ">");
    onnx_graph_int(graph, "maxsplit", 1);
    onnx_graph_node(graph, "Greater", ".closes", ".half_counts one");
    /* Where no part has a '>', there are no second halves to gather: append empty ones. */
    onnx_graph_constants(graph, ".two", (const int64_t[]){2}, 1);
    onnx_graph_node(graph, "Concat", ".spare_shape", ".parts_shape .two");
    onnx_graph_int(graph, "axis", 0);
    onnx_graph_node(graph, "Expand", ".spare", "empty .spare_shape");
    onnx_graph_node(graph, "Concat", ".two_halves", ".halves .spare");
    onnx_graph_int(graph, "axis", 2);
    onnx_graph_node(graph, "Gather", ".second_half", ".two_halves one");
    onnx_graph_int(graph, "axis", 2);
    onnx_graph_node(graph, "StringConcat", ".rest", "space .second_half");
}

/* A part opens a tag when it starts like one and a '>' follows, in it or behind it -> ".opens". */
static void find_tag_starts(struct onnx_graph *graph) {
    onnx_graph_node(graph, "RegexFullMatch", ".starts", ".parts");
    onnx_graph_string(graph, "pattern", "(?s)[A-Za-z/!].*");
    onnx_graph_node(graph, "Cast", ".close_marks", ".closes");
    onnx_graph_int(graph, "to", ONNX_INT64);
    onnx_graph_node(graph, "CumSum", ".closes_left", ".close_marks one");
    onnx_graph_int(graph, "reverse", 1);
    onnx_graph_node(graph, "Greater", ".closable", ".closes_left zero");
    onnx_graph_node(graph, "And", ".opens", ".starts .closable");
}

/* kept += inside a tag ? (closes ? rest : "") : part; a '<' outside of tags is punctuation, which
 * goes anyway. The first part has no '<' in front. */
static struct onnx_graph *tags_body(struct onnx_graph *graph) {
    struct onnx_graph *body = begin_body(graph, "tags");
    onnx_graph_input(body, ".kept", ONNX_STRING, "?");
    onnx_graph_input(body, ".inside", ONNX_BOOL, "?");
    take_column(body, ".part", ".parts");
    take_column(body, ".part_opens", ".opens");
    take_column(body, ".part_closes", ".closes");
    take_column(body, ".part_rest", ".rest");
    onnx_graph_node(body, "Greater", ".behind", ".i zero");
    onnx_graph_node(body, "And", ".enters", ".behind .part_opens");
    onnx_graph_node(body, "Or", ".in_tag", ".inside .enters");
    onnx_graph_node(body, "Where", ".after_tag", ".part_closes .part_rest empty");
    onnx_graph_node(body, "Where", ".piece", ".in_tag .after_tag .part");
    onnx_graph_node(body, "StringConcat", ".longer", ".kept .piece");
    onnx_graph_node(body, "Not", ".part_stays_open", ".part_closes");
    onnx_graph_node(body, "And", ".still_inside", ".in_tag .part_stays_open");
    onnx_graph_output(body, ".longer", ONNX_STRING, "?");
    onnx_graph_output(body, ".still_inside", ONNX_BOOL, "?");
    return body;
}

static const char *strip_tags(struct onnx_graph *graph, const char *input) {
    onnx_graph_scope(graph, "strip_html");
    onnx_graph_node(graph, "StringSplit", ".parts .counts", "%s", input);
    onnx_graph_string(graph, "delimiter", "<");
    count_columns(graph);
    split_off_tag_ends(graph);
    find_tag_starts(graph);
    onnx_graph_node(graph, "Shape", ".shape", "%s", input);
    onnx_graph_node(graph, "Expand", ".nothing", "empty .shape");
    onnx_graph_node(graph, "Expand", ".zeros", "zero .shape");
    onnx_graph_node(graph, "Cast", ".outside", ".zeros");
    onnx_graph_int(graph, "to", ONNX_BOOL);
    onnx_graph_node(graph, "Loop", ".result .unclosed", ".columns - .nothing .outside");
    onnx_graph_body(graph, "body", tags_body(graph));
    onnx_graph_value(graph, ".result", ONNX_STRING, "?");
    return onnx_graph_name(graph, ".result");
}

/* ---- words and ids --------------------------------------------------------------------------- */

/* Split at single spaces: StringSplit without a delimiter would take "white space", which runtimes
 * understand differently. Empty words are dropped later. One empty word more for each text keeps
 * the width above 0 and gives pack_ids a column that no token needs. */
static void split_words(struct onnx_graph *graph, const char *text) {
    onnx_graph_node(graph, "StringSplit", "split_words split_counts", "%s", text);
    onnx_graph_string(graph, "delimiter", " ");
    onnx_graph_node(graph, "Shape", "text_shape", "text");
    onnx_graph_node(graph, "Concat", "column_shape", "text_shape one_column");
    onnx_graph_int(graph, "axis", 0);
    onnx_graph_node(graph, "Expand", "empty_column", "empty column_shape");
    onnx_graph_node(graph, "Concat", "words", "split_words empty_column");
    onnx_graph_int(graph, "axis", 1);
}

/* Strings [N] -> ids: 0 of "", 1 of what the vocabulary lacks. */
static void look_up(struct onnx_graph *graph, const struct export_model *model, const char *words) {
    onnx_graph_node(graph, "ai.onnx.ml:LabelEncoder", "unique_ids", "%s", words);
    onnx_graph_strings(graph, "keys_strings", model->tokens, (size_t)model->vocabulary_size);
    int64_t *ids = onnx_graph_new_ints(graph, "values_int64s", (size_t)model->vocabulary_size);
    for (uint64_t i = 0; ids != NULL && i < model->vocabulary_size; i++) {
        ids[i] = (int64_t)i;
    }
    onnx_graph_int(graph, "default_int64", 1);
}

/* Move the ids that are not 0 to the left, in their order: "loose_ids" -> "packed_ids", their
 * number -> "token_count". All others, which are 0, are added to the last column. */
static void pack_ids(struct onnx_graph *graph) {
    onnx_graph_node(graph, "Greater", "is_token", "loose_ids zero");
    onnx_graph_node(graph, "Cast", "token_marks", "is_token");
    onnx_graph_int(graph, "to", ONNX_INT64);
    onnx_graph_node(graph, "ReduceSum", "token_count", "token_marks one_column");
    onnx_graph_int(graph, "keepdims", 0);
    onnx_graph_node(graph, "CumSum", "token_ranks", "token_marks one");
    onnx_graph_node(graph, "Sub", "token_columns", "token_ranks one");
    onnx_graph_node(graph, "Gather", "width", "words_shape one");
    onnx_graph_node(graph, "Sub", "last_column", "width one");
    onnx_graph_node(graph, "Where", "columns", "is_token token_columns last_column");
    onnx_graph_node(graph, "Expand", "no_ids", "zero words_shape");
    onnx_graph_node(graph, "ScatterElements", "packed_ids", "no_ids columns loose_ids");
    onnx_graph_int(graph, "axis", 1);
    onnx_graph_string(graph, "reduction", "add");
}

static void cut_ids(struct onnx_graph *graph, uint64_t max_length) {
    if (max_length == 0) {
        onnx_graph_node(graph, "Identity", "token_ids", "packed_ids");
        onnx_graph_node(graph, "Identity", "lengths", "token_count");
        return;
    }
    int64_t limit = max_length < INT64_MAX ? (int64_t)max_length : INT64_MAX;
    onnx_graph_constants(graph, "first_column", (const int64_t[]){0}, 1);
    onnx_graph_constants(graph, "max_length", &limit, 1);
    onnx_graph_node(graph, "Slice", "token_ids", "packed_ids first_column max_length one_column");
    onnx_graph_node(graph, "Min", "lengths", "token_count max_length");
}

void export_onnx_text(struct onnx_graph *graph, const struct export_model *model) {
    add_constants(graph);
    onnx_graph_input(graph, "text", ONNX_STRING, "batch");
    const char *text = model->strip_html ? strip_tags(graph, "text") : "text";
    for (const char *c = white_space; *c != '\0'; c++) {
        text = replace(graph, text, *c, "space");
    }
    split_words(graph, text);
    onnx_graph_node(graph, "Unique", "unique_words - word_places", "words");
    const char *words = "unique_words";
    for (const char *c = punctuation; *c != '\0'; c++) {
        words = replace(graph, words, *c, NULL);
    }
    for (char c = 'A'; c <= 'Z'; c++) {
        const char lower[] = {(char)(c - 'A' + 'a'), '\0'};
        onnx_graph_constant_string(graph, lower, lower);
        words = replace(graph, words, c, lower);
    }
    look_up(graph, model, words);
    onnx_graph_node(graph, "Gather", "flat_ids", "unique_ids word_places");
    onnx_graph_node(graph, "Shape", "words_shape", "words");
    onnx_graph_node(graph, "Reshape", "loose_ids", "flat_ids words_shape");
    pack_ids(graph);
    cut_ids(graph, model->max_length);
}

void export_onnx_label(struct onnx_graph *graph, const struct export_model *model) {
    onnx_graph_new_weight(graph, "threshold", 0, NULL); /* 0 */
    onnx_graph_constant_strings(graph, "label_names", model->label_names, 2);
    onnx_graph_node(graph, "Greater", "is_class_1", "logit threshold");
    onnx_graph_node(graph, "Cast", "class", "is_class_1");
    onnx_graph_int(graph, "to", ONNX_INT64);
    onnx_graph_node(graph, "Gather", "label", "label_names class");
    onnx_graph_output(graph, "label", ONNX_STRING, "batch");
}
