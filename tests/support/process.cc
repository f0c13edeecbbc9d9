#include "tests/support/process.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dirent.h>
#include <fcntl.h>
#include <sstream>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "host/base/tensor.h"
#include "io/checkpoint.h"
#include "io/file.h"
#include "io/store.h"
#include "gtest/gtest.h"

extern char **environ;

namespace {

double now_seconds() {
    using clock = std::chrono::steady_clock;
    return std::chrono::duration<double>(clock::now().time_since_epoch()).count();
}

std::string slurp(const std::string &path) {
    std::string content;
    if (FILE *file = std::fopen(path.c_str(), "rb")) {
        char buffer[65536];
        size_t got;
        while ((got = std::fread(buffer, 1, sizeof buffer, file)) > 0) {
            content.append(buffer, got);
        }
        std::fclose(file);
    }
    return content;
}

std::vector<char *> pointers(std::vector<std::string> &strings) {
    std::vector<char *> result;
    for (std::string &string : strings) {
        result.push_back(string.data());
    }
    result.push_back(nullptr);
    return result;
}

// Settings of whoever runs the tests must not reach the child: CAIRN_<OPTION> would change options.
// But CAIRN_TEST_DEVICE asks for every child that trains to do it on that device.
std::vector<std::string> child_environment(std::map<std::string, std::string> added) {
    std::vector<std::string> result;
    for (char **entry = environ; *entry != nullptr; entry++) {
        const std::string name(*entry, std::strcspn(*entry, "="));
        if (std::strncmp(*entry, "CAIRN_", 6) != 0 && added.count(name) == 0) {
            result.push_back(*entry);
        }
    }
    if (const char *device = std::getenv("CAIRN_TEST_DEVICE")) {
        // A test's own choice stays. Smaller than the default, because it may be a simulated device,
        // and that ends with status 86 when it has a fault to report.
        added.insert({{"CAIRN_DEVICE", device},
                      {"CAIRN_HIDDEN_SIZE", "8"},
                      {"CAIRN_EMBEDDING_SIZE", "8"},
                      {"CAIRN_SIM_STRICT", "1"}});
    }
    for (const auto &pair : added) {
        result.push_back(pair.first + "=" + pair.second);
    }
    return result;
}

void redirect(const char *path, int flags, int target) {
    int fd = open(path, flags | O_CLOEXEC, 0600);
    if (fd < 0 || dup2(fd, target) < 0) {
        _exit(126);
    }
}

[[noreturn]] void become(const ProcessOptions &options, const std::string &in,
                         const std::string &out, const std::string &err, char **argv, char **envp) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    redirect(options.input_path.empty() ? in.c_str() : options.input_path.c_str(), O_RDONLY, 0);
    redirect(out.c_str(), O_WRONLY | O_APPEND, 1);
    redirect(err.c_str(), O_WRONLY | O_APPEND, 2);
    if (!options.directory.empty() && chdir(options.directory.c_str()) != 0) {
        _exit(126);
    }
    std::signal(SIGHUP, options.ignore_hangup ? SIG_IGN : SIG_DFL);
    std::signal(SIGINT, SIG_DFL); // a test runner in the background may have them ignored
    std::signal(SIGTERM, SIG_DFL);
    std::signal(SIGUSR1, SIG_DFL);
    if (options.file_bytes_max > 0) {
        // A full disk that needs no mount. The program itself has to ignore the signal.
        std::signal(SIGXFSZ, SIG_DFL);
        struct rlimit limit = {options.file_bytes_max, options.file_bytes_max};
        setrlimit(RLIMIT_FSIZE, &limit);
    }
    execvpe(argv[0], argv, envp);
    _exit(127);
}

} // namespace

// ---- Process ----

