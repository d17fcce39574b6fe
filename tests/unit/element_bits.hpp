// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "attention/cuda/attention_arguments.hpp"
#include "core/dtype.hpp"

/// 16-bit elements as the emulated GPU has them: in registers, two in each, and in memory.
namespace portolan::testing_support {

[[nodiscard]] inline std::uint16_t bits_of(cuda::AttentionElement element, float value) {
  return element == cuda::AttentionElement::bf16 ? from_float<BFloat16>(value).bits
                                                 : from_float<Float16>(value).bits;
}

[[nodiscard]] inline float value_of(cuda::AttentionElement element, std::uint16_t bits) {
  return element == cuda::AttentionElement::bf16 ? to_float(BFloat16{bits})
                                                 : to_float(Float16{bits});
}

/// A register of two elements; the first one is in the low half.
[[nodiscard]] inline std::uint32_t register_of(cuda::AttentionElement element, float first,
                                               float second) {
  return std::uint32_t{bits_of(element, first)} | std::uint32_t{bits_of(element, second)} << 16;
}
[[nodiscard]] inline std::uint16_t half_of(std::uint32_t value, int half) {
  return static_cast<std::uint16_t>(value >> (16 * half));
}

}  // namespace portolan::testing_support
