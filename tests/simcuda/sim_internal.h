// sim_internal.h - what the files of the simulated device share.
//
//   sim_device.cc    state, errors, reports, injected failures, device facts, controls
//   sim_memory.cc    device and pinned memory: guard pages, canaries, poison
//   sim_copies.cc    copies and fills, in pieces
//   sim_streams.cc   streams, which work runs when
//   sim_stream_calls.cc  what the API says of streams and events
//   sim_order.cc     vector clocks: two copies that nothing orders
//   sim_graphs.cc    capture and graphs
//   sim_launch.cc    kernels: launches
//   sim_blocks.cc    blocks: their threads, barriers, warp functions
//   sim_fibers.cc    fibers and what the sanitizers want to know of them, faults by signal
//   sim_shared.cc    shared memory: bounds, words never written, races
//   sim_cublas.cc, sim_nvtx.cc
//
// One mutex guards everything. Work runs on the thread whose call finds it due, with the mutex
// held. Functions here expect it held unless they say otherwise.
#ifndef CAIRN_TESTS_SIMCUDA_SIM_INTERNAL_H
#define CAIRN_TESTS_SIMCUDA_SIM_INTERNAL_H

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "tests/simcuda/cuda_runtime.h"
#include "tests/simcuda/simcuda.h"

namespace simcuda {

// ---- chance ----

// splitmix64 (Steele, Lea, Flood 2014): small and good enough for schedules.
class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed) {}
    uint64_t next() {
        uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        return z ^ (z >> 31);
    }
    // 0 to n - 1, n from 1
    uint32_t below(uint32_t n) { return static_cast<uint32_t>(((next() >> 32) * n) >> 32); }
    bool chance(uint32_t percent) { return below(100) < percent; }

  private:
    uint64_t state_;
};

// ---- work ----

// What an operation does when its turn comes, a piece at a time.
class Work {
  public:
    virtual ~Work() = default;
    // Do a piece; true: that was the last one. Device memory is accessible. May fail_device().
    virtual bool step() = 0;
};

// Bytes that an operation is known to touch.
struct Range {
    uintptr_t begin;
    uintptr_t end;
    bool write;
};

struct Operation {
    std::string name;
    std::function<std::unique_ptr<Work>()> make; // again for every launch of a graph; may be empty
    std::vector<Range> ranges;
};

// "Everything up to the operation `number` of this stream."
struct Point {
    CUstream_st *stream = nullptr;
    uint64_t number = 0;
};

// Per stream the number of its last operation that is known to come before.
using Clock = std::map<int, uint64_t>;
void join_clock(Clock *into, const Clock &other);

struct Capture;

} // namespace simcuda

struct CUstream_st {
    struct Entry {
        simcuda::Operation operation;
        std::unique_ptr<simcuda::Work> work;
        std::vector<simcuda::Point> after;
        bool begun = false;
    };
    enum Mode { FROZEN, DRIBBLE, PROMPT };

    int id = 0;
    bool blocking = true; // with the default stream
    bool destroyed = false;
    uint64_t enqueued = 0; // numbers of operations, from 1
    uint64_t completed = 0;
    std::deque<Entry> queue; // those in between
    simcuda::Clock clock;
    Mode mode = FROZEN;
    simcuda::Capture *capture = nullptr;
    std::vector<int> capture_after; // nodes that the next captured operation follows
};

struct CUevent_st {
    unsigned flags = 0;
    bool destroyed = false;
    simcuda::Point point; // no stream: never recorded
    simcuda::Clock clock;
    uint64_t ran_ns = 0;                 // when the latest record ran
    simcuda::Capture *capture = nullptr; // recorded in this capture
    std::vector<int> capture_after;
};

namespace simcuda {

// ---- state and errors (sim_device.cc) ----

struct State {
    std::mutex mutex;
    uint64_t seed = 1;
    Random random{1};
    cudaError_t sticky = cudaSuccess; // the device is lost
    std::vector<Report> reports;
    size_t reports_read = 0;
    Counts counts{};
    unsigned fail_launch = 0, fail_copy = 0, fail_allocation = 0;
    int device_count = 1;
    size_t device_memory = size_t{8} << 30;
    bool print_reports = false;
    bool strict = false;
};
extern State state;

// Every entry of the API: takes the mutex, reads the environment the first time.
class Entered {
  public:
    Entered();

