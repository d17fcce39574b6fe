// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "tests/reference/ops_reference.hpp"

/// Integer weights as core/quantization.hpp and core/weight.hpp define them, one element after the
/// other. Shares no code with the engine.
namespace portolan::reference {

struct QuantizedMatrix {
  Values values;  ///< what the integers stand for, [out, in]
  Values steps;   ///< distance of neighbouring integers, element by element
  std::vector<std::uint8_t> panels;
};

/// weight [out, in], in f32 or less; bits 8 or 4.
[[nodiscard]] QuantizedMatrix quantize(const Values& weight, std::int64_t out_features,
                                       std::int64_t in_features, int bits);

}  // namespace portolan::reference
