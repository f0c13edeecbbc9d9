// The snapshot: what a slot holds is what the state was at the call, on a device that runs at once
// and on one that runs late and copies in pieces.
#include "io/snapshot.h"

#include <gtest/gtest.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <thread>
#include <vector>

#include "tests/support/fake_backend.h"

namespace {

constexpr size_t FLOATS = 6000; // two tensors: [0, 4000) and [4000, 6000)

// A training state on a fake device: the region, one host value, one constant.
class State {
  public:
    explicit State(FakeBackend::Kind kind, size_t host_capacity = 64) : device(kind) {
        struct error err = {};
        EXPECT_EQ(device.get()->table->device_alloc(device.get(), FLOATS * sizeof(float),
                                                    reinterpret_cast<void **>(&region), &err),
                  STATUS_OK);
        EXPECT_EQ(snapshot_pool_create(device.get(), region, FLOATS * sizeof(float), host_capacity,
                                       false, &pool, &err),
                  STATUS_OK)
            << err.message;
    }

    ~State() {
        snapshot_pool_free(pool);
        device.get()->table->device_free(device.get(), region);
    }

    // What an optimiser step does: in stream order, on the device.
    void train_to(float value) {
        float *memory = region;
        device.launch([=] {
            for (size_t i = 0; i < FLOATS; i++) {
                memory[i] = value + static_cast<float>(i);
            }
        });
        step = static_cast<int64_t>(value);
    }

    std::vector<struct snapshot_source> sources() {
        const uint64_t first[] = {40, 100}, second[] = {2000}, text[] = {sizeof words};
        return {
            {tensor_make("first", DTYPE_F32, region, 2, first), SNAPSHOT_DEVICE, false},
            {tensor_make("step", DTYPE_I64, &step, 0, nullptr), SNAPSHOT_HOST, false},
            {tensor_make("vocabulary", DTYPE_U8, words, 1, text), SNAPSHOT_CONSTANT, false},
            {tensor_make("second", DTYPE_F32, region + 4000, 1, second), SNAPSHOT_DEVICE, false}};
    }

    struct snapshot_slot *snapshot() {
        struct snapshot_slot *slot = snapshot_acquire(pool);
        EXPECT_NE(slot, nullptr);
        fill(slot);
        return slot;
    }

    void fill(struct snapshot_slot *slot) {
        struct error err = {};
        std::vector<struct snapshot_source> list = sources();
        EXPECT_EQ(snapshot_fill(slot, list.data(), list.size(), &err), STATUS_OK) << err.message;
    }

