// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/parameter.hpp"

namespace portolan {

/// Updates the masters of trainable parameters from their gradients and refreshes their compute
/// forms. A parameter without a gradient stays as it is.
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  /// `gradient_scale` multiplies every gradient first (clipping).
  virtual void step(double learning_rate, double gradient_scale) = 0;
  /// Bytes of state beside parameters and gradients.
  [[nodiscard]] virtual std::int64_t state_bytes() const = 0;
};

/// Parameters that are decayed alike.
struct ParameterGroup {
  std::vector<ParameterPointer> parameters;
  double weight_decay = 0.0;
};

/// Matrices are decayed; norms and biases only with `decay_all`.
[[nodiscard]] std::vector<ParameterGroup> decay_groups(
    const std::vector<ParameterPointer>& parameters, double weight_decay, bool decay_all);

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;

  /// Throws UsageError that names the option out of range.
  void check() const;
};

/// Loshchilov and Hutter 2019, arXiv:1711.05101: decay decoupled from the moments, applied first.
[[nodiscard]] std::unique_ptr<Optimizer> make_adamw(const std::vector<ParameterGroup>& groups,
                                                    const AdamWOptions& options);

/// Gradient descent; momentum 0 keeps no state.
[[nodiscard]] std::unique_ptr<Optimizer> make_sgd(const std::vector<ParameterGroup>& groups,
                                                  double momentum);

}  // namespace portolan
