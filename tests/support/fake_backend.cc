#include "tests/support/fake_backend.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>

struct backend_event {
    uint64_t recorded = 0; // guarded by the state's event mutex
    uint64_t reached = 0;
};

namespace {

// ---- a stream: a thread with a list of things to do ----

class Stream {
  public:
    Stream() : thread_([this] { run(); }) {}

    ~Stream() {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            closing_ = true;
            held_ = false;
        }
        changed_.notify_all();
        thread_.join();
    }

    void enqueue(std::function<void()> work) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            work_.push_back(std::move(work));
        }
        changed_.notify_all();
    }

    void synchronize() {
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [this] { return work_.empty() && !busy_; });
    }

    void hold() {
        std::unique_lock<std::mutex> lock(mutex_);
        held_ = true;
        changed_.wait(lock, [this] { return !busy_ || standing_at_half_; });
    }

    void release() {
        std::lock_guard<std::mutex> lock(mutex_);
        held_ = false;
        changed_.notify_all();
    }

    void run_half_a_copy() {
        std::unique_lock<std::mutex> lock(mutex_);
        stop_at_half_ = true;
        held_ = false;
        changed_.notify_all();
        changed_.wait(lock, [this] { return standing_at_half_; });
    }

    // On the stream's own thread, in the middle of a copy.
    void at_half() {
        std::unique_lock<std::mutex> lock(mutex_);
        if (!stop_at_half_) {
            return;
        }
        stop_at_half_ = false;
        held_ = true;
        standing_at_half_ = true;
        changed_.notify_all();
        changed_.wait(lock, [this] { return !held_; });
        standing_at_half_ = false;
    }

  private:
    void run() {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            changed_.wait(lock, [this] { return closing_ || (!held_ && !work_.empty()); });
            if (work_.empty()) {
                return;
            }
            std::function<void()> work = std::move(work_.front());
            work_.pop_front();
            busy_ = true;
            lock.unlock();
            work();
            lock.lock();
            busy_ = false;
            changed_.notify_all();
        }
    }

    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<std::function<void()>> work_;
    bool busy_ = false, held_ = false, closing_ = false;
    bool stop_at_half_ = false, standing_at_half_ = false;
    std::thread thread_; // last: starts when the rest is there
};

} // namespace

struct FakeBackend::State : backend {
    std::unique_ptr<Stream> streams[BACKEND_STREAM_COUNT]; // none: everything runs in the call
    std::atomic<unsigned> calls{0}, fail_at{0};
    std::atomic<uint64_t> copied{0};
    std::map<void *, size_t> device_memory, host_memory; // trainer's thread only
    int events = 0;
    std::mutex event_mutex;
    std::condition_variable event_reached;

    static State &of(struct backend *be) { return *static_cast<State *>(be); }

    void run(enum backend_stream stream, std::function<void()> work) {
        if (streams[stream] != nullptr) {
            streams[stream]->enqueue(std::move(work));
        } else {
            work();
        }
    }

    bool fails() {
        unsigned call = ++calls;
        return fail_at != 0 && call == fail_at;
    }
};

