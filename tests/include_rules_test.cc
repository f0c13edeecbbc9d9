// The rules that keep the rooms apart, read off the sources: who may include whom, which library is
// known where, and that the rooms below `host` neither print nor exit. The table is
// architecture.md's section 2; each rule is also shown to catch a made-up offender.
#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "tests/support/temporary_directory.h"
#include "gtest/gtest.h"

namespace {

namespace fs = std::filesystem;
using Strings = std::vector<std::string>;

bool starts_with(const std::string &text, const std::string &prefix) {
    return text.compare(0, prefix.size(), prefix) == 0;
}

bool ends_with(const std::string &text, const std::string &suffix) {
    return text.size() >= suffix.size() &&
           text.compare(text.size() - suffix.size(), suffix.size(), suffix) == 0;
}

bool any_prefix(const std::string &text, const Strings &prefixes) {
    return std::any_of(prefixes.begin(), prefixes.end(),
                       [&](const std::string &prefix) { return starts_with(text, prefix); });
}

// ---- the tables ----

struct Room {
    std::string prefix;  // the longest match decides
    Strings may_include; // project headers
};

const std::vector<Room> &rooms() {
    static const std::vector<Room> table = {
        {"host/base/", {"host/base/"}},
        {"kernels/", {"host/base/", "kernels/"}},
        {"io/", {"host/base/", "io/"}},
        // The checkpoint path alone reaches the backend's copies and events.
        {"io/snapshot.", {"host/base/", "io/", "kernels/backend.h"}},
        {"io/writer.", {"host/base/", "io/", "kernels/backend.h"}},
        {"library/", {"host/base/", "include/", "io/", "kernels/backend.h", "library/"}},
        {"include/", {}},  // what is installed stands alone
        {"examples/", {}}, // and they use only that
        {"host/", {"host/", "io/", "kernels/"}},
        {"bench/", {"bench/", "host/", "io/", "kernels/"}},
    };
    return table;
}

struct Library {
    std::string header; // prefix of what stands in <>
    Strings allowed;    // prefixes of files that may include it
};

const std::vector<Library> &libraries() {
    static const std::vector<Library> table = {
        {"zstd", {"io/checkpoint_", "bench/bench_checkpoint_encode.c"}}, // there to compare with
        {"archive", {"io/dataset_archive.c", "io/export_keras.c"}},
        {"hdf5.h", {"io/export_keras_h5.c"}},
        {"jansson.h", {"bench/", "host/", "io/"}},
        {"xxhash.h", {"host/", "io/"}},
        {"ini.h", {"host/options"}},
        {"argp.h", {"host/"}},
        {"Random123/", {"host/base/rng.c"}},
        {"cairn/", {"examples/"}},
        {"cuda", {"kernels/cuda/", "library/library_cuda.c"}},
        {"cublas", {"kernels/cuda/"}},
        {"cudnn", {"kernels/cuda/"}},
        {"malloc.h", {"bench/bench_checkpoint_block.c"}},      // of glibc
        {"linux/magic.h", {"bench/bench_checkpoint_place.c"}}, // of Linux: which file system it is
        {"sys/vfs.h", {"bench/bench_checkpoint_place.c"}},
        {"immintrin.h", {"kernels/cpu/"}},
        {"xmmintrin.h", {"kernels/cpu/"}},
        {"pmmintrin.h", {"kernels/cpu/"}},
        {"emmintrin.h", {"host/base/memory.c", "kernels/cpu/"}},
        {"arm_", {"kernels/cpu/"}},
        {"nvtx3/", {"kernels/cuda/"}},
    };
    return table;
}

// What the C library and POSIX offer. Anything else in <> is a dependency and belongs into the
// table above.
const std::set<std::string> &libc_headers() {
    static const std::set<std::string> names = {
        "assert.h",      "ctype.h",        "dirent.h",      "errno.h",     "fcntl.h",
        "fenv.h",        "float.h",        "inttypes.h",    "limits.h",    "locale.h",
        "math.h",        "netdb.h",        "poll.h",        "pthread.h",   "sched.h",
        "signal.h",      "spawn.h",        "stdalign.h",    "stdarg.h",    "stdatomic.h",
        "stdbool.h",     "stddef.h",       "stdint.h",      "stdio.h",     "stdlib.h",
        "string.h",      "strings.h",      "sys/file.h",    "sys/ioctl.h", "sys/mman.h",
        "sys/stat.h",    "sys/types.h",    "sys/wait.h",    "time.h",      "unistd.h",
        "sys/prctl.h",   "sys/random.h",   "sys/time.h",    "sys/uio.h",   "sys/utsname.h",
        "sys/statvfs.h", "sys/resource.h", "sys/syscall.h",
    };
    return names;
}

// Words that a room below `host` must not say, and calls that io makes through struct file_table
// only.
const std::set<std::string> kTalking = {"printf", "fprintf", "vprintf",    "vfprintf", "puts",
                                        "fputs",  "putchar", "fputc",      "perror",   "exit",
                                        "_exit",  "abort",   "quick_exit", "_Exit"};
const std::set<std::string> kStreams = {"stderr", "stdout"};
const std::set<std::string> kFileCalls = {
    "open",      "openat",    "fopen",    "fdopen",  "creat",   "read",  "pread",
    "write",     "pwrite",    "fread",    "fwrite",  "fclose",  "close", "fsync",
    "fdatasync", "rename",    "renameat", "unlink",  "remove",  "mkdir", "rmdir",
    "stat",      "fstat",     "lstat",    "opendir", "readdir", "flock", "fcntl",
    "truncate",  "ftruncate", "link",     "symlink", "mmap"};

// ---- reading a source ----

// The code without comments and without what stands in quotes; line breaks stay.
std::string strip(const std::string &source) {
    std::string code;
    for (size_t i = 0; i < source.size();) {
        if (source.compare(i, 2, "//") == 0) {
            i = std::min(source.find('\n', i), source.size());
        } else if (source.compare(i, 2, "/*") == 0) {
            size_t end = std::min(source.find("*/", i + 2), source.size() - 2) + 2;
            code += std::string(static_cast<size_t>(std::count(
                                    source.begin() + static_cast<std::ptrdiff_t>(i),
                                    source.begin() + static_cast<std::ptrdiff_t>(end), '\n')),
                                '\n');
            i = end;
        } else if (source[i] == '"' || source[i] == '\'') {
            const char quote = source[i++];
            while (i < source.size() && source[i] != quote) {
                i += source[i] == '\\' ? 2 : 1;
            }
            i++;
        } else {
            code += source[i++];
        }
    }
    return code;
}

bool is_word(char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_';
}

// Identifiers of the code that are not members (x.read, x->read).
Strings free_words(const std::string &code, bool calls_only) {
    Strings words;
    for (size_t i = 0; i < code.size();) {
        if (!is_word(code[i])) {
            i++;
            continue;
        }
        size_t end = i;
        while (end < code.size() && is_word(code[end])) {
            end++;
        }
        const bool member = i > 0 && (code[i - 1] == '.' || code[i - 1] == '>');
        if (!member && (!calls_only || (end < code.size() && code[end] == '('))) {
            words.push_back(code.substr(i, end - i));
        }
        i = end;
    }
    return words;
}

// ---- the rules ----

void check_include(const std::string &path, const std::string &line, Strings *problems) {
    const size_t hash = line.find_first_not_of(" \t");
    if (hash == std::string::npos || line[hash] != '#') {
        return;
    }
    const size_t word = line.find_first_not_of(" \t", hash + 1);
    if (word == std::string::npos || line.compare(word, 7, "include") != 0) {
        return;
    }
    const size_t open = line.find_first_of("<\"", word);
    if (open == std::string::npos) {
        problems->push_back(path + ": an include by macro: " + line);
        return;
    }
    const bool ours = line[open] == '"';
    const std::string name = line.substr(open + 1, line.find_first_of(">\"", open + 1) - open - 1);
    if (ours) {
        const Room *room = nullptr;
        for (const Room &candidate : rooms()) {
            if (starts_with(path, candidate.prefix) &&
                (room == nullptr || candidate.prefix.size() > room->prefix.size())) {
                room = &candidate;
            }
        }
        if (room == nullptr || !any_prefix(name, room->may_include)) {
            problems->push_back(path + " includes \"" + name + "\", which its room may not");
        }
        return;
    }
    if (libc_headers().count(name) != 0) {
        return;
    }
    for (const Library &library : libraries()) {
        if (starts_with(name, library.header)) {
            if (!any_prefix(path, library.allowed)) {
                problems->push_back(path + " includes <" + name + ">, which is not known there");
            }
            return;
        }
    }
    problems->push_back(path + " includes <" + name + ">, which is in no table of this test");
}

void check_words(const std::string &path, const std::string &source, Strings *problems) {
    const bool below_host = starts_with(path, "host/base/") || starts_with(path, "kernels/") ||
                            starts_with(path, "io/") || starts_with(path, "library/") ||
                            starts_with(path, "include/");
    const std::string code = strip(source);
    auto forbid = [&](const std::set<std::string> &words, bool calls_only, const char *why) {
        for (const std::string &word : free_words(code, calls_only)) {
            if (words.count(word) != 0) {
                problems->push_back(path + " says " + word + why);
            }
        }
    };
    if (below_host) {
        forbid(kTalking, true, "(): this room never prints and never exits");
        forbid(kStreams, false, ": this room never prints");
    }
    if (starts_with(path, "kernels/cuda/") && path != "kernels/cuda/cuda_util.cuh") {
        forbid({"__shared__"}, false, ": shared memory is taken through cuda_util.cuh");
        if (code.find("<<<") != std::string::npos) {
            problems->push_back(path + " launches with <<<: kernels start through cuda_launch");
        }
    }
    if ((starts_with(path, "io/") || starts_with(path, "library/")) && path != "io/file_posix.c" &&
        ends_with(path, ".c")) {
        forbid(kFileCalls, true, "(): file system calls go through struct file_table");
    }
}

Strings check(const std::string &path, const std::string &source) {
    Strings problems;
    std::istringstream lines(source);
    for (std::string line; std::getline(lines, line);) {
        check_include(path, line, &problems);
    }
    check_words(path, source, &problems);
    return problems;
}

Strings sources(const Strings &suffixes) {
    const fs::path root = CAIRN_SOURCE_DIR;
    Strings found;
    for (const char *room : {"bench", "examples", "host", "include", "io", "kernels", "library"}) {
        for (const fs::directory_entry &entry : fs::recursive_directory_iterator(root / room)) {
            const std::string path = fs::relative(entry.path(), root).string();
            if (std::any_of(suffixes.begin(), suffixes.end(),
                            [&](const std::string &suffix) { return ends_with(path, suffix); })) {
                found.push_back(path);
            }
        }
    }
    std::sort(found.begin(), found.end());
    return found;
}

std::string read_source(const std::string &path) {
    return read_file(std::string(CAIRN_SOURCE_DIR) + "/" + path);
}

} // namespace

