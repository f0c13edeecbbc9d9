// What `cmake --install` puts down, used as a stranger would: the examples are built against it by
// pkg-config and by find_package, in C, C++ and CUDA, shared and static; killed at random steps and
// started again, they end with the bits of a run that nobody touched.
#include <algorithm>
#include <cinttypes>
#include <random>
#include <signal.h>
#include <sstream>
#include <unistd.h>

#include "include/cairn/checkpoint.h"
#include "tests/support/process.h"
#include "gtest/gtest.h"

namespace {

const std::string kExamples = std::string(CAIRN_SOURCE_DIR) + "/examples";
const uint64_t kSteps = 4000, kEvery = 5, kNever = 1000000000;

// How a trainer is killed again and again.
struct Kills {
    size_t most, least;  // so many lives, fewer when `enough` is reached
    uint64_t stride_max; // steps from what is saved to the next kill
    uint64_t every;      // steps from save to save
    uint64_t enough;     // steps
    useconds_t pause_max;
};
// On a slow disk each kill takes many steps.
const Kills kSmall = {10, 3, kSteps / 20, kEvery, kSteps, 2000};
// Weights and momentum of 5 MB, whose copy takes a while, and steps that are shorter than a save:
// one that is accepted while the writer is at another is still to be copied when the update comes.
const std::string kLargeFlags = " -DHIDDEN=65536 -DBATCH=1";
const Kills kLarge = {5, 5, 3, 1, 0, 40000};

// The part of the version that a program is bound to.
const std::string kBound = std::to_string(CAIRN_CHECKPOINT_VERSION_MAJOR) + "." +
                           std::to_string(CAIRN_CHECKPOINT_VERSION_MINOR);

Outcome shell(const std::string &command) {
    return run({"/bin/sh", {"-c", command}});
}

void expect_done(const std::string &command) {
    Outcome outcome = shell(command);
    EXPECT_EQ(outcome.code, 0) << command << "\n" << outcome.out << outcome.err;
}

std::string sanitizer_flags() {
    const std::string sanitize = CAIRN_SANITIZE;
    return sanitize.empty() ? "" : " -fsanitize=" + sanitize;
}

// Installed once into a prefix of its own. The library is not on any default path.
class Install : public ::testing::Test {
  protected:
    static void SetUpTestSuite() {
        scratch_ = new TemporaryDirectory;
        expect_done(std::string(CAIRN_CMAKE) + " --install " CAIRN_BUILD_DIR " --prefix " +
                    prefix() + " --component checkpoint");
    }
    static void TearDownTestSuite() {
        delete scratch_;
        scratch_ = nullptr;
    }

    static std::string prefix() { return scratch_->file("prefix"); }
    static std::string file(const std::string &name) { return scratch_->file(name); }

    // Of a file below the prefix: lib/ or lib/<architecture>/, as this system has it.
    static std::string installed(const std::string &name) {
        Outcome found = shell("find " + prefix() + " -name '" + name + "'");
        return found.out.substr(0, found.out.find('\n'));
    }
    static std::string pkg_config(const std::string &options) {
        std::string directory = installed("cairn-checkpoint.pc");
        directory.resize(directory.rfind('/'));
        return "$(PKG_CONFIG_PATH=" + directory + " " CAIRN_PKG_CONFIG " " + options +
               " cairn-checkpoint)";
    }
    static std::string rpath() {
        std::string library = installed("libcairn-checkpoint.so");
        return " -Wl,-rpath," + library.substr(0, library.rfind('/'));
    }

    // The names that a library shows, as `nm OPTIONS` lists them, are those of the header.
    static void expect_public_names(const std::string &options, const std::string &library);

