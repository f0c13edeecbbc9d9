// golden_run.h - whole training runs made with Keras (../shared/golden, or CAIRN_GOLDEN_DIR), replayed
// step by step on a backend and compared: logits, gradients, losses, weights.
//
//     std::vector<GoldenCase> cases = golden_cases();      empty: there are none here, skip
//     GoldenReplay replay(cases[0], be);
//     replay.check_training();
//
// Seen on an AMD Zen 5 core, over both cases and all instruction sets: first-step logits within
// 2e-8 and final logits within 3e-7 of Keras' (absolute), gradients within 2e-6 and final weights
// within 8e-6 of a tensor's largest value, losses within 2e-7 relative. CAIRN_GOLDEN_SHOW prints them.
#ifndef CAIRN_TESTS_SUPPORT_GOLDEN_RUN_H
#define CAIRN_TESTS_SUPPORT_GOLDEN_RUN_H

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "host/model.h"
#include "kernels/backend.h"
#include "tests/support/ragged_batch.h"

using GoldenTensors = std::map<std::string, std::vector<float>>;
using GoldenIds = std::vector<std::vector<uint32_t>>;

struct GoldenCase {
    std::string name;
    model_shape shape;
    size_t batch, steps;
    double learning_rate, final_loss, final_accuracy;
    std::vector<double> losses, final_logits;
    GoldenTensors initial, first_step, final;
    GoldenIds first_ids,
        ids; // of the first step, as Keras had them; of every text, by our tokenizer
    std::vector<uint8_t> labels;

    size_t tokens() const; // of all texts together
};

// Where the cases should be, and those that are there.
std::string golden_directory();
std::vector<GoldenCase> golden_cases();

// A model with a case's initial weights on a backend, which must outlive it.
class GoldenReplay {
  public:
    GoldenReplay(const GoldenCase &golden, backend *be);
    ~GoldenReplay();
    GoldenReplay(const GoldenReplay &) = delete;
    GoldenReplay &operator=(const GoldenReplay &) = delete;

    // Logits and gradients of the first step.
    void check_first_step();
    // Every step: losses, final weights, predictions.
    void check_training();

  private:
    std::vector<tensor_view> views(float *part) const;
    RaggedBatch batch(size_t first, size_t count) const;
    std::vector<double> logits(const RaggedBatch &batch, std::vector<double> *losses = nullptr);
    void expect_tensors(float *part, const GoldenTensors &expected, double tolerance,
                        const char *what);
    std::vector<double> train();
    void check_predictions();

    const GoldenCase &golden_;
    backend *be_;
    model *net_ = nullptr;
};

#endif
