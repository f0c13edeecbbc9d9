// Queue, random numbers, tensor views and status: the bottom of the house.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <numeric>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "host/base/memory.h"
#include "host/base/parallel.h"
#include "host/base/percentile.h"
#include "host/base/queue.h"
#include "host/base/rng.h"
#include "host/base/status.h"
#include "host/base/tensor.h"

namespace {

// ---- parallel ----

TEST(Parallel, EveryLaneRunsOnceAndAllAtTheSameTime) {
    struct Meeting {
        unsigned lanes;
        std::atomic<unsigned> arrived{0};
        std::atomic<unsigned> runs[PARALLEL_LANES_MAX] = {};
    };
    for (unsigned lanes : {1u, 2u, 7u, 64u}) {
        Meeting meeting = {lanes};
        double seconds = parallel_run(
            lanes,
            [](void *context, unsigned lane) {
                Meeting *all = static_cast<Meeting *>(context);
                all->runs[lane]++;
                all->arrived++;
                while (all->arrived < all->lanes) { // for ever, were one to wait for another's end
                    std::this_thread::yield();
                }
            },
            &meeting);
        for (unsigned lane = 0; lane < PARALLEL_LANES_MAX; lane++) {
            EXPECT_EQ(meeting.runs[lane], lane < lanes ? 1u : 0u);
        }
        EXPECT_EQ(seconds > 0, lanes > 1);
    }
    EXPECT_GE(parallel_processors(), 1u);
}

TEST(Parallel, NoLaneIsOneAndTooManyAreTheMost) {
    for (auto [wanted, expected] : {std::pair<unsigned, int>{0, 1}, {65, 64}, {1000, 64}}) {
        std::atomic<int> runs{0};
        (void)parallel_run(
            wanted, [](void *context, unsigned) { ++*static_cast<std::atomic<int> *>(context); },
            &runs);
        EXPECT_EQ(runs, expected);
    }
    EXPECT_EQ(parallel_lanes_for(0, 8), 1u);
    EXPECT_EQ(parallel_lanes_for(uint64_t{3} << 22, 8), 4u);
    EXPECT_EQ(parallel_lanes_for(UINT64_MAX, 8), 8u);
}

TEST(Parallel, EachTaskRunsOnceAndTheFirstThatFailsInTheirOrderIsReturned) {
    struct Tasks {
        std::set<uint64_t> failing;
        std::atomic<unsigned> runs[200] = {};
    };
    auto work = [](void *context, unsigned, uint64_t index, struct error *err) -> enum status {
        Tasks *tasks = static_cast<Tasks *>(context); tasks->runs[index]++;
        if (tasks->failing.count(index) == 0){return STATUS_OK;}
    // The lower one is slower, so that the order of time is not that of the tasks.
    std::this_thread::sleep_for(
        std::chrono::milliseconds(index == *tasks->failing.begin() ? 5 : 0));
    return error_set(err, STATUS_CORRUPT, "task %d", static_cast<int>(index));
};
for (unsigned lanes : {1u, 2u, 8u}) {
    Tasks good;
    EXPECT_EQ(parallel_tasks(lanes, 200, work, &good, nullptr), STATUS_OK);
    EXPECT_TRUE(std::all_of(std::begin(good.runs), std::end(good.runs),
                            [](const auto &runs) { return runs == 1; }));
    Tasks bad;
    bad.failing = {40, 41, 42, 150};
    struct error err = {};
    EXPECT_EQ(parallel_tasks(lanes, 200, work, &bad, &err), STATUS_CORRUPT);
    EXPECT_STREQ(err.message, "task 40");
    EXPECT_EQ(bad.runs[150], 0u);
}
} // namespace

// ---- memory ----

TEST(Memory, CopiesExactlyItsBytesWhateverTheSizeAndPlace) {
    constexpr size_t STREAM = MEMORY_STREAM_BYTES, MARGIN = 256;
    std::vector<unsigned char> from(STREAM + 2 * MARGIN), to(from.size()), expected;
    for (size_t i = 0; i < from.size(); i++) {
        from[i] = static_cast<unsigned char>(i * 2654435761u >> 24);
    }
    for (size_t bytes : {size_t{0}, size_t{1}, size_t{4097}, STREAM - 1, STREAM, STREAM + 63}) {
        for (size_t begin : {0u, 1u, 15u, 63u, 64u}) {
            size_t source = (begin * 7) % 64;
            std::fill(to.begin(), to.end(), static_cast<unsigned char>(0xAA));
            expected = to;
            std::copy_n(from.begin() + static_cast<std::ptrdiff_t>(source), bytes,
                        expected.begin() + static_cast<std::ptrdiff_t>(begin));
            memory_copy(to.data() + begin, from.data() + source, bytes);
            EXPECT_TRUE(to == expected) << bytes << " bytes to " << begin;
        }
    }
    memory_copy(nullptr, nullptr, 0);
}

// ---- queue ----

struct Queue {
    explicit Queue(size_t capacity) {
        EXPECT_EQ(queue_create(capacity, &queue, nullptr), STATUS_OK);
    }
    ~Queue() { queue_free(queue); }
    struct queue *queue = nullptr;
};

int *pointer_to(std::vector<int> &values, size_t i) {
    return &values[i];
}

TEST(Queue, KeepsOrderAndCounts) {
    Queue q(3);
    std::vector<int> v = {10, 11, 12};
    for (size_t i = 0; i < 3; i++) {
        EXPECT_TRUE(queue_push(q.queue, pointer_to(v, i)));
        EXPECT_EQ(queue_count(q.queue), i + 1);
    }
    for (size_t i = 0; i < 3; i++) {
        EXPECT_EQ(queue_pop(q.queue), &v[i]);
    }
    EXPECT_EQ(queue_count(q.queue), 0u);
}

TEST(Queue, TryPopNeverBlocksAndNewestTakesTheOtherEnd) {
    Queue q(4);
    EXPECT_EQ(queue_try_pop(q.queue), nullptr);
    EXPECT_EQ(queue_try_pop_newest(q.queue), nullptr);
    std::vector<int> v = {0, 1, 2, 3, 4};
    // Move the ring's head off zero first, so that the newest entry wraps around.
    ASSERT_TRUE(queue_push(q.queue, &v[4]));
    ASSERT_EQ(queue_try_pop(q.queue), &v[4]);
    for (size_t i = 0; i < 4; i++) {
        ASSERT_TRUE(queue_push(q.queue, &v[i]));
    }
    EXPECT_EQ(queue_try_pop_newest(q.queue), &v[3]);
    EXPECT_EQ(queue_try_pop(q.queue), &v[0]);
    EXPECT_EQ(queue_try_pop_newest(q.queue), &v[2]);
    EXPECT_EQ(queue_try_pop_newest(q.queue), &v[1]);
    EXPECT_EQ(queue_try_pop_newest(q.queue), nullptr);
}

TEST(Queue, CloseRefusesPushesButHandsOutTheRest) {
    Queue q(2);
    int a = 0;
    int b = 0;
    ASSERT_TRUE(queue_push(q.queue, &a));
    queue_close(q.queue);
    EXPECT_FALSE(queue_push(q.queue, &b));
    EXPECT_EQ(queue_pop(q.queue), &a);
    EXPECT_EQ(queue_pop(q.queue), nullptr);
    EXPECT_EQ(queue_pop(q.queue), nullptr);
}

TEST(Queue, CloseWakesEveryWaiter) {
    Queue empty(1);
    Queue full(1);
    int a = 0;
    ASSERT_TRUE(queue_push(full.queue, &a));
    std::atomic<int> refused{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; i++) {
        threads.emplace_back([&] { refused += queue_pop(empty.queue) == nullptr; });
        threads.emplace_back([&] { refused += !queue_push(full.queue, &a); });
    }
    queue_close(empty.queue);
    queue_close(full.queue);
    for (auto &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(refused, 6);
}

TEST(Queue, EveryItemArrivesOnceWithManyThreads) {
    const int producers = 3, consumers = 3, each = 5000;
    Queue q(4);
    std::vector<int> items(producers * each);
    std::iota(items.begin(), items.end(), 0);
    std::vector<std::vector<int>> got(consumers);
    std::vector<std::thread> make, take;
    for (int c = 0; c < consumers; c++) {
        take.emplace_back([&, c] {
            while (void *item = queue_pop(q.queue)) {
                got[(size_t)c].push_back(*static_cast<int *>(item));
            }
        });
    }
    for (int p = 0; p < producers; p++) {
        make.emplace_back([&, p] {
            for (int i = 0; i < each; i++) {
                EXPECT_TRUE(queue_push(q.queue, &items[(size_t)(p * each + i)]));
            }
        });
    }
    for (auto &thread : make) {
        thread.join();
    }
    queue_close(q.queue);
    for (auto &thread : take) {
        thread.join();
    }
    std::vector<int> all;
    for (const auto &list : got) {
        // First in, first out: each consumer sees each producer's items in order.
        std::vector<int> last(producers, -1);
        for (int item : list) {
            EXPECT_GT(item, last[(size_t)(item / each)]);
            last[(size_t)(item / each)] = item;
        }
        all.insert(all.end(), list.begin(), list.end());
    }
    std::sort(all.begin(), all.end());
    EXPECT_EQ(all, items);
}

// ---- rng ----

// The known-answer vectors that Random123 publishes for philox4x32 with 10 rounds (kat_vectors):
// counter words and key words in, four words out.
struct KnownAnswer {
    uint32_t counter[4], key[2], expected[4];
};

TEST(Rng, IsPhiloxByItsKnownAnswers) {
    const KnownAnswer answers[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (const auto &answer : answers) {
        struct rng rng =
            rng_make((uint64_t)answer.key[1] << 32 | answer.key[0], RNG_STREAM_INIT, 0);
        rng.block = (uint64_t)answer.counter[1] << 32 | answer.counter[0];
        rng.stream = answer.counter[2];
        rng.instance = answer.counter[3];
        for (uint32_t word : answer.expected) {
            EXPECT_EQ(rng_next_u32(&rng), word);
        }
    }
}

TEST(Rng, SeedStreamInstanceAndBlockAllMatter) {
    std::set<uint64_t> first;
    for (uint64_t seed : {0ull, 1ull, 1ull << 40}) {
        for (auto stream : {RNG_STREAM_INIT, RNG_STREAM_SHUFFLE, RNG_STREAM_DEMO}) {
            for (uint32_t instance = 0; instance < 5; instance++) {
                struct rng rng = rng_make(seed, stream, instance);
                for (int i = 0; i < 8; i++) {
                    first.insert(rng_next_u64(&rng));
                }
            }
        }
    }
    EXPECT_EQ(first.size(), 3u * 3u * 5u * 8u);
}

TEST(Rng, SixtyFourBitsAreTwoWordsLowFirst) {
    struct rng a = rng_make(7, RNG_STREAM_INIT, 3);
    struct rng b = a;
    for (int i = 0; i < 5; i++) {
        uint64_t low = rng_next_u32(&a);
        uint64_t high = rng_next_u32(&a);
        EXPECT_EQ(rng_next_u64(&b), high << 32 | low);
    }
}

TEST(Rng, BelowIsLemiresProductAndInRange) {
    struct rng rng = rng_make(5, RNG_STREAM_SHUFFLE, 0);
    for (uint64_t bound : {1ull, 2ull, 3ull, 1000ull, (1ull << 40) + 7, ~0ull}) {
        for (int i = 0; i < 200; i++) {
            struct rng raw = rng;
            uint64_t value = rng_below(&rng, bound);
            EXPECT_LT(value, bound);
            if (rng.block == raw.block && rng.used == raw.used + 2) { // not rejected, same block
                uint64_t bits = rng_next_u64(&raw);
                EXPECT_EQ(value, (uint64_t)((unsigned __int128)bits * bound >> 64));
            }
        }
    }
}

TEST(Rng, BelowRejectsWhatWouldBeBias) {
    // With a bound of 3/4 of 2^64 a quarter of all draws is rejected. Without rejection every third
    // value would come twice as often, which the share of multiples of three shows: 1/2, not 1/3.
    struct rng rng = rng_make(11, RNG_STREAM_SHUFFLE, 0);
    const uint64_t bound = 3ull << 62;
    const int n = 30000;
    int multiples = 0;
    for (int i = 0; i < n; i++) {
        multiples += rng_below(&rng, bound) % 3 == 0;
    }
    EXPECT_NEAR((double)multiples / n, 1.0 / 3, 5 * std::sqrt(2.0 / 9 / n));
}

TEST(Rng, BelowIsUniform) {
    struct rng rng = rng_make(2, RNG_STREAM_SHUFFLE, 0);
    const int n = 70000, cells = 7;
    std::vector<int> count(cells);
    for (int i = 0; i < n; i++) {
        count[rng_below(&rng, cells)]++;
    }
    double chi2 = 0;
    for (int c : count) {
        chi2 += std::pow(c - (double)n / cells, 2) / ((double)n / cells);
    }
    EXPECT_LT(chi2, 22.5); // 0.999 quantile of chi-squared with 6 degrees of freedom
}

TEST(Rng, UniformAndNormalHaveTheirMoments) {
    struct rng rng = rng_make(3, RNG_STREAM_INIT, 1);
    const int n = 200000;
    double sum = 0, lowest = 1, highest = 0;
    double moment[5] = {};
    for (int i = 0; i < n; i++) {
        double u = rng_uniform(&rng);
        sum += u;
        lowest = std::min(lowest, u);
        highest = std::max(highest, u);
        double z = rng_normal(&rng);
        for (int k = 1; k <= 4; k++) {
            moment[k] += std::pow(z, k) / n;
        }
    }
    EXPECT_GE(lowest, 0.0);
    EXPECT_LT(lowest, 1e-3);
    EXPECT_LT(highest, 1.0);
    EXPECT_GT(highest, 1 - 1e-3);
    // Five standard errors each: 1/sqrt(12n); 1, sqrt 2, sqrt 15 and sqrt 96 over sqrt n.
    EXPECT_NEAR(sum / n, 0.5, 5 / std::sqrt(12.0 * n));
    EXPECT_NEAR(moment[1], 0, 5 / std::sqrt(n));
    EXPECT_NEAR(moment[2], 1, 5 * std::sqrt(2.0 / n));
    EXPECT_NEAR(moment[3], 0, 5 * std::sqrt(15.0 / n));
    EXPECT_NEAR(moment[4], 3, 5 * std::sqrt(96.0 / n));
}

TEST(Rng, PermutationIsAPermutationAndEveryPlaceIsReached) {
    struct rng rng = rng_make(1, RNG_STREAM_SHUFFLE, 9);
    const size_t size = 6;
    const int n = 60000;
    std::vector<std::vector<int>> count(size, std::vector<int>(size));
    for (int i = 0; i < n; i++) {
        uint32_t order[size];
        std::iota(order, order + size, 0u);
        rng_permute(&rng, order, size);
        EXPECT_EQ(std::set<uint32_t>(order, order + size).size(), size);
        for (size_t place = 0; place < size; place++) {
            count[order[place]][place]++;
        }
    }
    const double expected = (double)n / size;
    for (const auto &row : count) {
        for (int c : row) {
            EXPECT_NEAR(c, expected, 5 * std::sqrt(expected)); // n/6 of each, within five sigma
        }
    }
    rng_permute(&rng, nullptr, 0);
}

// ---- tensor ----

TEST(Tensor, NamesAndSizesOfTypes) {
    const struct {
        enum dtype dtype;
        const char *name;
        size_t bytes;
    } rows[] = {{DTYPE_F32, "F32", 4}, {DTYPE_F64, "F64", 8}, {DTYPE_I64, "I64", 8},
                {DTYPE_U8, "U8", 1},   {DTYPE_F16, "F16", 2}, {DTYPE_BF16, "BF16", 2},
                {DTYPE_I32, "I32", 4}};
    for (const auto &row : rows) {
        enum dtype found = DTYPE_COUNT;
        EXPECT_STREQ(dtype_name(row.dtype), row.name);
        EXPECT_EQ(dtype_bytes(row.dtype), row.bytes);
        EXPECT_TRUE(dtype_from_name(row.name, &found));
        EXPECT_EQ(found, row.dtype);
    }
    enum dtype untouched = DTYPE_U8;
    EXPECT_FALSE(dtype_from_name("I16", &untouched));
    EXPECT_FALSE(dtype_from_name("f32", &untouched));
    EXPECT_EQ(untouched, DTYPE_U8);
}

TEST(Tensor, CountsElementsAndNoticesOverflow) {
    const uint64_t shape[] = {1000, 64};
    struct tensor_view t = tensor_make("w", DTYPE_F32, nullptr, 2, shape);
    uint64_t n = 0;
    ASSERT_TRUE(tensor_elements(&t, &n));
    EXPECT_EQ(n, 64000u);
    ASSERT_TRUE(tensor_bytes(&t, &n));
    EXPECT_EQ(n, 256000u);
    char text[96];
    EXPECT_STREQ(tensor_shape_text(&t, text, sizeof text), "[1000, 64]");

    struct tensor_view scalar = tensor_make("s", DTYPE_F64, nullptr, 0, nullptr);
    ASSERT_TRUE(tensor_bytes(&scalar, &n));
    EXPECT_EQ(n, 8u);
    EXPECT_STREQ(tensor_shape_text(&scalar, text, sizeof text), "[]");

    const uint64_t huge[] = {1ull << 32, 1ull << 31, 1, 1};
    struct tensor_view big = tensor_make("b", DTYPE_F32, nullptr, 4, huge);
    EXPECT_TRUE(tensor_elements(&big, &n));
    EXPECT_FALSE(tensor_bytes(&big, &n));
    big.shape[2] = 2;
    EXPECT_FALSE(tensor_elements(&big, &n));
    const uint64_t most[] = {UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX};
    struct tensor_view wide = tensor_make("m", DTYPE_U8, nullptr, 4, most);
    EXPECT_STREQ(tensor_shape_text(&wide, text, sizeof text),
                 "[18446744073709551615, 18446744073709551615, 18446744073709551615, "
                 "18446744073709551615]");
}

TEST(Tensor, FindsByName) {
    const uint64_t shape[] = {3};
    struct tensor_view list[] = {tensor_make("a", DTYPE_F32, nullptr, 1, shape),
                                 tensor_make("a.b", DTYPE_U8, nullptr, 1, shape)};
    EXPECT_EQ(tensor_find(list, 2, "a.b"), &list[1]);
    EXPECT_EQ(tensor_find(list, 2, "a"), &list[0]);
    EXPECT_EQ(tensor_find(list, 1, "a.b"), nullptr);
    EXPECT_EQ(tensor_find(nullptr, 0, "a"), nullptr);
}

// ---- status ----

TEST(Status, ExitCodesAreTheContracts) {
    const struct {
        enum status status;
        int code;
    } rows[] = {{STATUS_OK, 0},      {STATUS_INTERNAL, 1}, {STATUS_MEMORY, 1},
                {STATUS_USAGE, 2},   {STATUS_DATA, 65},    {STATUS_CORRUPT, 65},
                {STATUS_INPUT, 66},  {STATUS_DEVICE, 69},  {STATUS_NONFINITE, 70},
                {STATUS_OUTPUT, 73}, {STATUS_IO, 74},      {STATUS_STOPPED, 75},
                {STATUS_MISFIT, 76}, {STATUS_CONFIG, 78}};
    EXPECT_EQ(sizeof rows / sizeof rows[0], (size_t)STATUS_COUNT);
    for (const auto &row : rows) {
        EXPECT_EQ(status_exit_code(row.status), row.code);
        EXPECT_GT(std::strlen(status_text(row.status)), 1u);
    }
    EXPECT_EQ(status_exit_code(STATUS_COUNT), 1);
    EXPECT_STREQ(status_text(STATUS_COUNT), "unknown status");
}

TEST(Status, ErrorKeepsStatusAndMessage) {
    struct error err = {};
    EXPECT_EQ(error_set(&err, STATUS_DATA, "line %d", 7), STATUS_DATA);
    EXPECT_EQ(err.status, STATUS_DATA);
    EXPECT_STREQ(err.message, "line 7");
    EXPECT_EQ(error_prefix(&err, STATUS_DATA, "%s", "file.csv"), STATUS_DATA);
    EXPECT_STREQ(err.message, "file.csv: line 7");
    EXPECT_EQ(error_set(nullptr, STATUS_IO, "nobody reads this"), STATUS_IO);
    EXPECT_EQ(error_prefix(nullptr, STATUS_IO, "nor this"), STATUS_IO);
}

TEST(Status, LongMessagesAreCutNotOverrun) {
    struct error err = {};
    std::string longer(3000, 'm');
    error_set(&err, STATUS_IO, "%s", longer.c_str());
    EXPECT_EQ(std::strlen(err.message), sizeof err.message - 1);
    error_prefix(&err, STATUS_IO, "%s", "front");
    EXPECT_EQ(std::string(err.message).substr(0, 8), "front: m");
    EXPECT_EQ(std::strlen(err.message), sizeof err.message - 1);
    error_prefix(&err, STATUS_IO, "%s", longer.c_str());
    EXPECT_EQ(std::strlen(err.message), sizeof err.message - 1);
}

enum status checked(bool ok, struct error *err) {
    CHECK(ok, err, STATUS_USAGE, "--flag needs %s", "a value");
    return STATUS_OK;
}

enum status forwarded(bool ok, struct error *err) {
    TRY(checked(ok, err));
    return STATUS_INTERNAL;
}

TEST(Status, CheckAndTryLeaveTheFunction) {
    struct error err = {};
    EXPECT_EQ(checked(true, &err), STATUS_OK);
    EXPECT_EQ(forwarded(true, &err), STATUS_INTERNAL);
    EXPECT_EQ(forwarded(false, &err), STATUS_USAGE);
    EXPECT_STREQ(err.message, "--flag needs a value");
}

// ---- percentile ----

// The definition: at least so many per cent are not larger, and of the next smaller value fewer.
TEST(Percentile, IsTheSmallestThatSoManyDoNotExceed) {
    std::vector<double> values = {5, 1, 4, 4, 9, -2, 7};
    percentile_sort(values.data(), values.size());
    ASSERT_TRUE(std::is_sorted(values.begin(), values.end()));
    auto not_above = [&](double limit) {
        return std::count_if(values.begin(), values.end(), [&](double v) { return v <= limit; });
    };
    const double count = static_cast<double>(values.size());
    for (unsigned percent = 1; percent <= 100; percent++) {
        double value = percentile_of(values.data(), values.size(), percent);
        double wanted = count * percent / 100;
        EXPECT_GE(static_cast<double>(not_above(value)), wanted) << percent;
        auto smaller = std::lower_bound(values.begin(), values.end(), value);
        if (smaller != values.begin()) {
            EXPECT_LT(static_cast<double>(not_above(*(smaller - 1))), wanted) << percent;
        }
    }
    EXPECT_EQ(percentile_of(values.data(), 1, 50), -2);
    EXPECT_TRUE(std::isnan(percentile_of(nullptr, 0, 50)));
    percentile_sort(nullptr, 0);
}

} // namespace