    FakeBackend device;
    float *region = nullptr;
    int64_t step = 0;
    char words[12] = "a\nb\n";
    struct snapshot_pool *pool = nullptr;
};

// Number of floats of both device tensors that are not what train_to(value) makes them.
size_t wrong_floats(const struct snapshot_slot *slot, float value) {
    size_t wrong = 0;
    const size_t counts[] = {4000, 0, 0, 2000};
    for (size_t t : {0, 3}) {
        const float *data = static_cast<const float *>(slot->tensors[t].data);
        for (size_t i = 0; i < counts[t]; i++) {
            float expected = value + static_cast<float>(t == 0 ? i : 4000 + i);
            wrong += memcmp(&data[i], &expected, sizeof expected) != 0;
        }
    }
    return wrong;
}

void expect_snapshot(struct snapshot_slot *slot, float value) {
    struct error err = {};
    ASSERT_EQ(snapshot_wait(slot, &err), STATUS_OK) << err.message;
    ASSERT_EQ(slot->tensor_count, 4u);
    EXPECT_EQ(wrong_floats(slot, value), 0u);
    int64_t step;
    memcpy(&step, slot->tensors[1].data, sizeof step);
    EXPECT_EQ(step, static_cast<int64_t>(value));
    EXPECT_STREQ(static_cast<const char *>(slot->tensors[2].data), "a\nb\n");
}

class SnapshotOnBoth : public ::testing::TestWithParam<FakeBackend::Kind> {};
INSTANTIATE_TEST_SUITE_P(Kinds, SnapshotOnBoth,
                         ::testing::Values(FakeBackend::UNIFIED, FakeBackend::ASYNCHRONOUS),
                         [](const auto &kind) {
                             return kind.param == FakeBackend::UNIFIED ? "Unified" : "Asynchronous";
                         });

// ---- on every device ----

TEST_P(SnapshotOnBoth, ValuesAreThoseOfTheCallAlthoughTrainingGoesOn) {
    State state(GetParam());
    state.train_to(100);
    struct snapshot_slot *slot = state.snapshot();
    state.train_to(101);
    state.train_to(102);
    expect_snapshot(slot, 100);
    snapshot_release(slot);
}

TEST_P(SnapshotOnBoth, TwoSlotsHoldTwoSnapshots) {
    State state(GetParam());
    state.train_to(1);
    struct snapshot_slot *one = state.snapshot();
    state.train_to(2);
    struct snapshot_slot *two = state.snapshot();
    state.train_to(3);
    EXPECT_EQ(snapshot_acquire(state.pool), nullptr);
    expect_snapshot(two, 2);
    expect_snapshot(one, 1);

    snapshot_release(one);
    struct snapshot_slot *three = state.snapshot();
    EXPECT_EQ(three, one);
    state.train_to(4);
    expect_snapshot(three, 3);
    expect_snapshot(two, 2);
    snapshot_release(two);
    snapshot_release(three);
}

TEST_P(SnapshotOnBoth, ManyRoundsInBothSlots) {
    State state(GetParam());
    struct snapshot_slot *slots[2] = {};
    for (int round = 0; round < 40; round++) {
        struct snapshot_slot *&slot = slots[round % 2];
        if (slot != nullptr) {
            expect_snapshot(slot, static_cast<float>(round - 2));
            snapshot_release(slot);
        }
        state.train_to(static_cast<float>(round));
        slot = state.snapshot();
    }
    for (struct snapshot_slot *slot : slots) {
        snapshot_release(slot);
    }
}

TEST_P(SnapshotOnBoth, ShapesNamesAndTypesAreThoseOfTheSources) {
    State state(GetParam());
    struct snapshot_slot *slot = state.snapshot();
    std::vector<struct snapshot_source> sources = state.sources();
    ASSERT_EQ(slot->tensor_count, sources.size());
    for (size_t i = 0; i < sources.size(); i++) {
        struct tensor_view copied = slot->tensors[i];
        copied.data = sources[i].view.data;
        EXPECT_STREQ(copied.name, sources[i].view.name);
        EXPECT_EQ(copied.dtype, sources[i].view.dtype);
        EXPECT_EQ(copied.rank, sources[i].view.rank);
        EXPECT_TRUE(
            std::equal(copied.shape, copied.shape + TENSOR_RANK_MAX, sources[i].view.shape));
    }
    snapshot_release(slot);
}

TEST_P(SnapshotOnBoth, ConstantsAreNotCopied) {
    State state(GetParam());
    uint64_t before = state.device.bytes_copied();
    struct snapshot_slot *slot = state.snapshot();
    EXPECT_EQ(slot->tensors[2].data, state.words);
    // The region whole, once more where there is a staging copy; no tensor by itself.
    uint64_t copies = GetParam() == FakeBackend::UNIFIED ? 1 : 2;
    EXPECT_EQ(state.device.bytes_copied() - before, copies * FLOATS * sizeof(float));
    EXPECT_NE(slot->tensors[0].data, state.region);
    EXPECT_NE(slot->tensors[1].data, &state.step);
    snapshot_release(slot);
}

TEST_P(SnapshotOnBoth, HostValuesOfAnySizeAreCopiedAlignedAndGrow) {
    State state(GetParam(), 16);
    std::vector<uint8_t> odd(13, 7), none, large(100000, 9);
    std::vector<double> numbers(3, 0.25);
    const uint64_t odd_shape[] = {13}, empty[] = {0}, three[] = {3}, large_shape[] = {100000};
    std::vector<struct snapshot_source> sources = {
        {tensor_make("odd", DTYPE_U8, odd.data(), 1, odd_shape), SNAPSHOT_HOST, false},
        {tensor_make("none", DTYPE_U8, nullptr, 1, empty), SNAPSHOT_HOST, false},
        {tensor_make("numbers", DTYPE_F64, numbers.data(), 1, three), SNAPSHOT_HOST, false},
        {tensor_make("nothing", DTYPE_F32, nullptr, 1, empty), SNAPSHOT_DEVICE, false},
        {tensor_make("large", DTYPE_U8, large.data(), 1, large_shape), SNAPSHOT_HOST, false}};
    struct error err = {};
    struct snapshot_slot *slot = snapshot_acquire(state.pool);
    ASSERT_EQ(snapshot_fill(slot, sources.data(), sources.size(), &err), STATUS_OK) << err.message;
    std::fill(odd.begin(), odd.end(), uint8_t{0});
    std::fill(numbers.begin(), numbers.end(), 0.0);
    std::fill(large.begin(), large.end(), uint8_t{0});

    const uint8_t *odd_copy = static_cast<const uint8_t *>(slot->tensors[0].data);
    const double *numbers_copy = static_cast<const double *>(slot->tensors[2].data);
    const uint8_t *large_copy = static_cast<const uint8_t *>(slot->tensors[4].data);
    EXPECT_EQ(std::count(odd_copy, odd_copy + 13, 7), 13);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(numbers_copy) % alignof(double), 0u);
    EXPECT_EQ(std::count(numbers_copy, numbers_copy + 3, 0.25), 3);
    EXPECT_EQ(std::count(large_copy, large_copy + 100000, 9), 100000);
    EXPECT_EQ(slot->tensors[1].data, nullptr);
    snapshot_release(slot);
}

