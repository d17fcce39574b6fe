// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "models/model.hpp"

namespace portolan {

/// A model's trainable parameters over its ranks: makes every rank's gradients those of the whole
/// batch, and knows who holds what.
///
/// A backward pass leaves a rank what its own tokens and heads contribute. Complete gradients are
/// sums over
///  - the context-parallel ranks, for every parameter;
///  - the tensor-parallel ranks, under sequence parallelism for what is used between blocks (each
///    rank normalises its own tokens), and for key/value heads that several ranks hold.
/// The sums are made by hooks, when the last contribution of a parameter has come.
class ShardedGradients {
 public:
  /// Adds the hooks, for as long as this object lives. `model` was made for training and outlives
  /// it.
  explicit ShardedGradients(const Model& model);
  ShardedGradients(const ShardedGradients&) = delete;
  ShardedGradients& operator=(const ShardedGradients&) = delete;

  /// The Euclidean norm of all gradients together, each element of the model once. Collective.
  [[nodiscard]] double norm() const;

  void clear() const;

  /// Calls `visit` for each tensor under its checkpoint name, whole and f32 in host memory, on
  /// every rank: of the gradients, or of the parameters. One at a time is in memory. Collective.
  using Visitor = std::function<void(const std::string& name, const Tensor& whole)>;
  void visit_gradients(const Visitor& visit) const;
  void visit_parameters(const Visitor& visit) const;

 private:
  /// Rows [begin, end) of a parameter's tensors that count as this rank's: elements that several
  /// ranks hold are the first one's.
  struct OwnedRows {
    ParameterPointer parameter;
    const PlannedParameter* planned = nullptr;
    ShardRange range;        ///< in the whole tensor
    std::int64_t first = 0;  ///< row of the parameter where the tensor's rows begin
    std::int64_t begin = 0;  ///< owned rows, counted from `first`
    std::int64_t end = 0;
  };

  void add_hooks(Parameter& parameter);
  void sum_shared_rows(const Tensor& gradient, const ParameterSegment& segment) const;
  void visit(const std::function<Tensor(Parameter&)>& tensor_of, const Visitor& visit) const;

  const Model& model_;
  std::vector<OwnedRows> owned_;
  std::vector<std::shared_ptr<const Parameter::Hook>> hooks_;
};

}  // namespace portolan
