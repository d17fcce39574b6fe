// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>

#include "core/dtype.hpp"

/// Activation functions of one number, as the fused kernels compute them: one exponential whose
/// argument is never positive, so nothing overflows, and a denominator in [1, 2], where the GPU's
/// short division is accurate to 2 units in the last place.
namespace portolan::cuda {

/// numerator / denominator, the denominator in [1, 2].
[[nodiscard]] PORTOLAN_HOST_DEVICE inline float divide_short(float numerator, float denominator) {
#if defined(__CUDA_ARCH__)
  return __fdividef(numerator, denominator);
#else
  return numerator / denominator;
#endif
}

/// factor / (1 + exp(-u)).
[[nodiscard]] PORTOLAN_HOST_DEVICE inline float times_sigmoid(float factor, float u) {
  const float decay = expf(-fabsf(u));
  return divide_short(u >= 0.0F ? factor : factor * decay, 1.0F + decay);
}

[[nodiscard]] PORTOLAN_HOST_DEVICE inline float silu(float x) { return times_sigmoid(x, x); }

/// x Phi(x), by the error function.
[[nodiscard]] PORTOLAN_HOST_DEVICE inline float gelu_erf(float x) {
  constexpr float kRootHalf = 0.70710678118654752F;
  return x * (0.5F * erfcf(-x * kRootHalf));
}

/// Its approximation by tanh(u) = 2 sigmoid(2 u) - 1.
[[nodiscard]] PORTOLAN_HOST_DEVICE inline float gelu_tanh(float x) {
  constexpr float kScale = 2.0F * 0.79788456080286536F;  // 2 sqrt(2 / pi)
  constexpr float kCubic = 0.044715F;
  return times_sigmoid(x, kScale * (x + kCubic * x * x * x));
}

}  // namespace portolan::cuda
