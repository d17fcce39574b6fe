// SPDX-License-Identifier: Apache-2.0
#include "backends/openmp/quantized_matmul.hpp"

#include <algorithm>

#include "backends/openmp/blocks.hpp"
#include "backends/openmp/panel_matmul.hpp"
#include "backends/openmp/simd/integer_rows.hpp"
#include "backends/openmp/simd/kernels.hpp"

namespace portolan::openmp {
namespace {

/// With more rows, widening the integers once into scratch costs less than widening them in
/// registers for every few rows.
constexpr std::int64_t kStreamedRows = 12;
/// Of widened panels at a time: stays in the caches between widening and product.
constexpr std::int64_t kPieceBytes = std::int64_t{4} << 20;
constexpr std::int64_t kMostPiecePanels = 16;
/// Rows whose sums are in scratch at a time.
constexpr std::int64_t kSumRows = 512;

/// The products of many rows, piece of panels by piece.
class WidenedProduct {
 public:
  WidenedProduct(const ProductContext& context, const Tensor& x, const Weight& weight,
                 const Tensor& out, DType dtype, bool accumulate)
      : context_(context),
        x_(dense(context, x, dtype)),
        weight_(weight),
        out_(out),
        dtype_(dtype),
        accumulate_(accumulate),
        panels_(panel_count(weight.out_features())),
        widened_elements_(panel_elements(kPanelWidth, weight.in_features(), dtype)),
        piece_(std::min(panels_,
                        std::clamp<std::int64_t>(kPieceBytes / widened_elements_ /
                                                     static_cast<std::int64_t>(size_of(dtype)),
                                                 1, kMostPiecePanels))),
        widened_(scratch(context, {piece_ * widened_elements_}, dtype)),
        sums_(scratch(context, {std::min(kSumRows, x.dim(0)), piece_ * kPanelWidth}, DType::f32)) {}

  void run() const {
    for (std::int64_t panel = 0; panel < panels_; panel += piece_) {
      const std::int64_t count = std::min(piece_, panels_ - panel);
      widen(panel, count);
      for (std::int64_t row = 0; row < x_.dim(0); row += kSumRows) {
        multiply(panel, count, row, std::min(row + kSumRows, x_.dim(0)));
      }
    }
  }

 private:
  [[nodiscard]] const std::byte* panel_at(std::int64_t panel) const {
    return weight_.storage().raw() + panel * panel_bytes(weight_);
  }

  void widen(std::int64_t first, std::int64_t count) const {
    const simd::WidenPanels arguments{.quantization = weight_.quantization(),
                                      .out_dtype = dtype_,
                                      .panels = panel_at(first),
                                      .out = widened_.raw(),
                                      .in_features = weight_.in_features()};
    for_blocks(
        context_.space, "Portolan::Matmul::widen", count, 1,
        [&](std::int64_t begin, std::int64_t end) { simd::widen_panels(arguments, begin, end); });
  }

  void multiply(std::int64_t panel, std::int64_t count, std::int64_t begin,
                std::int64_t end) const {
    const std::int64_t columns = count * kPanelWidth;  // the padding's sums are 0
    const OneDnnProblem problem{.rows = end - begin,
                                .out_features = columns,
                                .in_features = weight_.in_features(),
                                .x_dtype = dtype_,
                                .weight_dtype = dtype_};
    context_.onednn.multiply(problem, x_.slice(0, begin, end).raw(), widened_.raw(), sums_.raw());
    const Tensor out = out_.slice(0, begin, end);
    for_blocks(context_.space, "Portolan::Matmul::store", count, 1,
               [&](std::int64_t index, std::int64_t /*end*/) {
                 const std::int64_t column = (panel + index) * kPanelWidth;
                 simd::store_scaled(
                     {.out_dtype = out.dtype(),
                      .sums = sums_.data<const float>() + index * kPanelWidth,
                      .scales = reinterpret_cast<const float*>(panel_at(panel + index)),
                      .out = out.raw() + column * static_cast<std::int64_t>(size_of(out.dtype())),
                      .sums_stride = columns,
                      .out_stride = out.strides()[0],
                      .rows = out.dim(0),
                      .columns = std::min(kPanelWidth, weight_.out_features() - column),
                      .accumulate = accumulate_});
               });
  }

  const ProductContext& context_;
  Tensor x_;
  const Weight& weight_;
  const Tensor& out_;
  DType dtype_;
  bool accumulate_;
  std::int64_t panels_;
  std::int64_t widened_elements_;  // of a panel
  std::int64_t piece_;             // panels widened at a time
  Tensor widened_;
  Tensor sums_;
};

}  // namespace

void quantized_matmul(const ProductContext& context, const Tensor& x, const Weight& weight,
                      const Tensor& out, bool accumulate) {
  const DType dtype = context.onednn.has_fast_panels(x.dtype()) ? x.dtype() : DType::f32;
  if (x.dim(0) <= kStreamedRows || !context.onednn.has_fast_panels(dtype) ||
      simd::has_integer_rows(x.dtype(), weight.quantization(), x.dim(0))) {
    panel_matmul(context.space, context.backend.allocator(), x, weight, out, accumulate);
    return;
  }
  WidenedProduct(context, x, weight, out, dtype, accumulate).run();
}

void quantize_rows(const Kokkos::OpenMP& space, const Tensor& rows, std::int64_t first_row,
                   const Weight& weight) {
  const simd::QuantizePanels arguments{
      .source_dtype = rows.dtype(),
      .quantization = weight.quantization(),
      .rows = rows.raw(),
      .panels = weight.storage().raw() + first_row / kPanelWidth * panel_bytes(weight),
      .row_stride = rows.strides()[0],
      .row_count = rows.dim(0),
      .in_features = weight.in_features()};
  for_blocks(
      space, "Portolan::Matmul::quantize", panel_count(rows.dim(0)), 1,
      [&](std::int64_t begin, std::int64_t end) { simd::quantize_panels(arguments, begin, end); });
}

}  // namespace portolan::openmp
