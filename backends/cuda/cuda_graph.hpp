// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <memory>

#include "core/allocator.hpp"
#include "core/backend.hpp"

namespace portolan {

/// Work of one stream as a CUDA graph, whose kernels are started by one call and follow each other
/// without the host.
class CudaGraph final : public RecordedWork {
 public:
  /// Calls `work`, which enqueues on `stream`, without carrying anything out, as often as it takes
  /// until all the memory that it asks of `allocator` is there: it comes from `pool`, which is the
  /// graph's from now on. Throws Error, or what `work` throws, if CUDA cannot record it.
  CudaGraph(cudaStream_t stream, const CachingAllocator& allocator,
            std::unique_ptr<MemoryPool> pool, const std::function<void()>& work);
  void start() override;

 private:
  struct Destroy {
    void operator()(cudaGraph_t graph) const noexcept { cudaGraphDestroy(graph); }
    void operator()(cudaGraphExec_t graph) const noexcept { cudaGraphExecDestroy(graph); }
  };
  using Graph = std::unique_ptr<CUgraph_st, Destroy>;

  [[nodiscard]] static Graph capture(cudaStream_t stream, const std::function<void()>& work);

  cudaStream_t stream_;
  std::unique_ptr<MemoryPool> pool_;
  std::unique_ptr<CUgraphExec_st, Destroy> executable_;
};

}  // namespace portolan
