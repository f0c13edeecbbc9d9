// fake_backend.h - a backend without operations: memory, copies, streams and events only.
//
// Two kinds. `unified`: ordinary memory, everything runs in the call, as on the CPU. Otherwise an
// asynchronous device: each stream is a thread that runs its work late, a copy first poisons its
// destination and then arrives in two halves, and device memory may only be touched by work on a
// stream. A missing wait therefore shows: as older values while the stream is held, as 0xA5 in the
// middle of a copy, as a data race under ThreadSanitizer.
//
//     FakeBackend device(FakeBackend::ASYNCHRONOUS);
//     device.hold(BACKEND_STREAM_COPY);                     work piles up
//     ... snapshot_fill ...
//     device.launch([&] { region[0] = 7; });                an op on the compute stream
//     device.release(BACKEND_STREAM_COPY);
//
// THREADS: as kernels/backend.h; hold, release and launch on the test's thread.
#ifndef CAIRN_TESTS_SUPPORT_FAKE_BACKEND_H
#define CAIRN_TESTS_SUPPORT_FAKE_BACKEND_H

#include <functional>
#include <memory>

#include "kernels/backend.h"

class FakeBackend {
  public:
    enum Kind { UNIFIED, ASYNCHRONOUS };
    static constexpr unsigned char POISON = 0xA5;

    explicit FakeBackend(Kind kind);
    ~FakeBackend(); // every allocation and event must have been freed
    FakeBackend(const FakeBackend &) = delete;
    FakeBackend &operator=(const FakeBackend &) = delete;

    struct backend *get();

    // `op` runs on the compute stream, in order.
    void launch(std::function<void()> op);
    // The stream finishes what it is at and then stands still until release. ASYNCHRONOUS only.
    void hold(enum backend_stream stream);
    void release(enum backend_stream stream);
    // Stop a held stream's next copy after half of its bytes: release runs it to there, and a
    // second release to its end. Blocks until the copy stands at its half.
    void run_half_a_copy(enum backend_stream stream);

    // The nth call from now on (1: the next) of an entry that can fail returns STATUS_DEVICE or,
    // where it allocates, STATUS_MEMORY. 0: none.
    void fail_call(unsigned n);
    // Entries called so far that can fail.
    unsigned calls() const;

    size_t device_bytes() const; // allocated now
    size_t host_bytes() const;
    uint64_t bytes_copied() const; // sum of all copies asked for

    struct State;

  private:
    std::unique_ptr<State> state_;
};

#endif
