// SPDX-License-Identifier: Apache-2.0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "backends/openmp/simd/quantize.cpp"
#include <hwy/foreach_target.h>  // must come before highway.h
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "backends/openmp/simd/convert-inl.hpp"
#include "backends/openmp/simd/integer_panel-inl.hpp"
#include "backends/openmp/simd/kernels.hpp"
#include "backends/openmp/simd/transpose-inl.hpp"
#include "backends/portable/dispatch.hpp"
#include "core/weight.hpp"

HWY_BEFORE_NAMESPACE();
namespace portolan::simd::HWY_NAMESPACE {

/// Largest magnitude of `count` elements; NaN if one is not finite.
template <class T>
HWY_INLINE float largest(const T* from, std::int64_t count) {
  const FloatTag floats;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(floats));
  Floats most = hn::Zero(floats);
  Floats not_finite = hn::Zero(floats);  // else it stays 0
  const auto take = [&](Floats value) HWY_ATTR {
    most = hn::Max(most, hn::Abs(value));
    not_finite = hn::Add(not_finite, hn::Sub(value, value));
  };
  std::int64_t i = 0;
  for (; i + lanes <= count; i += lanes) take(load(from + i));
  if (i < count) take(load_first(from + i, count - i));
  return hn::GetLane(hn::MaxOfLanes(floats, most)) +
         hn::GetLane(hn::SumOfLanes(floats, not_finite));
}

/// quantized_value of each of a group's values.
HWY_INLINE void quantize_group(const float* values, float step, int limit, std::int8_t* integers) {
  if (!(step > 0.0F)) {
    std::memset(integers, 0, kQuantizedGroup);
    return;
  }
  const FloatTag floats;
  const hn::RebindToSigned<FloatTag> wide;
  const hn::Rebind<std::int8_t, FloatTag> narrow;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(floats));
  const Floats bound = hn::Set(floats, static_cast<float>(limit));
  const Floats shift = hn::Set(floats, 12582912.0F);  // leaves no bits for a fraction
  for (std::int64_t i = 0; i < kQuantizedGroup; i += lanes) {
    const Floats scaled = hn::Div(load(values + i), hn::Set(floats, step));
    const Floats rounded = hn::Sub(hn::Add(scaled, shift), shift);
    const Floats bounded = hn::Min(hn::Max(rounded, hn::Neg(bound)), bound);
    hn::StoreU(hn::DemoteTo(narrow, hn::ConvertTo(wide, bounded)), narrow, integers + i);
  }
}

/// A group's integers as consecutive words.
HWY_INLINE void pack_group(const std::int8_t* integers, Quantization quantization,
                           std::uint32_t* words) {
  if (quantization == Quantization::int8) {
    std::memcpy(words, integers, kQuantizedGroup);
    return;
  }
  std::uint8_t halves[kQuantizedGroup / 2];
  for (std::int64_t i = 0; i < kQuantizedGroup / 2; ++i) {
    halves[i] = static_cast<std::uint8_t>((integers[2 * i] & 0xF) | (integers[2 * i + 1] << 4));
  }
  std::memcpy(words, halves, sizeof(halves));
}

/// Quantizes one output of a panel after the other, in chunks of inputs.
template <class From>
class PanelQuantizer {
 public:
  PanelQuantizer(const QuantizePanels& arguments, std::int64_t panel)
      : arguments_(arguments),
        first_row_(panel * kPanelWidth),
        place_(arguments.in_features, arguments.quantization),
        panel_(static_cast<std::byte*>(arguments.panels) + panel * place_.bytes) {}

  void run() {
    for (std::int64_t row = 0; row < kPanelWidth; ++row) {
      most_[row] = has(row) ? largest(source(row), arguments_.in_features) : 0.0F;
      scales()[row] = most_[row] / static_cast<float>(quantized_limit(arguments_.quantization));
    }
    const std::int64_t per_word = quantized_per_word(arguments_.quantization);
    const std::int64_t padded = padded_in_features(arguments_.in_features, DType::bf16);
    for (std::int64_t input = 0; input < padded; input += kChunkWords * per_word) {
      const std::int64_t inputs = std::min(kChunkWords * per_word, padded - input);
      for (std::int64_t row = 0; row < kPanelWidth; ++row) {
        for (std::int64_t i = 0; i < inputs; i += kQuantizedGroup) {
          quantize(row, input + i, chunk_ + row * kChunkWords + i / per_word);
        }
      }
      for (std::int64_t i = 0; i < inputs; i += kQuantizedGroup) {
        transpose_chunk(chunk_ + i / per_word, kQuantizedGroup / per_word, words(input + i));
      }
    }
  }

 private:
  [[nodiscard]] bool has(std::int64_t row) const { return first_row_ + row < arguments_.row_count; }
  [[nodiscard]] const From* source(std::int64_t row) const {
    return static_cast<const From*>(arguments_.rows) + (first_row_ + row) * arguments_.row_stride;
  }
  [[nodiscard]] float* scales() const { return reinterpret_cast<float*>(panel_); }
  /// Of the group that begins with `input`.
  [[nodiscard]] std::uint32_t* words(std::int64_t input) const {
    return reinterpret_cast<std::uint32_t*>(panel_ + place_.words(input / kQuantizedGroup));
  }