Process::Process(const ProcessOptions &options) {
    const std::string in = directory_.file("in"), out = directory_.file("out"),
                      err = directory_.file("err");
    write_file(in, options.input);
    write_file(out, "");
    write_file(err, "");
    std::vector<std::string> words = {options.program.empty() ? CAIRN_BINARY : options.program};
    words.insert(words.end(), options.arguments.begin(), options.arguments.end());
    std::map<std::string, std::string> environment = options.environment;
    if (options.file_bytes_max > 0) {
        // What a coverage build counts goes into files too, and one that the limit cuts would spoil
        // the counts of every other process: none are written.
        environment.insert({{"GCOV_PREFIX", "/dev/null"}, {"GCOV_ERROR_FILE", "/dev/null"}});
    }
    std::vector<std::string> variables = child_environment(environment);
    std::vector<char *> argv = pointers(words), envp = pointers(variables);
    pid_ = fork();
    if (pid_ == 0) {
        become(options, in, out, err, argv.data(), envp.data());
    }
    if (pid_ < 0) {
        ADD_FAILURE() << "fork: " << std::strerror(errno);
        ended_ = true;
    }
}

Process::~Process() {
    if (running()) {
        kill(pid_, SIGKILL);
        waitpid(pid_, nullptr, 0);
    }
}

bool Process::running() {
    if (ended_) {
        return false;
    }
    int status = 0;
    if (waitpid(pid_, &status, WNOHANG) != pid_) {
        return true;
    }
    ended_ = true;
    code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return false;
}

bool Process::wait_for(const std::function<bool()> &condition, double seconds) {
    const double deadline = now_seconds() + seconds;
    while (!condition()) {
        if (!running() || now_seconds() > deadline) {
            return condition();
        }
        usleep(500);
    }
    return true;
}

bool Process::wait_for_err(const std::string &text, double seconds) {
    return wait_for([&] { return contains(err(), text); }, seconds);
}

int Process::wait(double seconds) {
    if (!wait_for([&] { return !running(); }, seconds)) {
        ADD_FAILURE() << "still running after " << seconds << " s; stderr:\n" << err();
        kill(pid_, SIGKILL);
        waitpid(pid_, nullptr, 0);
        ended_ = true;
        code_ = 128 + SIGKILL;
    }
    return code_;
}

void Process::signal(int number) {
    if (running()) {
        kill(pid_, number);
    }
}

bool Process::freeze() {
    if (!running()) {
        return false;
    }
    kill(pid_, SIGSTOP);
    int status = 0;
    if (waitpid(pid_, &status, WUNTRACED) == pid_ && !WIFSTOPPED(status)) {
        ended_ = true;
        code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    }
    return !ended_;
}

std::string Process::out() const {
    return slurp(directory_.file("out"));
}
std::string Process::err() const {
    return slurp(directory_.file("err"));
}

Outcome run(const ProcessOptions &options) {
    Process process(options);
    int code = process.wait();
    return {code, process.out(), process.err()};
}

Outcome run_cairn(const std::vector<std::string> &arguments) {
    return run({.program = "", .arguments = arguments});
}

// ---- helpers ----

std::vector<std::string> words(const std::string &text) {
    std::istringstream stream(text);
    std::vector<std::string> result;
    for (std::string word; stream >> word;) {
        result.push_back(word);
    }
    return result;
}

std::vector<std::string> operator+(std::vector<std::string> first,
                                   const std::vector<std::string> &second) {
    first.insert(first.end(), second.begin(), second.end());
    return first;
}

bool exists(const std::string &path) {
    struct stat status;
    return stat(path.c_str(), &status) == 0;
}

bool contains(const std::string &text, const std::string &part) {
    return text.find(part) != std::string::npos;
}

std::vector<std::string> list_directory(const std::string &path) {
    std::vector<std::string> names;
    if (DIR *directory = opendir(path.c_str())) {
        while (struct dirent *entry = readdir(directory)) {
            std::string name = entry->d_name;
            if (name != "." && name != "..") {
                names.push_back(name);
            }
        }
        closedir(directory);
    }
    std::sort(names.begin(), names.end());
    return names;
}

std::vector<uint64_t> checkpoint_steps(const std::string &model_dir) {
    std::vector<uint64_t> steps;
    for (const std::string &name : list_directory(model_dir)) {
        unsigned long long step = 0;
        int end = 0;
        if (std::sscanf(name.c_str(), "model.ckpt-%llu.safetensors.zst%n", &step, &end) == 1 &&
            static_cast<size_t>(end) == name.size()) {
            steps.push_back(step);
        }
    }
    std::sort(steps.begin(), steps.end());
    return steps;
}