// A page that was only reserved costs its fault in the first save.
TEST_P(SnapshotOnBoth, PagesOfHostValuesAreThereBeforeTheFirstFill) {
    const size_t capacity = 4 << 20, page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    State state(GetParam(), capacity);
    struct snapshot_slot *slot = snapshot_acquire(state.pool);
    ASSERT_GE(slot->host_capacity, capacity);
    uintptr_t begin = reinterpret_cast<uintptr_t>(slot->host_copy) / page * page;
    size_t bytes = reinterpret_cast<uintptr_t>(slot->host_copy) + slot->host_capacity - begin;
    std::vector<unsigned char> resident((bytes + page - 1) / page);
    ASSERT_EQ(mincore(reinterpret_cast<void *>(begin), bytes, resident.data()), 0);
    EXPECT_EQ(std::count_if(resident.begin(), resident.end(),
                            [](unsigned char flags) { return (flags & 1) == 0; }),
              0);
    snapshot_release(slot);
}

TEST_P(SnapshotOnBoth, AGrownSlotHasABoundedSpare) {
    State state(GetParam(), 16);
    std::vector<uint8_t> large(8 << 20, 9);
    const uint64_t shape[] = {large.size()};
    const struct snapshot_source source = {tensor_make("large", DTYPE_U8, large.data(), 1, shape),
                                           SNAPSHOT_HOST, false};
    struct error err = {};
    struct snapshot_slot *slot = snapshot_acquire(state.pool);
    ASSERT_EQ(snapshot_fill(slot, &source, 1, &err), STATUS_OK) << err.message;
    EXPECT_GE(slot->host_capacity, large.size() + (1 << 20));
    EXPECT_LE(slot->host_capacity, large.size() + (1 << 20) + 64);
    EXPECT_EQ(memcmp(slot->tensors[0].data, large.data(), large.size()), 0);
    snapshot_release(slot);
}

TEST_P(SnapshotOnBoth, AcquireWaitGetsTheSlotThatIsReleased) {
    State state(GetParam());
    struct snapshot_slot *one = snapshot_acquire(state.pool);
    struct snapshot_slot *two = snapshot_acquire_wait(state.pool);
    ASSERT_NE(two, nullptr);
    std::thread writer([&] { snapshot_release(two); });
    EXPECT_EQ(snapshot_acquire_wait(state.pool), two);
    writer.join();
    snapshot_release(one);
    snapshot_release(two);
}