  void quantize(std::int64_t row, std::int64_t input, std::uint32_t* words) const {
    HWY_ALIGN float values[kQuantizedGroup] = {};
    if (has(row)) {
      widen(source(row) + input,
            std::min<std::int64_t>(kQuantizedGroup, arguments_.in_features - input),
            kQuantizedGroup, values);
    }
    float step = scales()[row];
    if (arguments_.quantization == Quantization::int4) {
      const std::uint8_t code =
          most_[row] > 0.0F ? int4_factor_code(largest(values, kQuantizedGroup) / most_[row])
                            : std::uint8_t{0};
      reinterpret_cast<std::uint8_t*>(panel_ + place_.factors(input / kQuantizedGroup))[row] = code;
      step *= int4_factor(code);
    }
    std::int8_t integers[kQuantizedGroup];
    quantize_group(values, step, quantized_limit(arguments_.quantization), integers);
    pack_group(integers, arguments_.quantization, words);
  }

  const QuantizePanels& arguments_;
  std::int64_t first_row_;
  QuantizedPanel place_;
  std::byte* panel_;
  float most_[kPanelWidth];
  HWY_ALIGN std::uint32_t chunk_[kPanelWidth * kChunkWords];
};

void quantize_panels(const QuantizePanels& arguments, std::int64_t begin, std::int64_t end) {
  dispatch_floating(arguments.source_dtype, [&](auto type) {
    for (std::int64_t panel = begin; panel < end; ++panel) {
      PanelQuantizer<typename decltype(type)::type>(arguments, panel).run();
    }
  });
}

/// Inputs kInput and on of words, which are those `input` and on of the panel.
template <class Panel, class Out, int kInput>
HWY_INLINE void widen_words(TileWords words, TileVector factor, std::int64_t input,
                            std::int64_t column, Out* out) {
  const TileWordTag tag;
  const TileVector value = hn::Mul(Panel::template floats<kInput>(words), factor);
  if constexpr (std::is_same_v<Out, float>) {
    hn::StoreU(value, TileTag(), out + (input + kInput) * kPanelWidth + column);
  } else if constexpr (kInput % 2 == 0) {
    // Two values side by side, each of which fits the upper half of its word.
    const TileVector next = hn::Mul(Panel::template floats<kInput + 1>(words), factor);
    const TileWords pair = hn::Or(hn::ShiftRight<16>(hn::BitCast(tag, value)),
                                  hn::And(hn::BitCast(tag, next), hn::Set(tag, 0xFFFF0000u)));
    hn::StoreU(pair, tag,
               reinterpret_cast<std::uint32_t*>(out) + (input + kInput) / 2 * kPanelWidth + column);
  }
  if constexpr (kInput + 1 < Panel::kInputs) {
    widen_words<Panel, Out, kInput + 1>(words, factor, input, column, out);
  }
}

template <class Panel, class Out>
void widen_panel(const std::byte* panel, const QuantizedPanel& place, std::int64_t inputs,
                 Out* out) {
  const TileTag floats;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(floats));
  for (std::int64_t first = 0; first < inputs; first += kQuantizedGroup) {
    const std::int64_t last = std::min(first + kQuantizedGroup, inputs);
    const std::int64_t group = first / kQuantizedGroup;
    const auto* const words = reinterpret_cast<const std::uint32_t*>(panel + place.words(group));
    const auto* const codes = reinterpret_cast<const std::uint8_t*>(panel + place.factors(group));
    for (std::int64_t column = 0; column < kPanelWidth; column += lanes) {
      TileVector factor = hn::Set(floats, 1.0F);
      if constexpr (Panel::kGroup > 0) {
        factor = factors_of(codes + column);
      }
      for (std::int64_t input = first; input < last; input += Panel::kInputs) {
        const TileWords loaded = hn::LoadU(
            TileWordTag(), words + (input - first) / Panel::kInputs * kPanelWidth + column);
        widen_words<Panel, Out, 0>(loaded, factor, input, column, out);
      }
    }
  }
}

template <class Out>
void widen_panels_to(const WidenPanels& arguments, std::int64_t begin, std::int64_t end) {
  const QuantizedPanel place(arguments.in_features, arguments.quantization);
  const std::int64_t inputs = padded_in_features(arguments.in_features, arguments.out_dtype);
  for (std::int64_t panel = begin; panel < end; ++panel) {
    const auto* const from = static_cast<const std::byte*>(arguments.panels) + panel * place.bytes;
    auto* const to = static_cast<Out*>(arguments.out) + panel * kPanelWidth * inputs;
    if (arguments.quantization == Quantization::int8) {
      widen_panel<IntegerPanel<8>>(from, place, inputs, to);
    } else {
      widen_panel<IntegerPanel<4>>(from, place, inputs, to);
    }
  }
}

void widen_panels(const WidenPanels& arguments, std::int64_t begin, std::int64_t end) {
  if (arguments.out_dtype == DType::bf16) {
    widen_panels_to<BFloat16>(arguments, begin, end);
  } else {
    widen_panels_to<float>(arguments, begin, end);
  }
}

}  // namespace portolan::simd::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace portolan::simd {

HWY_EXPORT(quantize_panels);
HWY_EXPORT(widen_panels);

void quantize_panels(const QuantizePanels& arguments, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(quantize_panels)(arguments, begin, end);
}

void widen_panels(const WidenPanels& arguments, std::int64_t begin, std::int64_t end) {
  HWY_DYNAMIC_DISPATCH(widen_panels)(arguments, begin, end);
}

}  // namespace portolan::simd
#endif
