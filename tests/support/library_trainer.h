// library_trainer.h - a trainer of a few numbers on libcairn-checkpoint, over files in memory.
//
//     MemoryFiles disk;
//     LibraryTrainer trainer(&disk);
//     trainer.start();                    open, register, restore
//     trainer.train_to(7);
//     trainer.save();                     trainer.files can fail, trainer.told hears of it
#ifndef CAIRN_TESTS_SUPPORT_LIBRARY_TRAINER_H
#define CAIRN_TESTS_SUPPORT_LIBRARY_TRAINER_H

#include <string.h>

#include <memory>
#include <string>
#include <vector>

#include "include/cairn/checkpoint.h"
#include "library/handle.h"
#include "tests/support/faulty_files.h"
#include "tests/support/memory_files.h"
#include "tests/support/ring.h"
#include "gtest/gtest.h"

struct LibraryCloser {
    void operator()(cairn_checkpoint *handle) const { cairn_checkpoint_close(handle, nullptr); }
};
using LibraryHandle = std::unique_ptr<cairn_checkpoint, LibraryCloser>;

// Errors as the callback heard them.
struct ToldErrors {
    std::vector<cairn_error> errors;
    static void hear(void *context, const cairn_error *error) {
        static_cast<ToldErrors *>(context)->errors.push_back(*error);
    }
    bool heard(cairn_status status, const std::string &part) const {
        for (const cairn_error &error : errors) {
            if (error.status == status && strstr(error.message, part.c_str()) != nullptr) {
                return true;
            }
        }
        return false;
    }
};

inline bool is_checkpoint_write(FileCall call, const std::string &path, bool) {
    return call == FileCall::Write && path.find("model.ckpt-") != std::string::npos;
}

// What is trained: a few numbers.
struct LibraryNumbers {
    void train_to(uint64_t value) {
        for (size_t i = 0; i < 6; i++) {
            weight[i] = static_cast<float>(value) + static_cast<float>(i) / 8;
        }
        sum = -0.5 * static_cast<double>(value);
        random = static_cast<int64_t>(value) << 40 | 1;
        words[2] = static_cast<char>('a' + value % 26);
        step = value;
    }

    bool is_trained_to(uint64_t value) const {
        LibraryNumbers other;
        other.train_to(value);
        return memcmp(weight, other.weight, sizeof weight) == 0 && sum == other.sum &&
               random == other.random && memcmp(words, other.words, sizeof words) == 0;
    }

    float weight[6] = {};
    double sum = 0;
    int64_t random = 0;
    char words[5] = {'x', 'x', 'x', 'x', 'x'};
    uint64_t step = 12345;
};

class LibraryTrainer : public LibraryNumbers {
  public:
    explicit LibraryTrainer(MemoryFiles *disk) : files(disk->table()) {
        options.on_error = ToldErrors::hear;
        options.context = &told;
    }

    cairn_status open() {
        cairn_checkpoint *opened = nullptr;
        struct error err = {};
        cairn_status status = handle_report(
            handle_open(files.table(), kRun.c_str(), &options, &opened, &err), &err, &error);
        saves.reset(opened);
        return status;
    }

    cairn_status add(const cairn_tensor &tensor) {
        return cairn_checkpoint_add(saves.get(), &tensor, &error);
    }

    void add_all() {
        ASSERT_EQ(add({"weight", CAIRN_F32, CAIRN_HOST, weight, 2, {2, 3}}), CAIRN_OK);
        ASSERT_EQ(add({"sum", CAIRN_F64, CAIRN_HOST, &sum, 0, {}}), CAIRN_OK);
        ASSERT_EQ(add({"random", CAIRN_I64, CAIRN_HOST, &random, 0, {}}), CAIRN_OK);
        ASSERT_EQ(add({"words", CAIRN_U8, CAIRN_HOST, words, 1, {5}}), CAIRN_OK);
        ASSERT_EQ(add({"none", CAIRN_F32, CAIRN_HOST, nullptr, 2, {0, 7}}), CAIRN_OK);
    }

    cairn_status restore() {
        return cairn_checkpoint_restore_latest(saves.get(), &found, &step, &error);
    }

    // Open, register, restore: all must succeed.
    void start() {
        ASSERT_EQ(open(), CAIRN_OK) << error.message;
        add_all();
        ASSERT_EQ(restore(), CAIRN_OK) << error.message;
    }

    cairn_status save(unsigned flags = 0) {
        return cairn_checkpoint_save(saves.get(), step, flags, &outcome, &error);
    }

    // One durable checkpoint.
    void save_step(uint64_t value) {
        train_to(value);
        ASSERT_EQ(save(CAIRN_CHECKPOINT_MUST), CAIRN_OK) << error.message;
        ASSERT_EQ(wait(), CAIRN_OK) << error.message;
    }

    cairn_status wait() { return cairn_checkpoint_wait(saves.get(), &error); }
    bool message_has(const char *part) const { return strstr(error.message, part) != nullptr; }

    FaultyFiles files;
    ToldErrors told;
    cairn_checkpoint_options options = CAIRN_CHECKPOINT_OPTIONS_INIT;
    cairn_error error = {};
    bool found = true;
    cairn_checkpoint_outcome outcome = CAIRN_CHECKPOINT_SKIPPED;
    LibraryHandle saves; // last: closed before the files go
};

// A directory with durable checkpoints of these steps.
inline void make_run(MemoryFiles *disk, const std::vector<uint64_t> &steps) {
    LibraryTrainer trainer(disk);
    trainer.start();
    for (uint64_t step : steps) {
        trainer.save_step(step);
    }
}

inline void flip_a_bit(MemoryFiles *disk, uint64_t step) {
    std::string bytes = disk->get(checkpoint_path(step)).value();
    bytes[bytes.size() / 2] = static_cast<char>(bytes[bytes.size() / 2] ^ 4);
    disk->put(checkpoint_path(step), bytes);
}

#endif