namespace {

using State = FakeBackend::State;

enum status refuse(struct error *err, enum status status, const char *what) {
    return error_set(err, status, "fake device: %s failed as the test asked", what);
}

// ---- memory ----

enum status allocate(std::map<void *, size_t> *list, size_t bytes, void **out) {
    size_t rounded = (bytes + 63) / 64 * 64;
    EXPECT_EQ(posix_memalign(out, 64, rounded == 0 ? 64 : rounded), 0);
    memset(*out, 0, rounded);
    (*list)[*out] = bytes;
    return STATUS_OK;
}

void release_memory(std::map<void *, size_t> *list, void *memory) {
    if (memory != nullptr) {
        EXPECT_EQ(list->erase(memory), 1u) << "freed twice, or never allocated here";
        free(memory);
    }
}

enum status device_alloc(struct backend *be, size_t bytes, void **out, struct error *err) {
    State &state = State::of(be);
    return state.fails() ? refuse(err, STATUS_MEMORY, "device_alloc")
                         : allocate(&state.device_memory, bytes, out);
}

void device_free(struct backend *be, void *memory) {
    release_memory(&State::of(be).device_memory, memory);
}

enum status host_alloc(struct backend *be, size_t bytes, void **out, struct error *err) {
    State &state = State::of(be);
    return state.fails() ? refuse(err, STATUS_MEMORY, "host_alloc")
                         : allocate(&state.host_memory, bytes, out);
}

void host_free(struct backend *be, void *memory) {
    release_memory(&State::of(be).host_memory, memory);
}

// ---- copies ----

void copy_in_halves(Stream *stream, unsigned char *dst, const unsigned char *src, size_t bytes) {
    memset(dst, FakeBackend::POISON, bytes);
    size_t half = bytes / 2;
    memcpy(dst, src, half);
    stream->at_half();
    std::this_thread::yield();
    memcpy(dst + half, src + half, bytes - half);
}

enum status copy(struct backend *be, void *dst, const void *src, size_t bytes,
                 enum backend_stream stream, struct error *err) {
    State &state = State::of(be);
    if (state.fails()) {
        return refuse(err, STATUS_DEVICE, "copy");
    }
    state.copied += bytes;
    Stream *worker = state.streams[stream].get();
    if (worker == nullptr) {
        memcpy(dst, src, bytes);
        return STATUS_OK;
    }
    worker->enqueue([=] {
        copy_in_halves(worker, static_cast<unsigned char *>(dst),
                       static_cast<const unsigned char *>(src), bytes);
    });
    return STATUS_OK;
}

enum status fill_zero(struct backend *be, void *dst, size_t bytes, enum backend_stream stream,
                      struct error *err) {
    State &state = State::of(be);
    if (state.fails()) {
        return refuse(err, STATUS_DEVICE, "fill_zero");
    }
    state.run(stream, [=] { memset(dst, 0, bytes); });
    return STATUS_OK;
}

// ---- streams and events ----

enum status stream_synchronize(struct backend *be, enum backend_stream stream, struct error *) {
    State &state = State::of(be);
    if (state.streams[stream] != nullptr) {
        state.streams[stream]->synchronize();
    }
    return STATUS_OK;
}

void wait_until(State *state, struct backend_event *event, uint64_t record) {
    std::unique_lock<std::mutex> lock(state->event_mutex);
    state->event_reached.wait(lock, [=] { return event->reached >= record; });
}

uint64_t latest_record(State *state, struct backend_event *event) {
    std::lock_guard<std::mutex> lock(state->event_mutex);
    return event->recorded;
}

enum status stream_wait_event(struct backend *be, enum backend_stream stream,
                              struct backend_event *event, struct error *err) {
    State *state = &State::of(be);
    if (state->fails()) {
        return refuse(err, STATUS_DEVICE, "stream_wait_event");
    }
    uint64_t record = latest_record(state, event);
    state->run(stream, [=] { wait_until(state, event, record); });
    return STATUS_OK;
}

enum status event_create(struct backend *be, struct backend_event **out, struct error *err) {
    State &state = State::of(be);
    if (state.fails()) {
        return refuse(err, STATUS_DEVICE, "event_create");
    }
    *out = new backend_event;
    state.events++;
    return STATUS_OK;
}

void event_free(struct backend *be, struct backend_event *event) {
    State::of(be).events--;
    delete event;
}

enum status event_record(struct backend *be, struct backend_event *event,
                         enum backend_stream stream, struct error *err) {
    State *state = &State::of(be);
    if (state->fails()) {
        return refuse(err, STATUS_DEVICE, "event_record");
    }
    uint64_t record;
    {
        std::lock_guard<std::mutex> lock(state->event_mutex);
        record = ++event->recorded;
    }
    state->run(stream, [=] {
        std::lock_guard<std::mutex> lock(state->event_mutex);
        event->reached = std::max(event->reached, record);
        state->event_reached.notify_all();
    });
    return STATUS_OK;
}

enum status event_wait(struct backend *be, struct backend_event *event, struct error *err) {
    State *state = &State::of(be);
    if (state->fails()) {
        return refuse(err, STATUS_DEVICE, "event_wait");
    }
    wait_until(state, event, latest_record(state, event));
    return STATUS_OK;
}

enum status event_query(struct backend *be, struct backend_event *event, bool *done,
                        struct error *err) {
    State *state = &State::of(be);
    if (state->fails()) {
        return refuse(err, STATUS_DEVICE, "event_query");
    }
    std::lock_guard<std::mutex> lock(state->event_mutex);
    *done = event->reached >= event->recorded;
    return STATUS_OK;
}

// ---- recorded steps, profiler ranges ----

enum status replay(struct backend *, struct backend_recording **,
                   enum status (*enqueue)(void *context, struct error *err), void *context,
                   struct error *err) {
    return enqueue(context, err);
}

void recording_free(struct backend *, struct backend_recording *) {}

void range_begin(struct backend *, const char *) {}

void range_end(struct backend *) {}

// The object on the test's stack owns the device.
void free_nothing(struct backend *) {}

struct backend_table make_table() {
    struct backend_table table = {};
    table.device_alloc = device_alloc;
    table.device_free = device_free;
    table.host_alloc = host_alloc;
    table.host_free = host_free;
    table.copy = copy;
    table.fill_zero = fill_zero;
    table.stream_synchronize = stream_synchronize;
    table.stream_wait_event = stream_wait_event;
    table.event_create = event_create;
    table.event_free = event_free;
    table.event_record = event_record;
    table.event_wait = event_wait;
    table.event_query = event_query;
    table.replay = replay;
    table.recording_free = recording_free;
    table.range_begin = range_begin;
    table.range_end = range_end;
    table.free = free_nothing;
    return table;
}

const struct backend_table fake_table = make_table();

size_t total(const std::map<void *, size_t> &list) {
    size_t sum = 0;
    for (const auto &entry : list) {
        sum += entry.second;
    }
    return sum;
}

} // namespace

