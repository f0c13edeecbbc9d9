// Steady tensors: a save does not copy them in its call, and still holds the values of its call, as
// long as whoever changes them settles first.
#include <errno.h>
#include <gtest/gtest.h>
#include <string.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "tests/support/small_run.h"

namespace {

constexpr size_t FLOATS = (1 << 20) + 1000; // more than one thread copies in one go

// A region of two steady tensors and one that is not (a running sum), and a host value.
class LargeState {
  public:
    explicit LargeState(FakeBackend::Kind kind, size_t floats = FLOATS) : device(kind) {
        struct error err = {};
        size = floats;
        EXPECT_EQ(device.get()->table->device_alloc(device.get(), bytes(),
                                                    reinterpret_cast<void **>(&region), &err),
                  STATUS_OK);
    }
    ~LargeState() { device.get()->table->device_free(device.get(), region); }

    size_t bytes() const { return (size + 8) * sizeof(float); }

    // `weights` and `sum` by themselves, as a step does.
    void update(float value) {
        float *memory = region;
        size_t count = size;
        device.launch([=] { std::fill(memory, memory + count, value); });
    }
    void add_up(float value) {
        float *memory = region + size;
        device.launch([=] { std::fill(memory, memory + 8, value); });
        step = static_cast<int64_t>(value);
    }

    std::vector<struct snapshot_source> sources() {
        const uint64_t half[] = {size / 2}, rest[] = {size - size / 2}, eight[] = {8};
        return {
            {tensor_make("weight", DTYPE_F32, region, 1, half), SNAPSHOT_DEVICE, true},
            {tensor_make("adam.m.weight", DTYPE_F32, region + size / 2, 1, rest), SNAPSHOT_DEVICE,
             true},
            {tensor_make("state.sum", DTYPE_F32, region + size, 1, eight), SNAPSHOT_DEVICE, false},
            {tensor_make("state.step", DTYPE_I64, &step, 0, nullptr), SNAPSHOT_HOST, false}};
    }

