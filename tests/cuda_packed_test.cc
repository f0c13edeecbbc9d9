// Rows packed by time, as cuDNN takes them (kernels/cuda/cuda_packed.cu).
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/support/cuda_device.h"
#include "tests/support/cuda_parts.h"

namespace {

class CudaPacked : public CudaTest {};

constexpr uint32_t E = 3, H = 2, V = 50;

// A batch by its lengths, and where each of its rows is in the packed order, by walking through
// time as cuDNN does.
struct Packed {
    explicit Packed(const std::vector<uint32_t> &lengths) : length(lengths) {
        offset.push_back(0);
        for (uint32_t each : lengths) {
            offset.push_back(offset.back() + each);
            running += each > 0 ? 1 : 0;
        }
        row.resize(offset.back());
        uint32_t position = 0;
        for (uint32_t step = 0; position < offset.back(); step++) {
            for (size_t b = 0; b < lengths.size() && step < lengths[b]; b++) {
                row[offset[b] + step] = position++;
            }
        }
    }
    std::vector<uint32_t> length, offset, row;
    uint32_t running = 0;
};

const std::vector<std::vector<uint32_t>> batches = {{1},
                                                    {5},
                                                    {3, 3, 3},
                                                    {7, 4, 4, 1, 0, 0},
                                                    {2, 1, 1, 1, 1, 0},
                                                    {300, 2},
                                                    {9, 8, 7, 6, 5, 4, 3, 2, 1}};

lstm_args arguments(const Packed &packed, const DeviceArray<uint32_t> &length) {
    lstm_args args = {};
    args.shape = {V, E, H, 1};
    args.batch.sequences = (uint32_t)packed.length.size();
    args.batch.total_tokens = packed.row.size();
    args.batch.length = length.data();
    return args;
}

TEST_F(CudaPacked, EmbeddingsAndTheirGradientsGoTheSameWay) {
    for (const auto &lengths : batches) {
        SCOPED_TRACE(testing::PrintToString(lengths));
        CudaBackend device;
        const Packed packed(lengths);
        const size_t rows = packed.row.size();
        Noise noise(rows);
        const std::vector<float> table = noise.fractions(V * E),
                                 dx_host = noise.fractions(rows * E);
        const std::vector<uint32_t> words = noise.words(rows, V);
        DeviceArray<float> embedding(table), dx(dx_host), x(rows * E), d_tokens(rows * E);
        DeviceArray<uint32_t> length(packed.length), offset(packed.offset), word(words), row(rows);
        lstm_args args = arguments(packed, length);
        args.weights.embedding = embedding.data();
        cuda_workspace ws = {};
        ws.offset = offset.data();
        ws.row_word = word.data();
        ws.d_tokens = d_tokens.data();
        error err = {};
        cuda_backend *be = cuda_of(device.be);
        ASSERT_EQ(cuda_packed_gather(be, &ws, &args, row.data(), x.data(), &err), STATUS_OK)
            << err.message;
        ASSERT_EQ(cuda_packed_scatter(be, &ws, &args, row.data(), dx.data(), &err), STATUS_OK)
            << err.message;
        ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
        EXPECT_EQ(row.get(), packed.row);
        std::vector<float> x_expected(rows * E), d_expected(rows * E);
        for (size_t n = 0; n < rows; n++) {
            for (size_t e = 0; e < E; e++) {
                x_expected[packed.row[n] * E + e] = table[words[n] * E + e];
                d_expected[n * E + e] = dx_host[packed.row[n] * E + e];
            }
        }
        EXPECT_EQ(x.get(), x_expected);
        EXPECT_EQ(d_tokens.get(), d_expected);
    }
}

TEST_F(CudaPacked, FinalStatesAreByDirectionThereAndBySequenceHere) {
    for (const auto &lengths : batches) {
        SCOPED_TRACE(testing::PrintToString(lengths));
        CudaBackend device;
        const Packed packed(lengths);
        const size_t sequences = lengths.size(), running = packed.running;
        Noise noise(sequences);
        const std::vector<float> given = noise.fractions(2 * running * H),
                                 gradient = noise.fractions(sequences * 2 * H);
        DeviceArray<float> state(given), d_state(2 * running * H), d_final(gradient),
            final_state(sequences * 2 * H);
        DeviceArray<uint32_t> length(packed.length);
        lstm_args args = arguments(packed, length);
        args.final_state = final_state.data();
        args.d_final_state = d_final.data();
        error err = {};
        cuda_backend *be = cuda_of(device.be);
        ASSERT_EQ(cuda_packed_final_state(be, &args, state.data(), packed.running, &err), STATUS_OK)
            << err.message;
        ASSERT_EQ(cuda_packed_d_state(be, &args, d_state.data(), packed.running, &err), STATUS_OK)
            << err.message;
        ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
        std::vector<float> expected(sequences * 2 * H, 0.0f), d_expected(2 * running * H);
        for (size_t dir = 0; dir < 2; dir++) {
            for (size_t b = 0; b < running; b++) {
                for (size_t h = 0; h < H; h++) {
                    expected[b * 2 * H + dir * H + h] = given[dir * running * H + b * H + h];
                    d_expected[dir * running * H + b * H + h] = gradient[b * 2 * H + dir * H + h];
                }
            }
        }
        EXPECT_EQ(final_state.get(), expected);
        EXPECT_EQ(d_state.get(), d_expected);
    }
}

// A batch of nothing but empty texts: states are zero, and there are no rows to take back.
TEST_F(CudaPacked, NothingButEmptyTexts) {
    CudaBackend device;
    const Packed packed({0, 0, 0});
    DeviceArray<float> state((size_t)1), final_state(3 * 2 * H);
    DeviceArray<uint32_t> length(packed.length);
    lstm_args args = arguments(packed, length);
    args.final_state = final_state.data();
    cuda_workspace ws = {};
    error err = {};
    cuda_backend *be = cuda_of(device.be);
    ASSERT_EQ(cuda_packed_final_state(be, &args, state.data(), 0, &err), STATUS_OK);
    ASSERT_EQ(cuda_packed_scatter(be, &ws, &args, nullptr, nullptr, &err), STATUS_OK);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    EXPECT_EQ(final_state.get(), std::vector<float>(3 * 2 * H, 0.0f));
}

} // namespace
