// SPDX-License-Identifier: Apache-2.0
#include "backends/openmp/simd/integer_rows.hpp"

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
// The headers' "undefined" vectors, which no lane of a result comes from.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#define PORTOLAN_BYTE_PRODUCTS \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#endif

#include <algorithm>
#include <bit>

#include "backends/openmp/simd/panel_parts.hpp"
#include "core/panels.hpp"

namespace portolan::simd {

#if defined(PORTOLAN_BYTE_PRODUCTS)
namespace {

constexpr std::int64_t kLanes = 16;
constexpr int kVectors = kPanelWidth / kLanes;
/// The sums of more rows would not fit the registers with all columns at once.
constexpr int kWholePanelRows = 2;

/// How a panel's words of 16 outputs (core/panels.hpp) become bytes without a sign, kBias added.
template <Quantization kForm>
struct PanelWords;

template <>
struct PanelWords<Quantization::int4> {
  static constexpr int kBias = 8;
  /// Words of a group, and vectors of four inputs each that a word gives: its even and its odd.
  static constexpr int kWords = 4;
  static constexpr int kParts = 2;
  template <int kPart>
  PORTOLAN_BYTE_PRODUCTS static inline __m512i bytes(__m512i words) {
    const __m512i shifted = kPart == 0 ? words : _mm512_srli_epi32(words, 4);
    constexpr int kAndThenXor = 0x6A;
    return _mm512_ternarylogic_epi32(shifted, _mm512_set1_epi8(0x0F), _mm512_set1_epi8(kBias),
                                     kAndThenXor);
  }
};

template <>
struct PanelWords<Quantization::int8> {
  static constexpr int kBias = 128;
  static constexpr int kWords = 8;
  static constexpr int kParts = 1;
  template <int kPart>
  PORTOLAN_BYTE_PRODUCTS static inline __m512i bytes(__m512i words) {
    return _mm512_xor_si512(words, _mm512_set1_epi8(static_cast<char>(kBias)));
  }
};

/// A group of one row: of its first 16 inputs four words of higher digits, then four of lower ones,
/// then of its other 16. Each word has the digits of the four inputs that a part of a panel's words
/// has, in the order of these parts.
struct alignas(64) IntegerGroup {
  std::uint32_t digits[16];
};
struct GroupNumbers {
  float unit;           ///< what the integers are multiples of
  std::int32_t offset;  ///< what the bias of the panel's bytes adds, negative
};

/// How rows lie in memory: the groups of all of them, and behind these their numbers.
struct IntegerLayout {
  std::int64_t of_row;  ///< groups
  std::size_t numbers;  ///< where they begin, in bytes
  std::size_t bytes;

  IntegerLayout(std::int64_t rows, std::int64_t in_features)
      : of_row(quantized_groups(in_features)) {
    const auto groups = static_cast<std::size_t>(rows * of_row);
    numbers = groups * sizeof(IntegerGroup);
    bytes = numbers + groups * sizeof(GroupNumbers);
  }
};

struct IntegerRows {
  const IntegerGroup* groups;
  const GroupNumbers* numbers;
  std::int64_t of_row;

