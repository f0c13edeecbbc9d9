// Shared memory of the block that runs: bounds, words that no thread has written, and races.
//
// Two accesses to a word by different threads, at least one writing, race unless a barrier lies
// between them: __syncthreads, which begins a new phase, or for lanes of one warp a __syncwarp that
// orders them, directly or by way of other lanes (a vector clock per lane; Fidge 1988). Atomic
// additions do not race with each other. For each word the latest write, the readers and the adders
// since are kept; a new reader that comes after all earlier ones takes their place, since whoever
// comes after it comes after them (FastTrack; Flanagan, Freund 2009).
#include <string.h>

#include <algorithm>

#include "tests/simcuda/sim_internal.h"

namespace simcuda {

namespace {

constexpr uint16_t MANY = 0xffff; // warps
constexpr unsigned WARPS = 32, LANES = 32;

// Accesses of one kind: lanes of one warp, or threads of many.
struct Trace {
    uint32_t phase;
    uint16_t warp;
    uint16_t line;
    uint32_t lanes;
    uint32_t time; // of the warp, at the latest access
};

struct Word {
    Trace write, reads, adds;
};

alignas(64) char memory[SHARED_MOST];
Word words[SHARED_MOST / 4];
uint32_t phase = 1;
uint32_t first_phase = 1; // of this block
unsigned block_bytes;

// Accesses of lane `b` up to before time [w][a][b] come before what lane `a` does now. Time of a
// warp is the number of its barriers so far.
uint32_t ordered_before[WARPS][LANES][LANES];
uint32_t warp_time[WARPS];

bool races_in_phase(const Trace &trace, unsigned warp, unsigned lane) {
    if (trace.warp != warp) {
        return true;
    }
    uint32_t others = trace.lanes & ~(1u << lane);
    for (; others != 0; others &= others - 1) {
        if (trace.time >= ordered_before[warp][lane][__builtin_ctz(others)]) {
            return true;
        }
    }
    return false;
}

// Is there an access in `trace` by another thread that nothing orders before this one?
inline bool races(const Trace &trace, unsigned warp, unsigned lane) {
    return trace.phase == phase && races_in_phase(trace, warp, lane);
}

Trace trace_of(unsigned warp, unsigned lane, int line) {
    return {phase, static_cast<uint16_t>(warp), static_cast<uint16_t>(line), 1u << lane,
            warp_time[warp]};
}

inline void join(Trace *trace, unsigned warp, unsigned lane, int line) {
    if (trace->phase == phase && trace->warp == MANY) {
        return;
    }
    if (!races(*trace, warp, lane)) {
        *trace = trace_of(warp, lane, line);
    } else if (trace->warp == warp) {
        trace->lanes |= 1u << lane;
        trace->time = warp_time[warp];
    } else {
        trace->warp = MANY;
    }
}

std::string other_thread(const Trace &trace, unsigned lane, unsigned warp) {
    if (trace.warp == MANY) {
        return "several threads";
    }
    const uint32_t others = trace.warp == warp ? trace.lanes & ~(1u << lane) : trace.lanes;
    return format("thread %u", trace.warp * LANES + static_cast<unsigned>(__builtin_ctz(others)));
}

[[noreturn]] void fault_race(const char *what, const char *before, const Trace &trace,
                             unsigned byte, const char *file, int line) {
    const unsigned thread = running.index;
    report_thread("race",
                  format("%s:%d: shared byte %u is %s with no barrier after %s %s it in line %u",
                         file, line, byte, what,
                         other_thread(trace, thread % LANES, thread / LANES).c_str(), before,
                         trace.line));
    leave_block(cudaErrorLaunchFailure);
}

[[noreturn]] void fault_unwritten(unsigned byte, const char *file, int line) {
    report_thread("uninitialised",
                  format("%s:%d: shared byte %u is read and was never written in this block", file,
                         line, byte));
    leave_block(cudaErrorLaunchFailure);
}

} // namespace

void *access_shared(Access kind, unsigned byte, unsigned bytes, const char *file, int line) {
    const unsigned thread = running.index;
    const unsigned warp = thread / LANES;
    const unsigned lane = thread % LANES;
    for (unsigned at = byte; at < byte + bytes; at += 4) {
        Word &word = words[at / 4];
        if (kind != Access::WRITE && word.write.phase < first_phase &&
            word.adds.phase < first_phase) {
            fault_unwritten(at, file, line);
        }
        const char *what = kind == Access::READ    ? "read"
                           : kind == Access::WRITE ? "written"
                                                   : "added to";
        if (races(word.write, warp, lane)) {
            fault_race(what, "wrote", word.write, at, file, line);
        }
        if (kind != Access::ATOMIC && races(word.adds, warp, lane)) {
            fault_race(what, "added to", word.adds, at, file, line);
        }
        if (kind != Access::READ && races(word.reads, warp, lane)) {
            fault_race(what, "read", word.reads, at, file, line);
        }
        if (kind == Access::READ) {
            join(&word.reads, warp, lane, line);
        } else if (kind == Access::WRITE) {
            word.write = trace_of(warp, lane, line);
        } else {
            join(&word.adds, warp, lane, line);
        }
    }
    return memory + byte;
}

unsigned take_shared(unsigned *next, size_t bytes) {
    const unsigned first = *next;
    if (bytes > block_bytes || first > block_bytes - bytes) {
        report_thread("out-of-bounds",
                      format("an array of %zu bytes at byte %u of %u bytes of shared memory", bytes,
                             first, block_bytes));
        leave_block(cudaErrorIllegalAddress);
    }
    *next = first + static_cast<unsigned>((bytes + 15) / 16 * 16);
    return first;
}

void shared_out_of_bounds(unsigned index, unsigned width, unsigned count, const char *file,
                          int line) {
    report_thread("out-of-bounds", format("%s:%d: elements %u to %u of a shared array of %u", file,
                                          line, index, index + width - 1, count));
    leave_block(cudaErrorIllegalAddress);
}

void shared_misaligned(unsigned index, const char *file, int line) {
    report_thread("misaligned", format("%s:%d: four floats at index %u, which is no multiple of 4",
                                       file, line, index));
    leave_block(cudaErrorMisalignedAddress);
}

// ---- barriers ----

void shared_begin_block(unsigned bytes) {
    if (phase > 0xf0000000u) {
        memset(words, 0, sizeof(words));
        phase = 0;
    }
    first_phase = ++phase;
    block_bytes = bytes;
    for (unsigned warp = 0; warp < WARPS; warp++) {
        if (warp_time[warp] > 0) {
            warp_time[warp] = 0;
            memset(ordered_before[warp], 0, sizeof(ordered_before[warp]));
        }
    }
}

void shared_block_barrier() {
    phase++;
}

void shared_warp_barrier(unsigned warp, unsigned mask) {
    const uint32_t time = ++warp_time[warp];
    uint32_t joined[LANES] = {};
    for (unsigned a = 0; a < LANES; a++) {
        if ((mask >> a & 1) != 0) {
            for (unsigned b = 0; b < LANES; b++) {
                joined[b] = std::max(joined[b], ordered_before[warp][a][b]);
            }
            joined[a] = time;
        }
    }
    for (unsigned a = 0; a < LANES; a++) {
        if ((mask >> a & 1) != 0) {
            memcpy(ordered_before[warp][a], joined, sizeof(joined));
        }
    }
}

} // namespace simcuda
