// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/strided_operand.hpp"

#include "core/dtype.hpp"

namespace portolan::testing_support {

using cuda::AttentionElement;

double rounded(AttentionElement element, double value) {
  const auto single = static_cast<float>(value);
  return element == AttentionElement::bf16 ? to_float(from_float<BFloat16>(single))
                                           : to_float(from_float<Float16>(single));
}

std::uint16_t bits_of(AttentionElement element, double value) {
  const auto single = static_cast<float>(value);
  return element == AttentionElement::bf16 ? from_float<BFloat16>(single).bits
                                           : from_float<Float16>(single).bits;
}

double value_of(AttentionElement element, std::uint16_t bits) {
  return element == AttentionElement::bf16 ? to_float(BFloat16{bits}) : to_float(Float16{bits});
}

}  // namespace portolan::testing_support
