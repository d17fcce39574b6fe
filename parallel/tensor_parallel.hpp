// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/functional.hpp"
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
  /// `sharded`: the block's ranks each do a part, so that the gradients they return are summed;
  /// otherwise each does all of it and has the whole gradient. With `recompute` nodes keep what
  /// `activation` keeps and gather it again.
  [[nodiscard]] Variable enter(const Variable& activation, std::int64_t sequence_length,
                               bool sharded, bool recompute = false) const;

  /// Memory for a block's partial result [B, S, hidden], which collectives move without a copy.
  [[nodiscard]] Tensor allocate_partial(const Shape& shape, DType dtype, Device device) const;

  /// Out of a block: partial [B, S, hidden] -> its sum over ranks [B, local tokens, hidden].
  [[nodiscard]] Variable leave(const Variable& partial) const;

  /// Out of a block that the plan replicates: whole [B, S, hidden] -> this rank's tokens of it.
  [[nodiscard]] Variable keep_local(const Variable& whole) const;

 private:
  [[nodiscard]] Tensor gather_tokens(const Tensor& local, std::int64_t sequence_length) const;
  [[nodiscard]] Tensor sum_and_scatter_tokens(const Tensor& partial) const;
  [[nodiscard]] Tensor own_tokens(const Tensor& whole) const;

  Communicator* communicator_;
  bool sequence_parallel_;
};

/// Output features dealt: x [n, in], whole -> [n, this rank's features].
class ColumnParallelLinear {
 public:
  explicit ColumnParallelLinear(ParameterPointer weight, ParameterPointer bias = nullptr)
      : weight_(std::move(weight)), bias_(std::move(bias)) {}
  [[nodiscard]] const ParameterPointer& weight() const noexcept { return weight_; }
  /// Null if it has none.
  [[nodiscard]] const ParameterPointer& bias() const noexcept { return bias_; }
  /// x [B, S, in] -> [B, S, local out].
  [[nodiscard]] Variable forward(const Variable& x) const;

 private:
  ParameterPointer weight_;
  ParameterPointer bias_;
};

/// Input features dealt: x [B, S, this rank's features] -> sum over ranks, [B, local tokens, out].
/// Not `sharded`: every rank holds all features, and there is nothing to sum.
class RowParallelLinear {
 public:
  RowParallelLinear(ParameterPointer weight, ParameterPointer bias, TensorParallelGroup group,
                    bool sharded)
      : weight_(std::move(weight)), bias_(std::move(bias)), group_(group), sharded_(sharded) {}
  [[nodiscard]] const ParameterPointer& weight() const noexcept { return weight_; }
  /// Whole on every rank, null if it has none. Whoever adds the result to the residual stream adds
  /// it too, once, in the same pass.
  [[nodiscard]] const ParameterPointer& bias() const noexcept { return bias_; }
  /// The product alone.
  [[nodiscard]] Variable product(const Variable& x) const;

 private:
  ParameterPointer weight_;
  ParameterPointer bias_;
  TensorParallelGroup group_;
  bool sharded_;
};

/// Rows of the table dealt: ids [B, S] i32, whole -> [B, local tokens, hidden]. Not `sharded`: the
/// table is whole.
class VocabularyParallelEmbedding {
 public:
  /// `table` [local rows, hidden] holds rows [first_row, first_row + local rows).
  VocabularyParallelEmbedding(ParameterPointer table, std::int64_t first_row,
                              TensorParallelGroup group, bool sharded)
      : table_(std::move(table)), first_row_(first_row), group_(group), sharded_(sharded) {}
  [[nodiscard]] const ParameterPointer& table() const noexcept { return table_; }
  /// `tape` may be null.
  [[nodiscard]] Variable forward(const Tensor& ids, Tape* tape) const;

 private:
  ParameterPointer table_;
  std::int64_t first_row_;
  TensorParallelGroup group_;
  bool sharded_;
};

}  // namespace portolan