TEST_P(SnapshotOnBoth, MemoryIsAllocatedAtCreateAndReported) {
    State state(GetParam());
    size_t region = FLOATS * sizeof(float);
    size_t staging = GetParam() == FakeBackend::UNIFIED ? 0 : 2 * region;
    size_t pinned, device;
    snapshot_pool_memory(state.pool, &pinned, &device);
    EXPECT_EQ(pinned, 2 * region);
    EXPECT_EQ(device, staging);
    EXPECT_EQ(state.device.host_bytes(), 2 * region);
    EXPECT_EQ(state.device.device_bytes(), region + staging);

    struct snapshot_slot *slot = state.snapshot();
    EXPECT_EQ(state.device.host_bytes(), 2 * region);
    EXPECT_EQ(state.device.device_bytes(), region + staging);
    snapshot_release(slot);
}

TEST_P(SnapshotOnBoth, WorksWithoutDeviceTensors) {
    FakeBackend device(GetParam());
    struct snapshot_pool *pool;
    struct error err = {};
    ASSERT_EQ(snapshot_pool_create(device.get(), nullptr, 0, 64, false, &pool, &err), STATUS_OK);
    int64_t value = 5;
    struct snapshot_source source = {tensor_make("value", DTYPE_I64, &value, 0, nullptr),
                                     SNAPSHOT_HOST, false};
    struct snapshot_slot *slot = snapshot_acquire(pool);
    ASSERT_EQ(snapshot_fill(slot, &source, 1, &err), STATUS_OK);
    value = 6;
    ASSERT_EQ(snapshot_wait(slot, &err), STATUS_OK);
    EXPECT_EQ(*static_cast<int64_t *>(slot->tensors[0].data), 5);
    snapshot_release(slot);
    snapshot_pool_free(pool);
}

// ---- a pool that gathers: device tensors that lie anywhere ----

// Three tensors of a trainer that allocates each by itself, one of them empty.
class Scattered {
  public:
    explicit Scattered(FakeBackend::Kind kind) : device(kind) {
        struct error err = {};
        for (size_t i = 0; i < 2; i++) {
            EXPECT_EQ(device.get()->table->device_alloc(device.get(), counts[i] * sizeof(float),
                                                        reinterpret_cast<void **>(&parts[i]), &err),
                      STATUS_OK);
        }
        std::vector<struct snapshot_source> list = sources();
        EXPECT_EQ(snapshot_pool_create(device.get(), nullptr,
                                       snapshot_gathered_bytes(list.data(), list.size()), 64, false,
                                       &pool, &err),
                  STATUS_OK)
            << err.message;
    }
    ~Scattered() {
        snapshot_pool_free(pool);
        for (float *part : parts) {
            device.get()->table->device_free(device.get(), part);
        }
    }

    std::vector<struct snapshot_source> sources() {
        const uint64_t large[] = {counts[0]}, small[] = {counts[1]}, none[] = {0};
        return {{tensor_make("large", DTYPE_F32, parts[0], 1, large), SNAPSHOT_DEVICE, false},
                {tensor_make("step", DTYPE_I64, &step, 0, nullptr), SNAPSHOT_HOST, false},
                {tensor_make("none", DTYPE_F32, nullptr, 1, none), SNAPSHOT_DEVICE, false},
                {tensor_make("small", DTYPE_F32, parts[1], 1, small), SNAPSHOT_DEVICE, false}};
    }

    void train_to(float value) {
        device.launch([this, value] {
            for (size_t part = 0; part < 2; part++) {
                std::fill(parts[part], parts[part] + counts[part],
                          value + static_cast<float>(part));
            }
        });
        step = static_cast<int64_t>(value);
    }

    struct snapshot_slot *snapshot() {
        struct snapshot_slot *slot = snapshot_acquire(pool);
        struct error err = {};
        std::vector<struct snapshot_source> list = sources();
        EXPECT_EQ(snapshot_fill(slot, list.data(), list.size(), &err), STATUS_OK) << err.message;
        return slot;
    }

