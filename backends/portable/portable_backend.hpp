// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>
#include <utility>

#include "backends/compat/kokkos.hpp"
#include "backends/portable/elementwise.hpp"
#include "backends/portable/matmul.hpp"
#include "backends/portable/norm.hpp"
#include "backends/portable/random.hpp"
#include "backends/portable/transformer.hpp"
#include "core/backend.hpp"

namespace portolan {

/// Every operation as Kokkos kernels on the named execution space. Devices derive from it and
/// override what their libraries do faster. Operations are called from one thread at a time.
template <class Space>
class PortableBackend : public Backend {
 public:
  PortableBackend(Device device, MemorySource source)
      : device_(device), allocator_(std::move(source)) {}

  [[nodiscard]] Device device() const final { return device_; }
  [[nodiscard]] CachingAllocator& allocator() final { return allocator_; }
  [[nodiscard]] DType compute_dtype(DType /*dtype*/) const override { return DType::f32; }

  void push_region(const char* name) override {
    if (Kokkos::Tools::profileLibraryLoaded()) Kokkos::Profiling::pushRegion(name);
  }
  void pop_region() override {
    if (Kokkos::Tools::profileLibraryLoaded()) Kokkos::Profiling::popRegion();
  }

  void fill(const Tensor& out, float value) override { portable::fill(space_, out, value); }
  void copy(const Tensor& source, const Tensor& out) override {
    portable::copy(space_, source, out);
  }
  void random_uniform(const Tensor& out, RandomKey key, const MatrixBlock& block, float mean,
                      float scale) override {
    portable::random_uniform(space_, out, key, block, mean, scale);
  }
  void sum(std::span<const Tensor> inputs, std::span<const Tensor> outs) override {
    portable::sum(space_, allocator_, inputs, outs);
  }

  void embedding(const Tensor& ids, const Tensor& table, std::int64_t first_row,
                 const Tensor& out) override {
    portable::embedding(space_, ids, table, first_row, out);
  }
  void rms_norm(const Tensor& x, const Tensor& weight, float epsilon, const Tensor& out) override {
    portable::rms_norm<Space, false>(space_, "Portolan::Norm::rms_norm", x, Tensor(), weight,
                                     epsilon, out);
  }
  void add_rms_norm(const Tensor& x, const Tensor& residual, const Tensor& weight, float epsilon,
                    const Tensor& out) override {
    portable::rms_norm<Space, true>(space_, "Portolan::Norm::add_rms_norm", x, residual, weight,
                                    epsilon, out);
  }
  void rotary_embedding(const Tensor& x, const Tensor& positions, const Tensor& cosines,
                        const Tensor& sines) override {
    portable::rotary_embedding(space_, x, positions, cosines, sines);
  }
  void swiglu(const Tensor& gate, const Tensor& up, const Tensor& out) override {
    portable::swiglu(space_, gate, up, out);
  }
  void merge_attention(const Tensor& block_out, const Tensor& block_log_sum_exp, const Tensor& out,
                       const Tensor& log_sum_exp) override {
    portable::merge_attention(space_, block_out, block_log_sum_exp, out, log_sum_exp);
  }
  void attention_delta(const Tensor& out, const Tensor& grad_out, const Tensor& delta) override {
    portable::attention_delta(space_, out, grad_out, delta);
  }

  [[nodiscard]] WeightLayout packed_layout(std::int64_t /*out_features*/,
                                           std::int64_t /*in_features*/,
                                           DType /*dtype*/) const override {
    return WeightLayout::panels;
  }
  [[nodiscard]] Weight allocate_packed(std::int64_t out_features, std::int64_t in_features,
                                       DType dtype) override {
    const std::int64_t elements = panel_elements(out_features, in_features, dtype);
    BlockReference block = allocator_.allocate(static_cast<std::size_t>(elements) * size_of(dtype));
    return Weight(Tensor(std::move(block), 0, {elements}, dtype, device_), WeightLayout::panels,
                  out_features, in_features, dtype);
  }
  void pack_rows(const Tensor& rows, std::int64_t first_row, const Weight& weight) override {
    portable::pack_rows(space_, rows, first_row, weight);
  }
  void matmul(const Tensor& x, const Weight& weight, const Tensor& out, bool accumulate) override {
    portable::matmul(space_, allocator_, x, weight, out, accumulate);
  }

 protected:
  [[nodiscard]] const Space& space() const { return space_; }

 private:
  Device device_;
  CachingAllocator allocator_;
  Space space_;
};

/// A backend whose kernels run on host threads and are finished when the call returns.
template <class Space>
class HostBackend : public PortableBackend<Space> {
 public:
  static_assert(compat::runs_on_host<Space>);
  using PortableBackend<Space>::PortableBackend;

  [[nodiscard]] int concurrency() const override {
    return static_cast<int>(this->space().concurrency());
  }
  void synchronize() override { this->space().fence(); }
  [[nodiscard]] Event record(Queue /*queue*/) override { return {}; }
  void wait(Queue /*queue*/, const Event& /*event*/) override {}
  void copy_bytes(void* destination, const void* source, std::size_t bytes,
                  Queue /*queue*/) override {
    std::memcpy(destination, source, bytes);
  }
};

}  // namespace portolan
