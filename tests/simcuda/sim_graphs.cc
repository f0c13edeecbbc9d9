// Stream capture and graphs. A captured operation is a node that follows the nodes before it in its
// stream and those that came in by an event. A launched graph runs its nodes in any order that this
// allows, several at a time, as the seed says.
#include <cuda_runtime.h>

#include <algorithm>
#include <thread>

#include "tests/simcuda/sim_internal.h"

namespace simcuda {

namespace {

struct Node {
    Operation operation;
    std::vector<int> after;
};
using Nodes = std::vector<Node>;

} // namespace

struct Capture {
    cudaStreamCaptureMode mode;
    std::thread::id thread;
    CUstream_st *origin;
    std::set<CUstream_st *> streams;
    bool active = true;
    bool invalid = false;
    Nodes nodes;
};

} // namespace simcuda

struct CUgraph_st {
    std::shared_ptr<const simcuda::Nodes> nodes;
    bool destroyed = false;
};

struct CUgraphExec_st {
    std::shared_ptr<const simcuda::Nodes> nodes;
    simcuda::Point latest; // launches of one graph do not overlap
    simcuda::Clock latest_clock;
    bool destroyed = false;
};

namespace simcuda {

namespace {

std::vector<std::unique_ptr<Capture>> captures; // events may point to those that have ended
std::vector<std::unique_ptr<CUgraph_st>> graphs;
std::vector<std::unique_ptr<CUgraphExec_st>> executables;

bool any_active() {
    return std::any_of(captures.begin(), captures.end(),
                       [](const auto &capture) { return capture->active; });
}

void add_after(std::vector<int> *after, const std::vector<int> &more) {
    for (int node : more) {
        if (std::find(after->begin(), after->end(), node) == after->end()) {
            after->push_back(node);
        }
    }
}

// Which nodes come before each (or are it).
std::vector<std::vector<bool>> ancestors(const Nodes &nodes) {
    std::vector<std::vector<bool>> before(nodes.size(), std::vector<bool>(nodes.size()));
    for (size_t i = 0; i < nodes.size(); i++) {
        before[i][i] = true;
        for (int parent : nodes[i].after) {
            const std::vector<bool> &of_parent = before[static_cast<size_t>(parent)];
            for (size_t j = 0; j < nodes.size(); j++) {
                before[i][j] = before[i][j] || of_parent[j];
            }
        }
    }
    return before;
}

void check_order_inside(const Nodes &nodes, const std::vector<std::vector<bool>> &before) {
    for (size_t i = 0; i < nodes.size(); i++) {
        for (size_t j = 0; j < i; j++) {
            if (!before[i][j] && operations_conflict(nodes[i].operation, nodes[j].operation)) {
                report("order",
                       format("in a graph: %s and %s touch the same bytes and nothing "
                              "orders them",
                              nodes[i].operation.name.c_str(), nodes[j].operation.name.c_str()));
            }
        }
    }
}

// Has every stream of the capture come back to the first one?
bool all_joined(const Capture &capture, const std::vector<std::vector<bool>> &before) {
    for (const CUstream_st *stream : capture.streams) {
        for (int node : stream->capture_after) {
            bool joined = false;
            for (int last : capture.origin->capture_after) {
                joined = joined || before[static_cast<size_t>(last)][static_cast<size_t>(node)];
            }
            if (!joined) {
                return false;
            }
        }
    }
    return true;
}

void end_capture(Capture *capture) {
    for (CUstream_st *stream : capture->streams) {
        stream->capture = nullptr;
        stream->capture_after.clear();
    }
    capture->streams.clear();
    capture->active = false;
}

// ---- running ----

class GraphWork : public Work {
  public:
    explicit GraphWork(std::shared_ptr<const Nodes> nodes)
        : nodes_(std::move(nodes)), waits_(nodes_->size()), works_(nodes_->size()),
          unfinished_(nodes_->size()) {
        state.counts.graph_launches++;
        for (size_t i = 0; i < nodes_->size(); i++) {
            waits_[i] = (*nodes_)[i].after.size();
            if (waits_[i] == 0) {
                due_.push_back(i);
            }
        }
    }
    bool step() override {
        if (unfinished_ == 0) {
            return true;
        }
        const size_t at = state.random.below(static_cast<uint32_t>(due_.size()));
        const size_t node = due_[at];
        if (!works_[node]) {
            works_[node] = (*nodes_)[node].operation.make();
        }
        if (works_[node]->step()) {
            due_.erase(due_.begin() + static_cast<std::ptrdiff_t>(at));
            finish(node);
        }
        return unfinished_ == 0;
    }

