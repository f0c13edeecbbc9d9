// Products whose size depends on the batch, cuBLAS' products and sums by word on the CUDA backend
// (kernels/cuda/cuda_products.cu, cuda_embedding.cu). Operands are small whole numbers, so that every
// order of adding gives the same floats and the results must be exactly those of plain loops.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/cuda_device.h"
#include "tests/support/cuda_parts.h"

namespace {

using Floats = std::vector<float>;
using Words = std::vector<uint32_t>;

class CudaProducts : public CudaTest {};

// ---- outer products ----

struct OuterCase {
    size_t count; // rows of the batch
    uint32_t rows, columns;
    bool indexed = false, pair = false, by_sequences = false, row_sums = true;
};

// The operands and results of one of the two products of a launch.
struct OuterProduct {
    OuterProduct(const OuterCase &c, uint64_t seed, bool whole)
        : a_host(values(c.count * c.rows, seed, whole)),
          b_host(values((c.indexed ? words : c.count) * c.columns, seed + 50, whole)),
          index_host(Noise(seed).words(c.count, words)), a(a_host), b(b_host), index(index_host),
          out((size_t)c.rows * c.columns), row_sums(c.rows) {}

    static Floats values(size_t count, uint64_t seed, bool whole) {
        return whole ? Noise(seed).wholes(count, 20) : Noise(seed).fractions(count);
    }
    cuda_outer argument(const OuterCase &c) const {
        return {a.data(),
                b.data(),
                c.indexed ? index.data() : nullptr,
                out.data(),
                c.row_sums ? row_sums.data() : nullptr,
                c.rows,
                c.columns};
    }

    static constexpr uint32_t words = 9; // rows of b where it is indexed
    Floats a_host, b_host;
    Words index_host;
    DeviceArray<float> a, b;
    DeviceArray<uint32_t> index;
    DeviceArray<float> out, row_sums;
};

void expect_outer(const OuterCase &c, const OuterProduct &product) {
    std::vector<double> out((size_t)c.rows * c.columns), row_sums(c.rows);
    for (size_t n = 0; n < c.count; n++) {
        const size_t b_row = c.indexed ? product.index_host[n] : n;
        for (size_t r = 0; r < c.rows; r++) {
            const double a = product.a_host[n * c.rows + r];
            row_sums[r] += a;
            for (size_t k = 0; k < c.columns; k++) {
                out[r * c.columns + k] += a * product.b_host[b_row * c.columns + k];
            }
        }
    }
    EXPECT_EQ(product.out.get(), Floats(out.begin(), out.end()));
    if (c.row_sums) {
        EXPECT_EQ(product.row_sums.get(), Floats(row_sums.begin(), row_sums.end()));
    }
}

void run_outer(const CudaBackend &device, const OuterCase &c, const OuterProduct &first,
               const OuterProduct &second) {
    DeviceInputs inputs(c.by_sequences ? 1 : c.count, c.by_sequences ? (uint32_t)c.count : 1);
    const size_t limit = c.count + 300;
    DeviceArray<float> parts(2 * cuda_outer_floats(limit, c.rows, c.columns));
    const cuda_outer one = first.argument(c), two = second.argument(c);
    error err = {};
    ASSERT_EQ(cuda_outer_products(cuda_of(device.be), &one, c.pair ? &two : nullptr,
                                  c.by_sequences ? nullptr : &inputs.data()->total_tokens,
                                  c.by_sequences ? &inputs.data()->sequences : nullptr, limit,
                                  parts.data(), "product", &err),
              STATUS_OK)
        << err.message;
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
}

void expect_outer_case(const CudaBackend &device, const OuterCase &c) {
    SCOPED_TRACE(std::to_string(c.count) + " rows, out " + std::to_string(c.rows) + " x " +
                 std::to_string(c.columns));
    OuterProduct first(c, 1, true), second(c, 2, true);
    run_outer(device, c, first, second);
    expect_outer(c, first);
    if (c.pair) {
        expect_outer(c, second);
    }
}

// Sizes around a tile (64), a float4, a strip (8) and a part (256 rows).
TEST_F(CudaProducts, OuterProductsOfEverySize) {
    CudaBackend device;
    for (const OuterCase &c : std::vector<OuterCase>{
             {1, 1, 1},
             {7, 1, 5},
             {8, 64, 64},
             {9, 65, 63},
             {255, 4, 130},
             {256, 130, 4},
             {257, 68, 68},
             {600, 64, 16},
             {513, 3, 2, false},
             {40, 128, 1},
             {17, 1, 129},
             {1000, 12, 20},
             {33, 63, 64},
             {33, 64, 63},
             {2, 130, 130},
         }) {
        expect_outer_case(device, c);
    }
}

TEST_F(CudaProducts, OuterProductsOfBothDirectionsGatheredRowsAndSequences) {
    CudaBackend device;
    expect_outer_case(device, {300, 20, 36, true, true});
    expect_outer_case(device, {300, 21, 7, true, true, false, false});
    expect_outer_case(device, {300, 64, 70, false, true});
    expect_outer_case(device, {200, 5, 6, false, false, true});
    expect_outer_case(device, {1, 70, 65, false, false, true, false});
}

TEST_F(CudaProducts, OuterProductsOfNoRowsAreZero) {
    CudaBackend device;
    expect_outer_case(device, {0, 5, 70, false, true});
    expect_outer_case(device, {0, 64, 64, true});
}

// More rows than there are parts for: the parts become longer.
TEST_F(CudaProducts, OuterProductsOfVeryManyRows) {
    CudaBackend device;
    expect_outer_case(device,
                      {(size_t)CUDA_PRODUCT_ROWS * CUDA_PRODUCT_CHUNKS + 300, 2, 1, true, true});
}

TEST_F(CudaProducts, OuterProductsGiveTheSameBitsUnderEverySchedule) {
    const OuterCase c = {700, 66, 34, true, true};
    Floats out, row_sums;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        cuda_schedule(seed);
        CudaBackend device;
        OuterProduct first(c, 3, false), second(c, 4, false);
        run_outer(device, c, first, second);
        if (seed == 1) {
            out = second.out.get();
            row_sums = second.row_sums.get();
        }
        EXPECT_EQ(second.out.get(), out) << "seed " << seed;
        EXPECT_EQ(second.row_sums.get(), row_sums) << "seed " << seed;
    }
}

