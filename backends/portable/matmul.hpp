// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>

#include "backends/compat/kokkos_kernels.hpp"
#include "backends/portable/dispatch.hpp"
#include "backends/portable/elementwise.hpp"
#include "backends/portable/quantized.hpp"
#include "backends/portable/rows.hpp"
#include "core/allocator.hpp"
#include "core/weight.hpp"

namespace portolan::portable {

/// Input features that sit side by side for one output feature of a panel: 2 for 16-bit elements.
template <class T>
inline constexpr std::int64_t kPanelPair = sizeof(T) == 2 ? 2 : 1;

/// One column of work is one element of a panel, in storage order.
template <class From, class To>
struct PackPanels {
  const From* rows = nullptr;
  To* panels = nullptr;  // the first panel to write
  std::int64_t row_stride = 0;
  std::int64_t row_count = 0;
  std::int64_t in_features = 0;
  std::int64_t panel_elements = 0;

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t panel, std::int64_t begin,
                                         std::int64_t end) const {
    constexpr std::int64_t kPair = kPanelPair<To>;
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t group = i / (kPanelWidth * kPair);
      const std::int64_t within = i - group * kPanelWidth * kPair;
      const std::int64_t row = panel * kPanelWidth + within / kPair;
      const std::int64_t column = group * kPair + within % kPair;
      float value = 0.0F;
      if (row < row_count && column < in_features) {
        value = to_float(rows[row * row_stride + column]);
      }
      panels[panel * panel_elements + i] = from_float<To>(value);
    }
  }
};

template <class Space>
void pack_rows(const Space& space, const Tensor& rows, std::int64_t first_row,
               const Weight& weight) {
  if (weight.is_quantized()) {
    quantize_rows(space, rows, first_row, weight);
    return;
  }
  dispatch_floating(rows.dtype(), weight.dtype(), [&](auto from, auto to) {
    using From = typename decltype(from)::type;
    using To = typename decltype(to)::type;
    const std::int64_t elements =
        kPanelWidth * padded_in_features(weight.in_features(), weight.dtype());
    PackPanels<From, To> kernel;
    kernel.rows = rows.data<From>();
    kernel.panels = weight.storage().data<To>() + first_row / kPanelWidth * elements;
    kernel.row_stride = rows.strides()[0];
    kernel.row_count = rows.dim(0);
    kernel.in_features = weight.in_features();
    kernel.panel_elements = elements;
    for_rows(space, "Portolan::Matmul::pack", panel_count(rows.dim(0)), elements, kernel);
  });
}

/// One 16-bit panel as f32 rows [in_features, kPanelWidth].
template <class T>
struct UnpackPanel {
  const T* panel = nullptr;
  float* out = nullptr;

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t k, std::int64_t begin,
                                         std::int64_t end) const {
    constexpr std::int64_t kPair = kPanelPair<T>;
    for (std::int64_t j = begin; j < end; ++j) {
      out[k * kPanelWidth + j] = to_float(panel[(k / kPair * kPanelWidth + j) * kPair + k % kPair]);
    }
  }
};

/// out[r, c] = (accumulate ? out[r, c] : 0) + product[r, c], rounded once.
template <class T>
struct StoreProduct {
  const float* product = nullptr;
  T* out = nullptr;
  std::int64_t product_stride = 0;
  std::int64_t out_stride = 0;
  bool accumulate = false;

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t row, std::int64_t begin,
                                         std::int64_t end) const {
    for (std::int64_t column = begin; column < end; ++column) {
      T& to = out[row * out_stride + column];
      const float value = product[row * product_stride + column];
      to = from_float<T>(accumulate ? to_float(to) + value : value);
    }
  }
};

/// A row-major matrix for Kokkos Kernels. Both spaces named: host memory alone would mean Kokkos'
/// default host space, not Serial.
template <class Space, class T>
auto matrix_view(T* data, std::int64_t rows, std::int64_t columns, std::int64_t stride) {
  using OnSpace = Kokkos::Device<Space, typename Space::memory_space>;
  using Matrix =
      Kokkos::View<T**, Kokkos::LayoutRight, OnSpace, Kokkos::MemoryTraits<Kokkos::Unmanaged>>;
  return Kokkos::subview(
      Matrix(data, static_cast<std::size_t>(rows), static_cast<std::size_t>(stride)), Kokkos::ALL,
      std::make_pair(std::int64_t{0}, columns));
}

