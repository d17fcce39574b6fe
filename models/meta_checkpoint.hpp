// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "core/torch_file.hpp"
#include "models/config.hpp"
#include "models/stored_parameter.hpp"

namespace portolan {

/// A model folder as Meta releases LLaMA: params.json and consolidated.NN.pth, one or several
/// model-parallel shards. Parameters go by their Hugging Face names and are joined from the shards
/// as they are read.
class MetaCheckpoint {
 public:
  /// True if a folder without config.json is to be read as this format.
  [[nodiscard]] static bool is_one(const std::filesystem::path& folder);

  /// Reads the config and the shards' lists of tensors. Throws InputError unless both are sound and
  /// the shards are complete.
  explicit MetaCheckpoint(const std::filesystem::path& folder);

  /// With the vocabulary and the element type that the tensors have. The output matrix is always a
  /// tensor of its own in this format, so nothing is tied.
  [[nodiscard]] const LlamaConfig& config() const noexcept { return config_; }
  /// Where a parameter is. Its shape is what the shards add up to. Throws InputError when a shard
  /// lacks it or the shards do not fit each other.
  [[nodiscard]] StoredParameter find(const std::string& parameter) const;
  [[nodiscard]] std::vector<std::unique_ptr<TensorFile>>& files() noexcept { return shards_; }

 private:
  void complete_config();
  [[nodiscard]] bool joins_columns(const std::string& parameter) const;

  LlamaConfig config_;
  std::vector<std::unique_ptr<TensorFile>> shards_;
};

}  // namespace portolan
