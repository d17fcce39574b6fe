// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "backends/portable/dispatch.hpp"
#include "backends/portable/rows.hpp"
#include "core/allocator.hpp"
#include "core/tensor.hpp"

/// Sums over the rows of a matrix, one for each column, and the bias that they are the gradient of.
namespace portolan::portable {

/// Rows whose sum is one partial sum, whatever the number of threads.
inline constexpr std::int64_t kColumnSumRows = 64;

template <class Term>
struct ColumnPartials {
  Term term;
  float* partials = nullptr;  // [blocks, columns]
  std::int64_t rows = 0;
  std::int64_t columns = 0;

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t block, std::int64_t begin,
                                         std::int64_t end) const {
    const std::int64_t first = block * kColumnSumRows;
    const std::int64_t last = first + kColumnSumRows < rows ? first + kColumnSumRows : rows;
    float* const own = partials + block * columns;
    for (std::int64_t column = begin; column < end; ++column) own[column] = 0.0F;
    for (std::int64_t row = first; row < last; ++row) {
      for (std::int64_t column = begin; column < end; ++column) own[column] += term(row, column);
    }
  }
};

struct AddPartials {
  const float* partials = nullptr;
  float* sums = nullptr;
  std::int64_t blocks = 0;
  std::int64_t columns = 0;

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t /*row*/, std::int64_t begin,
                                         std::int64_t end) const {
    for (std::int64_t column = begin; column < end; ++column) {
      float total = 0.0F;
      for (std::int64_t block = 0; block < blocks; ++block) {
        total += partials[block * columns + column];
      }
      sums[column] += total;
    }
  }
};

/// sums[column] += sum over rows of term(row, column), in f32: partial sums of kColumnSumRows rows,
/// added in order.
template <class Space, class Term>
void add_column_sums(const Space& space, CachingAllocator& allocator, const char* label,
                     std::int64_t rows, std::int64_t columns, const Term& term, float* sums) {
  const std::int64_t blocks = (rows + kColumnSumRows - 1) / kColumnSumRows;
  const BlockReference scratch =
      allocator.allocate(static_cast<std::size_t>(blocks * columns) * sizeof(float));
  auto* const partials = reinterpret_cast<float*>(scratch.get()->data());
  for_rows(space, label, blocks, columns, ColumnPartials<Term>{term, partials, rows, columns});
  for_rows(space, label, 1, columns, AddPartials{partials, sums, blocks, columns});
}

template <class T>
struct MatrixTerm {
  const T* matrix = nullptr;
  std::int64_t stride = 0;

  KOKKOS_INLINE_FUNCTION float operator()(std::int64_t row, std::int64_t column) const {
    return to_float(matrix[row * stride + column]);
  }
};

template <class Space>
void add_bias_backward(const Space& space, CachingAllocator& allocator, const Tensor& grad_out,
                       const Tensor& grad_bias) {
  dispatch_floating(grad_out.dtype(), [&](auto type) {
    using T = typename decltype(type)::type;
    add_column_sums(space, allocator, "Portolan::Elementwise::add_bias_backward", grad_out.dim(0),
                    grad_out.dim(1), MatrixTerm<T>{grad_out.data<T>(), grad_out.strides()[0]},
                    grad_bias.data<float>());
  });
}

template <class T, class B>
struct AddBiasRows {
  T* x = nullptr;
  const B* bias = nullptr;
  std::int64_t stride = 0;

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t row, std::int64_t begin,
                                         std::int64_t end) const {
    for (std::int64_t column = begin; column < end; ++column) {
      T& value = x[row * stride + column];
      value = from_float<T>(to_float(value) + to_float(bias[column]));
    }
  }
};

template <class Space>
void add_bias(const Space& space, const Tensor& x, const Tensor& bias) {
  dispatch_with_parameters(x.dtype(), bias.dtype(), [&](auto type, auto bias_type) {
    using T = typename decltype(type)::type;
    using B = typename decltype(bias_type)::type;
    for_rows(space, "Portolan::Elementwise::add_bias", x.dim(0), x.dim(1),
             AddBiasRows<T, B>{x.data<T>(), bias.data<B>(), x.strides()[0]});
  });
}

}  // namespace portolan::portable
