/* options_parse.c - from argv, environment and file to `struct options`, and --help, both by argp.
 */
#include <argp.h>
#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "host/options_table.h"
#include "io/file.h"

enum level { LEVEL_DEFAULT, LEVEL_FILE, LEVEL_ENVIRONMENT, LEVEL_FLAG };

/* Keys of argp options: rows count from KEY_ROW; none is a character, so that there are no short
 * ones. */
enum { KEY_CONFIG = 0x100, KEY_SET, KEY_PRINT_CONFIG, KEY_HELP, KEY_USAGE, KEY_ROW };

enum { CONFIG_LIMIT_BYTES = 1 << 20 };

struct parse {
    enum command command;
    struct options *options;
    struct options checked; /* takes values that are only checked */
    unsigned char level_of[8 * sizeof((struct options *)0)->given];
    const char *config; /* NULL: none */
    bool wants_help, wants_usage;
    enum status status;
    struct error *err;
};

static bool command_takes(enum command command, const struct option_row *row) {
    return (row->commands >> command & 1) != 0;
}

static bool takes_file(enum command command) {
    return command == COMMAND_PREDICT || command == COMMAND_TOKENIZE || command == COMMAND_INSPECT;
}

/* ---- one value from one source ------------------------------------------------------------ */

/* Set the row unless a higher level has. `source` names the option as the user wrote it. */
static enum status assign(struct parse *parse, int index, const char *value, enum level level,
                          const char *source, struct error *err) {
    const struct option_row *row = &option_rows[index];
    bool counts = command_takes(parse->command, row) && parse->level_of[index] <= level;
    char expected[160], shown[256];
    bool failed_memory = false;
    enum status bad = level == LEVEL_FLAG ? STATUS_USAGE : STATUS_CONFIG;
    CHECK(level != LEVEL_FLAG || value[0] != '\0', err, bad, "%s needs a value, not an empty one",
          source);
    if (!options_set_row(counts ? parse->options : &parse->checked, row, value, expected,
                         &failed_memory)) {
        return error_set(err, bad, "%s%s%s: expected %s", source, level == LEVEL_FLAG ? " " : " = ",
                         text_escape(value, strlen(value), shown, sizeof shown), expected);
    }
    CHECK(!failed_memory, err, STATUS_MEMORY, "out of memory for the options");
    if (counts) {
        parse->level_of[index] = (unsigned char)level;
        options_mark_given(parse->options, (size_t)index);
    }
    return STATUS_OK;
}

/* ---- words about unknown options ---------------------------------------------------------- */

static const char *nearest_option(enum command command, const char *word) {
    const char *names[8 * sizeof((struct options *)0)->given + 5];
    size_t count = 0;
    for (size_t i = 0; i < options_row_count(); i++) {
        if (command_takes(command, &option_rows[i])) {
            names[count++] = option_rows[i].name;
        }
    }
    static const char *const others[] = {"config", "set", "print-config", "help", "usage"};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        names[count++] = others[i];
    }
    return options_nearest(word, names, count);
}

/* "evaluate and predict" for an option of other commands. */
static void list_commands(const struct option_row *row, char *out, size_t capacity) {
    size_t used = 0;
    out[0] = '\0';
    for (int c = 0; c < COMMAND_COUNT && used < capacity; c++) {
        if (command_takes((enum command)c, row)) {
            used += (size_t)snprintf(out + used, capacity - used, "%s%s", used > 0 ? ", " : "",
                                     command_name((enum command)c));
        }
    }
}

static enum status unknown_option(enum command command, const char *name, struct error *err) {
    char shown[96], users[192];
    int index = option_row_find(command, name);
    const char *verb = command_name(command);
    text_escape(name, strlen(name), shown, sizeof shown);
    if (index >= 0) {
        list_commands(&option_rows[index], users, sizeof users);
        return error_set(err, STATUS_USAGE, "%s does not take --%s; it is an option of: %s", verb,
                         shown, users);
    }
    const char *nearest = nearest_option(command, name);
    if (nearest != NULL) {
        return error_set(err, STATUS_USAGE,
                         "there is no option --%s; did you mean --%s? (cairn %s --help lists all)",
                         shown, nearest, verb);
    }
    return error_set(err, STATUS_USAGE, "there is no option --%s (cairn %s --help lists all)",
                     shown, verb);
}

/* argp has refused `word`: an unknown option, a beginning of several, or one that lacks its value.
 */