  IntegerRows(const std::byte* memory, const IntegerLayout& layout)
      : groups(reinterpret_cast<const IntegerGroup*>(memory)),
        numbers(reinterpret_cast<const GroupNumbers*>(memory + layout.numbers)),
        of_row(layout.of_row) {}
};

/// Of 16 integers: the higher digits, and behind them the lower.
template <Quantization kForm>
PORTOLAN_BYTE_PRODUCTS inline __m256i digits_of(__m512i integers) {
  const __m512i higher = _mm512_srai_epi32(_mm512_add_epi32(integers, _mm512_set1_epi32(128)), 8);
  const __m512i lower = _mm512_sub_epi32(integers, _mm512_slli_epi32(higher, 8));
  const __m256i both = _mm256_set_m128i(_mm512_cvtepi32_epi8(lower), _mm512_cvtepi32_epi8(higher));
  if constexpr (kForm == Quantization::int8) return both;
  const __m128i even_then_odd = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
  return _mm256_shuffle_epi8(both, _mm256_broadcastsi128_si256(even_then_odd));
}

/// The bits of 16 f32 from those of 16 bf16.
PORTOLAN_BYTE_PRODUCTS inline __m512i widened(__m256i bits) {
  return _mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16);
}

/// Of up to 32 bf16; false if one is not finite.
template <Quantization kForm>
PORTOLAN_BYTE_PRODUCTS inline bool make_group(const BFloat16* x, std::int64_t count,
                                              IntegerGroup& group, GroupNumbers& numbers) {
  const __mmask32 real =
      count < kQuantizedGroup ? (__mmask32{1} << static_cast<unsigned>(count)) - 1U : ~__mmask32{0};
  const __m512i raw = _mm512_maskz_loadu_epi16(real, x);
  const __m512i bits[2] = {widened(_mm512_castsi512_si256(raw)),
                           widened(_mm512_extracti64x4_epi64(raw, 1))};
  const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
  const auto largest = static_cast<std::uint32_t>(_mm512_reduce_max_epi32(_mm512_max_epi32(
      _mm512_and_si512(bits[0], magnitude), _mm512_and_si512(bits[1], magnitude))));
  // Exponents as f32 stores them. The largest input becomes an integer of 15 bits. A group of
  // nothing but numbers below 2^-115 becomes 0.
  constexpr std::uint32_t kNotFinite = 255;
  constexpr std::uint32_t kLeast = 27;
  constexpr std::uint32_t kBits = 14;
  constexpr std::uint32_t kOne = 127;
  const std::uint32_t exponent = std::max(largest >> 23U, kLeast);
  if (exponent == kNotFinite) return false;
  numbers.unit = std::bit_cast<float>((exponent - kBits) << 23U);
  const __m512 factor = _mm512_set1_ps(std::bit_cast<float>((2 * kOne + kBits - exponent) << 23U));
  __m512i integers[2];
  for (int half = 0; half < 2; ++half) {
    constexpr int kLargest = 127 * 256 + 127;
    integers[half] =
        _mm512_min_epi32(_mm512_cvtps_epi32(_mm512_mul_ps(_mm512_castsi512_ps(bits[half]), factor)),
                         _mm512_set1_epi32(kLargest));
    _mm256_store_si256(reinterpret_cast<__m256i*>(group.digits + half * 8),
                       digits_of<kForm>(integers[half]));
  }
  numbers.offset = -PanelWords<kForm>::kBias *
                   _mm512_reduce_add_epi32(_mm512_add_epi32(integers[0], integers[1]));
  return true;
}

/// Digits in all lanes. Those of one row are held in registers: the compiler would read them again
/// for each vector of columns, and with that many reads in flight the panel's come 5 % slower.
template <int kRows>
PORTOLAN_BYTE_PRODUCTS inline __m512i all(std::uint32_t digits) {
  __m512i lanes = _mm512_set1_epi32(static_cast<int>(digits));
  if constexpr (kRows == 1) asm("" : "+v"(lanes));
  return lanes;
}

/// A line of a panel, and a request for one further on. int4 leaves fewer instructions to a byte
/// than int8: its lines are loaded once, though the halves of their bytes are wanted at different
/// times, and requests go out one by one. The compiler would gather a group's, and the processor
/// drops those that find its queue full.
template <Quantization kForm>
PORTOLAN_BYTE_PRODUCTS inline __m512i load_and_prefetch(const std::uint32_t* words) {
  __m512i loaded = _mm512_loadu_si512(words);
  if constexpr (kForm == Quantization::int4) {
    asm volatile("prefetcht0 %1" : "+v"(loaded) : "m"(words[kPrefetchWords]));
  } else {
    _mm_prefetch(words + kPrefetchWords, _MM_HINT_T0);
  }
  return loaded;
}

/// What one group's words give, for kRows rows and kColumns vectors of columns.
template <int kRows, int kColumns>
using Sums = __m512[kRows][kColumns];

/// total += what the digits of a group give, `factor` times.
PORTOLAN_BYTE_PRODUCTS inline void add_group(__m512i higher, __m512i lower, __m512 factor,
                                             __m512& total) {
  const __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(higher, 8), lower);
  total = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), factor, total);
}

