// SPDX-License-Identifier: Apache-2.0
#include "models/weight_files.hpp"

#include <array>
#include <system_error>

#include "core/error.hpp"
#include "core/json_file.hpp"
#include "core/printable.hpp"
#include "core/safetensors.hpp"
#include "core/torch_file.hpp"

namespace portolan {
namespace {

namespace fs = std::filesystem;

/// In the order of preference.
constexpr std::array<const char*, 2> kWeightsNames{"model.safetensors", "pytorch_model.bin"};
/// The largest published models' indexes have a few MB.
constexpr std::size_t kMaximumIndexBytes = std::size_t{64} << 20;

bool is_plain_file_name(std::string_view name) {
  return !name.empty() && name != "." && name != ".." &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string_view::npos;
}

}  // namespace

CheckpointIndex read_checkpoint_index(const fs::path& path) {
  const nlohmann::json document = read_json_file(path, {.bytes = kMaximumIndexBytes});
  const JsonObject index(document, printable_path(path));
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

bool is_torch_file_name(const fs::path& path) {
  const std::string extension = path.extension().string();
  return extension == ".pth" || extension == ".pt" || extension == ".bin";
}

std::unique_ptr<TensorFile> open_tensor_file(const fs::path& path) {
  if (is_torch_file_name(path)) return std::make_unique<TorchFile>(path);
  return std::make_unique<SafetensorsFile>(path);
}

std::vector<std::unique_ptr<TensorFile>> open_indexed_files(const fs::path& path,
                                                            const CheckpointIndex& index) {
  std::vector<std::unique_ptr<TensorFile>> files;
  for (const std::string& name : index.files) {
    files.push_back(open_tensor_file(path.parent_path() / name));
  }
  for (const auto& [tensor, position] : index.weight_map) {
    if (files[position]->find(tensor) != nullptr) continue;
    throw InputError(fmt::format(
        "{}: field 'weight_map.{}': expected the file that holds the tensor, found \"{}\", which "
        "does not",
        printable_path(path), printable(tensor), printable(index.files[position])));
  }
  return files;
}

WeightFiles::WeightFiles(const fs::path& folder) {
  std::error_code error;
  for (const char* name : kWeightsNames) {
    const fs::path weights = folder / name;
    const fs::path index_path = folder / (std::string(name) + ".index.json");
    if (fs::exists(weights, error)) {
      source_ = printable_path(weights);
      files_.push_back(open_tensor_file(weights));
      for (const TensorEntry& tensor : files_.front()->entries()) {
        tensors_.emplace(tensor.name, Location{files_.front().get(), &tensor});
      }
      return;
    }
    if (fs::exists(index_path, error)) {
      source_ = printable_path(index_path);
      indexed_ = true;
      const CheckpointIndex index = read_checkpoint_index(index_path);
      files_ = open_indexed_files(index_path, index);
      for (const auto& [tensor, position] : index.weight_map) {
        const TensorFile& file = *files_[position];
        tensors_.emplace(tensor, Location{&file, file.find(tensor)});
      }
      return;
    }
  }
  throw InputError(fmt::format("{}: expected {}, {} or an index of one of them, found none",
                               printable_path(folder), kWeightsNames[0], kWeightsNames[1]));
}

WeightFiles::Location WeightFiles::find(std::string_view tensor) const {
  const auto found = tensors_.find(tensor);
  return found == tensors_.end() ? Location{} : found->second;
}

void WeightFiles::fail_missing(std::string_view tensor) const {
  if (indexed_) {
    throw InputError(
        fmt::format("{}: field 'weight_map.{}': expected the name of a file, found no such field",
                    source_, printable(tensor)));
  }
  throw InputError(fmt::format("{}: expected a tensor '{}', found {} tensors without it", source_,
                               printable(tensor), tensors_.size()));
}

}  // namespace portolan
