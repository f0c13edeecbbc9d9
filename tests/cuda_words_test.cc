// Rows of a batch and their order by word on the CUDA backend (kernels/cuda/cuda_words.cu), and how
// the workspace is divided (cuda_workspace.cu).
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "tests/support/cuda_device.h"
#include "tests/support/cuda_parts.h"

namespace {

class CudaWords : public CudaTest {};

// ---- rows ----

// A data set of ids, and a batch of `lengths` whose sequences lie in it in any order with gaps.
template <class Id> struct Rows {
    Rows(const std::vector<uint32_t> &lengths, uint32_t vocabulary) : length(lengths) {
        Noise noise(lengths.size());
        first.resize(lengths.size());
        for (size_t i = lengths.size(); i-- > 0;) {
            ids.resize(ids.size() + noise.below(5));
            first[i] = ids.size();
            ids.resize(ids.size() + lengths[i]);
        }
        for (Id &id : ids) {
            id = (Id)noise.below(vocabulary);
        }
        offset.push_back(0);
        for (size_t i = 0; i < lengths.size(); i++) {
            word.insert(word.end(), ids.begin() + (ptrdiff_t)first[i],
                        ids.begin() + (ptrdiff_t)(first[i] + lengths[i]));
            offset.push_back((uint32_t)word.size());
        }
    }
    std::vector<Id> ids;
    std::vector<uint64_t> first;
    std::vector<uint32_t> length, offset, word; // the last two are what is expected
};

template <class Id> void expect_rows(const std::vector<uint32_t> &lengths, bool table) {
    SCOPED_TRACE(std::to_string(lengths.size()) + " sequences, ids of " +
                 std::to_string(sizeof(Id)) + " bytes");
    CudaBackend device;
    Rows<Id> rows(lengths, sizeof(Id) == 2 ? 60000 : 1000000);
    const size_t tokens = rows.word.size();
    DeviceArray<Id> ids(rows.ids);
    DeviceArray<uint64_t> first(rows.first);
    DeviceArray<uint32_t> length(rows.length), offset(lengths.size() + 1), word(tokens),
        index(tokens);
    DeviceInputs inputs(tokens, (uint32_t)lengths.size());
    lstm_args args = {};
    args.limits = {(uint32_t)lengths.size() + 3, tokens + 5, 10, true};
    args.batch.tokens = ids.data();
    args.batch.token_bytes = sizeof(Id);
    args.batch.first = first.data();
    args.batch.length = length.data();
    args.batch.inputs = inputs.data();
    cuda_workspace ws = {};
    ws.offset = offset.data();
    ws.row_word = word.data();
    ws.row_index = table ? word.data() : index.data();
    error err = {};
    ASSERT_EQ(cuda_words_rows(cuda_of(device.be), &ws, &args, &err), STATUS_OK) << err.message;
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    EXPECT_EQ(offset.get(), rows.offset);
    EXPECT_EQ(word.get(), rows.word);
    if (!table) {
        std::vector<uint32_t> numbers(tokens);
        std::iota(numbers.begin(), numbers.end(), 0u);
        EXPECT_EQ(index.get(), numbers);
    }
    EXPECT_EQ(*cuda_of(device.be)->progress, (uint32_t)CUDA_OP_LSTM_FORWARD);
}

TEST_F(CudaWords, RowsFollowOneSequenceAfterTheOther) {
    for (const std::vector<uint32_t> &lengths :
         std::vector<std::vector<uint32_t>>{{0}, {1}, {7, 3, 3, 1, 0, 0}, {700, 256, 255, 2}}) {
        expect_rows<uint16_t>(lengths, true);
        expect_rows<uint32_t>(lengths, false);
    }
}

TEST_F(CudaWords, MoreSequencesThanOneRoundOfTheScan) {
    std::vector<uint32_t> lengths(4500);
    for (size_t i = 0; i < lengths.size(); i++) {
        lengths[i] = (uint32_t)((lengths.size() - i) / 1800);
    }
    expect_rows<uint16_t>(lengths, true);
}

// ---- sort ----

// Sorts `words`, as those of a batch for whose limits there is room to spare, and compares with the
// library's stable sort.
void expect_sorted(const CudaBackend &device, const std::vector<uint32_t> &words,
                   uint32_t vocabulary) {
    SCOPED_TRACE(std::to_string(words.size()) + " rows, vocabulary " + std::to_string(vocabulary));
    const size_t count = words.size(), limit = count + 2500;
    DeviceArray<uint32_t> row_word(words), word0(count), word1(count), row0(count), row1(count);
    DeviceArray<uint32_t> counts((count / CUDA_SORT_ROWS + 1) * CUDA_SORT_DIGITS + 1);
    DeviceInputs inputs(count, 1);
    lstm_args args = {};
    args.shape.vocabulary = vocabulary;
    args.limits = {1, limit, 10, true};
    args.batch.inputs = inputs.data();
    cuda_workspace ws = {};
    ws.row_word = row_word.data();
    ws.sorted_word[0] = word0.data();
    ws.sorted_word[1] = word1.data();
    ws.sorted_row[0] = row0.data();
    ws.sorted_row[1] = row1.data();
    ws.sort_counts = counts.data();
    error err = {};
    cuda_backend *be = cuda_of(device.be);
    ASSERT_EQ(cuda_words_sort(be, &ws, &args, be->words_stream, &err), STATUS_OK) << err.message;
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);

