// The model of ops.h in double precision, written to be obviously right: one sequence, one step,
// one unit at a time. Gradients come from it by central differences only.
#ifndef CAIRN_TESTS_SUPPORT_ORACLE_MODEL_H
#define CAIRN_TESTS_SUPPORT_ORACLE_MODEL_H

#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/ops.h"

struct OracleModel {
    using Vector = std::vector<double>;

    explicit OracleModel(const model_shape &s)
        : shape(s), embedding((size_t)s.vocabulary * s.embedding),
          dense_weight((size_t)s.dense * 2 * s.hidden), dense_bias(s.dense), output_weight(s.dense),
          output_bias(1) {
        for (int dir = 0; dir < 2; dir++) {
            w_ih[dir].resize((size_t)4 * s.hidden * s.embedding);
            w_hh[dir].resize((size_t)4 * s.hidden * s.hidden);
            bias[dir].resize((size_t)4 * s.hidden);
        }
    }

    // All parameters, in the order of host/model.h's layout.
    std::vector<Vector *> tensors() {
        return {&embedding, &w_ih[0],      &w_hh[0],    &bias[0],       &w_ih[1],    &w_hh[1],
                &bias[1],   &dense_weight, &dense_bias, &output_weight, &output_bias};
    }

    // h after the last step of one direction.
    Vector run(const std::vector<uint32_t> &ids, int dir) const {
        const size_t E = shape.embedding, H = shape.hidden;
        Vector h(H), c(H);
        for (size_t t = 0; t < ids.size(); t++) {
            const uint32_t id = dir == 0 ? ids[t] : ids[ids.size() - 1 - t];
            Vector z(4 * H);
            for (size_t row = 0; row < 4 * H; row++) {
                z[row] = bias[dir][row];
                for (size_t e = 0; e < E; e++) {
                    z[row] += w_ih[dir][row * E + e] * embedding[id * E + e];
                }
                for (size_t k = 0; k < H; k++) {
                    z[row] += w_hh[dir][row * H + k] * h[k];
                }
            }
            for (size_t j = 0; j < H; j++) {
                c[j] = sigmoid(z[H + j]) * c[j] + sigmoid(z[j]) * std::tanh(z[2 * H + j]);
                h[j] = sigmoid(z[3 * H + j]) * std::tanh(c[j]);
            }
        }
        return h;
    }

    Vector final_state(const std::vector<uint32_t> &ids) const {
        Vector state = run(ids, 0), reverse = run(ids, 1);
        state.insert(state.end(), reverse.begin(), reverse.end());
        return state;
    }

    double logit(const Vector &state) const {
        double sum = output_bias[0];
        for (size_t d = 0; d < shape.dense; d++) {
            double a = dense_bias[d];
            for (size_t k = 0; k < state.size(); k++) {
                a += dense_weight[d * state.size() + k] * state[k];
            }
            sum += output_weight[d] * std::max(a, 0.0);
        }
        return sum;
    }

    // Binary cross-entropy by its definition, -y log p - (1 - y) log(1 - p).
    static double loss(double logit, int label) {
        return label == 1 ? -std::log(sigmoid(logit)) : -std::log(sigmoid(-logit));
    }

    double mean_loss(const std::vector<std::vector<uint32_t>> &sequences,
                     const std::vector<uint8_t> &labels) const {
        double sum = 0;
        for (size_t b = 0; b < sequences.size(); b++) {
            sum += loss(logit(final_state(sequences[b])), labels[b]);
        }
        return sum / (double)sequences.size();
    }

    static double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

    // d value() / d x. The step is of the size that balances rounding and the third derivative.
    static double derivative(double &x, const std::function<double()> &value) {
        const double before = x, step = 1e-5;
        x = before + step;
        const double above = value();
        x = before - step;
        const double below = value();
        x = before;
        return (above - below) / (2 * step);
    }

    model_shape shape;
    Vector embedding, w_ih[2], w_hh[2], bias[2], dense_weight, dense_bias, output_weight,
        output_bias;
};

#endif