FakeBackend::FakeBackend(Kind kind) : state_(new State) {
    state_->table = &fake_table;
    state_->device = "fake";
    state_->kernel_path = "fake";
    state_->unified_memory = kind == UNIFIED;
    snprintf(state_->description, sizeof state_->description, "fake device of the tests");
    if (kind == ASYNCHRONOUS) {
        for (auto &stream : state_->streams) {
            stream = std::make_unique<Stream>();
        }
    }
}

FakeBackend::~FakeBackend() {
    for (auto &stream : state_->streams) {
        stream.reset();
    }
    EXPECT_EQ(total(state_->device_memory), 0u) << "device memory was not freed";
    EXPECT_EQ(total(state_->host_memory), 0u) << "host memory was not freed";
    EXPECT_EQ(state_->events, 0) << "events were not freed";
}

struct backend *FakeBackend::get() {
    return state_.get();
}
void FakeBackend::launch(std::function<void()> op) {
    state_->run(BACKEND_STREAM_COMPUTE, std::move(op));
}
void FakeBackend::hold(enum backend_stream stream) {
    state_->streams[stream]->hold();
}
void FakeBackend::release(enum backend_stream stream) {
    state_->streams[stream]->release();
}
void FakeBackend::run_half_a_copy(enum backend_stream stream) {
    state_->streams[stream]->run_half_a_copy();
}
void FakeBackend::fail_call(unsigned n) {
    state_->fail_at = n == 0 ? 0 : state_->calls + n;
}
unsigned FakeBackend::calls() const {
    return state_->calls;
}
size_t FakeBackend::device_bytes() const {
    return total(state_->device_memory);
}
size_t FakeBackend::host_bytes() const {
    return total(state_->host_memory);
}
uint64_t FakeBackend::bytes_copied() const {
    return state_->copied;
}
