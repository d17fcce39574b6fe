// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "tests/cuda/cases.hpp"
#include "tests/cuda/device_array.cuh"
#include "tests/cuda/reference.cuh"

namespace portolan::cuda_testing {

/// A tensor [batch, tokens, heads, head_dim] on the GPU with gaps between its rows and at its end,
/// in which nobody may write.
class Operand {
 public:
  Operand(std::int64_t batch, std::int64_t tokens, std::int64_t heads, std::int64_t head_dim,
          cuda::AttentionElement element, bool f32 = false)
      : batch_(batch),
        tokens_(tokens),
        row_(heads * head_dim),
        strides_{.batch = tokens * (row_ + kGap) + kGap, .token = row_ + kGap, .head = head_dim},
        element_(element),
        f32_(f32),
        bytes_(static_cast<std::size_t>(batch * strides_.batch + kGap) * (f32 ? 4 : 2)) {
    bytes_.poison();
  }

  [[nodiscard]] void* data() const { return bytes_.data(); }
  [[nodiscard]] const cuda::AttentionStrides& strides() const { return strides_; }
  void poison() { bytes_.poison(); }
  void fill_random(float amplitude, std::uint64_t seed) {
    cuda_testing::fill_random(reinterpret_cast<std::uint16_t*>(bytes_.data()), bytes_.size() / 2,
                              element_, amplitude, seed);
  }
  /// Makes tokens [begin, end) of an entry not a number.
  void poison_tokens(std::int64_t entry, std::int64_t begin, std::int64_t end) {
    if (end <= begin) return;
    const std::size_t size = f32_ ? 4 : 2;
    const auto first = static_cast<std::size_t>(entry * strides_.batch + begin * strides_.token);
    const auto count = static_cast<std::size_t>((end - begin) * strides_.token);
    check(cudaMemset(bytes_.data() + first * size, 0xFF, count * size), "poisoning tokens");
  }
  /// Sets the rows, which are f32, and leaves the gaps.
  void fill_f32(float value) {
    std::vector<std::uint8_t> bytes = bytes_.download();
    for_each([&](std::size_t place) {
      std::memcpy(bytes.data() + place * sizeof(float), &value, sizeof(float));
    });
    bytes_ = DeviceArray<std::uint8_t>(bytes);
  }
  [[nodiscard]] std::vector<std::uint8_t> download() const { return bytes_.download(); }

  /// The rows of what download() gave.
  [[nodiscard]] std::vector<double> values(const std::vector<std::uint8_t>& bytes) const {
    std::vector<double> values;
    for_each([&](std::size_t place) { values.push_back(value_at(bytes, place)); });
    return values;
  }
  /// Empty, or what is wrong with the gaps.
  [[nodiscard]] std::string damage(std::vector<std::uint8_t> bytes) const {
    const std::size_t size = f32_ ? 4 : 2;
    for_each([&](std::size_t place) { std::memset(bytes.data() + place * size, 0xFF, size); });
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      if (bytes[i] != 0xFF) return "wrote outside of its rows at byte " + std::to_string(i);
    }
    return {};
  }

 private:
  static constexpr std::int64_t kGap = 8;

  template <typename Visitor>
  void for_each(const Visitor& visitor) const {
    for (std::int64_t b = 0; b < batch_; ++b) {
      for (std::int64_t t = 0; t < tokens_; ++t) {
        for (std::int64_t i = 0; i < row_; ++i) {
          visitor(static_cast<std::size_t>(b * strides_.batch + t * strides_.token + i));
        }
      }
    }
  }
  [[nodiscard]] double value_at(const std::vector<std::uint8_t>& bytes, std::size_t place) const {
    if (f32_) {
      float value = 0.0F;
      std::memcpy(&value, bytes.data() + place * sizeof(value), sizeof(value));
      return value;
    }
    std::uint16_t bits = 0;
    std::memcpy(&bits, bytes.data() + place * sizeof(bits), sizeof(bits));
    return element_ == cuda::AttentionElement::bf16 ? __bfloat162float(__ushort_as_bfloat16(bits))
                                                    : __half2float(__ushort_as_half(bits));
  }

  std::int64_t batch_;
  std::int64_t tokens_;
  std::int64_t row_;
  cuda::AttentionStrides strides_;
  cuda::AttentionElement element_;
  bool f32_;
  DeviceArray<std::uint8_t> bytes_;
};

}  // namespace portolan::cuda_testing