    FakeBackend device;
    size_t size;
    float *region = nullptr;
    int64_t step = 0;
};

// How many numbers of a copied tensor are not `value`.
size_t others(const struct tensor_view &tensor, float value) {
    const float *numbers = static_cast<const float *>(tensor.data);
    size_t count = 0;
    for (uint64_t i = 0; i < tensor.shape[0]; i++) {
        count += memcmp(&numbers[i], &value, sizeof value) != 0;
    }
    return count;
}

struct Pool {
    explicit Pool(LargeState *state) {
        struct error err = {};
        EXPECT_EQ(snapshot_pool_create(state->device.get(), state->region, state->bytes(), 64,
                                       false, &pool, &err),
                  STATUS_OK)
            << err.message;
        std::vector<struct snapshot_source> list = state->sources();
        slot = snapshot_acquire(pool);
        EXPECT_EQ(snapshot_fill(slot, list.data(), list.size(), &err), STATUS_OK) << err.message;
    }
    ~Pool() {
        snapshot_release(slot);
        snapshot_pool_free(pool);
    }
    struct snapshot_pool *pool = nullptr;
    struct snapshot_slot *slot = nullptr;
};

// ---- the snapshot ----

TEST(Steady, AreCopiedByWhoWaitsAndOthersInTheCall) {
    LargeState state(FakeBackend::UNIFIED);
    state.update(1);
    state.add_up(1);
    Pool pool(&state);
    EXPECT_EQ(others(pool.slot->tensors[0], 0), 0u) << "copied in the call";
    EXPECT_EQ(others(pool.slot->tensors[1], 0), 0u) << "copied in the call";
    EXPECT_EQ(others(pool.slot->tensors[2], 1), 0u);
    state.add_up(2); // the running sum goes on before the update
    ASSERT_EQ(snapshot_wait(pool.slot, nullptr), STATUS_OK);
    EXPECT_EQ(others(pool.slot->tensors[0], 1), 0u);
    EXPECT_EQ(others(pool.slot->tensors[1], 1), 0u);
    EXPECT_EQ(others(pool.slot->tensors[2], 1), 0u);
    int64_t step;
    memcpy(&step, pool.slot->tensors[3].data, sizeof step);
    EXPECT_EQ(step, 1);
}

TEST(Steady, AreCopiedBySettleWhenNobodyWaited) {
    LargeState state(FakeBackend::UNIFIED);
    state.update(1);
    Pool pool(&state);
    snapshot_settle(pool.pool);
    state.update(2);
    ASSERT_EQ(snapshot_wait(pool.slot, nullptr), STATUS_OK);
    EXPECT_EQ(others(pool.slot->tensors[0], 1), 0u);
    EXPECT_EQ(others(pool.slot->tensors[1], 1), 0u);
}

TEST(Steady, AreCopiedByWhoAssists) {
    LargeState state(FakeBackend::UNIFIED);
    state.update(1);
    Pool pool(&state);
    EXPECT_EQ(snapshot_assisted(pool.slot).bytes, 0u);
    snapshot_assist(pool.pool);
    EXPECT_EQ(snapshot_assisted(pool.slot).bytes, FLOATS * sizeof(float));
    state.update(2); // nothing is left to settle
    ASSERT_EQ(snapshot_wait(pool.slot, nullptr), STATUS_OK);
    EXPECT_EQ(others(pool.slot->tensors[0], 1), 0u);
    EXPECT_EQ(others(pool.slot->tensors[1], 1), 0u);
    std::vector<struct snapshot_source> list = state.sources();
    ASSERT_EQ(snapshot_fill(pool.slot, list.data(), list.size(), nullptr), STATUS_OK);
    EXPECT_EQ(snapshot_assisted(pool.slot).bytes, 0u) << "of the save before";
}

TEST(Steady, OfASmallStateAreNotCopiedInTheCallEither) {
    LargeState state(FakeBackend::UNIFIED, 2);
    Pool pool(&state); // all of them 0
    state.update(1);
    std::vector<struct snapshot_source> list = state.sources();
    ASSERT_EQ(snapshot_fill(pool.slot, list.data(), list.size(), nullptr), STATUS_OK);
    EXPECT_EQ(pool.slot->put_off_bytes, 2 * sizeof(float));
    EXPECT_EQ(others(pool.slot->tensors[0], 0), 0u);
    EXPECT_EQ(others(pool.slot->tensors[1], 0), 0u);
    snapshot_settle(pool.pool);
    state.update(2);
    EXPECT_EQ(others(pool.slot->tensors[0], 1), 0u);
    EXPECT_EQ(others(pool.slot->tensors[1], 1), 0u);
}

TEST(Steady, OnADeviceWithItsOwnMemoryAreCopiedInStreamOrderAsEver) {
    LargeState state(FakeBackend::ASYNCHRONOUS);
    state.update(1);
    state.add_up(1);
    Pool pool(&state);
    state.update(2); // without settle
    state.add_up(2);
    ASSERT_EQ(snapshot_wait(pool.slot, nullptr), STATUS_OK);
    for (size_t i = 0; i < 3; i++) {
        EXPECT_EQ(others(pool.slot->tensors[i], 1), 0u);
    }
}

TEST(Steady, AreNotCopiedAnyMoreWhenTheSlotIsFilledAgain) {
    LargeState state(FakeBackend::UNIFIED);
    state.update(1);
    Pool pool(&state);
    state.update(2); // the first fill is void, as under LATEST
    std::vector<struct snapshot_source> list = state.sources();
    for (int again = 0; again < 3; again++) {
        ASSERT_EQ(snapshot_fill(pool.slot, list.data(), list.size(), nullptr), STATUS_OK);
        EXPECT_EQ(pool.slot->put_off.count, 1u) << "the two tensors, which are neighbours";
    }
    snapshot_settle(pool.pool);
    state.update(3);
    ASSERT_EQ(snapshot_wait(pool.slot, nullptr), STATUS_OK);
    EXPECT_EQ(others(pool.slot->tensors[0], 2), 0u);
}

// A save that fails after the snapshot leaves nothing behind that reads the state.
TEST(Steady, AreForgottenWhenTheSlotIsGivenBack) {
    LargeState state(FakeBackend::UNIFIED);
    state.update(1);
    Pool pool(&state);
    snapshot_release(pool.slot);
    snapshot_settle(pool.pool);
    EXPECT_EQ(others(pool.slot->tensors[0], 0), 0u) << "copied for nobody";
    pool.slot = snapshot_acquire(pool.pool);
}

// Only steady tensors count: others are copied in the call whatever their size.
TEST(Steady, PutOffBytesAreThoseOfSteadyTensors) {
    LargeState state(FakeBackend::UNIFIED);
    Pool pool(&state);
    EXPECT_EQ(pool.slot->put_off_bytes, FLOATS * sizeof(float));
    std::vector<struct snapshot_source> list = state.sources();
    snapshot_settle(pool.pool);
    list[0].steady = false;
    state.update(1);
    ASSERT_EQ(snapshot_fill(pool.slot, list.data(), list.size(), nullptr), STATUS_OK);
    EXPECT_EQ(pool.slot->put_off_bytes, FLOATS / 2 * sizeof(float));
    EXPECT_EQ(others(pool.slot->tensors[0], 1), 0u);
    EXPECT_EQ(others(pool.slot->tensors[1], 0), 0u);
}

// ---- the writer ----

struct LargeRun : LargeState {
    explicit LargeRun(enum writer_busy busy)
        : LargeState(FakeBackend::UNIFIED), files(disk.table()) {
        struct error err = {}, warning = {};
        const struct store_options store_options = {0, 0};
        EXPECT_EQ(store_open(files.table(), "/run", &store_options, &store, &warning, &err),
                  STATUS_OK);
        const struct writer_options options = {files.table(), store, -7, busy, 4096, 1, false};
        EXPECT_EQ(writer_create(&options, device.get(), region, bytes(), &writer, &err), STATUS_OK);
    }
    ~LargeRun() {
        writer_free(writer);
        store_close(store);
    }

