// onednn_lstm.cc - worker of cpu_epoch.py: oneDNN's bidirectional LSTM, forward training and backward.
//
//     onednn_lstm FOLDER f32|bf16 EMBEDDING HIDDEN
//
// Only the LSTM operation: no embedding, dense layers, loss or Adam, no gathering of inputs, no reordering
// of weights. A batch runs over all its padded positions, without a mask. What is timed is the execution
// of the two primitives; they and their memory are made before the clock starts. The gradient comes in
// through the last hidden states only, as in the model, and denormals are flushed. In bf16 values and
// weights have 16 bits, gradients 32.
//
// Speaks the protocol of peer_worker.py; from the folder it reads lengths.bin only. Threads:
// OMP_NUM_THREADS. Build with -ldnnl (oneDNN 2; Debian's libdnnl-dev).
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <vector>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include <dnnl.hpp>

#if DNNL_VERSION_MAJOR != 2
#error "onednn_lstm.cc is written for oneDNN 2"
#endif

namespace {

using dnnl::memory;
using Dims = memory::dims;
using Tag = memory::format_tag;
using Type = memory::data_type;
using Arguments = std::unordered_map<int, memory>;

struct Sizes {
    Type type;
    memory::dim embedding, hidden;
};

// A gradient shrinks with every step back in time; without this, long batches take many times longer.
// Called before oneDNN starts its threads: they inherit the mode.
void flush_denormals() {
#if defined(__SSE2__)
    const unsigned flush_to_zero = 0x8000;
    const unsigned denormals_are_zero = 0x0040;
    _mm_setcsr(_mm_getcsr() | flush_to_zero | denormals_are_zero);
#endif
}

// Filled with a small value: all bits zero would let denormals or short cuts change the time.
memory make_memory(const memory::desc &desc, const dnnl::engine &engine) {
    memory result(desc, engine);
    if (desc.data.data_type == dnnl_f32) {
        auto *values = static_cast<float *>(result.get_data_handle());
        std::fill_n(values, desc.get_size() / sizeof(float), 0.01F);
    } else {
        const std::uint16_t small = 0x3c24;
        auto *values = static_cast<std::uint16_t *>(result.get_data_handle());
        std::fill_n(values, desc.get_size() / sizeof small, small);
    }
    return result;
}

void clear(const memory &values) {
    std::memset(values.get_data_handle(), 0, values.get_desc().get_size());
}

// Plain descriptions: layer data [T, B, channels], states [1, 2, B, H].
struct Shapes {
    memory::desc src, dst, state, cell, bias;
    memory::desc weights_layer, weights_iter;

    Shapes(const Sizes &s, memory::dim steps, memory::dim batch, Type type)
        : src({steps, batch, s.embedding}, type, Tag::tnc),
          dst({steps, batch, 2 * s.hidden}, type, Tag::tnc),
          state({1, 2, batch, s.hidden}, type, Tag::ldnc),
          cell({1, 2, batch, s.hidden}, Type::f32, Tag::ldnc),
          bias({1, 2, 4, s.hidden}, Type::f32, Tag::ldgo),
          weights_layer({1, 2, s.embedding, 4, s.hidden}, type, Tag::any),
          weights_iter({1, 2, s.hidden, 4, s.hidden}, type, Tag::any) {}
};

dnnl::lstm_forward::primitive_desc describe_forward(const Shapes &f, const dnnl::engine &engine) {
    const memory::desc none;
    const dnnl::lstm_forward::desc desc(
        dnnl::prop_kind::forward_training, dnnl::rnn_direction::bidirectional_concat, f.src, none,
        none, f.weights_layer, f.weights_iter, f.bias, f.dst, f.state, f.cell);
    return {desc, engine};
}

dnnl::lstm_backward::primitive_desc
describe_backward(const Shapes &f, const Shapes &d,
                  const dnnl::lstm_forward::primitive_desc &forward, const dnnl::engine &engine) {
    const memory::desc none;
    const dnnl::lstm_backward::desc desc(
        dnnl::prop_kind::backward, dnnl::rnn_direction::bidirectional_concat, f.src, none, none,
        f.weights_layer, f.weights_iter, f.bias, f.dst, f.state, f.cell, d.src, none, none,
        d.weights_layer, d.weights_iter, d.bias, d.dst, d.state, d.cell);
    return {desc, engine, forward};
}

// Forward and backward of one batch shape, ready to run.
class Step {
  public:
    Step(const Sizes &sizes, memory::dim steps, memory::dim batch, const dnnl::engine &engine) {
        const Shapes f(sizes, steps, batch, sizes.type);
        const Shapes d(sizes, steps, batch, Type::f32);
        const auto forward = describe_forward(f, engine);
        const auto backward = describe_backward(f, d, forward, engine);
        forward_ = dnnl::lstm_forward(forward);
        backward_ = dnnl::lstm_backward(backward);
        const auto add = [&engine](Arguments &to, int what, const memory::desc &desc) {
            to[what] = make_memory(desc, engine);
        };
        add(forward_arguments_, DNNL_ARG_SRC_LAYER, f.src);
        add(forward_arguments_, DNNL_ARG_BIAS, f.bias);
        add(forward_arguments_, DNNL_ARG_DST_LAYER, f.dst);
        add(forward_arguments_, DNNL_ARG_DST_ITER, f.state);
        add(forward_arguments_, DNNL_ARG_DST_ITER_C, f.cell);
        add(forward_arguments_, DNNL_ARG_WORKSPACE, forward.workspace_desc());
        backward_arguments_ = forward_arguments_;
        // Each primitive wants its own layout of the weights.
        add(forward_arguments_, DNNL_ARG_WEIGHTS_LAYER, forward.weights_layer_desc());
        add(forward_arguments_, DNNL_ARG_WEIGHTS_ITER, forward.weights_iter_desc());
        add(backward_arguments_, DNNL_ARG_WEIGHTS_LAYER, backward.weights_layer_desc());
        add(backward_arguments_, DNNL_ARG_WEIGHTS_ITER, backward.weights_iter_desc());
        add(backward_arguments_, DNNL_ARG_DIFF_SRC_LAYER, d.src);
        add(backward_arguments_, DNNL_ARG_DIFF_BIAS, d.bias);
        add(backward_arguments_, DNNL_ARG_DIFF_DST_LAYER, d.dst);
        add(backward_arguments_, DNNL_ARG_DIFF_DST_ITER, d.state);
        add(backward_arguments_, DNNL_ARG_DIFF_DST_ITER_C, d.cell);
        // No gradient from the output of each position, nor from the cells; the hidden states keep theirs.
        clear(backward_arguments_.at(DNNL_ARG_DIFF_DST_LAYER));
        clear(backward_arguments_.at(DNNL_ARG_DIFF_DST_ITER_C));
        add(backward_arguments_, DNNL_ARG_DIFF_WEIGHTS_LAYER, backward.diff_weights_layer_desc());
        add(backward_arguments_, DNNL_ARG_DIFF_WEIGHTS_ITER, backward.diff_weights_iter_desc());
    }

