// Exports as files: what is on the disk when writing them fails or the power goes. (That others can
// read them is for tests/python/, with the software of others.)
#include <errno.h>
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "host/import.h"
#include "io/checkpoint.h"
#include "io/export.h"
#include "io/model_names.h"
#include "tests/support/faulty_files.h"
#include "tests/support/memory_files.h"

namespace {

const char *const kFiles[] = {"model.safetensors", "config.json", "vocab.txt", "README.md"};

// A model of four words, 2 / 3 / 5, whose values depend on `first`.
class SmallModel {
  public:
    explicit SmallModel(float first, uint64_t step = 7) {
        constexpr uint64_t V = 4, E = 2, H = 3, D = 5;
        add("embedding.weight", {V, E}, first);
        for (const char *end : {"", "_reverse"}) {
            add(std::string("lstm.weight_ih_l0") + end, {4 * H, E}, first);
            add(std::string("lstm.weight_hh_l0") + end, {4 * H, H}, first);
            add(std::string("lstm.bias_l0") + end, {4 * H}, first);
        }
        add("dense.weight", {D, 2 * H}, first);
        add("dense.bias", {D}, first);
        add("output.weight", {1, D}, first);
        add("output.bias", {1}, first);
        for (size_t i = 0; i < views_.size(); i++) {
            views_[i].data = values_[i].data();
        }
        model_ = {V,    E,   H, D, views_.data(), views_.size(), tokens_, true, 9, {"no", "yes"},
                  step, true};
    }
    SmallModel(const SmallModel &) = delete;
    SmallModel &operator=(const SmallModel &) = delete;
    const struct export_model *get() const { return &model_; }
    void forget_step() { model_.has_step = false; }

  private:
    void add(const std::string &name, const std::vector<uint64_t> &shape, float first) {
        views_.push_back(tensor_make(name.c_str(), DTYPE_F32, nullptr,
                                     static_cast<uint32_t>(shape.size()), shape.data()));
        uint64_t elements = 0;
        EXPECT_TRUE(tensor_elements(&views_.back(), &elements));
        std::vector<float> values;
        for (uint64_t i = 0; i < elements; i++) {
            values.push_back(first + static_cast<float>(views_.size()) / 16.0f +
                             static_cast<float>(i) / 4.0f);
        }
        values_.push_back(values);
    }

    const char *tokens_[4] = {"", "[UNK]", "good", "bad"};
    std::vector<struct tensor_view> views_;
    std::vector<std::vector<float>> values_;
    struct export_model model_;
};

void expect_no_temporaries(const MemoryFiles &disk, const std::string &directory) {
    for (const std::string &name : disk.names(directory)) {
        EXPECT_NE(name.rfind(PUBLISH_TEMP_PREFIX, 0), 0u) << name;
    }
}

std::map<std::string, std::string> folder_of(const MemoryFiles &disk) {
    std::map<std::string, std::string> out;
    for (const char *name : kFiles) {
        out[name] = disk.get(std::string("/out/") + name).value_or("(missing)");
    }
    return out;
}

// Refused with a reason, and not read with the words of another model.
void expect_no_model(const MemoryFiles &disk) {
    struct checkpoint *checkpoint = nullptr;
    struct error err = {};
    EXPECT_EQ(import_read(disk.table(), "/out", true, &checkpoint, &err), STATUS_INPUT);
    EXPECT_NE(std::string(err.message).find("/out is a directory without model.safetensors"),
              std::string::npos)
        << err.message;
    EXPECT_NE(std::string(err.message).find("cut short"), std::string::npos) << err.message;
    checkpoint_free(checkpoint);
}

class Folder : public testing::Test {
  protected:
    // The old folder, the new one, or none: never weights beside the words of others.
    void expect_one_model(const MemoryFiles &disk) {
        std::map<std::string, std::string> found = folder_of(disk);
        for (const char *name : kFiles) {
            bool missing = found[name] == "(missing)" && name == std::string("model.safetensors");
            EXPECT_TRUE(missing || found[name] == old_files_[name] ||
                        found[name] == new_files_[name])
                << name;
        }
        if (found["model.safetensors"] == "(missing)") {
            expect_no_model(disk);
            refused_++;
        } else {
            EXPECT_TRUE(found == old_files_ || found == new_files_);
        }
    }
    void SetUp() override {
        MemoryFiles other;
        ASSERT_EQ(export_safetensors(other.table(), new_.get(), "/out", &err_), STATUS_OK);
        new_files_ = folder_of(other);
        fill(&disk_);
        old_files_ = folder_of(disk_);
        for (const char *name : {"model.safetensors", "config.json", "README.md"}) {
            ASSERT_NE(new_files_[name], old_files_[name]) << name;
        }
    }
    void fill(MemoryFiles *disk) {
        ASSERT_EQ(export_safetensors(disk->table(), old_.get(), "/out", &err_), STATUS_OK)
            << err_.message;
        disk->forget_log();
    }

