// SPDX-License-Identifier: Apache-2.0
#include "backends/cuda/cuda_backend.hpp"

#include <nvtx3/nvToolsExt.h>

#include <stdexcept>

#include "backends/compat/kokkos_runtime.hpp"
#include "backends/cuda/cublaslt_matmul.hpp"
#include "backends/cuda/cuda_device.hpp"
#include "backends/cuda/cuda_graph.hpp"
#include "backends/cuda/cuda_status.hpp"
#include "backends/cuda/fused_operations.hpp"
#include "backends/cuda/quantized_matmul.hpp"
#include "backends/cuda/staged_copies.hpp"
#include "backends/portable/portable_backend.hpp"
#include "core/error.hpp"
#include "core/log.hpp"

namespace portolan {
namespace {

/// "13.0" of 13000.
std::string version_text(int version) {
  return fmt::format("{}.{}", version / 1000, version / 10 % 100);
}

/// Shorter copies of pageable memory are left to CUDA, which takes them in when they are enqueued.
constexpr std::size_t kLeastStagedBytes = std::size_t{64} << 10;

/// As staged copies see a stream.
struct CopyStream {
  cudaStream_t stream = nullptr;

  void enqueue(void* destination, const void* source, std::size_t bytes) const {
    check_cuda(cudaMemcpyAsync(destination, source, bytes, cudaMemcpyDefault, stream),
               "copying {} bytes to or from a GPU", bytes);
  }
  [[nodiscard]] Event record() const { return record_event(stream); }
  void wait_on_host(const Event& event) const { portolan::wait_on_host(event); }
};

class CudaBackend final : public PortableBackend<Kokkos::Cuda>, public CudaStreams {
 public:
  explicit CudaBackend(int index)
      : PortableBackend({DeviceKind::cuda, index}, cuda_memory_source(index)),
        properties_(cuda_properties(index)),
        communication_(index),
        pinned_(pinned_memory_source(index)),
        staging_(pinned_),
        products_(space().cuda_stream(), allocator(), properties_.compute_major),
        quantized_(space().cuda_stream(), allocator(), products_) {
    if (space().cuda_device() != index) {
      throw Error(fmt::format("Kokkos was started on GPU {}, the backend wanted is of GPU {}",
                              space().cuda_device(), index));
    }
  }

  [[nodiscard]] std::string description() const override {
    return fmt::format(
        "{} (compute capability {}.{}, {} multiprocessors, {:.1f} GB), CUDA {} (driver {}), Kokkos "
        "{} Cuda, {}",
        properties_.name, properties_.compute_major, properties_.compute_minor,
        properties_.multiprocessors, static_cast<double>(properties_.memory_bytes) * 1e-9,
        version_text(properties_.runtime_version), version_text(properties_.driver_version),
        kokkos_version(), CublasLtMatmul::description());
  }
  [[nodiscard]] int concurrency() const override { return 1; }
  [[nodiscard]] DType compute_dtype(DType dtype) const override {
    return products_.multiplies(dtype) ? dtype : DType::f32;
  }

  void synchronize() override {
    check_cuda(cudaStreamSynchronize(stream(Queue::compute)), "waiting for GPU {}", device().index);
    check_cuda(cudaStreamSynchronize(stream(Queue::communication)), "waiting for copies of GPU {}",
               device().index);
  }
  [[nodiscard]] Event record(Queue queue) override { return record_event(stream(queue)); }
  void wait(Queue queue, const Event& event) override { wait_for_event(stream(queue), event); }
  /// Host memory that CUDA did not pin is read, and, of long copies, written before the call
  /// returns.
  void copy_bytes(void* destination, const void* source, std::size_t bytes, Queue queue) override {
    if (bytes == 0) return;
    const CopyStream copies{stream(queue)};
    if (bytes >= kLeastStagedBytes && is_pageable(source)) {
      cuda::copy_to_device(staging_, copies, destination, source, bytes);
    } else if (bytes >= kLeastStagedBytes && is_pageable(destination)) {
      cuda::copy_to_host(staging_, copies, destination, source, bytes);
    } else {
      copies.enqueue(destination, source, bytes);
    }
  }

  [[nodiscard]] bool prefers_recorded_work() const override { return true; }
  [[nodiscard]] std::unique_ptr<RecordedWork> run_and_record(std::function<void()> work) override {
    // A tool of Kokkos' may wait for the GPU round each kernel, and wants to see each.
    if (!records_ || Kokkos::Tools::profileLibraryLoaded()) {
      return Backend::run_and_record(std::move(work));
    }
    products_.prepare();  // its memory is not the recording's
    auto pool = std::make_unique<MemoryPool>(allocator());
    {
      // Also loads the kernels and chooses the algorithms, which CUDA does not record.
      const MemoryPool::Use use(*pool);
      work();
    }
    try {
      return std::make_unique<CudaGraph>(stream(Queue::compute), allocator(), std::move(pool),
                                         work);
    } catch (const OutOfMemoryError&) {
      throw;
    } catch (const std::runtime_error& error) {  // Kokkos' errors are no Error
      log().warn("operations that repeat are enqueued one by one: {}", error.what());
      records_ = false;
      return repeated_call(std::move(work));
    }
  }

