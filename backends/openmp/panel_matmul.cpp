// SPDX-License-Identifier: Apache-2.0
#include "backends/openmp/panel_matmul.hpp"

#include <omp.h>

#include <algorithm>
#include <atomic>

#include "backends/openmp/blocks.hpp"
#include "backends/openmp/simd/integer_rows.hpp"
#include "backends/openmp/simd/kernels.hpp"
#include "core/error.hpp"

namespace portolan::openmp {
namespace {

/// The product's rows as integers, or null if it is no product for them.
BlockReference integers_of(const Kokkos::OpenMP& space, CachingAllocator& allocator,
                           const simd::PanelProduct& product) {
  if (!simd::has_integer_rows(product.x_dtype, product.quantization, product.rows)) return {};
  constexpr std::int64_t kRowsAtOnce = 8;
  BlockReference integers =
      allocator.allocate(simd::integer_row_bytes(product.rows, product.in_features));
  std::atomic<bool> finite = true;
  for_blocks(space, "Portolan::Matmul::integers", product.rows, kRowsAtOnce,
             [&](std::int64_t begin, std::int64_t end) {
               if (!simd::make_integer_rows(product, begin, end, integers.get()->data())) {
                 finite = false;
               }
             });
  return finite ? integers : BlockReference();
}

}  // namespace

void panel_matmul(const Kokkos::OpenMP& space, CachingAllocator& allocator, const Tensor& x,
                  const Weight& weight, const Tensor& out, bool accumulate) {
  const bool packed = weight.layout() == WeightLayout::panels;
  if (packed && weight.dtype() == DType::f16) {
    throw UnsupportedError("the device 'cpu' packs f16 weights as f32 panels, found f16 panels");
  }
  const DType panel_dtype = packed ? weight.dtype() : DType::f32;
  const auto bytes_of = [](std::int64_t elements, DType dtype) {
    return elements * static_cast<std::int64_t>(size_of(dtype));
  };
  // Of a packed weight, or of the f32 panel that stands in for a plain one's rows.
  const std::int64_t bytes =
      packed
          ? panel_bytes(weight)
          : bytes_of(panel_elements(kPanelWidth, weight.in_features(), panel_dtype), panel_dtype);
  BlockReference scratch;
  if (!packed) scratch = allocator.allocate(static_cast<std::size_t>(bytes * space.concurrency()));

  simd::PanelProduct whole;
  whole.x_dtype = x.dtype();
  whole.panel_dtype = panel_dtype;
  whole.quantization = weight.quantization();
  whole.out_dtype = out.dtype();
  whole.x = x.raw();
  whole.x_stride = x.strides()[0];
  whole.out_stride = out.strides()[0];
  whole.rows = x.dim(0);
  whole.in_features = weight.in_features();
  whole.accumulate = accumulate;

  const BlockReference integers = integers_of(space, allocator, whole);

  for_blocks(space, "Portolan::Matmul::panels", panel_count(weight.out_features()), 1,
             [&](std::int64_t panel, std::int64_t /*end*/) {
               const std::int64_t column = panel * kPanelWidth;
               simd::PanelProduct product = whole;
               product.out = out.raw() + bytes_of(column, out.dtype());
               product.columns = std::min(kPanelWidth, weight.out_features() - column);
               if (packed) {
                 product.panel = weight.storage().raw() + panel * bytes;
               } else {
                 std::byte* const own = scratch.get()->data() + omp_get_thread_num() * bytes;
                 simd::pack_panels(
                     {.source_dtype = weight.dtype(),
                      .weight_dtype = panel_dtype,
                      .rows = weight.storage().raw() +
                              bytes_of(column * weight.storage().strides()[0], weight.dtype()),
                      .panels = own,
                      .row_stride = weight.storage().strides()[0],
                      .row_count = product.columns,
                      .in_features = weight.in_features()},
                     0, 1);
                 product.panel = own;
               }
               if (integers) {
                 simd::multiply_integer_rows(product, integers.get()->data());
               } else {
                 simd::multiply_panel(product);
               }
             });
}

}  // namespace portolan::openmp