  private:
    void finish(size_t node) {
        works_[node].reset();
        unfinished_--;
        check_canaries((*nodes_)[node].operation.name.c_str());
        for (size_t i = 0; i < nodes_->size(); i++) {
            const std::vector<int> &after = (*nodes_)[i].after;
            if (std::find(after.begin(), after.end(), static_cast<int>(node)) != after.end() &&
                --waits_[i] == 0) {
                due_.push_back(i);
            }
        }
    }

    std::shared_ptr<const Nodes> nodes_;
    std::vector<size_t> waits_; // parents that have not finished
    std::vector<std::unique_ptr<Work>> works_;
    std::vector<size_t> due_;
    size_t unfinished_;
};

CUgraphExec_st *find_executable(cudaGraphExec_t handle) {
    for (const auto &each : executables) {
        if (each.get() == handle && !each->destroyed) {
            return handle;
        }
    }
    report("handle", "an executable graph that does not exist, or no longer");
    return nullptr;
}

CUgraph_st *find_graph(cudaGraph_t handle) {
    for (const auto &each : graphs) {
        if (each.get() == handle && !each->destroyed) {
            return handle;
        }
    }
    report("handle", "a graph that does not exist, or no longer");
    return nullptr;
}

} // namespace

// ---- what other files ask ----

cudaError_t capture_operation(CUstream_st *stream, Operation operation) {
    Capture *capture = stream->capture;
    if (capture->invalid) {
        return cudaErrorStreamCaptureInvalidated;
    }
    capture->nodes.push_back({std::move(operation), stream->capture_after});
    stream->capture_after = {static_cast<int>(capture->nodes.size()) - 1};
    return cudaSuccess;
}

void invalidate_capture(Capture *capture) {
    capture->invalid = true;
}

cudaError_t refuse_in_capture(CUstream_st *stream) {
    if (stream != nullptr && stream->capture != nullptr) {
        invalidate_capture(stream->capture);
        return cudaErrorStreamCaptureUnsupported;
    }
    if (stream == nullptr && any_active()) {
        for (const auto &capture : captures) {
            capture->invalid = capture->invalid || capture->active;
        }
        return cudaErrorStreamCaptureUnsupported;
    }
    return cudaSuccess;
}

cudaError_t refuse_unsafe_in_capture() {
    cudaError_t error = cudaSuccess;
    for (const auto &capture : captures) {
        const bool forbids = capture->mode == cudaStreamCaptureModeGlobal ||
                             (capture->mode == cudaStreamCaptureModeThreadLocal &&
                              capture->thread == std::this_thread::get_id());
        if (capture->active && forbids) {
            invalidate_capture(capture.get());
            error = cudaErrorStreamCaptureUnsupported;
        }
    }
    return error;
}

cudaError_t capture_wait(CUstream_st *stream, CUevent_st *event) {
    Capture *capture = event->capture;
    if (capture == nullptr) {
        invalidate_capture(stream->capture);
        return cudaErrorStreamCaptureIsolation;
    }
    if (!capture->active) {
        return cudaErrorCapturedEvent;
    }
    if (stream->capture != nullptr && stream->capture != capture) {
        invalidate_capture(capture);
        invalidate_capture(stream->capture);
        return cudaErrorStreamCaptureMerge;
    }
    if (stream->id == 0) {
        invalidate_capture(capture);
        return cudaErrorStreamCaptureImplicit;
    }
    if (capture->invalid) {
        return cudaErrorStreamCaptureInvalidated;
    }
    stream->capture = capture;
    capture->streams.insert(stream);
    add_after(&stream->capture_after, event->capture_after);
    return cudaSuccess;
}

void forget_graphs() {
    captures.clear();
    graphs.clear();
    executables.clear();
}

void list_graphs(std::vector<std::string> *out) {
    for (size_t i = 0; i < graphs.size(); i++) {
        if (!graphs[i]->destroyed) {
            out->push_back(format("graph %zu", i));
        }
    }
    for (size_t i = 0; i < executables.size(); i++) {
        if (!executables[i]->destroyed) {
            out->push_back(format("executable graph %zu", i));
        }
    }
}

} // namespace simcuda

using namespace simcuda;