/// sum += the digits in memory times a vector of bytes: broadcast on its way, it takes no register.
PORTOLAN_BYTE_PRODUCTS inline __m512i add_products(__m512i sum, __m512i bytes,
                                                   const std::uint32_t& digits) {
  asm("vpdpbusd %1%{1to16%}, %2, %0" : "+v"(sum) : "m"(digits), "v"(bytes));
  return sum;
}

/// total += one group of the rows times its words, `factors` times. The group of the first row is
/// number `group` of all. Digits that several columns use are held in registers.
template <Quantization kForm, int kRows, int kColumns>
PORTOLAN_BYTE_PRODUCTS inline void multiply_group(const std::uint32_t* words, const __m512* factors,
                                                  const IntegerRows& rows, std::int64_t group,
                                                  Sums<kRows, kColumns>& total) {
  using Words = PanelWords<kForm>;
  __m512i higher[kRows][kColumns];
  __m512i lower[kRows][kColumns];
#pragma GCC unroll 4
  for (int row = 0; row < kRows; ++row) {
    const __m512i offset = _mm512_set1_epi32(rows.numbers[row * rows.of_row + group].offset);
#pragma GCC unroll 4
    for (int column = 0; column < kColumns; ++column) {
      higher[row][column] = _mm512_setzero_si512();
      lower[row][column] = offset;
    }
  }
#pragma GCC unroll 8
  for (int word = 0; word < Words::kWords; ++word) {
    const int part = word * Words::kParts;
    const int first = part / 4 * 8 + part % 4;
    const std::uint32_t* from[kRows];
    __m512i digits[kRows][Words::kParts][2];
#pragma GCC unroll 4
    for (int row = 0; row < kRows; ++row) {
      from[row] = rows.groups[row * rows.of_row + group].digits + first;
#pragma GCC unroll 2
      for (int i = 0; i < Words::kParts && kColumns > 1; ++i) {
        digits[row][i][0] = all<kRows>(from[row][i]);
        digits[row][i][1] = all<kRows>(from[row][4 + i]);
      }
    }
#pragma GCC unroll 4
    for (int column = 0; column < kColumns; ++column) {
      const __m512i loaded = load_and_prefetch<kForm>(words + word * kPanelWidth + column * kLanes);
      const __m512i bytes[2] = {Words::template bytes<0>(loaded), Words::template bytes<1>(loaded)};
#pragma GCC unroll 4
      for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 2
        for (int i = 0; i < Words::kParts; ++i) {
          __m512i& high = higher[row][column];
          __m512i& low = lower[row][column];
          if constexpr (kColumns > 1) {
            high = _mm512_dpbusd_epi32(high, bytes[i], digits[row][i][0]);
            low = _mm512_dpbusd_epi32(low, bytes[i], digits[row][i][1]);
          } else {
            high = add_products(high, bytes[i], from[row][i]);
            low = add_products(low, bytes[i], from[row][4 + i]);
          }
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int row = 0; row < kRows; ++row) {
    const __m512 unit = _mm512_set1_ps(rows.numbers[row * rows.of_row + group].unit);
#pragma GCC unroll 4
    for (int column = 0; column < kColumns; ++column) {
      add_group(higher[row][column], lower[row][column], _mm512_mul_ps(factors[column], unit),
                total[row][column]);
    }
  }
}

/// int4_factor of one vector of codes.
PORTOLAN_BYTE_PRODUCTS inline __m512 factors_of(const std::uint8_t* codes) {
  const __m512i wide =
      _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(
      _mm512_add_epi32(wide, _mm512_set1_epi32(static_cast<int>(kInt4FactorBias))),
      kInt4FactorShift));
}

/// sums[kRows, 64] += groups [begin, end) of the rows from `first` on times the panel, kColumns
/// vectors of columns from `column` on, kAtOnce of them at a time. Sums begin with group 0,
/// whatever is in memory: zeros written there would have to leave the processor before they are
/// read as longer vectors, and all its reads ahead would wait for that.
template <Quantization kForm, int kRows, int kColumns, int kAtOnce>
PORTOLAN_BYTE_PRODUCTS void multiply_groups(const PanelParts& panel, const IntegerRows& rows,
                                            std::int64_t first, std::int64_t begin,
                                            std::int64_t end, std::int64_t column, float* sums) {
  Sums<kRows, kAtOnce> total[kColumns / kAtOnce];
  for (int row = 0; row < kRows; ++row) {
    for (int i = 0; i < kColumns; ++i) {
      const float* const from = sums + (first + row) * kPanelWidth + column + i * kLanes;
      total[i / kAtOnce][row][i % kAtOnce] =
          begin == 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(from);
    }
  }
  for (std::int64_t group = begin; group < end; ++group) {
    __m512 factors[kColumns];
    const std::uint32_t* words = nullptr;
    if constexpr (kForm == Quantization::int4) {
      const Int4Group place(panel, group);
      words = place.words;
      _mm_prefetch(place.factors + kPrefetchBytes, _MM_HINT_T0);
      for (int i = 0; i < kColumns; ++i) {
        factors[i] = factors_of(place.factors + column + i * kLanes);
      }
    } else {
      words = panel.words() + group * PanelWords<kForm>::kWords * kPanelWidth;
      for (__m512& factor : factors) factor = _mm512_set1_ps(1.0F);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kColumns; i += kAtOnce) {
      multiply_group<kForm, kRows, kAtOnce>(words + column + i * kLanes, factors + i, rows,
                                            first * rows.of_row + group, total[i / kAtOnce]);
    }
  }
  for (int row = 0; row < kRows; ++row) {
    for (int i = 0; i < kColumns; ++i) {
      _mm512_storeu_ps(sums + (first + row) * kPanelWidth + column + i * kLanes,
                       total[i / kAtOnce][row][i % kAtOnce]);
    }
  }
}

/// multiply_groups for all columns.
template <Quantization kForm, int kRows>
void multiply_rows(const PanelParts& panel, const IntegerRows& rows, std::int64_t first,
                   std::int64_t begin, std::int64_t end, float* sums) {
  // More rows of int4, of which a word has two vectors of inputs, are 20 % faster one vector of
  // columns after the other: sums and digits take few registers then. Those of int8 are slower.
  constexpr bool kMore = kRows > kWholePanelRows;
  constexpr bool kOneByOne = kMore && kForm == Quantization::int4;
  constexpr int kColumns = kMore && !kOneByOne ? kVectors / 2 : kVectors;
  constexpr int kAtOnce = kOneByOne ? 1 : kColumns;
  for (std::int64_t column = 0; column < kPanelWidth; column += kColumns * kLanes) {
    multiply_groups<kForm, kRows, kColumns, kAtOnce>(panel, rows, first, begin, end, column, sums);
  }
}

/// Rows at a time.
constexpr std::int64_t kRegisterRows = 4;
/// Groups at a time where there are more rows: their words stay in the first-level cache from one
/// set of rows to the next.
constexpr std::int64_t kGroupsAtOnce = 16;

template <Quantization kForm>
bool make_rows(const PanelProduct& product, std::int64_t begin, std::int64_t end,
               std::byte* integers) {
  const IntegerLayout layout(product.rows, product.in_features);
  auto* const groups = reinterpret_cast<IntegerGroup*>(integers);
  auto* const numbers = reinterpret_cast<GroupNumbers*>(integers + layout.numbers);
  for (std::int64_t row = begin; row < end; ++row) {
    const auto* const x = static_cast<const BFloat16*>(product.x) + row * product.x_stride;
    for (std::int64_t group = 0; group < layout.of_row; ++group) {
      const std::int64_t first = group * kQuantizedGroup;
      const std::int64_t at = row * layout.of_row + group;
      if (!make_group<kForm>(x + first, std::min(kQuantizedGroup, product.in_features - first),
                             groups[at], numbers[at])) {
        return false;
      }
    }
  }
  return true;
}

template <Quantization kForm>
void multiply(const PanelProduct& product, const IntegerRows& rows, float* sums) {
  const PanelParts panel = parts_of(product);
  const std::int64_t at_once = product.rows <= kWholePanelRows ? rows.of_row : kGroupsAtOnce;
  std::int64_t begin = 0;
  do {  // at least once: sums of nothing are zero
    const std::int64_t end = std::min(begin + at_once, rows.of_row);
    for (std::int64_t row = 0; row < product.rows; row += kRegisterRows) {
      switch (std::min(kRegisterRows, product.rows - row)) {
        case 1:
          multiply_rows<kForm, 1>(panel, rows, row, begin, end, sums);
          break;
        case 2:
          multiply_rows<kForm, 2>(panel, rows, row, begin, end, sums);
          break;
        case 3:
          multiply_rows<kForm, 3>(panel, rows, row, begin, end, sums);
          break;
        default:
          multiply_rows<kForm, 4>(panel, rows, row, begin, end, sums);
      }
    }
    begin = end;
  } while (begin < rows.of_row);
}

}  // namespace

