// op_run.h - the operations of ops.h on any backend, by its table only, without host/model.c: the
// same batch on two backends gives two results to compare.
//
// Device memory is never touched from here but through the table's copies. Before each step the
// workspace and every output are filled with NaN, so that nothing can rely on what was there; the
// buffers are sized by the limits and stay, so that one recorded step meets many batches.
//
//     OpRun gpu(cuda, shape, limits), cpu(reference, shape, limits);
//     gpu.set_weights(weights);
//     OpResult ours = gpu.step(batch, d_final_state);
//     expect_close(ours, cpu.step(batch, d_final_state), tolerance);
#ifndef CAIRN_TESTS_SUPPORT_OP_RUN_H
#define CAIRN_TESTS_SUPPORT_OP_RUN_H

#include <cstring>
#include <string>
#include <vector>

#include "host/model.h"
#include "kernels/backend.h"
#include "tests/support/device_array.h"
#include "tests/support/ragged_batch.h"
#include "gtest/gtest.h"

struct OpResult {
    std::vector<float> final_state, logits, d_final_state;
    std::vector<double> losses;
    pass_sums sums;
    std::vector<std::vector<float>> gradients; // [MODEL_TENSORS], in model_layout's order
};

// "" when every bit is the same, else the first thing that differs.
std::string bits_difference(const OpResult &a, const OpResult &b);

class OpRun {
  public:
    // `token_bytes`: of the resident ids. Sums start at {10, 20, 30, 40} before each step.
    OpRun(backend *be, const model_shape &shape, const batch_limits &limits,
          uint32_t token_bytes = 2);
    ~OpRun();
    OpRun(const OpRun &) = delete;
    OpRun &operator=(const OpRun &) = delete;

    // All parameters, [layout.part_floats].
    void set_weights(const std::vector<float> &weights) { weights_.upload(weights); }

    // The whole step but for the optimiser, by table->replay: forward, head, backward, embedding.
    OpResult step(const RaggedBatch &batch);
    // Recurrence and embedding alone, with this gradient [B, 2H] instead of the head's.
    OpResult recurrence(const RaggedBatch &batch, const std::vector<float> &d_final_state);
    // The head alone, on these states [B, 2H].
    OpResult head(const RaggedBatch &batch, const std::vector<float> &final_state, bool training);
    // Forward only: states, logits and, with labels, losses.
    OpResult inference(const RaggedBatch &batch, bool labels = true);

    const model_layout &layout() const { return layout_; }

  private:
    enum class What { STEP, RECURRENCE, HEAD, HEAD_ONLY_FORWARD, INFERENCE, INFERENCE_UNLABELLED };
    static enum status enqueue_step(void *context, struct error *err);
    enum status enqueue(What what, struct error *err);
    void place(const RaggedBatch &batch);
    OpResult collect(size_t sequences) const;
    lstm_args lstm(bool training) const;
    head_args head_arguments(bool training, bool labels) const;

    backend *be_;
    model_shape shape_;
    batch_limits limits_;
    uint32_t token_bytes_;
    model_layout layout_;
    batch_view view_ = {}; // of the batch in device memory
    backend_recording *recording_ = nullptr;
    DeviceArray<float> weights_, gradients_, final_state_, d_final_state_, logits_;
    DeviceArray<double> losses_;
    DeviceArray<pass_sums> sums_;
    DeviceArray<unsigned char> workspace_, tokens_;
    DeviceArray<step_inputs> inputs_;
    DeviceArray<uint64_t> first_;
    DeviceArray<uint32_t> length_;
    DeviceArray<uint8_t> label_;
};

#endif