// ---- capture ----

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
    Entered entered;
    CUstream_st *stream = find_stream(handle);
    if (usable() != cudaSuccess || stream == nullptr) {
        return returned(usable() != cudaSuccess ? usable() : cudaErrorInvalidResourceHandle);
    }
    if (stream->id == 0) {
        return returned(cudaErrorStreamCaptureUnsupported);
    }
    if (stream->capture != nullptr) {
        invalidate_capture(stream->capture);
        return returned(cudaErrorIllegalState);
    }
    captures.push_back(std::make_unique<Capture>());
    Capture *capture = captures.back().get();
    capture->mode = mode;
    capture->thread = std::this_thread::get_id();
    capture->origin = stream;
    capture->streams.insert(stream);
    stream->capture = capture;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t *graph) {
    Entered entered;
    *graph = nullptr;
    CUstream_st *stream = find_stream(handle);
    if (stream == nullptr) {
        return returned(usable() != cudaSuccess ? usable() : cudaErrorInvalidResourceHandle);
    }
    Capture *capture = stream->capture;
    if (usable() != cudaSuccess) {
        if (capture != nullptr && capture->origin == stream) {
            end_capture(capture); // also on a lost device, so that everything can be freed
        }
        return returned(usable());
    }
    if (capture == nullptr) {
        return returned(cudaErrorIllegalState);
    }
    if (capture->origin != stream) {
        invalidate_capture(capture);
        return returned(cudaErrorStreamCaptureUnmatched);
    }
    if (capture->mode != cudaStreamCaptureModeRelaxed &&
        capture->thread != std::this_thread::get_id()) {
        return returned(cudaErrorStreamCaptureWrongThread);
    }
    const auto before = ancestors(capture->nodes);
    const bool joined = all_joined(*capture, before);
    end_capture(capture);
    if (capture->invalid || !joined) {
        return returned(capture->invalid ? cudaErrorStreamCaptureInvalidated
                                         : cudaErrorStreamCaptureUnjoined);
    }
    check_order_inside(capture->nodes, before);
    graphs.push_back(std::make_unique<CUgraph_st>());
    graphs.back()->nodes = std::make_shared<const Nodes>(std::move(capture->nodes));
    *graph = graphs.back().get();
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus *status) {
    Entered entered;
    const CUstream_st *stream = find_stream(handle);
    if (stream == nullptr) {
        return returned(cudaErrorInvalidResourceHandle);
    }
    *status = stream->capture == nullptr ? cudaStreamCaptureStatusNone
              : stream->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                         : cudaStreamCaptureStatusActive;
    return returned(usable());
}

// ---- graphs ----

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t handle, unsigned long long) {
    Entered entered;
    const CUgraph_st *graph = find_graph(handle);
    if (usable() != cudaSuccess || graph == nullptr) {
        return returned(usable() != cudaSuccess ? usable() : cudaErrorInvalidValue);
    }
    executables.push_back(std::make_unique<CUgraphExec_st>());
    executables.back()->nodes = graph->nodes;
    *exec = executables.back().get();
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t handle, cudaStream_t) {
    Entered entered;
    return returned(find_executable(handle) == nullptr ? cudaErrorInvalidValue : usable());
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t handle, cudaStream_t stream_handle) {
    Entered entered;
    CUgraphExec_st *exec = find_executable(handle);
    CUstream_st *stream = find_stream(stream_handle);
    if (usable() != cudaSuccess || exec == nullptr || stream == nullptr) {
        return returned(usable() != cudaSuccess ? usable() : cudaErrorInvalidValue);
    }
    if (stream->capture != nullptr) {
        return returned(refuse_in_capture(stream)); // a graph in a graph is not simulated
    }
    Operation launch;
    launch.name = "graph";
    launch.make = [nodes = exec->nodes] { return std::make_unique<GraphWork>(nodes); };
    for (const Node &node : *exec->nodes) {
        launch.ranges.insert(launch.ranges.end(), node.operation.ranges.begin(),
                             node.operation.ranges.end());
    }
    std::vector<Point> after;
    if (exec->latest.stream != nullptr) {
        after.push_back(exec->latest);
        join_clock(&stream->clock, exec->latest_clock);
    }
    const cudaError_t error = enqueue(stream, std::move(launch), std::move(after));
    exec->latest = {stream, stream->enqueued};
    exec->latest_clock = stream->clock;
    poll();
    return returned(error);
}

cudaError_t cudaGraphGetNodes(cudaGraph_t handle, cudaGraphNode_t *nodes, size_t *numNodes) {
    Entered entered;
    const CUgraph_st *graph = find_graph(handle);
    if (graph == nullptr || nodes != nullptr) {
        return returned(graph == nullptr ? cudaErrorInvalidValue : cudaErrorNotSupported);
    }
    *numNodes = graph->nodes->size();
    return returned(usable());
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t handle) {
    Entered entered;
    CUgraphExec_st *exec = find_executable(handle);
    if (exec == nullptr) {
        return returned(cudaErrorInvalidValue);
    }
    exec->destroyed = true;
    return returned(usable());
}

cudaError_t cudaGraphDestroy(cudaGraph_t handle) {
    Entered entered;
    CUgraph_st *graph = find_graph(handle);
    if (graph == nullptr) {
        return returned(cudaErrorInvalidValue);
    }
    graph->destroyed = true;
    return returned(usable());
}
