#include "tests/support/small_run.h"

#include <gtest/gtest.h>
#include <string.h>

#include <cmath>

std::string ring_name(uint64_t step) {
    return "model.ckpt-" + std::to_string(step) + ".safetensors.zst";
}

// ---- what a checkpoint should hold ----

float expected_weight(uint64_t step, size_t i) {
    return static_cast<float>(step) + static_cast<float>(i) / 4096.0F;
}

namespace {

// Floats of the tensor that are not those of `step` from value `first` on; all of them when the
// tensor is not there or has another size.
size_t wrong_floats(const struct checkpoint &checkpoint, const char *name, uint64_t step,
                    size_t first, size_t count) {
    const struct tensor_view *tensor =
        tensor_find(checkpoint.tensors, checkpoint.tensor_count, name);
    uint64_t elements = 0;
    if (tensor == nullptr || tensor->dtype != DTYPE_F32 || !tensor_elements(tensor, &elements) ||
        elements != count) {
        return count;
    }
    const float *data = static_cast<const float *>(tensor->data);
    size_t wrong = 0;
    for (size_t i = 0; i < count; i++) {
        wrong += data[i] != expected_weight(step, first + i);
    }
    return wrong;
}

} // namespace

std::string state_problem(const struct checkpoint &checkpoint, uint64_t step) {
    const struct tensor_view *position =
        tensor_find(checkpoint.tensors, checkpoint.tensor_count, "state.step");
    if (position == nullptr || position->dtype != DTYPE_I64) {
        return "state.step is missing";
    }
    int64_t found = *static_cast<const int64_t *>(position->data);
    if (found != static_cast<int64_t>(step)) {
        return "it is the state of step " + std::to_string(found);
    }
    size_t wrong = wrong_floats(checkpoint, "weight", step, 0, 2000) +
                   wrong_floats(checkpoint, "adam.m.weight", step, 2000, 1000);
    if (wrong != 0) {
        return std::to_string(wrong) + " of 3000 values are not those of step " +
               std::to_string(step);
    }
    const struct tensor_view *words =
        tensor_find(checkpoint.tensors, checkpoint.tensor_count, "vocabulary");
    bool same =
        words != nullptr && words->shape[0] == 8 && memcmp(words->data, "a\nb\nc\n\0", 8) == 0;
    return same ? "" : "the vocabulary differs";
}

std::string decode_problem(const std::optional<std::string> &bytes, uint64_t step) {
    if (!bytes) {
        return "there is no such file";
    }
    struct error err = {};
    struct checkpoint *checkpoint = nullptr;
    if (checkpoint_decode(bytes->data(), bytes->size(), &checkpoint, &err) != STATUS_OK) {
        return err.message;
    }
    std::string problem = state_problem(*checkpoint, step);
    checkpoint_free(checkpoint);
    return problem;
}

// ---- the run ----

SmallRun::SmallRun(enum writer_busy busy, FakeBackend::Kind kind, uint32_t keep_max,
                   const struct file_table *table, const std::string &directory, int level,
                   unsigned threads)
    : files(disk.table()), device(kind), directory_(directory) {
    open_status_ = open(busy, keep_max, table != nullptr ? table : files.table(), level, threads);
}

enum status SmallRun::open(enum writer_busy busy, uint32_t keep_max, const struct file_table *table,
                           int level, unsigned threads) {
    struct error err = {}, warning = {};
    struct store_options store_options = {keep_max, 0};
    enum status status =
        store_open(table, directory_.c_str(), &store_options, &store, &warning, &err);
    if (status == STATUS_OK) {
        status = device.get()->table->device_alloc(device.get(), FLOATS * sizeof(float),
                                                   reinterpret_cast<void **>(&region), &err);
    }
    if (status == STATUS_OK) {
        struct writer_options options = {table, store, level, busy, 4096, threads, false};
        status =
            writer_create(&options, device.get(), region, FLOATS * sizeof(float), &writer, &err);
    }
    open_message_ = err.message;
    return status;
}

SmallRun::~SmallRun() {
    writer_free(writer);
    store_close(store);
    device.get()->table->device_free(device.get(), region);
}

