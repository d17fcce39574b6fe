// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>
#include <numeric>
#include <utility>
#include <vector>

#include "backends/compat/kokkos.hpp"
#include "backends/portable/activation.hpp"
#include "backends/portable/cache_rows.hpp"
#include "backends/portable/columns.hpp"
#include "backends/portable/elementwise.hpp"
#include "backends/portable/loss.hpp"
#include "backends/portable/matmul.hpp"
#include "backends/portable/norm.hpp"
#include "backends/portable/norm_backward.hpp"
#include "backends/portable/optimizer.hpp"
#include "backends/portable/product.hpp"
#include "backends/portable/random.hpp"
#include "backends/portable/token_choice.hpp"
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
  void add(const Tensor& x, const Tensor& y) override { portable::add(space_, x, y); }
  void scale(const Tensor& x, float factor) override { portable::scale(space_, x, factor); }
  void dropout(const Tensor& x, float probability, RandomKey key,
               const MatrixBlock& block) override {
    portable::dropout(space_, x, probability, key, block);
  }
  void add_bias(const Tensor& x, const Tensor& bias) override {
    portable::add_bias(space_, x, bias);
  }
  void add_bias_backward(const Tensor& grad_out, const Tensor& grad_bias) override {
    portable::add_bias_backward(space_, allocator_, grad_out, grad_bias);
  }

  void embedding(const Tensor& ids, const Tensor& table, std::int64_t first_row,
                 const Tensor& out) override {
    portable::embedding(space_, ids, table, first_row, out);
  }
  void embedding_backward(const Tensor& ids, const Tensor& grad_out, std::int64_t first_row,
                          const Tensor& grad_table) override {
    portable::embedding_backward(space_, ids, grad_out, first_row, grad_table);
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
  void rms_norm_backward(const Tensor& x, const Tensor& weight, float epsilon,
                         const Tensor& grad_out, const Tensor& grad_x, const Tensor& grad_weight,
                         bool accumulate_x) override {
    portable::norm_backward<Space, false>(space_, allocator_, "Portolan::Norm::rms_norm_backward",
                                          x, weight, epsilon,
                                          {grad_out, grad_x, grad_weight, nullptr, accumulate_x});
  }
  void layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, float epsilon,
                  const Tensor& out) override {
    portable::layer_norm<Space, false>(space_, "Portolan::Norm::layer_norm", x, Tensor(), Tensor(),
                                       weight, bias, epsilon, out);
  }
  void add_layer_norm(const Tensor& x, const Tensor& x_bias, const Tensor& residual,
                      const Tensor& weight, const Tensor& bias, float epsilon,
                      const Tensor& out) override {
    portable::layer_norm<Space, true>(space_, "Portolan::Norm::add_layer_norm", x, x_bias, residual,
                                      weight, bias, epsilon, out);
  }
  void layer_norm_backward(const Tensor& x, const Tensor& weight, float epsilon,
                           const Tensor& grad_out, const Tensor& grad_x, const Tensor& grad_weight,
                           const Tensor& grad_bias, bool accumulate_x) override {
    portable::norm_backward<Space, true>(space_, allocator_, "Portolan::Norm::layer_norm_backward",
                                         x, weight, epsilon,
                                         {grad_out, grad_x, grad_weight, &grad_bias, accumulate_x});
  }
  void rotary_embedding(const Tensor& x, const Tensor& positions, const Tensor& cosines,
                        const Tensor& sines, bool inverse) override {
    portable::rotary_embedding(space_, x, positions, cosines, sines, inverse);
  }
  void store_cache_rows(const Tensor& k, const Tensor& v, const CacheRows& cache) override {
    portable::store_cache_rows(space_, k, v, cache);
  }
  void rotary_store_cache_rows(const Tensor& x, const Tensor& positions, const Tensor& cosines,
                               const Tensor& sines, const CacheRows& cache) override {
    const std::int64_t values = x.dim(1) - cache.values.dim(2);
    const std::int64_t keys = values - cache.keys.dim(2);
    rotary_embedding(x.slice(1, 0, values), positions, cosines, sines, false);
    store_cache_rows(x.slice(1, keys, values), x.slice(1, values, x.dim(1)), cache);
  }
  void swiglu(const Tensor& gate, const Tensor& up, const Tensor& out) override {
    portable::swiglu(space_, gate, up, out);
  }
  void swiglu_backward(const Tensor& gate, const Tensor& up, const Tensor& grad_out,
                       const Tensor& grad_gate, const Tensor& grad_up) override {
    portable::swiglu_backward(space_, gate, up, grad_out, grad_gate, grad_up);
  }
  void gelu(const Tensor& x, const Tensor& out, GeluKind kind) override {
    portable::gelu(space_, x, out, kind);
  }
  void gelu_backward(const Tensor& x, const Tensor& grad_out, const Tensor& grad_x,
                     GeluKind kind) override {
    portable::gelu_backward(space_, x, grad_out, grad_x, kind);
  }

  void softmax(const Tensor& x, const Tensor& out, const Tensor& log_sum_exp) override {
    portable::softmax(space_, x, out, log_sum_exp);
  }
  void softmax_backward(const Tensor& out, const Tensor& grad_out, const Tensor& grad_x) override {
    portable::softmax_backward(space_, out, grad_out, grad_x);
  }
  void cross_entropy_rows(const Tensor& logits, const Tensor& labels, std::int64_t first_column,
                          std::int32_t ignore_label, const Tensor& maximum, const Tensor& sum,
                          const Tensor& target) override {
    portable::cross_entropy_rows(space_, logits, labels, first_column, ignore_label, maximum, sum,
                                 target);
  }
  void cross_entropy_backward(const Tensor& logits, const Tensor& labels, std::int64_t first_column,
                              std::int32_t ignore_label, const Tensor& log_sum_exp, float scale,
                              const Tensor& grad_logits) override {
    portable::cross_entropy_backward(space_, logits, labels, first_column, ignore_label,
                                     log_sum_exp, scale, grad_logits);
  }

  void choose_tokens(const Tensor& logits, const Tensor& seen, const TokenChoice& choice,
                     const Tensor& sequences, std::int64_t step, const Tensor& ids) override {
    portable::choose_tokens(space_, allocator_, logits, seen, choice, sequences, step, ids);
  }

  void adamw(const Tensor& param, const Tensor& grad, const Tensor& first_moment,
             const Tensor& second_moment, const AdamWStep& step, const Tensor& copy) override {
    portable::adamw(space_, param, grad, first_moment, second_moment, step, copy);
  }
  void sgd(const Tensor& param, const Tensor& grad, const Tensor& momentum_buffer,
           const SgdStep& step) override {
    portable::sgd(space_, param, grad, momentum_buffer, step);
  }
  [[nodiscard]] double sum_of_squares(const Tensor& x) override {
    const auto blocks = static_cast<std::size_t>(portable::squares_blocks(x));
    const BlockReference scratch = allocator_.allocate(blocks * sizeof(double));
    portable::sum_of_squares(space_, x, reinterpret_cast<double*>(scratch.get()->data()));
    std::vector<double> partials(blocks);
    copy_bytes(partials.data(), scratch.get()->data(), blocks * sizeof(double), Queue::compute);
    synchronize();
    return std::accumulate(partials.begin(), partials.end(), 0.0);
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
  void product(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b,
               const Tensor& out, bool accumulate) override {
    portable::product(space_, allocator_, a, transpose_a, b, transpose_b, out, accumulate);
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
  static_assert(compat::kRunsOnHost<Space>);
  using PortableBackend<Space>::PortableBackend;

  [[nodiscard]] int concurrency() const override {
    return static_cast<int>(this->space().concurrency());
  }
  void synchronize() override { this->space().fence(); }
  [[nodiscard]] Event record(Queue /*queue*/) override { return {}; }
  void wait(Queue /*queue*/, const Event& /*event*/) override {}
  void copy_bytes(void* destination, const void* source, std::size_t bytes,
                  Queue /*queue*/) override {
    if (bytes > 0) std::memcpy(destination, source, bytes);  // what is empty may have no address
  }
};

}  // namespace portolan
