#include "host/signals.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "host/base/stop.h"
#include "host/base/text.h"

extern char **environ;

static const struct {
    int number;
    const char *name;
} stop_signals[] = {
    {SIGTERM, "SIGTERM"}, {SIGINT, "SIGINT"}, {SIGUSR1, "SIGUSR1"}, {SIGHUP, "SIGHUP"}};

enum { STOP_SIGNALS = sizeof stop_signals / sizeof stop_signals[0] };

const char *signals_name(int signal_number) {
    for (int i = 0; i < STOP_SIGNALS; i++) {
        if (stop_signals[i].number == signal_number) {
            return stop_signals[i].name;
        }
    }
    return "a signal";
}

/* ---- the watcher -------------------------------------------------------------------------- */

/* Which signals to take. SIGHUP that was ignored when the program started stays so (nohup). */
static sigset_t watched_signals(void) {
    struct sigaction action;
    sigset_t set;
    sigemptyset(&set);
    for (int i = 0; i < STOP_SIGNALS; i++) {
        int number = stop_signals[i].number;
        bool ignored = sigaction(number, NULL, &action) == 0 && action.sa_handler == SIG_IGN;
        if (number != SIGHUP || !ignored) {
            sigaddset(&set, number);
        }
    }
    return set;
}

/* THREADS: waits for signals that every other thread blocks; owns nothing but the stop flag. */
static void *watch(void *argument) {
    (void)argument;
    sigset_t set = watched_signals();
    int number;
    while (sigwait(&set, &number) != 0) {
    }
    stop_raise(number);
    while (sigwait(&set, &number) != 0) {
    }
    _exit(128 + number);
}

enum status signals_start(struct error *err) {
    sigset_t set = watched_signals();
    pthread_t thread;
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* under `ulimit -f` a write fails with EFBIG, as on a full disk */
    int failure = pthread_sigmask(SIG_BLOCK, &set, NULL);
    if (failure == 0) {
        failure = pthread_create(&thread, NULL, watch, NULL);
    }
    CHECK(failure == 0, err, STATUS_INTERNAL, "cannot start the signal watcher: %s",
          strerror(failure));
    pthread_detach(thread);
    return STATUS_OK;
}

/* ---- running a command -------------------------------------------------------------------- */

/* Words of a command line, all in one allocation. */
struct words {
    char **argv; /* NULL-terminated; free() frees everything */
    size_t count;
};

static bool is_blank(char c) {
    return c == ' ' || c == '\t' || c == '\n';
}

/* One word from *at to *out, without its quotes. False when a quote is open at the end. */
static bool take_word(const char **at, char **out) {
    char quote = '\0';
    for (; **at != '\0' && (quote != '\0' || !is_blank(**at)); (*at)++) {
        if (quote == '\0' && (**at == '"' || **at == '\'')) {
            quote = **at;
        } else if (**at == quote) {
            quote = '\0';
        } else {
            *(*out)++ = **at;
        }
    }
    *(*out)++ = '\0';
    return quote == '\0';
}

static enum status split_words(const char *command, struct words *words, struct error *err) {
    char shown[256];
    size_t size = strlen(command), most = size / 2 + 2;
    words->argv = malloc(most * sizeof *words->argv + 2 * size + 1);
    words->count = 0;
    CHECK(words->argv != NULL, err, STATUS_MEMORY, "out of memory for a command");
    char *out = (char *)(words->argv + most);
    bool closed = true;
    for (const char *at = command; *at != '\0' && closed;) {
        if (is_blank(*at)) {
            at++;
        } else {
            words->argv[words->count++] = out;
            closed = take_word(&at, &out);
        }
    }
    words->argv[words->count] = NULL;
    if (!closed || words->count == 0 || words->argv[0][0] == '\0') {
        free(words->argv);
        return error_set(err, STATUS_USAGE, "%s: %s",
                         text_escape(command, size, shown, sizeof shown),
                         closed ? "there is no command in it" : "a quote is not closed");
    }
    return STATUS_OK;
}

enum status signals_check_command(const char *command, struct error *err) {
    struct words words;
    TRY(split_words(command, &words, err));
    free(words.argv);
    return STATUS_OK;
}

/* `actions` say which descriptors the child gets. */
static int spawn(char *const *argv, const posix_spawn_file_actions_t *actions, pid_t *pid) {
    posix_spawnattr_t attributes;
    sigset_t none, defaults;
    sigemptyset(&none);
    sigemptyset(&defaults);
    sigaddset(&defaults, SIGPIPE);
    sigaddset(&defaults, SIGXFSZ);
    int failure = posix_spawnattr_init(&attributes);
    if (failure != 0) {
        return failure;
    }
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    failure = posix_spawnp(pid, argv[0], actions, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    return failure;
}

int signals_spawn(char *const *argv, int from, int to, pid_t *pid) {
    posix_spawn_file_actions_t actions;
    int failure = posix_spawn_file_actions_init(&actions);
    if (failure != 0) {
        return failure;
    }
    failure = posix_spawn_file_actions_adddup2(&actions, from, to);
    failure = failure == 0 ? spawn(argv, &actions, pid) : failure;
    posix_spawn_file_actions_destroy(&actions);
    return failure;
}

int signals_spawn_filter(char *const *argv, int in, int out, pid_t *pid) {
    posix_spawn_file_actions_t actions;
    int failure = posix_spawn_file_actions_init(&actions);
    if (failure != 0) {
        return failure;
    }
    failure = posix_spawn_file_actions_adddup2(&actions, in, STDIN_FILENO);
    failure =
        failure == 0 ? posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO) : failure;
    failure = failure == 0 ? spawn(argv, &actions, pid) : failure;
    posix_spawn_file_actions_destroy(&actions);
    return failure;
}

enum status signals_run_command(const char *command, int *exit_code, struct error *err) {
    struct words words;
    char shown[256];
    pid_t pid, waited;
    int status;
    TRY(split_words(command, &words, err));
    int failure =
        signals_spawn(words.argv, STDERR_FILENO, STDOUT_FILENO, &pid); /* stdout is data */
    text_escape(words.argv[0], strlen(words.argv[0]), shown, sizeof shown);
    free(words.argv);
    CHECK(failure == 0, err, failure == ENOMEM || failure == EAGAIN ? STATUS_IO : STATUS_INPUT,
          "cannot run %s: %s", shown, strerror(failure));
    do {
        waited = waitpid(pid, &status, 0);
    } while (waited < 0 && errno == EINTR);
    CHECK(waited == pid, err, STATUS_IO, "cannot wait for %s: %s", shown, strerror(errno));
    *exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    return STATUS_OK;
}
