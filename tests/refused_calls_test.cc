// What the system refuses: memory, threads and locks, one call after the other, and the name of the
// host; and system calls that a signal interrupts. The linker puts the functions below between the
// engine and the system (--wrap, see CMakeLists.txt); the test's own C++ code is not affected.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <zstd.h>

#include <atomic>
#include <functional>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "io/store.h"
#include "io/writer.h"
#include "tests/support/checkpoint_bytes.h"
#include "tests/support/ring.h"
#include "tests/support/small_run.h"
#include "tests/support/temporary_directory.h"

namespace {

// ---- what is refused ----

// Requests for memory, threads and locks are counted down; the one that reaches zero is refused.
std::atomic<long> countdown{0};

bool is_refused() {
    long left = countdown;
    while (left > 0 && !countdown.compare_exchange_weak(left, left - 1)) {
    }
    return left == 1;
}

// The next `times` calls of the system call `name` fail with `error`.
class Plan {
  public:
    void set(const char *name, int error, int times) {
        std::lock_guard<std::mutex> guard(mutex_);
        name_ = name;
        error_ = error;
        left_ = times;
    }
    int left() {
        std::lock_guard<std::mutex> guard(mutex_);
        return left_;
    }
    bool fails(const char *name) {
        std::lock_guard<std::mutex> guard(mutex_);
        if (left_ == 0 || name_ != name) {
            return false;
        }
        left_--;
        errno = error_;
        return true;
    }

  private:
    std::mutex mutex_;
    std::string name_;
    int error_ = 0, left_ = 0;
};
Plan plan;

} // namespace

// ---- between the engine and the system ----

#define REFUSABLE(type, name, parameters, arguments, refusal)                                      \
    type __real_##name parameters;                                                                 \
    type __wrap_##name parameters {                                                                \
        return is_refused() ? refusal : __real_##name arguments;                                   \
    }

#define FAILING(type, name, parameters, arguments, failure)                                        \
    type __real_##name parameters;                                                                 \
    type __wrap_##name parameters {                                                                \
        return plan.fails(#name) ? failure : __real_##name arguments;                              \
    }

extern "C" {

REFUSABLE(void *, malloc, (size_t size), (size), nullptr)
REFUSABLE(void *, calloc, (size_t count, size_t size), (count, size), nullptr)
REFUSABLE(void *, realloc, (void *memory, size_t size), (memory, size), nullptr)
REFUSABLE(void *, aligned_alloc, (size_t alignment, size_t size), (alignment, size), nullptr)
REFUSABLE(ZSTD_CCtx *, ZSTD_createCCtx, (void), (), nullptr)
REFUSABLE(ZSTD_DCtx *, ZSTD_createDCtx, (void), (), nullptr)
REFUSABLE(int, pthread_create,
          (pthread_t * thread, const pthread_attr_t *attributes, void *(*start)(void *),
           void *context),
          (thread, attributes, start, context), EAGAIN)
REFUSABLE(int, pthread_mutex_init, (pthread_mutex_t * mutex, const pthread_mutexattr_t *attributes),
          (mutex, attributes), ENOMEM)
REFUSABLE(int, pthread_cond_init,
          (pthread_cond_t * condition, const pthread_condattr_t *attributes),
          (condition, attributes), ENOMEM)

FAILING(int, gethostname, (char *name, size_t size), (name, size), -1)
FAILING(struct tm *, gmtime_r, (const time_t *time, struct tm *out), (time, out), nullptr)
FAILING(int, pthread_setschedparam,
        (pthread_t thread, int policy, const struct sched_param *values), (thread, policy, values),
        EPERM)
FAILING(ssize_t, read, (int fd, void *buffer, size_t bytes), (fd, buffer, bytes), -1)
FAILING(ssize_t, write, (int fd, const void *buffer, size_t bytes), (fd, buffer, bytes), -1)
FAILING(int, fsync, (int fd), (fd), -1)
FAILING(int, ftruncate, (int fd, off_t bytes), (fd, bytes), -1)
FAILING(int, stat, (const char *path, struct stat *out), (path, out), -1)
FAILING(int, fstat, (int fd, struct stat *out), (fd, out), -1)
FAILING(int, flock, (int fd, int operation), (fd, operation), -1)
FAILING(DIR *, opendir, (const char *path), (path), nullptr)
FAILING(struct dirent *, readdir, (DIR * directory), (directory), nullptr)

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(rest, mode_t) : 0;
    va_end(rest);
    return plan.fails("open") ? -1 : __real_open(path, flags, mode);
}

