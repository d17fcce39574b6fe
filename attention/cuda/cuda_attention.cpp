// SPDX-License-Identifier: Apache-2.0
#include "attention/cuda/cuda_attention.hpp"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "attention/cuda/decode_attention.hpp"
#include "attention/cuda/flash_attention.hpp"
#include "attention/cuda/problem_translation.hpp"
#include "backends/cuda/aligned_scratch.hpp"
#include "backends/cuda/cuda_device.hpp"
#include "backends/cuda/cuda_status.hpp"
#include "core/backend.hpp"

namespace portolan {
namespace {

using cuda::AlignedScratch;
using cuda::AttentionArchitecture;
using cuda::AttentionOutput;
using cuda::AttentionPart;
using cuda::AttentionShape;
using cuda::TranslatedProblem;

/// Offsets of packed sequences on the device, for as long as this lives.
class DeviceOffsets {
 public:
  DeviceOffsets(Backend& backend, TranslatedProblem& problem) {
    if (problem.query_offsets.empty()) return;
    AttentionShape& shape = problem.parts.front().shape;
    shape.query_offsets = upload(backend, problem.query_offsets, queries_);
    shape.key_offsets = upload(backend, problem.key_offsets, keys_);
  }

 private:
  static const std::int32_t* upload(Backend& backend, const std::vector<std::int32_t>& offsets,
                                    Tensor& tensor) {
    tensor = Tensor::empty({std::ssize(offsets)}, DType::i32, backend.device());
    backend.copy_bytes(tensor.raw(), offsets.data(), tensor.bytes(), Queue::compute);
    return tensor.data<std::int32_t>();
  }

  Tensor queries_;
  Tensor keys_;
};

/// A tensor that kernels can write, which is a result, or is copied to it in the end.
class Result {
 public:
  Result(const Tensor& target, DType dtype, bool usable)
      : target_(target),
        written_(usable && target.dtype() == dtype
                     ? target
                     : Tensor::empty(target.shape(), dtype, target.device())) {}
  [[nodiscard]] const Tensor& written() const { return written_; }
  void finish(Backend& backend) const {
    if (written_.raw() != target_.raw()) backend.copy(written_, target_);
  }

 private:
  Tensor target_;
  Tensor written_;
};

/// The tensor itself if kernels can read it, else a copy that they can.
Tensor readable(Backend& backend, const Tensor& tensor, DType dtype, bool usable) {
  if (usable && tensor.dtype() == dtype) return tensor;
  Tensor copy = Tensor::empty(tensor.shape(), dtype, tensor.device());
  backend.copy(tensor, copy);
  return copy;
}

/// The rows of a part, of a tensor [B, S, H, D].
Tensor rows_of(const Tensor& tensor, cuda::IndexRange rows) {
  return tensor.slice(1, rows.begin, rows.end);
}

/// Elements of log-sum-exp from one head to the next.
std::int64_t row_stride(const AttentionProblem& problem) { return problem.q.dim(1); }

/// What both passes have in common.
class Selection {
 public:
  Selection(int gpu, AttentionMethod method) : method_(method) {
    const CudaProperties properties = cuda_properties(gpu);
    has_sm80_ = properties.compute_major >= 8;
    has_sm90_ = properties.compute_major == 9 && properties.compute_minor == 0;
  }

  [[nodiscard]] AttentionMethod method() const { return method_; }

  /// Empty if served.
  template <typename Reason>
  [[nodiscard]] std::string unsupported_reason(const AttentionProblem& problem,
                                               const Reason& reason_of) const {
    if (!has_sm80_) return "it needs a GPU of compute capability 8.0 or later";
    if (method_ == AttentionMethod::window && problem.mask.window == 0) {
      return "there is no window";
    }
    const TranslatedProblem translated = cuda::translate(problem);
    if (!translated.reason.empty()) return translated.reason;
    for (const AttentionPart& part : translated.parts) {
      const char* reason = reason_of(architecture(part.shape, reason_of), part.shape);
      if (reason != nullptr) return reason;
    }
    return {};
  }

  /// Of the kernels that serve the shape, if any do.
  template <typename Reason>
  [[nodiscard]] AttentionArchitecture architecture(const AttentionShape& shape,
                                                   const Reason& reason_of) const {
    return has_sm90_ && reason_of(AttentionArchitecture::sm90, shape) == nullptr
               ? AttentionArchitecture::sm90
               : AttentionArchitecture::sm80;
  }

 private:
  AttentionMethod method_;
  bool has_sm80_ = false;
  bool has_sm90_ = false;
};

class CudaFlashAttention final : public AttentionForwardKernel {
 public:
  CudaFlashAttention(int gpu, AttentionMethod method) : selection_(gpu, method) {}

