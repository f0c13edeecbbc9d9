// Which operations are ordered, by vector clocks (Fidge 1988, Mattern 1989), and a report for two
// copies, fills or products that touch the same bytes and are not. What kernels touch is unknown:
// for them the schedules are there. All threads of the host count as one: what they hand to each
// other under their own locks cannot be seen here.
#include <algorithm>

#include "tests/simcuda/sim_internal.h"

namespace simcuda {

namespace {

struct Touched {
    Range range;
    int stream;
    uint64_t number;
    std::string name;
};

std::vector<Touched> history;
Clock host;

bool covers(const Clock &clock, int stream, uint64_t number) {
    const auto found = clock.find(stream);
    return found != clock.end() && found->second >= number;
}

bool conflict(const Range &a, const Range &b) {
    return (a.write || b.write) && a.begin < b.end && b.begin < a.end;
}

} // namespace

void join_clock(Clock *into, const Clock &other) {
    for (const auto &[stream, number] : other) {
        uint64_t &own = (*into)[stream];
        own = std::max(own, number);
    }
}

bool operations_conflict(const Operation &a, const Operation &b) {
    for (const Range &x : a.ranges) {
        for (const Range &y : b.ranges) {
            if (conflict(x, y)) {
                return true;
            }
        }
    }
    return false;
}

void check_order(const CUstream_st &stream, const Operation &operation) {
    // What the host has waited for comes before all that is to come.
    history.erase(std::remove_if(history.begin(), history.end(),
                                 [](const Touched &t) { return covers(host, t.stream, t.number); }),
                  history.end());
    for (const Touched &earlier : history) {
        for (const Range &range : operation.ranges) {
            if (conflict(range, earlier.range) &&
                !covers(stream.clock, earlier.stream, earlier.number)) {
                report("order", format("%s on stream %d and %s on stream %d touch the same bytes "
                                       "and nothing orders them",
                                       operation.name.c_str(), stream.id, earlier.name.c_str(),
                                       earlier.stream));
                return;
            }
        }
    }
    for (const Range &range : operation.ranges) {
        const auto same = [&](const Touched &t) {
            return t.stream == stream.id && t.range.begin == range.begin &&
                   t.range.end == range.end && t.range.write == range.write;
        };
        history.erase(std::remove_if(history.begin(), history.end(), same), history.end());
        history.push_back({range, stream.id, stream.enqueued, operation.name});
    }
}

void host_waited(const Clock &clock) {
    join_clock(&host, clock);
}

const Clock &host_clock() {
    return host;
}

void forget_order() {
    history.clear();
    host.clear();
}

} // namespace simcuda
