// SPDX-License-Identifier: Apache-2.0
#include "backends/cuda/cuda_graph.hpp"

#include <utility>

#include "backends/cuda/cuda_status.hpp"

namespace portolan {

CudaGraph::CudaGraph(cudaStream_t stream, std::unique_ptr<MemoryPool> pool,
                     const std::function<void()>& work)
    : stream_(stream), pool_(std::move(pool)) {
  const MemoryPool::Use use(*pool_);
  const Graph graph = capture(stream_, work);
  cudaGraphExec_t executable = nullptr;
  check_cuda(cudaGraphInstantiate(&executable, graph.get(), 0), "preparing recorded work");
  executable_.reset(executable);
}

CudaGraph::Graph CudaGraph::capture(cudaStream_t stream, const std::function<void()>& work) {
  const auto end = [stream](cudaGraph_t& graph) { return cudaStreamEndCapture(stream, &graph); };
  // Other threads may use CUDA as they like meanwhile.
  check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
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
