// op_cases.h - made-up batches and weights for tests of operations: pure functions of a seed.
#ifndef CAIRN_TESTS_SUPPORT_OP_CASES_H
#define CAIRN_TESTS_SUPPORT_OP_CASES_H

#include <cmath>
#include <cstdint>
#include <vector>

#include "host/base/rng.h"
#include "tests/support/oracle_model.h"

using Sequences = std::vector<std::vector<uint32_t>>;

struct Random {
    explicit Random(uint64_t seed) : rng(rng_make(seed, RNG_STREAM_DEMO, 77)) {}
    double uniform(double low, double high) { return low + (high - low) * rng_uniform(&rng); }
    uint32_t below(uint32_t bound) { return (uint32_t)rng_below(&rng, bound); }
    struct rng rng;
};

inline Sequences make_sequences(const std::vector<size_t> &lengths, uint32_t words,
                                Random &random) {
    Sequences sequences;
    for (size_t length : lengths) {
        std::vector<uint32_t> ids(length);
        for (auto &id : ids) {
            id = random.below(words);
        }
        sequences.push_back(ids);
    }
    return sequences;
}

inline std::vector<uint8_t> make_labels(size_t count, Random &random) {
    std::vector<uint8_t> labels(count);
    for (auto &label : labels) {
        label = (uint8_t)random.below(2);
    }
    return labels;
}

// Gates that saturate now and then; states that stay bounded by the recurrent weights' scale. Every
// value is exactly a float.
inline OracleModel make_oracle(const model_shape &shape, Random &random, double spread = 1.0) {
    OracleModel oracle(shape);
    for (auto *tensor : oracle.tensors()) {
        for (double &value : *tensor) {
            value = (double)(float)random.uniform(-spread, spread);
        }
    }
    for (int dir = 0; dir < 2; dir++) {
        for (double &value : oracle.w_hh[dir]) {
            value = (double)(float)(value / std::sqrt((double)shape.hidden));
        }
    }
    return oracle;
}

#endif
