// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "backends/compat/tiled_gemm.hpp"

namespace portolan {
namespace {

/// A row-major matrix whose rows are `padding` elements farther apart than they are long.
struct Matrix {
  Matrix(std::int64_t rows, std::int64_t columns, std::int64_t padding, float seed)
      : stride(columns + padding), values(static_cast<std::size_t>(rows * stride)) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = std::sin(seed + 0.37F * static_cast<float>(i));
    }
  }
  [[nodiscard]] double at(std::int64_t row, std::int64_t column) const {
    return values[static_cast<std::size_t>(row * stride + column)];
  }

  std::int64_t stride;
  std::vector<float> values;
};

struct Case {
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t inner;
};

template <class Space>
void compare_with_sums_in_f64(const Case& extents, bool transpose_a, bool transpose_b, float beta) {
  const auto [rows, columns, inner] = extents;
  const Matrix a = transpose_a ? Matrix(inner, rows, 3, 0.1F) : Matrix(rows, inner, 3, 0.1F);
  const Matrix b = transpose_b ? Matrix(columns, inner, 5, 0.2F) : Matrix(inner, columns, 5, 0.2F);
  const Matrix before(rows, columns, 2, 0.3F);
  Matrix c = before;
  if (beta == 0.0F) c.values.assign(c.values.size(), std::nanf(""));  // may not be read
  const Matrix untouched = c;

  compat::TiledGemm<Space> kernel;
  kernel.a = a.values.data();
  kernel.b = b.values.data();
  kernel.c = c.values.data();
  kernel.rows = rows;
  kernel.columns = columns;
  kernel.inner = inner;
  kernel.a_stride = a.stride;
  kernel.b_stride = b.stride;
  kernel.c_stride = c.stride;
  kernel.transpose_a = transpose_a;
  kernel.transpose_b = transpose_b;
  kernel.beta = beta;
  const Space space;
  kernel.launch(space);
  space.fence();

  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < columns; ++j) {
      double expected = beta == 0.0F ? 0.0 : beta * before.at(i, j);
      for (std::int64_t k = 0; k < inner; ++k) {
        expected +=
            (transpose_a ? a.at(k, i) : a.at(i, k)) * (transpose_b ? b.at(j, k) : b.at(k, j));
      }
      ASSERT_NEAR(c.at(i, j), expected, 1e-5 * static_cast<double>(inner + 1)) << i << ", " << j;
    }
    for (std::int64_t j = columns; j < c.stride; ++j) {
      const double between = untouched.at(i, j);
      ASSERT_TRUE(c.at(i, j) == between || (std::isnan(c.at(i, j)) && std::isnan(between)));
    }
  }
}

template <class Space>
void compare_all() {
  for (const Case& extents :
       {Case{1, 1, 1}, Case{32, 32, 32}, Case{33, 31, 65}, Case{7, 100, 40}, Case{70, 3, 0}}) {
    for (const int transposes : {0, 1, 2, 3}) {
      for (const float beta : {0.0F, 1.0F, -0.5F}) {
        const bool transpose_a = transposes >= 2;
        const bool transpose_b = transposes % 2 == 1;
        SCOPED_TRACE(testing::Message()
                     << extents.rows << " x " << extents.columns << " x " << extents.inner
                     << ", transpose " << transpose_a << " " << transpose_b << ", beta " << beta);
        compare_with_sums_in_f64<Space>(extents, transpose_a, transpose_b, beta);
      }
    }
  }
}

TEST(TiledGemm, EqualsSumsInDoublePrecisionOnOneThread) { compare_all<Kokkos::Serial>(); }

#if defined(PORTOLAN_HAS_OPENMP)
TEST(TiledGemm, EqualsSumsInDoublePrecisionOnAllThreads) { compare_all<Kokkos::OpenMP>(); }
#endif

}  // namespace
}  // namespace portolan