  [[nodiscard]] DeviceKind device() const override { return DeviceKind::cuda; }
  [[nodiscard]] AttentionMethod method() const override { return selection_.method(); }
  [[nodiscard]] std::string unsupported_reason(const AttentionProblem& problem) const override {
    return selection_.unsupported_reason(problem, [](AttentionArchitecture architecture,
                                                     const AttentionShape& shape) {
      return shape.cached_rows != nullptr ? cuda::decode_unsupported_reason(shape)
                                          : cuda::forward_unsupported_reason(architecture, shape);
    });
  }
  [[nodiscard]] std::size_t workspace_bytes(const AttentionProblem& problem) const override {
    std::size_t most = 0;
    for (const AttentionPart& part : cuda::translate(problem).parts) {
      most = std::max(most, workspace_bytes(part.shape));
    }
    return most;
  }

  void forward(const AttentionProblem& problem, const Tensor& out,
               const Tensor& log_sum_exp) const override {
    Backend& backend = backend_of(problem.q.device());
    TranslatedProblem translated = cuda::translate(problem);
    const DeviceOffsets offsets(backend, translated);
    const Result result(out, out.dtype(), cuda::has_aligned_rows(out));
    std::optional<Result> rows;
    if (log_sum_exp.defined()) rows.emplace(log_sum_exp, DType::f32, log_sum_exp.is_contiguous());
    for (const AttentionPart& part : translated.parts) {
      launch(backend,
             {.shape = part.shape,
              .q = rows_of(problem.q, part.query_rows).raw(),
              .k = rows_of(problem.k, part.key_rows).raw(),
              .v = rows_of(problem.v, part.key_rows).raw(),
              .out = rows_of(result.written(), part.query_rows).raw(),
              .output = out.dtype() == problem.q.dtype() ? AttentionOutput::element
                                                         : AttentionOutput::f32,
              .q_strides = cuda::strides_of(problem.q),
              .k_strides = cuda::strides_of(problem.k),
              .v_strides = cuda::strides_of(problem.v),
              .out_strides = cuda::strides_of(result.written()),
              .log_sum_exp = rows ? rows->written().data<float>() + part.query_rows.begin : nullptr,
              .log_sum_exp_stride = row_stride(problem)});
    }
    result.finish(backend);
    if (rows) rows->finish(backend);
  }

 private:
  [[nodiscard]] std::size_t workspace_bytes(const AttentionShape& shape) const {
    if (cuda::decode_unsupported_reason(shape) == nullptr) {
      return cuda::decode_workspace_bytes(shape);
    }
    return cuda::forward_workspace_bytes(architecture(shape), shape);
  }
  [[nodiscard]] AttentionArchitecture architecture(const AttentionShape& shape) const {
    return selection_.architecture(shape, cuda::forward_unsupported_reason);
  }

  void launch(Backend& backend, const cuda::AttentionForwardArguments& arguments) const {
    const AttentionShape& shape = arguments.shape;
    const AlignedScratch workspace(backend.allocator(), workspace_bytes(shape));
    cudaStream_t stream = cuda_stream(backend.device(), Queue::compute);
    const cudaError_t status =
        cuda::decode_unsupported_reason(shape) == nullptr
            ? cuda::attention_decode(arguments, workspace.data(), stream)
            : cuda::attention_forward(architecture(shape), arguments, workspace.data(), stream);
    check_cuda(status, "starting attention of {} x {} tokens", shape.query_tokens,
               shape.key_tokens);
  }

  Selection selection_;
};

class CudaFlashAttentionBackward final : public AttentionBackwardKernel {
 public:
  CudaFlashAttentionBackward(int gpu, AttentionMethod method) : selection_(gpu, method) {}

  [[nodiscard]] DeviceKind device() const override { return DeviceKind::cuda; }
  [[nodiscard]] AttentionMethod method() const override { return selection_.method(); }
  [[nodiscard]] std::string unsupported_reason(const AttentionProblem& problem) const override {
    return selection_.unsupported_reason(problem, cuda::backward_unsupported_reason);
  }
  [[nodiscard]] std::size_t workspace_bytes(const AttentionProblem& problem) const override {
    std::size_t most = 0;
    for (const AttentionPart& part : cuda::translate(problem).parts) {
      const AttentionArchitecture kernels = architecture(part.shape);
      most = std::max(most, cuda::backward_workspace_bytes(kernels, part.shape));
    }
    return most;
  }

