// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/backend.hpp"
#include "core/dtype.hpp"

/// Kernels of gradients, losses and optimizers. The conventions are those of kernels.hpp.
namespace portolan::simd {

struct AddElements {
  DType x_dtype = DType::f32;
  DType y_dtype = DType::f32;
  const void* x = nullptr;
  void* y = nullptr;
};
/// y += x.
void add(const AddElements& arguments, std::int64_t count);

struct ScaleElements {
  DType dtype = DType::f32;
  void* x = nullptr;
  float factor = 1.0F;
};
void scale(const ScaleElements& arguments, std::int64_t count);

struct SwigluBackwardRows {
  DType dtype = DType::f32;
  const void* gate = nullptr;
  const void* up = nullptr;
  const void* grad_out = nullptr;
  void* grad_gate = nullptr;
  void* grad_up = nullptr;
  std::int64_t gate_stride = 0;
  std::int64_t up_stride = 0;
  std::int64_t grad_out_stride = 0;
  std::int64_t grad_gate_stride = 0;
  std::int64_t grad_up_stride = 0;
  std::int64_t features = 0;
};
void swiglu_backward(const SwigluBackwardRows& arguments, std::int64_t begin, std::int64_t end);

struct GeluRows {
  DType dtype = DType::f32;
  GeluKind kind = GeluKind::erf;
  const void* x = nullptr;
  const void* grad_out = nullptr;  ///< if not null: out is the gradient of x
  void* out = nullptr;
  std::int64_t x_stride = 0;
  std::int64_t grad_out_stride = 0;
  std::int64_t out_stride = 0;
  std::int64_t features = 0;
};
void gelu(const GeluRows& arguments, std::int64_t begin, std::int64_t end);

struct LayerNormRows {
  DType dtype = DType::f32;
  DType parameter_dtype = DType::f32;  ///< dtype or f32
  const void* x = nullptr;
  const void* x_bias = nullptr;  ///< with a residual; may be null
  void* residual = nullptr;      ///< if not null: += x + x_bias, and that is normed
  const void* weight = nullptr;
  const void* bias = nullptr;
  void* out = nullptr;
  std::int64_t x_stride = 0;
  std::int64_t residual_stride = 0;
  std::int64_t out_stride = 0;
  std::int64_t features = 0;
  float epsilon = 0.0F;
};
void layer_norm(const LayerNormRows& arguments, std::int64_t begin, std::int64_t end);

struct NormBackwardRows {
  bool centred = false;  ///< layer norm, else root-mean-square norm
  DType dtype = DType::f32;
  DType weight_dtype = DType::f32;  ///< dtype or f32, as those below
  DType grad_out_dtype = DType::f32;
  DType grad_x_dtype = DType::f32;
  const void* x = nullptr;
  const void* weight = nullptr;
  const void* grad_out = nullptr;
  void* grad_x = nullptr;
  std::int64_t x_stride = 0;
  std::int64_t grad_out_stride = 0;
  std::int64_t grad_x_stride = 0;
  std::int64_t features = 0;
  float epsilon = 0.0F;
  bool accumulate = false;
};
/// Also adds the rows' part to the gradients of weight and, if not null, bias [features].
void norm_backward(const NormBackwardRows& arguments, std::int64_t begin, std::int64_t end,
                   float* grad_weight, float* grad_bias);

struct SoftmaxRows {
  DType dtype = DType::f32;
  const void* x = nullptr;
  void* out = nullptr;
  float* log_sum_exp = nullptr;
  std::int64_t x_stride = 0;
  std::int64_t out_stride = 0;
  std::int64_t columns = 0;
};
void softmax(const SoftmaxRows& arguments, std::int64_t begin, std::int64_t end);

struct CrossEntropyRows {
  DType dtype = DType::f32;
  const void* logits = nullptr;
  const std::int32_t* labels = nullptr;
  float* maximum = nullptr;
  float* sum = nullptr;
  float* target = nullptr;
  std::int64_t stride = 0;
  std::int64_t columns = 0;
  std::int64_t first_column = 0;
  std::int32_t ignore_label = 0;
};
void cross_entropy(const CrossEntropyRows& arguments, std::int64_t begin, std::int64_t end);

struct CrossEntropyBackwardRows {
  DType dtype = DType::f32;
  const void* logits = nullptr;
  const std::int32_t* labels = nullptr;
  const float* log_sum_exp = nullptr;
  void* grad_logits = nullptr;
  std::int64_t stride = 0;
  std::int64_t grad_stride = 0;
  std::int64_t columns = 0;
  std::int64_t first_column = 0;
  std::int32_t ignore_label = 0;
  float scale = 1.0F;
};
void cross_entropy_backward(const CrossEntropyBackwardRows& arguments, std::int64_t begin,
                            std::int64_t end);

struct AdamWElements {
  DType copy_dtype = DType::f32;
  float* param = nullptr;
  const float* grad = nullptr;
  float* first_moment = nullptr;
  float* second_moment = nullptr;
  void* copy = nullptr;  ///< may be null
  AdamWStep step;
};
void adamw(const AdamWElements& arguments, std::int64_t begin, std::int64_t end);

struct SquaresOf {
  DType dtype = DType::f32;
  const void* x = nullptr;
};
/// Sum of the squares of elements [begin, end), in f64.
[[nodiscard]] double sum_of_squares(const SquaresOf& arguments, std::int64_t begin,
                                    std::int64_t end);

}  // namespace portolan::simd
