// A model directory: names, scan, the newest checkpoint that verifies, opening and locking.
#include "io/store.h"

#include <errno.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <set>

#include "tests/support/checkpoint_bytes.h"
#include "tests/support/faulty_files.h"
#include "tests/support/memory_files.h"
#include "tests/support/ring.h"
#include "tests/support/temporary_directory.h"

namespace {

// ---- names ----

TEST(StoreNames, AreSpelledInOneWay) {
    struct Case {
        uint64_t step;
        const char *name;
    } cases[] = {{0, "model.ckpt-0.safetensors.zst"},
                 {7, "model.ckpt-7.safetensors.zst"},
                 {1200, "model.ckpt-1200.safetensors.zst"},
                 {UINT64_MAX, "model.ckpt-18446744073709551615.safetensors.zst"}};
    for (const Case &c : cases) {
        char name[64];
        uint64_t step = 99;
        store_checkpoint_name(c.step, name);
        EXPECT_STREQ(name, c.name);
        EXPECT_TRUE(store_parse_name(c.name, &step));
        EXPECT_EQ(step, c.step);
    }
}

const char *const foreign_names[] = {"model.ckpt-007.safetensors.zst",
                                     "model.ckpt-00.safetensors.zst",
                                     "model.ckpt--1.safetensors.zst",
                                     "model.ckpt-+1.safetensors.zst",
                                     "model.ckpt- 1.safetensors.zst",
                                     "model.ckpt-1 .safetensors.zst",
                                     "model.ckpt-0x1.safetensors.zst",
                                     "model.ckpt-1e3.safetensors.zst",
                                     "model.ckpt-.safetensors.zst",
                                     "model.ckpt-18446744073709551616.safetensors.zst",
                                     "model.ckpt-99999999999999999999999999.safetensors.zst",
                                     "model.ckpt-5.safetensors.zst.tmp",
                                     "model.ckpt-5.safetensors.zst~",
                                     "model.ckpt-5.safetensors",
                                     "model.ckpt-5.index",
                                     "model.ckpt-5",
                                     "xmodel.ckpt-5.safetensors.zst",
                                     "Model.ckpt-5.safetensors.zst",
                                     ".cairn-tmp-model.ckpt-5.safetensors.zst.12.0",
                                     "best.safetensors.zst",
                                     "checkpoint",
                                     "model.ckpt-5\n.safetensors.zst",
                                     ""};

TEST(StoreNames, EveryOtherSpellingIsForeign) {
    uint64_t step;
    for (const char *name : foreign_names) {
        EXPECT_FALSE(store_parse_name(name, &step)) << name;
    }
}

// ---- scan ----

std::vector<uint64_t> scanned(const struct file_table *files, const std::string &directory) {
    struct store_list list;
    struct error err;
    EXPECT_EQ(store_scan(files, directory.c_str(), &list, &err), STATUS_OK) << err.message;
    std::vector<uint64_t> out;
    for (size_t i = 0; i < list.count; i++) {
        EXPECT_EQ(list.entries[i].name, checkpoint_name(list.entries[i].step));
        out.push_back(list.entries[i].step);
    }
    store_list_free(&list);
    return out;
}

TEST(StoreScan, FindsTheRingInTheOrderOfSteps) {
    MemoryFiles disk;
    for (uint64_t step : {100, 9, 10, 0, 2000}) {
        disk.put(checkpoint_path(step), "x");
    }
    for (const char *name : foreign_names) {
        if (name[0] != '\0') {
            disk.put(kRun + "/" + name, "x");
        }
    }
    disk.make_directory(checkpoint_path(7)); // a directory of that name is not a checkpoint
    EXPECT_EQ(scanned(disk.table(), kRun), (std::vector<uint64_t>{0, 9, 10, 100, 2000}));
}

TEST(StoreScan, TellsSizeAndTime) {
    MemoryFiles disk;
    disk.put(checkpoint_path(3), "12345");
    disk.set_modified(checkpoint_path(3), 1234.5);
    struct store_list list;
    ASSERT_EQ(store_scan(disk.table(), kRun.c_str(), &list, nullptr), STATUS_OK);
    ASSERT_EQ(list.count, 1u);
    EXPECT_EQ(list.entries[0].bytes, 5u);
    EXPECT_EQ(list.entries[0].modified_seconds, 1234.5);
    store_list_free(&list);
}

TEST(StoreScan, OfAMissingDirectoryIsEmptyAndOfAFileAnError) {
    MemoryFiles disk;
    EXPECT_TRUE(scanned(disk.table(), "/nowhere").empty());
    disk.put("/file", "");
    struct store_list list;
    struct error err;
    EXPECT_EQ(store_scan(disk.table(), "/file", &list, &err), STATUS_INPUT);
    EXPECT_NE(strstr(err.message, "/file"), nullptr) << err.message;
}

TEST(StoreScan, ALinkIsACheckpointAlsoWhereItsFileIsNotThereNow) {
    TemporaryDirectory dir;
    write_file(dir.file("elsewhere"), "x");
    std::filesystem::create_symlink(dir.file("elsewhere"), dir.file(checkpoint_name(1)));
    std::filesystem::create_symlink(dir.file("nothing"), dir.file(checkpoint_name(2)));
    struct store_list list;
    struct error err;
    ASSERT_EQ(store_scan(&file_posix, dir.path().c_str(), &list, &err), STATUS_OK) << err.message;
    ASSERT_EQ(list.count, 2u);
    EXPECT_FALSE(list.entries[0].is_broken_link);
    EXPECT_EQ(list.entries[0].bytes, 1u);
    EXPECT_TRUE(list.entries[1].is_broken_link);
    EXPECT_EQ(list.entries[1].step, 2u);
    store_list_free(&list);
}

// A trainer deletes, or saves anew, what was listed and is about to be looked at.
TEST(StoreScan, WhatVanishesMeanwhileIsNoLink) {
    for (bool made_again : {false, true}) {
        MemoryFiles disk;
        disk.put(checkpoint_path(1), "x");
        disk.put(checkpoint_path(2), "x");
        FaultyFiles files(disk.table());
        bool looked = false;
        files.fail_where(
            [&](FileCall call, const std::string &path, bool) {
                bool first = call == FileCall::Stat && path == checkpoint_path(2) && !looked;
                looked = looked || first;
                if (first && !made_again) {
                    disk.remove(path);
                }
                return first;
            },
            ENOENT);
        struct store_list list;
        struct error err;
        ASSERT_EQ(store_scan(files.table(), kRun.c_str(), &list, &err), STATUS_OK) << err.message;
        EXPECT_EQ(list.count, made_again ? 2u : 1u);
        for (size_t i = 0; i < list.count; i++) {
            EXPECT_FALSE(list.entries[i].is_broken_link) << i;
        }
        store_list_free(&list);
    }
}

// The second look, which tells a link from what vanished, may fail like the first.
TEST(StoreScan, WhatCannotBeListedAgain) {
    for (int error : {EIO, ENOENT}) {
        MemoryFiles disk;
        disk.put(checkpoint_path(1), "x");
        FaultyFiles files(disk.table());
        int lists = 0;
        files.fail_where(
            [&](FileCall call, const std::string &path, bool) {
                if (call == FileCall::Stat) {
                    disk.remove(path);
                }
                lists += call == FileCall::List;
                return lists == 2;
            },
            error);
        struct store_list list;
        struct error err;
        EXPECT_EQ(store_scan(files.table(), kRun.c_str(), &list, &err),
                  error == EIO ? STATUS_IO : STATUS_OK);
        EXPECT_EQ(lists, 2);
        EXPECT_EQ(list.count, 0u);
        store_list_free(&list);
    }
}

TEST(StoreScan, ReportsEveryCallThatFails) {
    MemoryFiles disk;
    disk.put(checkpoint_path(1), "x");
    disk.put(checkpoint_path(2), "x");
    FaultyFiles files(disk.table());
    scanned(files.table(), kRun);
    ASSERT_EQ(files.calls(), 3u); // a list and two stats
    for (size_t nth = 1; nth <= 3; nth++) {
        files.fail(nth, EIO, FaultyFiles::Once);
        struct store_list list;
        struct error err;
        EXPECT_EQ(store_scan(files.table(), kRun.c_str(), &list, &err), STATUS_IO);
        EXPECT_NE(strstr(err.message, "EIO"), nullptr) << err.message;
        EXPECT_EQ(list.count, 0u);
    }
}

// ---- the newest that verifies ----

std::string valid_checkpoint(double value) {
    return encode({make_tensor<double>("state.value", DTYPE_F64, {1}, {value})}).bytes;
}

struct Loaded {
    enum status status;
    std::string message, path;
    double value = -1; // -1: nothing loaded
    std::vector<std::string> damage;
};

Loaded load(const struct file_table *files, const std::string &directory = kRun) {
    Loaded out;
    struct error err = {};
    struct checkpoint *checkpoint = nullptr;
    char path[FILE_PATH_CAPACITY];
    auto on_damage = [](void *context, const char *where, const char *reason) {
        static_cast<Loaded *>(context)->damage.push_back(std::string(where) + " | " + reason);
    };
    out.status =
        store_load_newest(files, directory.c_str(), on_damage, &out, &checkpoint, path, &err);
    out.message = err.message;
    out.path = path;
    if (checkpoint != nullptr) {
        const struct tensor_view *tensor =
            tensor_find(checkpoint->tensors, checkpoint->tensor_count, "state.value");
        memcpy(&out.value, tensor->data, sizeof out.value);
    }
    checkpoint_free(checkpoint);
    return out;
}

TEST(StoreLoad, TheNewestByStepNotByNameOrTime) {
    MemoryFiles disk;
    for (int step : {9, 10, 100}) {
        disk.put(checkpoint_path(static_cast<uint64_t>(step)), valid_checkpoint(step));
    }
    disk.set_modified(checkpoint_path(9), 2e9);
    Loaded got = load(disk.table());
    EXPECT_EQ(got.status, STATUS_OK) << got.message;
    EXPECT_EQ(got.value, 100);
    EXPECT_EQ(got.path, checkpoint_path(100));
    EXPECT_TRUE(got.damage.empty());
}

TEST(StoreLoad, NothingInAnEmptyOrMissingDirectory) {
    MemoryFiles disk;
    EXPECT_EQ(load(disk.table()).status, STATUS_OK);
    EXPECT_EQ(load(disk.table()).value, -1);
    disk.put(kRun + "/best.safetensors.zst", valid_checkpoint(1)); // not of the ring
    EXPECT_EQ(load(disk.table()).status, STATUS_OK);
    EXPECT_EQ(load(disk.table()).value, -1);
}

TEST(StoreLoad, PassesOverDamagedOnesAndTellsOfEach) {
    MemoryFiles disk;
    std::string good = valid_checkpoint(1), cut = valid_checkpoint(3);
    disk.put(checkpoint_path(1), good);
    disk.put(checkpoint_path(2), "");
    disk.put(checkpoint_path(3), cut.substr(0, cut.size() - 1));
    Loaded got = load(disk.table());
    EXPECT_EQ(got.status, STATUS_OK) << got.message;
    EXPECT_EQ(got.value, 1);
    EXPECT_EQ(got.path, checkpoint_path(1));
    ASSERT_EQ(got.damage.size(), 2u);
    EXPECT_EQ(got.damage[0].rfind(checkpoint_path(3) + " | ", 0), 0u) << got.damage[0];
    EXPECT_EQ(got.damage[1].rfind(checkpoint_path(2) + " | ", 0), 0u) << got.damage[1];
    for (const std::string &damage : got.damage) { // the path once, then a reason
        EXPECT_GT(damage.size(), damage.find(" | ") + 8) << damage;
        EXPECT_EQ(damage.find(kRun, 1), std::string::npos) << damage;
    }
}

TEST(StoreLoad, WhenNoneVerifiesItIsAnErrorThatSaysWhatToDo) {
    MemoryFiles disk;
    disk.put(checkpoint_path(1), "damaged");
    disk.put(checkpoint_path(2), "damaged");
    Loaded got = load(disk.table());
    EXPECT_EQ(got.status, STATUS_CORRUPT);
    EXPECT_EQ(got.value, -1);
    EXPECT_EQ(got.damage.size(), 2u);
    for (const char *said : {"2 checkpoints", "/run", "model.ckpt-2", "backup", "another model"}) {
        EXPECT_NE(got.message.find(said), std::string::npos) << said << ": " << got.message;
    }
}

TEST(StoreLoad, AFileThatCannotBeReadIsPassedOverToo) {
    MemoryFiles disk;
    disk.put(checkpoint_path(1), valid_checkpoint(1));
    disk.put(checkpoint_path(2), valid_checkpoint(2));
    FaultyFiles files(disk.table());
    files.fail_where([&](FileCall call, const std::string &path,
                         bool) { return path == checkpoint_path(2) && call == FileCall::Read; },
                     EIO);
    Loaded got = load(files.table());
    EXPECT_EQ(got.value, 1) << got.message;
    ASSERT_EQ(got.damage.size(), 1u);
    EXPECT_NE(got.damage[0].find("EIO"), std::string::npos);
}

// It may be whole: whoever goes on from an older one writes over what came after it.
TEST(StoreLoad, AFileThatCannotBeHadNowIsNoDamage) {
    for (int error : {EACCES, EPERM, EMFILE, ENFILE, ENOMEM, ESTALE, ETIMEDOUT}) {
        SCOPED_TRACE(strerrorname_np(error));
        MemoryFiles disk;
        disk.put(checkpoint_path(1), valid_checkpoint(1));
        disk.put(checkpoint_path(2), valid_checkpoint(2));
        disk.put(checkpoint_path(3), "damaged");
        FaultyFiles files(disk.table());
        files.fail_where([&](FileCall call, const std::string &path,
                             bool) { return path == checkpoint_path(2) && call == FileCall::Open; },
                         error);
        Loaded got = load(files.table());
        EXPECT_EQ(got.status, STATUS_INPUT);
        EXPECT_EQ(got.value, -1);
        EXPECT_EQ(got.damage.size(), 1u); // the third
        for (const char *said :
             {"model.ckpt-2", strerrorname_np(error), "Make it readable", "move it away"}) {
            EXPECT_NE(got.message.find(said), std::string::npos) << said << ": " << got.message;
        }
    }
}

// A disk that is not mounted, data that were not fetched: what is behind the link may be whole.
TEST(StoreLoad, ALinkToWhatIsNotThereNowIsNoDamage) {
    TemporaryDirectory dir;
    write_file(dir.file(checkpoint_name(1)), valid_checkpoint(1));
    std::filesystem::create_symlink(dir.file("disk/two"), dir.file(checkpoint_name(2)));
    Loaded got = load(&file_posix, dir.path());
    EXPECT_EQ(got.status, STATUS_INPUT);
    for (const char *said :
         {"model.ckpt-2", "a link to a file that is not there", "move the link"}) {
        EXPECT_NE(got.message.find(said), std::string::npos) << said << ": " << got.message;
    }
    EXPECT_TRUE(got.damage.empty());
    std::filesystem::create_directory(dir.file("disk"));
    write_file(dir.file("disk/two"), valid_checkpoint(2));
    EXPECT_EQ(load(&file_posix, dir.path()).value, 2);
}

// An older program must not write over what a newer one saved.
TEST(StoreLoad, AnotherVersionIsNoDamage) {
    MemoryFiles disk;
    disk.put(checkpoint_path(1), valid_checkpoint(1));
    disk.put(checkpoint_path(2), // with a tensor of a dtype that this program lacks
             assemble(safetensors_header("{\"__metadata__\":{\"format_version\":\"2\"}," +
                                         json_entry("w", "F8_E4M3", "[1]", "[0,1]") + "}"),
                      "x"));
    Loaded got = load(disk.table());
    EXPECT_EQ(got.status, STATUS_DATA);
    for (const char *said : {"model.ckpt-2", "format version '2'", "move it away"}) {
        EXPECT_NE(got.message.find(said), std::string::npos) << said << ": " << got.message;
    }
    EXPECT_TRUE(got.damage.empty());
    disk.put(checkpoint_path(3), valid_checkpoint(3)); // an older one may be what it likes
    EXPECT_EQ(load(disk.table()).value, 3);
}

// A trainer publishes 3 and deletes 2 while an evaluator, which saw 1 and 2, is about to open 2.
TEST(StoreLoad, AFileThatRetentionDeletesMeanwhileIsNotDamage) {
    MemoryFiles disk;
    disk.put(checkpoint_path(1), valid_checkpoint(1));
    disk.put(checkpoint_path(2), valid_checkpoint(2));
    FaultyFiles files(disk.table());
    files.fail_where(
        [&](FileCall call, const std::string &path, bool) {
            if (call == FileCall::Open && path == checkpoint_path(2)) {
                disk.put(checkpoint_path(3), valid_checkpoint(3));
                disk.remove(checkpoint_path(2));
            }
            return false;
        },
        EIO);
    Loaded got = load(files.table());
    EXPECT_EQ(got.status, STATUS_OK) << got.message;
    EXPECT_EQ(got.value, 3);
    EXPECT_TRUE(got.damage.empty());
}

TEST(StoreLoad, ADamagedOneIsToldOfOnceEvenWhenTheDirectoryIsScannedAgain) {
    MemoryFiles disk;
    disk.put(checkpoint_path(1), valid_checkpoint(1));
    disk.put(checkpoint_path(2), valid_checkpoint(2));
    disk.put(checkpoint_path(3), "damaged");
    FaultyFiles files(disk.table());
    files.fail_where(
        [&](FileCall call, const std::string &path, bool) {
            if (call == FileCall::Open && path == checkpoint_path(2)) {
                disk.remove(checkpoint_path(2));
            }
            return false;
        },
        EIO);
    Loaded got = load(files.table());
    EXPECT_EQ(got.value, 1);
    EXPECT_EQ(got.damage.size(), 1u);
}

TEST(StoreLoad, GivesUpWhenFilesVanishForEver) {
    MemoryFiles disk;
    disk.put(checkpoint_path(1), valid_checkpoint(1));
    FaultyFiles files(disk.table());
    bool gone = false; // listed and there, but each time gone when opened
    files.fail_where(
        [&](FileCall call, const std::string &path, bool) {
            gone = call == FileCall::Open || (gone && call != FileCall::List);
            return gone && path == checkpoint_path(1);
        },
        ENOENT);
    Loaded got = load(files.table());
    EXPECT_EQ(got.status, STATUS_INPUT);
    EXPECT_NE(got.message.find("vanish"), std::string::npos) << got.message;
}

TEST(StoreLoad, TheStateFileDecidesNothing) {
    for (const char *text : {"model_checkpoint_path: \"model.ckpt-1.safetensors.zst\"\n",
                             "model_checkpoint_path: \"/etc/passwd\"\n", "\xff\xfe nonsense", ""}) {
        MemoryFiles disk;
        disk.put(checkpoint_path(1), valid_checkpoint(1));
        disk.put(checkpoint_path(2), valid_checkpoint(2));
        disk.put(kRun + "/checkpoint", text);
        EXPECT_EQ(load(disk.table()).value, 2);
    }
}

// ---- opening ----

enum status try_open(const struct file_table *files, const std::string &directory, Store *out,
                     struct error *warning, struct error *err) {
    struct store_options options = {5, 0};
    struct store *store = nullptr;
    enum status status = store_open(files, directory.c_str(), &options, &store, warning, err);
    EXPECT_EQ(store != nullptr, status == STATUS_OK);
    out->reset(store);
    return status;
}

TEST(StoreOpen, MakesTheDirectoryAndKnowsIt) {
    MemoryFiles disk;
    struct error warning, err;
    Store store;
    ASSERT_EQ(try_open(disk.table(), "/a/b", &store, &warning, &err), STATUS_OK) << err.message;
    EXPECT_TRUE(disk.exists("/a/b"));
    EXPECT_STREQ(store_directory(store.get()), "/a/b");
    EXPECT_EQ(warning.status, STATUS_OK);
}

TEST(StoreOpen, ASecondTrainerIsToldWhoTheFirstIs) {
    MemoryFiles disk;
    Store first = open_store(disk.table(), 5);
    disk.put(kRun + "/.cairn-tmp-checkpoint.1.0", "being written");
    size_t before = disk.op_count();
    Store second;
    struct error warning, err;
    EXPECT_EQ(try_open(disk.table(), kRun, &second, &warning, &err), STATUS_OUTPUT);
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    EXPECT_NE(strstr(err.message, ("pid " + std::to_string(getpid())).c_str()), nullptr)
        << err.message;
    EXPECT_NE(strstr(err.message, host), nullptr) << err.message;
    EXPECT_NE(strstr(err.message, kRun.c_str()), nullptr) << err.message;
    EXPECT_EQ(strchr(err.message, '\n'), nullptr);
    EXPECT_TRUE(disk.exists(kRun + "/.cairn-tmp-checkpoint.1.0"));
    // Nothing in the directory but the lock file was looked at or changed.
    auto log = disk.log();
    for (size_t i = before; i < log.size(); i++) {
        bool is_lock_file = log[i].path == kRun + "/.cairn-lock";
        EXPECT_TRUE(is_lock_file || (log[i].call == FileCall::Stat && log[i].path == kRun))
            << log[i].text();
        EXPECT_NE(log[i].call, FileCall::Truncate);
        EXPECT_NE(log[i].call, FileCall::Write);
    }
    first.reset();
    EXPECT_EQ(try_open(disk.table(), kRun, &second, &warning, &err), STATUS_OK) << err.message;
    EXPECT_FALSE(disk.exists(kRun + "/.cairn-tmp-checkpoint.1.0"));
}

TEST(StoreOpen, TheLockHoldsBetweenProcessesAndEndsWithThem) {
    TemporaryDirectory dir;
    int ready[2];
    ASSERT_EQ(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        Store store;
        struct error warning, err;
        char byte = try_open(&file_posix, dir.path(), &store, &warning, &err) == STATUS_OK;
        (void)!write(ready[1], &byte, 1);
        for (;;) {
            pause();
        }
    }
    char opened = 0;
    ASSERT_EQ(read(ready[0], &opened, 1), 1);
    ASSERT_EQ(opened, 1);
    Store store;
    struct error warning, err;
    EXPECT_EQ(try_open(&file_posix, dir.path(), &store, &warning, &err), STATUS_OUTPUT);
    EXPECT_NE(strstr(err.message, ("pid " + std::to_string(child)).c_str()), nullptr)
        << err.message;
    kill(child, SIGKILL);
    ASSERT_EQ(waitpid(child, nullptr, 0), child);
    EXPECT_EQ(try_open(&file_posix, dir.path(), &store, &warning, &err), STATUS_OK) << err.message;
    close(ready[0]);
    close(ready[1]);
}

TEST(StoreOpen, WithoutLocksItWarns) {
    for (int error : {ENOSYS, ENOTSUP, ENOLCK}) {
        MemoryFiles disk;
        disk.set_lock_error(-error);
        Store store;
        struct error warning, err;
        ASSERT_EQ(try_open(disk.table(), kRun, &store, &warning, &err), STATUS_OK) << err.message;
        EXPECT_NE(warning.status, STATUS_OK);
        EXPECT_NE(strstr(warning.message, "no locks"), nullptr) << warning.message;
        Store second; // nothing can refuse it
        EXPECT_EQ(try_open(disk.table(), kRun, &second, nullptr, &err), STATUS_OK);
    }
}

TEST(StoreOpen, RemovesStaleTemporariesAndNothingElse) {
    MemoryFiles disk;
    for (const char *name : {".cairn-tmp-checkpoint.7.0", ".cairn-tmp-best.safetensors.zst.7.1",
                             ".cairn-tmp-model.ckpt-5.safetensors.zst.7.0", ".cairn-tmp-"}) {
        disk.put(kRun + "/" + name, "half");
    }
    std::set<std::string> others = {"best.safetensors.zst", "cairn-tmp-x",   ".cairn-tm",
                                    "notes.cairn-tmp-",     "history.csv",   checkpoint_name(5),
                                    "superseded",           ".cairn-tmp-dir"};
    for (const std::string &name : others) {
        disk.put(kRun + "/" + name + (name == ".cairn-tmp-dir" ? "/.cairn-tmp-inside" : "") +
                     (name == "superseded" ? "/model.ckpt-7.safetensors.zst" : ""),
                 "kept");
    }
    disk.put(kRun + "/superseded/.cairn-tmp-model.ckpt-8.safetensors.zst.7.0", "half");
    Store store = open_store(disk.table(), 5);
    others.insert(".cairn-lock");
    std::vector<std::string> left = disk.names(kRun);
    EXPECT_EQ(std::set<std::string>(left.begin(), left.end()), others);
    EXPECT_TRUE(disk.exists(kRun + "/.cairn-tmp-dir/.cairn-tmp-inside"));
    EXPECT_EQ(disk.names(kRun + "/superseded"),
              std::vector<std::string>{"model.ckpt-7.safetensors.zst"});
}

TEST(StoreOpen, ReportsEveryCallThatFailsAndLetsGo) {
    auto fill = [](MemoryFiles &disk) {
        disk.put(kRun + "/.cairn-tmp-checkpoint.7.0", "half");
        disk.put(checkpoint_path(5), "x");
        disk.put(kRun + "/checkpoint", "model_checkpoint_path: \"model.ckpt-5.safetensors.zst\"\n");
    };
    size_t calls;
    struct error warning, err;
    {
        MemoryFiles disk;
        fill(disk);
        FaultyFiles files(disk.table());
        Store store;
        ASSERT_EQ(try_open(files.table(), kRun, &store, &warning, &err), STATUS_OK);
        calls = files.calls();
    }
    size_t refused = 0;
    for (size_t nth = 1; nth <= calls; nth++) {
        MemoryFiles disk;
        fill(disk);
        FaultyFiles files(disk.table());
        files.fail(nth, EIO, FaultyFiles::Once);
        Store store;
        enum status status = try_open(files.table(), kRun, &store, &warning, &err);
        SCOPED_TRACE(files.last_failure());
        EXPECT_EQ(files.failures(), 1u);
        EXPECT_EQ(disk.get(checkpoint_path(5)), "x");
        if (status != STATUS_OK) {
            refused++;
            EXPECT_TRUE(status == STATUS_OUTPUT || status == STATUS_IO) << err.message;
            EXPECT_NE(strstr(err.message, "EIO"), nullptr) << err.message;
            EXPECT_EQ(disk.open_descriptors(), 0u);
        } else { // the state file, a size hint, the close of something read: none of these matters
            std::string failed = files.last_failure();
            EXPECT_TRUE(failed.find("/checkpoint") != std::string::npos ||
                        failed.rfind("stat", 0) == 0)
                << failed;
        }
        store.reset();
        ASSERT_EQ(try_open(disk.table(), kRun, &store, &warning, &err), STATUS_OK) << err.message;
    }
    EXPECT_GE(refused, 7u); // open, lock, truncate, write, list, unlink, list
}

TEST(StoreOpen, AHostileStateFileIsIgnored) {
    for (const std::string &text : {std::string("model_checkpoint_path: \"/etc/passwd\"\n"),
                                    std::string("model_checkpoint_path: \"../../x\"\n"),
                                    std::string(6 << 20, 'x'), std::string("\xff\x00\xfe", 3)}) {
        MemoryFiles disk;
        disk.put(kRun + "/checkpoint", text);
        disk.put(checkpoint_path(1), "x");
        Store store = open_store(disk.table(), 5);
        for (const FileOp &op : disk.log()) { // nothing outside of the directory was touched
            EXPECT_EQ(op.path.rfind(kRun, 0), 0u) << op.text();
        }
        commit_at(disk, store, 2, 2e9);
        EXPECT_EQ(ring_steps(disk), (std::vector<uint64_t>{1, 2}));
        EXPECT_EQ(disk.get(kRun + "/checkpoint")
                      .value()
                      .rfind("model_checkpoint_path: \"model.ckpt-2.safetensors.zst\"\n", 0),
                  0u);
    }
}

TEST(StoreOpen, CloseOfNothingIsFine) {
    store_close(nullptr);
}

} // namespace