bool has_integer_rows(DType x_dtype, Quantization quantization, std::int64_t rows) {
  static const bool has_byte_products =
      __builtin_cpu_supports("avx512vnni") != 0 && __builtin_cpu_supports("avx512bw") != 0;
  // Up to four rows by int8 keep up with memory in floats, too, and read it more evenly then.
  const std::int64_t least = quantization == Quantization::int8 ? 5 : 1;
  return has_byte_products && x_dtype == DType::bf16 && quantization != Quantization::none &&
         rows >= least && rows <= kMostIntegerRows;
}

std::size_t integer_row_bytes(std::int64_t rows, std::int64_t in_features) {
  return IntegerLayout(rows, in_features).bytes;
}

bool make_integer_rows(const PanelProduct& product, std::int64_t begin, std::int64_t end,
                       std::byte* integers) {
  return product.quantization == Quantization::int4
             ? make_rows<Quantization::int4>(product, begin, end, integers)
             : make_rows<Quantization::int8>(product, begin, end, integers);
}

void multiply_integer_rows(const PanelProduct& product, const std::byte* integers) {
  alignas(64) float sums[kMostIntegerRows * kPanelWidth];
  const IntegerRows rows(integers, IntegerLayout(product.rows, product.in_features));
  if (product.quantization == Quantization::int4) {
    multiply<Quantization::int4>(product, rows, sums);
  } else {
    multiply<Quantization::int8>(product, rows, sums);
  }
  store_scaled({.out_dtype = product.out_dtype,
                .sums = sums,
                .scales = parts_of(product).scales,
                .out = product.out,
                .sums_stride = kPanelWidth,
                .out_stride = product.out_stride,
                .rows = product.rows,
                .columns = product.columns,
                .accumulate = product.accumulate});
}
#else
bool has_integer_rows(DType, Quantization, std::int64_t) { return false; }
std::size_t integer_row_bytes(std::int64_t, std::int64_t) { return 0; }
bool make_integer_rows(const PanelProduct&, std::int64_t, std::int64_t, std::byte*) {
  return false;
}
void multiply_integer_rows(const PanelProduct&, const std::byte*) {}
#endif

}  // namespace portolan::simd
