// simcuda.h - the controls of the simulated device, for tests. README.md says what is simulated.
//
//     simcuda::reset(seed);                     nothing is left of what came before
//     ... run the code under test ...
//     EXPECT_EQ(simcuda::reports_text(), "");   no violation
//     EXPECT_THAT(simcuda::leaks(), IsEmpty());
//
// A report is made for every violation. Those of kernels also fail the device, as on a real one:
// every later call returns the error. Reports that nobody has taken are printed to stderr when the
// process ends, all of them at once when they occur with CAIRN_SIM_REPORT=1, and with
// CAIRN_SIM_STRICT=1 such a process ends with status EXIT_REPORTS.
//
// Environment, read at the first use: CAIRN_SIM_SEED (1), CAIRN_SIM_DEVICES (1), CAIRN_SIM_REPORT,
// CAIRN_SIM_STRICT, CAIRN_SIM_FAIL_LAUNCH, CAIRN_SIM_FAIL_COPY, CAIRN_SIM_FAIL_ALLOC (the number
// of the launch, copy or allocation that fails, from 1).
//
// THREADS: any, but `reset` while nothing else uses the device.
#ifndef CAIRN_TESTS_SIMCUDA_SIMCUDA_H
#define CAIRN_TESTS_SIMCUDA_SIMCUDA_H

#include <stddef.h>
#include <stdint.h>

#include <string>
#include <vector>

namespace simcuda {

constexpr int EXIT_REPORTS = 86;

struct Report {
    std::string kind; // one of the words in README.md, e.g. "race", "out-of-bounds", "order"
    std::string text; // a sentence with kernel, block, thread and place where they are known
};

struct Counts {
    uint64_t launches; // kernels that ran, those of graphs too
    uint64_t blocks;
    uint64_t switches; // from one thread of a block to another
    uint64_t copies;   // copies and fills that ran
    uint64_t graph_launches;
    uint64_t allocations; // of device and pinned memory
};

struct ProfilerRanges {
    uint64_t pushes;
    uint64_t pops;
    uint64_t unmatched_pops;
};

// Forget everything: device and pinned memory is gone, pending work too, handles are invalid, the
// error, reports, counts and injected failures are cleared.
void reset(uint64_t seed);
// Once more, after the environment was changed.
void read_environment();
uint64_t seed();

void set_device_count(int count);
// Bytes that may be allocated on the device; 8 GiB at first.
void set_device_memory(size_t bytes);

// The nth kernel that runs from now on (1: the next) fails with cudaErrorLaunchFailure, the nth
// copy or fill with cudaErrorECCUncorrectable: the device is lost then, and a later call says so.
void fail_launch(unsigned nth);
void fail_copy(unsigned nth);
// The nth allocation of device or pinned memory from now on returns cudaErrorMemoryAllocation.
void fail_allocation(unsigned nth);

// Reports so far; they count as read afterwards.
std::vector<Report> take_reports();
// The same, one a line: "kind: text\n".
std::string reports_text();
// What is alive: device memory, pinned memory, streams, events, graphs, cuBLAS handles.
std::vector<std::string> leaks();

Counts counts();
ProfilerRanges profiler_ranges();

// The word that device memory is filled with before it is written: a quiet NaN as float, and twice
// as double.
constexpr uint32_t POISON = 0x7ffcafe5u;

} // namespace simcuda

#endif