  private:
    std::unique_lock<std::mutex> lock_;
};

// What every entry returns while the device cannot be used: none there, or lost.
cudaError_t usable();
// Remember `error` for cudaGetLastError and return it.
cudaError_t returned(cudaError_t error);
// The device is lost: all pending work is dropped, every later call returns `error`.
void fail_device(cudaError_t error);
void report(const char *kind, const std::string &text);
__attribute__((format(printf, 1, 2))) std::string format(const char *pattern, ...);
// Counts an injected failure down; true when it is due.
bool injected(unsigned *countdown);

// ---- memory (sim_memory.cc) ----

struct Allocation {
    uintptr_t begin; // what the caller has
    size_t bytes;
    uintptr_t map_begin; // pages of it, inaccessible ones before and behind
    size_t map_bytes;
    uintptr_t reserved_begin; // all of these
    size_t reserved_bytes;
    bool pinned;
    bool freed;
    uint64_t number;
};

// The live allocation that holds all of [p, p + bytes), or NULL.
const Allocation *find_allocation(const void *p, size_t bytes);
// "byte 20 of device memory #3 (400 bytes)", also of addresses near or in freed memory.
std::string describe_address(uintptr_t address);
// Is this address in or around device or pinned memory, live or freed?
bool is_device_address(const void *p);
// Bytes around allocations that were overwritten: a report, and the device is lost. `culprit`: what
// ran last.
void check_canaries(const char *culprit);
void forget_memory();
void list_memory(std::vector<std::string> *out);
void poison_words(void *p, size_t bytes);
// Does [p, p + bytes) hold the poison, as float or double, converted or negated?
bool holds_poison(const void *p, size_t bytes);

// While one lives device memory is accessible on this machine; nests.
class DeviceMemoryOpen {
  public:
    DeviceMemoryOpen();
    ~DeviceMemoryOpen();
    DeviceMemoryOpen(const DeviceMemoryOpen &) = delete;
    DeviceMemoryOpen &operator=(const DeviceMemoryOpen &) = delete;
};

// ---- streams (sim_streams.cc) ----

CUstream_st *make_stream(bool blocking);
CUevent_st *make_event(unsigned flags);
// The stream behind the handle (NULL: the default stream), or NULL when it is none.
CUstream_st *find_stream(cudaStream_t handle);
CUevent_st *find_event(cudaEvent_t handle);
std::vector<CUstream_st *> all_streams(); // the destroyed ones too
// Append to the stream, or to the graph that it is captured into.
cudaError_t enqueue(CUstream_st *stream, Operation operation, std::vector<Point> after = {});
// Run what must run for `point` to be reached, and whatever else the seed says.
void run_until(const Point &point);
void run_everything();
bool reached(const Point &point);
// What cudaEventSynchronize and cudaEventQuery do. `clock`: what the host knows of then. wait_for
// takes the mutex itself and leaves it between pieces, so that other threads go on meanwhile.
cudaError_t wait_for(const Point &point, const Clock &clock);
cudaError_t query(const Point &point, const Clock &clock);
// Something may run now: called at the end of every entry that is not a wait.
void poll();
void drop_pending();
void forget_streams();
void list_streams(std::vector<std::string> *out);
// Does pending work touch these bytes?
bool pending_work_touches(const Range &range);

// ---- order (sim_order.cc) ----

// `stream` has just got operation `number`: compare with all others that nothing orders with it.
void check_order(const CUstream_st &stream, const Operation &operation);
// The host has waited for what `clock` covers.
// Do two operations touch the same bytes, at least one writing?
bool operations_conflict(const Operation &a, const Operation &b);
void host_waited(const Clock &clock);
const Clock &host_clock();
void forget_order();

// ---- graphs (sim_graphs.cc) ----

cudaError_t capture_operation(CUstream_st *stream, Operation operation);
// A call that must not be made during a capture: invalidates it and returns the error; cudaSuccess
// when there is none. `stream`: what the call is about, NULL where it is about the whole device.
cudaError_t refuse_in_capture(CUstream_st *stream);
// The same for calls that only Global and ThreadLocal captures forbid.
cudaError_t refuse_unsafe_in_capture();
void invalidate_capture(Capture *capture);
cudaError_t capture_wait(CUstream_st *stream, CUevent_st *event);
void forget_graphs();
void list_graphs(std::vector<std::string> *out);

// ---- kernels (sim_launch.cc, sim_blocks.cc, sim_fibers.cc, sim_shared.cc) ----

// Run a block, `running` says which; cudaSuccess or what it failed with.
cudaError_t run_block(const char *kernel, const std::function<void()> &body, unsigned shared_bytes);

// The running thread of a block has done what `text` says; then the launch ends with `error`. Two
// calls, since what stands on the thread's stack is never destroyed. Only for code that kernels
// call.
void report_thread(const char *kind, const std::string &text);
[[noreturn]] void leave_block(cudaError_t error);

// Fibers: `body(index)` runs on the fiber until it calls fiber_leave.
constexpr unsigned FIBERS = 1024;
void fiber_resume(unsigned index);  // from the scheduler; returns when a fiber leaves
void fiber_switch(unsigned index);  // from a fiber, to one that has switched away or left
void fiber_leave();                 // from a fiber, to the scheduler
void fiber_discard(unsigned index); // what stands on it is given up; it starts anew
extern void (*fiber_body)(unsigned index);
// A fiber that ran into a signal leaves by this: set by sim_blocks.cc.
extern void (*fiber_signal)(int signal_number, uintptr_t address, bool write, bool overflow);

// Signals of this thread go to the fibers while one lives.
class SignalsCaught {
  public:
    SignalsCaught();
    ~SignalsCaught();
    SignalsCaught(const SignalsCaught &) = delete;
    SignalsCaught &operator=(const SignalsCaught &) = delete;

  private:
    uint64_t mask_[16]; // a sigset_t
};

constexpr unsigned SHARED_DEFAULT = 48 * 1024;
constexpr unsigned SHARED_MOST = 99 * 1024; // sm_86, sm_89 and sm_120, the smallest
void shared_begin_block(unsigned bytes);
void shared_block_barrier();
// The lanes of `mask` have met with the effect of __syncwarp.
void shared_warp_barrier(unsigned warp, unsigned mask);

void forget_launches();
void list_blas(std::vector<std::string> *out);
void forget_blas();
void forget_nvtx();

} // namespace simcuda

#endif