    std::vector<uint32_t> rows(count), sorted(count);
    std::iota(rows.begin(), rows.end(), 0u);
    std::stable_sort(rows.begin(), rows.end(),
                     [&](uint32_t a, uint32_t b) { return words[a] < words[b]; });
    std::transform(rows.begin(), rows.end(), sorted.begin(), [&](uint32_t r) { return words[r]; });
    EXPECT_EQ(word0.get(), sorted);
    EXPECT_EQ(row0.get(), rows);
}

// One to four bytes of a word count, each with words at the edges of its digits.
const uint32_t vocabularies[] = {2, 256, 257, 1000, 65536, 65537, 16777217, 2147483647};

TEST_F(CudaWords, SortOfEveryLengthAndVocabularyIsStable) {
    CudaBackend device;
    Noise noise(3);
    for (uint32_t vocabulary : vocabularies) {
        for (size_t count : {(size_t)1, (size_t)33, (size_t)1024, (size_t)1025, (size_t)2600}) {
            expect_sorted(device, noise.words(count, vocabulary), vocabulary);
        }
    }
    expect_sorted(device, {}, 1000);
}

TEST_F(CudaWords, SortOfRowsInOrderAgainstItAndAllAlike) {
    CudaBackend device;
    std::vector<uint32_t> up(2100), down(2100), last(2100, 70000 - 1);
    for (uint32_t i = 0; i < 2100; i++) {
        up[i] = i * 33;
        down[i] = (2100 - i) * 33;
    }
    expect_sorted(device, up, 70000);
    expect_sorted(device, down, 70000);
    expect_sorted(device, last, 70000);
}

// Words as texts have them: a few make up most of the rows.
TEST_F(CudaWords, SortUnderManySchedules) {
    for (uint64_t seed = 1; seed <= 8; seed++) {
        cuda_schedule(seed);
        CudaBackend device;
        Noise noise(seed);
        std::vector<uint32_t> words(3000);
        for (uint32_t &word : words) {
            word = noise.below(1 + noise.below(1 + noise.below(1000)));
        }
        expect_sorted(device, words, 1000);
    }
}

// ---- workspace ----

class CudaWorkspace : public CudaTest {};

struct Piece {
    const void *begin;
    size_t bytes;
};

// What the parts must hold, from their description in cuda_internal.cuh.
std::vector<Piece> pieces_of(const cuda_workspace &ws, const model_shape &shape,
                             const batch_limits &limits) {
    const size_t B = limits.sequences, N = limits.total_tokens, H = shape.hidden, D = shape.dense;
    const size_t sort_blocks = (N + CUDA_SORT_ROWS - 1) / CUDA_SORT_ROWS;
    const size_t pieces = (N + CUDA_PIECE_ROWS - 1) / CUDA_PIECE_ROWS;
    const size_t rows = ws.table ? shape.vocabulary : N;
    std::vector<Piece> parts = {
        {ws.offset, (B + 1) * 4}, {ws.row_word, N * 4}, {ws.head_hidden, B * D * 4}};
    for (int i = 0; i < 2; i++) {
        parts.push_back({ws.projected[i], rows * 4 * H * 4});
        if (limits.training) {
            parts.push_back({ws.slope[i], N * 4 * H * 4});
            parts.push_back({ws.carry[i], N * H * 8});
            parts.push_back({ws.hidden[i], N * H * 4});
            parts.push_back({ws.sorted_word[i], N * 4});
            parts.push_back({ws.sorted_row[i], N * 4});
        }
    }
    if (!ws.table) {
        parts.push_back({ws.row_index, N * 4});
    }
    if (limits.training) {
        const size_t columns = ws.table ? 8 * H : shape.embedding;
        parts.push_back({ws.sort_counts, sort_blocks * CUDA_SORT_DIGITS * 4});
        parts.push_back({ws.piece_sums, pieces * 2 * columns * 4});
        parts.push_back(
            {ws.product_parts, 2 * 4 * cuda_outer_floats(N, 4 * shape.hidden, shape.hidden)});
        parts.push_back({ws.head_d_hidden, B * D * 4});
        parts.push_back({ws.head_d_logit, B * 4});
        if (!ws.table) {
            parts.push_back({ws.d_tokens, N * shape.embedding * 4});
        }
    }
    return parts;
}

