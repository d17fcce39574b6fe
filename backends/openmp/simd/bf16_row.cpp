// SPDX-License-Identifier: Apache-2.0
#include "backends/openmp/simd/bf16_row.hpp"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
// The headers' "undefined" vectors, which no lane of a result comes from.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#define PORTOLAN_BF16_PAIRS __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")))
#endif

#include <algorithm>
#include <cstring>

#include "core/weight.hpp"

namespace portolan::simd {

#if defined(PORTOLAN_BF16_PAIRS)
namespace {

/// Inputs whose pairs are made at a time.
constexpr std::int64_t kInputs = 1024;
/// Consecutive inputs of one output in a word, and words of a group.
constexpr int kPerWord = 8;
constexpr int kGroupWords = kQuantizedGroup / kPerWord;
constexpr std::int64_t kLanes = 16;
constexpr int kVectors = kPanelWidth / kLanes;
/// Shifts of 0, 4, 8 and 12 bits bring each half byte of a 16-bit lane to its lower end.
constexpr int kShifts = 4;
/// How far ahead of its use a panel is asked for, as in product.cpp.
constexpr std::int64_t kPrefetchWords = 1024;

/// bf16 by the lower five bits of an index, of which the fifth is a neighbour's.
struct Table {
  alignas(64) BFloat16 values[32];
};

Table integers() {
  Table table;
  for (int i = 0; i < 32; ++i) {
    table.values[i] = from_float<BFloat16>(static_cast<float>(i % 16 < 8 ? i % 16 : i % 16 - 16));
  }
  return table;
}
const Table kIntegers = integers();

/// What the two 16-bit lanes of a word meet at each shift, side by side: inputs (0, 4), (1, 5),
/// (2, 6) and (3, 7) of its eight.
struct PairOrder {
  alignas(64) std::uint16_t from[kQuantizedGroup];
};

PairOrder pair_order() {
  PairOrder order;
  for (int i = 0; i < kQuantizedGroup; ++i) {
    const int within = i % kPerWord;
    order.from[i] = static_cast<std::uint16_t>(i - within + within / 2 + within % 2 * kPerWord / 2);
  }
  return order;
}
const PairOrder kPairOrder = pair_order();

PORTOLAN_BF16_PAIRS inline void make_pairs(const BFloat16* x, std::int64_t count,
                                           std::uint32_t* pairs) {
  const __m512i order = _mm512_load_si512(&kPairOrder);
  for (std::int64_t i = 0; i < count; i += kQuantizedGroup) {
    const std::int64_t rest = count - i;
    const __mmask32 real =
        rest < kQuantizedGroup ? (__mmask32{1} << static_cast<unsigned>(rest)) - 1U : ~__mmask32{0};
    _mm512_storeu_si512(pairs + i / 2,
                        _mm512_permutexvar_epi16(order, _mm512_maskz_loadu_epi16(real, x + i)));
  }
}

/// One group of inputs, without their scales, line after line of the panel.
PORTOLAN_BF16_PAIRS inline void multiply_group(const std::uint32_t* words,
                                               const std::uint32_t* pairs, __m512i table,
                                               __m512 (&group)[kVectors]) {
  __m512 sums[kVectors][kShifts];
  for (auto& of_vector : sums) {
    for (__m512& sum : of_vector) sum = _mm512_setzero_ps();
  }
#pragma GCC unroll 4
  for (int word = 0; word < kGroupWords; ++word) {
#pragma GCC unroll 4
    for (int vector = 0; vector < kVectors; ++vector) {
      const std::uint32_t* const from = words + word * kPanelWidth + vector * kLanes;
      _mm_prefetch(from + kPrefetchWords, _MM_HINT_T0);
      const __m512i bits = _mm512_loadu_si512(from);
      const __m512i shifted[kShifts] = {bits, _mm512_srli_epi16(bits, 4),
                                        _mm512_srli_epi16(bits, 8), _mm512_srli_epi16(bits, 12)};
#pragma GCC unroll 4
      for (int shift = 0; shift < kShifts; ++shift) {
        const __m512i weights = _mm512_permutexvar_epi16(shifted[shift], table);
        const __m512i inputs = _mm512_set1_epi32(static_cast<int>(pairs[word * kShifts + shift]));
        sums[vector][shift] =
            _mm512_dpbf16_ps(sums[vector][shift], reinterpret_cast<__m512bh>(weights),
                             reinterpret_cast<__m512bh>(inputs));
      }
    }
  }
  for (int vector = 0; vector < kVectors; ++vector) {
    group[vector] = _mm512_add_ps(_mm512_add_ps(sums[vector][0], sums[vector][1]),
                                  _mm512_add_ps(sums[vector][2], sums[vector][3]));
  }
}

/// int4_factor of one vector of codes.
PORTOLAN_BF16_PAIRS inline __m512 factors_of(const std::uint8_t* codes) {
  const __m512i wide =
      _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(
      _mm512_add_epi32(wide, _mm512_set1_epi32(static_cast<int>(kInt4FactorBias))),
      kInt4FactorShift));
}

/// sums[64] = x times the panel's integers, factors included.
PORTOLAN_BF16_PAIRS void multiply(const PanelProduct& arguments, float* sums) {
  const QuantizedPanel place(arguments.in_features, arguments.quantization);
  const auto* const panel = static_cast<const std::byte*>(arguments.panel);
  const auto* const words = reinterpret_cast<const std::uint32_t*>(panel + place.words);
  const auto* const codes = reinterpret_cast<const std::uint8_t*>(panel + place.factors);
  const __m512i table = _mm512_load_si512(&kIntegers);
  __m512 total[kVectors] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(),
                            _mm512_setzero_ps()};
  std::uint32_t pairs[kInputs / 2];
  for (std::int64_t k = 0; k < arguments.in_features; k += kInputs) {
    const std::int64_t count = std::min(kInputs, arguments.in_features - k);
    make_pairs(static_cast<const BFloat16*>(arguments.x) + k, count, pairs);
    for (std::int64_t group = 0; group < count; group += kQuantizedGroup) {
      __m512 sums_of_group[kVectors];
      multiply_group(words + (k + group) / kPerWord * kPanelWidth, pairs + group / 2, table,
                     sums_of_group);
      const std::uint8_t* const group_codes = codes + (k + group) / kQuantizedGroup * kPanelWidth;
      for (int vector = 0; vector < kVectors; ++vector) {
        total[vector] = _mm512_fmadd_ps(sums_of_group[vector],
                                        factors_of(group_codes + vector * kLanes), total[vector]);
      }
    }
  }
  for (int vector = 0; vector < kVectors; ++vector) {
    _mm512_storeu_ps(sums + vector * kLanes, total[vector]);
  }
}

}  // namespace

bool multiply_bf16_row(const PanelProduct& arguments) {
  static const bool has_pairs =
      __builtin_cpu_supports("avx512bf16") != 0 && __builtin_cpu_supports("avx512bw") != 0;
  if (!has_pairs || arguments.rows != 1 || arguments.x_dtype != DType::bf16 ||
      arguments.quantization != Quantization::int4) {
    return false;
  }
  float sums[kPanelWidth];
  multiply(arguments, sums);
  store_scaled({.out_dtype = arguments.out_dtype,
                .sums = sums,
                .scales = static_cast<const float*>(arguments.panel),
                .out = arguments.out,
                .sums_stride = kPanelWidth,
                .out_stride = arguments.out_stride,
                .rows = 1,
                .columns = arguments.columns,
                .accumulate = arguments.accumulate});
  return true;
}
#else
bool multiply_bf16_row(const PanelProduct& /*arguments*/) { return false; }
#endif

}  // namespace portolan::simd
