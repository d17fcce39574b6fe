// SPDX-License-Identifier: Apache-2.0
#include "parallel/tensor_parallel.hpp"

#include "core/ops.hpp"

namespace portolan {
using functional::rows;

Tensor TensorParallelGroup::gather_tokens(const Tensor& local, std::int64_t sequence_length) const {
  const Tensor full =
      Tensor::empty({local.dim(0), sequence_length, local.dim(2)}, local.dtype(), local.device());
  communicator_->all_gather(local, full, 1, tokens(sequence_length));
  return full;
}

Tensor TensorParallelGroup::sum_and_scatter_tokens(const Tensor& partial) const {
  const std::int64_t length = partial.dim(1);
  const Tensor local = Tensor::empty({partial.dim(0), local_tokens(length), partial.dim(2)},
                                     partial.dtype(), partial.device());
  communicator_->reduce_scatter(partial, local, 1, tokens(length));
  return local;
}

Tensor TensorParallelGroup::own_tokens(const Tensor& whole) const {
  const Partition partition = tokens(whole.dim(1));
  const std::int64_t begin = partition.offset(rank());
  return ops::to_dtype(whole.slice(1, begin, begin + partition.share(rank())), whole.dtype());
}

Variable TensorParallelGroup::enter(const Variable& activation, std::int64_t sequence_length,
                                    bool sharded, bool recompute) const {
  Tape* tape = activation.tape();
  const auto input = activation.target();
  if (!sequence_parallel()) {
    if (tape == nullptr || size() == 1 || !sharded) return activation;
    Variable result =
        tape->record(activation.value(), {}, [this, tape, input](OutputGradients gradients) {
          const Tensor sum = gradients[0].exclusive();
          communicator_->all_reduce(sum);
          tape->contribute(input, sum);
        });
    if (!recompute) return result;
    return result.recomputed_by([saved = activation.save()] { return saved.get(); });
  }
  const Tensor full = gather_tokens(activation.value(), sequence_length);
  if (tape == nullptr) return full;
  const Variable result =
      tape->record(full, {}, [this, tape, input, sharded](OutputGradients gradients) {
        const Tensor& gradient = gradients[0].value;
        tape->contribute(input, sharded ? sum_and_scatter_tokens(gradient) : own_tokens(gradient));
      });
  if (!recompute) return result;
  // Its own tokens are all that a rank keeps.
  return result.recomputed_by([this, sequence_length, saved = activation.save()] {
    return gather_tokens(saved.get(), sequence_length);
  });
}

Tensor TensorParallelGroup::allocate_partial(const Shape& shape, DType dtype, Device device) const {
  if (size() == 1) return Tensor::empty(shape, dtype, device);
  return communicator_->allocate(shape, dtype, device);
}

Variable TensorParallelGroup::leave(const Variable& partial) const {
  if (size() == 1) return partial;
  if (!sequence_parallel()) {
    // Its gradient is the identity, so the variable stands for its own sum.
    communicator_->all_reduce(partial.value());
    return partial;
  }
  const Tensor local = sum_and_scatter_tokens(partial.value());
  Tape* tape = partial.tape();
  if (tape == nullptr) return local;
  return tape->record(local, {}, [this, tape, input = partial.target()](OutputGradients gradients) {
    tape->contribute(input, gather_tokens(gradients[0].value, input.shape[1]));
  });
}

Variable TensorParallelGroup::keep_local(const Variable& whole) const {
  if (!sequence_parallel()) return whole;
  const Tensor local = own_tokens(whole.value());
  Tape* tape = whole.tape();
  if (tape == nullptr) return local;
  return tape->record(local, {}, [this, tape, input = whole.target()](OutputGradients gradients) {
    tape->contribute(input, gather_tokens(gradients[0].value, input.shape[1]));
  });
}

Variable ColumnParallelLinear::forward(const Variable& x) const {
  const Tensor& in = x.value();
  return functional::linear(x, weight_, bias_,
                            Tensor::empty({in.dim(0), in.dim(1), weight_->weight().out_features()},
                                          in.dtype(), in.device()));
}

Variable RowParallelLinear::product(const Variable& x) const {
  const Tensor& in = x.value();
  const Variable partial = functional::linear(
      x, weight_, nullptr,
      group_.allocate_partial({in.dim(0), in.dim(1), weight_->weight().out_features()}, in.dtype(),
                              in.device()));
  return sharded_ ? group_.leave(partial) : group_.keep_local(partial);
}

Variable VocabularyParallelEmbedding::forward(const Tensor& ids, Tape* tape) const {
  const Tensor& table = table_->value();
  const Tensor out = group_.allocate_partial({ids.dim(0), ids.dim(1), table.dim(1)}, table.dtype(),
                                             table.device());
  const Tensor flat = ids.view({ids.elements()});
  ops::embedding(flat, table, first_row_, rows(out));
  Variable partial = out;
  if (tape != nullptr) {
    partial = tape->record(out, {table_}, [this, flat](OutputGradients gradients) {
      if (!table_->is_trainable()) return;
      ops::embedding_backward(flat, rows(gradients[0].value), first_row_, table_->gradient());
    });
  }
  return sharded_ ? group_.leave(partial) : group_.keep_local(partial);
}

}  // namespace portolan