    double run(dnnl::stream &stream) {
        const auto begin = std::chrono::steady_clock::now();
        forward_.execute(stream, forward_arguments_);
        backward_.execute(stream, backward_arguments_);
        stream.wait();
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
        return seconds.count();
    }

  private:
    dnnl::primitive forward_, backward_;
    Arguments forward_arguments_, backward_arguments_;
};

std::vector<std::int32_t> read_lengths(const std::string &path) {
    std::ifstream file(path, std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(file)), {});
    if (!file || bytes.empty()) {
        throw std::runtime_error(path + ": cannot read the lengths");
    }
    std::vector<std::int32_t> lengths(bytes.size() / sizeof(std::int32_t));
    std::memcpy(lengths.data(), bytes.data(), lengths.size() * sizeof lengths[0]);
    return lengths;
}

// One batch of the request, "3,1,2": the seconds of its step.
double run_batch(const std::string &batch, const std::vector<std::int32_t> &lengths,
                 const Sizes &sizes, const dnnl::engine &engine, dnnl::stream &stream) {
    std::istringstream numbers(batch);
    memory::dim count = 0;
    memory::dim longest = 1;
    for (std::string number; std::getline(numbers, number, ',');) {
        count += 1;
        longest = std::max<memory::dim>(longest, lengths.at(std::stoul(number)));
    }
    Step step(sizes, longest, count, engine);
    return step.run(stream);
}

void serve(const std::vector<std::int32_t> &lengths, const Sizes &sizes) {
    const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
    dnnl::stream stream(engine);
    Step(sizes, 8, 8, engine).run(stream);
    const auto *version = dnnl::version();
    std::cout << "ready oneDNN " << version->major << '.' << version->minor << '.' << version->patch
              << std::endl;
    std::cout.precision(std::numeric_limits<double>::max_digits10);
    for (std::string line; std::getline(std::cin, line);) {
        std::istringstream words(line);
        std::string word;
        words >> word;
        if (word != "train") {
            throw std::runtime_error("unknown request " + word);
        }
        double seconds = 0;
        while (words >> word) {
            seconds += run_batch(word, lengths, sizes, engine, stream);
        }
        std::cout << "seconds " << seconds << std::endl;
    }
}

} // namespace

int main(int argc, char **argv) {
    const std::string type = argc == 5 ? argv[2] : "";
    if (type != "f32" && type != "bf16") {
        std::fprintf(stderr, "usage: onednn_lstm FOLDER f32|bf16 EMBEDDING HIDDEN\n");
        return 2;
    }
    flush_denormals();
    try {
        const Sizes sizes{type == "f32" ? Type::f32 : Type::bf16, std::stol(argv[3]),
                          std::stol(argv[4])};
        serve(read_lengths(std::string(argv[1]) + "/lengths.bin"), sizes);
    } catch (const std::exception &failure) {
        std::fprintf(stderr, "onednn_lstm %s: %s\n", type.c_str(), failure.what());
        return 1;
    }
    return 0;
}
