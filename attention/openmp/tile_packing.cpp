// SPDX-License-Identifier: Apache-2.0
#include <bit>
#include <cstddef>

#include "attention/openmp/tile_operations.hpp"

// Products need AVX2 at least, so older targets would never run. The fallback cannot be left out
// and has to be the emulated one, which has all operations; unsupported_reason() keeps it from
// running.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#define HWY_BROKEN_EMU128 0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "attention/openmp/tile_packing.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "attention/openmp/tile_vectors-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace portolan::flash::HWY_NAMESPACE {

constexpr int kMaximumHeadDim = 256;

/// Pairs of bf16 as one 32-bit lane; only moved, never computed with.
struct BFloat16Pair {
  BFloat16 elements[2];
};
template <class D>
HWY_INLINE hn::Vec<D> load_floats(D, const BFloat16Pair* source) {
  return hn::LoadU(D(), reinterpret_cast<const float*>(source));
}

HWY_INLINE float to_lane(float value) { return value; }
HWY_INLINE float to_lane(BFloat16 value) { return to_float(value); }
HWY_INLINE float to_lane(Float16 value) { return to_float(value); }
HWY_INLINE float to_lane(BFloat16Pair value) { return std::bit_cast<float>(value); }

/// Block b of the result (4 lanes) is rows[4 * b][0..3].
template <typename T>
HWY_INLINE hn::Vec<Floats> load_every_fourth_row(const T* const* rows, int column) {
  const hn::FixedTag<float, 4> quarter;
#if HWY_MAX_BYTES >= 64
  const hn::FixedTag<float, 8> half;
  return hn::Combine(kFloats,
                     hn::Combine(half, load_floats(quarter, rows[12] + column),
                                 load_floats(quarter, rows[8] + column)),
                     hn::Combine(half, load_floats(quarter, rows[4] + column),
                                 load_floats(quarter, rows[0] + column)));
#elif HWY_MAX_BYTES == 32
  return hn::Combine(kFloats, load_floats(quarter, rows[4] + column),
                     load_floats(quarter, rows[0] + column));
#else
  return load_floats(quarter, rows[0] + column);
#endif
}

/// out[column * stride + row] = rows[row][column] for kBlock rows.
template <typename T>
HWY_INLINE void transpose_block(const T* const* rows, int columns, int stride,
                                float* HWY_RESTRICT out) {
  const hn::Repartition<std::uint64_t, Floats> longs;
  int column = 0;
  for (; column + 4 <= columns; column += 4) {
    for (int row = 0; row < kBlock; row += kLanes) {
      const auto a = load_every_fourth_row(rows + row, column);
      const auto b = load_every_fourth_row(rows + row + 1, column);
      const auto c = load_every_fourth_row(rows + row + 2, column);
      const auto d = load_every_fourth_row(rows + row + 3, column);
      const auto ab_low = hn::BitCast(longs, hn::InterleaveLower(kFloats, a, b));
      const auto ab_high = hn::BitCast(longs, hn::InterleaveUpper(kFloats, a, b));
      const auto cd_low = hn::BitCast(longs, hn::InterleaveLower(kFloats, c, d));
      const auto cd_high = hn::BitCast(longs, hn::InterleaveUpper(kFloats, c, d));
      float* to = out + column * stride + row;
      hn::Store(hn::BitCast(kFloats, hn::InterleaveLower(longs, ab_low, cd_low)), kFloats, to);
      hn::Store(hn::BitCast(kFloats, hn::InterleaveUpper(longs, ab_low, cd_low)), kFloats,
                to + stride);
      hn::Store(hn::BitCast(kFloats, hn::InterleaveLower(longs, ab_high, cd_high)), kFloats,
                to + 2 * stride);
      hn::Store(hn::BitCast(kFloats, hn::InterleaveUpper(longs, ab_high, cd_high)), kFloats,
                to + 3 * stride);
    }
  }
  for (; column < columns; ++column) {
    for (int row = 0; row < kBlock; ++row) {
      out[column * stride + row] = to_lane(rows[row][column]);
    }
  }
}

