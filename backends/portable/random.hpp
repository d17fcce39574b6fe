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

/// One column of work is a group of four consecutive elements of the stream: one Philox call.
template <class T>
struct UniformRows {
  T* out = nullptr;
  std::int64_t out_stride = 0;
  std::int64_t columns = 0;
  RandomKey key;
  MatrixBlock block;
  float mean = 0.0F;
  float scale = 0.0F;

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t row, std::int64_t begin,
                                         std::int64_t end) const {
    const std::int64_t first = (block.row_begin + row) * block.columns + block.column_begin;
    T* const to = out + row * out_stride;
    for (std::int64_t group = begin; group < end; ++group) {
      const std::int64_t global_group = first / 4 + group;
      const auto words = random_words(key, static_cast<std::uint64_t>(global_group));
      for (int word = 0; word < 4; ++word) {
        const std::int64_t column = global_group * 4 + word - first;
        if (column < 0 || column >= columns) continue;
        to[column] = from_float<T>(scale_and_shift(symmetric_uniform(words[word]), mean, scale));
      }
    }
  }
};

template <class Space>
void random_uniform(const Space& space, const Tensor& out, RandomKey key, const MatrixBlock& block,
                    float mean, float scale) {
  const std::int64_t groups = out.dim(1) / 4 + 2;  // a row may start and end within a group
  dispatch_floating(out.dtype(), [&](auto type) {
    using T = typename decltype(type)::type;
    for_rows(space, "Portolan::Random::uniform", out.dim(0), groups,
             UniformRows<T>{out.data<T>(), out.strides()[0], out.dim(1), key, block, mean, scale});
  });
}

/// One column of work is a group of four consecutive elements of the stream, as above.
template <class T>
struct DropoutRows {
  T* x = nullptr;
  std::int64_t stride = 0;
  std::int64_t columns = 0;
  RandomKey key;
  MatrixBlock block;
  std::uint32_t threshold = 0;
  float kept = 1.0F;  // what elements that stay are multiplied with

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t row, std::int64_t begin,
                                         std::int64_t end) const {
    const std::int64_t first = (block.row_begin + row) * block.columns + block.column_begin;
    T* const values = x + row * stride;
    for (std::int64_t group = begin; group < end; ++group) {
      const std::int64_t global_group = first / 4 + group;
      const auto words = random_words(key, static_cast<std::uint64_t>(global_group));
      for (int word = 0; word < 4; ++word) {
        const std::int64_t column = global_group * 4 + word - first;
        if (column < 0 || column >= columns) continue;
        const float value = to_float(values[column]) * kept;
        values[column] = from_float<T>(words[word] < threshold ? 0.0F : value);
      }
    }
  }
};

template <class Space>
void dropout(const Space& space, const Tensor& x, float probability, RandomKey key,
             const MatrixBlock& block) {
  const std::int64_t groups = x.dim(1) / 4 + 2;
  dispatch_floating(x.dtype(), [&](auto type) {
    using T = typename decltype(type)::type;
    for_rows(space, "Portolan::Random::dropout", x.dim(0), groups,
             DropoutRows<T>{x.data<T>(), x.strides()[0], x.dim(1), key, block,
                            dropout_threshold(probability), 1.0F / (1.0F - probability)});
  });
}

}  // namespace portolan::portable