    static std::vector<std::string> mlp(const std::string &run, uint64_t steps = kSteps,
                                        uint64_t every = kEvery) {
        return {file(run), file(run + ".weights"), std::to_string(steps), std::to_string(every)};
    }
    static void build_mlp(const std::string &name, const std::string &flags = "") {
        expect_done(CAIRN_C_COMPILER " -std=c17 -O2 -Wall -Wextra -Werror" + sanitizer_flags() +
                    flags + " " + kExamples + "/train_mlp.c -o " + file(name) + " " +
                    pkg_config("--cflags --libs") + rpath() + " -lm");
    }
    // The examples as a project of their own, below file(build).
    static void configure_examples(const std::string &build) {
        const std::string flags = "='-Wall -Wextra -Werror" + sanitizer_flags() + "'";
        const std::string cuda = CAIRN_CUDA_COMPILER;
        expect_done(CAIRN_CMAKE " -S " + kExamples + " -B " + file(build) +
                    " -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH=" + prefix() +
                    " -DCMAKE_C_COMPILER=" CAIRN_C_COMPILER
                    " -DCMAKE_CXX_COMPILER=" CAIRN_CXX_COMPILER " -DCMAKE_C_FLAGS" +
                    flags + " -DCMAKE_CXX_FLAGS" + flags +
                    (cuda.empty() ? "" : " -DCMAKE_CUDA_COMPILER=" + cuda));
    }
    // Kill it whenever a random further step has been saved, then let it get to *end. How many
    // steps lie between two saves is the disk's business, so the end is set only after the kills.
    static void run_with_kills(const std::string &program, const std::string &run,
                               const Kills &kills, uint64_t *end);

