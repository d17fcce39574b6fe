// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "models/model.hpp"
#include "models/registry.hpp"

namespace portolan {

/// RoBERTa (Liu et al. 2019, arXiv:1907.11692) and BERT (Devlin et al. 2018, arXiv:1810.04805) with
/// their masked-language-model heads: embeddings of tokens, positions and types; blocks of
/// attention in both directions and GELU with a LayerNorm behind each; a dense layer, GELU and
/// LayerNorm before the head.
class Roberta final : public Model {
 public:
  explicit Roberta(const ModelSetup& setup);

 protected:
  /// RoBERTa counts the tokens that are not its padding token, from pad_token_id + 1 on.
  [[nodiscard]] std::vector<std::int32_t> positions(std::span<const std::int32_t> ids,
                                                    const KeyRange& real_tokens) const override;
  [[nodiscard]] Variable embed(const ForwardPass& pass) const override;
  [[nodiscard]] Variable logits(const Variable& normed, const ForwardPass& pass) const override;

 private:
  ParameterPointer positions_;  // [max_position_embeddings, hidden]
  ParameterPointer types_;      // [type_vocab_size, hidden]
  functional::Norm embedding_norm_;
  ColumnParallelLinear head_dense_;
  functional::Norm head_norm_;
};

/// Where the names of parameters differ. Prefixes end with a dot.
struct EncoderNames {
  std::string body;
  std::string head;
  std::string head_dense;
  std::string head_norm;
};
[[nodiscard]] EncoderNames encoder_names(const RobertaConfig& config);

/// Position of the first token.
[[nodiscard]] std::int64_t first_position(const RobertaConfig& config);

[[nodiscard]] ModelArchitecture roberta_architecture();
/// The same network under other names: XLM-RoBERTa (Conneau et al. 2019, arXiv:1911.02116).
[[nodiscard]] ModelArchitecture xlm_roberta_architecture();
[[nodiscard]] ModelArchitecture bert_architecture();

}  // namespace portolan
