// SPDX-License-Identifier: Apache-2.0
#include "parallel/tensor_parallel.hpp"

#include "core/ops.hpp"

namespace portolan {
namespace {

Tensor rows(const Tensor& x) { return x.view({x.dim(0) * x.dim(1), x.dim(2)}); }

}  // namespace

Tensor TensorParallelGroup::enter(const Tensor& activation, std::int64_t sequence_length) const {
  if (!sequence_parallel()) return activation;
  const Tensor full = Tensor::empty({activation.dim(0), sequence_length, activation.dim(2)},
                                    activation.dtype(), activation.device());
  communicator_->all_gather(activation, full, 1, tokens(sequence_length));
  return full;
}

Tensor TensorParallelGroup::allocate_partial(const Shape& shape, DType dtype, Device device) const {
  if (size() == 1) return Tensor::empty(shape, dtype, device);
  return communicator_->allocate(shape, dtype, device);
}

Tensor TensorParallelGroup::leave(const Tensor& partial) const {
  if (size() == 1) return partial;
  if (!sequence_parallel()) {
    communicator_->all_reduce(partial);
    return partial;
  }
  const std::int64_t length = partial.dim(1);
  const Tensor local = Tensor::empty({partial.dim(0), local_tokens(length), partial.dim(2)},
                                     partial.dtype(), partial.device());
  communicator_->reduce_scatter(partial, local, 1, tokens(length));
  return local;
}

Tensor TensorParallelGroup::keep_local(const Tensor& whole) const {
  if (!sequence_parallel()) return whole;
  const Partition partition = tokens(whole.dim(1));
  const Tensor part =
      whole.slice(1, partition.offset(rank()), partition.offset(rank()) + partition.share(rank()));
  return ops::to_dtype(part, whole.dtype());
}

Tensor ColumnParallelLinear::forward(const Tensor& x) const {
  const Tensor out =
      Tensor::empty({x.dim(0), x.dim(1), weight_.out_features()}, x.dtype(), x.device());
  ops::matmul(rows(x), weight_, rows(out));
  return out;
}

Tensor RowParallelLinear::forward(const Tensor& x) const {
  const Tensor partial =
      group_.allocate_partial({x.dim(0), x.dim(1), weight_.out_features()}, x.dtype(), x.device());
  if (weight_.in_features() == 0) {
    ops::fill(partial, 0.0F);  // more ranks than features: this one adds nothing
  } else {
    ops::matmul(rows(x), weight_, rows(partial));
  }
  return sharded_ ? group_.leave(partial) : group_.keep_local(partial);
}

Tensor VocabularyParallelEmbedding::forward(const Tensor& ids) const {
  const Tensor partial = group_.allocate_partial({ids.dim(0), ids.dim(1), table_.dim(1)},
                                                 table_.dtype(), table_.device());
  ops::embedding(ids.view({ids.elements()}), table_, first_row_, rows(partial));
  return sharded_ ? group_.leave(partial) : group_.keep_local(partial);
}

}  // namespace portolan
