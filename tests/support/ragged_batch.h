// A ragged batch made of lists of ids, sorted by descending length as ops.h wants it, that
// remembers where each sequence came from.
#ifndef CAIRN_TESTS_SUPPORT_RAGGED_BATCH_H
#define CAIRN_TESTS_SUPPORT_RAGGED_BATCH_H

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "kernels/ops.h"

class RaggedBatch {
  public:
    RaggedBatch(const std::vector<std::vector<uint32_t>> &sequences,
                const std::vector<uint8_t> &labels, uint32_t token_bytes = 2)
        : token_bytes_(token_bytes), order_(sequences.size()) {
        std::iota(order_.begin(), order_.end(), (size_t)0);
        std::stable_sort(order_.begin(), order_.end(), [&](size_t a, size_t b) {
            return sequences[a].size() > sequences[b].size();
        });
        // The tokens stay in the caller's order: a batch points into a data set, it does not copy
        // it.
        std::vector<uint64_t> start;
        for (const auto &sequence : sequences) {
            start.push_back(wide_.size());
            wide_.insert(wide_.end(), sequence.begin(), sequence.end());
        }
        for (uint32_t id : wide_) {
            narrow_.push_back((uint16_t)id);
        }
        for (size_t from : order_) {
            first_.push_back(start[from]);
            length_.push_back((uint32_t)sequences[from].size());
            label_.push_back(labels[from]);
        }
    }

    batch_view view() const {
        batch_view batch = {};
        batch.tokens =
            token_bytes_ == 2 ? (const void *)narrow_.data() : (const void *)wide_.data();
        batch.token_bytes = token_bytes_;
        batch.sequences = (uint32_t)length_.size();
        batch.total_tokens = wide_.size();
        batch.first = first_.data();
        batch.length = length_.data();
        batch.label = label_.data();
        return batch;
    }

    // order()[k] is the place in the caller's list of the batch's sequence k.
    const std::vector<size_t> &order() const { return order_; }
    uint32_t longest() const { return length_.empty() ? 0 : length_[0]; }

  private:
    uint32_t token_bytes_;
    std::vector<size_t> order_;
    std::vector<uint32_t> wide_;
    std::vector<uint16_t> narrow_;
    std::vector<uint64_t> first_;
    std::vector<uint32_t> length_;
    std::vector<uint8_t> label_;
};

#endif
