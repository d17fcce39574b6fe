// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "tests/reference/ops_reference.hpp"

/// Integer weights as core/quantization.hpp and core/panels.hpp define them, one element after the
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

/// How far inputs may be off that become integers of 15 bits and a sign, one power of two for each
/// 32 of a row: by 2^-15 of the largest of these, if it is less than 1/128 of that or has all of
/// bf16's bits set, else not at all. x [rows, in] of bf16.
[[nodiscard]] Values integer_rounding(const Values& x, std::int64_t in_features);

}  // namespace portolan::reference
