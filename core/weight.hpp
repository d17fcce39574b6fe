// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/tensor.hpp"

namespace portolan {

/// How a matrix product's right-hand operand is stored.
enum class WeightLayout {
  /// Row-major [out, in], as in checkpoints: what training updates and what a tied table stays.
  plain,
  /// Panels of kPanelWidth output features. A panel stores, for each group of input features, the
  /// panel's outputs side by side:
  ///   f32        [ceil(out/64)][in'][64]        in' = in rounded up to 16
  ///   bf16, f16  [ceil(out/64)][in'/2][64][2]   in' = in rounded up to 32 (pairs, as VNNI wants
  ///   them)
  /// Padding is zero. One panel is contiguous, so products of many rows, of one row, and later
  /// integer weights all stream it once.
  panels,
};

inline constexpr std::int64_t kPanelWidth = 64;

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

  /// Plain: [out, in]. Packed: flat, panel after panel.
  [[nodiscard]] const Tensor& storage() const noexcept { return storage_; }
  [[nodiscard]] WeightLayout layout() const noexcept { return layout_; }
  [[nodiscard]] std::int64_t out_features() const noexcept { return out_features_; }
  [[nodiscard]] std::int64_t in_features() const noexcept { return in_features_; }
  [[nodiscard]] DType dtype() const noexcept { return dtype_; }
  [[nodiscard]] Device device() const noexcept { return storage_.device(); }
  [[nodiscard]] std::size_t bytes() const noexcept { return storage_.bytes(); }

 private:
  Tensor storage_;
  WeightLayout layout_ = WeightLayout::plain;
  std::int64_t out_features_ = 0;
  std::int64_t in_features_ = 0;
  DType dtype_ = DType::f32;
};

/// Input features after padding to a whole number of packing groups.
[[nodiscard]] constexpr std::int64_t padded_in_features(std::int64_t in_features, DType dtype) {
  const std::int64_t group = dtype == DType::f32 ? 16 : 32;
  return (in_features + group - 1) / group * group;
}

/// Number of panels of kPanelWidth outputs.
[[nodiscard]] constexpr std::int64_t panel_count(std::int64_t out_features) {
  return (out_features + kPanelWidth - 1) / kPanelWidth;
}

/// Elements of a weight in the panel layout, padding included.
[[nodiscard]] constexpr std::int64_t panel_elements(std::int64_t out_features,
                                                    std::int64_t in_features, DType dtype) {
  return panel_count(out_features) * kPanelWidth * padded_in_features(in_features, dtype);
}

}  // namespace portolan
