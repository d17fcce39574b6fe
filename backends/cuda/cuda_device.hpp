// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <string>

#include "core/allocator.hpp"
#include "core/backend.hpp"

/// Memory, streams and events of one GPU.
namespace portolan {

struct CudaProperties {
  std::string name;
  int compute_major = 0;
  int compute_minor = 0;
  int multiprocessors = 0;
  std::size_t memory_bytes = 0;
  int driver_version = 0;   ///< of CUDA, that the driver offers: 13000 is 13.0
  int runtime_version = 0;  ///< of CUDA, that the program was built with
};

[[nodiscard]] CudaProperties cuda_properties(int index);

/// cudaMalloc on the GPU. Memory is given back with an implicit wait for the GPU, so that nothing
/// still in a queue uses it; the caching allocator asks and gives back rarely.
[[nodiscard]] MemorySource cuda_memory_source(int index);
/// Pinned host memory, which copies of the GPU reach without another one between.
[[nodiscard]] MemorySource pinned_memory_source(int index);
/// True of host memory that CUDA knows nothing of: copies of it go through memory that is pinned.
[[nodiscard]] bool is_pageable(const void* address);

/// A stream that does not wait for CUDA's default stream.
class CudaStream {
 public:
  explicit CudaStream(int index);
  [[nodiscard]] cudaStream_t get() const noexcept { return stream_.get(); }

 private:
  struct Destroy {
    void operator()(cudaStream_t stream) const noexcept { cudaStreamDestroy(stream); }
  };
  std::unique_ptr<CUstream_st, Destroy> stream_;
};

/// The point that the stream has reached when all that is enqueued now is done.
[[nodiscard]] Event record_event(cudaStream_t stream);
/// What is enqueued from now on waits for the event; the host does not.
void wait_for_event(cudaStream_t stream, const Event& event);
/// The host waits.
void wait_on_host(const Event& event);

/// The stream of a queue of a GPU's backend, for kernels that belong to no operation of it. The
/// backend is registered. Throws UnsupportedError for another device.
[[nodiscard]] cudaStream_t cuda_stream(Device device, Queue queue);

/// What cuda_stream asks.
class CudaStreams {
 public:
  virtual ~CudaStreams() = default;
  [[nodiscard]] virtual cudaStream_t stream(Queue queue) const = 0;
};

}  // namespace portolan
