// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "backends/openmp/simd/kernels.hpp"

namespace portolan::simd {

/// multiply_panel for one row of bf16 by int4, with the CPU's products of bf16 pairs (AVX-512
/// BF16), which the version of Highway that Debian 12 has does not know: one look-up makes two bf16
/// of two integers, where f32 takes a shift and a look-up for each. False, and nothing done, for
/// other products and on other CPUs. (int8 takes two look-ups a pair and gains nothing.)
[[nodiscard]] bool multiply_bf16_row(const PanelProduct& arguments);

}  // namespace portolan::simd