    void expect(struct snapshot_slot *slot, float value) {
        struct error err = {};
        ASSERT_EQ(snapshot_wait(slot, &err), STATUS_OK) << err.message;
        for (size_t part = 0; part < 2; part++) {
            const float *data = static_cast<const float *>(slot->tensors[part == 0 ? 0 : 3].data);
            EXPECT_EQ(std::count(data, data + counts[part], value + static_cast<float>(part)),
                      static_cast<std::ptrdiff_t>(counts[part]));
        }
        EXPECT_EQ(*static_cast<int64_t *>(slot->tensors[1].data), static_cast<int64_t>(value));
        EXPECT_EQ(slot->tensors[2].data, nullptr);
    }

    FakeBackend device;
    const size_t counts[2] = {1001, 3};
    float *parts[2] = {};
    int64_t step = 0;
    struct snapshot_pool *pool = nullptr;
};

TEST_P(SnapshotOnBoth, ScatteredTensorsAreThoseOfTheCallInManyRounds) {
    Scattered state(GetParam());
    struct snapshot_slot *slots[2] = {};
    for (int round = 0; round < 20; round++) {
        struct snapshot_slot *&slot = slots[round % 2];
        if (slot != nullptr) {
            state.expect(slot, static_cast<float>(10 * (round - 2)));
            snapshot_release(slot);
        }
        state.train_to(static_cast<float>(10 * round));
        slot = state.snapshot();
    }
    state.train_to(-1);
    for (struct snapshot_slot *slot : slots) {
        snapshot_release(slot);
    }
}

TEST_P(SnapshotOnBoth, MoreScatteredTensorsThanThePoolHasRoomForAreRefused) {
    Scattered state(GetParam());
    std::vector<struct snapshot_source> list = state.sources();
    const uint64_t count[] = {state.counts[0]};
    list.push_back(
        {tensor_make("more", DTYPE_F32, state.parts[0], 1, count), SNAPSHOT_DEVICE, false});
    struct snapshot_slot *slot = snapshot_acquire(state.pool);
    struct error err = {};
    EXPECT_EQ(snapshot_fill(slot, list.data(), list.size(), &err), STATUS_INTERNAL);
    EXPECT_NE(strstr(err.message, "more"), nullptr) << err.message;
    snapshot_release(slot);
}

// ---- failures ----

TEST_P(SnapshotOnBoth, WhatIsNotInTheRegionIsRefused) {
    State state(GetParam());
    const uint64_t two[] = {2};
    struct snapshot_slot *slot = snapshot_acquire(state.pool);
    for (float *data : {state.region + FLOATS - 1, state.region - 1}) {
        struct snapshot_source source = {tensor_make("stray", DTYPE_F32, data, 1, two),
                                         SNAPSHOT_DEVICE, false};
        struct error err = {};
        EXPECT_EQ(snapshot_fill(slot, &source, 1, &err), STATUS_INTERNAL);
        EXPECT_NE(strstr(err.message, "stray"), nullptr) << err.message;
    }
    const uint64_t more[] = {FLOATS + 1};
    const struct snapshot_source larger = {tensor_make("larger", DTYPE_F32, state.region, 1, more),
                                           SNAPSHOT_DEVICE, false};
    EXPECT_EQ(snapshot_fill(slot, &larger, 1, nullptr), STATUS_INTERNAL);
    std::vector<struct snapshot_source> many(SNAPSHOT_TENSORS_MAX + 1, state.sources()[0]);
    EXPECT_EQ(snapshot_fill(slot, many.data(), many.size(), nullptr), STATUS_INTERNAL);
    snapshot_release(slot);
}

