// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/parameter.hpp"
#include "models/checkpoint.hpp"
#include "parallel/plan.hpp"

namespace portolan {

/// Where a model's parameters come from, block by block, so that a rank touches only what it holds.
class WeightSource {
 public:
  virtual ~WeightSource() = default;
  /// Fills `out` [rows, columns] with the block of parameter `name` (global shape [features] or
  /// [out, in]) that starts at (row_begin, column_begin), converted to out's dtype.
  virtual void read(const PlannedParameter& parameter, std::int64_t row_begin,
                    std::int64_t column_begin, const Tensor& out) = 0;
};

/// Matrices uniform on (-sqrt(3) sigma, sqrt(3) sigma) with sigma = 0.02, the standard deviation
/// that LLaMA implementations initialise with; norm weights 1. A pure function of seed, name and
/// element.
[[nodiscard]] std::unique_ptr<WeightSource> make_random_weights(std::uint64_t seed);

/// `checkpoint` must outlive the source.
[[nodiscard]] std::unique_ptr<WeightSource> make_checkpoint_weights(const Checkpoint& checkpoint);

enum class ParameterUse { inference, training };

/// Loads a rank's shards. No more than a few MB of scratch exist beside what it returns.
class ShardLoader {
 public:
  /// `dtype` is what the model computes in; masters of trained parameters are f32.
  ShardLoader(const ResolvedPlan& plan, int rank, WeightSource& source, DType dtype, Device device,
              ParameterUse use)
      : plan_(plan), rank_(rank), source_(source), dtype_(dtype), device_(device), use_(use) {}

  /// A norm weight or an embedding table: plain, [rows] or [rows, columns].
  [[nodiscard]] ParameterPointer plain(const std::string& name) const;
  /// For a product by several matrices stacked on their output features (fused q, k, v): packed if
  /// it is for inference.
  [[nodiscard]] ParameterPointer stacked(const std::vector<std::string>& names) const;

  [[nodiscard]] const ShardRange& range(const std::string& name) const {
    return plan_.at(name).ranges[static_cast<std::size_t>(rank_)];
  }

 private:
  [[nodiscard]] Tensor read_plain(const std::string& name, DType dtype) const;
  [[nodiscard]] Weight read_stacked(const std::vector<std::string>& names, std::int64_t outputs,
                                    DType dtype, bool pack) const;

  const ResolvedPlan& plan_;
  int rank_;
  WeightSource& source_;
  DType dtype_;
  Device device_;
  ParameterUse use_;
};

}  // namespace portolan
