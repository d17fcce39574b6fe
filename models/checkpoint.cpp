// SPDX-License-Identifier: Apache-2.0
#include "models/checkpoint.hpp"

#include <array>
#include <set>
#include <system_error>
#include <utility>

#include "core/convert.hpp"
#include "core/error.hpp"
#include "core/printable.hpp"
#include "models/fused_weights.hpp"
#include "models/meta_layout.hpp"
#include "models/outline.hpp"

namespace portolan {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfigName = "config.json";

/// What the first files of BERT, made from TensorFlow's, call a parameter of a norm; other names
/// stay as they are.
std::string early_name(std::string parameter) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 2> kEarlyNames{
      {{"LayerNorm.weight", "LayerNorm.gamma"}, {"LayerNorm.bias", "LayerNorm.beta"}}};
  for (const auto& [now, early] : kEarlyNames) {
    if (!parameter.ends_with(now)) continue;
    parameter.replace(parameter.size() - now.size(), now.size(), early);
    break;
  }
  return parameter;
}

/// Floating point of less than 16 bits: weights, but of dtypes that the engine does not read.
bool is_small_float(std::string_view dtype_name) {
  return dtype_name.starts_with("F8_") || dtype_name.starts_with("F6_") || dtype_name == "F4";
}

}  // namespace

Checkpoint::Checkpoint(const fs::path& folder, UnknownDTypes unknown_dtypes) : folder_(folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    throw InputError(
        fmt::format("{}: expected a model folder, found {}", printable_path(folder),
                    fs::exists(folder, error) ? "something else" : "nothing of that name"));
  }
  if (MetaCheckpoint::is_one(folder)) {
    format_ = CheckpointFormat::meta;
    MetaCheckpoint checkpoint(folder);
    config_ = checkpoint.config();
    parameters_ = parameter_shapes(config_);
    find_parameters(checkpoint);
  } else {
    config_ = read_model_config(folder / kConfigName);
    parameters_ = parameter_shapes(config_);
    WeightFiles files(folder);
    find_parameters(files);
  }
  for (const ParameterShape& parameter : parameters_) check_parameter(parameter, unknown_dtypes);
}

void Checkpoint::find_parameters(WeightFiles& files) {
  const ModelOutline own = outline_of(config_);
  ModelConfig retied = config_;
  retied.common().tie_word_embeddings = !config_.common().tie_word_embeddings;
  const ModelOutline other = outline_of(retied);
  const auto other_name = [&](const std::string& parameter) {
    // Of two tensors that are the same, files may hold either.
    if (parameter == own.embedding && own.head == own.embedding) return other.head;
    if (parameter == own.head_bias) return other.head_bias;
    return early_name(parameter);
  };
  for (const ParameterShape& parameter : parameters_) {
    WeightFiles::Location location = files.find(parameter.name);
    if (location.tensor == nullptr) location = files.find(other_name(parameter.name));
    if (location.tensor != nullptr) {
      stored_[parameter.name] = StoredParameter::whole(*location.file, *location.tensor);
      continue;
    }
    const auto* llama = std::get_if<LlamaConfig>(&config_.parameters);
    auto part = llama != nullptr ? find_in_fused(files, *llama, parameter.name) : std::nullopt;
    if (!part) fail_missing(files, parameter.name);
    stored_[parameter.name] = std::move(*part);
  }
  files_ = std::move(files.files());
}

void Checkpoint::fail_missing(const WeightFiles& files, const std::string& parameter) const {
  const std::string& method = config_.common().quantization_method;
  if (method.empty()) files.fail_missing(parameter);
  throw InputError(fmt::format(
      "{}: field 'quantization_config': expected weights that are not quantized, found '{}' "
      "quantized by {}",
      printable_path(folder_ / kConfigName), printable(parameter), printable(method)));
}

void Checkpoint::find_parameters(MetaCheckpoint& checkpoint) {
  for (const ParameterShape& parameter : parameters_) {
    stored_[parameter.name] = checkpoint.find(parameter.name);
  }
  files_ = std::move(checkpoint.files());
}

void Checkpoint::check_parameter(const ParameterShape& parameter,
                                 UnknownDTypes unknown_dtypes) const {
  const StoredParameter& found = stored(parameter.name);
  const TensorEntry& entry = found.description;
  const std::string& file = found.pieces.front().file->name();
  if (entry.shape != parameter.shape) {
    throw InputError(fmt::format(
        "{}: tensor '{}': expected shape {}, as {} has it, found {}{}", file, entry.name,
        shape_text(parameter.shape),
        format_ == CheckpointFormat::meta ? kMetaConfigName : kConfigName, shape_text(entry.shape),
        found.pieces.size() > 1 ? fmt::format(" in {} shards", found.pieces.size()) : ""));
  }
  const bool readable = entry.dtype && is_convertible(*entry.dtype, DType::f32);
  if (readable || (unknown_dtypes == UnknownDTypes::list && is_small_float(entry.dtype_name))) {
    return;
  }
  throw InputError(fmt::format("{}: tensor '{}': expected dtype F32, BF16, F16 or F64, found {}",
                               file, entry.name, entry.dtype_name));
}

const StoredParameter& Checkpoint::stored(std::string_view name) const {
  const auto found = stored_.find(name);
  if (found == stored_.end()) {
    throw InputError(fmt::format("{}: the model has no parameter '{}'", printable_path(folder_),
                                 printable(name)));
  }
  return found->second;
}

std::size_t Checkpoint::unused_tensors() const {
  std::set<std::string_view> used;
  std::set<std::string_view> all;
  for (const auto& [name, parameter] : stored_) {
    for (const ParameterPiece& piece : parameter.pieces) used.insert(piece.tensor->name);
  }
  for (const auto& file : files_) {
    for (const TensorEntry& tensor : file->entries()) all.insert(tensor.name);
  }
  return all.size() - used.size();
}

void Checkpoint::read_block(std::string_view name, std::int64_t row_begin, std::int64_t row_end,
                            std::int64_t column_begin, std::int64_t column_end, void* destination,
                            DType dtype) const {
  stored(name).read_block(row_begin, row_end, column_begin, column_end, destination, dtype);
}

void Checkpoint::read(std::string_view name, void* destination, DType dtype) const {
  const StoredParameter& parameter = stored(name);
  parameter.read_block(0, parameter.description.rows(), 0, parameter.description.columns(),
                       destination, dtype);
}

std::int64_t Checkpoint::bytes_read() const noexcept {
  std::int64_t total = 0;
  for (const auto& file : files_) total += file->bytes_read();
  return total;
}

}  // namespace portolan
