// Copies and fills. They run when their turn comes, in pieces, so that a reader that does not wait
// sees old bytes, poison or half of the new ones. Pageable memory follows the runtime's rules: read
// at the call, written before the call returns.
#include <cuda_runtime.h>

#include <string.h>

#include <algorithm>

#include "tests/simcuda/sim_internal.h"

namespace simcuda {

namespace {

enum class Place { DEVICE, PINNED, PAGEABLE, INVALID };

Place place_of(const void *p, size_t bytes) {
    if (const Allocation *a = find_allocation(p, bytes)) {
        return a->pinned ? Place::PINNED : Place::DEVICE;
    }
    return is_device_address(p) ? Place::INVALID : Place::PAGEABLE;
}

Range range_of(const void *p, size_t bytes, bool write) {
    const uintptr_t begin = reinterpret_cast<uintptr_t>(p);
    return {begin, begin + bytes, write};
}

// `bytes` in up to four pieces, cut at multiples of 4.
std::vector<size_t> cut(size_t bytes) {
    std::vector<size_t> ends;
    const size_t words = bytes / 4;
    for (unsigned i = state.random.below(4); i > 0 && words > 1; i--) {
        ends.push_back(4 * (1 + state.random.next() % (words - 1)));
    }
    ends.push_back(bytes);
    std::sort(ends.begin(), ends.end());
    return ends;
}

// What copies and fills have in common: pieces, and the failure that a test asked for.
class PieceWork : public Work {
  public:
    explicit PieceWork(size_t bytes) : ends_(cut(bytes)) {}
    bool step() override {
        if (next_ == 0) {
            state.counts.copies++;
            if (injected(&state.fail_copy)) {
                fail_device(cudaErrorECCUncorrectable);
                return true;
            }
            begin();
        }
        const size_t from = next_ == 0 ? 0 : ends_[next_ - 1];
        piece(from, ends_[next_] - from);
        return ++next_ == ends_.size();
    }

  protected:
    virtual void begin() {}
    virtual void piece(size_t from, size_t bytes) = 0;

  private:
    std::vector<size_t> ends_;
    size_t next_ = 0;
};

class CopyWork : public PieceWork {
  public:
    CopyWork(std::string name, void *dst, const void *src, size_t bytes, bool to_host,
             std::shared_ptr<std::vector<char>> captured)
        : PieceWork(bytes), name_(std::move(name)), dst_(static_cast<char *>(dst)),
          src_(captured ? captured->data() : static_cast<const char *>(src)), bytes_(bytes),
          to_host_(to_host), captured_(std::move(captured)) {}

  protected:
    void begin() override {
        if (to_host_ && holds_poison(src_, bytes_)) {
            report("uninitialised",
                   format("%s: uninitialised device memory was copied to the host, from %s",
                          name_.c_str(),
                          describe_address(reinterpret_cast<uintptr_t>(src_)).c_str()));
        }
        if (to_host_) {
            poison_words(dst_, bytes_);
        }
    }
    void piece(size_t from, size_t bytes) override { memmove(dst_ + from, src_ + from, bytes); }

  private:
    std::string name_;
    char *dst_;
    const char *src_;
    size_t bytes_;
    bool to_host_;
    std::shared_ptr<std::vector<char>> captured_; // of a pageable source
};

class FillWork : public PieceWork {
  public:
    FillWork(void *dst, int value, size_t bytes)
        : PieceWork(bytes), dst_(static_cast<char *>(dst)), value_(value) {}

  protected:
    void piece(size_t from, size_t bytes) override { memset(dst_ + from, value_, bytes); }

