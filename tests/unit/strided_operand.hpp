// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "attention/cuda/attention_arguments.hpp"
#include "tests/unit/element_bits.hpp"

/// Operands and results of the CUDA attention kernels in host memory, for their emulation.
namespace portolan::testing_support {

/// A tensor [batch, tokens, heads, head_dim] with gaps between tokens and between entries.
class StridedOperand {
 public:
  static constexpr int kGap = 8;  // elements, so that rows stay aligned to 16 bytes
  static constexpr std::uint16_t kPoison = 0x7FFF;  // NaN in both formats

  StridedOperand(std::int64_t batch, std::int64_t tokens, std::int64_t heads, std::int64_t head_dim)
      : batch_(batch),
        tokens_(tokens),
        heads_(heads),
        head_dim_(head_dim),
        strides_{.batch = tokens * (heads * head_dim + kGap) + kGap,
                 .token = heads * head_dim + kGap,
                 .head = head_dim},
        bits_(static_cast<std::size_t>(batch * strides_.batch), kPoison),
        floats_(bits_.size(), std::numeric_limits<float>::quiet_NaN()) {}

  [[nodiscard]] const cuda::AttentionStrides& strides() const { return strides_; }
  [[nodiscard]] std::uint16_t* bits() { return bits_.data(); }
  [[nodiscard]] void* data(cuda::AttentionOutput output) {
    return output == cuda::AttentionOutput::element ? static_cast<void*>(bits_.data())
                                                    : floats_.data();
  }

  void fill(cuda::AttentionElement element, const std::vector<double>& values) {
    visit([&](std::size_t dense, std::size_t place) {
      bits_[place] = bits_of(element, static_cast<float>(values[dense]));
    });
  }
  void fill_f32(float value) {
    visit([&](std::size_t, std::size_t place) { floats_[place] = value; });
  }
  [[nodiscard]] std::vector<double> values(cuda::AttentionElement element,
                                           cuda::AttentionOutput output) const {
    std::vector<double> result;
    visit([&](std::size_t, std::size_t place) {
      result.push_back(output == cuda::AttentionOutput::element ? value_of(element, bits_[place])
                                                                : floats_[place]);
    });
    return result;
  }
  /// True if nothing was written between the rows.
  [[nodiscard]] bool gaps_untouched() const {
    std::vector<bool> inside(bits_.size(), false);
    visit([&](std::size_t, std::size_t place) { inside[place] = true; });
    for (std::size_t i = 0; i < bits_.size(); ++i) {
      if (!inside[i] && (bits_[i] != kPoison || !std::isnan(floats_[i]))) return false;
    }
    return true;
  }

 private:
  template <typename Visitor>
  void visit(const Visitor& visitor) const {
    std::size_t dense = 0;
    for (std::int64_t b = 0; b < batch_; ++b) {
      for (std::int64_t t = 0; t < tokens_; ++t) {
        for (std::int64_t h = 0; h < heads_; ++h) {
          for (std::int64_t d = 0; d < head_dim_; ++d) {
            visitor(dense++, static_cast<std::size_t>(b * strides_.batch + t * strides_.token +
                                                      h * strides_.head + d));
          }
        }
      }
    }
  }

  std::int64_t batch_;
  std::int64_t tokens_;
  std::int64_t heads_;
  std::int64_t head_dim_;
  cuda::AttentionStrides strides_;
  std::vector<std::uint16_t> bits_;
  std::vector<float> floats_;
};

}  // namespace portolan::testing_support
