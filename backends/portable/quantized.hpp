// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "backends/portable/dispatch.hpp"
#include "backends/portable/rows.hpp"
#include "core/weight.hpp"

/// Integer weights (core/quantization.hpp) in panels (core/panels.hpp).
namespace portolan::portable {

/// The parts of one quantized panel.
template <class Byte>
struct QuantizedPanelView {
  Byte* panel = nullptr;
  QuantizedPanel place{0, Quantization::int8};

  template <class T>
  [[nodiscard]] KOKKOS_INLINE_FUNCTION auto* part(std::int64_t offset) const {
    using Element = std::conditional_t<std::is_const_v<Byte>, const T, T>;
    return reinterpret_cast<Element*>(panel + offset);
  }
  [[nodiscard]] KOKKOS_INLINE_FUNCTION auto* scales() const { return part<float>(0); }
  /// Of the group that `input` is in.
  [[nodiscard]] KOKKOS_INLINE_FUNCTION auto* factors(std::int64_t input) const {
    return part<std::uint8_t>(place.factors(input / kQuantizedGroup));
  }
  /// Those that hold `input`, `per_word` inputs each.
  [[nodiscard]] KOKKOS_INLINE_FUNCTION auto* words(std::int64_t input,
                                                   std::int64_t per_word) const {
    return part<std::uint32_t>(place.words(input / kQuantizedGroup)) +
           input % kQuantizedGroup / per_word * kPanelWidth;
  }
};

/// One column of work is one output of a panel.
template <class From>
struct QuantizeRows {
  const From* rows = nullptr;
  std::byte* panels = nullptr;  // the first panel to write
  std::int64_t row_stride = 0;
  std::int64_t row_count = 0;
  std::int64_t in_features = 0;
  Quantization quantization = Quantization::int8;
  QuantizedPanel place{0, Quantization::int8};

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t panel, std::int64_t begin,
                                         std::int64_t end) const {
    const QuantizedPanelView<std::byte> to{panels + panel * place.bytes, place};
    for (std::int64_t output = begin; output < end; ++output) write(panel, output, to);
  }

 private:
  /// 0 in the padding.
  [[nodiscard]] KOKKOS_INLINE_FUNCTION float value(std::int64_t row, std::int64_t input) const {
    return row < row_count && input < in_features ? to_float(rows[row * row_stride + input]) : 0.0F;
  }

  [[nodiscard]] KOKKOS_INLINE_FUNCTION float largest(std::int64_t row, std::int64_t begin,
                                                     std::int64_t end) const {
    float most = 0.0F;
    float not_finite = 0.0F;  // else it stays 0
    for (std::int64_t input = begin; input < end; ++input) {
      const float of_input = value(row, input);
      const float magnitude = of_input < 0.0F ? -of_input : of_input;
      most = magnitude > most ? magnitude : most;
      not_finite += of_input - of_input;
    }
    return most + not_finite;
  }

  KOKKOS_INLINE_FUNCTION void write(std::int64_t panel, std::int64_t output,
                                    const QuantizedPanelView<std::byte>& to) const {
    const std::int64_t row = panel * kPanelWidth + output;
    const int limit = quantized_limit(quantization);
    const float most = largest(row, 0, in_features);
    const float scale = most / static_cast<float>(limit);
    to.scales()[output] = scale;
    const std::int64_t per_word = quantized_per_word(quantization);
    const std::uint32_t mask = quantization == Quantization::int4 ? 0xFU : 0xFFU;
    const auto bits = static_cast<std::uint32_t>(32 / per_word);
    for (std::int64_t first = 0; first < in_features; first += kQuantizedGroup) {
      float step = scale;
      if (quantization == Quantization::int4) {
        const std::uint8_t code =
            most > 0.0F ? int4_factor_code(largest(row, first, first + kQuantizedGroup) / most)
                        : std::uint8_t{0};
        to.factors(first)[output] = code;
        step *= int4_factor(code);
      }
      for (std::int64_t input = first; input < first + kQuantizedGroup; input += per_word) {
        std::uint32_t word = 0;
        for (std::int64_t i = 0; i < per_word; ++i) {
          const int integer = quantized_value(value(row, input + i), step, limit);
          word |= (static_cast<std::uint32_t>(integer) & mask)
                  << (static_cast<std::uint32_t>(i) * bits);
        }
        to.words(input, per_word)[output] = word;
      }
    }
  }
};

/// Of whole panels, as Backend::pack_rows.
template <class Space>
void quantize_rows(const Space& space, const Tensor& rows, std::int64_t first_row,
                   const Weight& weight) {
  dispatch_floating(rows.dtype(), [&](auto from) {
    using From = typename decltype(from)::type;
    QuantizeRows<From> kernel;
    kernel.rows = rows.data<From>();
    kernel.panels = weight.storage().raw() + first_row / kPanelWidth * panel_bytes(weight);
    kernel.row_stride = rows.strides()[0];
    kernel.row_count = rows.dim(0);
    kernel.in_features = weight.in_features();
    kernel.quantization = weight.quantization();
    kernel.place = QuantizedPanel(weight.in_features(), weight.quantization());
    for_rows(space, "Portolan::Matmul::quantize", panel_count(rows.dim(0)), kPanelWidth, kernel);
  });
}

/// One panel as f32 rows [in_features, kPanelWidth].
struct DequantizePanel {
  QuantizedPanelView<const std::byte> panel;
  float* out = nullptr;
  Quantization quantization = Quantization::int8;

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t k, std::int64_t begin,
                                         std::int64_t end) const {
    const std::int64_t per_word = quantized_per_word(quantization);
    for (std::int64_t j = begin; j < end; ++j) {
      float scale = panel.scales()[j];
      if (quantization == Quantization::int4) {
        scale *= int4_factor(panel.factors(k)[j]);
      }
      const std::uint32_t word = panel.words(k, per_word)[j];
      const int integer = quantized_in_word(word, k % per_word, quantization);
      out[k * kPanelWidth + j] = scale * static_cast<float>(integer);
    }
  }
};

template <class Space>
void dequantize_panel(const Space& space, const Weight& weight, std::int64_t panel, float* out) {
  const QuantizedPanel place(weight.in_features(), weight.quantization());
  const DequantizePanel kernel{
      {weight.storage().raw() + panel * place.bytes, place}, out, weight.quantization()};
  for_rows(space, "Portolan::Matmul::dequantize", weight.in_features(), kPanelWidth, kernel);
}

}  // namespace portolan::portable
