#include "tests/support/ring.h"

#include <gtest/gtest.h>

#include <algorithm>

std::string checkpoint_name(uint64_t step) {
    return "model.ckpt-" + std::to_string(step) + ".safetensors.zst";
}

std::string checkpoint_path(uint64_t step) {
    return kRun + "/" + checkpoint_name(step);
}

std::vector<uint64_t> ring_steps(const MemoryFiles &disk, const std::string &directory) {
    std::vector<uint64_t> out;
    for (const std::string &name : disk.names(directory)) {
        if (name.rfind("model.ckpt-", 0) == 0) {
            out.push_back(std::stoull(name.substr(11)));
        }
    }
    std::sort(out.begin(), out.end());
    return out;
}

std::string state_text(const MemoryFiles &disk) {
    return disk.get(kRun + "/checkpoint").value_or("(none)");
}

std::vector<uint64_t> listed_steps(const std::string &text) {
    std::vector<uint64_t> out;
    const std::string field = "all_model_checkpoint_paths: \"model.ckpt-";
    for (size_t at = text.find(field); at != std::string::npos; at = text.find(field, at + 1)) {
        out.push_back(std::stoull(text.substr(at + field.size())));
    }
    return out;
}

Store open_store(const struct file_table *files, uint32_t keep_max, double every_seconds) {
    struct store_options options = {keep_max, every_seconds};
    struct store *store = nullptr;
    struct error warning, err;
    EXPECT_EQ(store_open(files, kRun.c_str(), &options, &store, &warning, &err), STATUS_OK)
        << err.message;
    EXPECT_EQ(warning.status, STATUS_OK) << warning.message;
    return Store(store);
}

enum status commit(const struct file_table *files, const Store &store, uint64_t step,
                   struct error *err) {
    std::string bytes = "checkpoint " + std::to_string(step);
    enum status status =
        file_publish(files, checkpoint_path(step).c_str(), bytes.data(), bytes.size(), err);
    return status == STATUS_OK ? store_committed(store.get(), step, err) : status;
}

void commit_at(MemoryFiles &disk, const Store &store, uint64_t step, double now) {
    struct error err;
    disk.set_now(now);
    ASSERT_EQ(commit(disk.table(), store, step, &err), STATUS_OK) << err.message;
}