static enum status refused_word(enum command command, const char *word, struct error *err) {
    char shown[96], name[96];
    if (strncmp(word, "--", 2) != 0) {
        return error_set(err, STATUS_USAGE,
                         "%s: options are written out, as in --seed 7 (cairn %s --help lists all)",
                         text_escape(word, strlen(word), shown, sizeof shown),
                         command_name(command));
    }
    snprintf(name, sizeof name, "%.*s", (int)strcspn(word + 2, "="), word + 2);
    size_t size = strlen(name), beginnings = 0;
    for (size_t i = 0; i < options_row_count(); i++) {
        const struct option_row *row = &option_rows[i];
        if (!command_takes(command, row)) {
            continue;
        }
        CHECK(strcmp(row->name, name) != 0, err, STATUS_USAGE, "--%s needs a value", name);
        beginnings += strncmp(row->name, name, size) == 0;
    }
    CHECK(strcmp(name, "config") != 0 && strcmp(name, "set") != 0, err, STATUS_USAGE,
          "--%s needs a value", name);
    CHECK(strcmp(name, "help") != 0 && strcmp(name, "usage") != 0 &&
              strcmp(name, "print-config") != 0,
          err, STATUS_USAGE, "--%s takes no value", name);
    CHECK(beginnings < 2 || size == 0, err, STATUS_USAGE,
          "--%s could be the beginning of several options (cairn %s --help lists all)", name,
          command_name(command));
    CHECK(beginnings != 1, err, STATUS_USAGE, "--%s needs a value", name);
    return unknown_option(command, name, err);
}

/* ---- argp --------------------------------------------------------------------------------- */

static enum status set_pair(struct parse *parse, const char *pair) {
    char name[96], source[128], shown[128];
    const char *equals = strchr(pair, '=');
    CHECK(equals != NULL && equals != pair, parse->err, STATUS_USAGE,
          "--set %s: expected name=value", text_escape(pair, strlen(pair), shown, sizeof shown));
    snprintf(name, sizeof name, "%.*s", (int)(equals - pair), pair);
    int index = option_row_find(parse->command, name);
    if (index < 0 || !command_takes(parse->command, &option_rows[index])) {
        return unknown_option(parse->command, name, parse->err);
    }
    snprintf(source, sizeof source, "--set %s", name);
    return assign(parse, index, equals + 1, LEVEL_FLAG, source, parse->err);
}

static enum status take_directory(struct parse *parse, const char *directory) {
    struct options *options = parse->options;
    CHECK(directory[0] != '\0', parse->err, STATUS_USAGE, "the name of a DIR is empty");
    CHECK(options->directory_count < OPTIONS_DIRECTORIES_MAX, parse->err, STATUS_USAGE,
          "at most %d directories can be compared", OPTIONS_DIRECTORIES_MAX);
    options->directories[options->directory_count++] = directory;
    return STATUS_OK;
}

static enum status take_file(struct parse *parse, const char *file) {
    char shown[128];
    text_escape(file, strlen(file), shown, sizeof shown);
    CHECK(takes_file(parse->command), parse->err, STATUS_USAGE,
          "unexpected \"%s\": there is nothing to give besides options", shown);
    CHECK(parse->options->file[0] == '\0', parse->err, STATUS_USAGE,
          "unexpected \"%s\": there can be only one FILE", shown);
    CHECK(file[0] != '\0', parse->err, STATUS_USAGE, "the name of the FILE is empty");
    parse->options->file = file;
    return STATUS_OK;
}

static enum status take_row(struct parse *parse, int index, const char *value) {
    char source[96];
    snprintf(source, sizeof source, "--%s", option_rows[index].name);
    return assign(parse, index, value == NULL ? "on" : value, LEVEL_FLAG, source, parse->err);
}

static error_t take_key(int key, char *value, struct argp_state *state) {
    struct parse *parse = state->input;
    enum status status = STATUS_OK;
    if (key >= KEY_ROW && key < KEY_ROW + (int)options_row_count()) {
        status = take_row(parse, key - KEY_ROW, value);
    } else if (key == KEY_CONFIG) {
        parse->config = value;
    } else if (key == KEY_SET) {
        status = set_pair(parse, value);
    } else if (key == KEY_PRINT_CONFIG) {
        parse->options->print_config = true;
    } else if (key == KEY_HELP) {
        parse->wants_help = true;
    } else if (key == KEY_USAGE) {
        parse->wants_usage = true;
    } else if (key == ARGP_KEY_ARG) {
        status =
            parse->command == COMMAND_PLOT ? take_directory(parse, value) : take_file(parse, value);
    } else if (key == ARGP_KEY_ERROR) {
        if (parse->status == STATUS_OK) { /* not ours: argp did not know the word before `next` */
            parse->status = refused_word(parse->command, state->argv[state->next - 1], parse->err);
        }
    } else {
        return ARGP_ERR_UNKNOWN;
    }
    if (status != STATUS_OK) {
        parse->status = status;
        return EINVAL;
    }
    return 0;
}

/* What argp needs of a command: its options with a heading for each group. */
struct interface {
    struct argp argp;
    struct argp_option *options;
    struct text *helps; /* [options_row_count()] "what it is (default: X)" */
};

