// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/panels.hpp"
#include "core/quantization.hpp"
#include "core/tensor.hpp"

namespace portolan {

/// How a matrix product's right-hand operand is stored.
enum class WeightLayout {
  /// Row-major [out, in], as in checkpoints: what training updates and what a tied table stays.
  plain,
  /// As core/panels.hpp says.
  panels,
};

/// The matrix of a linear layer, y = x W^T, W [out_features, in_features], held exactly once: plain
/// or packed. Packed weights serve inference only; training keeps plain masters and packs per step.
class Weight {
 public:
  Weight() = default;
  Weight(Tensor storage, WeightLayout layout, std::int64_t out_features, std::int64_t in_features,
         DType dtype)
      : storage_(std::move(storage)),
        layout_(layout),
        out_features_(out_features),
        in_features_(in_features),
        dtype_(dtype) {}

  /// A plain weight over an existing [out, in] tensor (a tied embedding table, a trained master).
  [[nodiscard]] static Weight plain(const Tensor& matrix) {
    return Weight(matrix, WeightLayout::plain, matrix.dim(0), matrix.dim(1), matrix.dtype());
  }
  /// Uninitialised panels of integers; filled by pack_rows as other panels are.
  [[nodiscard]] static Weight quantized(std::int64_t out_features, std::int64_t in_features,
                                        Quantization quantization, Device device);

  /// Plain: [out, in]. Packed: flat, panel after panel; bytes (u8) if quantized.
  [[nodiscard]] const Tensor& storage() const noexcept { return storage_; }
  [[nodiscard]] WeightLayout layout() const noexcept { return layout_; }
  [[nodiscard]] std::int64_t out_features() const noexcept { return out_features_; }
  [[nodiscard]] std::int64_t in_features() const noexcept { return in_features_; }
  /// Of the storage.
  [[nodiscard]] DType dtype() const noexcept { return dtype_; }
  [[nodiscard]] Quantization quantization() const noexcept { return quantization_; }
  [[nodiscard]] bool is_quantized() const noexcept { return quantization_ != Quantization::none; }
  [[nodiscard]] Device device() const noexcept { return storage_.device(); }
  [[nodiscard]] std::size_t bytes() const noexcept { return storage_.bytes(); }

 private:
  Tensor storage_;
  WeightLayout layout_ = WeightLayout::plain;
  std::int64_t out_features_ = 0;
  std::int64_t in_features_ = 0;
  DType dtype_ = DType::f32;
  Quantization quantization_ = Quantization::none;
};

/// Bytes of one panel of any packed weight.
[[nodiscard]] inline std::int64_t panel_bytes(const Weight& weight) {
  if (weight.is_quantized()) {
    return QuantizedPanel(weight.in_features(), weight.quantization()).bytes;
  }
  return panel_elements(kPanelWidth, weight.in_features(), weight.dtype()) *
         static_cast<std::int64_t>(size_of(weight.dtype()));
}

}  // namespace portolan