// ---- products by row ----

struct RowsCase {
    size_t count;
    uint32_t columns, K;
    bool transposed, indexed = false, init = false, add = false;
};

void expect_rows_case(const CudaBackend &device, const RowsCase &c) {
    SCOPED_TRACE(std::to_string(c.count) + " rows, " + std::to_string(c.columns) +
                 " columns, sums of " + std::to_string(c.K) + (c.transposed ? ", transposed" : ""));
    const uint32_t words = 11;
    Noise noise(c.count + c.K);
    const Floats a = noise.wholes((c.indexed ? words : c.count) * c.K, 20);
    const Floats w = noise.wholes((size_t)c.columns * c.K, 20);
    const Floats init = noise.wholes(c.columns, 500);
    const Floats before = noise.wholes(c.count * c.columns, 500);
    const Words index = noise.words(c.count, words);
    DeviceArray<float> a_device(a), w_device(w), init_device(init), out(c.count * c.columns);
    DeviceArray<uint32_t> index_device(index);
    DeviceInputs inputs(c.count, 1);
    if (c.add) {
        out.put(before);
    }
    cuda_rows product = {};
    product.a = a_device.data();
    product.w = w_device.data();
    product.init = c.init ? init_device.data() : nullptr;
    product.index = c.indexed ? index_device.data() : nullptr;
    product.out = out.data();
    product.columns = c.columns;
    product.K = c.K;
    product.transposed = c.transposed;
    product.add = c.add;
    error err = {};
    ASSERT_EQ(cuda_row_products(cuda_of(device.be), &product, &inputs.data()->total_tokens,
                                c.count + 200, "product", &err),
              STATUS_OK)
        << err.message;
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);

    Floats expected(c.count * c.columns);
    for (size_t n = 0; n < c.count; n++) {
        for (size_t j = 0; j < c.columns; j++) {
            double sum = c.init ? init[j] : 0.0;
            for (size_t k = 0; k < c.K; k++) {
                sum += (double)a[(c.indexed ? index[n] : n) * c.K + k] *
                       w[c.transposed ? k * c.columns + j : j * c.K + k];
            }
            expected[n * c.columns + j] = (float)(sum + (c.add ? before[n * c.columns + j] : 0.0f));
        }
    }
    EXPECT_EQ(out.get(), expected);
}

TEST_F(CudaProducts, RowsOfEverySize) {
    CudaBackend device;
    for (bool transposed : {false, true}) {
        for (const RowsCase &c : std::vector<RowsCase>{
                 {1, 1, 1, transposed},
                 {5, 3, 2, transposed, true},
                 {64, 64, 64, transposed, false, true},
                 {65, 65, 65, transposed, true, true},
                 {63, 130, 8, transposed, false, false, true},
                 {200, 4, 7, transposed, true, true, true},
                 {129, 68, 12, transposed, true, false, true},
                 {70, 1, 130, transposed},
                 {9, 70, 4, transposed, false, true, true},
                 {0, 70, 4, transposed},
             }) {
            expect_rows_case(device, c);
        }
    }
}

// ---- cuBLAS ----

