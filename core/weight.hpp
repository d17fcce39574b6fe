// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/quantization.hpp"
#include "core/tensor.hpp"

namespace portolan {

/// How a matrix product's right-hand operand is stored.
enum class WeightLayout {
  /// Row-major [out, in], as in checkpoints: what training updates and what a tied table stays.
  plain,
  /// Panels of kPanelWidth output features, each of 32-bit words [words][64] that hold 1, 2, 4 or 8
  /// consecutive inputs of one output:
  ///   f32        [ceil(out/64)][in'][64]        in' = in rounded up to 16
  ///   bf16, f16  [ceil(out/64)][in'/2][64][2]   in' = in rounded up to 32 (pairs, as VNNI wants
  ///   them)
  ///   int8       [ceil(out/64)] of f32 s[64], then [in'/4][64][4]           in' as for bf16
  ///   int4       [ceil(out/64)] of f32 s[64], u8 g[in'/32][64], then [in'/8][64][8 of half a byte]
  /// Padding is zero. One panel is contiguous, so products of many rows and of one row stream it
  /// once. core/quantization.hpp says what s and g are; with them, a weight takes 8 + 32/in bits in
  /// int8, 4.25 + 32/in in int4.
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

/// Where the parts of a quantized panel lie, in bytes from its start. The scales come first.
struct QuantizedPanel {
  std::int64_t factors = 0;  ///< int4
  std::int64_t words = 0;
  std::int64_t bytes = 0;  ///< of the panel

  constexpr QuantizedPanel(std::int64_t in_features, Quantization quantization) {
    constexpr std::int64_t kWordBytes = 4;
    const std::int64_t groups = (in_features + kQuantizedGroup - 1) / kQuantizedGroup;
    factors = kPanelWidth * kWordBytes;
    words = factors + (quantization == Quantization::int4 ? groups * kPanelWidth : 0);
    bytes = words +
            groups * kQuantizedGroup / quantized_per_word(quantization) * kPanelWidth * kWordBytes;
  }
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