template <typename T>
void transpose_rows(const SourceRows& source, int columns, int stride, float* out) {
  alignas(64) static constexpr T kZeros[kMaximumHeadDim] = {};
  const T* rows[kBlock];
  const int padded_count = (source.count + 2 * kBlock - 1) / (2 * kBlock) * (2 * kBlock);
  for (int begin = 0; begin < padded_count; begin += kBlock) {
    for (int row = 0; row < kBlock; ++row) {
      rows[row] =
          begin + row < source.count ? static_cast<const T*>(source.rows[begin + row]) : kZeros;
    }
    transpose_block(rows, columns, stride, out + begin);
  }
}

void PackTransposed(const SourceRows& source, OperandFormat format, int stride, void* out) {
  auto* lanes = static_cast<float*>(out);
  if (format == OperandFormat::pair) {
    transpose_rows<BFloat16Pair>(source, source.head_dim / 2, stride, lanes);
    if (source.head_dim % 2 == 0) return;
    float* last = lanes + source.head_dim / 2 * stride;
    for (int row = 0; row < (source.count + 2 * kBlock - 1) / (2 * kBlock) * (2 * kBlock); ++row) {
      const BFloat16 value =
          row < source.count ? static_cast<const BFloat16*>(source.rows[row])[source.head_dim - 1]
                             : BFloat16{};
      last[row] = to_lane(BFloat16Pair{{value, BFloat16{}}});
    }
    return;
  }
  switch (source.dtype) {
    case DType::bf16:
      return transpose_rows<BFloat16>(source, source.head_dim, stride, lanes);
    case DType::f16:
      return transpose_rows<Float16>(source, source.head_dim, stride, lanes);
    default:
      return transpose_rows<float>(source, source.head_dim, stride, lanes);
  }
}

/// out[0..padded) = factor * source, then zeros.
template <typename T>
HWY_INLINE void widen_row(const T* source, int columns, int padded, hn::Vec<Floats> factor,
                          float* HWY_RESTRICT out) {
  int column = 0;
  for (; column + kLanes <= columns; column += kLanes) {
    hn::StoreU(hn::Mul(load_floats(kFloats, source + column), factor), kFloats, out + column);
  }
  const float scalar = hn::GetLane(factor);
  for (; column < columns; ++column) out[column] = to_lane(source[column]) * scalar;
  for (; column < padded; ++column) out[column] = 0.0F;
}

template <typename T>
void widen_rows(const SourceRows& values, int padded_dim, float* out) {
  const auto one = hn::Set(kFloats, 1.0F);
  const int padded_rows = (values.count + 2 * kBlock - 1) / (2 * kBlock) * (2 * kBlock);
  for (int row = 0; row < padded_rows; ++row, out += padded_dim) {
    const bool inside = row < values.count;
    widen_row(inside ? static_cast<const T*>(values.rows[row]) : nullptr,
              inside ? values.head_dim : 0, padded_dim, one, out);
  }
}

/// Each 32-bit lane of the result holds an element of `low` and, above it, one of `high`.
void pair_row(const std::uint16_t* low, const std::uint16_t* high, int columns, int padded,
              std::uint32_t* HWY_RESTRICT out) {
  int column = 0;
  for (; column + kLanes <= columns; column += kLanes) {
    const auto lower = hn::PromoteTo(kWords, hn::LoadU(kHalves, low + column));
    const auto upper = hn::PromoteTo(kWords, hn::LoadU(kHalves, high + column));
    hn::Store(hn::Or(lower, hn::ShiftLeft<16>(upper)), kWords, out + column);
  }
  for (; column < columns; ++column) {
    out[column] = low[column] | (static_cast<std::uint32_t>(high[column]) << 16);
  }
  for (; column < padded; ++column) out[column] = 0;
}

