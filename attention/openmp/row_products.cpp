// SPDX-License-Identifier: Apache-2.0
#include "attention/openmp/row_products.hpp"

#include <algorithm>
#include <cstddef>

// As in tile_packing.cpp.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#define HWY_BROKEN_EMU128 0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "attention/openmp/row_products.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "attention/openmp/tile_vectors-inl.hpp"
#include "hwy/cache_control.h"

// Arrays of vectors stay in registers only where loops over them are unrolled early.
#undef PORTOLAN_UNROLL
#define PORTOLAN_UNROLL HWY_UNROLL(16)

HWY_BEFORE_NAMESPACE();
namespace portolan::flash::HWY_NAMESPACE {

/// Queries that share what is loaded of a key.
constexpr int kRowsAtOnce = 4;
/// Keys that share what is loaded of queries.
constexpr int kKeysAtOnce = 4;
using Quarter = hn::FixedTag<float, 4>;
/// Registers for sums of values.
constexpr int kSumRegisters = kLanes == 16 ? 16 : 8;

/// The first `count` lanes; the others are 0.
template <typename T>
HWY_INLINE hn::Vec<Floats> load_first(const T* source, int count) {
  alignas(64) T padded[kLanes] = {};
  std::copy_n(source, count, padded);
  return load_floats(kFloats, padded);
}

template <bool kPart, typename T>
HWY_INLINE hn::Vec<Floats> load_some(const T* source, int part) {
  if constexpr (kPart) {
    return load_first(source, part);
  } else {
    return load_floats(kFloats, source);
  }
}

/// Rows in the order in which they are read, fetched into the cache some time before. Not earlier
/// than it takes: rows are often a power of two apart, and then displace each other.
class FetchedRows {
 public:
  FetchedRows(const SourceRows& now, const SourceRows& ahead)
      : now_(now),
        ahead_(ahead),
        bytes_(static_cast<std::size_t>(now.head_dim) * size_of(now.dtype)),
        distance_(static_cast<int>(std::max<std::size_t>(kBytesAhead / bytes_, 1))) {}

  HWY_INLINE void fetch_behind(int index) const {
    constexpr std::size_t kLineBytes = 64;
    const int later = index + distance_;
    const void* row = later < now_.count                  ? now_.rows[later]
                      : later - now_.count < ahead_.count ? ahead_.rows[later - now_.count]
                                                          : nullptr;
    if (row == nullptr) return;
    for (std::size_t offset = 0; offset < bytes_; offset += kLineBytes) {
      hwy::Prefetch(static_cast<const std::byte*>(row) + offset);
    }
  }

 private:
  static constexpr std::size_t kBytesAhead =
      8192;  // what a core reads in the time of a miss, and some