static const struct argp_option general_options[] = {
    {.name = "config",
     .key = KEY_CONFIG,
     .arg = "FILE",
     .doc = "read options from this INI file of \"name = value\" lines (default: none)"},
    {.name = "set", .key = KEY_SET, .arg = "NAME=VALUE", .doc = "the same as --NAME VALUE"},
    {.name = "print-config",
     .key = KEY_PRINT_CONFIG,
     .doc = "print the effective options as such a file, and exit"},
    {.name = "help", .key = KEY_HELP, .doc = "print this, and exit"},
    {.name = "usage", .key = KEY_USAGE, .doc = "print the options in short, and exit"},
};

static void interface_deinit(struct interface *interface) {
    for (size_t i = 0; interface->helps != NULL && i < options_row_count(); i++) {
        text_free(&interface->helps[i]);
    }
    free(interface->helps);
    free(interface->options);
}

/* Headings and rows of one group; returns where the next option goes. */
static struct argp_option *add_group(struct interface *interface, struct argp_option *at,
                                     enum command command, unsigned group) {
    bool has_heading = false;
    for (size_t i = 0; i < options_row_count(); i++) {
        const struct option_row *row = &option_rows[i];
        if (row->group != group || !command_takes(command, row)) {
            continue;
        }
        if (!has_heading) {
            *at++ = (struct argp_option){.doc = option_groups[group], .group = (int)group + 1};
            has_heading = true;
        }
        text_printf(&interface->helps[i], "%s (default: %s)", row->help,
                    options_row(i).default_shown);
        bool flag = row->kind == OPTION_KIND_FLAG;
        *at++ = (struct argp_option){.name = row->name,
                                     .key = KEY_ROW + (int)i,
                                     .arg = flag ? "on|off" : row->argument,
                                     .flags = flag ? OPTION_ARG_OPTIONAL : 0,
                                     .doc = interface->helps[i].bytes,
                                     .group = (int)group + 1};
    }
    return at;
}

static enum status interface_init(struct interface *interface, enum command command,
                                  struct error *err) {
    size_t general = sizeof general_options / sizeof general_options[0], groups = 0;
    while (option_groups[groups] != NULL) {
        groups++;
    }
    size_t most = options_row_count() + groups + general + 2;
    *interface = (struct interface){.options = calloc(most, sizeof *interface->options),
                                    .helps = calloc(options_row_count(), sizeof *interface->helps)};
    bool enough = interface->options != NULL && interface->helps != NULL;
    struct argp_option *at = interface->options;
    for (unsigned group = 0; enough && group < groups; group++) {
        at = add_group(interface, at, command, group);
    }
    for (size_t i = 0; enough && i < options_row_count(); i++) {
        enough = !interface->helps[i].failed;
    }
    if (!enough) {
        interface_deinit(interface);
        return error_set(err, STATUS_MEMORY, "out of memory for the options");
    }
    *at++ =
        (struct argp_option){.doc = "General:", .group = -1}; /* where argp puts --help by itself */
    for (size_t i = 0; i < general; i++) {
        *at = general_options[i];
        at++->group = -1;
    }
    interface->argp.options = interface->options;
    interface->argp.parser = take_key;
    interface->argp.args_doc = command == COMMAND_INSPECT ? "FILE"
                               : command == COMMAND_PLOT  ? "[DIR...]"
                               : takes_file(command)      ? "[FILE]"
                                                          : NULL;
    return STATUS_OK;
}

static void print_help(struct interface *interface, enum command command, bool usage_only) {
    char name[64], words[512];
    snprintf(name, sizeof name, "cairn %s", command_name(command));
    snprintf(words, sizeof words,
             "%s%s\vAn option may also come from the environment, as CAIRN_ "
             "and its name in capitals with _ for -, and from the file of --config; a flag counts "
             "more than the environment, and that more than the file.",
             command_summary(command),
             !takes_file(command) || command == COMMAND_INSPECT
                 ? ""
                 : ". Without a FILE, or with -, the texts come from standard input");
    interface->argp.doc = words;
    argp_help(&interface->argp, stdout,
              usage_only ? ARGP_HELP_USAGE : ARGP_HELP_SHORT_USAGE | ARGP_HELP_LONG | ARGP_HELP_DOC,
              name);
}

/* ---- environment and file ----------------------------------------------------------------- */

static void environment_name(const char *name, char out[96]) {
    size_t used = (size_t)snprintf(out, 96, "CAIRN_");
    for (; *name != '\0' && used < 95; name++) {
        out[used++] = *name == '-' ? '_' : (char)toupper((unsigned char)*name);
    }
    out[used] = '\0';
}

