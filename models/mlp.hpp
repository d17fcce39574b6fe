// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "models/forward_pass.hpp"

namespace portolan {

/// The part of a block that works on each token by itself.
class Mlp {
 public:
  virtual ~Mlp() = default;
  /// Normed residual stream [B, residual tokens, hidden] -> the same shape, without the bias.
  [[nodiscard]] virtual Variable forward(const Variable& normed, const ForwardPass& pass) const = 0;
  /// What has to be added to it; may be null.
  [[nodiscard]] virtual const ParameterPointer& bias() const = 0;
};

/// down(silu(gate(x)) * up(x)); gate and up are one product (Shazeer 2020, arXiv:2002.05202).
class GatedMlp final : public Mlp {
 public:
  GatedMlp(ColumnParallelLinear gate_up, RowParallelLinear down, bool sharded)
      : gate_up_(std::move(gate_up)), down_(std::move(down)), sharded_(sharded) {}
  [[nodiscard]] Variable forward(const Variable& normed, const ForwardPass& pass) const override;
  [[nodiscard]] const ParameterPointer& bias() const override { return down_.bias(); }

 private:
  ColumnParallelLinear gate_up_;
  RowParallelLinear down_;
  bool sharded_;
};

/// down(gelu(up(x))) (Hendrycks and Gimpel 2016, arXiv:1606.08415).
class GeluMlp final : public Mlp {
 public:
  GeluMlp(ColumnParallelLinear up, RowParallelLinear down, GeluKind kind, bool sharded)
      : up_(std::move(up)), down_(std::move(down)), kind_(kind), sharded_(sharded) {}
  [[nodiscard]] Variable forward(const Variable& normed, const ForwardPass& pass) const override;
  [[nodiscard]] const ParameterPointer& bias() const override { return down_.bias(); }

 private:
  ColumnParallelLinear up_;
  RowParallelLinear down_;
  GeluKind kind_;
  bool sharded_;
};

}  // namespace portolan
