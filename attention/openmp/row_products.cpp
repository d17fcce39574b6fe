// SPDX-License-Identifier: Apache-2.0
#include "attention/openmp/row_products.hpp"

#include <algorithm>

// As in tile_packing.cpp.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#define HWY_BROKEN_EMU128 0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "attention/openmp/row_products.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "attention/openmp/tile_vectors-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace portolan::flash::HWY_NAMESPACE {

/// Queries that share what is loaded of a key.
constexpr int kRowsAtOnce = 4;
/// Registers for sums of values.
constexpr int kSumRegisters = kLanes == 16 ? 16 : 8;

/// The first `count` lanes; the others are 0.
template <typename T>
HWY_INLINE hn::Vec<Floats> load_first(const T* source, int count) {
  alignas(64) T padded[kLanes] = {};
  std::copy_n(source, count, padded);
  return load_floats(kFloats, padded);
}

template <typename T, int kRows>
void scores_of(const float* HWY_RESTRICT queries, int query_stride, const SourceRows& keys,
               float* HWY_RESTRICT scores) {
  const int whole = keys.head_dim / kLanes * kLanes;
  for (int key = 0; key < keys.count; ++key) {
    const auto* source = static_cast<const T*>(keys.rows[key]);
    hn::Vec<Floats> sums[kRows];
    for (int row = 0; row < kRows; ++row) sums[row] = hn::Zero(kFloats);
    const auto add = [&](int column, hn::Vec<Floats> value) HWY_ATTR {
      for (int row = 0; row < kRows; ++row) {
        const auto query = hn::LoadU(kFloats, queries + row * query_stride + column);
        sums[row] = hn::MulAdd(query, value, sums[row]);
      }
    };
    for (int column = 0; column < whole; column += kLanes) {
      add(column, load_floats(kFloats, source + column));
    }
    if (whole < keys.head_dim) add(whole, load_first(source + whole, keys.head_dim - whole));
    for (int row = 0; row < kRows; ++row) {
      scores[row * kKeyTile + key] = hn::GetLane(hn::SumOfLanes(kFloats, sums[row]));
    }
  }
}

/// Columns [column, column + kVectors vectors) of out; or fewer than a vector, if `part` > 0.
template <typename T, int kRows, int kVectors>
void accumulate_columns(const float* HWY_RESTRICT weights, const SourceRows& values, int column,
                        int part, int out_stride, float* HWY_RESTRICT out) {
  hn::Vec<Floats> sums[kRows][kVectors];
  for (int row = 0; row < kRows; ++row) {
    for (int i = 0; i < kVectors; ++i) {
      sums[row][i] = hn::Load(kFloats, out + row * out_stride + column + i * kLanes);
    }
  }
  for (int key = 0; key < values.count; ++key) {
    const auto* source = static_cast<const T*>(values.rows[key]) + column;
    for (int i = 0; i < kVectors; ++i) {
      const auto value =
          part > 0 ? load_first(source, part) : load_floats(kFloats, source + i * kLanes);
      for (int row = 0; row < kRows; ++row) {
        const auto weight = hn::Set(kFloats, weights[row * kKeyTile + key]);
        sums[row][i] = hn::MulAdd(weight, value, sums[row][i]);
      }
    }
  }
  for (int row = 0; row < kRows; ++row) {
    for (int i = 0; i < kVectors; ++i) {
      hn::Store(sums[row][i], kFloats, out + row * out_stride + column + i * kLanes);
    }
  }
}

template <typename T, int kRows>
void accumulate_of(const float* weights, const SourceRows& values, int out_stride, float* out) {
  constexpr int kVectors = std::min(8, kSumRegisters / kRows);
  const int whole = values.head_dim / kLanes * kLanes;
  int column = 0;
  for (; column + kVectors * kLanes <= whole; column += kVectors * kLanes) {
    accumulate_columns<T, kRows, kVectors>(weights, values, column, 0, out_stride, out);
  }
  for (; column < whole; column += kLanes) {
    accumulate_columns<T, kRows, 1>(weights, values, column, 0, out_stride, out);
  }
  if (column < values.head_dim) {
    accumulate_columns<T, kRows, 1>(weights, values, column, values.head_dim - column, out_stride,
                                    out);
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
               float* scores) {
  for_row_groups(keys.dtype, rows, [&]<typename T, int kRows>(int row) {
    scores_of<T, kRows>(queries + row * query_stride, query_stride, keys, scores + row * kKeyTile);
  });
}

void AccumulateRows(const float* weights, int rows, const SourceRows& values, int out_stride,
                    float* out) {
  for_row_groups(values.dtype, rows, [&]<typename T, int kRows>(int row) {
    accumulate_of<T, kRows>(weights + row * kKeyTile, values, out_stride, out + row * out_stride);
  });
}

}  // namespace portolan::flash::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace portolan::flash {

HWY_EXPORT(RowScores);
HWY_EXPORT(AccumulateRows);

void row_scores(const float* queries, int query_stride, int rows, const SourceRows& keys,
                float* scores) {
  HWY_DYNAMIC_DISPATCH(RowScores)(queries, query_stride, rows, keys, scores);
}

void accumulate_rows(const float* weights, int rows, const SourceRows& values, int out_stride,
                     float* out) {
  HWY_DYNAMIC_DISPATCH(AccumulateRows)(weights, rows, values, out_stride, out);
}

}  // namespace portolan::flash
#endif  // HWY_ONCE
