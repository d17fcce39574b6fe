// SPDX-License-Identifier: Apache-2.0
#include "models/conversion.hpp"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <system_error>
#include <vector>

#include "core/error.hpp"
#include "core/json_file.hpp"
#include "core/mapped_file.hpp"
#include "core/output_file.hpp"
#include "models/companion_files.hpp"
#include "models/config_fields.hpp"
#include "models/conversion_steps.hpp"

namespace portolan {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfigName = "config.json";
constexpr const char* kHead = "lm_head.weight";
constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr std::int64_t kChunkBytes = 8 << 20;

std::int64_t rows_per_chunk(std::int64_t columns, DType dtype) {
  const std::int64_t row_bytes = columns * static_cast<std::int64_t>(size_of(dtype));
  return std::max<std::int64_t>(1, kChunkBytes / std::max<std::int64_t>(1, row_bytes));
}

/// Whether two parameters hold the same bits.
bool is_same(const StoredParameter& a, const StoredParameter& b) {
  if (a.description.shape != b.description.shape || a.description.dtype != b.description.dtype) {
    return false;
  }
  const DType dtype = *a.description.dtype;
  const std::int64_t columns = a.description.columns();
  const std::int64_t step = rows_per_chunk(columns, dtype);
  const auto bytes = static_cast<std::size_t>(step * columns) * size_of(dtype);
  std::vector<std::byte> left(bytes);
  std::vector<std::byte> right(bytes);
  for (std::int64_t row = 0; row < a.description.rows(); row += step) {
    const std::int64_t end = std::min(row + step, a.description.rows());
    a.read_block(row, end, 0, columns, left.data(), dtype);
    b.read_block(row, end, 0, columns, right.data(), dtype);
    const auto used = static_cast<std::size_t>((end - row) * columns) * size_of(dtype);
    if (std::memcmp(left.data(), right.data(), used) != 0) return false;
  }
  return true;
}

/// Token ids, which Meta's params.json has not, from the generation config of its folder.
void read_generation_token_ids(const fs::path& folder, LlamaConfig& config) {
  const fs::path path = folder / "generation_config.json";
  std::error_code error;
  if (!fs::exists(path, error)) return;
  const nlohmann::json document = read_json_file(path);
  read_token_ids(JsonObject(document, path.string()), config);
}

/// The config.json of a folder of the same format, with another element type if one is wanted.
std::string same_config(const fs::path& folder, const ConversionOptions& options) {
  std::string text = read_text_file(folder / kConfigName, JsonLimits{}.bytes);
  if (!options.dtype) return text;
  auto config = nlohmann::ordered_json::parse(text);
  const char* field = config.contains("dtype") ? "dtype" : "torch_dtype";
  config[field] = torch_name_of(*options.dtype);
  if (config.contains("torch_dtype")) config["torch_dtype"] = torch_name_of(*options.dtype);
  return config.dump(2) + "\n";
}

void convert_to_hugging_face(const Checkpoint& source, const fs::path& source_folder,
                             const fs::path& folder, const ConversionOptions& options,
                             const ConversionProgress& progress) {
  std::vector<ParameterShape> parameters = source.parameters();
  std::string config_json;
  if (source.format() == CheckpointFormat::hugging_face) {
    config_json = same_config(source_folder, options);
  } else {
    LlamaConfig config = source.config().llama();
    config.tie_word_embeddings = is_same(source.stored(kHead), source.stored(kEmbedding));
    if (config.tie_word_embeddings) parameters = parameter_shapes(config);
    if (options.dtype) config.dtype_name = torch_name_of(*options.dtype);
    read_generation_token_ids(source_folder, config);
    config_json = config_text(config);
  }
  write_hugging_face_weights(source, parameters, folder, options, progress);
  write_file(folder / kConfigName, config_json);
}

}  // namespace

ParameterBlock ParameterBlock::whole(const StoredParameter& parameter) {
  return {0, parameter.description.rows(), 0, parameter.description.columns()};
}

void stream_block(const StoredParameter& parameter, const ParameterBlock& block, DType dtype,
                  std::int64_t interleaved_head_dim, const ByteSink& sink) {
  const std::int64_t columns = block.column_end - block.column_begin;
  const std::size_t row_bytes = static_cast<std::size_t>(columns) * size_of(dtype);
  const std::int64_t step =
      std::min(rows_per_chunk(columns, dtype), block.row_end - block.row_begin);
  std::vector<std::byte> chunk(static_cast<std::size_t>(step) * row_bytes);
  for (std::int64_t row = block.row_begin; row < block.row_end; row += step) {
    const std::int64_t end = std::min(row + step, block.row_end);
    const auto read = [&](std::int64_t begin, std::int64_t count, std::byte* target) {
      parameter.read_block(begin, begin + count, block.column_begin, block.column_end, target,
                           dtype);
    };
    if (interleaved_head_dim == 0) {
      read(row, end - row, chunk.data());
    } else {
      std::byte* target = chunk.data();
      for (std::int64_t stored = row; stored < end; ++stored, target += row_bytes) {
        read(deinterleaved_row(stored, interleaved_head_dim), 1, target);
      }
    }
    sink(std::span(chunk).first(static_cast<std::size_t>(end - row) * row_bytes));
  }
}

DType written_dtype(const StoredParameter& parameter, const ConversionOptions& options) {
  // Checkpoint refuses tensors of dtypes that the engine has no type for.
  return options.dtype.value_or(parameter.description.dtype.value());
}

void convert_checkpoint(const Checkpoint& source, const fs::path& source_folder,
                        const fs::path& folder, const ConversionOptions& options,
                        const ConversionProgress& progress) {
  if (options.format == CheckpointFormat::meta) {
    write_meta_checkpoint(source, folder, options, progress);
  } else {
    convert_to_hugging_face(source, source_folder, folder, options, progress);
  }
  copy_companion_files(source_folder, folder);
}

}  // namespace portolan
