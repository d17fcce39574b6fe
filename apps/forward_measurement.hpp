// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "models/model.hpp"

/// Timing of one model's forward pass and of its matrix products alone, on all ranks at once.
namespace portolan {

/// Token ids [batch, length], a pure function of the seed and the shape.
[[nodiscard]] std::vector<std::int32_t> random_token_ids(std::uint64_t seed, std::int64_t batch,
                                                         std::int64_t length,
                                                         std::int64_t vocabulary);

/// Rows of [batch, length] to compare between modes: the last position of each sequence and `count`
/// drawn by seed, sorted, each once.
[[nodiscard]] std::vector<std::int64_t> sampled_rows(std::uint64_t seed, std::int64_t batch,
                                                     std::int64_t length, std::int64_t count);

/// One shape of a model to be measured. Every function is collective.
class ForwardMeasurement {
 public:
  /// `model` must outlive the measurement.
  ForwardMeasurement(const Model& model, std::int64_t batch, std::int64_t length,
                     std::uint64_t seed);

  /// Wall seconds of one forward between two barriers, the slowest rank's. Logits stay sharded.
  double forward();
  /// This rank's result of the last forward.
  [[nodiscard]] const Tensor& logits() const noexcept { return logits_; }
  void release_logits() { logits_ = Tensor(); }

  /// Wall seconds of the forward's matrix products alone: same weights, same shapes, same order,
  /// the slowest rank's. Nothing else a forward does is in it, so it is the floor of the forward's
  /// time.
  double floor();

 private:
  const Model& model_;
  std::int64_t batch_;
  std::int64_t length_;
  std::vector<std::int32_t> ids_;
  Tensor logits_;
};

}  // namespace portolan
