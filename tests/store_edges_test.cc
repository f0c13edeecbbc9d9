// A model directory in circumstances that are rare one by one: paths of every length around the
// limit, names that others take or remove at the wrong moment, files that say less than they
// should.
#include <errno.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <string.h>

#include <string>
#include <vector>

#include "io/safetensors.h"
#include "io/store.h"
#include "tests/support/checkpoint_bytes.h"
#include "tests/support/faulty_files.h"
#include "tests/support/memory_files.h"
#include "tests/support/ring.h"

namespace {

using Steps = std::vector<uint64_t>;
constexpr double kStart = 1.7e9;

void fill(MemoryFiles &disk, const Steps &steps = {10, 20, 30}) {
    Store store = open_store(disk.table(), 0);
    for (uint64_t step : steps) {
        commit_at(disk, store, step, kStart + static_cast<double>(step));
    }
}

FaultyFiles::Match is_call(FileCall wanted, const std::string &part) {
    return [wanted, part](FileCall call, const std::string &path, bool) {
        return call == wanted && path.find(part) != std::string::npos;
    };
}

// ---- long paths ----

// Everything that there is to do in a directory. What fails says that it is the length.
bool is_of_use(MemoryFiles &disk, const std::string &directory) {
    const struct store_options options = {0, 0};
    struct store *store = nullptr;
    struct store_state state = {};
    struct checkpoint *checkpoint = nullptr;
    struct error err = {};
    char path[FILE_PATH_CAPACITY];
    enum status results[] = {
        store_open(disk.table(), directory.c_str(), &options, &store, nullptr, &err),
        STATUS_OK,
        STATUS_OK,
        store_state_read(disk.table(), directory.c_str(), &state, nullptr),
        store_load_newest(disk.table(), directory.c_str(), nullptr, nullptr, &checkpoint, path,
                          nullptr),
        file_make_directories(disk.table(), (directory + "/below").c_str(), nullptr)};
    const Store guard(store);
    if (store != nullptr) {
        results[1] = store_committed(store, 30, &err);
        results[2] = results[1] != STATUS_OK ? STATUS_OK : store_supersede_newer(store, 10, &err);
    }
    store_state_free(&state);
    checkpoint_free(checkpoint);
    bool good = true;
    for (enum status status : results) {
        EXPECT_TRUE(status == STATUS_OK || status == STATUS_OUTPUT || status == STATUS_INPUT ||
                    status == STATUS_IO)
            << status;
        good = good && status == STATUS_OK;
    }
    EXPECT_TRUE(err.status == STATUS_OK || strstr(err.message, "too long") != nullptr ||
                strstr(err.message, "ENAMETOOLONG") != nullptr)
        << err.message;
    return good;
}

// With a stale temporary of a longer name than any other, and without.
TEST(StoreEdges, UpToACertainLengthADirectoryIsOfUseAndBeyondItIsRefused) {
    std::vector<Tensor> tensors = {make_tensor<float>("weight", DTYPE_F32, {2}, {1, 2})};
    const std::string bytes = encode(tensors).bytes;
    const std::string state = "model_checkpoint_path: \"model.ckpt-30.safetensors.zst\"\n";
    for (bool stale : {false, true}) {
        bool was_good = true;
        for (size_t size = 4000; size <= 4100; size++) {
            SCOPED_TRACE(size);
            MemoryFiles disk;
            const std::string directory = "/" + std::string(size - 1, 'd');
            for (uint64_t step : {10, 20, 30}) {
                disk.put(directory + "/" + checkpoint_name(step), bytes);
            }
            disk.put(directory + "/checkpoint", state);
            if (stale) {
                disk.put(directory + "/.cairn-tmp-" + std::string(60, 'x'), "stale");
            }
            const bool good = is_of_use(disk, directory);
            EXPECT_TRUE(good || size > 4000);
            EXPECT_TRUE(was_good || !good) << "a shorter one was refused";
            was_good = good;
            for (uint64_t step : {10, 20, 30}) { // wherever it is now
                EXPECT_TRUE(disk.exists(directory + "/" + checkpoint_name(step)) ||
                            disk.exists(directory + "/superseded/" + checkpoint_name(step)));
            }
        }
        EXPECT_FALSE(was_good);
    }
}

// ---- names that others take and remove ----

TEST(StoreEdges, AnOwnerThatDidNotSayItsPidYet) {
    for (const char *owner : {"", "\n"}) {
        MemoryFiles disk;
        fill(disk);
        disk.put(kRun + "/.cairn-lock", owner);
        disk.set_lock_error(-EWOULDBLOCK);
        const struct store_options options = {0, 0};
        struct store *store;
        struct error err;
        EXPECT_EQ(store_open(disk.table(), kRun.c_str(), &options, &store, nullptr, &err),
                  STATUS_OUTPUT);
        EXPECT_NE(strstr(err.message, "which did not say its pid yet"), nullptr) << err.message;
    }
}

TEST(StoreEdges, AStaleTemporaryThatSomebodyElseRemovedIsGone) {
    MemoryFiles disk;
    fill(disk);
    disk.put(kRun + "/.cairn-tmp-x.1.0", "stale");
    FaultyFiles files(disk.table());
    files.after_effect(true);
    files.fail_where(is_call(FileCall::Unlink, ".cairn-tmp-x"), ENOENT);
    EXPECT_NE(open_store(files.table(), 0), nullptr);
    EXPECT_EQ(files.failures(), 1u);
}

TEST(StoreEdges, AStaleTemporaryThatCannotBeRemovedIsNamedOnce) {
    MemoryFiles disk;
    fill(disk);
    for (const char *name : {"/.cairn-tmp-x.1.0", "/.cairn-tmp-x.1.1"}) {
        disk.put(kRun + name, "stale");
    }
    FaultyFiles files(disk.table());
    files.fail_where(is_call(FileCall::Unlink, ".cairn-tmp-x"), EIO);
    const struct store_options options = {0, 0};
    struct store *store;
    struct error err;
    EXPECT_EQ(store_open(files.table(), kRun.c_str(), &options, &store, nullptr, &err),
              STATUS_OUTPUT);
    EXPECT_NE(strstr(err.message, ".cairn-tmp-x.1."), nullptr) << err.message;
    EXPECT_EQ(files.failures(), 1u);
    EXPECT_EQ(disk.open_descriptors(), 0u);
}

TEST(StoreEdges, GoingBackWithoutAStateFile) {
    MemoryFiles disk;
    fill(disk);
    disk.remove(kRun + "/checkpoint");
    Store store = open_store(disk.table(), 0);
    struct error err;
    ASSERT_EQ(store_supersede_newer(store.get(), 5, &err), STATUS_OK) << err.message;
    EXPECT_EQ(ring_steps(disk, kRun + "/superseded"), (Steps{10, 20, 30}));
}

TEST(StoreEdges, ADirectoryThatSomebodyElseMakesAtTheSameTimeIsFine) {
    MemoryFiles disk;
    FaultyFiles files(disk.table());
    files.after_effect(true);
    files.fail_where(is_call(FileCall::Mkdir, kRun), EEXIST);
    struct error err;
    EXPECT_EQ(file_make_directories(files.table(), kRun.c_str(), &err), STATUS_OK) << err.message;
    EXPECT_EQ(files.failures(), 1u);
    EXPECT_TRUE(disk.exists(kRun));
}

TEST(StoreEdges, EveryTemporaryNameIsTaken) {
    MemoryFiles disk;
    disk.make_directory(kRun);
    FaultyFiles files(disk.table());
    files.fail_where(is_call(FileCall::Open, ".cairn-tmp-"), EEXIST);
    struct error err;
    EXPECT_EQ(file_publish(files.table(), (kRun + "/x").c_str(), "x", 1, &err), STATUS_IO);
    EXPECT_NE(strstr(err.message, "EEXIST"), nullptr) << err.message;
    EXPECT_GT(files.failures(), 100u);
}

// The path itself, or only that of the temporary file beside it.
TEST(StoreEdges, APathThatIsTooLongIsNotPublished) {
    for (const std::string &path : {"/" + std::string(FILE_PATH_CAPACITY, 'x'),
                                    "/" + std::string(FILE_PATH_CAPACITY - 10, 'x') + "/y"}) {
        MemoryFiles disk;
        struct error err;
        EXPECT_EQ(file_publish(disk.table(), path.c_str(), "x", 1, &err), STATUS_IO);
        EXPECT_NE(strstr(err.message, "ENAMETOOLONG"), nullptr) << err.message;
        EXPECT_EQ(disk.op_count(), 0u);
    }
}

TEST(StoreEdges, TheDirectoryAboveMayBeClosedToUsButNotBroken) {
    for (int error : {EACCES, EPERM, EIO}) {
        MemoryFiles disk;
        disk.make_directory("/above/run");
        FaultyFiles files(disk.table());
        files.fail_where([](FileCall call, const std::string &path,
                            bool) { return call == FileCall::Open && path == "/above"; },
                         error);
        const struct store_options options = {0, 0};
        struct store *store;
        struct error err;
        const enum status status =
            store_open(files.table(), "/above/run", &options, &store, nullptr, &err);
        EXPECT_EQ(status, error == EIO ? STATUS_OUTPUT : STATUS_OK) << err.message;
        EXPECT_EQ(files.failures(), 1u);
        store_close(store);
    }
}

TEST(StoreEdges, ARelativeDirectory) {
    MemoryFiles disk;
    const struct store_options options = {0, 0};
    struct store *store;
    struct error err;
    ASSERT_EQ(store_open(disk.table(), "run", &options, &store, nullptr, &err), STATUS_OK)
        << err.message;
    store_close(store);
    EXPECT_TRUE(disk.exists(kRun + "/.cairn-lock"));
}

TEST(StoreEdges, ACheckpointThatVanishedRightAfterItsSave) {
    for (const Steps &others : {Steps{}, Steps{10}, Steps{30}}) {
        MemoryFiles disk;
        fill(disk, others);
        Store store = open_store(disk.table(), 0);
        struct error err;
        EXPECT_EQ(store_committed(store.get(), 20, &err), STATUS_IO);
        EXPECT_NE(strstr(err.message, "vanished"), nullptr) << err.message;
        EXPECT_EQ(ring_steps(disk), others);
    }
}

// ---- files that say less ----

TEST(StoreEdges, DamageThatNobodyListensToAndAStepThatIsNoNumber) {
    MemoryFiles disk;
    std::vector<Tensor> tensors = {make_tensor<float>("weight", DTYPE_F32, {2}, {1, 2})};
    disk.put(checkpoint_path(10), encode(tensors, {{"step", "ten"}}).bytes);
    disk.put(checkpoint_path(20), "damaged");
    struct checkpoint *checkpoint = nullptr;
    char path[FILE_PATH_CAPACITY];
    struct error err;
    ASSERT_EQ(
        store_load_newest(disk.table(), kRun.c_str(), nullptr, nullptr, &checkpoint, path, &err),
        STATUS_OK)
        << err.message;
    EXPECT_EQ(path, checkpoint_path(10));
    checkpoint_free(checkpoint);
}

TEST(StoreEdges, AFileWhoseSizeIsNotKnownIsReadToItsEnd) {
    MemoryFiles disk;
    std::string bytes(3 << 20, '\0');
    for (size_t i = 0; i < bytes.size(); i++) {
        bytes[i] = static_cast<char>(i * 2654435761U >> 24);
    }
    disk.put("/x", bytes);
    FaultyFiles files(disk.table());
    files.fail_where(is_call(FileCall::Stat, "/x"), EIO);
    uint8_t *out = nullptr;
    size_t size = 0;
    struct error err;
    ASSERT_EQ(file_read_all(files.table(), "/x", bytes.size(), &out, &size, &err), STATUS_OK)
        << err.message;
    EXPECT_TRUE(std::string(reinterpret_cast<char *>(out), size) == bytes);
    free(out);
}

// A disk that takes nothing and says nothing: no endless loop.
TEST(StoreEdges, AWriteOfNothingIsAnError) {
    MemoryFiles disk;
    disk.make_directory(kRun);
    struct file_table table = *disk.table();
    table.write = [](void *, int, const void *, size_t) -> ssize_t { return 0; };
    struct error err;
    EXPECT_EQ(file_publish(&table, (kRun + "/x").c_str(), "x", 1, &err), STATUS_IO);
    EXPECT_NE(strstr(err.message, "EIO"), nullptr) << err.message;
    const int fd = table.open(table.context, (kRun + "/y").c_str(), O_WRONLY | O_CREAT, 0600);
    ASSERT_GE(fd, 0);
    EXPECT_EQ(file_write_all(&table, fd, "/run/y", "y", 1, &err), STATUS_IO);
    EXPECT_NE(strstr(err.message, "EIO"), nullptr) << err.message;
    table.close(table.context, fd);
}

TEST(StoreEdges, OnlyThePicklesThatThereAreAreCalledSo) {
    for (int second = 0; second < 256; second++) {
        std::string bytes(64, '\xFF');
        bytes[0] = '\x80';
        bytes[1] = static_cast<char>(second);
        const Decoded decoded = decode(bytes);
        EXPECT_EQ(decoded.status, STATUS_CORRUPT);
        EXPECT_EQ(decoded.message.find("pickle") != std::string::npos, second >= 2 && second <= 5)
            << second << ": " << decoded.message;
    }
}

TEST(StoreEdges, OffsetsThatAreNoNumbers) {
    for (const char *offsets : {"[\"0\",8]", "[0,\"8\"]", "[null,8]", "[0,null]"}) {
        const std::string json = "{" + json_entry("t", "U8", "[8]", offsets) + "}";
        const Decoded decoded = decode(safetensors_header(json) + "12345678");
        EXPECT_EQ(decoded.status, STATUS_CORRUPT) << offsets;
        EXPECT_NE(decoded.message.find("two ascending numbers"), std::string::npos)
            << decoded.message;
    }
}

TEST(StoreEdges, AHeaderBeyondTheLimitIsNotLookedAt) {
    struct safetensors_header header;
    struct error err;
    const uint8_t nothing[1] = {'{'};
    EXPECT_EQ(safetensors_parse(nothing, size_t{CHECKPOINT_HEADER_BYTES_MAX} + 1, &header, &err),
              STATUS_CORRUPT);
    EXPECT_NE(strstr(err.message, "limit"), nullptr) << err.message;
}

} // namespace