TEST(IncludeRules, EverySourceKeepsThem) {
    const Strings files = sources({".c", ".h", ".cu", ".cuh"});
    ASSERT_GT(files.size(), 50u);
    for (const std::string &path : files) {
        for (const std::string &problem : check(path, read_source(path))) {
            ADD_FAILURE() << problem;
        }
    }
}

TEST(IncludeRules, OffendersAreCaught) {
    const std::vector<std::array<std::string, 2>> offenders = {{
        {"host/base/queue.c", "#include \"io/file.h\"\n"},
        {"kernels/cpu/reference.c", "#include \"io/file.h\"\n"},
        {"io/store.c", "#include \"kernels/backend.h\"\n"},
        {"io/writer.c", "#include \"kernels/ops.h\"\n"},
        {"io/store.c", "#include \"host/options.h\"\n"},
        {"io/store.c", "#include <zstd.h>\n"},
        {"io/dataset.c", "#include <archive.h>\n"},
        {"io/export.c", "#include <hdf5.h>\n"},
        {"host/model.c", "#  include <cuda_runtime.h>\n"},
        {"kernels/cpu/cpu_backend.c", "#include <cublas_v2.h>\n"},
        {"host/trainer.c", "#include <nvtx3/nvToolsExt.h>\n"},
        {"kernels/cuda/cuda_head.cu", "#include \"tests/simcuda/simcuda.h\"\n"},
        {"kernels/cuda/cuda_head.cu", "__shared__ float sums[32];\n"},
        {"kernels/cuda/cuda_head.cu", "head_kernel<<<1, 32>>>(x);\n"},
        {"host/model.c", "#include <curl/curl.h>\n"},
        {"host/model.c", "#include \"model.h\"\n"},
        {"host/model.c", "#include HEADER\n"},
        {"io/store.c", "void f(void) { printf(\"x\"); }\n"},
        {"kernels/cpu/reference.c", "fputs(text, stderr);\n"},
        {"host/base/rng.c", "void f(void) {\n    exit(1);\n}\n"},
        {"io/store.c", "int fd = open(path, O_RDONLY);\n"},
        {"io/publish.c", "/* why */ if (fsync(fd) != 0) {\n"},
        {"io/store.c", "#include \"library/handle.h\"\n"},
        {"library/handle.c", "#include \"host/options.h\"\n"},
        {"library/handle.c", "#include \"kernels/ops.h\"\n"},
        {"library/handle.c", "void f(void) { puts(\"x\"); }\n"},
        {"library/handle.c", "int fd = open(path, O_RDONLY);\n"},
        {"include/cairn/checkpoint.h", "#include \"host/base/status.h\"\n"},
        {"examples/train.c", "#include \"io/store.h\"\n"},
    }};
    for (const auto &offender : offenders) {
        EXPECT_FALSE(check(offender[0], offender[1]).empty()) << offender[0] << ": " << offender[1];
    }
}

