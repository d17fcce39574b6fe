// SPDX-License-Identifier: Apache-2.0
#include "backends/cuda/cuda_graph.hpp"

#include <utility>

#include "backends/cuda/cuda_status.hpp"
#include "core/error.hpp"

namespace portolan {

CudaGraph::CudaGraph(cudaStream_t stream, const CachingAllocator& allocator,
                     std::unique_ptr<MemoryPool> pool, const std::function<void()>& work)
    : stream_(stream), pool_(std::move(pool)) {
  const MemoryPool::Use use(*pool_);
  // The same requests may need more when they meet other free blocks; what was recorded while the
  // pool changed is not used.
  constexpr int kAttempts = 8;
  Graph graph;
  for (int attempt = 0; !graph; ++attempt) {
    if (attempt == kAttempts) throw Error("recorded work asks for other memory each time");
    const std::int64_t before = allocator.counters().allocated;
    Graph recorded = capture(stream_, work);
    if (allocator.counters().allocated == before) graph = std::move(recorded);
  }
  cudaGraphExec_t executable = nullptr;
  check_cuda(cudaGraphInstantiate(&executable, graph.get(), 0), "preparing recorded work");
  executable_.reset(executable);
}

CudaGraph::Graph CudaGraph::capture(cudaStream_t stream, const std::function<void()>& work) {
  const auto end = [stream](cudaGraph_t& graph) { return cudaStreamEndCapture(stream, &graph); };
  // Memory may be asked for meanwhile, by this thread too.
  check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed),
             "starting to record work");
  cudaGraph_t recorded = nullptr;
  try {
    work();
  } catch (...) {
    static_cast<void>(end(recorded));  // what went wrong first is what matters
    static_cast<void>(cudaGetLastError());
    const Graph incomplete(recorded);
    throw;
  }
  const cudaError_t status = end(recorded);
  Graph graph(recorded);
  check_cuda(status, "recording work");
  return graph;
}

void CudaGraph::start() {
  check_cuda(cudaGraphLaunch(executable_.get(), stream_), "starting recorded work");
}

}  // namespace portolan
