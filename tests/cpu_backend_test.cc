// The CPU backend apart from its mathematics: memory, copies, events, choice of kernels, threads,
// quotas.
#include <gtest/gtest.h>

#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/cpu_limits.h"
#include "kernels/cpu/cpu_pool.h"
#include "tests/support/temporary_directory.h"

namespace {

// ---- pool ----

struct Pool {
    explicit Pool(uint32_t threads) {
        EXPECT_EQ(cpu_pool_create(threads, &pool, nullptr), STATUS_OK);
    }
    ~Pool() { cpu_pool_free(pool); }
    cpu_pool *pool = nullptr;
};

TEST(CpuPool, RunsEveryTaskOnceAndWaitsForAll) {
    for (uint32_t threads : {1u, 2u, 3u, 8u}) {
        Pool pool(threads);
        EXPECT_EQ(cpu_pool_threads(pool.pool), threads);
        for (uint32_t tasks : {0u, 1u, 2u, 7u, 8u, 1000u}) {
            std::vector<int> ran(tasks); // not atomic: cpu_pool_run itself must order the memory
            cpu_pool_run(
                pool.pool, tasks,
                [](void *context, uint32_t index) {
                    (*static_cast<std::vector<int> *>(context))[index]++;
                },
                &ran);
            EXPECT_EQ(ran, std::vector<int>(tasks, 1));
        }
    }
}

struct Seen {
    std::mutex mutex;
    std::set<std::thread::id> threads;
    std::atomic<uint32_t> inside{0};
    uint32_t expected = 0;
    bool flushed = true;
};

// Waits until all tasks run at the same time, which needs as many threads.
void meet(void *context, uint32_t) {
    auto *seen = static_cast<Seen *>(context);
    volatile float tiny = std::numeric_limits<float>::min();
    volatile float quarter = tiny / 4;
    volatile float denormal = std::numeric_limits<float>::denorm_min();
    volatile float scaled = denormal * 1e30f; // flushed when read
    {
        std::lock_guard<std::mutex> lock(seen->mutex);
        seen->threads.insert(std::this_thread::get_id());
#if defined(__SSE2__) || defined(__aarch64__)
        seen->flushed = seen->flushed && quarter == 0.0f && scaled == 0.0f;
#endif
    }
    seen->inside++;
    while (seen->inside < seen->expected) {
        std::this_thread::yield();
    }
}

TEST(CpuPool, UsesAllItsThreadsTheCallersToo) {
    Pool pool(4);
    Seen seen;
    seen.expected = 4;
    cpu_pool_run(pool.pool, 4, meet, &seen);
    EXPECT_EQ(seen.threads.size(), 4u);
    EXPECT_EQ(seen.threads.count(std::this_thread::get_id()), 1u);
}

TEST(CpuPool, FlushesDenormalsInsideTasksOnly) {
    Pool pool(3);
    Seen seen;
    seen.expected = 3;
    cpu_pool_run(pool.pool, 3, meet, &seen);
    EXPECT_TRUE(seen.flushed);
    volatile float tiny = std::numeric_limits<float>::min();
    volatile float quarter = tiny / 4;
    EXPECT_GT(quarter, 0.0f);
}

TEST(CpuPool, FreeOfNothingIsFine) {
    cpu_pool_free(nullptr);
}

// ---- backend ----

struct Backend {
    explicit Backend(uint32_t threads = 2) {
        backend_options options = {};
        options.threads = threads;
        options.isa = "auto";
        EXPECT_EQ(backend_cpu_create(&options, &be, nullptr), STATUS_OK);
    }
    ~Backend() { be->table->free(be); }
    backend *be = nullptr;
};

TEST(CpuBackend, MemoryIsZeroAlignedAndFreeable) {
    Backend b;
    const size_t sizes[] = {0, 1, 63, 64, 4097, 5u << 20};
    for (size_t bytes : sizes) {
        for (auto alloc : {b.be->table->device_alloc, b.be->table->host_alloc}) {
            void *memory = nullptr;
            ASSERT_EQ(alloc(b.be, bytes, &memory, nullptr), STATUS_OK);
            EXPECT_EQ((uintptr_t)memory % 64, 0u);
            auto *at = static_cast<unsigned char *>(memory);
            EXPECT_TRUE(std::all_of(at, at + bytes, [](unsigned char c) { return c == 0; }));
            std::memset(memory, 0xAB, bytes);
            b.be->table->device_free(b.be, memory);
        }
    }
    b.be->table->device_free(b.be, nullptr);
    b.be->table->host_free(b.be, nullptr);
}

TEST(CpuBackend, AbsurdSizesAreAnErrorNotACrash) {
    Backend b;
    struct error err = {};
    void *memory = nullptr;
    for (size_t bytes : {SIZE_MAX, SIZE_MAX - 64, SIZE_MAX / 2}) {
        EXPECT_EQ(b.be->table->device_alloc(b.be, bytes, &memory, &err), STATUS_MEMORY);
        EXPECT_NE(std::string(err.message).find(std::to_string(bytes)), std::string::npos);
    }
    model_shape shape = {UINT32_MAX / 2, UINT32_MAX, UINT32_MAX, UINT32_MAX};
    batch_limits limits = {UINT32_MAX, UINT64_MAX, UINT32_MAX, true};
    size_t bytes = 0;
    EXPECT_EQ(b.be->table->workspace_bytes(b.be, &shape, &limits, &bytes, &err), STATUS_MEMORY);
    EXPECT_NE(std::string(err.message).find(std::to_string(UINT64_MAX) + " tokens"),
              std::string::npos)
        << err.message;
}

TEST(CpuBackend, WorkspaceGrowsWithTheBatchAndWithTraining) {
    Backend b;
    model_shape shape = {1000, 64, 64, 64};
    auto bytes = [&](uint32_t sequences, uint64_t tokens, bool training) {
        batch_limits limits = {sequences, tokens, 100, training};
        size_t out = 0;
        EXPECT_EQ(b.be->table->workspace_bytes(b.be, &shape, &limits, &out, nullptr), STATUS_OK);
        return out;
    };
    EXPECT_LE(bytes(10, 1000, true), bytes(11, 1000, true));
    EXPECT_LT(bytes(10, 1000, true), bytes(10, 2000, true));
    // Without training nothing is kept per token but its word: 4 bytes.
    size_t per_token = (bytes(64, 120000, false) - bytes(64, 110000, false)) / 10000;
    EXPECT_EQ(per_token, 4u);
}

TEST(CpuBackend, CopiesFillsAndEvents) {
    Backend b;
    const backend_table *t = b.be->table;
    char from[] = "abcdef", to[] = "......";
    for (auto stream : {BACKEND_STREAM_COMPUTE, BACKEND_STREAM_COPY}) {
        std::memset(to, '.', 6);
        ASSERT_EQ(t->copy(b.be, to, from, 4, stream, nullptr), STATUS_OK);
        ASSERT_EQ(t->fill_zero(b.be, to + 1, 1, stream, nullptr), STATUS_OK);
        ASSERT_EQ(t->copy(b.be, to, nullptr, 0, stream, nullptr), STATUS_OK);
        ASSERT_EQ(t->stream_synchronize(b.be, stream, nullptr), STATUS_OK);
        EXPECT_EQ(std::string(to, 6), std::string("a\0cd..", 6));
    }
    backend_event *event = nullptr;
    ASSERT_EQ(t->event_create(b.be, &event, nullptr), STATUS_OK);
    ASSERT_EQ(t->copy(b.be, to, from, 6, BACKEND_STREAM_COMPUTE, nullptr), STATUS_OK);
    ASSERT_EQ(t->event_record(b.be, event, BACKEND_STREAM_COMPUTE, nullptr), STATUS_OK);
    ASSERT_EQ(t->stream_wait_event(b.be, BACKEND_STREAM_COPY, event, nullptr), STATUS_OK);
    std::string seen;
    std::thread other([&] {
        bool done = false;
        EXPECT_EQ(t->event_query(b.be, event, &done, nullptr), STATUS_OK);
        EXPECT_TRUE(done);
        EXPECT_EQ(t->event_wait(b.be, event, nullptr), STATUS_OK);
        seen.assign(to, 6);
    });
    other.join();
    EXPECT_EQ(seen, "abcdef");
    t->event_free(b.be, event);
    t->event_free(b.be, nullptr);
}

TEST(CpuBackend, NamesItselfAndItsThreads) {
    Backend b(3);
    EXPECT_STREQ(b.be->device, "cpu");
    EXPECT_TRUE(b.be->unified_memory);
    EXPECT_EQ(std::string(b.be->kernel_path),
              std::string("cpu-fused-") + backend_cpu_isa_names()[0]);
    EXPECT_NE(std::string(b.be->description).find("3 threads"), std::string::npos)
        << b.be->description;
}

TEST(CpuBackend, EveryNamedIsaCanBeHadAndPortableAndTheReferenceAreTheLast) {
    std::vector<std::string> names;
    for (const char *const *name = backend_cpu_isa_names(); *name != nullptr; name++) {
        backend *be = nullptr;
        backend_options options = {};
        options.threads = 1;
        options.isa = *name;
        ASSERT_EQ(backend_cpu_create(&options, &be, nullptr), STATUS_OK);
        std::string best = backend_cpu_isa_names()[0];
        std::string path = *name == std::string("reference") ? "cpu-reference-" + best
                                                             : std::string("cpu-fused-") + *name;
        EXPECT_EQ(be->kernel_path, path);
        be->table->free(be);
        names.push_back(*name);
    }
    ASSERT_GE(names.size(), 2u);
    EXPECT_EQ(names[names.size() - 2], "portable");
    EXPECT_EQ(names.back(), "reference");
}

TEST(CpuBackend, UnknownIsaNamesThoseThereAre) {
    for (const char *isa : {"avx1024", "", "AVX2"}) {
        backend *be = nullptr;
        struct error err = {};
        backend_options options = {};
        options.threads = 1;
        options.isa = isa;
        EXPECT_EQ(backend_cpu_create(&options, &be, &err), STATUS_DEVICE);
        for (const char *const *name = backend_cpu_isa_names(); *name != nullptr; name++) {
            EXPECT_NE(std::string(err.message).find(*name), std::string::npos) << err.message;
        }
    }
}

backend_options with_precision(const char *isa, const char *precision) {
    backend_options options = {};
    options.threads = 1;
    options.isa = isa;
    options.precision = precision;
    return options;
}

bool has_bf16() {
    std::ifstream info("/proc/cpuinfo");
    std::string text((std::istreambuf_iterator<char>(info)), std::istreambuf_iterator<char>());
    return backend_cpu_isa_names()[0] == std::string("avx512") &&
           text.find("avx512_bf16") != std::string::npos;
}

// What is asked for is what runs, or nothing does.
TEST(CpuBackend, Bf16IsHadWhereTheProcessorHasItAndRefusedElsewhere) {
    for (const char *isa : {"auto", "avx512"}) {
        backend *be = nullptr;
        struct error err = {};
        backend_options options = with_precision(isa, "bf16");
        enum status status = backend_cpu_create(&options, &be, &err);
        if (has_bf16()) {
            ASSERT_EQ(status, STATUS_OK) << err.message;
            EXPECT_STREQ(be->kernel_path, "cpu-fused-avx512-bf16");
            EXPECT_NE(std::string(be->description).find("bf16"), std::string::npos);
            be->table->free(be);
        } else {
            EXPECT_EQ(status, STATUS_DEVICE);
            EXPECT_NE(std::string(err.message).find("AVX-512 BF16"), std::string::npos);
        }
    }
}

TEST(CpuBackend, Bf16IsRefusedForOtherKernels) {
    for (const char *isa : {"avx2", "portable", "reference"}) {
        backend *be = nullptr;
        struct error err = {};
        backend_options options = with_precision(isa, "bf16");
        EXPECT_EQ(backend_cpu_create(&options, &be, &err), STATUS_DEVICE);
        EXPECT_NE(std::string(err.message).find(std::string("--isa ") + isa), std::string::npos)
            << err.message;
    }
}

TEST(CpuBackend, NoPrecisionIsFp32) {
    std::vector<std::string> paths;
    for (const char *precision : {(const char *)nullptr, "fp32"}) {
        backend *be = nullptr;
        backend_options options = with_precision("auto", precision);
        ASSERT_EQ(backend_cpu_create(&options, &be, nullptr), STATUS_OK);
        paths.push_back(be->kernel_path);
        be->table->free(be);
    }
    EXPECT_EQ(paths[0], paths[1]);
    EXPECT_EQ(paths[0].find("bf16"), std::string::npos);
}

TEST(CpuBackend, DefaultThreadsAreWithinTheMachine) {
    uint32_t threads = backend_cpu_default_threads();
    EXPECT_GE(threads, 1u);
    EXPECT_LE(threads, std::thread::hardware_concurrency());
    Backend b(0);
    EXPECT_NE(std::string(b.be->description).find(std::to_string(threads) + " thread"),
              std::string::npos);
}

// ---- quotas of control groups ----

class Quota : public testing::Test {
  protected:
    void put(const std::string &path, const std::string &text) {
        std::string full = directory.path() + "/" + path;
        make_directories(full.substr(0, full.rfind('/')));
        write_file(full, text);
    }
    void make_directories(const std::string &path) {
        for (size_t at = path.find('/', 1); at != std::string::npos; at = path.find('/', at + 1)) {
            mkdir(path.substr(0, at).c_str(), 0700);
        }
        mkdir(path.c_str(), 0700);
    }
    uint32_t quota() {
        return cpu_limits_quota((directory.path() + "/self").c_str(),
                                (directory.path() + "/fs").c_str());
    }
    TemporaryDirectory directory;
};

TEST_F(Quota, NoneWithoutFilesOrLimits) {
    EXPECT_EQ(quota(), 0u);
    put("self", "0::/a/b\n");
    EXPECT_EQ(quota(), 0u);
    put("fs/a/b/cpu.max", "max 100000\n");
    EXPECT_EQ(quota(), 0u);
}

TEST_F(Quota, VersionTwoRoundsUp) {
    put("self", "0::/a\n");
    put("fs/a/cpu.max", "200000 100000\n");
    EXPECT_EQ(quota(), 2u);
    put("fs/a/cpu.max", "150000 100000\n");
    EXPECT_EQ(quota(), 2u);
    put("fs/a/cpu.max", "50000 100000\n");
    EXPECT_EQ(quota(), 1u);
}

TEST_F(Quota, TheTightestGroupOnTheWayUpCounts) {
    put("self", "0::/a/b/c\n");
    put("fs/a/b/c/cpu.max", "800000 100000\n");
    put("fs/a/b/cpu.max", "max 100000\n");
    put("fs/a/cpu.max", "300000 100000\n");
    EXPECT_EQ(quota(), 3u);
    put("fs/cpu.max", "100000 100000\n");
    EXPECT_EQ(quota(), 1u);
}

TEST_F(Quota, InAContainerThePathIsNotThereButTheRootIs) {
    put("self", "0::/kubepods/pod7/1f\n");
    put("fs/cpu.max", "400000 100000\n");
    EXPECT_EQ(quota(), 4u);
}

TEST_F(Quota, VersionOne) {
    put("self", "12:cpuset:/x\n4:cpu,cpuacct:/docker/1f\n1:name=systemd:/\n");
    put("fs/cpu,cpuacct/docker/1f/cpu.cfs_quota_us", "-1\n");
    put("fs/cpu,cpuacct/docker/1f/cpu.cfs_period_us", "100000\n");
    EXPECT_EQ(quota(), 0u);
    put("fs/cpu,cpuacct/cpu.cfs_quota_us", "250000\n");
    put("fs/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
    EXPECT_EQ(quota(), 3u);
    put("fs/cpu/docker/1f/cpu.cfs_quota_us", "100000\n"); // mounted under its short name
    put("fs/cpu/docker/1f/cpu.cfs_period_us", "100000\n");
    EXPECT_EQ(quota(), 1u);
}

TEST_F(Quota, NonsenseIsNoQuota) {
    put("self", "garbage\n0:\n::\n\n0::/a\n");
    put("fs/a/cpu.max", "many of them\n");
    EXPECT_EQ(quota(), 0u);
    put("fs/a/cpu.max", "100000 0\n");
    EXPECT_EQ(quota(), 0u);
}

} // namespace
