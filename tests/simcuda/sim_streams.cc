// Streams, and which work runs when. Work waits in the queue of its stream. A call that
// waits runs what it waits for; every other call may run some of what is due, as the seed says:
// each stream is for a while frozen (only what somebody waits for runs), dribbling (now and then a
// piece) or prompt (all that is due runs). Frozen streams are what shows a missing wait: the work
// that should have been waited for has not run.
#include <cuda_runtime.h>

#include <algorithm>

#include "tests/simcuda/sim_internal.h"

namespace simcuda {

namespace {

std::vector<std::unique_ptr<CUstream_st>> streams; // [0] the default stream; handles stay taken
std::vector<std::unique_ptr<CUevent_st>> events;
unsigned polls_until_change;
size_t changes; // of modes, since the reset
size_t longest_queue;

// ---- chance ----

// Percent of frozen and prompt streams, by seed: no seed is so eager that nothing ever waits.
CUstream_st::Mode draw_mode() {
    static const struct {
        uint32_t frozen, prompt;
    } BIAS[] = {{90, 5}, {60, 20}, {50, 30}, {60, 40}};
    const auto &bias = BIAS[state.seed % 4];
    const uint32_t draw = state.random.below(100);
    return draw < bias.frozen                 ? CUstream_st::FROZEN
           : draw < bias.frozen + bias.prompt ? CUstream_st::PROMPT
                                              : CUstream_st::DRIBBLE;
}

void change_modes() {
    if (polls_until_change > 0) {
        polls_until_change--;
        return;
    }
    // Short at first, so that a test of a few calls sees many changes; later now and then as long
    // as several steps of a training run.
    const uint32_t longer = static_cast<uint32_t>(std::min<size_t>(changes++ / 16, 6));
    polls_until_change = state.random.below(6u << state.random.below(longer + 1));
    // Like the queue of a real device, ours is not endless.
    longest_queue = 16u << state.random.below(6);
    for (auto &stream : streams) {
        stream->mode = draw_mode();
    }
}

// ---- running ----

CUstream_st *default_stream() {
    if (streams.empty()) {
        streams.push_back(std::make_unique<CUstream_st>());
    }
    return streams[0].get();
}

// What the stream's next operation waits for and has not been reached, or NULL.
const Point *unreached(const CUstream_st &stream) {
    for (const Point &point : stream.queue.front().after) {
        if (point.stream->completed < point.number) {
            return &point;
        }
    }
    return nullptr;
}

bool is_due(const CUstream_st &stream) {
    return !stream.queue.empty() && unreached(stream) == nullptr;
}

// One piece of the stream's next operation, which is due.
void step(CUstream_st *stream) {
    CUstream_st::Entry &entry = stream->queue.front();
    bool finished = true;
    if (entry.operation.make) {
        if (!entry.work) {
            entry.work = entry.operation.make();
        }
        finished = entry.work->step();
    }
    if (finished && entry.operation.make && state.sticky == cudaSuccess) {
        check_canaries(entry.operation.name.c_str());
    }
    if (state.sticky != cudaSuccess) {
        drop_pending();
    } else if (finished) {
        stream->queue.pop_front();
        stream->completed++;
    }
}

// What runs beside the work that somebody waits for.
void run_beside() {
    const size_t count = streams.size();
    const size_t first = state.random.below(static_cast<uint32_t>(count));
    for (size_t i = 0; i < count; i++) {
        CUstream_st *stream = streams[(first + i) % count].get();
        if (stream->mode == CUstream_st::DRIBBLE && state.random.chance(50) && is_due(*stream)) {
            step(stream);
        }
        while (is_due(*stream) &&
               (stream->mode == CUstream_st::PROMPT || stream->queue.size() > longest_queue)) {
            step(stream);
        }
    }
}

// One piece towards `point`, which has not been reached.
void step_towards(const Point &point) {
    CUstream_st *stream = point.stream;
    while (const Point *wait = unreached(*stream)) {
        stream = wait->stream;
    }
    step(stream);
}

} // namespace

bool reached(const Point &point) {
    return point.stream == nullptr || point.stream->completed >= point.number;
}

void run_until(const Point &point) {
    DeviceMemoryOpen open;
    SignalsCaught caught;
    while (!reached(point)) {
        if (state.random.chance(30)) {
            change_modes();
            run_beside();
        }
        if (!reached(point)) {
            step_towards(point);
        }
    }
}

void run_everything() {
    for (size_t i = 0; i < streams.size(); i++) {
        CUstream_st *stream = streams[(i + state.seed) % streams.size()].get();
        run_until({stream, stream->enqueued});
    }
}

void poll() {
    default_stream();
    change_modes();
    for (const auto &stream : streams) {
        if (!stream->queue.empty() &&
            (stream->mode != CUstream_st::FROZEN || stream->queue.size() > longest_queue)) {
            DeviceMemoryOpen open;
            SignalsCaught caught;
            run_beside();
            return;
        }
    }
}

void drop_pending() {
    for (auto &stream : streams) {
        stream->queue.clear();
        stream->completed = stream->enqueued;
    }
}

bool pending_work_touches(const Range &range) {
    for (const auto &stream : streams) {
        for (const CUstream_st::Entry &entry : stream->queue) {
            for (const Range &other : entry.operation.ranges) {
                if (other.begin < range.end && range.begin < other.end) {
                    return true;
                }
            }
        }
    }
    return false;
}

// ---- handles ----

CUstream_st *make_stream(bool blocking) {
    default_stream();
    auto made = std::make_unique<CUstream_st>();
    made->id = static_cast<int>(streams.size());
    made->blocking = blocking;
    made->mode = draw_mode();
    streams.push_back(std::move(made));
    return streams.back().get();
}

CUevent_st *make_event(unsigned flags) {
    events.push_back(std::make_unique<CUevent_st>());
    events.back()->flags = flags;
    return events.back().get();
}

std::vector<CUstream_st *> all_streams() {
    default_stream();
    std::vector<CUstream_st *> all;
    for (const auto &stream : streams) {
        all.push_back(stream.get());
    }
    return all;
}

CUstream_st *find_stream(cudaStream_t handle) {
    if (handle == nullptr) {
        return default_stream();
    }
    for (const auto &stream : streams) {
        if (stream.get() == handle && !stream->destroyed) {
            return handle;
        }
    }
    report("handle", "a stream that does not exist, or no longer");
    return nullptr;
}

CUevent_st *find_event(cudaEvent_t handle) {
    for (const auto &event : events) {
        if (event.get() == handle && !event->destroyed) {
            return handle;
        }
    }
    report("handle", "an event that does not exist, or no longer");
    return nullptr;
}

// ---- queues ----

// The default stream waits for the blocking ones and they wait for it.
static void add_implicit_order(CUstream_st *stream, std::vector<Point> *after) {
    for (const auto &other : streams) {
        const bool ordered = stream->id == 0 ? other->blocking : stream->blocking && other->id == 0;
        if (other.get() != stream && ordered && other->enqueued > 0) {
            after->push_back({other.get(), other->enqueued});
            join_clock(&stream->clock, other->clock);
        }
    }
}

cudaError_t enqueue(CUstream_st *stream, Operation operation, std::vector<Point> after) {
    if (stream->capture != nullptr) {
        return capture_operation(stream, std::move(operation));
    }
    if (stream->id == 0 || stream->blocking) {
        add_implicit_order(stream, &after);
    }
    join_clock(&stream->clock, host_clock());
    stream->clock[stream->id] = ++stream->enqueued;
    check_order(*stream, operation);
    CUstream_st::Entry entry;
    entry.operation = std::move(operation);
    entry.after = std::move(after);
    stream->queue.push_back(std::move(entry));
    return cudaSuccess;
}

cudaError_t wait_for(const Point &point, const Clock &clock) {
    for (;;) {
        Entered entered;
        if (usable() != cudaSuccess) {
            return usable();
        }
        if (reached(point)) {
            host_waited(clock);
            return cudaSuccess;
        }
        DeviceMemoryOpen open;
        SignalsCaught caught;
        for (unsigned pieces = 1 + state.random.below(16); pieces > 0 && !reached(point);
             pieces--) {
            if (state.random.chance(30)) {
                change_modes();
                run_beside();
            }
            if (!reached(point)) {
                step_towards(point);
            }
        }
    }
}

// Reached already, or a step nearer: who asks often enough gets there.
cudaError_t query(const Point &point, const Clock &clock) {
    if (!reached(point)) {
        poll();
    }
    if (!reached(point) && state.random.chance(40)) {
        DeviceMemoryOpen open;
        SignalsCaught caught;
        step_towards(point);
    }
    if (usable() != cudaSuccess || !reached(point)) {
        return usable() != cudaSuccess ? usable() : cudaErrorNotReady;
    }
    host_waited(clock);
    return cudaSuccess;
}

void forget_streams() {
    streams.clear();
    events.clear();
    polls_until_change = 0;
    changes = 0;
    longest_queue = 16;
}

void list_streams(std::vector<std::string> *out) {
    for (const auto &stream : streams) {
        if (stream->id != 0 && !stream->destroyed) {
            out->push_back(format("stream %d", stream->id));
        }
    }
    for (size_t i = 0; i < events.size(); i++) {
        if (!events[i]->destroyed) {
            out->push_back(format("event %zu", i));
        }
    }
}

} // namespace simcuda