/// y = x W^T in f32 by Kokkos Kernels, over blocks of rows and of output features; what is not f32
/// is converted block by block, so that no second copy of a weight ever exists.
template <class Space>
class Product {
 public:
  Product(const Space& space, CachingAllocator& allocator, const Tensor& x, const Weight& weight,
          const Tensor& out, bool accumulate)
      : space_(space),
        x_(x),
        weight_(weight),
        out_(out),
        accumulate_(accumulate),
        in_(weight.in_features()) {
    const auto floats = [&](std::int64_t count) {
      return allocator.allocate(static_cast<std::size_t>(count) * sizeof(float));
    };
    if (x.dtype() != DType::f32) x_scratch_ = floats(kRows * in_);
    if (weight.dtype() != DType::f32) weight_scratch_ = floats(kPanelWidth * in_);
    if (out.dtype() != DType::f32) out_scratch_ = floats(kRows * kPanelWidth);
  }

  void run() {
    const std::int64_t rows = x_.dim(0);
    for (std::int64_t row = 0; row < rows; row += kRows) {
      const std::int64_t end = std::min(row + kRows, rows);
      const Tensor block = x_.slice(0, row, end);
      const float* x = block.data<float>();
      std::int64_t x_stride = x_.strides()[0];
      if (x_scratch_) {
        const Tensor converted(x_scratch_, 0, block.shape(), DType::f32, x_.device());
        copy(space_, block, converted);
        x = converted.data<float>();
        x_stride = in_;
      }
      for (std::int64_t panel = 0; panel < panel_count(weight_.out_features()); ++panel) {
        multiply(x, x_stride, out_.slice(0, row, end), panel);
      }
    }
  }

 private:
  static constexpr std::int64_t kRows = 256;
  void multiply(const float* x, std::int64_t x_stride, const Tensor& out_rows, std::int64_t panel) {
    const std::int64_t column = panel * kPanelWidth;
    const std::int64_t columns = std::min(kPanelWidth, weight_.out_features() - column);
    const Tensor target = out_rows.slice(1, column, column + columns);
    const std::int64_t rows = target.dim(0);
    float* y = target.data<float>();
    std::int64_t y_stride = target.strides()[0];
    if (out_scratch_) {
      y = reinterpret_cast<float*>(out_scratch_.get()->data());
      y_stride = columns;
    }
    const float beta = accumulate_ && !out_scratch_ ? 1.0F : 0.0F;
    const auto a = matrix_view<Space, const float>(x, rows, in_, x_stride);
    const auto c = matrix_view<Space, float>(y, rows, columns, y_stride);
    if (weight_.layout() == WeightLayout::plain) {
      const Tensor w = plain_rows(column, columns);
      const auto b =
          matrix_view<Space, const float>(w.data<const float>(), columns, in_, w.strides()[0]);
      compat::gemm(space_, false, true, a, b, beta, c);
    } else {
      const auto b = matrix_view<Space, const float>(panel_rows(panel), in_, columns, kPanelWidth);
      compat::gemm(space_, false, false, a, b, beta, c);
    }
    if (out_scratch_) {
      dispatch_floating(out_.dtype(), [&](auto type) {
        using T = typename decltype(type)::type;
        for_rows(space_, "Portolan::Matmul::store", rows, columns,
                 StoreProduct<T>{y, target.data<T>(), y_stride, target.strides()[0], accumulate_});
      });
    }
  }

  Tensor plain_rows(std::int64_t begin, std::int64_t count) {
    const Tensor rows = weight_.storage().slice(0, begin, begin + count);
    if (!weight_scratch_) return rows;
    const Tensor converted(weight_scratch_, 0, rows.shape(), DType::f32, rows.device());
    copy(space_, rows, converted);
    return converted;
  }

  const float* panel_rows(std::int64_t panel) {
    const std::byte* const packed = weight_.storage().raw() + panel * panel_bytes(weight_);
    if (!weight_scratch_) return reinterpret_cast<const float*>(packed);
    auto* const converted = reinterpret_cast<float*>(weight_scratch_.get()->data());
    if (weight_.is_quantized()) {
      dequantize_panel(space_, weight_, panel, converted);
      return converted;
    }
    dispatch_floating(weight_.dtype(), [&](auto type) {
      using T = typename decltype(type)::type;
      for_rows(space_, "Portolan::Matmul::unpack", in_, kPanelWidth,
               UnpackPanel<T>{reinterpret_cast<const T*>(packed), converted});
    });
    return converted;
  }

  const Space& space_;
  const Tensor& x_;
  const Weight& weight_;
  const Tensor& out_;
  bool accumulate_;
  std::int64_t in_;
  BlockReference x_scratch_;
  BlockReference weight_scratch_;
  BlockReference out_scratch_;
};

template <class Space>
void matmul(const Space& space, CachingAllocator& allocator, const Tensor& x, const Weight& weight,
            const Tensor& out, bool accumulate) {
  Product<Space>(space, allocator, x, weight, out, accumulate).run();
}

}  // namespace portolan::portable