std::string checkpoint_path(const std::string &model_dir, uint64_t step) {
    return model_dir + "/model.ckpt-" + std::to_string(step) + ".safetensors.zst";
}

std::vector<std::string> history_lines(const std::string &model_dir) {
    std::vector<std::string> lines;
    const std::string content = slurp(model_dir + "/history.jsonl");
    size_t begin = 0, end;
    while ((end = content.find('\n', begin)) != std::string::npos) {
        lines.push_back(content.substr(begin, end - begin));
        begin = end + 1;
    }
    return lines;
}

std::string json_field(const std::string &line, const std::string &key) {
    const std::string quoted = "\"" + key + "\":"; // with the colon: a value may have the same name
    size_t at = line.find(quoted);
    at = at == std::string::npos ? at : line.find_first_not_of(' ', at + quoted.size());
    if (at == std::string::npos) {
        return "";
    }
    const bool string = line[at] == '"';
    at += string ? 1 : 0;
    return line.substr(at, line.find_first_of(string ? "\"" : ",}", at) - at);
}

// ---- checkpoints ----

namespace {

using CheckpointPointer = std::unique_ptr<struct checkpoint, void (*)(struct checkpoint *)>;

CheckpointPointer load(const std::string &path, std::string *problem) {
    struct checkpoint *checkpoint = nullptr;
    struct error err = {};
    if (checkpoint_read_file(&file_posix, path.c_str(), &checkpoint, &err) != STATUS_OK) {
        *problem += std::string(err.message) + "\n";
        checkpoint = nullptr;
    }
    return {checkpoint, checkpoint_free};
}

std::string tensor_difference(const struct tensor_view &a, const struct tensor_view &b) {
    char shape_a[96], shape_b[96];
    tensor_shape_text(&a, shape_a, sizeof shape_a);
    tensor_shape_text(&b, shape_b, sizeof shape_b);
    if (a.dtype != b.dtype || std::strcmp(shape_a, shape_b) != 0) {
        return std::string(a.name) + ": " + dtype_name(a.dtype) + shape_a + " and " +
               dtype_name(b.dtype) + shape_b + "\n";
    }
    uint64_t bytes = 0;
    if (!tensor_bytes(&a, &bytes)) {
        return std::string(a.name) + ": size overflows\n";
    }
    const char *x = static_cast<const char *>(a.data), *y = static_cast<const char *>(b.data);
    for (uint64_t i = 0; i < bytes; i++) {
        if (x[i] != y[i]) {
            return std::string(a.name) + ": differs from byte " + std::to_string(i) + " of " +
                   std::to_string(bytes) + "\n";
        }
    }
    return "";
}

} // namespace

std::vector<std::string> large_checkpoints() {
    return words(std::getenv("CAIRN_TEST_DEVICE") == nullptr ? "--dense-size 2048"
                                                             : "--embedding-size 1024");
}

std::map<std::string, std::string> log_files(const std::string &model_dir) {
    std::map<std::string, std::string> files;
    for (const std::string &folder :
         {std::string("."), std::string("train"), std::string("validation")}) {
        for (const std::string &name : list_directory(model_dir + "/" + folder)) {
            if (folder != "." || name.rfind("history.", 0) == 0) {
                files[folder + "/" + name] = read_file(model_dir + "/" + folder + "/" + name);
            }
        }
    }
    return files;
}

std::string checkpoint_difference(const std::string &path_a, const std::string &path_b) {
    std::string problem;
    CheckpointPointer a = load(path_a, &problem), b = load(path_b, &problem);
    if (!a || !b) {
        return problem;
    }
    if (a->tensor_count == 0) {
        return path_a + ": no tensors\n";
    }
    for (size_t i = 0; i < a->tensor_count; i++) {
        const struct tensor_view *other =
            tensor_find(b->tensors, b->tensor_count, a->tensors[i].name);
        problem += other == nullptr ? std::string(a->tensors[i].name) + ": only in the first\n"
                                    : tensor_difference(a->tensors[i], *other);
    }
    if (a->tensor_count != b->tensor_count) {
        problem += "number of tensors: " + std::to_string(a->tensor_count) + " and " +
                   std::to_string(b->tensor_count) + "\n";
    }
    return problem;
}
