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
#include "host/revision.h" /* made by the build */
#include "host/signals.h"
#include "kernels/backend.h"

static const command_function functions[COMMAND_COUNT] = {
    [COMMAND_TRAIN] = cmd_train,
    [COMMAND_EVALUATE] = cmd_evaluate,
    [COMMAND_PREDICT] = cmd_predict,
    [COMMAND_CHECKPOINTS] = cmd_checkpoints,
    [COMMAND_INSPECT] = cmd_inspect,
    [COMMAND_EXPORT] = cmd_export,
    [COMMAND_PLOT] = cmd_plot,
    [COMMAND_VOCABULARY] = cmd_vocabulary,
    [COMMAND_TOKENIZE] = cmd_tokenize,
    [COMMAND_BENCH_TRAIN] = cmd_bench_train,
    [COMMAND_BENCH_OPS] = cmd_bench_ops,
    [COMMAND_BENCH_DATA] = cmd_bench_data,
    [COMMAND_BENCH_CHECKPOINT] = cmd_bench_checkpoint,
};

/* ---- words -------------------------------------------------------------------------------- */

static void print_usage(FILE *out) {
    fprintf(out,
            "Usage: cairn COMMAND [OPTION...]\n"
            "Train and use bidirectional-LSTM text classifiers, with checkpoints that training "
            "never waits for.\n\nCommands:\n");
    for (int i = 0; i < COMMAND_COUNT; i++) {
        fprintf(out, "  %-17s %s\n", command_name((enum command)i),
                command_summary((enum command)i));
    }
    fprintf(out, "\n  cairn COMMAND --help   the options of a command and their defaults\n"
                 "  cairn --version        version, commit, backends and instruction sets\n");
}

static void print_version(void) {
    printf("cairn %s\nrevision: %s\nbackends: cpu, %s\ninstruction sets:", CAIRN_VERSION,
           CAIRN_REVISION, backend_cuda_build());
    for (const char *const *name = backend_cpu_isa_names(); *name != NULL; name++) {
        printf(" %s", *name);
    }
    printf("\n");
}

/* The benchmarks are commands whose names begin with this word. */
static const char bench[] = "bench";

/* "train" of "bench train"; NULL for a command that is no benchmark. */
static const char *benchmark_name(enum command command) {
    const char *name = command_name(command);
    size_t size = sizeof bench - 1;
    return strncmp(name, bench, size) == 0 && name[size] == ' ' ? name + size + 1 : NULL;
}

static void print_benchmarks(FILE *out) {
    fprintf(out, "Usage: cairn bench BENCHMARK [OPTION...]\n"
                 "Measure this program on this machine.\n\nBenchmarks:\n");
    for (int i = 0; i < COMMAND_COUNT; i++) {
        const char *name = benchmark_name((enum command)i);
        if (name != NULL) {
            fprintf(out, "  %-12s %s\n", name, command_summary((enum command)i));
        }
    }
    fprintf(out, "\n  cairn bench BENCHMARK --help   its options and their defaults\n");
}

/* The command that `words` [count] begin with, and how many words its name takes. */
static bool find_command(char *const *words, int count, enum command *out, int *taken) {
    for (int i = 0; i < COMMAND_COUNT; i++) {
        const char *benchmark = benchmark_name((enum command)i);
        bool found = benchmark == NULL ? strcmp(words[0], command_name((enum command)i)) == 0
                                       : count > 1 && strcmp(words[0], bench) == 0 &&
                                             strcmp(words[1], benchmark) == 0;
        if (found) {
            *out = (enum command)i;
            *taken = benchmark == NULL ? 1 : 2;
            return true;
        }
    }
    return false;
}

static enum status unknown_benchmark(const char *word, struct error *err) {
    const char *names[COMMAND_COUNT];
    char shown[64];
    size_t count = 0;
    for (int i = 0; i < COMMAND_COUNT; i++) {
        if (benchmark_name((enum command)i) != NULL) {
            names[count++] = benchmark_name((enum command)i);
        }
    }
    const char *nearest = options_nearest(word, names, count);
    text_escape(word, strlen(word), shown, sizeof shown);
    print_benchmarks(stderr);
    return error_set(err, STATUS_USAGE, "there is no benchmark \"%s\"%s%s%s", shown,
                     nearest == NULL ? "" : "; did you mean \"", nearest == NULL ? "" : nearest,
                     nearest == NULL ? "" : "\"?");
}

static enum status unknown_command(const char *word, struct error *err) {
    const char *names[COMMAND_COUNT + 2];
    char shown[64];
    size_t count = 0;
    for (int i = 0; i < COMMAND_COUNT; i++) {
        if (benchmark_name((enum command)i) == NULL) {
            names[count++] = command_name((enum command)i);
        }
    }
    names[count++] = bench;
    names[count++] = "help";
    const char *nearest = options_nearest(word, names, count);
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

/* `cairn bench`, and no command behind it. */
static enum status no_benchmark(char *const *words, int count, int *exit_code, struct error *err) {
    if (count > 0 && strcmp(words[0], "--help") != 0) {
        return unknown_benchmark(words[0], err);
    }
    print_benchmarks(count > 0 ? stdout : stderr);
    *exit_code = count > 0 ? 0 : status_exit_code(STATUS_USAGE);
    return STATUS_OK;
}

/* `words` [count]: what stands behind `cairn help`. */
static enum status help_command(char *const *words, int count, struct error *err) {
    char help[] = "--help";
    char *arguments[] = {words[0], help, NULL};
    enum command command;
    int exit_code, taken;
    if (find_command(words, count, &command, &taken)) {
        return run_command(command, 2, arguments, &exit_code, err);
    }
    if (strcmp(words[0], bench) == 0) {
        char *const rest = count > 1 ? words[1] : help;
        return no_benchmark(&rest, 1, &exit_code, err);
    }
    return unknown_command(words[0], err);
}

/* argv[0] is the first word behind the program's name. */
static enum status dispatch(int argc, char **argv, const char **name, int *exit_code,
                            struct error *err) {
    enum command command;
    int taken;
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
        return help_command(argv + 1, argc - 1, err);
    }
    if (strcmp(argv[0], "--version") == 0) {
        print_version();
        return STATUS_OK;
    }
    if (!find_command(argv, argc, &command, &taken)) {
        return strcmp(argv[0], bench) == 0 ? no_benchmark(argv + 1, argc - 1, exit_code, err)
                                           : unknown_command(argv[0], err);
    }
    *name = command_name(command);
    return run_command(command, argc - taken + 1, argv + taken - 1, exit_code, err);
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
