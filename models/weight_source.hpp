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
  /// Fills `out` [rows, columns] with the block of `parameter` (global shape [features] or
  /// [out, in]) that starts at (row_begin, column_begin), converted to out's dtype. A part of a
  /// fused tensor lies at parameter.first_row of parameter.tensor.
  virtual void read(const PlannedParameter& parameter, std::int64_t row_begin,
                    std::int64_t column_begin, const Tensor& out) = 0;
};

/// Matrices uniform on (-sqrt(3) sigma, sqrt(3) sigma) with sigma = 0.02, the standard deviation
/// that LLaMA implementations initialise with; norm weights 1, biases 0. A pure function of seed,
/// name of the tensor and element.
[[nodiscard]] std::unique_ptr<WeightSource> make_random_weights(std::uint64_t seed);

/// `checkpoint` must outlive the source.
[[nodiscard]] std::unique_ptr<WeightSource> make_checkpoint_weights(const Checkpoint& checkpoint);

/// Rows of so many columns to read at a time if they are to be packed: whole panels, few enough to
/// stay in the last-level cache in between.
[[nodiscard]] std::int64_t packing_rows(std::int64_t columns, DType dtype);

enum class ParameterUse { inference, training };

/// Loads a rank's shards, and remembers what it has loaded. No more than a few MB of scratch exist
/// beside what it returns.
class ShardLoader {
 public:
  /// `dtype` is what the model computes in; masters of trained parameters are f32. Quantized
  /// matrices are for inference: UsageError otherwise. A rank quantizes its shard, so that the
  /// scale of an output whose inputs are dealt to several ranks is on each that of its own inputs.
  ShardLoader(const ResolvedPlan& plan, int rank, WeightSource& source, DType dtype, Device device,
              ParameterUse use, Quantization quantization = Quantization::none);

  /// A norm weight or an embedding table: plain, [rows] or [rows, columns].
  [[nodiscard]] ParameterPointer plain(const std::string& name);
  /// Vectors one after the other: the biases of what `stacked` loads.
  [[nodiscard]] ParameterPointer joined(const std::vector<std::string>& names);
  /// For a product by several matrices stacked on their output features (fused q, k, v): packed if
  /// it is for inference, and quantized if that was asked for.
  [[nodiscard]] ParameterPointer stacked(const std::vector<std::string>& names);

  [[nodiscard]] const ShardRange& range(const std::string& name) const {
    return plan_.at(name).ranges[static_cast<std::size_t>(rank_)];
  }

  /// What `stacked` has loaded, in order.
  [[nodiscard]] const std::vector<ParameterPointer>& products() const noexcept { return products_; }
  /// All that was loaded, in order.
  [[nodiscard]] const std::vector<ParameterPointer>& loaded() const noexcept { return loaded_; }

 private:
  void read_rows(const std::string& name, const Tensor& out) const;
  [[nodiscard]] ParameterPointer keep(std::vector<ParameterSegment> segments, const Tensor& value);
  [[nodiscard]] DType plain_dtype() const {
    return use_ == ParameterUse::training ? DType::f32 : dtype_;
  }
  /// Without values.
  [[nodiscard]] Weight allocate_product(std::int64_t outputs, std::int64_t inputs) const;
  void read_stacked(const std::vector<std::string>& names, const Weight& weight) const;

  const ResolvedPlan& plan_;
  int rank_;
  WeightSource& source_;
  DType dtype_;
  Device device_;
  ParameterUse use_;
  Quantization quantization_;
  std::vector<ParameterPointer> products_;
  std::vector<ParameterPointer> loaded_;
};

}  // namespace portolan