void pack_values(const SourceRows& values, OperandFormat format, int padded_dim, void* out) {
  if (format == OperandFormat::pair) {
    static constexpr std::uint16_t kZeros[kMaximumHeadDim] = {};
    auto* words = static_cast<std::uint32_t*>(out);
    const auto row_or_zeros = [&](int row) {
      return row < values.count ? static_cast<const std::uint16_t*>(values.rows[row]) : kZeros;
    };
    for (int begin = 0; begin < values.count; begin += 2 * kPairDistance) {
      for (int row = begin; row < begin + kPairDistance; ++row) {
        pair_row(row_or_zeros(row), row_or_zeros(row + kPairDistance), values.head_dim, padded_dim,
                 words);
        words += padded_dim;
      }
    }
    return;
  }
  auto* floats = static_cast<float*>(out);
  switch (values.dtype) {
    case DType::bf16:
      return widen_rows<BFloat16>(values, padded_dim, floats);
    case DType::f16:
      return widen_rows<Float16>(values, padded_dim, floats);
    default:
      return widen_rows<float>(values, padded_dim, floats);
  }
}

template <typename T>
void widen_signed_rows(const SourceRows& source, int padded_dim, float sign, float* out) {
  const auto factor = hn::Set(kFloats, sign);
  for (int row = 0; row < source.count; ++row) {
    widen_row(static_cast<const T*>(source.rows[row]), source.head_dim, padded_dim, factor,
              out + row * padded_dim);
  }
}

void LoadRows(const SourceRows& source, OperandFormat format, int padded_dim, float sign,
              void* out) {
  if (format == OperandFormat::pair) {
    // A sign is one bit, and zero no bits at all.
    const std::uint16_t flip = sign < 0.0F ? 0x8000 : 0;
    const std::uint16_t keep = sign == 0.0F ? 0 : 0xFFFF;
    auto* to = static_cast<std::uint16_t*>(out);
    for (int row = 0; row < source.count; ++row, to += padded_dim) {
      const auto* from = static_cast<const std::uint16_t*>(source.rows[row]);
      for (int d = 0; d < source.head_dim; ++d) {
        to[d] = static_cast<std::uint16_t>((from[d] ^ flip) & keep);
      }
      for (int d = source.head_dim; d < padded_dim; ++d) to[d] = 0;
    }
    return;
  }
  auto* floats = static_cast<float*>(out);
  switch (source.dtype) {
    case DType::bf16:
      return widen_signed_rows<BFloat16>(source, padded_dim, sign, floats);
    case DType::f16:
      return widen_signed_rows<Float16>(source, padded_dim, sign, floats);
    default:
      return widen_signed_rows<float>(source, padded_dim, sign, floats);
  }
}

void PairColumns(const float* from, int rows, int columns, int stride, void* out) {
  auto* words = static_cast<std::uint32_t*>(out);
  for (int row = 0; row < rows; ++row, from += stride, words += stride / 2) {
    for (int begin = 0; begin < columns; begin += 2 * kPairDistance) {
      for (int lane = 0; lane < kPairDistance; lane += kLanes) {
        const auto low = hn::Load(kFloats, from + begin + lane);
        const auto high = hn::Load(kFloats, from + begin + kPairDistance + lane);
        hn::Store(pair_bfloat16(low, high), kWords, words + begin / 2 + lane);
      }
    }
  }
}

void AddRows(const float* accumulated, int padded_dim, int count, int head_dim, void* const* rows) {
  for (int row = 0; row < count; ++row, accumulated += padded_dim) {
    auto* out = static_cast<float*>(rows[row]);
    int column = 0;
    for (; column + kLanes <= head_dim; column += kLanes) {
      const auto sum =
          hn::Add(hn::LoadU(kFloats, out + column), hn::Load(kFloats, accumulated + column));
      hn::StoreU(sum, kFloats, out + column);
    }
    for (; column < head_dim; ++column) out[column] += accumulated[column];
  }
}