  void push_region(const char* name) override {
    nvtxRangePushA(name);
    PortableBackend::push_region(name);
  }
  void pop_region() override {
    PortableBackend::pop_region();
    nvtxRangePop();
  }

  void copy(const Tensor& source, const Tensor& out) override {
    if (!cuda::try_copy(source, out, compute())) PortableBackend::copy(source, out);
  }
  void rms_norm(const Tensor& x, const Tensor& weight, float epsilon, const Tensor& out) override {
    if (!cuda::try_rms_norm(x, Tensor(), weight, epsilon, out, compute())) {
      PortableBackend::rms_norm(x, weight, epsilon, out);
    }
  }
  void add_rms_norm(const Tensor& x, const Tensor& residual, const Tensor& weight, float epsilon,
                    const Tensor& out) override {
    if (!cuda::try_rms_norm(x, residual, weight, epsilon, out, compute())) {
      PortableBackend::add_rms_norm(x, residual, weight, epsilon, out);
    }
  }
  void layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float epsilon,
                  const Tensor& out) override {
    if (!cuda::try_layer_norm(x, Tensor(), Tensor(), weight, bias, epsilon, out, compute())) {
      PortableBackend::layer_norm(x, weight, bias, epsilon, out);
    }
  }
  void add_layer_norm(const Tensor& x, const Tensor& x_bias, const Tensor& residual,
                      const Tensor& weight, const Tensor& bias, float epsilon,
                      const Tensor& out) override {
    if (!cuda::try_layer_norm(x, x_bias, residual, weight, bias, epsilon, out, compute())) {
      PortableBackend::add_layer_norm(x, x_bias, residual, weight, bias, epsilon, out);
    }
  }
  void rotary_embedding(const Tensor& x, const Tensor& positions, const Tensor& cosines,
                        const Tensor& sines, bool inverse) override {
    if (!cuda::try_rotary_embedding(x, positions, cosines, sines, inverse, compute())) {
      PortableBackend::rotary_embedding(x, positions, cosines, sines, inverse);
    }
  }
  void rotary_store_cache_rows(const Tensor& x, const Tensor& positions, const Tensor& cosines,
                               const Tensor& sines, const CacheRows& cache) override {
    if (!cuda::try_rotary_store_cache_rows(x, positions, cosines, sines, cache, compute())) {
      PortableBackend::rotary_store_cache_rows(x, positions, cosines, sines, cache);
    }
  }
  void swiglu(const Tensor& gate, const Tensor& up, const Tensor& out) override {
    if (!cuda::try_swiglu(gate, up, out, compute())) PortableBackend::swiglu(gate, up, out);
  }
  void gelu(const Tensor& x, const Tensor& out, GeluKind kind) override {
    if (!cuda::try_gelu(x, out, kind, compute())) PortableBackend::gelu(x, out, kind);
  }

  void merge_attention(const Tensor& block_out, const Tensor& block_log_sum_exp, const Tensor& out,
                       const Tensor& log_sum_exp) override {
    if (!cuda::try_merge_attention(block_out, block_log_sum_exp, out, log_sum_exp, compute())) {
      PortableBackend::merge_attention(block_out, block_log_sum_exp, out, log_sum_exp);
    }
  }

  [[nodiscard]] WeightLayout packed_layout(std::int64_t /*out_features*/,
                                           std::int64_t /*in_features*/,
                                           DType /*dtype*/) const override {
    return WeightLayout::plain;  // what cuBLASLt takes
  }
  void matmul(const Tensor& x, const Weight& weight, const Tensor& out, bool accumulate) override {
    if (!products_.run(x, weight, out, accumulate) && !quantized_.run(x, weight, out, accumulate)) {
      PortableBackend::matmul(x, weight, out, accumulate);
    }
  }
  void matmul_bias(const Tensor& x, const Weight& weight, const Tensor& bias,
                   const Tensor& out) override {
    if (!products_.run_with_bias(x, weight, bias, out)) {
      PortableBackend::matmul_bias(x, weight, bias, out);
    }
  }
  void product(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b,
               const Tensor& out, bool accumulate) override {
    if (!products_.run(a, transpose_a, b, transpose_b, out, accumulate)) {
      PortableBackend::product(a, transpose_a, b, transpose_b, out, accumulate);
    }
  }

  [[nodiscard]] cudaStream_t stream(Queue queue) const override {
    return queue == Queue::compute ? space().cuda_stream() : communication_.get();
  }

 private:
  [[nodiscard]] cudaStream_t compute() const { return stream(Queue::compute); }

  CudaProperties properties_;
  CudaStream communication_;
  CachingAllocator pinned_;
  cuda::StagingBuffers staging_;
  CublasLtMatmul products_;
  cuda::QuantizedMatmul quantized_;
  bool records_ = true;  ///< until CUDA refuses to
};

}  // namespace

std::unique_ptr<Backend> make_cuda_backend(int index) {
  return std::make_unique<CudaBackend>(index);
}

}  // namespace portolan
