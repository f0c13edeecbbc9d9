// libcairn-checkpoint through its public header, over files in memory: what a save holds, what a
// restore brings back, what is refused. Bad times are in library_failure_test.cc.
#include "include/cairn/checkpoint.h"

#include <gtest/gtest.h>
#include <string.h>

#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "tests/support/library_trainer.h"

namespace {

using Trainer = LibraryTrainer;

// ---- save and restore ----

TEST(Library, AFreshDirectoryHasNothingToRestore) {
    MemoryFiles disk;
    Trainer trainer(&disk);
    trainer.start();
    EXPECT_FALSE(trainer.found);
    EXPECT_EQ(trainer.step, 12345u);
    EXPECT_EQ(trainer.words[0], 'x');
    EXPECT_TRUE(trainer.told.errors.empty());
}

TEST(Library, WhatWasSavedComesBackInANewProcess) {
    MemoryFiles disk;
    make_run(&disk, {100, 200});
    Trainer resumed(&disk);
    resumed.start();
    EXPECT_TRUE(resumed.found);
    EXPECT_EQ(resumed.step, 200u);
    EXPECT_TRUE(resumed.is_trained_to(200));
}

TEST(Library, ASaveHoldsTheValuesOfItsCall) {
    MemoryFiles disk;
    Trainer trainer(&disk);
    trainer.start();
    trainer.files.hold(is_checkpoint_write);
    trainer.train_to(7);
    ASSERT_EQ(trainer.save(), CAIRN_OK);
    EXPECT_EQ(trainer.outcome, CAIRN_CHECKPOINT_ACCEPTED);
    trainer.files.wait_until_held();
    EXPECT_EQ(cairn_checkpoint_poll(trainer.saves.get()), nullptr);
    trainer.train_to(8);
    trainer.files.release();
    ASSERT_EQ(trainer.wait(), CAIRN_OK);
    ASSERT_EQ(trainer.restore(), CAIRN_OK);
    EXPECT_EQ(trainer.step, 7u);
    EXPECT_TRUE(trainer.is_trained_to(7));
}

TEST(Library, FilesAreCheckpointsWithStepAndNames) {
    MemoryFiles disk;
    make_run(&disk, {30});
    std::string bytes = disk.get(checkpoint_path(30)).value();
    struct checkpoint *read = nullptr;
    struct error err = {};
    ASSERT_EQ(checkpoint_decode(bytes.data(), bytes.size(), &read, &err), STATUS_OK) << err.message;
    EXPECT_STREQ(checkpoint_metadata(read, "step"), "30");
    EXPECT_STREQ(checkpoint_metadata(read, "library"), "cairn-checkpoint 0.1.0");
    ASSERT_EQ(read->tensor_count, 5u);
    EXPECT_STREQ(read->tensors[0].name, "weight");
    EXPECT_EQ(read->tensors[0].shape[1], 3u);
    EXPECT_EQ(static_cast<const float *>(read->tensors[0].data)[4], 30.5F);
    checkpoint_free(read);
    EXPECT_EQ(listed_steps(state_text(disk)), std::vector<uint64_t>{30});
}

TEST(Library, RetentionKeepsTheNewest) {
    MemoryFiles disk;
    Trainer trainer(&disk);
    trainer.options.keep_max = 2;
    trainer.start();
    for (uint64_t step : {1, 2, 3, 4}) {
        trainer.save_step(step);
    }
    EXPECT_EQ(ring_steps(disk), (std::vector<uint64_t>{3, 4}));
}

TEST(Library, TheSameStepAgainReplacesAndALowerOneIsRefused) {
    MemoryFiles disk;
    Trainer trainer(&disk);
    trainer.start();
    trainer.save_step(10);
    trainer.weight[0] = 77;
    ASSERT_EQ(trainer.save(), CAIRN_OK);
    trainer.step = 9;
    EXPECT_EQ(trainer.save(), CAIRN_ERROR_USAGE);
    EXPECT_TRUE(trainer.message_has("9 is lower than the last one, 10")) << trainer.error.message;
    ASSERT_EQ(trainer.restore(), CAIRN_OK);
    EXPECT_EQ(trainer.weight[0], 77.0F);
    trainer.step = 9;
    EXPECT_EQ(trainer.save(), CAIRN_ERROR_USAGE);
}

TEST(Library, RestoreGoesBackDuringTraining) {
    MemoryFiles disk;
    Trainer trainer(&disk);
    trainer.start();
    trainer.save_step(10);
    trainer.train_to(11);
    trainer.sum = NAN;
    ASSERT_EQ(trainer.save(CAIRN_CHECKPOINT_MUST), CAIRN_OK);
    ASSERT_EQ(trainer.restore(), CAIRN_OK); // waits for the save, which fails
    EXPECT_EQ(trainer.step, 10u);
    EXPECT_TRUE(trainer.is_trained_to(10));
    EXPECT_TRUE(trainer.told.heard(CAIRN_ERROR_NONFINITE, "step 11"));
    trainer.save_step(11);
    EXPECT_EQ(ring_steps(disk), (std::vector<uint64_t>{10, 11}));
}

// ---- values ----

TEST(Library, ValuesComeBackAndThoseOfTheCheckpointCount) {
    MemoryFiles disk;
    const char blob[] = "a\0b";
    {
        Trainer trainer(&disk);
        trainer.start();
        cairn_checkpoint *saves = trainer.saves.get();
        ASSERT_EQ(cairn_checkpoint_set_string(saves, "fold", "3 \xC3\xA9", nullptr), CAIRN_OK);
        ASSERT_EQ(cairn_checkpoint_set_string(saves, "empty", "", nullptr), CAIRN_OK);
        ASSERT_EQ(cairn_checkpoint_set_bytes(saves, "sampler", blob, 3, nullptr), CAIRN_OK);
        ASSERT_EQ(cairn_checkpoint_set_bytes(saves, "nothing", blob, 0, nullptr), CAIRN_OK);
        trainer.save_step(1);
        // Later ones are not in that checkpoint.
        ASSERT_EQ(cairn_checkpoint_set_string(saves, "fold", "4", nullptr), CAIRN_OK);
    }
    Trainer resumed(&disk);
    ASSERT_EQ(resumed.open(), CAIRN_OK);
    resumed.add_all();
    cairn_checkpoint *saves = resumed.saves.get();
    ASSERT_EQ(cairn_checkpoint_set_string(saves, "gone", "x", nullptr), CAIRN_OK);
    ASSERT_EQ(resumed.restore(), CAIRN_OK) << resumed.error.message;
    EXPECT_STREQ(cairn_checkpoint_get_string(saves, "fold"), "3 \xC3\xA9");
    EXPECT_STREQ(cairn_checkpoint_get_string(saves, "empty"), "");
    EXPECT_EQ(cairn_checkpoint_get_string(saves, "gone"), nullptr);
    EXPECT_EQ(cairn_checkpoint_get_string(saves, "step"), nullptr);
    size_t size = 99;
    const void *bytes = cairn_checkpoint_get_bytes(saves, "sampler", &size);
    ASSERT_EQ(size, 3u);
    EXPECT_EQ(memcmp(bytes, blob, 3), 0);
    EXPECT_NE(cairn_checkpoint_get_bytes(saves, "nothing", &size), nullptr);
    EXPECT_EQ(size, 0u);
    EXPECT_EQ(cairn_checkpoint_get_bytes(saves, "other", &size), nullptr);
}

TEST(Library, AValueIsReplacedAndRemoved) {
    MemoryFiles disk;
    Trainer trainer(&disk);
    trainer.start();
    cairn_checkpoint *saves = trainer.saves.get();
    for (const char *value : {"1", "22", "333"}) {
        ASSERT_EQ(cairn_checkpoint_set_string(saves, "a", value, nullptr), CAIRN_OK);
    }
    ASSERT_EQ(cairn_checkpoint_set_string(saves, "b", "b", nullptr), CAIRN_OK);
    EXPECT_STREQ(cairn_checkpoint_get_string(saves, "a"), "333");
    ASSERT_EQ(cairn_checkpoint_set_string(saves, "a", nullptr, nullptr), CAIRN_OK);
    ASSERT_EQ(cairn_checkpoint_set_string(saves, "a", nullptr, nullptr), CAIRN_OK);
    EXPECT_EQ(cairn_checkpoint_get_string(saves, "a"), nullptr);
    EXPECT_STREQ(cairn_checkpoint_get_string(saves, "b"), "b");
}

// All limits used up at once still make a file that can be written and read.
TEST(Library, TheLargestValuesAndNamesFit) {
    MemoryFiles disk;
    std::vector<std::string> names;
    for (size_t i = 0; i < CAIRN_TENSORS_MAX; i++) {
        std::string name = std::to_string(i);
        names.push_back(name + std::string(CAIRN_NAME_BYTES_MAX - name.size(), '"'));
    }
    std::vector<float> data(names.size());
    // Control bytes take six characters each in JSON.
    std::string value((CAIRN_STRING_BYTES_MAX - CAIRN_STRINGS_MAX * CAIRN_NAME_BYTES_MAX) /
                          CAIRN_STRINGS_MAX,
                      '\x01');
    for (bool resumed : {false, true}) {
        Trainer trainer(&disk);
        ASSERT_EQ(trainer.open(), CAIRN_OK);
        cairn_checkpoint *saves = trainer.saves.get();
        for (size_t i = 0; i < names.size(); i++) {
            ASSERT_EQ(
                trainer.add({names[i].c_str(), CAIRN_F32, CAIRN_HOST, &data[i], 4, {1, 1, 1, 1}}),
                CAIRN_OK)
                << trainer.error.message;
        }
        EXPECT_EQ(trainer.add({"more", CAIRN_F32, CAIRN_HOST, data.data(), 0, {}}),
                  CAIRN_ERROR_USAGE);
        ASSERT_EQ(trainer.restore(), CAIRN_OK) << trainer.error.message;
        EXPECT_EQ(trainer.found, resumed);
        for (int i = 0; i < CAIRN_STRINGS_MAX; i++) {
            std::string key(CAIRN_NAME_BYTES_MAX, static_cast<char>('A' + i));
            if (resumed) {
                EXPECT_EQ(cairn_checkpoint_get_string(saves, key.c_str()), value);
            }
            ASSERT_EQ(cairn_checkpoint_set_string(saves, key.c_str(), value.c_str(), nullptr),
                      CAIRN_OK);
        }
        for (int i = 0; i < CAIRN_BYTES_MAX; i++) {
            std::string key(CAIRN_BYTES_NAME_MAX, static_cast<char>('!' + i));
            ASSERT_EQ(cairn_checkpoint_set_bytes(saves, key.c_str(), &i, sizeof i, nullptr),
                      CAIRN_OK);
        }
        EXPECT_EQ(cairn_checkpoint_set_string(saves, "x", "", nullptr), CAIRN_ERROR_USAGE);
        EXPECT_EQ(cairn_checkpoint_set_bytes(saves, "x", "", 0, nullptr), CAIRN_ERROR_USAGE);
        trainer.step = resumed ? 2 : 1;
        ASSERT_EQ(trainer.save(), CAIRN_OK) << trainer.error.message;
        ASSERT_EQ(trainer.wait(), CAIRN_OK) << trainer.error.message;
    }
}

TEST(Library, BadKeysAndValuesAreRefused) {
    MemoryFiles disk;
    Trainer trainer(&disk);
    trainer.start();
    cairn_checkpoint *saves = trainer.saves.get();
    for (const char *key : {"", "a b", "caf\xC3\xA9", "step", "library", "created", "host", "pid",
                            "format_version", "digest.weight"}) {
        EXPECT_EQ(cairn_checkpoint_set_string(saves, key, "x", nullptr), CAIRN_ERROR_USAGE) << key;
    }
    EXPECT_EQ(cairn_checkpoint_set_string(saves, nullptr, "x", nullptr), CAIRN_ERROR_USAGE);
    EXPECT_EQ(cairn_checkpoint_set_string(saves, std::string(96, 'k').c_str(), "x", nullptr),
              CAIRN_ERROR_USAGE);
    EXPECT_EQ(cairn_checkpoint_set_string(saves, "k", "\xFF", nullptr), CAIRN_ERROR_USAGE);
    EXPECT_EQ(cairn_checkpoint_set_string(saves, "k", std::string(65536, 'v').c_str(), nullptr),
              CAIRN_ERROR_USAGE);
    EXPECT_EQ(cairn_checkpoint_set_bytes(saves, std::string(90, 'k').c_str(), "", 0, nullptr),
              CAIRN_ERROR_USAGE);
    EXPECT_EQ(cairn_checkpoint_set_bytes(saves, "k", nullptr, 4, nullptr), CAIRN_ERROR_USAGE);
    EXPECT_EQ(cairn_checkpoint_get_string(saves, "k"), nullptr);
}

// ---- the order of calls, and bad arguments ----

TEST(Library, ASaveBeforeTheRestoreIsRefused) {
    MemoryFiles disk;
    make_run(&disk, {10});
    Trainer trainer(&disk);
    ASSERT_EQ(trainer.open(), CAIRN_OK);
    trainer.add_all();
    EXPECT_EQ(trainer.save(), CAIRN_ERROR_USAGE);
    EXPECT_TRUE(trainer.message_has("cairn_checkpoint_restore_latest")) << trainer.error.message;
    EXPECT_EQ(ring_steps(disk), std::vector<uint64_t>{10});
}

TEST(Library, ATensorAfterTheRestoreIsRefused) {
    MemoryFiles disk;
    Trainer trainer(&disk);
    trainer.start();
    EXPECT_EQ(trainer.add({"late", CAIRN_F64, CAIRN_HOST, &trainer.sum, 0, {}}), CAIRN_ERROR_USAGE);
}

TEST(Library, BadTensorsAreRefused) {
    MemoryFiles disk;
    Trainer trainer(&disk);
    ASSERT_EQ(trainer.open(), CAIRN_OK);
    trainer.add_all();
    const uint64_t huge = uint64_t{1} << 40;
    const std::string long_name(96, 'n');
    const cairn_tensor bad[] = {
        {"weight", CAIRN_F32, CAIRN_HOST, trainer.weight, 1, {6}},
        {"", CAIRN_F32, CAIRN_HOST, trainer.weight, 1, {6}},
        {nullptr, CAIRN_F32, CAIRN_HOST, trainer.weight, 1, {6}},
        {"a b", CAIRN_F32, CAIRN_HOST, trainer.weight, 1, {6}},
        {long_name.c_str(), CAIRN_F32, CAIRN_HOST, trainer.weight, 1, {6}},
        {"bytes.x", CAIRN_U8, CAIRN_HOST, trainer.words, 1, {5}},
        {"__metadata__", CAIRN_U8, CAIRN_HOST, trainer.words, 1, {5}}, // of a safetensors file
        {"rank", CAIRN_F32, CAIRN_HOST, trainer.weight, 5, {1, 1, 1, 1}},
        {"null", CAIRN_F32, CAIRN_HOST, nullptr, 1, {6}},
        {"huge", CAIRN_U8, CAIRN_HOST, trainer.words, 1, {huge}},
        {"overflow", CAIRN_F64, CAIRN_HOST, &trainer.sum, 3, {huge, huge, huge}},
        {"no_number_of_json", CAIRN_F32, CAIRN_HOST, trainer.weight, 2, {0, UINT64_MAX}},
        {"dtype", static_cast<cairn_dtype>(7), CAIRN_HOST, trainer.weight, 1, {6}},
    };
    for (const cairn_tensor &tensor : bad) {
        EXPECT_EQ(trainer.add(tensor), CAIRN_ERROR_USAGE) << trainer.error.message;
        EXPECT_NE(trainer.error.message[0], '\0');
    }
    EXPECT_EQ(cairn_checkpoint_add(trainer.saves.get(), nullptr, nullptr), CAIRN_ERROR_USAGE);
    ASSERT_EQ(trainer.restore(), CAIRN_OK);
    trainer.save_step(1);
}

// What open leaves behind when it fails, in the hands of a program that did not look.
TEST(Library, ANullHandleIsAnErrorOfTheCaller) {
    struct cairn_error error = {};
    bool found = true;
    size_t size = 7;
    float number = 0;
    const cairn_tensor tensor = {"weight", CAIRN_F32, CAIRN_HOST, &number, 0, {}};
    auto expect_usage = [&](cairn_status status) {
        EXPECT_EQ(status, CAIRN_ERROR_USAGE);
        EXPECT_EQ(error.status, CAIRN_ERROR_USAGE);
        EXPECT_NE(strstr(error.message, "handle is NULL"), nullptr) << error.message;
        error = {};
    };
    expect_usage(cairn_checkpoint_add(nullptr, &tensor, &error));
    expect_usage(cairn_checkpoint_add_steady(nullptr, &tensor, &error));
    expect_usage(cairn_checkpoint_set_string(nullptr, "key", "value", &error));
    expect_usage(cairn_checkpoint_set_bytes(nullptr, "key", "value", 5, &error));
    expect_usage(cairn_checkpoint_restore_latest(nullptr, &found, nullptr, &error));
    expect_usage(cairn_checkpoint_save(nullptr, 1, 0, nullptr, &error));
    expect_usage(cairn_checkpoint_wait(nullptr, &error));
    EXPECT_EQ(cairn_checkpoint_poll(nullptr), nullptr);
    EXPECT_EQ(cairn_checkpoint_get_totals(nullptr)->requested, 0u);
    EXPECT_EQ(cairn_checkpoint_get_string(nullptr, "key"), nullptr);
    EXPECT_EQ(cairn_checkpoint_get_bytes(nullptr, "key", &size), nullptr);
    EXPECT_EQ(size, 0u);
}

TEST(Library, NullArgumentsAreRefused) {
    MemoryFiles disk;
    Trainer trainer(&disk);
    ASSERT_EQ(trainer.open(), CAIRN_OK);
    cairn_checkpoint *saves = trainer.saves.get();
    EXPECT_EQ(cairn_checkpoint_restore_latest(saves, nullptr, &trainer.step, nullptr),
              CAIRN_ERROR_USAGE);
    EXPECT_EQ(trainer.save(), CAIRN_ERROR_USAGE);
    trainer.add_all();
    ASSERT_EQ(trainer.restore(), CAIRN_OK);
    ASSERT_EQ(cairn_checkpoint_set_string(saves, "a", "b", nullptr), CAIRN_OK);
    ASSERT_EQ(cairn_checkpoint_set_bytes(saves, "a", "b", 1, nullptr), CAIRN_OK);
    EXPECT_EQ(cairn_checkpoint_get_string(saves, nullptr), nullptr);
    EXPECT_EQ(cairn_checkpoint_get_bytes(saves, nullptr, nullptr), nullptr);
}

TEST(Library, TensorsThatTogetherAreTooLargeAreRefused) {
    MemoryFiles disk;
    Trainer trainer(&disk);
    ASSERT_EQ(trainer.open(), CAIRN_OK);
    const uint64_t half = CHECKPOINT_CONTENT_BYTES_MAX / 2; // nobody reads them
    EXPECT_EQ(trainer.add({"a", CAIRN_U8, CAIRN_HOST, trainer.words, 1, {half}}), CAIRN_OK);
    EXPECT_EQ(trainer.add({"b", CAIRN_U8, CAIRN_HOST, trainer.words, 1, {half}}), CAIRN_OK);
    EXPECT_EQ(trainer.add({"c", CAIRN_U8, CAIRN_HOST, trainer.words, 1, {1}}), CAIRN_ERROR_USAGE);
    EXPECT_TRUE(trainer.message_has("'c' all of them are together larger"))
        << trainer.error.message;
    EXPECT_EQ(trainer.add({"d", CAIRN_U8, CAIRN_HOST, nullptr, 1, {0}}), CAIRN_OK);
    EXPECT_EQ(cairn_checkpoint_set_bytes(trainer.saves.get(), "e", "x", 1, &trainer.error),
              CAIRN_ERROR_USAGE);
    EXPECT_TRUE(trainer.message_has("1 bytes of 'e'")) << trainer.error.message;
}

// A length from a read that failed, and one byte more than there can be. Nobody reads them.
TEST(Library, ValuesThatAreTooLargeAreRefused) {
    MemoryFiles disk;
    Trainer trainer(&disk);
    trainer.start();
    cairn_checkpoint *saves = trainer.saves.get();
    for (uint64_t size :
         {uint64_t{SIZE_MAX}, uint64_t{SIZE_MAX - 1}, uint64_t{CHECKPOINT_CONTENT_BYTES_MAX}}) {
        EXPECT_EQ(cairn_checkpoint_set_bytes(saves, "key", "value", size, &trainer.error),
                  CAIRN_ERROR_USAGE);
        EXPECT_TRUE(trainer.message_has("larger than the 64 GiB")) << trainer.error.message;
    }
    EXPECT_EQ(cairn_checkpoint_get_bytes(saves, "key", nullptr), nullptr);
    trainer.save_step(1);
}

TEST(Library, HostMemoryIsNoCudaMemory) {
    MemoryFiles disk;
    Trainer trainer(&disk);
    ASSERT_EQ(trainer.open(), CAIRN_OK);
    EXPECT_EQ(trainer.add({"weight", CAIRN_F32, CAIRN_CUDA, trainer.weight, 1, {6}}),
              CAIRN_ERROR_DEVICE);
    EXPECT_TRUE(trainer.message_has("weight")) << trainer.error.message;
}

TEST(Library, BadOptionsAreRefused) {
    MemoryFiles disk;
    const size_t first_version = offsetof(cairn_checkpoint_options, compression_threads);
    for (int bad = 0; bad < 6; bad++) {
        Trainer trainer(&disk);
        trainer.options.size = bad == 0   ? first_version - 1
                               : bad == 4 ? sizeof trainer.options + 1
                                          : trainer.options.size;
        trainer.options.compression_threads = bad == 5 ? 65 : 0;
        trainer.options.compression_level = bad == 1 ? 20 : 1;
        trainer.options.keep_every_seconds = bad == 2 ? -1 : 0;
        trainer.options.busy =
            bad == 3 ? static_cast<cairn_checkpoint_busy>(3) : CAIRN_CHECKPOINT_SKIP;
        EXPECT_EQ(trainer.open(), CAIRN_ERROR_USAGE) << bad;
        EXPECT_EQ(trainer.saves, nullptr);
    }
    cairn_checkpoint *handle = nullptr;
    EXPECT_EQ(cairn_checkpoint_open("", nullptr, &handle, nullptr), CAIRN_ERROR_USAGE);
    EXPECT_EQ(cairn_checkpoint_open(nullptr, nullptr, &handle, nullptr), CAIRN_ERROR_USAGE);
    EXPECT_EQ(disk.names("/"), std::vector<std::string>{});
}

TEST(Library, AProgramBuiltWithTheFirstHeaderIsServed) {
    MemoryFiles disk;
    Trainer trainer(&disk);
    trainer.options.keep_max = 2;
    trainer.options.size = offsetof(cairn_checkpoint_options, compression_threads);
    trainer.options.compression_threads = 1000; // not its own: what lies behind in its memory
    trainer.start();
    for (uint64_t step : {1, 2, 3}) {
        trainer.save_step(step);
    }
    EXPECT_EQ(ring_steps(disk), (std::vector<uint64_t>{2, 3}));
}

TEST(Library, SeveralThreadsCompressARestorableState) {
    for (uint32_t threads : {0u, 1u, 3u}) {
        MemoryFiles disk;
        Trainer trainer(&disk);
        trainer.options.compression_threads = threads;
        trainer.start();
        trainer.save_step(1);
        ASSERT_EQ(trainer.restore(), CAIRN_OK);
        EXPECT_TRUE(trainer.is_trained_to(1));
    }
}

TEST(Library, StatusesHaveTextsAndVersionsAgree) {
    for (int status = CAIRN_OK; status <= CAIRN_ERROR_DEVICE; status++) {
        EXPECT_STRNE(cairn_checkpoint_status_text(static_cast<cairn_status>(status)),
                     "unknown status");
    }
    EXPECT_EQ(cairn_checkpoint_version(), static_cast<unsigned>(CAIRN_CHECKPOINT_VERSION));
    EXPECT_EQ(cairn_checkpoint_close(nullptr, nullptr), CAIRN_OK);
}

// ---- misfits ----

struct MisfitCase {
    const char *name;
    cairn_tensor tensor; // in place of "weight"
    const char *message;
};

TEST(Library, AMisfitIsRefusedBeforeAnythingIsTouched) {
    MemoryFiles disk;
    make_run(&disk, {10});
    float weight[6] = {};
    double wide[6] = {};
    const MisfitCase cases[] = {
        {"shape", {"weight", CAIRN_F32, CAIRN_HOST, weight, 2, {3, 2}}, "[2, 3]"},
        {"rank", {"weight", CAIRN_F32, CAIRN_HOST, weight, 1, {6}}, "registered as F32 [6]"},
        {"dtype", {"weight", CAIRN_F64, CAIRN_HOST, wide, 2, {2, 3}}, "is F32 [2, 3]"},
        {"missing", {"other", CAIRN_F32, CAIRN_HOST, weight, 2, {2, 3}}, "no tensor 'other'"},
        {"unregistered",
         {nullptr, CAIRN_F32, CAIRN_HOST, nullptr, 0, {}},
         "'weight', which is not"},
    };
    for (const MisfitCase &one : cases) {
        Trainer trainer(&disk);
        ASSERT_EQ(trainer.open(), CAIRN_OK);
        ASSERT_EQ(trainer.add({"words", CAIRN_U8, CAIRN_HOST, trainer.words, 1, {5}}), CAIRN_OK);
        ASSERT_EQ(trainer.add({"sum", CAIRN_F64, CAIRN_HOST, &trainer.sum, 0, {}}), CAIRN_OK);
        ASSERT_EQ(trainer.add({"random", CAIRN_I64, CAIRN_HOST, &trainer.random, 0, {}}), CAIRN_OK);
        ASSERT_EQ(trainer.add({"none", CAIRN_F32, CAIRN_HOST, nullptr, 2, {0, 7}}), CAIRN_OK);
        if (one.tensor.name != nullptr) {
            ASSERT_EQ(trainer.add(one.tensor), CAIRN_OK);
        }
        EXPECT_EQ(trainer.restore(), CAIRN_ERROR_MISFIT) << one.name;
        EXPECT_TRUE(trainer.message_has(one.message)) << trainer.error.message;
        EXPECT_TRUE(trainer.message_has("model.ckpt-10.")) << trainer.error.message;
        EXPECT_FALSE(trainer.found);
        EXPECT_EQ(trainer.words[2], 'x');
        EXPECT_EQ(trainer.sum, 0.0);
        EXPECT_EQ(trainer.save(), CAIRN_ERROR_USAGE);
    }
    EXPECT_EQ(ring_steps(disk), std::vector<uint64_t>{10});
}

// ---- steady tensors ----

// The writer is held in another save, so that settle and the copier copy for this one.
TEST(Library, SteadyTensorsHoldTheValuesOfTheSave) {
    MemoryFiles disk;
    Trainer trainer(&disk);
    constexpr size_t kLarge = (1 << 20) + 1000;
    std::vector<float> weights(kLarge), loss(4);
    ASSERT_EQ(trainer.open(), CAIRN_OK);
    trainer.add_all();
    const cairn_tensor steady = {"large", CAIRN_F32, CAIRN_HOST, weights.data(), 1, {kLarge}};
    ASSERT_EQ(cairn_checkpoint_add_steady(trainer.saves.get(), &steady, nullptr), CAIRN_OK);
    ASSERT_EQ(trainer.add({"loss", CAIRN_F32, CAIRN_HOST, loss.data(), 1, {4}}), CAIRN_OK);
    cairn_checkpoint_settle(trainer.saves.get()); // nothing to settle yet, and no writer
    cairn_checkpoint_settle(nullptr);
    const char bytes[] = "a value";
    ASSERT_EQ(
        cairn_checkpoint_set_bytes(trainer.saves.get(), "value", bytes, sizeof bytes, nullptr),
        CAIRN_OK);
    ASSERT_EQ(trainer.restore(), CAIRN_OK);

    auto train_to = [&](uint64_t step) {
        trainer.train_to(step);
        std::fill(loss.begin(), loss.end(), static_cast<float>(step));
        cairn_checkpoint_settle(trainer.saves.get());
        std::fill(weights.begin(), weights.end(), static_cast<float>(step));
    };
    trainer.files.hold(is_checkpoint_write);
    train_to(1);
    ASSERT_EQ(trainer.save(), CAIRN_OK);
    trainer.files.wait_until_held();
    train_to(2);
    ASSERT_EQ(trainer.save(), CAIRN_OK);
    ASSERT_EQ(trainer.outcome, CAIRN_CHECKPOINT_ACCEPTED);
    train_to(3);
    trainer.files.release();
    ASSERT_EQ(trainer.wait(), CAIRN_OK);
    for (int i = 0; i < 2; i++) {
        const cairn_checkpoint_event *event = cairn_checkpoint_poll(trainer.saves.get());
        ASSERT_NE(event, nullptr);
        EXPECT_EQ(event->put_off_bytes, kLarge * sizeof(float)); // nothing else was put off
    }
    ASSERT_EQ(trainer.restore(), CAIRN_OK) << trainer.error.message;
    EXPECT_EQ(trainer.step, 2u);
    EXPECT_TRUE(trainer.is_trained_to(2));
    EXPECT_EQ(weights, std::vector<float>(kLarge, 2.0F));
    EXPECT_EQ(loss, std::vector<float>(4, 2.0F));
}

} // namespace
