// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "attention/problem.hpp"

/// Kernels and their registry.
namespace portolan {

enum class AttentionMethod { standard, memory_efficient, flash, window, block_sparse };
[[nodiscard]] std::string_view name_of(AttentionMethod method);
/// Throws UsageError that lists the names.
[[nodiscard]] AttentionMethod attention_method_from_name(std::string_view name);

enum class AttentionPass { forward, backward };
[[nodiscard]] std::string_view name_of(AttentionPass pass);

/// A kernel of one device, method and pass. Kernels accumulate in f32, and the same problem gives
/// the same bits whatever the number of threads.
class AttentionKernel {
 public:
  virtual ~AttentionKernel() = default;
  [[nodiscard]] virtual DeviceKind device() const = 0;
  [[nodiscard]] virtual AttentionMethod method() const = 0;
  /// Empty if this kernel serves the problem, else the reason why not.
  [[nodiscard]] virtual std::string unsupported_reason(const AttentionProblem& problem) const = 0;
  /// Bytes of scratch that a run takes from the device's allocator.
  [[nodiscard]] virtual std::size_t workspace_bytes(const AttentionProblem& problem) const = 0;
};

class AttentionForwardKernel : public AttentionKernel {
 public:
  /// Writes out [B, Sq, H, D] (dtype of q, or f32; any strides, dense in D) and, if `log_sum_exp`
  /// is defined, the natural logarithm of the sum of exp(scale * q.k) over the keys seen, [B, H,
  /// Sq] f32; dropout does not change it. A row that sees no key gets out 0 and log_sum_exp
  /// -infinity.
  virtual void forward(const AttentionProblem& problem, const Tensor& out,
                       const Tensor& log_sum_exp) const = 0;
};

class AttentionBackwardKernel : public AttentionKernel {
 public:
  /// Weights are recomputed: P = exp(scale * q.k - log_sum_exp). Then dv = P^T grad_out,
  /// dS = P (grad_out v^T - delta), dq = scale dS k, dk = scale dS^T q, gradients of the query
  /// heads that share a key/value head summed in head order (Dao et al. 2022, arXiv:2205.14135,
  /// appendix B). Rows whose log_sum_exp is -infinity contribute nothing. No atomics.
  virtual void backward(const AttentionProblem& problem,
                        const AttentionGradients& gradients) const = 0;
};

/// What a mask or a problem may contain beyond causality, window and runs of one sequence.
struct AttentionFeatures {
  bool packing = false;
  bool padding = false;
  bool blocks = false;
  bool dropout = false;
  bool cached_rows = false;
};
[[nodiscard]] AttentionFeatures features_of(const AttentionProblem& problem);
/// Empty if all features that the problem uses are among `served`, else which one is not.
[[nodiscard]] std::string unserved_feature(const AttentionProblem& problem,
                                           const AttentionFeatures& served);

/// Kernels in order of preference. Filled by the runtime.
void register_attention_kernel(std::unique_ptr<AttentionForwardKernel> kernel);
void register_attention_kernel(std::unique_ptr<AttentionBackwardKernel> kernel);
void unregister_attention_kernels();
[[nodiscard]] std::span<const std::unique_ptr<AttentionForwardKernel>> attention_forward_kernels();
[[nodiscard]] std::span<const std::unique_ptr<AttentionBackwardKernel>>
attention_backward_kernels();

}  // namespace portolan