  void backward(const AttentionProblem& problem,
                const AttentionGradients& gradients) const override {
    Backend& backend = backend_of(problem.q.device());
    TranslatedProblem translated = cuda::translate(problem);
    const DeviceOffsets offsets(backend, translated);
    const DType element = problem.q.dtype();
    const Tensor grad_out =
        readable(backend, gradients.grad_out, element, cuda::has_aligned_rows(gradients.grad_out));
    const Tensor log_sum_exp =
        readable(backend, gradients.log_sum_exp, DType::f32, gradients.log_sum_exp.is_contiguous());
    const Tensor delta =
        readable(backend, gradients.delta, DType::f32, gradients.delta.is_contiguous());
    // Several parts add up what they give the same keys, and keys may be left that none sees.
    const AttentionOutput output =
        translated.is_whole(problem) ? output_of(gradients, element) : AttentionOutput::f32_sum;
    const DType dtype = output == AttentionOutput::element ? element : DType::f32;
    const auto result_of = [&](const Tensor& target) {
      Result result(target, dtype, cuda::has_aligned_rows(target));
      if (output == AttentionOutput::f32_sum) {
        if (!gradients.accumulate) {
          backend.fill(result.written(), 0.0F);
        } else if (result.written().raw() != target.raw()) {
          backend.copy(target, result.written());
        }
      }
      return result;
    };
    const Result dq = result_of(gradients.dq);
    const Result dk = result_of(gradients.dk);
    const Result dv = result_of(gradients.dv);
    for (const AttentionPart& part : translated.parts) {
      const auto queries = [&](const Tensor& tensor) { return rows_of(tensor, part.query_rows); };
      const auto keys = [&](const Tensor& tensor) { return rows_of(tensor, part.key_rows); };
      const std::int64_t first_row = part.query_rows.begin;
      launch(backend, {.shape = part.shape,
                       .q = queries(problem.q).raw(),
                       .k = keys(problem.k).raw(),
                       .v = keys(problem.v).raw(),
                       .grad_out = queries(grad_out).raw(),
                       .q_strides = cuda::strides_of(problem.q),
                       .k_strides = cuda::strides_of(problem.k),
                       .v_strides = cuda::strides_of(problem.v),
                       .grad_out_strides = cuda::strides_of(grad_out),
                       .log_sum_exp = log_sum_exp.data<float>() + first_row,
                       .delta = delta.data<float>() + first_row,
                       .log_sum_exp_stride = row_stride(problem),
                       .dq = queries(dq.written()).raw(),
                       .dk = keys(dk.written()).raw(),
                       .dv = keys(dv.written()).raw(),
                       .output = output,
                       .dq_strides = cuda::strides_of(dq.written()),
                       .dk_strides = cuda::strides_of(dk.written()),
                       .dv_strides = cuda::strides_of(dv.written())});
    }
    for (const Result* result : {&dq, &dk, &dv}) result->finish(backend);
  }

 private:
  /// One for all three: f32 as soon as one of them is.
  [[nodiscard]] static AttentionOutput output_of(const AttentionGradients& gradients,
                                                 DType element) {
    if (gradients.accumulate) return AttentionOutput::f32_sum;
    const bool all_elements = gradients.dq.dtype() == element && gradients.dk.dtype() == element &&
                              gradients.dv.dtype() == element;
    return all_elements ? AttentionOutput::element : AttentionOutput::f32;
  }
  [[nodiscard]] AttentionArchitecture architecture(const AttentionShape& shape) const {
    return selection_.architecture(shape, cuda::backward_unsupported_reason);
  }

  void launch(Backend& backend, const cuda::AttentionBackwardArguments& arguments) const {
    const AttentionShape& shape = arguments.shape;
    const AttentionArchitecture kernels = architecture(shape);
    const AlignedScratch workspace(backend.allocator(),
                                   cuda::backward_workspace_bytes(kernels, shape));
    check_cuda(cuda::attention_backward(kernels, arguments, workspace.data(),
                                        cuda_stream(backend.device(), Queue::compute)),
               "starting the gradient of attention of {} x {} tokens", shape.query_tokens,
               shape.key_tokens);
  }

  Selection selection_;
};

}  // namespace

std::unique_ptr<AttentionForwardKernel> make_cuda_flash_attention(int gpu, AttentionMethod method) {
  return std::make_unique<CudaFlashAttention>(gpu, method);
}

std::unique_ptr<AttentionBackwardKernel> make_cuda_flash_attention_backward(
    int gpu, AttentionMethod method) {
  return std::make_unique<CudaFlashAttentionBackward>(gpu, method);
}

}  // namespace portolan