TEST_P(SnapshotOnBoth, ASizeThatNoMemoryHasIsRefused) {
    State state(GetParam());
    const uint64_t overflows[] = {UINT64_MAX, 2}, half[] = {SIZE_MAX / 8};
    struct snapshot_slot *slot = snapshot_acquire(state.pool);
    for (const struct tensor_view &view :
         {tensor_make("huge", DTYPE_F32, state.region, 2, overflows),
          tensor_make("huge", DTYPE_F32, state.region, 1, half)}) {
        for (enum snapshot_kind kind : {SNAPSHOT_DEVICE, SNAPSHOT_HOST, SNAPSHOT_CONSTANT}) {
            const struct snapshot_source source = {view, kind, false};
            struct error err = {};
            EXPECT_EQ(snapshot_fill(slot, &source, 1, &err), STATUS_INTERNAL);
            EXPECT_NE(strstr(err.message, "huge overflows"), nullptr) << err.message;
        }
    }
    // A pool for such a tensor has no room for it; snapshot_fill says so.
    const struct snapshot_source source = {
        tensor_make("huge", DTYPE_F32, state.region, 2, overflows), SNAPSHOT_DEVICE, false};
    EXPECT_EQ(snapshot_gathered_bytes(&source, 1), 0u);
    snapshot_release(slot);
}

TEST_P(SnapshotOnBoth, EveryFailureOfTheDeviceAtCreateLeavesNothingBehind) {
    FakeBackend device(GetParam());
    std::vector<float> region(FLOATS);
    unsigned tried = 0;
    for (;; tried++) {
        struct snapshot_pool *pool;
        struct error err = {};
        device.fail_call(tried + 1);
        enum status status = snapshot_pool_create(device.get(), region.data(),
                                                  FLOATS * sizeof(float), 64, false, &pool, &err);
        device.fail_call(0);
        if (status == STATUS_OK) {
            snapshot_pool_free(pool);
            break;
        }
        EXPECT_EQ(pool, nullptr);
        EXPECT_NE(err.message[0], '\0');
        EXPECT_EQ(device.host_bytes() + device.device_bytes(), 0u);
    }
    // Per slot an event and an image; besides, with staging, its event and its buffer.
    EXPECT_EQ(tried, GetParam() == FakeBackend::UNIFIED ? 4u : 8u);
}

// Fills a slot while the first call of the device fails, the second, and so on until a fill
// succeeds; after each one the slot works. Returns how many fills that took.
template <typename Kind, typename Expect>
unsigned fail_each_call_of_a_fill(Kind &state, const Expect &expect) {
    unsigned tried = 0;
    for (enum status status = STATUS_DEVICE; status != STATUS_OK; tried++) {
        struct snapshot_slot *slot = snapshot_acquire(state.pool);
        if (slot == nullptr) {
            ADD_FAILURE() << "no slot in try " << tried;
            return tried;
        }
        state.train_to(static_cast<float>(tried));
        std::vector<struct snapshot_source> list = state.sources();
        struct error err = {};
        state.device.fail_call(tried + 1);
        status = snapshot_fill(slot, list.data(), list.size(), &err);
        state.device.fail_call(0);
        EXPECT_TRUE(status == STATUS_OK || status == STATUS_DEVICE);
        snapshot_release(slot);

        state.train_to(1000 + static_cast<float>(tried));
        slot = state.snapshot();
        expect(slot, 1000 + static_cast<float>(tried));
        snapshot_release(slot);
    }
    return tried;
}

TEST_P(SnapshotOnBoth, EveryFailureOfTheDeviceInAFillLeavesASlotThatWorks) {
    State state(GetParam());
    unsigned tried = fail_each_call_of_a_fill(
        state, [](struct snapshot_slot *slot, float value) { expect_snapshot(slot, value); });
    // A copy and a record; with staging twice, and a wait before each. The last try succeeds.
    EXPECT_EQ(tried, GetParam() == FakeBackend::UNIFIED ? 3u : 7u);
}

TEST_P(SnapshotOnBoth, EveryFailureOfTheDeviceWithScatteredTensorsLeavesASlotThatWorks) {
    Scattered state(GetParam());
    unsigned tried = fail_each_call_of_a_fill(
        state, [&](struct snapshot_slot *slot, float value) { state.expect(slot, value); });
    // Two copies and a record; with staging a copy of both and another record, and two waits.
    EXPECT_EQ(tried, GetParam() == FakeBackend::UNIFIED ? 4u : 8u);
}