  private:
    char *dst_;
    int value_;
};

// ---- checks at the call ----

bool kind_fits(cudaMemcpyKind kind, Place dst, Place src) {
    const bool to_device = dst == Place::DEVICE;
    const bool from_device = src == Place::DEVICE;
    switch (kind) {
    case cudaMemcpyHostToHost:
        return !to_device && !from_device;
    case cudaMemcpyHostToDevice:
        return to_device && !from_device;
    case cudaMemcpyDeviceToHost:
        return !to_device && from_device;
    case cudaMemcpyDeviceToDevice:
        return to_device && from_device;
    default:
        return true;
    }
}

cudaError_t bad_copy(const char *what, const void *p, size_t bytes) {
    report("copy", format("%s of %zu bytes at %s", what, bytes,
                          describe_address(reinterpret_cast<uintptr_t>(p)).c_str()));
    return cudaErrorInvalidValue;
}

cudaError_t check_copy(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind) {
    const Place to = place_of(dst, bytes);
    const Place from = place_of(src, bytes);
    if (to == Place::INVALID) {
        return bad_copy("copy to memory out of bounds or freed:", dst, bytes);
    }
    if (from == Place::INVALID) {
        return bad_copy("copy from memory out of bounds or freed:", src, bytes);
    }
    if (!kind_fits(kind, to, from)) {
        return bad_copy("copy in a direction that is not that of its pointers:", dst, bytes);
    }
    return cudaSuccess;
}

// `wait`: cudaMemcpy, which returns when the destination is there.
cudaError_t copy(void *dst, const void *src, size_t bytes, cudaMemcpyKind kind, CUstream_st *stream,
                 bool wait) {
    if (cudaError_t error = check_copy(dst, src, bytes, kind)) {
        return error;
    }
    if (bytes == 0) {
        return cudaSuccess;
    }
    const Place to = place_of(dst, bytes);
    const Place from = place_of(src, bytes);
    const bool pageable = to == Place::PAGEABLE || from == Place::PAGEABLE;
    if (stream->capture != nullptr && pageable) {
        return refuse_in_capture(stream);
    }
    std::shared_ptr<std::vector<char>> captured;
    if (from == Place::PAGEABLE) {
        const char *bytes_of = static_cast<const char *>(src);
        captured = std::make_shared<std::vector<char>>(bytes_of, bytes_of + bytes);
    }
    const bool to_host = to != Place::DEVICE && from == Place::DEVICE;
    Operation operation;
    operation.name = format("copy of %zu bytes to %s", bytes,
                            describe_address(reinterpret_cast<uintptr_t>(dst)).c_str());
    operation.make = [name = operation.name, dst, src, bytes, to_host, captured] {
        return std::make_unique<CopyWork>(name, dst, src, bytes, to_host, captured);
    };
    if (to != Place::PAGEABLE) {
        operation.ranges.push_back(range_of(dst, bytes, true));
    }
    if (from != Place::PAGEABLE) {
        operation.ranges.push_back(range_of(src, bytes, false));
    }
    if (to_host && to == Place::PINNED && stream->capture == nullptr &&
        !pending_work_touches(range_of(dst, bytes, true))) {
        poison_words(dst, bytes);
    }
    if (cudaError_t error = enqueue(stream, std::move(operation))) {
        return error;
    }
    if (stream->capture == nullptr && (wait || to == Place::PAGEABLE)) {
        run_until({stream, stream->enqueued});
        host_waited(stream->clock);
    }
    return usable();
}

cudaError_t fill(void *dst, int value, size_t bytes, CUstream_st *stream) {
    const Place to = place_of(dst, bytes);
    if (to != Place::DEVICE && to != Place::PINNED) {
        return bad_copy("fill of memory out of bounds, freed or not of the device:", dst, bytes);
    }
    if (bytes == 0) {
        return cudaSuccess;
    }
    Operation operation;
    operation.name = format("fill of %zu bytes of %s", bytes,
                            describe_address(reinterpret_cast<uintptr_t>(dst)).c_str());
    operation.make = [dst, value, bytes] { return std::make_unique<FillWork>(dst, value, bytes); };
    operation.ranges.push_back(range_of(dst, bytes, true));
    return enqueue(stream, std::move(operation));
}

} // namespace
} // namespace simcuda

using namespace simcuda;

// ---- the API ----

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t count, cudaMemcpyKind kind,
                            cudaStream_t handle) {
    Entered entered;
    CUstream_st *stream = find_stream(handle);
    if (usable() != cudaSuccess || stream == nullptr) {
        return returned(usable() != cudaSuccess ? usable() : cudaErrorInvalidResourceHandle);
    }
    const cudaError_t error = copy(dst, src, count, kind, stream, false);
    poll();
    return returned(error);
}

cudaError_t cudaMemcpy(void *dst, const void *src, size_t count, cudaMemcpyKind kind) {
    Entered entered;
    cudaError_t error = usable();
    if (error == cudaSuccess) {
        error = refuse_unsafe_in_capture();
    }
    if (error == cudaSuccess) {
        error = copy(dst, src, count, kind, find_stream(nullptr), true);
        poll();
    }
    return returned(error);
}

cudaError_t cudaMemsetAsync(void *devPtr, int value, size_t count, cudaStream_t handle) {
    Entered entered;
    CUstream_st *stream = find_stream(handle);
    if (usable() != cudaSuccess || stream == nullptr) {
        return returned(usable() != cudaSuccess ? usable() : cudaErrorInvalidResourceHandle);
    }
    const cudaError_t error = fill(devPtr, value, count, stream);
    poll();
    return returned(error);
}

// Asynchronous with respect to the host, as the runtime's for device memory.
cudaError_t cudaMemset(void *devPtr, int value, size_t count) {
    Entered entered;
    cudaError_t error = usable();
    if (error == cudaSuccess) {
        error = refuse_unsafe_in_capture();
    }
    if (error == cudaSuccess) {
        error = fill(devPtr, value, count, find_stream(nullptr));
        poll();
    }
    return returned(error);
}