    // Forward and backward change the sum; then comes the update, then the save.
    void train_to(uint64_t to) {
        add_up(static_cast<float>(to));
        writer_settle(writer);
        update(static_cast<float>(to));
    }
    enum save_outcome save() { return save(sources()); }
    enum save_outcome save_small() { return save({sources()[3]}); } // of the step alone
    enum save_outcome save(std::vector<struct snapshot_source> list) {
        enum save_outcome outcome = SAVE_SKIPPED;
        EXPECT_EQ(try_save(std::move(list), &outcome), STATUS_OK);
        return outcome;
    }
    enum status try_save(std::vector<struct snapshot_source> list, enum save_outcome *outcome) {
        struct save_request request = {};
        request.step = static_cast<uint64_t>(step);
        SmallRun::add_target(&request, "/run/" + ring_name(request.step), true);
        return writer_save(writer, list.data(), list.size(), &request, outcome, nullptr);
    }
    // Step 1 is saved; its writing stands still until files.release().
    void hold_writer_in_first_save() {
        files.hold(is_checkpoint_write);
        train_to(1);
        ASSERT_EQ(save(), SAVE_ACCEPTED);
        files.wait_until_held();
    }
    // "" when the checkpoint of `step` holds that step's values, whole.
    std::string problem_of(uint64_t at) {
        std::string bytes = disk.get("/run/" + ring_name(at)).value_or("");
        struct checkpoint *checkpoint = nullptr;
        struct error err = {};
        if (checkpoint_decode(bytes.data(), bytes.size(), &checkpoint, &err) != STATUS_OK) {
            return err.message;
        }
        std::string problem;
        for (const char *name : {"weight", "adam.m.weight", "state.sum"}) {
            const struct tensor_view *tensor =
                tensor_find(checkpoint->tensors, checkpoint->tensor_count, name);
            size_t wrong = others(*tensor, static_cast<float>(at));
            problem += wrong > 0 ? std::string(name) + ": " + std::to_string(wrong) + " " : "";
        }
        checkpoint_free(checkpoint);
        return problem;
    }