TEST_P(SnapshotOnBoth, AFailedWaitIsReported) {
    State state(GetParam());
    struct snapshot_slot *slot = state.snapshot();
    struct error err = {};
    state.device.fail_call(1);
    EXPECT_EQ(snapshot_wait(slot, &err), STATUS_DEVICE);
    EXPECT_NE(strstr(err.message, "event_wait"), nullptr);
    state.device.fail_call(0);
    snapshot_release(slot);
}

// ---- steady host values beside tensors of the device ----

// One that gathers or copies the region, staged or direct where the device has its own memory.
struct snapshot_pool *pool_of_kind(State *state, bool gathers, bool direct,
                                   const std::vector<struct snapshot_source> &list) {
    const size_t bytes =
        gathers ? snapshot_gathered_bytes(list.data(), list.size()) : FLOATS * sizeof(float);
    struct snapshot_pool *pool = nullptr;
    struct error err = {};
    EXPECT_EQ(snapshot_pool_create(state->device.get(), gathers ? nullptr : state->region, bytes,
                                   64, direct, &pool, &err),
              STATUS_OK)
        << err.message;
    return pool;
}

// Neither host values nor tensors of the device change before settle; one of these is called
// steady, too, which means something where memory is unified.
void expect_steady_host_values(FakeBackend::Kind kind, bool gathers, bool direct) {
    State state(kind);
    std::vector<float> host(1000, 3.0F);
    const uint64_t count[] = {host.size()};
    std::vector<struct snapshot_source> list = state.sources();
    list.push_back({tensor_make("host", DTYPE_F32, host.data(), 1, count), SNAPSHOT_HOST, true});
    list[3].steady = true;
    struct snapshot_pool *pool = pool_of_kind(&state, gathers, direct, list);
    state.train_to(20);
    struct snapshot_slot *slot = snapshot_acquire(pool);
    struct error err = {};
    ASSERT_EQ(snapshot_fill(slot, list.data(), list.size(), &err), STATUS_OK) << err.message;
    const size_t steady_floats = kind == FakeBackend::UNIFIED ? 2000 + host.size() : host.size();
    EXPECT_EQ(slot->put_off_bytes, steady_floats * sizeof(float));
    snapshot_settle(pool);
    std::fill(host.begin(), host.end(), 4.0F);
    state.train_to(-1);
    ASSERT_EQ(snapshot_wait(slot, &err), STATUS_OK) << err.message;
    EXPECT_EQ(wrong_floats(slot, 20), 0u);
    const float *copied = static_cast<const float *>(slot->tensors[4].data);
    EXPECT_EQ(std::vector<float>(copied, copied + host.size()),
              std::vector<float>(host.size(), 3.0F));
    snapshot_release(slot);
    snapshot_pool_free(pool);
}

TEST_P(SnapshotOnBoth, SteadyHostValuesAreThoseOfTheCallInEveryPool) {
    for (bool gathers : {false, true}) {
        for (bool direct : {false, true}) {
            SCOPED_TRACE(std::string(gathers ? "gathers" : "region") +
                         (direct ? ", direct" : ", staged"));
            expect_steady_host_values(GetParam(), gathers, direct);
        }
    }
}

// ---- only an asynchronous device can show these ----

TEST(SnapshotAsynchronous, FillReturnsWhileTheCopyStandsAndTrainingIsNotHeldUp) {
    State state(FakeBackend::ASYNCHRONOUS);
    state.device.hold(BACKEND_STREAM_COPY);
    state.train_to(10);
    struct snapshot_slot *slot = state.snapshot();
    state.train_to(11);
    struct backend *be = state.device.get();
    // The compute stream runs dry although the copy to the host has not begun.
    ASSERT_EQ(be->table->stream_synchronize(be, BACKEND_STREAM_COMPUTE, nullptr), STATUS_OK);
    EXPECT_EQ(state.region[0], 11.0F);

    bool done = true;
    ASSERT_EQ(be->table->event_query(be, slot->copied, &done, nullptr), STATUS_OK);
    EXPECT_FALSE(done);
    EXPECT_EQ(wrong_floats(slot, 10), 6000u) << "the slot was filled without the copy stream";

    state.device.release(BACKEND_STREAM_COPY);
    expect_snapshot(slot, 10);
    snapshot_release(slot);
}

