// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "models/model.hpp"
#include "models/registry.hpp"

namespace portolan {

/// GPT-BigCode, the architecture of StarCoder (Li et al. 2023, arXiv:2305.06161): GPT-2's blocks of
/// LayerNorm, attention, LayerNorm, GELU with learned positions, where all query heads read one
/// key/value head (Shazeer 2019, arXiv:1911.02150), or each its own.
class GptBigCode final : public Model {
 public:
  explicit GptBigCode(const ModelSetup& setup);

 protected:
  [[nodiscard]] Variable embed(const ForwardPass& pass) const override;

 private:
  ParameterPointer positions_;  // [n_positions, hidden]
};

/// Whether all query heads share one key/value head, which is also how the fused product is laid
/// out.
[[nodiscard]] bool is_multi_query(const GptBigCodeConfig& config);

[[nodiscard]] ModelArchitecture gpt_bigcode_architecture();

}  // namespace portolan
