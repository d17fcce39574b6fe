// SPDX-License-Identifier: Apache-2.0
#include "models/mlp.hpp"

#include "core/backend.hpp"

namespace portolan {

Variable GatedMlp::forward(const Variable& normed, const ForwardPass& pass) const {
  const ProfilingRegion region(normed.value().device(), "Portolan::Model::mlp");
  // What swiglu reads is gone before the next product's result is there.
  const auto expand = [&] {
    return functional::swiglu(gate_up_.forward(pass.enter(normed, sharded_)), pass.selective);
  };
  return down_.product(expand());
}

Variable GeluMlp::forward(const Variable& normed, const ForwardPass& pass) const {
  const ProfilingRegion region(normed.value().device(), "Portolan::Model::mlp");
  const auto expand = [&] {
    return functional::gelu(up_.forward(pass.enter(normed, sharded_)), kind_, pass.selective);
  };
  return down_.product(expand());
}

}  // namespace portolan
