// SPDX-License-Identifier: Apache-2.0
#include "backends/cuda/fused_operations.hpp"

#include "backends/cuda/cuda_status.hpp"
#include "backends/cuda/elementwise_kernels.hpp"
#include "backends/cuda/norm_kernels.hpp"
#include "backends/cuda/vector_layout.hpp"
#include "core/shape_format.hpp"

namespace portolan::cuda {
namespace {

bool has_vector_rows(const Tensor& matrix) {
  return rows_are_vectors(matrix.raw(), matrix.dim(0), matrix.dim(1), matrix.strides()[0],
                          matrix.dtype());
}

/// Null for an undefined tensor.
void* address(const Tensor& tensor) { return tensor.defined() ? tensor.raw() : nullptr; }

bool prepare_norm(const Tensor& x, const Tensor& residual, const Tensor& weight, float epsilon,
                  const Tensor& out, NormArguments& arguments) {
  const bool fits = has_vector_rows(x) && has_vector_rows(out) && is_vector_aligned(weight.raw()) &&
                    (!residual.defined() || has_vector_rows(residual)) &&
                    norm_plan(x.dim(1) / vector_elements(x.dtype())).threads > 0;
  if (!fits) return false;
  arguments.x = x.raw();
  arguments.residual = address(residual);
  arguments.out = out.raw();
  arguments.weight = weight.raw();
  arguments.x_stride = x.strides()[0];
  arguments.residual_stride = residual.defined() ? residual.strides()[0] : 0;
  arguments.out_stride = out.strides()[0];
  arguments.rows = x.dim(0);
  arguments.features = x.dim(1);
  arguments.epsilon = epsilon;
  arguments.dtype = x.dtype();
  arguments.parameter_dtype = weight.dtype();
  return true;
}

bool prepare_activation(const Tensor& x, const Tensor& out, ActivationArguments& arguments) {
  const std::int64_t vectors = x.elements() / vector_elements(x.dtype());
  if (!has_vector_rows(x) || !has_vector_rows(out) || vectors > kMaximumVectors) return false;
  arguments.x = x.raw();
  arguments.out = out.raw();
  arguments.x_stride = x.strides()[0];
  arguments.out_stride = out.strides()[0];
  arguments.rows = x.dim(0);
  arguments.features = x.dim(1);
  arguments.dtype = x.dtype();
  return true;
}

bool prepare_rotation(const Tensor& x, const Tensor& positions, const Tensor& cosines,
                      const Tensor& sines, RotaryArguments& arguments) {
  const std::int64_t elements = vector_elements(x.dtype());
  const std::int64_t token_stride = x.dim(0) == 1 ? 0 : x.strides()[0];
  const std::int64_t head_stride = x.dim(1) == 1 ? 0 : x.strides()[1];
  if (rotary_plan(x.dim(1), x.dim(2), x.dtype()).columns == 0 || x.strides()[2] != 1 ||
      !is_vector_aligned(x.raw()) || token_stride % elements != 0 || head_stride % elements != 0 ||
      !has_vector_rows(cosines) || !has_vector_rows(sines)) {
    return false;
  }
  arguments.x = x.raw();
  arguments.positions = positions.data<std::int32_t>();
  arguments.cosines = cosines.data<float>();
  arguments.sines = sines.data<float>();
  arguments.token_stride = token_stride;
  arguments.head_stride = head_stride;
  arguments.positions_stride = positions.strides()[0];
  arguments.cosine_stride = cosines.strides()[0];
  arguments.sine_stride = sines.strides()[0];
  arguments.tokens = x.dim(0);
  arguments.heads = x.dim(1);
  arguments.head_dim = x.dim(2);
  arguments.dtype = x.dtype();
  return true;
}

}  // namespace

bool try_rms_norm(const Tensor& x, const Tensor& residual, const Tensor& weight, float epsilon,
                  const Tensor& out, cudaStream_t stream) {
  NormArguments arguments;
  if (!prepare_norm(x, residual, weight, epsilon, out, arguments)) return false;
  check_cuda(launch_rms_norm(arguments, stream), "starting rms_norm of {}", x.shape());
  return true;
}

bool try_layer_norm(const Tensor& x, const Tensor& x_bias, const Tensor& residual,
                    const Tensor& weight, const Tensor& bias, float epsilon, const Tensor& out,
                    cudaStream_t stream) {
  NormArguments arguments;
  // An undefined x_bias has address 0.
  if (!is_vector_aligned(bias.raw()) || !is_vector_aligned(address(x_bias)) ||
      !prepare_norm(x, residual, weight, epsilon, out, arguments)) {
    return false;
  }
  arguments.bias = bias.raw();
  arguments.x_bias = address(x_bias);
  check_cuda(launch_layer_norm(arguments, stream), "starting layer_norm of {}", x.shape());
  return true;
}

bool try_rotary_embedding(const Tensor& x, const Tensor& positions, const Tensor& cosines,
                          const Tensor& sines, bool inverse, cudaStream_t stream) {
  RotaryArguments arguments;
  if (!prepare_rotation(x, positions, cosines, sines, arguments)) return false;
  arguments.inverse = inverse;
  check_cuda(launch_rotary_embedding(arguments, stream), "starting rotary_embedding of {}",
             x.shape());
  return true;
}

bool try_rotary_store_cache_rows(const Tensor& x, const Tensor& positions, const Tensor& cosines,
                                 const Tensor& sines, const CacheRows& cache, cudaStream_t stream) {
  RotaryArguments arguments;
  if (!prepare_rotation(x, positions, cosines, sines, arguments)) return false;
  const std::int64_t elements = vector_elements(x.dtype());
  const Shape& strides = cache.keys.strides();
  bool fits = strides == cache.values.strides() && is_vector_aligned(cache.keys.raw()) &&
              is_vector_aligned(cache.values.raw());
  for (int dimension = 0; dimension < 3; ++dimension) {
    fits = fits && strides[dimension] % elements == 0;
  }
  if (!fits) return false;
  arguments.cached_keys = cache.keys.raw();
  arguments.cached_values = cache.values.raw();
  arguments.cached_rows = cache.rows.data<std::int32_t>();
  arguments.key_heads = cache.keys.dim(2);
  arguments.capacity = cache.keys.dim(1);
  arguments.entry_tokens = x.dim(0) / cache.keys.dim(0);
  arguments.cache_entry_stride = strides[0];
  arguments.cache_row_stride = strides[1];
  arguments.cache_head_stride = strides[2];
  check_cuda(launch_rotary_embedding(arguments, stream), "starting to store {} in a cache",
             x.shape());
  return true;
}

bool try_swiglu(const Tensor& gate, const Tensor& up, const Tensor& out, cudaStream_t stream) {
  ActivationArguments arguments;
  if (!has_vector_rows(up) || !prepare_activation(gate, out, arguments)) return false;
  arguments.up = up.raw();
  arguments.up_stride = up.strides()[0];
  check_cuda(launch_swiglu(arguments, stream), "starting swiglu of {}", gate.shape());
  return true;
}

bool try_gelu(const Tensor& x, const Tensor& out, GeluKind kind, cudaStream_t stream) {
  ActivationArguments arguments;
  if (!prepare_activation(x, out, arguments)) return false;
  check_cuda(launch_gelu(arguments, kind, stream), "starting gelu of {}", x.shape());
  return true;
}

bool try_merge_attention(const Tensor& block_out, const Tensor& block_log_sum_exp,
                         const Tensor& out, const Tensor& log_sum_exp, cudaStream_t stream) {
  const std::int64_t elements = vector_elements(DType::f32);
  if (out.dim(3) % elements != 0 || row_tile(out.dim(3) / elements).columns == 0 ||
      log_sum_exp.elements() > kMaximumVectors || !is_vector_aligned(out.raw()) ||
      !is_vector_aligned(block_out.raw())) {
    return false;
  }
  const MergeArguments arguments{.block_out = block_out.data<float>(),
                                 .block_log_sum_exp = block_log_sum_exp.data<float>(),
                                 .out = out.data<float>(),
                                 .log_sum_exp = log_sum_exp.data<float>(),
                                 .batch = out.dim(0),
                                 .tokens = out.dim(1),
                                 .heads = out.dim(2),
                                 .head_dim = out.dim(3)};
  check_cuda(launch_merge_attention(arguments, stream), "starting merge_attention of {}",
             out.shape());
  return true;
}

bool try_copy(const Tensor& source, const Tensor& out, cudaStream_t stream) {
  if (source.dtype() != out.dtype()) return false;
  const auto rows = portable::strided_rows<2>(out.shape(), {&source.strides(), &out.strides()});
  const CopyPlan plan =
      copy_plan(rows, source.raw(), out.raw(), static_cast<std::int64_t>(size_of(out.dtype())));
  if (!plan.fits) return false;
  check_cuda(launch_copy(plan, source.raw(), out.raw(), stream), "starting a copy of {}",
             out.shape());
  return true;
}

}  // namespace portolan::cuda
