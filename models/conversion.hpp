// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>

#include "models/checkpoint.hpp"

/// Checkpoints from one format to another, tensor by tensor: memory is a few MB, whatever the size
/// of the model.
namespace portolan {

struct ConversionOptions {
  CheckpointFormat format = CheckpointFormat::hugging_face;
  /// Element type of the weights; absent: each tensor's own.
  std::optional<DType> dtype = {};
  /// Hugging Face: a file is begun when the next tensor would make the present one larger.
  std::uint64_t maximum_file_bytes = 5'000'000'000;
  /// Meta: model-parallel shards.
  int shards = 1;
};

/// Told after every few MB how many bytes of weights have been written, of how many.
using ConversionProgress = std::function<void(std::uint64_t done, std::uint64_t all)>;

/// Writes `source` into `folder`, which exists and is empty: config, weights and, from
/// `source_folder`, the tokenizer's files. Weights keep their bits unless a dtype is given. A model
/// from Meta's format whose output matrix equals its embedding bit by bit is written with tied
/// embeddings, which that format cannot say. Throws UnsupportedError for what the format cannot
/// hold (other architectures, linear rotary scaling, biases, heads or widths that `shards` does not
/// divide), Error when writing fails.
void convert_checkpoint(const Checkpoint& source, const std::filesystem::path& source_folder,
                        const std::filesystem::path& folder, const ConversionOptions& options,
                        const ConversionProgress& progress = {});

}  // namespace portolan