void SmallRun::train_to(uint64_t to) {
    float *memory = region;
    device.launch([=] {
        for (size_t i = 0; i < FLOATS; i++) {
            memory[i] = expected_weight(to, i);
        }
    });
    step = static_cast<int64_t>(to);
}

void SmallRun::poison_weight() {
    float *memory = region;
    device.launch([=] { memory[7] = NAN; });
}

std::vector<struct snapshot_source> SmallRun::sources() {
    const uint64_t weight[] = {40, 50}, moments[] = {1000}, text[] = {sizeof words};
    return {{tensor_make("weight", DTYPE_F32, region, 2, weight), SNAPSHOT_DEVICE, false},
            {tensor_make("adam.m.weight", DTYPE_F32, region + 2000, 1, moments), SNAPSHOT_DEVICE,
             false},
            {tensor_make("state.step", DTYPE_I64, &step, 0, nullptr), SNAPSHOT_HOST, false},
            {tensor_make("vocabulary", DTYPE_U8, words, 1, text), SNAPSHOT_CONSTANT, false}};
}

void SmallRun::add_target(struct save_request *request, const std::string &path, bool ring) {
    struct save_target *target = &request->targets[request->target_count++];
    strcpy(target->path, path.c_str());
    target->ring = ring;
}

struct save_request SmallRun::ring_request(bool must) const {
    struct save_request request = {};
    request.step = static_cast<uint64_t>(step);
    request.must = must;
    add_target(&request, path(ring_name(request.step)), true);
    return request;
}

struct save_request SmallRun::best_and_ring_request(bool must) const {
    struct save_request request = {};
    request.step = static_cast<uint64_t>(step);
    request.must = must;
    add_target(&request, path("best.safetensors.zst"), false);
    add_target(&request, path(ring_name(request.step)), true);
    return request;
}

enum save_outcome SmallRun::save(const struct save_request &request) {
    struct error err = {};
    enum save_outcome outcome = SAVE_SKIPPED;
    if (writer == nullptr) {
        ADD_FAILURE() << "the run did not open: " << open_message_;
        return outcome;
    }
    std::vector<struct snapshot_source> list = sources();
    EXPECT_EQ(writer_save(writer, list.data(), list.size(), &request, &outcome, &err), STATUS_OK)
        << err.message;
    return outcome;
}

enum save_outcome SmallRun::save_step(uint64_t to, bool must) {
    train_to(to);
    return save(ring_request(must));
}

std::vector<struct save_result> SmallRun::results() {
    std::vector<struct save_result> list;
    struct save_result result;
    while (writer_poll(writer, &result)) {
        list.push_back(result);
    }
    return list;
}

std::vector<struct save_result> SmallRun::drain() {
    writer_drain(writer);
    return results();
}

// ---- what is on the disk ----

std::string SmallRun::problem_of(uint64_t saved) const {
    return decode_problem(disk.get(path(ring_name(saved))), saved);
}

std::set<std::string> SmallRun::checkpoints() const {
    std::set<std::string> found;
    for (const std::string &name : disk.names(directory_)) {
        if (name.rfind(PUBLISH_TEMP_PREFIX, 0) != 0 &&
            name.find(".safetensors.zst") != std::string::npos) {
            found.insert(name);
        }
    }
    return found;
}

size_t SmallRun::temporaries() const {
    size_t count = 0;
    for (const std::string &name : disk.names(directory_)) {
        count += name.rfind(PUBLISH_TEMP_PREFIX, 0) == 0;
    }
    return count;
}

bool is_checkpoint_write(FileCall call, const std::string &path, bool) {
    return call == FileCall::Write && path.find(".safetensors.zst") != std::string::npos;
}

std::string totals_text(const struct writer_totals &totals) {
    return "requested " + std::to_string(totals.requested) + " saved " +
           std::to_string(totals.saved) + " skipped " + std::to_string(totals.skipped) +
           " delayed " + std::to_string(totals.delayed) + " failed " +
           std::to_string(totals.failed) + " lost " + std::to_string(totals.results_lost);
}
