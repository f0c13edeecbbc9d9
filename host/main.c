/* main.c - the program `cairn`: finds the command, reports what it says, decides the exit code.
 *
 * Data goes to stdout, everything else to stderr. stdout is flushed and checked at the end: a full
 * disk is an I/O error, a reader that has gone (as in `cairn predict | head`) is not. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "host/base/text.h"
#include "host/cmd.h"
#include "host/options_table.h"
#include "host/signals.h"
#include "kernels/backend.h"

static const command_function functions[COMMAND_COUNT] = {
    [COMMAND_TRAIN] = cmd_train,       [COMMAND_EVALUATE] = cmd_evaluate,
    [COMMAND_PREDICT] = cmd_predict,   [COMMAND_CHECKPOINTS] = cmd_checkpoints,
    [COMMAND_INSPECT] = cmd_inspect,   [COMMAND_VOCABULARY] = cmd_vocabulary,
    [COMMAND_TOKENIZE] = cmd_tokenize,
};

/* ---- words -------------------------------------------------------------------------------- */

static void print_usage(FILE *out) {
    fprintf(out,
            "Usage: cairn COMMAND [OPTION...]\n"
            "Train and use bidirectional-LSTM text classifiers, with checkpoints that training "
            "never waits for.\n\nCommands:\n");
    for (int i = 0; i < COMMAND_COUNT; i++) {
        fprintf(out, "  %-12s %s\n", command_name((enum command)i),
                command_summary((enum command)i));
    }
    fprintf(out, "\n  cairn COMMAND --help   the options of a command and their defaults\n"
                 "  cairn --version        version, backends and instruction sets\n");
}

static void print_version(void) {
    printf("cairn %s\nbackends: cpu, %s\ninstruction sets:", CAIRN_VERSION, backend_cuda_build());
    for (const char *const *name = backend_cpu_isa_names(); *name != NULL; name++) {
        printf(" %s", *name);
    }
    printf("\n");
}

static bool find_command(const char *word, enum command *out) {
    for (int i = 0; i < COMMAND_COUNT; i++) {
        if (strcmp(word, command_name((enum command)i)) == 0) {
            *out = (enum command)i;
            return true;
        }
    }
    return false;
}

static enum status unknown_command(const char *word, struct error *err) {
    const char *names[COMMAND_COUNT + 1];
    char shown[64];
    for (int i = 0; i < COMMAND_COUNT; i++) {
        names[i] = command_name((enum command)i);
    }
    names[COMMAND_COUNT] = "help";
    const char *nearest = options_nearest(word, names, COMMAND_COUNT + 1);
    text_escape(word, strlen(word), shown, sizeof shown);
    if (nearest != NULL) {
        return error_set(
            err, STATUS_USAGE,
            "there is no command \"%s\"; did you mean \"%s\"? (cairn --help lists all)", shown,
            nearest);
    }
    return error_set(err, STATUS_USAGE, "there is no command \"%s\" (cairn --help lists all)",
                     shown);
}

/* ---- running ------------------------------------------------------------------------------ */

static enum status run_command(enum command command, int argc, char **argv, int *exit_code,
                               struct error *err) {
    struct options options;
    bool exit_early;
    TRY(options_parse(command, argc, argv, &options, &exit_early, err));
    enum status status = STATUS_OK;
    if (!exit_early) {
        status = functions[command](&options, exit_code, err);
    }
    options_free(&options);
    return status;
}

static enum status help_command(const char *word, struct error *err) {
    char help[] = "--help";
    char *arguments[] = {(char *)word, help, NULL};
    enum command command;
    int exit_code;
    if (!find_command(word, &command)) {
        return unknown_command(word, err);
    }
    return run_command(command, 2, arguments, &exit_code, err);
}

/* argv[0] is the first word behind the program's name. */
static enum status dispatch(int argc, char **argv, const char **name, int *exit_code,
                            struct error *err) {
    enum command command;
    if (argc == 0) {
        print_usage(stderr);
        *exit_code = status_exit_code(STATUS_USAGE);
        return STATUS_OK;
    }
    if (strcmp(argv[0], "--help") == 0 || (strcmp(argv[0], "help") == 0 && argc == 1)) {
        print_usage(stdout);
        return STATUS_OK;
    }
    if (strcmp(argv[0], "help") == 0) {
        return help_command(argv[1], err);
    }
    if (strcmp(argv[0], "--version") == 0) {
        print_version();
        return STATUS_OK;
    }
    if (!find_command(argv[0], &command)) {
        return unknown_command(argv[0], err);
    }
    *name = command_name(command);
    return run_command(command, argc, argv, exit_code, err);
}

/* ---- standard streams --------------------------------------------------------------------- */

/* Descriptors 0 to 2 must be taken: otherwise a checkpoint could be opened as 1 and get the output.
 * Opened such that using them fails as it does on a closed one. */
static void occupy_standard_descriptors(void) {
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) == -1 && errno == EBADF) {
            int opened = open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
            (void)opened; /* the lowest free descriptor, so `fd`; without /dev/null nothing can be
                             done */
        }
    }
}

static bool reader_has_gone(void) {
    struct pollfd descriptor = {.fd = STDOUT_FILENO, .events = POLLOUT};
    return poll(&descriptor, 1, 0) == 1 && (descriptor.revents & (POLLERR | POLLHUP)) != 0;
}

/* Flush stdout. `status` is what the run came to; a write error counts only if that is OK. */
static enum status finish_output(enum status status, struct error *err) {
    bool had_failed = ferror(stdout) != 0;
    bool flushed = fflush(stdout) == 0;
    int reason = errno;
    if ((flushed && !had_failed) || reader_has_gone()) {
        return status;
    }
    if (status != STATUS_OK) {
        return status;
    }
    return error_set(err, STATUS_IO, "the output could not be written: %s",
                     flushed ? "an earlier write failed" : strerror(reason));
}

int main(int argc, char **argv) {
    struct error error = {.message = ""};
    const char *name = NULL;
    int exit_code = -1;
    occupy_standard_descriptors();
    enum status status = signals_start(&error);
    if (status == STATUS_OK) {
        status = dispatch(argc > 0 ? argc - 1 : 0, argv + 1, &name, &exit_code, &error);
    }
    enum status finished = finish_output(status, &error);
    if (finished != STATUS_OK) {
        fprintf(stderr, "cairn%s%s: %s\n", name == NULL ? "" : " ", name == NULL ? "" : name,
                error.message[0] != '\0' ? error.message : status_text(finished));
    }
    if (finished != status || exit_code < 0) {
        exit_code = status_exit_code(finished);
    }
    return exit_code;
}
