// SPDX-License-Identifier: Apache-2.0
#include "backends/cuda/cuda_backend.hpp"

#include <nvtx3/nvToolsExt.h>

#include "backends/compat/kokkos_runtime.hpp"
#include "backends/cuda/cublaslt_matmul.hpp"
#include "backends/cuda/cuda_device.hpp"
#include "backends/cuda/cuda_status.hpp"
#include "backends/portable/portable_backend.hpp"

namespace portolan {
namespace {

/// "13.0" of 13000.
std::string version_text(int version) {
  return fmt::format("{}.{}", version / 1000, version / 10 % 100);
}

class CudaBackend final : public PortableBackend<Kokkos::Cuda> {
 public:
  explicit CudaBackend(int index)
      : PortableBackend({DeviceKind::cuda, index}, cuda_memory_source(index)),
        properties_(cuda_properties(index)),
        communication_(index),
        products_(space().cuda_stream(), allocator(), properties_.compute_major) {
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
  /// Host memory that CUDA did not pin is read before the call returns.
  void copy_bytes(void* destination, const void* source, std::size_t bytes, Queue queue) override {
    if (bytes == 0) return;
    check_cuda(cudaMemcpyAsync(destination, source, bytes, cudaMemcpyDefault, stream(queue)),
               "copying {} bytes to or from GPU {}", bytes, device().index);
  }

  void push_region(const char* name) override {
    nvtxRangePushA(name);
    PortableBackend::push_region(name);
  }
  void pop_region() override {
    PortableBackend::pop_region();
    nvtxRangePop();
  }

  [[nodiscard]] WeightLayout packed_layout(std::int64_t /*out_features*/,
                                           std::int64_t /*in_features*/,
                                           DType /*dtype*/) const override {
    return WeightLayout::plain;  // what cuBLASLt takes
  }
  void matmul(const Tensor& x, const Weight& weight, const Tensor& out, bool accumulate) override {
    if (!products_.run(x, weight, out, accumulate)) {
      PortableBackend::matmul(x, weight, out, accumulate);
    }
  }
  void product(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b,
               const Tensor& out, bool accumulate) override {
    if (!products_.run(a, transpose_a, b, transpose_b, out, accumulate)) {
      PortableBackend::product(a, transpose_a, b, transpose_b, out, accumulate);
    }
  }

 private:
  [[nodiscard]] cudaStream_t stream(Queue queue) const {
    return queue == Queue::compute ? space().cuda_stream() : communication_.get();
  }

  CudaProperties properties_;
  CudaStream communication_;
  CublasLtMatmul products_;
};

}  // namespace

std::unique_ptr<Backend> make_cuda_backend(int index) {
  return std::make_unique<CudaBackend>(index);
}

}  // namespace portolan
