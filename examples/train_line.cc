// train_line.cc - the library from C++17: a handle that closes itself, and a line fitted to points.
//
//     c++ -std=c++17 train_line.cc -o train_line $(pkg-config --cflags --libs cairn-checkpoint)
//     ./train_line runs/line
//
// Every start goes 100 steps further than the one before.
#include <cstdint>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <string>

#include <cairn/checkpoint.h>

namespace {

struct Close {
    void operator()(cairn_checkpoint *handle) const { cairn_checkpoint_close(handle, nullptr); }
};
using Checkpoints = std::unique_ptr<cairn_checkpoint, Close>;

// The library's statuses as exceptions.
void check(cairn_status status, const cairn_error &error) {
    if (status != CAIRN_OK) {
        throw std::runtime_error(error.message);
    }
}

struct Line {
    double slope = 0.0, offset = 0.0;

    void step(std::uint64_t number) { // towards y = 3 x - 1
        const double x = static_cast<double>(number % 7) - 3.0;
        const double error = slope * x + offset - (3.0 * x - 1.0);
        slope -= 0.02 * error * x;
        offset -= 0.02 * error;
    }
};

void train(const std::string &directory) {
    Line line; // before the handle: it must be there as long as that
    cairn_error error;
    cairn_checkpoint *opened = nullptr;
    check(cairn_checkpoint_open(directory.c_str(), nullptr, &opened, &error), error);
    Checkpoints saves(opened);

    const cairn_tensor tensors[] = {
        {"slope", CAIRN_F64, CAIRN_HOST, &line.slope, 0, {}},
        {"offset", CAIRN_F64, CAIRN_HOST, &line.offset, 0, {}},
    };
    for (const cairn_tensor &tensor : tensors) {
        check(cairn_checkpoint_add(saves.get(), &tensor, &error), error);
    }
    bool found = false;
    std::uint64_t step = 0;
    check(cairn_checkpoint_restore_latest(saves.get(), &found, &step, &error), error);
    std::printf("%s at step %llu\n", found ? "resumed" : "started",
                static_cast<unsigned long long>(step));

    for (const std::uint64_t last = step + 100; step < last;) {
        line.step(step++);
    }
    check(cairn_checkpoint_save(saves.get(), step, CAIRN_CHECKPOINT_MUST, nullptr, &error), error);
    check(cairn_checkpoint_wait(saves.get(), &error), error);
    std::printf("step %llu: y = %.6f x + %.6f\n", static_cast<unsigned long long>(step), line.slope,
                line.offset);
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 2) {
        std::fprintf(stderr, "usage: %s DIRECTORY\n", argv[0]);
        return 2;
    }
    try {
        train(argv[1]);
    } catch (const std::exception &failure) {
        std::fprintf(stderr, "%s\n", failure.what());
        return 1;
    }
    return 0;
}