static enum status read_environment(struct parse *parse) {
    char variable[96];
    for (size_t i = 0; i < options_row_count(); i++) {
        if (!command_takes(parse->command, &option_rows[i])) {
            continue;
        }
        environment_name(option_rows[i].name, variable);
        const char *value = getenv(variable);
        if (value != NULL && value[0] != '\0') {
            TRY(assign(parse, (int)i, value, LEVEL_ENVIRONMENT, variable, parse->err));
        }
    }
    const char *config = getenv("CAIRN_CONFIG");
    if (parse->config == NULL && config != NULL && config[0] != '\0') {
        parse->config = config;
    }
    return STATUS_OK;
}

/* Two commands may have different options of one name. In the file of a command that has neither,
 * the value must suit one of them. */
static bool suits_another_command(struct parse *parse, const char *name, const char *value) {
    char expected[160];
    bool failed_memory = false;
    for (size_t i = 0; i < options_row_count(); i++) {
        if (strcmp(option_rows[i].name, name) == 0 &&
            options_set_row(&parse->checked, &option_rows[i], value, expected, &failed_memory)) {
            return !failed_memory;
        }
    }
    return false;
}

static enum status config_option(void *user, const char *name, const char *value,
                                 struct error *err) {
    struct parse *parse = user;
    char shown[96];
    int index = option_row_find(parse->command, name);
    if (index >= 0 && !command_takes(parse->command, &option_rows[index]) &&
        suits_another_command(parse, name, value)) {
        return STATUS_OK;
    }
    if (index >= 0) {
        return assign(parse, index, value, LEVEL_FILE, name, err);
    }
    const char *nearest = nearest_option(COMMAND_TRAIN, name);
    text_escape(name, strlen(name), shown, sizeof shown);
    if (nearest != NULL && option_row_find(COMMAND_TRAIN, nearest) >= 0) {
        return error_set(err, STATUS_CONFIG, "there is no option %s; did you mean %s?", shown,
                         nearest);
    }
    return error_set(err, STATUS_CONFIG, "there is no option %s", shown);
}

static enum status read_config(struct parse *parse) {
    char shown[256];
    uint8_t *bytes = NULL;
    size_t size = 0;
    if (parse->config == NULL) {
        return STATUS_OK;
    }
    if (file_read_all(&file_posix, parse->config, CONFIG_LIMIT_BYTES, &bytes, &size, parse->err) !=
        STATUS_OK) {
        if (parse->err != NULL) {
            parse->err->status = STATUS_CONFIG;
        }
        return error_prefix(parse->err, STATUS_CONFIG, "--config");
    }
    enum status status =
        options_config_read((const char *)bytes, size,
                            text_escape(parse->config, strlen(parse->config), shown, sizeof shown),
                            config_option, parse, parse->err);
    free(bytes);
    return status;
}

/* ---- all of it ---------------------------------------------------------------------------- */

static enum status print_config(const struct options *options, struct error *err) {
    struct text text = {0};
    options_write(options, &text);
    bool failed = text.failed;
    if (!failed) {
        fwrite(text.bytes, 1, text.size, stdout); /* main sees whether stdout has failed */
    }
    text_free(&text);
    CHECK(!failed, err, STATUS_MEMORY, "out of memory for the options");
    return STATUS_OK;
}

static enum status parse_all(struct parse *parse, int argc, char **argv, bool *exit_early) {
    struct interface interface;
    TRY(interface_init(&interface, parse->command, parse->err));
    error_t failure = argp_parse(&interface.argp, argc, argv,
                                 ARGP_NO_EXIT | ARGP_NO_ERRS | ARGP_NO_HELP, NULL, parse);
    if (parse->wants_help || parse->wants_usage) {
        print_help(&interface, parse->command, !parse->wants_help);
        *exit_early = true;
    }
    interface_deinit(&interface);
    if (*exit_early) {
        return STATUS_OK;
    }
    TRY(parse->status);
    CHECK(failure == 0, parse->err, STATUS_MEMORY, "reading the options: %s", strerror(failure));
    TRY(read_environment(parse));
    TRY(read_config(parse));
    TRY(options_settle(parse->options, parse->level_of, parse->err));
    TRY(options_check(parse->options, parse->err));
    if (parse->options->print_config) {
        *exit_early = true;
        return print_config(parse->options, parse->err);
    }
    return options_check_required(parse->options, parse->err);
}

enum status options_parse(enum command command, int argc, char **argv, struct options *out,
                          bool *exit_early, struct error *err) {
    struct parse parse = {.command = command, .options = out, .err = err};
    *exit_early = false;
    TRY(options_init(command, out, err));
    enum status status = options_init(command, &parse.checked, err);
    if (status == STATUS_OK) {
        status = parse_all(&parse, argc, argv, exit_early);
        options_free(&parse.checked);
    }
    if (status != STATUS_OK) {
        options_free(out);
    }
    return status;
}