// Linux frees the descriptor whatever it then returns.
int __real_close(int fd);
int __wrap_close(int fd) {
    const int result = __real_close(fd);
    return plan.fails("close") ? -1 : result;
}

} // extern "C"

namespace {

// ---- memory, threads, locks ----

// Refuses the nth request between arm and disarm.
class Refusal {
  public:
    explicit Refusal(long nth) : nth_(nth) {}
    void arm() { countdown = nth_; }
    void disarm() {
        reached_ = countdown == 0;
        countdown = 0;
    }
    bool was_reached() const { return reached_; }

  private:
    long nth_;
    bool reached_ = false;
};

// Call `attempt` with its first request refused, then with its second, until it makes fewer. It
// has to arm the refusal once it has prepared everything. What fails says that it was memory (a
// thread and a lock are, too); what does not has done its work all the same. Returns how often it
// failed.
size_t refuse_each(const std::function<enum status(Refusal &, struct error *)> &attempt) {
    size_t failures = 0;
    for (long nth = 1;; nth++) {
        SCOPED_TRACE("request " + std::to_string(nth));
        Refusal refusal(nth);
        struct error err = {};
        const enum status status = attempt(refusal, &err);
        if (status != STATUS_OK) {
            failures++;
            EXPECT_TRUE(refusal.was_reached());
            EXPECT_EQ(status, STATUS_MEMORY) << err.message;
            EXPECT_STRNE(err.message, "");
        }
        if (!refusal.was_reached() || testing::Test::HasFailure()) {
            return failures;
        }
    }
}

// Three frames, so that several threads have something to do.
std::vector<Tensor> tensors() {
    const std::vector<uint8_t> bytes(9 << 20, 7);
    const std::vector<float> floats = {1, 2, 3};
    return {make_tensor("large", DTYPE_U8, {bytes.size()}, bytes),
            make_tensor("small", DTYPE_F32, {3}, floats)};
}

const Metadata kPairs = {{"note", "n"}};

void refuse_reading(const std::string &bytes, size_t failures_min) {
    const std::string everything = decode(bytes).everything();
    const size_t failures = refuse_each([&](Refusal &refusal, struct error *err) {
        Decoded decoded;
        struct checkpoint *checkpoint = nullptr;
        refusal.arm();
        const enum status status = checkpoint_decode(bytes.data(), bytes.size(), &checkpoint, err);
        refusal.disarm();
        EXPECT_EQ(checkpoint != nullptr, status == STATUS_OK);
        decoded.checkpoint.reset(checkpoint);
        if (status == STATUS_OK) {
            EXPECT_TRUE(decoded.everything() == everything);
        }
        return status;
    });
    EXPECT_GE(failures, failures_min);
}

TEST(Refused, ACheckpointThatIsRead) {
    const Encoded encoded = encode(tensors(), kPairs);
    ASSERT_EQ(encoded.status, STATUS_OK) << encoded.message;
    refuse_reading(encoded.bytes, 8);
}

TEST(Refused, APlainSafetensorsFileThatIsRead) {
    refuse_reading(
        safetensors_header("{" + json_entry("t", "U8", "[8]", "[0,8]") + "}") + "12345678", 5);
}

enum status append(void *context, const void *bytes, size_t size, struct error *) {
    static_cast<std::string *>(context)->append(static_cast<const char *>(bytes), size);
    return STATUS_OK;
}

enum status encode_with(unsigned threads, std::vector<Tensor> *list, std::string *out,
                        struct error *err) {
    const std::vector<struct tensor_view> views = views_of(*list);
    const struct metadata_pair pair = {"note", "n"};
    struct checkpoint_encoder *encoder = nullptr;
    enum status status = checkpoint_encoder_create(1, threads, &encoder, err);
    if (status == STATUS_OK) {
        status = checkpoint_encode(encoder, views.data(), views.size(), &pair, 1, append, out,
                                   nullptr, nullptr, err);
    }
    checkpoint_encoder_free(encoder);
    return status;
}

TEST(Refused, ACheckpointThatIsMade) {
    std::vector<Tensor> list = tensors();
    const Encoded expected = encode(list, kPairs);
    const size_t failures = refuse_each([&](Refusal &refusal, struct error *err) {
        std::string bytes;
        refusal.arm();
        const enum status status = encode_with(3, &list, &bytes, err);
        refusal.disarm();
        if (status == STATUS_OK) {
            EXPECT_TRUE(bytes == expected.bytes);
        }
        return status;
    });
    EXPECT_GE(failures, 15u);
}

TEST(Refused, AWriterThatIsCreated) {
    FakeBackend device(FakeBackend::UNIFIED);
    MemoryFiles disk;
    std::vector<float> region(SmallRun::FLOATS);
    const struct writer_options options = {disk.table(), nullptr, 1,    WRITER_BUSY_SKIP,
                                           64,           2,       false};
    const size_t failures = refuse_each([&](Refusal &refusal, struct error *err) {
        struct writer *writer = nullptr;
        refusal.arm();
        const enum status status = writer_create(&options, device.get(), region.data(),
                                                 region.size() * sizeof(float), &writer, err);
        refusal.disarm();
        EXPECT_EQ(writer != nullptr, status == STATUS_OK);
        writer_free(writer);
        EXPECT_EQ(device.host_bytes(), 0u);
        return status;
    });
    EXPECT_GE(failures, 20u);
}

// The save with the refusal, its result in `err`; then one without.
TEST(Refused, ASaveFailsAndTheNextOneDoesNot) {
    const std::string note(200000, 'n'); // more than a save has memory for beforehand
    const size_t failures = refuse_each([&](Refusal &refusal, struct error *err) {
        SmallRun run;
        run.train_to(1);
        struct save_request request = run.ring_request();
        request.metadata[0] = {"note", note.c_str()};
        request.metadata_count = 1;
        const std::vector<struct snapshot_source> sources = run.sources();
        enum save_outcome outcome = SAVE_SKIPPED;
        refusal.arm();
        enum status status =
            writer_save(run.writer, sources.data(), sources.size(), &request, &outcome, err);
        writer_drain(run.writer);
        refusal.disarm();
        const std::vector<struct save_result> results = run.results();
        EXPECT_EQ(results.size(), status == STATUS_OK ? 1u : 0u);
        if (!results.empty()) {
            status = results[0].status;
            memcpy(err->message, results[0].message, sizeof err->message - 1);
        }
        EXPECT_EQ(run.temporaries(), 0u);
        EXPECT_EQ(run.totals().failed, status == STATUS_OK ? 0u : 1u);
        run.save_step(2);
        EXPECT_EQ(run.drain()[0].status, STATUS_OK);
        EXPECT_EQ(run.problem_of(2), "");
        return status;
    });
    EXPECT_GE(failures, 5u);
}

// ---- the same for a model directory ----

using Steps = std::vector<uint64_t>;
constexpr double kStart = 1.7e9;

void fill(MemoryFiles &disk, uint32_t keep_max) {
    Store store = open_store(disk.table(), keep_max);
    for (uint64_t step : {10, 20, 30}) {
        commit_at(disk, store, step, kStart + static_cast<double>(step));
    }
}

TEST(Refused, AModelDirectoryThatIsOpened) {
    MemoryFiles disk;
    fill(disk, 0);
    const std::string temporary = kRun + "/.cairn-tmp-x.1.0";
    const size_t failures = refuse_each([&](Refusal &refusal, struct error *err) {
        disk.put(temporary, "stale");
        const struct store_options options = {0, 0};
        struct store *store = nullptr;
        refusal.arm();
        const enum status status =
            store_open(disk.table(), kRun.c_str(), &options, &store, nullptr, err);
        refusal.disarm();
        EXPECT_EQ(store != nullptr, status == STATUS_OK);
        EXPECT_TRUE(status != STATUS_OK || !disk.exists(temporary));
        store_close(store);
        EXPECT_EQ(disk.open_descriptors(), 0u);
        return status;
    });
    EXPECT_GE(failures, 6u);
    EXPECT_EQ(ring_steps(disk), (Steps{10, 20, 30}));
}

// Retention deletes only when the state file could be written; what is left is caught up with.
TEST(Refused, ACommit) {
    const size_t failures = refuse_each([&](Refusal &refusal, struct error *err) {
        MemoryFiles disk;
        fill(disk, 3);
        Store store = open_store(disk.table(), 3);
        disk.put(checkpoint_path(40), "checkpoint 40");
        refusal.arm();
        const enum status status = store_committed(store.get(), 40, err);
        refusal.disarm();
        EXPECT_TRUE(disk.exists(checkpoint_path(40)));
        EXPECT_EQ(disk.open_descriptors(), 2u); // of the directory and its lock
        commit_at(disk, store, 50, kStart + 50);
        EXPECT_EQ(ring_steps(disk), (Steps{30, 40, 50}));
        EXPECT_EQ(listed_steps(state_text(disk)), (Steps{30, 40, 50}));
        return status;
    });
    EXPECT_GE(failures, 5u);
}

TEST(Refused, GoingBack) {
    const size_t failures = refuse_each([&](Refusal &refusal, struct error *err) {
        MemoryFiles disk;
        fill(disk, 0);
        Store store = open_store(disk.table(), 0);
        const auto before = disk.contents();
        refusal.arm();
        const enum status status = store_supersede_newer(store.get(), 10, err);
        refusal.disarm();
        struct error again = {};
        EXPECT_EQ(store_supersede_newer(store.get(), 10, &again), STATUS_OK) << again.message;
        EXPECT_EQ(ring_steps(disk), (Steps{10}));
        EXPECT_EQ(ring_steps(disk, kRun + "/superseded"), (Steps{20, 30}));
        EXPECT_EQ(listed_steps(state_text(disk)), (Steps{10}));
        return status;
    });
    EXPECT_GE(failures, 4u);
}

TEST(Refused, AStateFileThatIsRead) {
    for (const std::string text :
         {"model_checkpoint_path: \"model.ckpt-7.safetensors.zst\"\n",
          "model_checkpoint_path: \"model.ckpt-7.safetensors.zst\"\n"
          "all_model_checkpoint_paths: \"model.ckpt-3.safetensors.zst\"\n"
          "all_model_checkpoint_paths: \"model.ckpt-7.safetensors.zst\"\n"
          "all_model_checkpoint_timestamps: 5\nall_model_checkpoint_timestamps: 6\n"}) {
        const size_t failures = refuse_each([&](Refusal &refusal, struct error *err) {
            struct store_state state;
            refusal.arm();
            const enum status status = store_state_parse(text.data(), text.size(), &state, err);
            refusal.disarm();
            if (status == STATUS_OK) {
                EXPECT_STREQ(state.names[state.count - 1], checkpoint_name(7).c_str());
                store_state_free(&state);
            }
            return status;
        });
        EXPECT_GE(failures, 2u);
    }
}

// A checkpoint that there was no memory for is not damaged: no older one may take its place.
TEST(Refused, TheSearchForTheNewestCheckpoint) {
    MemoryFiles disk;
    std::vector<Tensor> list = {make_tensor<float>("weight", DTYPE_F32, {2}, {1, 2})};
    for (uint64_t step : {10, 20}) {
        disk.put(checkpoint_path(step), encode(list, {{"step", std::to_string(step)}}).bytes);
    }
    disk.put(checkpoint_path(30), "damaged");
    std::set<std::string> told;
    const size_t failures = refuse_each([&](Refusal &refusal, struct error *err) {
        char path[FILE_PATH_CAPACITY] = "";
        struct checkpoint *checkpoint = nullptr;
        told.clear();
        refusal.arm();
        const enum status status = store_load_newest(
            disk.table(), kRun.c_str(),
            [](void *context, const char *damaged, const char *) {
                static_cast<std::set<std::string> *>(context)->insert(damaged);
            },
            &told, &checkpoint, path, err);
        refusal.disarm();
        EXPECT_EQ(checkpoint != nullptr, status == STATUS_OK);
        checkpoint_free(checkpoint);
        if (status == STATUS_OK) {
            EXPECT_EQ(path, checkpoint_path(20));
        }
        EXPECT_EQ(told.count(checkpoint_path(20)) + told.count(checkpoint_path(10)), 0u);
        return status;
    });
    EXPECT_GE(failures, 10u);
}

// ---- what is only said ----

TEST(Refused, WithoutAHostNameOrATimeTheFilesSayUnknown) {
    plan.set("gethostname", ENAMETOOLONG, 2); // the lock file's, and the writer's
    SmallRun run;
    EXPECT_EQ(plan.left(), 0);
    EXPECT_EQ(run.disk.get(run.path(".cairn-lock")),
              "pid " + std::to_string(getpid()) + " on host unknown\n");
    plan.set("gmtime_r", EOVERFLOW, 1);
    run.save_step(1);
    ASSERT_EQ(run.drain()[0].status, STATUS_OK);
    EXPECT_EQ(plan.left(), 0);
    const Decoded decoded = decode(*run.disk.get(run.path(ring_name(1))));
    ASSERT_EQ(decoded.status, STATUS_OK) << decoded.message;
    std::set<std::string> said;
    for (size_t i = 0; i < decoded.checkpoint->metadata_count; i++) {
        const struct metadata_pair &pair = decoded.checkpoint->metadata[i];
        said.insert(std::string(pair.key) + ": " + pair.value);
    }
    EXPECT_EQ(said.count("host: unknown"), 1u);
    EXPECT_EQ(said.count("created: unknown"), 1u);
}

TEST(Refused, AWriterThatMayNotChangeItsPolicySavesAllTheSame) {
    const int enough = 100;
    plan.set("pthread_setschedparam", EPERM, enough);
    SmallRun run;
    while (plan.left() > enough - 2) { // its thread asks when it begins, and so does the copier
        std::this_thread::yield();
    }
    run.save_step(1);
    ASSERT_EQ(run.drain()[0].status, STATUS_OK);
    EXPECT_EQ(plan.left(), enough - 2); // neither asked again
    plan.set("", 0, 0);
    EXPECT_EQ(run.problem_of(1), "");
}

// ---- system calls ----

// Every call of the table, in an order in which all of them succeed. The first result that is
// negative.
long use_all(const std::string &directory) {
    const struct file_table &files = file_posix;
    const std::string path = directory + "/file";
    struct file_stat info, open_info;
    char byte = 'x';
    size_t names = 0;
    long fd = files.open(nullptr, path.c_str(), O_RDWR | O_CREAT, 0600);
    if (fd < 0) {
        return fd;
    }
    const int file = static_cast<int>(fd);
    std::vector<long> results = {files.write(nullptr, file, &byte, 1),
                                 files.fsync(nullptr, file),
                                 files.truncate(nullptr, file, 0),
                                 files.read(nullptr, file, &byte, 1),
                                 files.stat(nullptr, path.c_str(), &info),
                                 files.stat_open(nullptr, file, &open_info),
                                 files.lock(nullptr, file),
                                 files.list(
                                     nullptr, directory.c_str(),
                                     [](void *user, const char *) {
                                         ++*static_cast<size_t *>(user);
                                         return 0;
                                     },
                                     &names),
                                 files.close(nullptr, file)};
    for (long result : results) {
        if (result < 0) {
            return result;
        }
    }
    EXPECT_EQ(names, 1u);
    EXPECT_TRUE(info.is_regular);
    EXPECT_EQ(info.inode, open_info.inode);
    EXPECT_EQ(info.device, open_info.device);
    return 0;
}

const char *const kCalls[] = {"open",  "write", "fsync",   "ftruncate", "read", "stat",
                              "fstat", "flock", "opendir", "readdir",   "close"};

TEST(PosixFiles, ACallThatASignalInterruptsIsMadeAgainButClose) {
    for (const char *call : kCalls) {
        TemporaryDirectory directory;
        plan.set(call, EINTR, strcmp(call, "close") == 0 ? 1 : 3);
        EXPECT_EQ(use_all(directory.path()), 0) << call;
        EXPECT_EQ(plan.left(), 0) << call;
    }
}

TEST(PosixFiles, AnyOtherErrorIsReturned) {
    for (const char *call : kCalls) {
        TemporaryDirectory directory;
        plan.set(call, EIO, 1);
        EXPECT_EQ(use_all(directory.path()), -EIO) << call;
        EXPECT_EQ(plan.left(), 0) << call;
    }
}

} // namespace
