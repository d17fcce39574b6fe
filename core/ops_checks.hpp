// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/backend.hpp"
#include "core/error.hpp"
#include "core/shape_format.hpp"
#include "core/tensor.hpp"

/// Checks that the functions of core/ops.hpp share. Each throws UsageError naming the rule and what
/// was found. For core's own sources.
namespace portolan::ops {

[[nodiscard]] inline Backend& backend(const Tensor& tensor) { return backend_of(tensor.device()); }

inline void require_defined(const Tensor& tensor, const char* name) {
  require(tensor.defined(), "{} is an empty tensor", name);
}

inline void require_rank(const Tensor& tensor, int rank, const char* name) {
  require_defined(tensor, name);
  require(tensor.rank() == rank, "{} must have {} dimensions, found shape {}", name, rank,
          tensor.shape());
}

inline void require_rows_dense(const Tensor& tensor, const char* name) {
  require(tensor.dim(-1) <= 1 || tensor.strides()[tensor.rank() - 1] == 1,
          "the last dimension of {} must be dense", name);
}

inline void require_floating(const Tensor& tensor, const char* name) {
  require_defined(tensor, name);
  require(is_floating(tensor.dtype()), "{} must be f32, bf16 or f16, found {}", name,
          name_of(tensor.dtype()));
}

/// An operation works within one device: that of its operand `other`.
inline void require_device(Device device, const Tensor& other, const char* name) {
  require(device == other.device(), "{} is on device '{}' {}, the operand beside it on '{}' {}",
          name, name_of(device.kind), device.index, name_of(other.device().kind),
          other.device().index);
}

inline void require_same(const Tensor& first, const Tensor& second, const char* first_name,
                         const char* second_name) {
  require(first.shape() == second.shape(), "{} {} and {} {} must have one shape", first_name,
          first.shape(), second_name, second.shape());
  require(first.dtype() == second.dtype(), "{} ({}) and {} ({}) must have one dtype", first_name,
          name_of(first.dtype()), second_name, name_of(second.dtype()));
  require_device(first.device(), second, first_name);
}

/// [n, features], dense in the last dimension.
inline void require_rows(const Tensor& tensor, const char* name) {
  require_rank(tensor, 2, name);
  require_floating(tensor, name);
  require_rows_dense(tensor, name);
}

inline void require_like(const Tensor& tensor, const Tensor& like, const char* name,
                         const char* like_name) {
  require_same(like, tensor, like_name, name);
  require_rows_dense(tensor, name);
}

/// Of the shape of `like`, in its dtype or f32.
inline void require_gradient(const Tensor& gradient, const Tensor& like, const char* name) {
  require(gradient.defined() && gradient.shape() == like.shape(), "{} must have shape {}, found {}",
          name, like.shape(), gradient.shape());
  require(gradient.dtype() == like.dtype() || gradient.dtype() == DType::f32,
          "{} must be {} or f32, found {}", name, name_of(like.dtype()), name_of(gradient.dtype()));
  require_device(gradient.device(), like, name);
  require_rows_dense(gradient, name);
}

/// A dense f32 vector on x's device, with one element for each of `count` features or rows.
inline void require_f32_vector(const Tensor& vector, const Tensor& x, std::int64_t count,
                               const char* name) {
  require_rank(vector, 1, name);
  require(vector.dtype() == DType::f32 && vector.dim(0) == count && vector.is_contiguous(),
          "{} must be {} dense f32 elements, found {} {}", name, count, vector.dim(0),
          name_of(vector.dtype()));
  require_device(vector.device(), x, name);
}

/// Indices: an i32 vector on x's device, with one element for each of `count` tokens or rows.
inline void require_indices(const Tensor& indices, const Tensor& x, std::int64_t count,
                            const char* name) {
  require_rank(indices, 1, name);
  require(indices.dtype() == DType::i32 && indices.dim(0) == count,
          "{} must be {} i32 elements, found {} {}", name, count, indices.dim(0),
          name_of(indices.dtype()));
  require_device(indices.device(), x, name);
}

/// Weights or a bias: a dense vector in the activations' dtype or f32.
inline void require_parameters(const Tensor& vector, const Tensor& x, const char* name) {
  require_rank(vector, 1, name);
  require(vector.dim(0) == x.dim(1) && vector.is_contiguous(),
          "{} of {} features needs as many dense elements, found {}", name, x.dim(1),
          vector.dim(0));
  require(vector.dtype() == x.dtype() || vector.dtype() == DType::f32,
          "{} must be {} or f32, found {}", name, name_of(x.dtype()), name_of(vector.dtype()));
  require_device(vector.device(), x, name);
}

/// Where a tensor lies in a matrix that random numbers are drawn for.
inline void require_block(const Tensor& x, const MatrixBlock& block) {
  require(block.row_begin >= 0 && block.column_begin >= 0 &&
              block.column_begin + x.dim(1) <= block.columns,
          "rows from {} on and columns [{}, {}) lie outside a matrix of {} columns",
          block.row_begin, block.column_begin, block.column_begin + x.dim(1), block.columns);
}

}  // namespace portolan::ops
