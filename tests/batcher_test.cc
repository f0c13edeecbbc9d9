// The order of batches against plain models of it, and the thread that prepares them.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "host/base/rng.h"
#include "host/batcher.h"

namespace {

// A corpus by hand: example i has lengths[i] tokens, all of them with the value i % 1000.
class Corpus {
  public:
    explicit Corpus(const std::vector<uint32_t> &lengths) : first_{0} {
        for (size_t i = 0; i < lengths.size(); i++) {
            tokens_.insert(tokens_.end(), lengths[i], static_cast<uint16_t>(i % 1000));
            first_.push_back(tokens_.size());
            labels_.push_back(static_cast<uint8_t>((i * 7 + 1) % 2));
        }
        corpus.tokens = tokens_.data();
        corpus.token_bytes = 2;
        corpus.token_count = tokens_.size();
        corpus.first = first_.data();
        corpus.labels = labels_.data();
        corpus.examples = lengths.size();
        corpus.longest = *std::max_element(lengths.begin(), lengths.end());
    }
    uint32_t length(uint32_t example) const {
        return static_cast<uint32_t>(first_[example + 1] - first_[example]);
    }
    struct corpus corpus = {};

  private:
    std::vector<uint16_t> tokens_;
    std::vector<uint64_t> first_;
    std::vector<uint8_t> labels_;
};

std::vector<uint32_t> random_lengths(size_t count, uint32_t longest, unsigned seed) {
    std::mt19937 random(seed);
    std::vector<uint32_t> lengths(count);
    for (uint32_t &length : lengths) {
        length = static_cast<uint32_t>(random() % (longest + 1));
    }
    return lengths;
}

struct Order {
    std::vector<uint32_t> examples;
    std::vector<uint64_t> starts;
    std::vector<uint32_t> batch(size_t k) const {
        return {examples.begin() + static_cast<long>(starts[k]),
                examples.begin() + static_cast<long>(starts[k + 1])};
    }
    size_t steps() const { return starts.size() - 1; }
    bool operator==(const Order &other) const {
        return examples == other.examples && starts == other.starts;
    }
};

struct batcher_options options(enum shuffle_mode shuffle, uint64_t window, uint64_t batch,
                               uint64_t buffer = 10, uint64_t seed = 1) {
    return {shuffle, buffer, window, batch, seed};
}

Order order_of(const struct batcher_options &options, const Corpus &corpus, uint64_t epoch) {
    Order order;
    const uint64_t n = corpus.corpus.examples;
    order.examples.assign(n, UINT32_MAX);
    order.starts.assign((n + options.batch_size - 1) / options.batch_size + 1, UINT64_MAX);
    EXPECT_EQ(batcher_order(&options, &corpus.corpus, epoch, order.examples.data(),
                            order.starts.data(), nullptr),
              STATUS_OK);
    return order;
}

const std::vector<struct batcher_options> kAllOptions = {
    options(SHUFFLE_FULL, 16, 4),     options(SHUFFLE_FULL, 0, 4),
    options(SHUFFLE_FULL, 17, 5),     options(SHUFFLE_FULL, 1, 7),
    options(SHUFFLE_FULL, 100000, 8), options(SHUFFLE_FULL, 16, 100000),
    options(SHUFFLE_FULL, 16, 1),     options(SHUFFLE_BUFFER, 16, 4, 10),
    options(SHUFFLE_BUFFER, 0, 4, 1), options(SHUFFLE_BUFFER, 0, 3, 1000000),
    options(SHUFFLE_NONE, 16, 4),     options(SHUFFLE_NONE, 0, 4),
};

std::string describe(const struct batcher_options &o) {
    return "shuffle " + std::to_string(o.shuffle) + " window " + std::to_string(o.bucket_window) +
           " batch " + std::to_string(o.batch_size) + " buffer " + std::to_string(o.shuffle_buffer);
}

TEST(BatcherOrder, EveryExampleOncePerEpochInBatchesOfDescendingLength) {
    for (size_t n : {1u, 2u, 7u, 64u, 203u}) {
        const Corpus corpus(random_lengths(n, 30, static_cast<unsigned>(n)));
        for (const struct batcher_options &o : kAllOptions) {
            SCOPED_TRACE(describe(o) + " examples " + std::to_string(n));
            const Order order = order_of(o, corpus, 3);
            std::vector<uint32_t> sorted = order.examples, all(n);
            std::sort(sorted.begin(), sorted.end());
            std::iota(all.begin(), all.end(), 0u);
            EXPECT_EQ(sorted, all);
            EXPECT_EQ(order.starts.front(), 0u);
            EXPECT_EQ(order.starts.back(), n);
            size_t shorter = 0;
            for (size_t k = 0; k < order.steps(); k++) {
                const std::vector<uint32_t> batch = order.batch(k);
                ASSERT_FALSE(batch.empty());
                ASSERT_LE(batch.size(), o.batch_size);
                shorter += batch.size() < o.batch_size;
                EXPECT_TRUE(std::is_sorted(batch.begin(), batch.end(), [&](uint32_t a, uint32_t b) {
                    return corpus.length(a) > corpus.length(b);
                }));
            }
            EXPECT_LE(shorter, 1u);
            EXPECT_EQ(shorter, n % o.batch_size == 0 ? 0u : 1u);
        }
    }
}

TEST(BatcherOrder, IsAPureFunctionOfSeedAndEpoch) {
    const Corpus corpus(random_lengths(300, 40, 5));
    for (const struct batcher_options &o : kAllOptions) {
        SCOPED_TRACE(describe(o));
        const Order second = order_of(o, corpus, 2);
        order_of(o, corpus, 9); // what was asked for in between does not matter
        EXPECT_TRUE(second == order_of(o, corpus, 2));
        const bool shuffles =
            o.shuffle == SHUFFLE_FULL || (o.shuffle == SHUFFLE_BUFFER && o.shuffle_buffer > 1);
        struct batcher_options other_seed = o;
        other_seed.seed++;
        if (shuffles && o.batch_size < 300) {
            EXPECT_FALSE(second == order_of(o, corpus, 3));
            EXPECT_FALSE(second == order_of(other_seed, corpus, 2));
        } else if (o.shuffle == SHUFFLE_NONE) {
            EXPECT_TRUE(second == order_of(o, corpus, 3));
            EXPECT_TRUE(second == order_of(other_seed, corpus, 2));
        }
    }
}

TEST(BatcherOrder, NoShuffleNoWindowIsBaseOrder) {
    const Corpus corpus(random_lengths(50, 20, 1));
    const Order order = order_of(options(SHUFFLE_NONE, 0, 8), corpus, 4);
    for (size_t k = 0; k < order.steps(); k++) {
        std::vector<uint32_t> batch = order.batch(k);
        std::sort(batch.begin(), batch.end());
        std::vector<uint32_t> expected(batch.size());
        std::iota(expected.begin(), expected.end(), static_cast<uint32_t>(k * 8));
        EXPECT_EQ(batch, expected);
    }
}

// tf.data's shuffle in the plainest form: a list from which random entries leave.
std::vector<uint32_t> buffer_model(uint64_t seed, uint32_t epoch, size_t n, size_t size) {
    struct rng rng = rng_make(seed, RNG_STREAM_SHUFFLE, epoch);
    std::vector<uint32_t> buffer, out;
    size_t next = 0;
    while (out.size() < n) {
        while (buffer.size() < size && next < n) {
            buffer.push_back(static_cast<uint32_t>(next++));
        }
        const size_t chosen = rng_below(&rng, buffer.size());
        out.push_back(buffer[chosen]);
        if (next < n) {
            buffer[chosen] = static_cast<uint32_t>(next++);
        } else {
            buffer[chosen] = buffer.back();
            buffer.pop_back();
        }
    }
    return out;
}

TEST(BatcherOrder, BufferShuffleEqualsTheModel) {
    const Corpus corpus(random_lengths(150, 0, 1)); // all lengths 0: sorting changes nothing
    for (uint64_t size : {1u, 2u, 10u, 149u, 150u, 5000u}) {
        const Order order = order_of(options(SHUFFLE_BUFFER, 0, 16, size, 42), corpus, 6);
        EXPECT_EQ(order.examples, buffer_model(42, 6, 150, size)) << "buffer of " << size;
        // No example leaves before it could have come in.
        for (size_t i = 0; i < order.examples.size(); i++) {
            EXPECT_LT(order.examples[i], i + size);
        }
    }
}

// With every length different, the windows can be read off the base order.
TEST(BatcherOrder, WindowsAreSortedAndRoundedUpToBatches) {
    std::vector<uint32_t> lengths(100);
    std::iota(lengths.begin(), lengths.end(), 1u);
    std::shuffle(lengths.begin(), lengths.end(), std::mt19937(3));
    const Corpus corpus(lengths);
    const Order order = order_of(options(SHUFFLE_NONE, 10, 4), corpus, 0); // windows of 12
    for (size_t begin = 0; begin < 100; begin += 12) {
        const size_t end = std::min<size_t>(begin + 12, 100);
        std::vector<uint32_t> expected(end - begin);
        std::iota(expected.begin(), expected.end(), static_cast<uint32_t>(begin));
        std::stable_sort(expected.begin(), expected.end(),
                         [&](uint32_t a, uint32_t b) { return lengths[a] > lengths[b]; });
        EXPECT_EQ(std::vector<uint32_t>(order.examples.begin() + static_cast<long>(begin),
                                        order.examples.begin() + static_cast<long>(end)),
                  expected);
    }
}

TEST(BatcherOrder, ShuffledWindowsHoldTheBatchesOfThePlainOnes) {
    const Corpus corpus(random_lengths(130, 50, 8));
    const struct batcher_options o = options(SHUFFLE_FULL, 32, 8, 10, 11);
    // The model: permute, sort windows, cut; the same set of batches must come out, in another
    // order.
    std::vector<uint32_t> plain(130);
    std::iota(plain.begin(), plain.end(), 0u);
    struct rng rng = rng_make(11, RNG_STREAM_SHUFFLE, 2);
    rng_permute(&rng, plain.data(), plain.size());
    std::multiset<std::vector<uint32_t>> expected, found;
    std::vector<std::vector<uint32_t>> in_order;
    for (size_t begin = 0; begin < 130; begin += 32) {
        const size_t end = std::min<size_t>(begin + 32, 130);
        std::stable_sort(
            plain.begin() + static_cast<long>(begin), plain.begin() + static_cast<long>(end),
            [&](uint32_t a, uint32_t b) { return corpus.length(a) > corpus.length(b); });
        for (size_t at = begin; at < end; at += 8) {
            in_order.emplace_back(plain.begin() + static_cast<long>(at),
                                  plain.begin() + static_cast<long>(std::min(at + 8, end)));
            expected.insert(in_order.back());
        }
    }
    const Order order = order_of(o, corpus, 2);
    std::vector<std::vector<uint32_t>> batches;
    for (size_t k = 0; k < order.steps(); k++) {
        batches.push_back(order.batch(k));
        found.insert(batches.back());
    }
    EXPECT_EQ(found, expected);
    EXPECT_NE(batches, in_order); // 17! orders
}

TEST(BatcherOrder, SortByLength) {
    const Corpus corpus({3, 9, 0, 9, 3, 5});
    std::vector<uint32_t> order = {5, 4, 3, 2, 1, 0};
    batcher_sort_by_length(&corpus.corpus, order.data(), order.size());
    EXPECT_EQ(order, (std::vector<uint32_t>{1, 3, 5, 0, 4, 2}));
    batcher_sort_by_length(&corpus.corpus, order.data(), 0);
}

TEST(BatcherOrder, RefusesWhatCannotBe) {
    Corpus corpus({1, 2});
    uint32_t order[2];
    uint64_t starts[3];
    const struct batcher_options no_batch = options(SHUFFLE_NONE, 0, 0);
    EXPECT_EQ(batcher_order(&no_batch, &corpus.corpus, 0, order, starts, nullptr), STATUS_USAGE);
    corpus.corpus.examples = 0;
    const struct batcher_options fine = options(SHUFFLE_NONE, 0, 1);
    EXPECT_EQ(batcher_order(&fine, &corpus.corpus, 0, order, starts, nullptr), STATUS_DATA);
}

// ---- the batcher ----

class Batcher {
  public:
    Batcher(const struct batcher_options &options, const Corpus &corpus) : corpus_(corpus) {
        EXPECT_EQ(batcher_create(&options, &corpus.corpus, &batcher, nullptr), STATUS_OK);
    }
    ~Batcher() { batcher_free(batcher); }
    void start(uint64_t epoch, uint64_t position) {
        EXPECT_EQ(batcher_start(batcher, epoch, position, nullptr), STATUS_OK);
    }
    // The next batch's examples after checking its other fields against the corpus; empty at the
    // end.
    std::vector<uint32_t> next(uint64_t index) {
        struct batch *batch = batcher_next(batcher);
        if (batch == nullptr) {
            return {};
        }
        const struct batch_view &view = batch->view;
        EXPECT_EQ(batch->index, index);
        EXPECT_EQ(view.tokens, corpus_.corpus.tokens);
        EXPECT_EQ(view.token_bytes, 2u);
        uint64_t total = 0;
        for (uint32_t i = 0; i < view.sequences; i++) {
            const uint32_t example = batch->examples[i];
            EXPECT_EQ(view.first[i], corpus_.corpus.first[example]);
            EXPECT_EQ(view.length[i], corpus_.length(example));
            EXPECT_EQ(view.label[i], corpus_.corpus.labels[example]);
            total += view.length[i];
        }
        EXPECT_EQ(view.total_tokens, total);
        std::vector<uint32_t> examples(batch->examples, batch->examples + view.sequences);
        batcher_recycle(batcher, batch);
        return examples;
    }
    void expect_rest(const Order &order, uint64_t position) {
        for (uint64_t k = position; k < order.steps(); k++) {
            ASSERT_EQ(next(k), order.batch(k)) << "batch " << k;
        }
        EXPECT_TRUE(next(0).empty());
        EXPECT_TRUE(next(0).empty()); // and stays at its end
    }
    struct batcher *batcher = nullptr;

