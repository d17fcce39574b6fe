// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "models/model.hpp"

namespace portolan {

/// Loads a model's layers by the names of their parameters, in the order of the forward pass.
class LayerLoader {
 public:
  /// `setup` must outlive it.
  explicit LayerLoader(const ModelSetup& setup);

  /// The rank of its shards.
  [[nodiscard]] int rank() const { return setup_.context.tensor().rank(); }
  [[nodiscard]] ShardLoader& shards() noexcept { return shards_; }

  /// The outline's token embedding.
  [[nodiscard]] VocabularyParallelEmbedding embedding();
  /// NAME.weight.
  [[nodiscard]] functional::Norm rms_norm(const std::string& name, double epsilon);
  /// NAME.weight and NAME.bias.
  [[nodiscard]] functional::Norm layer_norm(const std::string& name, double epsilon);

  enum class Bias { none, with };
  /// A product by the matrices `weights` side by side, and their biases: "x.bias" of "x.weight",
  /// "x.bias[part]" of "x.weight[part]".
  [[nodiscard]] ColumnParallelLinear column(const std::vector<std::string>& weights, Bias bias);
  [[nodiscard]] RowParallelLinear row(const std::string& weight, bool sharded, Bias bias);
  /// The outline's head, which may be the table of `embedding`.
  [[nodiscard]] ColumnParallelLinear head(const VocabularyParallelEmbedding& embedding);

 private:
  [[nodiscard]] ParameterPointer biases(const std::vector<std::string>& weights, Bias bias);

  const ModelSetup& setup_;
  ShardLoader shards_;
};

}  // namespace portolan
