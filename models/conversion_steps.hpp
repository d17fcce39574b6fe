// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <span>

#include "models/config.hpp"
#include "models/conversion.hpp"

/// The parts of convert_checkpoint.
namespace portolan {

/// Rows [row_begin, row_end) and columns [column_begin, column_end) of a parameter.
struct ParameterBlock {
  std::int64_t row_begin = 0;
  std::int64_t row_end = 0;
  std::int64_t column_begin = 0;
  std::int64_t column_end = 0;

  [[nodiscard]] static ParameterBlock whole(const StoredParameter& parameter);
};

using ByteSink = std::function<void(std::span<const std::byte>)>;

/// Hands a block to `sink` in pieces of a few MB, row-major, converted to `dtype`. With
/// `interleaved_head_dim` the rows come in the order in which Meta's format stores such heads.
void stream_block(const StoredParameter& parameter, const ParameterBlock& block, DType dtype,
                  std::int64_t interleaved_head_dim, const ByteSink& sink);

/// The element type that a parameter is written in.
[[nodiscard]] DType written_dtype(const StoredParameter& parameter,
                                  const ConversionOptions& options);

/// Counts what is written for a ConversionProgress.
class ProgressCounter {
 public:
  ProgressCounter(const ConversionProgress& progress, std::uint64_t all)
      : progress_(progress), all_(all) {}
  void add(std::uint64_t bytes) {
    done_ += bytes;
    if (progress_) progress_(done_, all_);
  }

 private:
  const ConversionProgress& progress_;
  std::uint64_t all_;
  std::uint64_t done_ = 0;
};

/// Weights in Hugging Face's layout: one safetensors file, or several with an index. `parameters`
/// are those to write.
void write_hugging_face_weights(const Checkpoint& source,
                                const std::vector<ParameterShape>& parameters,
                                const std::filesystem::path& folder,
                                const ConversionOptions& options,
                                const ConversionProgress& progress);

/// params.json and the shards of Meta's format. Throws before anything is written if the model does
/// not fit the format.
void write_meta_checkpoint(const Checkpoint& source, const std::filesystem::path& folder,
                           const ConversionOptions& options, const ConversionProgress& progress);

}  // namespace portolan
