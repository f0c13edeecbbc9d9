// ring.h - small verbs about a model directory "/run" in memory, shared by the store's tests.
#ifndef CAIRN_TESTS_SUPPORT_RING_H
#define CAIRN_TESTS_SUPPORT_RING_H

#include <memory>
#include <string>
#include <vector>

#include "io/store.h"
#include "tests/support/memory_files.h"

inline const std::string kRun = "/run";

// "/run/model.ckpt-<step>.safetensors.zst", spelled out here once more.
std::string checkpoint_path(uint64_t step);
std::string checkpoint_name(uint64_t step);
// Steps of the ring files in a directory, ascending, found without the code under test.
std::vector<uint64_t> ring_steps(const MemoryFiles &disk, const std::string &directory = kRun);

// The text of the state file, "(none)" when there is none; the steps that such a text lists, found
// without the parser under test.
std::string state_text(const MemoryFiles &disk);
std::vector<uint64_t> listed_steps(const std::string &text);

struct StoreDeleter {
    void operator()(struct store *store) const { store_close(store); }
};
using Store = std::unique_ptr<struct store, StoreDeleter>;

// Open /run; fails the test when that fails.
Store open_store(const struct file_table *files, uint32_t keep_max, double every_seconds = 0);

// What the writer does for a ring save: publish a file, tell the store.
enum status commit(const struct file_table *files, const Store &store, uint64_t step,
                   struct error *err);
// The same at a given time on a disk, failing the test on any error.
void commit_at(MemoryFiles &disk, const Store &store, uint64_t step, double now);

#endif