TEST(SnapshotAsynchronous, ASlotReadTooEarlyShowsPoisonUntilItsEvent) {
    State state(FakeBackend::ASYNCHRONOUS);
    state.device.hold(BACKEND_STREAM_COPY);
    state.train_to(10);
    struct snapshot_slot *slot = state.snapshot();
    state.device.run_half_a_copy(BACKEND_STREAM_COPY);
    EXPECT_EQ(wrong_floats(slot, 10), 3000u); // half of the region has arrived
    EXPECT_EQ(static_cast<unsigned char *>(slot->tensors[3].data)[0], FakeBackend::POISON);

    state.device.release(BACKEND_STREAM_COPY);
    expect_snapshot(slot, 10);
    snapshot_release(slot);
}

TEST(SnapshotAsynchronous, TheStagingCopyWaitsForTheStepBeforeIt) {
    State state(FakeBackend::ASYNCHRONOUS);
    state.device.hold(BACKEND_STREAM_COMPUTE);
    state.train_to(20);
    struct snapshot_slot *slot = state.snapshot();
    state.train_to(21);
    std::thread writer([&] { expect_snapshot(slot, 20); });
    state.device.release(BACKEND_STREAM_COMPUTE);
    writer.join();
    snapshot_release(slot);
}

// Without staging copies the compute stream itself brings the state to the host.
TEST(SnapshotAsynchronous, ADirectPoolHasNoStagingCopiesAndUsesTheComputeStreamAlone) {
    State state(FakeBackend::ASYNCHRONOUS);
    snapshot_pool_free(state.pool);
    struct error err = {};
    ASSERT_EQ(snapshot_pool_create(state.device.get(), state.region, FLOATS * sizeof(float), 64,
                                   true, &state.pool, &err),
              STATUS_OK)
        << err.message;
    EXPECT_EQ(state.device.device_bytes(), FLOATS * sizeof(float)); // the state's own
    size_t pinned = 0, staging = 1;
    snapshot_pool_memory(state.pool, &pinned, &staging);
    EXPECT_EQ(pinned, 2 * FLOATS * sizeof(float));
    EXPECT_EQ(staging, 0u);
    state.device.hold(BACKEND_STREAM_COPY);
    state.train_to(10);
    struct snapshot_slot *slot = state.snapshot();
    state.train_to(11);
    expect_snapshot(slot, 10); // although the copy stream stands
    state.device.release(BACKEND_STREAM_COPY);
    snapshot_release(slot);
}

TEST(SnapshotAsynchronous, EachSlotHasItsOwnStagingCopy) {
    State state(FakeBackend::ASYNCHRONOUS);
    struct backend *be = state.device.get();
    state.device.hold(BACKEND_STREAM_COPY);
    state.train_to(30);
    struct snapshot_slot *one = state.snapshot();
    state.train_to(31);
    struct snapshot_slot *two = state.snapshot();
    // Both staging copies are made before the first copy to the host begins.
    ASSERT_EQ(be->table->stream_synchronize(be, BACKEND_STREAM_COMPUTE, nullptr), STATUS_OK);
    state.device.release(BACKEND_STREAM_COPY);
    expect_snapshot(one, 30);
    expect_snapshot(two, 31);
    snapshot_release(one);
    snapshot_release(two);
}

TEST(SnapshotAsynchronous, ASlotMayBeFilledAgainWhileItsOldCopyStillRuns) {
    State state(FakeBackend::ASYNCHRONOUS);
    state.device.hold(BACKEND_STREAM_COPY);
    state.train_to(40);
    struct snapshot_slot *slot = state.snapshot();
    state.device.run_half_a_copy(BACKEND_STREAM_COPY);
    state.train_to(41);
    state.fill(slot); // returns, although the first copy stands at its half
    state.train_to(42);
    state.device.release(BACKEND_STREAM_COPY);
    expect_snapshot(slot, 41);
    snapshot_release(slot);
}

} // namespace
