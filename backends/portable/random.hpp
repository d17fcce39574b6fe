// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "backends/portable/dispatch.hpp"
#include "backends/portable/rows.hpp"
#include "core/backend.hpp"
#include "core/random.hpp"

namespace portolan::portable {

/// mean + scale * u, rounded twice: contracting it to one rounding would make backends differ.
KOKKOS_INLINE_FUNCTION float scale_and_shift(float u, float mean, float scale) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(mean, __fmul_rn(scale, u));
#else
  return mean + scale * u;
#endif
}

/// The numbers of a block's rows. One column of work is a group of four consecutive elements of the
/// stream: one Philox call.
struct BlockWords {
  RandomKey key;
  MatrixBlock block;
  std::int64_t columns = 0;  // of the rows

  /// Of a row, which may start and end within a group.
  [[nodiscard]] std::int64_t groups() const { return columns / 4 + 2; }

  /// Calls visit(column, word) for the columns of groups [begin, end) of a row.
  template <class Visit>
  KOKKOS_INLINE_FUNCTION void for_each(std::int64_t row, std::int64_t begin, std::int64_t end,
                                       const Visit& visit) const {
    const std::int64_t first = (block.row_begin + row) * block.columns + block.column_begin;
    for (std::int64_t group = begin; group < end; ++group) {
      const std::int64_t global_group = first / 4 + group;
      const auto words = random_words(key, static_cast<std::uint64_t>(global_group));
      for (int word = 0; word < 4; ++word) {
        const std::int64_t column = global_group * 4 + word - first;
        if (column >= 0 && column < columns) visit(column, words[word]);
      }
    }
  }
};

template <class T>
struct UniformRows {
  T* out = nullptr;
  std::int64_t out_stride = 0;
  BlockWords words;
  float mean = 0.0F;
  float scale = 0.0F;

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t row, std::int64_t begin,
                                         std::int64_t end) const {
    T* const to = out + row * out_stride;
    words.for_each(row, begin, end, [&](std::int64_t column, std::uint32_t word) {
      to[column] = from_float<T>(scale_and_shift(symmetric_uniform(word), mean, scale));
    });
  }
};

template <class Space>
void random_uniform(const Space& space, const Tensor& out, RandomKey key, const MatrixBlock& block,
                    float mean, float scale) {
  const BlockWords words{key, block, out.dim(1)};
  dispatch_floating(out.dtype(), [&](auto type) {
    using T = typename decltype(type)::type;
    for_rows(space, "Portolan::Random::uniform", out.dim(0), words.groups(),
             UniformRows<T>{out.data<T>(), out.strides()[0], words, mean, scale});
  });
}

template <class T>
struct DropoutRows {
  T* x = nullptr;
  std::int64_t stride = 0;
  BlockWords words;
  std::uint32_t threshold = 0;
  float kept = 1.0F;  // what elements that stay are multiplied with

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t row, std::int64_t begin,
                                         std::int64_t end) const {
    T* const values = x + row * stride;
    words.for_each(row, begin, end, [&](std::int64_t column, std::uint32_t word) {
      const float value = to_float(values[column]) * kept;
      values[column] = from_float<T>(word < threshold ? 0.0F : value);
    });
  }
};

template <class Space>
void dropout(const Space& space, const Tensor& x, float probability, RandomKey key,
             const MatrixBlock& block) {
  const BlockWords words{key, block, x.dim(1)};
  dispatch_floating(x.dtype(), [&](auto type) {
    using T = typename decltype(type)::type;
    for_rows(space, "Portolan::Random::dropout", x.dim(0), words.groups(),
             DropoutRows<T>{x.data<T>(), x.strides()[0], words, dropout_threshold(probability),
                            1.0F / (1.0F - probability)});
  });
}

}  // namespace portolan::portable