TEST(IncludeRules, LawfulLinesPass) {
    const std::vector<std::array<std::string, 2>> lawful = {{
        {"host/base/queue.c", "#include \"host/base/queue.h\"\n#include <pthread.h>\n"},
        {"io/writer.c", "#include \"kernels/backend.h\"\n"},
        {"io/checkpoint_encode.c", "#include <zstd.h>\n"},
        {"io/store.c", "files->open(files->context, path, 0, 0); // not open(path)\n"},
        {"io/store.c", "/* printf( and exit( in a comment */ snprintf(out, 3, \"exit(1)\");\n"},
        {"io/file_posix.c", "int fd = open(path, flags);\n"},
        {"host/main.c", "fprintf(stderr, \"x\");\n"},
        {"library/handle.c", "#include \"include/cairn/checkpoint.h\"\n"},
        {"examples/train.c", "#include <cairn/checkpoint.h>\n"},
        {"kernels/cuda/cuda_backend.cu", "#include <nvtx3/nvToolsExt.h>\n"},
        {"kernels/cuda/cuda_util.cuh", "extern __shared__ float4 memory[]; // no <<< >>>\n"},
    }};
    for (const auto &line : lawful) {
        const Strings problems = check(line[0], line[1]);
        EXPECT_TRUE(problems.empty()) << problems.front();
    }
}

TEST(Headers, ListIsTheTree) {
    Strings listed;
    std::istringstream lines(read_source("tests/headers.txt"));
    for (std::string line; std::getline(lines, line);) {
        if (!line.empty() && line[0] != '#') {
            listed.push_back(line.substr(0, line.find(' ')));
        }
    }
    const Strings tree = sources({".h"});
    for (const std::string &header : tree) {
        EXPECT_EQ(std::count(listed.begin(), listed.end(), header), 1)
            << header << " must stand once in tests/headers.txt";
    }
    for (const std::string &header : listed) {
        EXPECT_EQ(std::count(tree.begin(), tree.end(), header), 1)
            << header << " stands in tests/headers.txt and is not in the tree";
    }
}

// File names are unique in the whole tree, so that a name says where a symbol lives. Not those below
// include/: they are installed, and their directory is part of the name.
TEST(Sources, FileNamesAreUnique) {
    std::set<std::string> seen;
    for (const std::string &path : sources({".c", ".h", ".cu", ".cuh"})) {
        if (starts_with(path, "include/")) {
            continue;
        }
        EXPECT_TRUE(seen.insert(fs::path(path).filename().string()).second) << path;
    }
}
