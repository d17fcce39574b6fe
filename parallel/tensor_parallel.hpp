// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/tensor.hpp"
#include "core/weight.hpp"
#include "parallel/communicator.hpp"

/// Tensor parallelism (Shoeybi et al. 2019, arXiv:1909.08053) and its sequence-parallel form
/// (Korthikanti et al. 2022, arXiv:2205.05198). A block is a column-parallel product, local work on
/// its sharded features, and a row-parallel product that leaves a partial sum.
///
/// The two borders of a block are `enter` and `leave`. Their gradients are each other: the gradient
/// of an all-gather along the sequence is a reduce-scatter and the reverse; without sequence
/// parallelism `enter` is the identity whose gradient is an all-reduce, and `leave` the all-reduce
/// whose gradient is the identity.
namespace portolan {

/// The tensor-parallel ranks as a model's blocks see them.
class TensorParallelGroup {
 public:
  /// `communicator` must outlive the group.
  TensorParallelGroup(Communicator& communicator, bool sequence_parallel)
      : communicator_(&communicator), sequence_parallel_(sequence_parallel) {}

  [[nodiscard]] int rank() const { return communicator_->rank(); }
  [[nodiscard]] int size() const { return communicator_->size(); }
  [[nodiscard]] Communicator& communicator() const noexcept { return *communicator_; }
  /// True if activations between blocks are dealt along the sequence.
  [[nodiscard]] bool sequence_parallel() const noexcept { return sequence_parallel_ && size() > 1; }
  /// How the tokens of a sequence are dealt between blocks.
  [[nodiscard]] Partition tokens(std::int64_t sequence_length) const {
    return Partition::even(sequence_length, size());
  }
  /// Tokens of each sequence that this rank holds between blocks.
  [[nodiscard]] std::int64_t local_tokens(std::int64_t sequence_length) const {
    return sequence_parallel() ? tokens(sequence_length).share(rank()) : sequence_length;
  }

  /// Into a block: activation [B, local tokens, hidden] -> [B, S, hidden], whole on each rank.
  [[nodiscard]] Tensor enter(const Tensor& activation, std::int64_t sequence_length) const;

  /// Memory for a block's partial result [B, S, hidden], which collectives move without a copy.
  [[nodiscard]] Tensor allocate_partial(const Shape& shape, DType dtype, Device device) const;

  /// Out of a block: partial [B, S, hidden] -> its sum over ranks [B, local tokens, hidden].
  [[nodiscard]] Tensor leave(const Tensor& partial) const;

  /// Out of a block that the plan replicates: whole [B, S, hidden] -> this rank's tokens of it.
  [[nodiscard]] Tensor keep_local(const Tensor& whole) const;

 private:
  Communicator* communicator_;
  bool sequence_parallel_;
};

/// Output features dealt: x [n, in], whole -> [n, this rank's features].
class ColumnParallelLinear {
 public:
  explicit ColumnParallelLinear(Weight weight) : weight_(std::move(weight)) {}
  [[nodiscard]] const Weight& weight() const noexcept { return weight_; }
  /// x [B, S, in] -> [B, S, local out].
  [[nodiscard]] Tensor forward(const Tensor& x) const;

 private:
  Weight weight_;
};

/// Input features dealt: x [B, S, this rank's features] -> sum over ranks, [B, local tokens, out].
/// Not `sharded`: every rank holds all features, and there is nothing to sum.
class RowParallelLinear {
 public:
  RowParallelLinear(Weight weight, TensorParallelGroup group, bool sharded)
      : weight_(std::move(weight)), group_(group), sharded_(sharded) {}
  [[nodiscard]] const Weight& weight() const noexcept { return weight_; }
  [[nodiscard]] Tensor forward(const Tensor& x) const;

 private:
  Weight weight_;
  TensorParallelGroup group_;
  bool sharded_;
};

/// Rows of the table dealt: ids [B, S] i32, whole -> [B, local tokens, hidden]. Not `sharded`: the
/// table is whole.
class VocabularyParallelEmbedding {
 public:
  /// `table` [local rows, hidden] holds rows [first_row, first_row + local rows).
  VocabularyParallelEmbedding(Tensor table, std::int64_t first_row, TensorParallelGroup group,
                              bool sharded)
      : table_(std::move(table)), first_row_(first_row), group_(group), sharded_(sharded) {}
  [[nodiscard]] const Tensor& table() const noexcept { return table_; }
  [[nodiscard]] Tensor forward(const Tensor& ids) const;

 private:
  Tensor table_;
  std::int64_t first_row_;
  TensorParallelGroup group_;
  bool sharded_;
};

}  // namespace portolan
