// SPDX-License-Identifier: Apache-2.0
#include "apps/matmul_work.hpp"

#include <algorithm>
#include <cmath>

#include "apps/benchmark_work.hpp"
#include "apps/reference_error.hpp"
#include "core/ops.hpp"
#include "models/weight_source.hpp"

namespace portolan {
namespace {

constexpr int kErrorRows = 8;
constexpr int kErrorOutputs = 32;

/// Integers are made from f32, as those of a model are.
DType dtype_before_packing(const MatmulCase& setting) {
  return setting.quantization == Quantization::none ? setting.dtype : DType::f32;
}

Weight allocate_weight(const MatmulCase& s, Device device) {
  return s.quantization == Quantization::none
             ? backend_of(device).allocate_packed(s.outputs, s.inputs, s.dtype)
             : Weight::quantized(s.outputs, s.inputs, s.quantization, device);
}

/// The last one, and others by chance.
std::vector<std::int64_t> sampled_indices(std::int64_t extent, int count, const char* name) {
  const RandomKey key = random_key(0, name);
  std::vector<std::int64_t> indices{extent - 1};
  for (int i = 1; i < count; ++i) {
    indices.push_back(random_words(key, static_cast<std::uint64_t>(i))[0] % extent);
  }
  return indices;
}

}  // namespace

MatmulWork::MatmulWork(const MatmulCase& setting, Device device)
    : setting_(setting),
      device_(device),
      original_(
          random_operand({setting.rows, setting.inputs}, setting.dtype, device, setting.seed, "x")),
      x_(Tensor::empty(original_.shape(), setting.dtype, device)),
      weight_(allocate_weight(setting, device)),
      out_(Tensor::empty({setting.rows, setting.outputs}, setting.dtype, device)) {
  const DType dtype = dtype_before_packing(setting);
  const std::int64_t step = std::min(packing_rows(setting.inputs, dtype), setting.outputs);
  const Tensor scratch = Tensor::empty({step, setting.inputs}, dtype, device);
  for (std::int64_t first = 0; first < setting.outputs; first += step) {
    const Tensor rows = scratch.slice(0, 0, std::min(step, setting.outputs - first));
    write_weight(rows, first);
    ops::pack_rows(rows, first, weight_);
  }
  write_input();
}

std::int64_t MatmulWork::bytes(const MatmulCase& s) {
  const auto size = static_cast<std::int64_t>(size_of(s.dtype));
  const std::int64_t weight =
      s.quantization == Quantization::none
          ? panel_elements(s.outputs, s.inputs, s.dtype) * size
          : panel_count(s.outputs) * QuantizedPanel(s.inputs, s.quantization).bytes;
  return weight + s.rows * (2 * s.inputs + s.outputs) * size;
}

void MatmulWork::write_weight(const Tensor& rows, std::int64_t first) const {
  // A product of two uniform numbers on [-1, 1) has a variance of 1/9.
  const double scale = 3.0 / std::sqrt(static_cast<double>(setting_.inputs));
  ops::random_uniform(rows, random_key(setting_.seed, "weight"), {first, 0, setting_.inputs}, 0.0F,
                      static_cast<float>(scale));
}

void MatmulWork::write_input() const { ops::copy(original_, x_); }

void MatmulWork::run() const { ops::matmul(x_, weight_, out_); }

double MatmulWork::error() const {
  return sampled_product_error(x_, out_, [this](std::int64_t output) {
    const Tensor row = Tensor::empty({1, setting_.inputs}, dtype_before_packing(setting_), device_);
    write_weight(row, output);
    return host_values(row);
  });
}

double sampled_product_error(
    const Tensor& x, const Tensor& out,
    const std::function<std::vector<float>(std::int64_t output)>& weight_row) {
  const auto outputs = sampled_indices(out.dim(1), kErrorOutputs, "sampled outputs");
  std::vector<std::vector<float>> weights;
  for (const std::int64_t output : outputs) weights.push_back(weight_row(output));
  double largest = 0.0;
  for (const std::int64_t row : sampled_indices(out.dim(0), kErrorRows, "sampled rows")) {
    const std::vector<float> input = host_values(x.slice(0, row, row + 1));
    const std::vector<float> result = host_values(out.slice(0, row, row + 1));
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      const double expected = dot(input.data(), weights[i].data(), x.dim(1));
      largest = std::max(
          largest, largest_difference({expected}, &result[static_cast<std::size_t>(outputs[i])]));
    }
  }
  return largest;
}

}  // namespace portolan
