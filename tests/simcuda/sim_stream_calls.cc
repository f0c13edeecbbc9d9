// Streams and events: the calls.
#include <cuda_runtime.h>

#include <time.h>

#include "tests/simcuda/sim_internal.h"

using namespace simcuda;

// ---- streams ----

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned int flags, int) {
    Entered entered;
    if (cudaError_t error = usable()) {
        return returned(error);
    }
    *stream = make_stream((flags & cudaStreamNonBlocking) == 0);
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int flags) {
    return cudaStreamCreateWithPriority(stream, flags, 0);
}

cudaError_t cudaStreamCreate(cudaStream_t *stream) {
    return cudaStreamCreateWithPriority(stream, cudaStreamDefault, 0);
}

// What is pending still runs.
cudaError_t cudaStreamDestroy(cudaStream_t handle) {
    Entered entered;
    CUstream_st *stream = handle == nullptr ? nullptr : find_stream(handle);
    if (stream == nullptr) {
        return returned(cudaErrorInvalidResourceHandle);
    }
    if (stream->capture != nullptr) {
        return returned(refuse_in_capture(stream));
    }
    stream->destroyed = true;
    return returned(usable());
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
    Point point;
    Clock clock;
    {
        Entered entered;
        CUstream_st *stream = find_stream(handle);
        if (stream == nullptr) {
            return returned(cudaErrorInvalidResourceHandle);
        }
        cudaError_t error = refuse_in_capture(stream);
        if (error == cudaSuccess) {
            error = refuse_unsafe_in_capture();
        }
        if (error != cudaSuccess) {
            return returned(error);
        }
        point = {stream, stream->enqueued};
        clock = stream->clock;
    }
    const cudaError_t error = wait_for(point, clock);
    Entered entered;
    return returned(error);
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
    Entered entered;
    CUstream_st *stream = find_stream(handle);
    if (usable() != cudaSuccess || stream == nullptr) {
        return returned(usable() != cudaSuccess ? usable() : cudaErrorInvalidResourceHandle);
    }
    cudaError_t error = refuse_in_capture(stream);
    if (error == cudaSuccess) {
        error = refuse_unsafe_in_capture();
    }
    return returned(error != cudaSuccess ? error
                                         : query({stream, stream->enqueued}, stream->clock));
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event_handle, unsigned int) {
    Entered entered;
    CUstream_st *stream = find_stream(handle);
    CUevent_st *event = find_event(event_handle);
    if (usable() != cudaSuccess || stream == nullptr || event == nullptr) {
        return returned(usable() != cudaSuccess ? usable() : cudaErrorInvalidResourceHandle);
    }
    if (stream->capture != nullptr || event->capture != nullptr) {
        return returned(capture_wait(stream, event));
    }
    if (event->point.stream == nullptr) {
        return cudaSuccess; // never recorded: nothing to wait for
    }
    join_clock(&stream->clock, event->clock);
    Operation wait;
    wait.name = "wait for an event";
    const cudaError_t error = enqueue(stream, std::move(wait), {event->point});
    poll();
    return returned(error);
}

cudaError_t cudaDeviceSynchronize() {
    std::vector<Point> points;
    std::vector<Clock> clocks;
    {
        Entered entered;
        if (cudaError_t error = usable()) {
            return returned(error);
        }
        if (cudaError_t error = refuse_in_capture(nullptr)) {
            return returned(error);
        }
        for (CUstream_st *stream : all_streams()) {
            points.push_back({stream, stream->enqueued});
            clocks.push_back(stream->clock);
        }
    }
    cudaError_t error = cudaSuccess;
    for (size_t i = 0; i < points.size() && error == cudaSuccess; i++) {
        const size_t at = (i + state.seed) % points.size();
        error = wait_for(points[at], clocks[at]);
    }
    Entered entered;
    return returned(error);
}

// ---- events ----

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int flags) {
    Entered entered;
    if (cudaError_t error = usable()) {
        return returned(error);
    }
    *event = make_event(flags);
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event) {
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t handle) {
    Entered entered;
    CUevent_st *event = find_event(handle);
    if (event == nullptr) {
        return returned(cudaErrorInvalidResourceHandle);
    }
    event->destroyed = true;
    return returned(usable());
}

namespace {

uint64_t now_ns() {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<uint64_t>(now.tv_sec) * 1000000000u + static_cast<uint64_t>(now.tv_nsec);
}

// The moment at which a record runs.
class RecordWork : public Work {
  public:
    explicit RecordWork(CUevent_st *event) : event_(event) {}
    bool step() override {
        event_->ran_ns = now_ns();
        return true;
    }

  private:
    CUevent_st *event_;
};

} // namespace

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream_handle) {
    Entered entered;
    CUevent_st *event = find_event(handle);
    CUstream_st *stream = find_stream(stream_handle);
    if (usable() != cudaSuccess || stream == nullptr || event == nullptr) {
        return returned(usable() != cudaSuccess ? usable() : cudaErrorInvalidResourceHandle);
    }
    if (stream->capture != nullptr) {
        event->capture = stream->capture;
        event->capture_after = stream->capture_after;
        return cudaSuccess;
    }
    Operation record;
    record.name = "record of an event";
    record.make = [event] { return std::make_unique<RecordWork>(event); };
    const cudaError_t error = enqueue(stream, std::move(record));
    event->capture = nullptr;
    event->point = {stream, stream->enqueued};
    event->clock = stream->clock;
    poll();
    return returned(error);
}

static cudaError_t check_event_wait(CUevent_st *event) {
    if (usable() != cudaSuccess) {
        return usable();
    }
    if (event->capture != nullptr) {
        invalidate_capture(event->capture);
        return cudaErrorCapturedEvent;
    }
    return refuse_unsafe_in_capture();
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
    Point point;
    Clock clock;
    {
        Entered entered;
        CUevent_st *event = find_event(handle);
        if (event == nullptr) {
            return returned(cudaErrorInvalidResourceHandle);
        }
        if (cudaError_t error = check_event_wait(event)) {
            return returned(error);
        }
        point = event->point;
        clock = event->clock;
    }
    const cudaError_t error = wait_for(point, clock);
    Entered entered;
    return returned(error);
}

cudaError_t cudaEventQuery(cudaEvent_t handle) {
    Entered entered;
    CUevent_st *event = find_event(handle);
    if (event == nullptr) {
        return returned(cudaErrorInvalidResourceHandle);
    }
    const cudaError_t error = check_event_wait(event);
    return returned(error != cudaSuccess ? error : query(event->point, event->clock));
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end) {
    Entered entered;
    CUevent_st *from = find_event(start);
    CUevent_st *to = find_event(end);
    if (from == nullptr || to == nullptr || from->point.stream == nullptr ||
        to->point.stream == nullptr || ((from->flags | to->flags) & cudaEventDisableTiming) != 0) {
        return returned(cudaErrorInvalidResourceHandle);
    }
    if (usable() != cudaSuccess || !reached(from->point) || !reached(to->point)) {
        return returned(usable() != cudaSuccess ? usable() : cudaErrorNotReady);
    }
    *ms = static_cast<float>(static_cast<double>(to->ran_ns - from->ran_ns) * 1e-6);
    return cudaSuccess;
}
