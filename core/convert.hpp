// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.hpp"

namespace portolan {

/// Whether convert_elements offers this pair: equal dtypes; any two of f32, bf16, f16, f64; and i32
/// to i64.
[[nodiscard]] bool is_convertible(DType from, DType to);

/// Converts `count` elements. Widening is exact; narrowing rounds once, to nearest, ties to even
/// (also from f64 to the 16-bit formats); overflow becomes infinity; NaN stays NaN. Neither pointer
/// needs alignment; the ranges must not overlap. Throws UnsupportedError for other pairs.
void convert_elements(const void* source, DType from, void* destination, DType to,
                      std::int64_t count);

}  // namespace portolan
