// SPDX-License-Identifier: Apache-2.0
#include "models/checkpoint.hpp"

#include <system_error>

#include "core/convert.hpp"
#include "core/error.hpp"
#include "core/json_file.hpp"
#include "core/printable.hpp"

namespace portolan {
namespace {

namespace fs = std::filesystem;

constexpr const char* kConfigName = "config.json";
constexpr const char* kWeightsName = "model.safetensors";
constexpr const char* kIndexName = "model.safetensors.index.json";
/// The largest published models' indexes have a few MB.
constexpr std::size_t kMaximumIndexBytes = std::size_t{64} << 20;

std::string path_text(const fs::path& path) { return printable(path.native(), 4096); }

bool is_plain_file_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

/// Floating point of less than 16 bits: weights, but of dtypes that the engine does not read.
bool is_small_float(std::string_view dtype_name) {
  return dtype_name.starts_with("F8_") || dtype_name.starts_with("F6_") || dtype_name == "F4";
}

}  // namespace

CheckpointIndex read_checkpoint_index(const fs::path& path) {
  const nlohmann::json document = read_json_file(path, {.bytes = kMaximumIndexBytes});
  const JsonObject index(document, path_text(path));
  const JsonObject map = index.object("weight_map");
  if (map.members().empty()) index.refuse("weight_map", "expected tensors, found an empty object");
  std::map<std::string, std::size_t, std::less<>> positions;
  for (const auto& [tensor, file] : map.members().items()) {
    if (!file.is_string()) map.fail(tensor, "the name of a file");
    const auto& name = file.get_ref<const std::string&>();
    if (!is_plain_file_name(name)) map.fail(tensor, "the name of a file in the same folder");
    positions.try_emplace(name, 0);
  }
  CheckpointIndex result;
  for (auto& [name, position] : positions) {
    position = result.files.size();
    result.files.push_back(name);
  }
  for (const auto& [tensor, file] : map.members().items()) {
    result.weight_map.emplace(tensor, positions.at(file.get_ref<const std::string&>()));
  }
  return result;
}

std::vector<std::unique_ptr<SafetensorsFile>> open_indexed_files(const fs::path& path,
                                                                 const CheckpointIndex& index) {
  std::vector<std::unique_ptr<SafetensorsFile>> files;
  for (const std::string& name : index.files) {
    files.push_back(std::make_unique<SafetensorsFile>(path.parent_path() / name));
  }
  for (const auto& [tensor, position] : index.weight_map) {
    if (files[position]->find(tensor) != nullptr) continue;
    throw InputError(fmt::format(
        "{}: field 'weight_map.{}': expected the file that holds the tensor, found \"{}\", which "
        "does not",
        path_text(path), printable(tensor), printable(index.files[position])));
  }
  return files;
}

Checkpoint::Checkpoint(const fs::path& folder, UnknownDTypes unknown_dtypes) : folder_(folder) {
  std::error_code error;
  if (!fs::is_directory(folder, error)) {
    throw InputError(
        fmt::format("{}: expected a model folder, found {}", path_text(folder),
                    fs::exists(folder, error) ? "something else" : "nothing of that name"));
  }
  config_ = read_model_config(folder / kConfigName);
  parameters_ = parameter_shapes(config_);
  open_files();
  for (const ParameterShape& parameter : parameters_) {
    check_parameter(parameter, locate(parameter.name), unknown_dtypes);
  }
}

void Checkpoint::open_files() {
  const fs::path weights = folder_ / kWeightsName;
  const fs::path index = folder_ / kIndexName;
  std::error_code error;
  if (fs::exists(weights, error)) {
    files_.push_back(std::make_unique<SafetensorsFile>(weights));
    for (const ParameterShape& parameter : parameters_) {
      locations_[parameter.name] = {files_.back().get(), &files_.back()->at(parameter.name)};
    }
  } else if (fs::exists(index, error)) {
    open_index(index);
  } else {
    throw InputError(fmt::format("{}: expected {} or {}, found neither", path_text(folder_),
                                 kWeightsName, kIndexName));
  }
}

void Checkpoint::open_index(const fs::path& path) {
  const CheckpointIndex index = read_checkpoint_index(path);
  files_ = open_indexed_files(path, index);
  for (const ParameterShape& parameter : parameters_) {
    const auto found = index.weight_map.find(parameter.name);
    if (found == index.weight_map.end()) {
      throw InputError(
          fmt::format("{}: field 'weight_map.{}': expected the name of a file, found no such field",
                      path_text(path), parameter.name));
    }
    const SafetensorsFile* file = files_[found->second].get();
    locations_[parameter.name] = {file, file->find(parameter.name)};
  }
}

void Checkpoint::check_parameter(const ParameterShape& parameter, const Location& location,
                                 UnknownDTypes unknown_dtypes) const {
  const SafetensorsEntry& entry = *location.entry;
  if (entry.shape != parameter.shape) {
    throw InputError(fmt::format("{}: tensor '{}': expected shape {}, as {} has it, found {}",
                                 location.file->name(), parameter.name, shape_text(parameter.shape),
                                 kConfigName, shape_text(entry.shape)));
  }
  const bool readable = entry.dtype && is_convertible(*entry.dtype, DType::f32);
  if (readable || (unknown_dtypes == UnknownDTypes::list && is_small_float(entry.dtype_name))) {
    return;
  }
  throw InputError(fmt::format("{}: tensor '{}': expected dtype F32, BF16, F16 or F64, found {}",
                               location.file->name(), parameter.name, entry.dtype_name));
}

const Checkpoint::Location& Checkpoint::locate(std::string_view name) const {
  const auto found = locations_.find(name);
  if (found == locations_.end()) {
    throw InputError(
        fmt::format("{}: the model has no parameter '{}'", path_text(folder_), printable(name)));
  }
  return found->second;
}

const SafetensorsEntry& Checkpoint::entry(std::string_view name) const {
  return *locate(name).entry;
}

void Checkpoint::read_block(std::string_view name, std::int64_t row_begin, std::int64_t row_end,
                            std::int64_t column_begin, std::int64_t column_end, void* destination,
                            DType dtype) const {
  const Location& location = locate(name);
  location.file->read_block(*location.entry, row_begin, row_end, column_begin, column_end,
                            destination, dtype);
}

void Checkpoint::read(std::string_view name, void* destination, DType dtype) const {
  const Location& location = locate(name);
  location.file->read(*location.entry, destination, dtype);
}

std::int64_t Checkpoint::bytes_read() const noexcept {
  std::int64_t total = 0;
  for (const auto& file : files_) total += file->bytes_read();
  return total;
}

}  // namespace portolan
