// A block of a kernel. Its threads are fibers; each runs until it waits, and when nothing can run
// any more, either all threads stand at the same __syncthreads or the block is stuck: a fault.
//
// Order of the threads: warps in an order drawn anew for every pass, lanes of a warp in an order
// drawn anew for every round; a warp that can go on after a shuffle does so at once or after the
// other warps, by seed. A fiber whose thread has ended goes on with the next thread that has not
// begun, so that a kernel without barriers costs no switches.
#include <cuda_runtime.h>

#include <signal.h>

#include <algorithm>
#include <numeric>

#include "tests/simcuda/sim_internal.h"

namespace simcuda {

Running running;

namespace {

constexpr unsigned WARPS = 32, LANES = 32;

struct Meeting { // of one lane
    WarpOperation operation;
    uint32_t mask;
    unsigned source;
    uint64_t value;
    uint64_t result;
    const char *file;
    int line;
};

struct Warp {
    uint32_t exists, fresh, ready, at_barrier, meeting; // lanes
    Meeting lane[LANES];
};

struct Round {
    unsigned warp;
    uint32_t todo;
    unsigned next, step, start; // the i-th lane is (i * step + start) % 32
};

struct Block {
    const char *kernel;
    const std::function<void()> *body;
    unsigned threads, warps;
    bool one_row;            // threads differ in x only
    unsigned ended, waiting; // at the barrier
    const char *barrier_file;
    int barrier_line;
    bool barriers_differ;
    int other_line;
    bool yields; // the last lane to arrive at a meeting lets others go first
    Round round;
    cudaError_t failed;
    uint16_t fiber_of[FIBERS];
    Warp warp[WARPS];
};

Block block;
std::vector<uint16_t> free_fibers;

Warp &warp_of(unsigned thread) {
    return block.warp[thread / LANES];
}

uint32_t bit_of(unsigned thread) {
    return 1u << (thread % LANES);
}

std::string where() {
    return format("kernel %s, block (%u,%u,%u)", block.kernel, running.block.x, running.block.y,
                  running.block.z);
}

// ---- the threads of a round ----

constexpr unsigned NONE = UINT32_MAX;

unsigned peek_round() {
    Round &round = block.round;
    for (; round.next < LANES; round.next++) {
        const unsigned lane = (round.next * round.step + round.start) % LANES;
        if ((round.todo >> lane & 1) != 0) {
            return round.warp * LANES + lane;
        }
    }
    return NONE;
}

void take_turn(unsigned thread) {
    block.round.next++;
    running.index = thread;
    if (block.one_row) {
        running.thread.x = thread;
    } else {
        const unsigned x = running.block_dim.x;
        const unsigned y = running.block_dim.y;
        running.thread = {thread % x, thread / x % y, thread / x / y};
    }
}

// What a fiber does: threads that have not begun, one after the other.
void run_threads(unsigned fiber) {
    for (;;) {
        const unsigned thread = running.index;
        block.fiber_of[thread] = static_cast<uint16_t>(fiber);
        warp_of(thread).fresh &= ~bit_of(thread);
        (*block.body)();
        warp_of(thread).ready &= ~bit_of(thread);
        block.ended++;
        const unsigned next = peek_round();
        if (next == NONE || (warp_of(next).fresh & bit_of(next)) == 0) {
            break;
        }
        take_turn(next);
    }
    free_fibers.push_back(static_cast<uint16_t>(fiber));
}

// The running thread waits: on with the next one of the round, or back to the scheduler.
void suspend() {
    const unsigned next = peek_round();
    if (next == NONE || (warp_of(next).fresh & bit_of(next)) != 0) {
        fiber_leave();
        return;
    }
    take_turn(next);
    state.counts.switches++;
    fiber_switch(block.fiber_of[next]);
}

void run_round(unsigned warp) {
    const uint64_t draw = state.random.next();
    block.round = {warp, block.warp[warp].ready, 0, static_cast<unsigned>(draw % LANES) | 1,
                   static_cast<unsigned>(draw >> 32) % LANES};
    for (unsigned thread = peek_round(); thread != NONE && block.failed == cudaSuccess;
         thread = peek_round()) {
        take_turn(thread);
        unsigned fiber = block.fiber_of[thread];
        if ((block.warp[warp].fresh & bit_of(thread)) != 0) {
            fiber = free_fibers.back();
            free_fibers.pop_back();
        }
        state.counts.switches++;
        fiber_resume(fiber);
    }
}

// ---- a block ----

void fault_by_signal(int number, uintptr_t address, bool write, bool overflow) {
    if (overflow) {
        report_thread("stack", "the thread's stack is full");
        leave_block(cudaErrorLaunchFailure);
    }
    if (number == SIGFPE) {
        report_thread("division", "an integer is divided by zero");
        leave_block(cudaErrorLaunchFailure);
    }
    report_thread("out-of-bounds",
                  format("%s %s", write ? "writes" : "reads", describe_address(address).c_str()));
    leave_block(cudaErrorIllegalAddress);
}

void begin_block(const char *kernel, const std::function<void()> *body, unsigned shared_bytes) {
    fiber_body = run_threads;
    fiber_signal = fault_by_signal;
    if (free_fibers.empty()) {
        free_fibers.resize(FIBERS);
        std::iota(free_fibers.rbegin(), free_fibers.rend(), uint16_t{0});
    }
    block.kernel = kernel;
    block.body = body;
    block.threads = running.block_dim.x * running.block_dim.y * running.block_dim.z;
    block.one_row = running.block_dim.x == block.threads;
    running.thread = {0, 0, 0};
    block.warps = (block.threads + LANES - 1) / LANES;
    block.ended = block.waiting = 0;
    block.barriers_differ = false;
    block.yields = state.random.chance(50);
    block.failed = cudaSuccess;
    for (unsigned w = 0; w < block.warps; w++) {
        Warp &warp = block.warp[w];
        const unsigned lanes = std::min(LANES, block.threads - w * LANES);
        warp.exists = lanes == LANES ? UINT32_MAX : (1u << lanes) - 1;
        warp.fresh = warp.ready = warp.exists;
        warp.at_barrier = warp.meeting = 0;
    }
    shared_begin_block(shared_bytes);
}

// Every warp that can run, in an order drawn by seed; false: none could.
bool run_pass() {
    uint8_t order[WARPS];
    std::iota(order, order + block.warps, uint8_t{0});
    const bool in_depth = state.random.chance(50);
    bool ran = false;
    for (unsigned i = 0; i < block.warps && block.failed == cudaSuccess; i++) {
        std::swap(order[i], order[i + state.random.below(block.warps - i)]);
        const Warp &warp = block.warp[order[i]];
        while (warp.ready != 0 && block.failed == cudaSuccess) {
            ran = true;
            run_round(order[i]);
            if (!in_depth) {
                break;
            }
        }
    }
    return ran;
}

bool release_barrier() {
    if (block.waiting != block.threads || block.barriers_differ) {
        return false;
    }
    block.waiting = 0;
    for (unsigned w = 0; w < block.warps; w++) {
        block.warp[w].ready = block.warp[w].exists;
        block.warp[w].at_barrier = 0;
    }
    shared_block_barrier();
    return true;
}

// Why nothing can run any more.
void report_stuck() {
    block.failed = cudaErrorLaunchFailure;
    for (unsigned w = 0; w < block.warps; w++) {
        const Warp &warp = block.warp[w];
        if (warp.meeting == 0) {
            continue;
        }
        const unsigned lane = static_cast<unsigned>(__builtin_ctz(warp.meeting));
        const Meeting &m = warp.lane[lane];
        report("warp-mask",
               format("%s, thread %u: %s:%d: waits for lanes %#x of warp %u, of which %#x do not "
                      "come there (same function, same mask)",
                      where().c_str(), w * LANES + lane, m.file, m.line, m.mask, w,
                      m.mask & ~warp.meeting ? m.mask & ~warp.meeting : m.mask & ~(1u << lane)));
        return;
    }
    if (block.barriers_differ) {
        report("divergent-barrier",
               format("%s: %s: threads wait at __syncthreads in line %d and in line %d",
                      where().c_str(), block.barrier_file, block.barrier_line, block.other_line));
        return;
    }
    report("divergent-barrier",
           format("%s: %s:%d: %u threads wait at __syncthreads, %u have ended", where().c_str(),
                  block.barrier_file, block.barrier_line, block.waiting, block.ended));
}

// Threads that have not ended lose their fibers.
void give_up_block() {
    for (unsigned i = 0; i < FIBERS; i++) {
        fiber_discard(i);
    }
    free_fibers.clear();
}

} // namespace

// ---- what kernels and launches call ----

cudaError_t run_block(const char *kernel, const std::function<void()> &body,
                      unsigned shared_bytes) {
    begin_block(kernel, &body, shared_bytes);
    while (block.failed == cudaSuccess && block.ended < block.threads) {
        if (!run_pass() && !release_barrier()) {
            report_stuck();
        }
    }
    if (block.failed != cudaSuccess) {
        give_up_block();
    }
    return block.failed;
}

void report_thread(const char *kind, const std::string &text) {
    report(kind, format("%s, thread %u: ", where().c_str(), running.index) + text);
}

void leave_block(cudaError_t error) {
    block.failed = error;
    for (;;) {
        fiber_leave(); // and never comes back
    }
}

void expect_block(unsigned threads) {
    if (block.threads != threads || running.block_dim.x != threads) {
        report_thread(
            "launch-bounds",
            format("the kernel is made for blocks of %u threads, this one is %u x %u x %u", threads,
                   running.block_dim.x, running.block_dim.y, running.block_dim.z));
        leave_block(cudaErrorLaunchFailure);
    }
}

void sync_block(const char *file, int line) {
    Warp &warp = warp_of(running.index);
    if (block.waiting++ == 0) {
        block.barrier_file = file;
        block.barrier_line = line;
    } else if (line != block.barrier_line) {
        block.barriers_differ = true;
        block.other_line = line;
    }
    warp.at_barrier |= bit_of(running.index);
    warp.ready &= ~bit_of(running.index);
    suspend();
}

// All lanes of `mask` have come: give each its result.
static void hold_meeting(Warp *warp, uint32_t mask, WarpOperation operation) {
    uint64_t votes = 0;
    for (uint32_t rest = mask; rest != 0; rest &= rest - 1) {
        const unsigned lane = static_cast<unsigned>(__builtin_ctz(rest));
        votes |= uint64_t{warp->lane[lane].value != 0} << lane;
        warp->lane[lane].result = warp->lane[warp->lane[lane].source].value;
    }
    for (uint32_t rest = operation == WarpOperation::VOTE ? mask : 0; rest != 0; rest &= rest - 1) {
        warp->lane[__builtin_ctz(rest)].result = votes;
    }
    warp->meeting &= ~mask;
    warp->ready |= mask;
}

uint64_t meet_warp(WarpOperation operation, unsigned mask, uint64_t value, unsigned source,
                   const char *file, int line) {
    Warp &warp = warp_of(running.index);
    const unsigned lane = lane_now();
    if ((mask & bit_of(running.index)) == 0 || (mask & ~warp.exists) != 0) {
        report_thread("warp-mask",
                      format("%s:%d: mask %#x %s", file, line, mask,
                             (mask & ~warp.exists) != 0 ? "names lanes that the block does not have"
                                                        : "does not name the calling lane"));
        leave_block(cudaErrorLaunchFailure);
    }
    if ((mask >> source & 1) == 0) {
        report_thread("warp-mask", format("%s:%d: reads from lane %u, which mask %#x does not name",
                                          file, line, source, mask));
        leave_block(cudaErrorLaunchFailure);
    }
    warp.lane[lane] = {operation, mask, source, value, 0, file, line};
    warp.meeting |= bit_of(running.index);
    bool complete = (warp.meeting & mask) == mask;
    for (uint32_t rest = complete ? mask : 0; rest != 0; rest &= rest - 1) {
        const Meeting &other = warp.lane[__builtin_ctz(rest)];
        complete = complete && other.mask == mask && other.operation == operation;
    }
    if (complete) {
        hold_meeting(&warp, mask, operation);
        if (operation == WarpOperation::SYNC) {
            shared_warp_barrier(running.index / LANES, mask);
        }
    } else {
        warp.ready &= ~bit_of(running.index);
    }
    if (!complete || block.yields) {
        suspend();
    }
    return warp.lane[lane].result;
}

} // namespace simcuda