    MemoryFiles disk;
    FaultyFiles files;
    struct store *store = nullptr;
    struct writer *writer = nullptr;
};

// The writer is held in the first save, so that the trainer and the copier copy for the second.
TEST(Steady, ASaveBehindABusyWriterHoldsTheValuesOfItsCall) {
    LargeRun run(WRITER_BUSY_SKIP);
    run.hold_writer_in_first_save();
    run.train_to(2);
    ASSERT_EQ(run.save(), SAVE_ACCEPTED);
    run.train_to(3);
    run.train_to(4);
    EXPECT_EQ(run.save(), SAVE_SKIPPED);
    run.files.release();
    writer_drain(run.writer);
    EXPECT_EQ(run.problem_of(1), "");
    EXPECT_EQ(run.problem_of(2), "");
}

TEST(Steady, ASaveThatReplacesAWaitingOneHoldsItsOwnValues) {
    LargeRun run(WRITER_BUSY_LATEST);
    run.hold_writer_in_first_save();
    for (uint64_t step : {2, 3, 4}) {
        run.train_to(step);
        ASSERT_EQ(run.save(), SAVE_ACCEPTED);
    }
    ASSERT_EQ(run.save(), SAVE_ACCEPTED); // once more before the update
    run.train_to(5);
    run.files.release();
    writer_drain(run.writer);
    EXPECT_EQ(run.problem_of(1), "");
    EXPECT_EQ(run.problem_of(4), "");
}

TEST(Steady, EverySaveOfALongRunHoldsItsStep) {
    LargeRun run(WRITER_BUSY_WAIT);
    for (uint64_t step = 1; step <= 12; step++) {
        run.train_to(step);
        ASSERT_EQ(run.save(), SAVE_ACCEPTED);
    }
    run.train_to(13);
    writer_drain(run.writer);
    for (uint64_t step = 1; step <= 12; step++) {
        EXPECT_EQ(run.problem_of(step), "");
    }
}

// What settle takes is training standing still for a save, and is counted as that.
TEST(Steady, WhatSettleTakesIsPartOfTheStall) {
    LargeRun run(WRITER_BUSY_SKIP);
    run.hold_writer_in_first_save(); // its copy was made by the writer
    run.train_to(2);
    ASSERT_EQ(run.save(), SAVE_ACCEPTED);
    struct writer_totals before = writer_get_totals(run.writer);
    double settled_before = writer_settled(run.writer).seconds;
    run.train_to(3); // has 4 MiB copied, or waits until they are
    struct writer_totals after = writer_get_totals(run.writer);
    double settled = writer_settled(run.writer).seconds - settled_before;
    EXPECT_GT(settled, 0.0);
    EXPECT_NEAR(after.stall_seconds_total - before.stall_seconds_total, settled, 1e-9);
    run.files.release();
    writer_drain(run.writer);
    double sum = 0.0, largest = 0.0;
    struct save_result result;
    while (writer_poll(run.writer, &result)) {
        sum += result.stall_seconds;
        largest = std::max(largest, result.stall_seconds);
        EXPECT_TRUE(result.step == 1 || result.stall_seconds >= settled);
    }
    EXPECT_NEAR(sum, after.stall_seconds_total, 1e-9);
    EXPECT_NEAR(largest, after.stall_seconds_max, 1e-9);
    run.train_to(4); // no save since
    EXPECT_NEAR(writer_settled(run.writer).seconds - settled_before, settled, 0.0);
}

// The results of two saves, the second behind a writer that is held in the first, where the trainer
// leaves the others so much time before it settles.
std::vector<struct save_result> save_behind_a_busy_writer(std::chrono::milliseconds time) {
    LargeRun run(WRITER_BUSY_SKIP);
    run.hold_writer_in_first_save();
    run.train_to(2);
    EXPECT_EQ(run.save(), SAVE_ACCEPTED);
    std::this_thread::sleep_for(time);
    run.train_to(3);
    run.files.release();
    writer_drain(run.writer);
    EXPECT_EQ(run.problem_of(1), "");
    EXPECT_EQ(run.problem_of(2), "");
    std::vector<struct save_result> results(2);
    EXPECT_TRUE(writer_poll(run.writer, results.data()));
    EXPECT_TRUE(writer_poll(run.writer, &results[1]));
    return results;
}

// However slow the machine is: at last the copier has had the time to copy all.
TEST(Steady, AreCopiedBesideTheWritingOfAnotherSave) {
    for (int milliseconds = 1; milliseconds < 60000; milliseconds *= 2) {
        std::vector<struct save_result> results =
            save_behind_a_busy_writer(std::chrono::milliseconds(milliseconds));
        EXPECT_EQ(results[0].copier_bytes, 0u) << "the writer was free";
        if (results[1].copier_bytes == FLOATS * sizeof(float)) {
            return;
        }
    }
    FAIL() << "the copier did not copy";
}

// A save that replaces a waiting one, of which the copier may be making the copies, and fails at its
// nth call of the device. When it has, nobody reads the state any more (the thread sanitizer looks).
enum status fail_beside_the_copier(unsigned n) {
    LargeRun run(WRITER_BUSY_LATEST);
    run.hold_writer_in_first_save();
    run.train_to(2);
    EXPECT_EQ(run.save(), SAVE_ACCEPTED);
    enum save_outcome outcome = SAVE_SKIPPED;
    run.device.fail_call(n);
    enum status status = run.try_save(run.sources(), &outcome);
    run.device.fail_call(0);
    if (status != STATUS_OK) {
        run.update(3); // without settle
    }
    run.files.release();
    writer_drain(run.writer);
    EXPECT_EQ(run.problem_of(1), "");
    EXPECT_EQ(run.disk.get("/run/" + ring_name(2)).has_value(), status == STATUS_OK);
    EXPECT_EQ(writer_get_totals(run.writer).failed, status == STATUS_OK ? 0u : 1u);
    return status;
}

TEST(Steady, ASaveThatFailsBesideTheCopierLeavesTheStateAlone) {
    unsigned n = 1;
    while (fail_beside_the_copier(n) != STATUS_OK) {
        n++;
    }
    EXPECT_GT(n, 2u) << "the copy of what is not steady, and the event behind it";
}

// A failure stays until it is polled. By then the writer has forgotten what settling took for it.
TEST(Steady, OfAnOldFailureIsNotKnownWhatSettlingTook) {
    LargeRun run(WRITER_BUSY_WAIT);
    run.files.fail_where(is_checkpoint_write, EIO);
    run.train_to(1);
    ASSERT_EQ(run.save(), SAVE_ACCEPTED);
    run.train_to(2);
    writer_drain(run.writer);
    run.files.heal();
    for (uint64_t step = 3; step < 140; step++) {
        run.train_to(step);
        ASSERT_EQ(run.save_small(), SAVE_ACCEPTED);
        writer_drain(run.writer);
    }
    struct save_result result;
    ASSERT_TRUE(writer_poll(run.writer, &result));
    EXPECT_EQ(result.id, 1u);
    EXPECT_NE(result.status, STATUS_OK);
    EXPECT_EQ(result.settle_seconds, 0.0);
    EXPECT_GT(result.stall_seconds, 0.0);
}

// Of a save long ago: the same place in the writer's list of what settling took.
TEST(Steady, AStallIsNotThatOfAnEarlierSave) {
    LargeRun run(WRITER_BUSY_WAIT);
    struct save_result result;
    std::map<uint64_t, double> settles;
    for (uint64_t step = 1; step <= 300; step++) {
        run.train_to(step);
        bool large = step == 100;
        ASSERT_EQ(large ? run.save() : run.save_small(), SAVE_ACCEPTED);
        if (large) {
            run.add_up(100);
            writer_settle(run.writer);
        }
        writer_drain(run.writer);
        while (writer_poll(run.writer, &result)) {
            settles[result.id] = result.settle_seconds;
        }
    }
    ASSERT_EQ(settles.size(), 300u);
    EXPECT_GT(settles[100], 0.0);
    for (uint64_t id = 101; id <= 300; id++) {
        EXPECT_EQ(settles[id], 0.0) << id; // polled before the next step could settle
    }
}

} // namespace
