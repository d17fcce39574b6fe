// SPDX-License-Identifier: Apache-2.0
// Rows of words to the order of a panel. Included once for each instruction set, hence the guard of
// Highway's instead of `#pragma once`.
#if defined(PORTOLAN_BACKENDS_OPENMP_SIMD_TRANSPOSE_INL_HPP) == defined(HWY_TARGET_TOGGLE)
#ifdef PORTOLAN_BACKENDS_OPENMP_SIMD_TRANSPOSE_INL_HPP
#undef PORTOLAN_BACKENDS_OPENMP_SIMD_TRANSPOSE_INL_HPP
#else
#define PORTOLAN_BACKENDS_OPENMP_SIMD_TRANSPOSE_INL_HPP
#endif

#include <hwy/highway.h>

#include <cstdint>

#include "core/weight.hpp"

HWY_BEFORE_NAMESPACE();
namespace portolan::simd::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

/// Words of a row that are transposed at a time: 512 bytes, so that a panel's 64 rows fit the
/// first-level cache.
inline constexpr std::int64_t kChunkWords = 128;

/// Transposes 64 rows, kChunkWords apart, of `words` 32-bit words, a multiple of four, to words
/// rows of 64, in squares of four.
HWY_INLINE void transpose_chunk(const std::uint32_t* chunk, std::int64_t words,
                                std::uint32_t* out) {
#if HWY_TARGET == HWY_SCALAR
  for (std::int64_t word = 0; word < words; ++word) {
    for (std::int64_t row = 0; row < kPanelWidth; ++row) {
      out[word * kPanelWidth + row] = chunk[row * kChunkWords + word];
    }
  }
#else
  const hn::FixedTag<std::uint32_t, 4> quad;
  const hn::FixedTag<std::uint64_t, 2> pairs;
  constexpr std::int64_t kStride = kChunkWords;
  for (std::int64_t word = 0; word < words; word += 4) {
    for (std::int64_t row = 0; row < kPanelWidth; row += 4) {
      const std::uint32_t* const from = chunk + row * kStride + word;
      const auto row0 = hn::Load(quad, from);
      const auto row1 = hn::Load(quad, from + kStride);
      const auto row2 = hn::Load(quad, from + 2 * kStride);
      const auto row3 = hn::Load(quad, from + 3 * kStride);
      const auto lower01 = hn::BitCast(pairs, hn::InterleaveLower(quad, row0, row1));
      const auto lower23 = hn::BitCast(pairs, hn::InterleaveLower(quad, row2, row3));
      const auto upper01 = hn::BitCast(pairs, hn::InterleaveUpper(quad, row0, row1));
      const auto upper23 = hn::BitCast(pairs, hn::InterleaveUpper(quad, row2, row3));
      std::uint32_t* const to = out + word * kPanelWidth + row;
      hn::Store(hn::BitCast(quad, hn::InterleaveLower(pairs, lower01, lower23)), quad, to);
      hn::Store(hn::BitCast(quad, hn::InterleaveUpper(pairs, lower01, lower23)), quad,
                to + kPanelWidth);
      hn::Store(hn::BitCast(quad, hn::InterleaveLower(pairs, upper01, upper23)), quad,
                to + 2 * kPanelWidth);
      hn::Store(hn::BitCast(quad, hn::InterleaveUpper(pairs, upper01, upper23)), quad,
                to + 3 * kPanelWidth);
    }
  }
#endif
}

}  // namespace portolan::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
