// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "core/dtype.hpp"

namespace portolan::cuda {

/// x, residual and out are matrices [rows, features] of `dtype`, their rows whole vectors
/// (vector_layout.hpp) `*_stride` elements apart; the parameters [features] are of
/// `parameter_dtype`, which is `dtype` or f32.
struct NormArguments {
  const void* x = nullptr;
  void* residual = nullptr;  ///< null: out = norm(x), else residual += x and out = norm(residual)
  void* out = nullptr;       ///< may be x
  const void* weight = nullptr;
  const void* bias = nullptr;    ///< layer norm only
  const void* x_bias = nullptr;  ///< added with x to the residual; null: none
  std::int64_t x_stride = 0;
  std::int64_t residual_stride = 0;
  std::int64_t out_stride = 0;
  std::int64_t rows = 0;
  std::int64_t features = 0;
  float epsilon = 0.0F;
  DType dtype = DType::f32;
  DType parameter_dtype = DType::f32;
};

/// Backend::rms_norm and add_rms_norm, layer_norm and add_layer_norm: each element is read and
/// written once. Sums are in f32, their order a function of dtype and features alone. Enqueues on
/// `stream` and returns; cudaErrorInvalidValue if norm_plan has no place for a row.
[[nodiscard]] cudaError_t launch_rms_norm(const NormArguments& arguments, cudaStream_t stream);
[[nodiscard]] cudaError_t launch_layer_norm(const NormArguments& arguments, cudaStream_t stream);

}  // namespace portolan::cuda
