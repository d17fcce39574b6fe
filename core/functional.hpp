// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "core/gelu_kind.hpp"
#include "core/parameter.hpp"
#include "core/tape.hpp"

/// Operations on variables: each computes as the operation of the same name in core/ops.hpp, and
/// records its gradient if one of its inputs is on a tape. Activations are [B, S, features]. With
/// `recompute`, nodes that use the result do not keep it but compute it again from what is kept
/// anyway (selective recomputation: Korthikanti et al. 2022, arXiv:2205.05198).
namespace portolan::functional {

/// [B, S, features] as rows [B * S, features].
[[nodiscard]] Tensor rows(const Tensor& x);

/// What a norm over the features is made by.
struct Norm {
  ParameterPointer weight;
  ParameterPointer bias;  ///< null: an RMS norm; else a layer norm
  float epsilon = 0.0F;
};

[[nodiscard]] Variable normed(const Variable& x, const Norm& norm, bool recompute = false);

/// sum = residual + x + x_bias and its norm; `x_bias` may be null. Without a tape the sum is in
/// residual's memory; with one it is in x's, since the residual of before is still needed.
struct NormedSum {
  Variable normed;
  Variable sum;
};
[[nodiscard]] NormedSum add_normed(const Variable& x, const ParameterPointer& x_bias,
                                   const Variable& residual, const Norm& norm,
                                   bool recompute = false);

/// gelu(x).
[[nodiscard]] Variable gelu(const Variable& x, GeluKind kind, bool recompute = false);
/// x [B, S, features] + rows `ids` [B * S] i32 of the table, in x's memory.
[[nodiscard]] Variable add_embedding(const Variable& x, const ParameterPointer& table,
                                     const Tensor& ids);

/// Rotates the first `heads` heads of x [B, S, any * head_dim] in its memory.
[[nodiscard]] Variable rotary_embedding(const Variable& x, std::int64_t heads,
                                        std::int64_t head_dim, const Tensor& positions,
                                        const Tensor& cosines, const Tensor& sines);

/// x [B, S, 2 * features], gate beside up -> silu(gate) * up.
[[nodiscard]] Variable swiglu(const Variable& gate_up, bool recompute = false);

/// x W^T + bias into `out` [B, S, out_features], whose memory becomes the result; `bias` may be
/// null.
[[nodiscard]] Variable linear(const Variable& x, const ParameterPointer& weight,
                              const ParameterPointer& bias, const Tensor& out);

}  // namespace portolan::functional