    static TemporaryDirectory *scratch_;
};

TemporaryDirectory *Install::scratch_;

void Install::run_with_kills(const std::string &program, const std::string &run, const Kills &kills,
                             uint64_t *end) {
    std::mt19937_64 random(7);
    uint64_t reached = 0;
    for (size_t i = 0; i < kills.most && (i < kills.least || reached < kills.enough); i++) {
        Process process({program, mlp(run, kNever, kills.every)});
        uint64_t target = reached + 1 + random() % kills.stride_max;
        bool saved = process.wait_for([&] {
            std::vector<uint64_t> steps = checkpoint_steps(file(run));
            return !steps.empty() && steps.back() >= target;
        });
        ASSERT_TRUE(saved) << process.out() << process.err();
        usleep(static_cast<useconds_t>(random() % kills.pause_max)); // anywhere between two saves
        process.signal(SIGKILL);
        EXPECT_EQ(process.wait(), 128 + SIGKILL) << "it ended before the kill";
        reached = checkpoint_steps(file(run)).back();
    }
    *end = std::max(kills.enough, reached + kills.every); // the last run has something left to do
    Outcome last = ::run({program, mlp(run, *end, kills.every)});
    EXPECT_EQ(last.code, 0) << last.err;
    EXPECT_EQ(last.err, ""); // no damage, no failure
    EXPECT_TRUE(contains(last.out, "resumed from step")) << last.out;
    EXPECT_TRUE(contains(last.out, "trained by train_mlp")) << last.out;
}

TEST_F(Install, ExamplesByPkgConfigSurviveKills) {
    build_mlp("train_mlp");
    uint64_t end = 0;
    ASSERT_NO_FATAL_FAILURE(run_with_kills(file("train_mlp"), "killed", kSmall, &end));
    Outcome whole = run({file("train_mlp"), mlp("whole", end)});
    ASSERT_EQ(whole.code, 0) << whole.err;
    std::string weights = read_file(file("whole.weights"));
    EXPECT_EQ(weights.size(), (8u * 256 + 256 + 256 + 1) * 4);
    EXPECT_TRUE(weights == read_file(file("killed.weights"))) << "not the same bits";

    // What it wrote is a model directory like any other.
    Outcome listed = run_cairn({"checkpoints", "--model-dir", file("killed"), "--verify"});
    EXPECT_EQ(listed.code, 0) << listed.err;
    EXPECT_TRUE(contains(listed.out, "latest")) << listed.out;
    Outcome shown = run_cairn({"inspect", checkpoint_path(file("killed"), end)});
    EXPECT_EQ(shown.code, 0) << shown.err;
    for (const char *part : {"train_mlp", "momentum.w1", "[8, 256]", "cairn-checkpoint 0.1"}) {
        EXPECT_TRUE(contains(shown.out, part)) << part << "\n" << shown.out;
    }
    EXPECT_EQ(checkpoint_difference(checkpoint_path(file("whole"), end),
                                    checkpoint_path(file("killed"), end)),
              "");
}

// Steady tensors that a save does not copy: the writer does, or its copier, or the settle before the
// update.
TEST_F(Install, ALargeExampleSurvivesKills) {
    build_mlp("train_large", kLargeFlags);
    uint64_t end = 0;
    ASSERT_NO_FATAL_FAILURE(run_with_kills(file("train_large"), "large", kLarge, &end));
    // Saved at the end alone, when no update follows.
    Outcome whole = run({file("train_large"), mlp("large-whole", end, kNever)});
    ASSERT_EQ(whole.code, 0) << whole.err;
    EXPECT_FALSE(contains(whole.out, "nan")) << whole.out; // which would hide any difference
    std::string weights = read_file(file("large-whole.weights"));
    EXPECT_GE(2 * weights.size(), 4u << 20); // and as much momentum
    EXPECT_TRUE(weights == read_file(file("large.weights"))) << "not the same bits";
    EXPECT_EQ(checkpoint_difference(checkpoint_path(file("large-whole"), end),
                                    checkpoint_path(file("large"), end)),
              "");
}

TEST_F(Install, ExamplesByCMakeSharedStaticAndCxx) {
    configure_examples("build");
    expect_done(CAIRN_CMAKE " --build " + file("build"));
    ASSERT_TRUE(exists(file("build/train_mlp_static")));
    for (const char *program : {"train_mlp", "train_mlp_static"}) {
        std::string name = program;
        Outcome outcome = run({file("build/" + name), mlp("cmake-" + name)});
        EXPECT_EQ(outcome.code, 0) << outcome.err;
    }
    EXPECT_TRUE(read_file(file("cmake-train_mlp.weights")) ==
                read_file(file("cmake-train_mlp_static.weights")));

    Outcome first = run({file("build/train_line"), {file("line")}});
    EXPECT_EQ(first.code, 0) << first.err;
    EXPECT_TRUE(contains(first.out, "started at step 0\nstep 100: ")) << first.out;
    Outcome second = run({file("build/train_line"), {file("line")}});
    EXPECT_EQ(second.code, 0) << second.err;
    EXPECT_TRUE(contains(second.out, "resumed at step 100\nstep 200: ")) << second.out;
}

// Its target exists where the package says that the library takes tensors on a device. To run it
// takes one.
TEST_F(Install, TheExampleForAGpuIsBuilt) {
    const std::string nvcc = CAIRN_CUDA_COMPILER;
    if (nvcc.empty()) {
        GTEST_SKIP() << "gpu: this build has no CUDA";
    }
    configure_examples("build-cuda");
    expect_done(CAIRN_CMAKE " --build " + file("build-cuda") + " --target train_cuda");
    const std::string program = file("build-cuda/train_cuda");
    ASSERT_TRUE(exists(program));
    Outcome usage = run({program, {}});
    EXPECT_EQ(usage.code, 2) << usage.err;
    EXPECT_TRUE(contains(usage.err, "usage: " + program + " DIRECTORY [STEPS]")) << usage.err;

    // By hand, as it says itself.
    expect_done(nvcc + " " + kExamples + "/train_cuda.cu -o " + file("train_cuda") + " " +
                pkg_config("--cflags --libs"));
}

// The program at the top of the header, as somebody copies it.
TEST_F(Install, TheUsageInTheHeaderCompiles) {
    std::istringstream header(read_file(installed("checkpoint.h")));
    std::string usage;
    bool inside = false;
    for (std::string line; std::getline(header, line);) {
        const bool indented = line.compare(0, 7, " *     ") == 0;
        usage += inside && indented ? line.substr(7) + "\n" : "";
        inside = line == " * Usage:" || (inside && indented);
    }
    ASSERT_TRUE(contains(usage, "cairn_checkpoint_close(")) << usage;
    const std::string source = "#include <cairn/checkpoint.h>\n"
                               "void train(void);\n"
                               "int fail(const struct cairn_error *error);\n"
                               "int trainer(float *w, uint64_t last);\n"
                               "int trainer(float *w, uint64_t last) {\n" +
                               usage + "return 0;\n}\n";
    write_file(file("usage.c"), source);
    write_file(file("usage.cc"), source);
    const std::string flags = " -Wall -Wextra -Wconversion -Werror -c " + file("usage.");
    const std::string output = " -o " + file("usage.o") + " " + pkg_config("--cflags");
    expect_done(CAIRN_C_COMPILER " -std=c17" + flags + "c" + output);
    expect_done(CAIRN_CXX_COMPILER " -std=c++17" + flags + "cc" + output);
}

// A signal handler of the program, not of the library: it saves and leaves with a code that is not
// that of a run that came to its end.
TEST_F(Install, AStopSignalIsTheProgramsOwn) {
    build_mlp("stoppable");
    Process process({file("stoppable"), {file("stopped"), file("none"), "1000000000", "10"}});
    ASSERT_TRUE(process.wait_for([&] { return !checkpoint_steps(file("stopped")).empty(); }))
        << process.err();
    process.signal(SIGTERM);
    EXPECT_EQ(process.wait(), 75) << process.err();
    uint64_t last = checkpoint_steps(file("stopped")).back();
    EXPECT_TRUE(contains(process.out(), "step " + std::to_string(last) + ",")) << process.out();
    EXPECT_FALSE(exists(file("none")));
}

void Install::expect_public_names(const std::string &options, const std::string &library) {
    Outcome names = shell("nm " + options + " --defined-only " + library);
    ASSERT_EQ(names.code, 0) << names.err;
    size_t count = 0;
    std::istringstream lines(names.out);
    for (std::string line; std::getline(lines, line);) {
        std::string name = line.substr(line.rfind(' ') + 1);
        bool symbol = std::count(line.begin(), line.end(), ' ') == 2;
        bool reserved = name.compare(0, 2, "__") == 0;                // a sanitizer's
        bool version = name.compare(0, 17, "CAIRN_CHECKPOINT_") == 0; // the node's own name
        if (symbol && !reserved && !version) {
            EXPECT_EQ(name.compare(0, 17, "cairn_checkpoint_"), 0) << line;
            count++;
        }
    }
    EXPECT_EQ(count, 17u) << names.out; // the functions of the header
}

// Names of the library's inside would clash with those of the programs that link it.
TEST_F(Install, OnlyPublicNamesAreVisible) {
    expect_public_names("-g", installed("libcairn-checkpoint.a"));
    expect_public_names("-D", installed("libcairn-checkpoint.so"));
    Outcome versioned = shell("nm -D " + installed("libcairn-checkpoint.so"));
    EXPECT_TRUE(contains(versioned.out, "cairn_checkpoint_open@@CAIRN_CHECKPOINT_" + kBound + "\n"))
        << versioned.out;
}

TEST_F(Install, TheSharedLibraryNeedsOnlyWhatCheckpointsNeed) {
    Outcome needed = shell("readelf -d " + installed("libcairn-checkpoint.so"));
    ASSERT_EQ(needed.code, 0) << needed.err;
    EXPECT_TRUE(contains(needed.out, "[libcairn-checkpoint.so." + kBound + "]")) << needed.out;
    EXPECT_TRUE(contains(needed.out, "[libzstd.so")) << needed.out;
    for (const char *library : {"archive", "cublas", "cudnn", "libstdc++", "inih"}) {
        EXPECT_FALSE(contains(needed.out, library)) << needed.out;
    }
}

// Not installed but inside another project, which compiles as builders of packages do.
TEST_F(Install, AParentProjectHasFlagsOfItsOwn) {
    std::string parent = file("parent");
    expect_done("mkdir " + parent);
    write_file(parent + "/CMakeLists.txt",
               "cmake_minimum_required(VERSION 3.25)\n"
               "project(parent LANGUAGES C)\n"
               "add_subdirectory(" CAIRN_SOURCE_DIR " cairn EXCLUDE_FROM_ALL)\n"
               "if(CMAKE_BUILD_TYPE)\n"
               "  message(FATAL_ERROR \"a build type was chosen: ${CMAKE_BUILD_TYPE}\")\n"
               "endif()\n"
               "add_executable(trainer " +
                   kExamples +
                   "/train_mlp.c)\n"
                   "target_link_libraries(trainer PRIVATE cairn::checkpoint m)\n"
                   "add_dependencies(trainer cairn_checkpoint_archive)\n");
    expect_done(std::string(CAIRN_CMAKE) + " -S " + parent + " -B " + parent +
                "/build -DCMAKE_C_COMPILER=" CAIRN_C_COMPILER
                " -DCMAKE_C_FLAGS='-flto -ffast-math' -DCAIRN_TESTS=OFF -DCAIRN_CUDA=off && " +
                CAIRN_CMAKE + " --build " + parent + "/build --parallel 2");
    Outcome outcome = run({parent + "/build/trainer", mlp("inside", 20)});
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    expect_public_names("-g", parent + "/build/libcairn-checkpoint.a");
}

TEST_F(Install, TheProgramIsInstalledToo) {
    std::string other = file("program");
    expect_done(std::string(CAIRN_CMAKE) + " --install " CAIRN_BUILD_DIR " --prefix " + other +
                " --component program");
    Outcome version = run({other + "/bin/cairn", {"--version"}});
    EXPECT_EQ(version.code, 0) << version.err;
    EXPECT_TRUE(contains(version.out, "cairn")) << version.out;
}

} // namespace
