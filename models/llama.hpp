// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "models/model.hpp"
#include "models/registry.hpp"

namespace portolan {

/// The LLaMA family (Touvron et al. 2023, arXiv:2302.13971; also Mistral's sliding window): blocks
/// of RMSNorm, rotary grouped-query attention, RMSNorm, SwiGLU; a final RMSNorm and a head.
class Llama final : public Model {
 public:
  explicit Llama(const ModelSetup& setup);
};

[[nodiscard]] ModelArchitecture llama_architecture();
[[nodiscard]] ModelArchitecture mistral_architecture();

}  // namespace portolan