HWY_INLINE void store_floats(hn::Vec<Floats> value, float* out) { hn::StoreU(value, kFloats, out); }
HWY_INLINE void store_floats(hn::Vec<Floats> value, BFloat16* out) {
  // NaN becomes the canonical one: the rounding addition could carry it into infinity or zero.
  const auto rounded = hn::IfThenElse(hn::RebindMask(kWords, hn::IsNaN(value)),
                                      hn::Set(kWords, 0x7FC00000U), round_to_bfloat16(value));
  hn::StoreU(hn::TruncateTo(kHalves, hn::ShiftRight<16>(rounded)), kHalves,
             reinterpret_cast<std::uint16_t*>(out));
}
HWY_INLINE void store_floats(hn::Vec<Floats> value, Float16* out) {
  const hn::Rebind<hwy::float16_t, Floats> halves;
  hn::StoreU(hn::DemoteTo(halves, value), halves, reinterpret_cast<hwy::float16_t*>(out));
}

template <typename T>
void narrow_rows(const float* accumulated, int padded_dim, const float* factors, int count,
                 int head_dim, void* const* rows) {
  for (int row = 0; row < count; ++row, accumulated += padded_dim) {
    const auto factor = hn::Set(kFloats, factors[row]);
    auto* out = static_cast<T*>(rows[row]);
    int column = 0;
    for (; column + kLanes <= head_dim; column += kLanes) {
      store_floats(hn::Mul(hn::Load(kFloats, accumulated + column), factor), out + column);
    }
    for (; column < head_dim; ++column) {
      out[column] = from_float<T>(accumulated[column] * factors[row]);
    }
  }
}

void store_rows(const float* accumulated, int padded_dim, const float* factors, int count,
                int head_dim, DType dtype, void* const* rows) {
  switch (dtype) {
    case DType::bf16:
      return narrow_rows<BFloat16>(accumulated, padded_dim, factors, count, head_dim, rows);
    case DType::f16:
      return narrow_rows<Float16>(accumulated, padded_dim, factors, count, head_dim, rows);
    default:
      return narrow_rows<float>(accumulated, padded_dim, factors, count, head_dim, rows);
  }
}

}  // namespace portolan::flash::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace portolan::flash {

HWY_EXPORT(PackTransposed);
HWY_EXPORT(pack_values);
HWY_EXPORT(LoadRows);
HWY_EXPORT(PairColumns);
HWY_EXPORT(AddRows);
HWY_EXPORT(store_rows);

bool has_vector_operations() { return (hwy::SupportedTargets() & (HWY_AVX2 | HWY_AVX3)) != 0; }

void pack_transposed(const SourceRows& source, OperandFormat format, int stride, void* out) {
  HWY_DYNAMIC_DISPATCH(PackTransposed)(source, format, stride, out);
}

void pack_values(const SourceRows& values, OperandFormat format, int padded_dim, void* out) {
  HWY_DYNAMIC_DISPATCH(pack_values)(values, format, padded_dim, out);
}

void load_rows(const SourceRows& source, OperandFormat format, int padded_dim, float sign,
               void* out) {
  HWY_DYNAMIC_DISPATCH(LoadRows)(source, format, padded_dim, sign, out);
}

void pair_columns(const float* from, int rows, int columns, int stride, void* out) {
  HWY_DYNAMIC_DISPATCH(PairColumns)(from, rows, columns, stride, out);
}

void add_rows(const float* accumulated, int padded_dim, int count, int head_dim,
              void* const* rows) {
  HWY_DYNAMIC_DISPATCH(AddRows)(accumulated, padded_dim, count, head_dim, rows);
}

void store_rows(const float* accumulated, int padded_dim, const float* factors, int count,
                int head_dim, DType dtype, void* const* rows) {
  HWY_DYNAMIC_DISPATCH(store_rows)
  (accumulated, padded_dim, factors, count, head_dim, dtype, rows);
}

}  // namespace portolan::flash
#endif  // HWY_ONCE
