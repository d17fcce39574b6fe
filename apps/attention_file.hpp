// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "apps/attention_command.hpp"
#include "attention/problem.hpp"
#include "core/safetensors.hpp"
#include "core/tensor.hpp"

namespace portolan {

/// The letters of attention/problem.hpp. Packed sequences have batch 1.
struct AttentionExtents {
  std::int64_t batch = 1;
  std::int64_t query_tokens = 0;
  std::int64_t key_tokens = 0;
  std::int64_t heads = 0;
  std::int64_t key_heads = 0;
  std::int64_t head_dim = 0;
};

/// The input of `portolan attention`, checked against the request when it is opened: everything
/// that can be wrong with it is found before a device is started.
class AttentionFile {
 public:
  /// Throws InputError naming file and tensor, UsageError where file and options contradict each
  /// other.
  explicit AttentionFile(const AttentionRequest& request);

  [[nodiscard]] const AttentionExtents& extents() const noexcept { return extents_; }
  /// Of q, as stored.
  [[nodiscard]] DType dtype() const noexcept { return dtype_; }
  [[nodiscard]] const AttentionMask& mask() const noexcept { return mask_; }
  /// Shapes of q (also of o, do, dq), of k (also of v, dk, dv) and of lse in the file's layout.
  [[nodiscard]] std::vector<std::int64_t> query_shape() const;
  [[nodiscard]] std::vector<std::int64_t> key_shape() const;
  [[nodiscard]] std::vector<std::int64_t> log_sum_exp_shape() const;

  /// A tensor as the engine wants it: [B, S, H, D] on the device.
  [[nodiscard]] Tensor read(std::string_view name, DType dtype, Device device) const;
  /// The elements of the engine's [B, S, H, D] in the order of the file's layout, dense in host
  /// memory.
  [[nodiscard]] Tensor in_file_order(const Tensor& tensor) const;

 private:
  void check_operands(const AttentionRequest& request);
  void read_sequences();
  void read_block_map(const AttentionRequest& request);
  [[nodiscard]] const SafetensorsEntry& operand(std::string_view name) const;

  AttentionFileLayout layout_;
  SafetensorsFile file_;
  AttentionExtents extents_;
  DType dtype_ = DType::f32;
  AttentionMask mask_;
};

}  // namespace portolan