    SmallModel old_{1.0f, 7}, new_{2.0f, 8};
    MemoryFiles disk_;
    std::map<std::string, std::string> old_files_, new_files_;
    size_t refused_ = 0; // disks without a model
    struct error err_ = {};
};

TEST_F(Folder, ReplacesAnOldOne) {
    EXPECT_EQ(export_safetensors(disk_.table(), new_.get(), "/out", &err_), STATUS_OK);
    EXPECT_EQ(folder_of(disk_), new_files_);
    EXPECT_EQ(disk_.names("/out").size(), 4u);
    EXPECT_EQ(disk_.open_descriptors(), 0u);
}

// Whatever fails before the old weights are removed leaves all four files as they were.
TEST_F(Folder, WhateverFailsNoFileIsHalfAndNothingIsLeftBehind) {
    FaultyFiles counting(disk_.table());
    ASSERT_EQ(export_safetensors(counting.table(), new_.get(), "/out", &err_), STATUS_OK);
    size_t kept_all = 0;
    for (size_t n = 1; n <= counting.calls(); n++) {
        MemoryFiles disk;
        fill(&disk);
        FaultyFiles files(disk.table());
        files.fail(n, ENOSPC, FaultyFiles::Once);
        enum status status = export_safetensors(files.table(), new_.get(), "/out", &err_);
        SCOPED_TRACE(std::to_string(n) + ": " + files.last_failure());
        expect_no_temporaries(disk, "/out");
        EXPECT_EQ(disk.open_descriptors(), 0u);
        expect_one_model(disk);
        if (status == STATUS_OK) {
            EXPECT_EQ(folder_of(disk), new_files_);
        }
        kept_all += folder_of(disk) == old_files_;
    }
    EXPECT_GE(kept_all, 17u); // open, write, fsync and close of four files; unlink
    EXPECT_GE(refused_, 4u);  // the four renames
}

TEST_F(Folder, APowerCutLeavesWholeFiles) {
    ASSERT_EQ(export_safetensors(disk_.table(), new_.get(), "/out", &err_), STATUS_OK);
    size_t disks = disk_.for_each_crash([&](const std::string &what, MemoryFiles &left) {
        SCOPED_TRACE(what);
        expect_one_model(left);
    });
    EXPECT_GT(disks, 10u);
    EXPECT_GT(refused_, 3u);
}

TEST_F(Folder, ADirectoryInAFilesPlaceIsNamedBeforeAnythingIsWritten) {
    disk_.remove("/out/vocab.txt");
    disk_.make_directory("/out/vocab.txt");
    EXPECT_EQ(export_safetensors(disk_.table(), new_.get(), "/out", &err_), STATUS_OUTPUT);
    EXPECT_NE(std::string(err_.message).find("/out/vocab.txt is a directory"), std::string::npos);
    EXPECT_EQ(disk_.get("/out/config.json"), old_files_["config.json"]);
    expect_no_temporaries(disk_, "/out");
}

// ---- a model of others, whose steps nobody knows ----

TEST(WithoutAStep, NoFormatWritesOne) {
    SmallModel known(1.0f), unknown(1.0f);
    unknown.forget_step();
    struct error err = {};
    auto written = [&](const SmallModel &model) {
        MemoryFiles disk;
        EXPECT_EQ(export_safetensors(disk.table(), model.get(), "/out", &err), STATUS_OK);
        EXPECT_EQ(export_onnx(disk.table(), model.get(), "/film.onnx", false, &err), STATUS_OK);
        EXPECT_EQ(export_keras(disk.table(), model.get(), "/film.keras", &err), STATUS_OK);
        EXPECT_EQ(export_keras(disk.table(), model.get(), "/film.weights.h5", &err), STATUS_OK);
        EXPECT_EQ(export_checkpoint(disk.table(), model.get(), "/film", &err), STATUS_OK);
        struct checkpoint *checkpoint = nullptr;
        EXPECT_EQ(checkpoint_read_file(disk.table(), "/film", &checkpoint, &err), STATUS_OK);
        const char *step = checkpoint_metadata(checkpoint, "step");
        const std::string in_checkpoint = step == nullptr ? "" : "step";
        checkpoint_free(checkpoint);
        return std::vector<std::string>{
            disk.get("/out/config.json").value(), disk.get("/out/README.md").value(),
            disk.get("/film.onnx").value(),       disk.get("/film.keras").value(),
            disk.get("/film.weights.h5").value(), in_checkpoint};
    };
    const std::vector<std::string> with = written(known), without = written(unknown);
    for (size_t i = 0; i < with.size(); i++) {
        EXPECT_NE(with[i].find("step"), std::string::npos) << i;
        EXPECT_EQ(without[i].find("step"), std::string::npos) << i;
    }
}

// ---- one file ----

TEST(CheckpointFile, HoldsWeightsWordsAndRulesAndNothingElse) {
    MemoryFiles disk;
    struct error err = {};
    SmallModel model(3.0f);
    ASSERT_EQ(export_checkpoint(disk.table(), model.get(), "/film", &err), STATUS_OK);
    struct checkpoint *checkpoint = nullptr;
    ASSERT_EQ(checkpoint_read_file(disk.table(), "/film", &checkpoint, &err), STATUS_OK);
    EXPECT_FALSE(checkpoint->plain);
    EXPECT_EQ(checkpoint->tensor_count, 15u);
    for (size_t i = 0; i < model.get()->weight_count; i++) {
        const struct tensor_view &want = model.get()->weights[i];
        const struct tensor_view *found =
            tensor_find(checkpoint->tensors, checkpoint->tensor_count, want.name);
        ASSERT_NE(found, nullptr) << want.name;
        uint64_t bytes = 0;
        ASSERT_TRUE(tensor_bytes(&want, &bytes));
        EXPECT_EQ(memcmp(found->data, want.data, bytes), 0) << want.name;
    }
    const struct tensor_view *words =
        tensor_find(checkpoint->tensors, checkpoint->tensor_count, TENSOR_VOCABULARY);
    ASSERT_NE(words, nullptr);
    EXPECT_EQ(std::string(static_cast<const char *>(words->data), words->shape[0]),
              "\n[UNK]\ngood\nbad\n");
    EXPECT_STREQ(checkpoint_metadata(checkpoint, "step"), "7");
    checkpoint_free(checkpoint);
}

TEST(CheckpointFile, WhateverFailsTheOldFileStays) {
    SmallModel old_model(1.0f), new_model(2.0f);
    struct error err = {};
    MemoryFiles first;
    ASSERT_EQ(export_checkpoint(first.table(), old_model.get(), "/film", &err), STATUS_OK);
    const std::string old_bytes = first.get("/film").value();
    FaultyFiles counting(first.table());
    ASSERT_EQ(export_checkpoint(counting.table(), new_model.get(), "/film", &err), STATUS_OK);
    const std::string new_bytes = first.get("/film").value();
    for (size_t n = 1; n <= counting.calls(); n++) {
        MemoryFiles disk;
        disk.put("/film", old_bytes);
        FaultyFiles files(disk.table());
        files.fail(n, EIO, FaultyFiles::Once);
        enum status status = export_checkpoint(files.table(), new_model.get(), "/film", &err);
        SCOPED_TRACE(std::to_string(n) + ": " + files.last_failure());
        expect_no_temporaries(disk, "/");
        std::string found = disk.get("/film").value_or("(missing)");
        EXPECT_TRUE(found == old_bytes || found == new_bytes);
        EXPECT_EQ(disk.open_descriptors(), 0u);
        if (files.last_failure().rfind("write", 0) == 0) {
            EXPECT_EQ(status, STATUS_IO);
            EXPECT_EQ(found, old_bytes);
        }
        if (files.last_failure().rfind("open /.cairn", 0) == 0) {
            EXPECT_EQ(status, STATUS_OUTPUT);
            EXPECT_EQ(err.status, STATUS_OUTPUT);
        }
    }
}

TEST(CheckpointFile, ValuesThatAreNoNumbersAreNotWritten) {
    MemoryFiles disk;
    struct error err = {};
    SmallModel model(std::nanf(""));
    EXPECT_EQ(export_checkpoint(disk.table(), model.get(), "/film", &err), STATUS_NONFINITE);
    EXPECT_TRUE(disk.names("/").empty());
}

} // namespace
