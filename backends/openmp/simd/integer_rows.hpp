// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "backends/openmp/simd/kernels.hpp"

/// Products of few rows of bf16 with panels of integers, in integers: the CPU's products of bytes
/// (AVX-512 VNNI) take half the instructions of its products of bf16 or less, so that memory sets
/// the pace for one row.
///
/// Each kQuantizedGroup inputs of a row become integers of 15 bits and a sign, multiples of one
/// power of two, held as two digits of a byte each: exact but for inputs below 1/128 of the group's
/// largest, which are off by at most 2^-15 of it. (255 * 128 has no two such digits: it becomes one
/// less.) A group's sum is an exact integer; the sum over groups is in f32.
namespace portolan::simd {

/// With more, oneDNN's products with widened panels are as fast or faster.
inline constexpr std::int64_t kMostIntegerRows = 64;

/// Whether multiply_integer_rows serves such products on this CPU.
[[nodiscard]] bool has_integer_rows(DType x_dtype, Quantization quantization, std::int64_t rows);

/// Bytes of the integers of so many rows.
[[nodiscard]] std::size_t integer_row_bytes(std::int64_t rows, std::int64_t in_features);

/// Writes the integers of rows [begin, end) of product.x where they belong in the memory of all of
/// them, which is aligned to 64. False if an input is not finite, which integers cannot say.
[[nodiscard]] bool make_integer_rows(const PanelProduct& product, std::int64_t begin,
                                     std::int64_t end, std::byte* integers);

/// multiply_panel with the integers of its rows.
void multiply_integer_rows(const PanelProduct& product, const std::byte* integers);

}  // namespace portolan::simd