TEST_F(CudaProducts, LibraryProductsOfEveryForm) {
    CudaBackend device;
    const uint32_t rows = 7, columns = 5, depth = 9;
    Noise noise(1);
    const Floats a = noise.wholes(rows * depth, 20), b = noise.wholes(depth * columns, 20);
    const Floats before = noise.wholes(rows * columns, 20);
    DeviceArray<float> a_device(a), b_device(b);
    for (int form = 0; form < 8; form++) {
        SCOPED_TRACE(form);
        DeviceArray<float> out(before.size());
        cuda_product product = {};
        product.a = a_device.data();
        product.b = b_device.data();
        product.out = out.data();
        product.rows = rows;
        product.columns = columns;
        product.depth = depth;
        product.a_transposed = (form & 1) != 0;
        product.b_transposed = (form & 2) != 0;
        product.add = (form & 4) != 0;
        if (product.add) {
            out.put(before);
        }
        error err = {};
        ASSERT_EQ(cuda_blas_product(cuda_of(device.be), &product, "product", &err), STATUS_OK)
            << err.message;
        ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
        Floats expected(before.size());
        for (uint32_t r = 0; r < rows; r++) {
            for (uint32_t c = 0; c < columns; c++) {
                float sum = product.add ? before[r * columns + c] : 0.0f;
                for (uint32_t k = 0; k < depth; k++) {
                    sum += a[product.a_transposed ? k * rows + r : r * depth + k] *
                           b[product.b_transposed ? c * depth + k : k * columns + c];
                }
                expected[r * columns + c] = sum;
            }
        }
        EXPECT_EQ(out.get(), expected);
    }
}

// ---- sums by word ----

// Sums of rows by word for words given in sorted order; rows are numbered backwards, so that a row
// is never in its own place.
void expect_sums(const CudaBackend &device, const Words &sorted, uint32_t vocabulary,
                 uint32_t columns) {
    SCOPED_TRACE(std::to_string(sorted.size()) + " rows of " + std::to_string(columns));
    const size_t count = sorted.size();
    Words rows(count);
    for (size_t i = 0; i < count; i++) {
        rows[i] = (uint32_t)(count - 1 - i);
    }
    const Floats values = Noise(count).wholes(count * columns, 100);
    DeviceArray<uint32_t> word_device(sorted), row_device(rows);
    DeviceArray<float> values_device(values), out((size_t)vocabulary * columns);
    DeviceArray<float> piece_sums(2 * (count / CUDA_PIECE_ROWS + 1) * columns);
    DeviceInputs inputs(count, 1);
    lstm_args args = {};
    args.shape = {vocabulary, columns, 1, 1};
    args.limits = {1, count + 100, 10, true};
    args.batch.inputs = inputs.data();
    args.gradients.embedding = out.data();
    cuda_workspace ws = {};
    ws.sorted_word[0] = word_device.data();
    ws.sorted_row[0] = row_device.data();
    ws.d_tokens = values_device.data();
    ws.piece_sums = piece_sums.data();
    error err = {};
    ASSERT_EQ(cuda_embedding_sum_tokens(cuda_of(device.be), &ws, &args, &err), STATUS_OK)
        << err.message;
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    Floats expected((size_t)vocabulary * columns);
    for (size_t i = 0; i < count; i++) {
        for (size_t c = 0; c < columns; c++) {
            expected[sorted[i] * columns + c] += values[rows[i] * columns + c];
        }
    }
    EXPECT_EQ(out.get(), expected);
    EXPECT_EQ(*cuda_of(device.be)->progress, (uint32_t)CUDA_OP_EMBEDDING_GRAD);
}

// Word i occurs lengths[i] times.
Words runs(const std::vector<size_t> &lengths) {
    Words words;
    for (size_t i = 0; i < lengths.size(); i++) {
        words.insert(words.end(), lengths[i], (uint32_t)i);
    }
    return words;
}

// A piece is 32 rows: runs that end and begin on its edges, fill it, and cross many.
TEST_F(CudaProducts, SumsByWordOfRunsThatCrossPiecesOrDoNot) {
    CudaBackend device;
    static_assert(CUDA_PIECE_ROWS == 32, "the runs below are made for it");
    expect_sums(device, runs({1}), 3, 1);
    expect_sums(device, runs({32, 32, 1}), 5, 2);
    expect_sums(device, runs({31, 2, 31, 32, 33, 0, 1}), 9, 5);
    expect_sums(device, runs({0, 400, 0, 3, 64, 1, 1, 27, 5, 0}), 11, 130);
    expect_sums(device, runs({700}), 1, 7);
    expect_sums(device, runs({16, 16, 16, 16, 33, 95}), 8, 64);
    expect_sums(device, {}, 4, 3);
}

TEST_F(CudaProducts, SumsByWordOfManyWords) {
    CudaBackend device;
    for (uint64_t seed = 1; seed <= 5; seed++) {
        Noise noise(seed);
        Words words(500 + 37 * seed);
        for (uint32_t &word : words) {
            word = noise.below(1 + noise.below(1 + noise.below(200)));
        }
        std::sort(words.begin(), words.end());
        expect_sums(device, words, 201, 6);
    }
}

} // namespace
