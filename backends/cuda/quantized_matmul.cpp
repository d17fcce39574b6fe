// SPDX-License-Identifier: Apache-2.0
#include "backends/cuda/quantized_matmul.hpp"

#include <algorithm>

#include "backends/cuda/cuda_status.hpp"
#include "backends/cuda/quantized_kernels.hpp"
#include "backends/cuda/vector_layout.hpp"
#include "core/error.hpp"
#include "core/shape_format.hpp"

namespace portolan::cuda {
namespace {

/// From `first_panel` on.
QuantizedPanels panels_of(const Weight& weight, std::int64_t first_panel) {
  const QuantizedPanel place(weight.in_features(), weight.quantization());
  return {.data = weight.storage().raw() + first_panel * place.bytes,
          .place = place,
          .in_features = weight.in_features(),
          .quantization = weight.quantization()};
}

}  // namespace

bool QuantizedMatmul::run(const Tensor& x, const Weight& weight, const Tensor& out,
                          bool accumulate) const {
  return weight.is_quantized() &&
         (run_few_rows(x, weight, out, accumulate) || run_widened(x, weight, out, accumulate));
}

bool QuantizedMatmul::run_few_rows(const Tensor& x, const Weight& weight, const Tensor& out,
                                   bool accumulate) const {
  if (x.dim(0) > kQuantizedRows || x.dim(1) % kQuantizedStep != 0 ||
      !rows_are_vectors(x.raw(), x.dim(0), x.dim(1), x.strides()[0], x.dtype())) {
    return false;
  }
  const QuantizedArguments arguments{.weight = panels_of(weight, 0),
                                     .x = x.raw(),
                                     .out = out.raw(),
                                     .x_stride = x.strides()[0],
                                     .out_stride = out.strides()[0],
                                     .rows = x.dim(0),
                                     .out_features = weight.out_features(),
                                     .dtype = x.dtype(),
                                     .out_dtype = out.dtype(),
                                     .accumulate = accumulate};
  check_cuda(launch_quantized_rows(arguments, stream_), "starting a product of {} rows with {}",
             x.dim(0), name_of(weight.quantization()));
  return true;
}

bool QuantizedMatmul::run_widened(const Tensor& x, const Weight& weight, const Tensor& out,
                                  bool accumulate) const {
  const std::int64_t panels = panel_count(weight.out_features());
  const std::int64_t panel_bytes =
      weight.in_features() * kPanelWidth * static_cast<std::int64_t>(size_of(x.dtype()));
  const std::int64_t at_a_time = std::clamp<std::int64_t>(kWideBytes / panel_bytes, 1, panels);
  const std::int64_t rows_at_a_time = std::min(kRows, x.dim(0));
  const Tensor wide(allocator_.allocate(static_cast<std::size_t>(at_a_time * panel_bytes)), 0,
                    {weight.in_features(), at_a_time * kPanelWidth}, x.dtype(), x.device());
  const Shape sums_shape{rows_at_a_time, at_a_time * kPanelWidth};
  const Tensor sums(
      allocator_.allocate(static_cast<std::size_t>(sums_shape.elements()) * sizeof(float)), 0,
      sums_shape, DType::f32, x.device());
  for (std::int64_t panel = 0; panel < panels; panel += at_a_time) {
    const QuantizedPanels part = panels_of(weight, panel);
    const std::int64_t count = std::min(at_a_time, panels - panel);
    const std::int64_t column = panel * kPanelWidth;
    const std::int64_t end = std::min(column + count * kPanelWidth, weight.out_features());
    check_cuda(launch_widen(part, count, wide.raw(), wide.strides()[0], x.dtype(), stream_),
               "starting to widen {}", name_of(weight.quantization()));
    for (std::int64_t row = 0; row < x.dim(0); row += rows_at_a_time) {
      const std::int64_t rows = std::min(rows_at_a_time, x.dim(0) - row);
      const Tensor product = sums.slice(0, 0, rows).slice(1, 0, end - column);
      if (!products_.run(x.slice(0, row, row + rows), false, wide.slice(1, 0, end - column), false,
                         product, false)) {
        if (panel == 0 && row == 0) return false;
        throw UnsupportedError(fmt::format("cuBLASLt offers a part of a product {} x {} only",
                                           x.shape(), weight.out_features()));
      }
      const Tensor target = out.slice(0, row, row + rows).slice(1, column, end);
      const ScaleArguments arguments{.weight = part,
                                     .sums = product.data<float>(),
                                     .out = target.raw(),
                                     .sums_stride = sums.strides()[0],
                                     .out_stride = out.strides()[0],
                                     .rows = rows,
                                     .columns = end - column,
                                     .out_dtype = out.dtype(),
                                     .accumulate = accumulate};
      check_cuda(launch_scale(arguments, stream_), "starting to scale {} sums", product.elements());
    }
  }
  return true;
}

}  // namespace portolan::cuda