void expect_divided(const model_shape &shape, const batch_limits &limits, bool table) {
    CudaBackend device;
    const cuda_backend *be = cuda_of(device.be);
    const size_t bytes = cuda_workspace_bytes(be, &shape, &limits);
    ASSERT_LT(bytes, (size_t)1 << 30);
    // Divided at an address that nothing is read from.
    char *const memory = reinterpret_cast<char *>((uintptr_t)1 << 40);
    const cuda_workspace ws = cuda_workspace_make(memory, be, &shape, &limits);
    EXPECT_EQ(ws.table, table);
    EXPECT_EQ(ws.row_index == ws.row_word, table);
    EXPECT_EQ(ws.slope[0] != nullptr, limits.training);
    std::vector<Piece> pieces = pieces_of(ws, shape, limits);
    std::sort(pieces.begin(), pieces.end(),
              [](const Piece &a, const Piece &b) { return a.begin < b.begin; });
    const char *free_from = memory;
    for (const Piece &piece : pieces) {
        const char *begin = static_cast<const char *>(piece.begin);
        EXPECT_GE(begin, free_from);
        EXPECT_EQ((uintptr_t)begin % 64, 0u);
        free_from = begin + piece.bytes;
    }
    EXPECT_LE(free_from, memory + bytes);
}

TEST_F(CudaWorkspace, PartsHaveTheirSizeAndDoNotOverlap) {
    expect_divided({1000, 64, 64, 64}, {64, 5000, 900, true}, true);
    expect_divided({1000, 64, 64, 64}, {64, 5000, 900, false}, true);
    expect_divided({CUDA_TABLE_WORDS, 5, 17, 3}, {3, 1023, 1000, true}, true);
    expect_divided({CUDA_TABLE_WORDS + 1, 5, 17, 3}, {3, 1023, 1000, true}, false);
    expect_divided({70000, 300, 128, 1}, {200, 4097, 100, true}, false);
    expect_divided({70000, 300, 128, 1}, {200, 4097, 100, false}, false);
}

TEST_F(CudaWorkspace, EvaluationNeedsLessThanTraining) {
    CudaBackend device;
    const model_shape shape = {1000, 64, 64, 64};
    batch_limits limits = {64, 50000, 900, true};
    const size_t training = cuda_workspace_bytes(cuda_of(device.be), &shape, &limits);
    limits.training = false;
    EXPECT_LT(cuda_workspace_bytes(cuda_of(device.be), &shape, &limits), training / 10);
}

TEST_F(CudaWorkspace, BatchesBeyondTheNumbersOfRowsAreRefused) {
    CudaBackend device;
    const model_shape shape = {1000, 64, 64, 64};
    const batch_limits rows = {64, ((uint64_t)1 << 31) + 1, 900, false};
    EXPECT_EQ(cuda_workspace_bytes(cuda_of(device.be), &shape, &rows), SIZE_MAX);
    const batch_limits sequences = {(1u << 24) + 1, 50000, 900, false};
    EXPECT_EQ(cuda_workspace_bytes(cuda_of(device.be), &shape, &sequences), SIZE_MAX);
    const model_shape wide = {70000, UINT32_MAX, 64, UINT32_MAX};
    const batch_limits most = {1u << 24, (uint64_t)1 << 31, 900, true};
    EXPECT_EQ(cuda_workspace_bytes(cuda_of(device.be), &wide, &most), SIZE_MAX);
}

} // namespace