  private:
    const Corpus &corpus_;
};

TEST(Batcher, HandsOutTheOrderEpochAfterEpoch) {
    const Corpus corpus(random_lengths(203, 30, 2));
    for (const struct batcher_options &o : kAllOptions) {
        SCOPED_TRACE(describe(o));
        Batcher batcher(o, corpus);
        for (uint64_t epoch = 0; epoch < 4; epoch++) {
            const Order order = order_of(o, corpus, epoch);
            EXPECT_EQ(batcher_steps_per_epoch(batcher.batcher), order.steps());
            batcher.start(epoch, 0);
            batcher.expect_rest(order, 0);
        }
    }
}

TEST(Batcher, ResumesAtAnyPosition) {
    const Corpus corpus(random_lengths(101, 30, 3));
    const struct batcher_options o = options(SHUFFLE_FULL, 16, 8);
    const Order order = order_of(o, corpus, 5);
    Batcher batcher(o, corpus);
    for (uint64_t position = 0; position <= order.steps(); position++) {
        batcher.start(5, position);
        batcher.expect_rest(order, position);
    }
    struct error error = {};
    EXPECT_EQ(batcher_start(batcher.batcher, 5, order.steps() + 1, &error), STATUS_CORRUPT);
    EXPECT_NE(std::string(error.message).find("13 batches"), std::string::npos) << error.message;
}

// The thread is somewhere ahead in the old epoch: waiting for a free batch, filling one, or done.
TEST(Batcher, StartsAnewWhileTheThreadIsAhead) {
    const Corpus corpus(random_lengths(97, 30, 4));
    const struct batcher_options o = options(SHUFFLE_FULL, 16, 4);
    Batcher batcher(o, corpus);
    std::mt19937 random(1);
    for (int round = 0; round < 500; round++) {
        const uint64_t epoch = random() % 7, position = random() % 26;
        const Order order = order_of(o, corpus, epoch);
        batcher.start(epoch, position);
        const uint64_t end = std::min<uint64_t>(order.steps(), position + random() % 5);
        for (uint64_t k = position; k < end; k++) {
            ASSERT_EQ(batcher.next(k), order.batch(k)) << "round " << round;
        }
    }
    batcher.start(1, 0);
    batcher.expect_rest(order_of(o, corpus, 1), 0);
}

TEST(Batcher, MayBeFreedAtAnyMoment) {
    const Corpus corpus(random_lengths(97, 30, 4));
    const struct batcher_options o = options(SHUFFLE_FULL, 16, 4);
    { Batcher never_started(o, corpus); }
    for (int taken = 0; taken < 30; taken++) {
        Batcher batcher(o, corpus);
        batcher.start(0, 0);
        for (int k = 0; k < taken && k < 25; k++) {
            EXPECT_FALSE(batcher.next(static_cast<uint64_t>(k)).empty());
        }
        struct batch *held = taken % 2 == 0 ? batcher_next(batcher.batcher) : nullptr;
        EXPECT_TRUE(held == nullptr || held->view.sequences > 0);
    }
    batcher_free(nullptr);
}

TEST(Batcher, LimitsAreUpperBoundsAndReached) {
    for (const struct batcher_options &o : kAllOptions) {
        SCOPED_TRACE(describe(o));
        const Corpus corpus(random_lengths(61, 25, 9));
        Batcher batcher(o, corpus);
        uint32_t sequences, longest;
        uint64_t total;
        batcher_limits(batcher.batcher, &sequences, &total, &longest);
        std::vector<uint32_t> lengths;
        for (uint32_t i = 0; i < 61; i++) {
            lengths.push_back(corpus.length(i));
        }
        std::sort(lengths.rbegin(), lengths.rend());
        EXPECT_EQ(sequences, std::min<uint64_t>(61, o.batch_size));
        EXPECT_EQ(longest, lengths[0]);
        EXPECT_EQ(total, std::accumulate(lengths.begin(), lengths.begin() + sequences, 0u));
        for (uint64_t epoch = 0; epoch < 50; epoch++) {
            const Order order = order_of(o, corpus, epoch);
            for (size_t k = 0; k < order.steps(); k++) {
                uint64_t tokens = 0;
                for (uint64_t i = order.starts[k]; i < order.starts[k + 1]; i++) {
                    tokens += corpus.length(order.examples[i]);
                }
                EXPECT_LE(tokens, total);
                EXPECT_LE(order.starts[k + 1] - order.starts[k], sequences);
            }
        }
    }
}

} // namespace