  const SourceRows& now_;
  const SourceRows& ahead_;
  std::size_t bytes_;
  int distance_;
};

/// The sums of the lanes of four vectors.
HWY_INLINE hn::Vec<Quarter> sums_of_lanes(hn::Vec<Floats> a, hn::Vec<Floats> b, hn::Vec<Floats> c,
                                          hn::Vec<Floats> d) {
  const auto ac = hn::Add(hn::InterleaveLower(kFloats, a, c), hn::InterleaveUpper(kFloats, a, c));
  const auto bd = hn::Add(hn::InterleaveLower(kFloats, b, d), hn::InterleaveUpper(kFloats, b, d));
  // Each block of four lanes now has a part of each sum.
  const auto blocks =
      hn::Add(hn::InterleaveLower(kFloats, ac, bd), hn::InterleaveUpper(kFloats, ac, bd));
#if HWY_MAX_BYTES >= 64
  const hn::FixedTag<float, 8> half;
  const auto halves = hn::Add(hn::LowerHalf(half, blocks), hn::UpperHalf(half, blocks));
  return hn::Add(hn::LowerHalf(Quarter(), halves), hn::UpperHalf(Quarter(), halves));
#elif HWY_MAX_BYTES == 32
  return hn::Add(hn::LowerHalf(Quarter(), blocks), hn::UpperHalf(Quarter(), blocks));
#else
  return blocks;
#endif
}

/// Adds to sums the products of a vector of elements of queries and keys: of all lanes, or of the
/// first `part`.
template <typename T, int kRows, bool kPart>
HWY_INLINE void add_products(const float* HWY_RESTRICT queries, int query_stride,
                             const T* const* keys, int column, int part,
                             hn::Vec<Floats> (&sums)[kRows][kKeysAtOnce]) {
  PORTOLAN_UNROLL
  for (int i = 0; i < kKeysAtOnce; ++i) {
    const auto key = load_some<kPart>(keys[i] + column, part);
    PORTOLAN_UNROLL
    for (int row = 0; row < kRows; ++row) {
      const auto query = hn::LoadU(kFloats, queries + row * query_stride);
      sums[row][i] = hn::MulAdd(query, key, sums[row][i]);
    }
  }
}

template <typename T, int kRows>
void scores_of(const float* HWY_RESTRICT queries, int query_stride, const SourceRows& keys,
               const SourceRows& ahead, float* HWY_RESTRICT scores) {
  const int whole = keys.head_dim / kLanes * kLanes;
  const FetchedRows fetched(keys, ahead);
  for (int key = 0; key < keys.count; key += kKeysAtOnce) {
    const T* source[kKeysAtOnce];
    for (int i = 0; i < kKeysAtOnce; ++i) {
      source[i] = static_cast<const T*>(keys.rows[std::min(key + i, keys.count - 1)]);
      fetched.fetch_behind(key + i);
    }
    hn::Vec<Floats> sums[kRows][kKeysAtOnce];
    PORTOLAN_UNROLL
    for (int row = 0; row < kRows; ++row) {
      PORTOLAN_UNROLL
      for (int i = 0; i < kKeysAtOnce; ++i) sums[row][i] = hn::Zero(kFloats);
    }
    for (int column = 0; column < whole; column += kLanes) {
      add_products<T, kRows, false>(queries + column, query_stride, source, column, 0, sums);
    }
    if (whole < keys.head_dim) {
      add_products<T, kRows, true>(queries + whole, query_stride, source, whole,
                                   keys.head_dim - whole, sums);
    }
    PORTOLAN_UNROLL
    for (int row = 0; row < kRows; ++row) {
      const auto& sum = sums[row];
      hn::StoreU(sums_of_lanes(sum[0], sum[1], sum[2], sum[3]), Quarter(),
                 scores + row * kKeyTile + key);
    }
  }
}

/// kVectors vectors of columns of out, or the first `part` lanes of one.
template <typename T, int kRows, int kVectors, bool kPart>
void accumulate_columns(const float* HWY_RESTRICT weights, const SourceRows& values,
                        const SourceRows& ahead, int column, int part, int out_stride,
                        float* HWY_RESTRICT out) {
  hn::Vec<Floats> sums[kRows][kVectors];
  PORTOLAN_UNROLL
  for (int row = 0; row < kRows; ++row) {
    PORTOLAN_UNROLL
    for (int i = 0; i < kVectors; ++i) {
      sums[row][i] = hn::Load(kFloats, out + row * out_stride + column + i * kLanes);
    }
  }
  const FetchedRows fetched(values, ahead);
  for (int key = 0; key < values.count; ++key) {
    const auto* source = static_cast<const T*>(values.rows[key]) + column;
    if (column == 0) fetched.fetch_behind(key);
    PORTOLAN_UNROLL
    for (int i = 0; i < kVectors; ++i) {
      const auto value = load_some<kPart>(source + i * kLanes, part);
      PORTOLAN_UNROLL
      for (int row = 0; row < kRows; ++row) {
        const auto weight = hn::Set(kFloats, weights[row * kKeyTile + key]);
        sums[row][i] = hn::MulAdd(weight, value, sums[row][i]);
      }
    }
  }
  PORTOLAN_UNROLL
  for (int row = 0; row < kRows; ++row) {
    PORTOLAN_UNROLL
    for (int i = 0; i < kVectors; ++i) {
      hn::Store(sums[row][i], kFloats, out + row * out_stride + column + i * kLanes);
    }
  }
}

template <typename T, int kRows>
void accumulate_of(const float* weights, const SourceRows& values, const SourceRows& ahead,
                   int out_stride, float* out) {
  constexpr int kVectors = std::min(8, kSumRegisters / kRows);
  const int whole = values.head_dim / kLanes * kLanes;
  int column = 0;
  for (; column + kVectors * kLanes <= whole; column += kVectors * kLanes) {
    accumulate_columns<T, kRows, kVectors, false>(weights, values, ahead, column, 0, out_stride,
                                                  out);
  }
  for (; column < whole; column += kLanes) {
    accumulate_columns<T, kRows, 1, false>(weights, values, ahead, column, 0, out_stride, out);
  }
  if (column < values.head_dim) {
    accumulate_columns<T, kRows, 1, true>(weights, values, ahead, column, values.head_dim - column,
                                          out_stride, out);
  }
}

/// Calls body.operator()<T, rows>(first row) for groups of rows.
template <typename T>
void for_row_groups(int rows, const auto& body) {
  int row = 0;
  for (; row + kRowsAtOnce <= rows; row += kRowsAtOnce) {
    body.template operator()<T, kRowsAtOnce>(row);
  }
  switch (rows - row) {
    case 3:
      return body.template operator()<T, 3>(row);
    case 2:
      return body.template operator()<T, 2>(row);
    case 1:
      return body.template operator()<T, 1>(row);
    default:
      return;
  }
}

void for_row_groups(DType dtype, int rows, const auto& body) {
  switch (dtype) {
    case DType::bf16:
      return for_row_groups<BFloat16>(rows, body);
    case DType::f16:
      return for_row_groups<Float16>(rows, body);
    default:
      return for_row_groups<float>(rows, body);
  }
}

void RowScores(const float* queries, int query_stride, int rows, const SourceRows& keys,
               const SourceRows& ahead, float* scores) {
  for_row_groups(keys.dtype, rows, [&]<typename T, int kRows>(int row) {
    scores_of<T, kRows>(queries + row * query_stride, query_stride, keys, ahead,
                        scores + row * kKeyTile);
  });
}

void AccumulateRows(const float* weights, int rows, const SourceRows& values,
                    const SourceRows& ahead, int out_stride, float* out) {
  for_row_groups(values.dtype, rows, [&]<typename T, int kRows>(int row) {
    accumulate_of<T, kRows>(weights + row * kKeyTile, values, ahead, out_stride,
                            out + row * out_stride);
  });
}

}  // namespace portolan::flash::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace portolan::flash {

HWY_EXPORT(RowScores);
HWY_EXPORT(AccumulateRows);

void row_scores(const float* queries, int query_stride, int rows, const SourceRows& keys,
                const SourceRows& ahead, float* scores) {
  HWY_DYNAMIC_DISPATCH(RowScores)(queries, query_stride, rows, keys, ahead, scores);
}

void accumulate_rows(const float* weights, int rows, const SourceRows& values,
                     const SourceRows& ahead, int out_stride, float* out) {
  HWY_DYNAMIC_DISPATCH(AccumulateRows)(weights, rows, values, ahead, out_stride, out);
}

}  // namespace portolan::flash
#endif  // HWY_ONCE
