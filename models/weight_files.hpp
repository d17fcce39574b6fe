// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor_file.hpp"

/// The files of weights in a folder of Hugging Face's layout.
namespace portolan {

/// The files that an index such as model.safetensors.index.json names, and which tensor is in
/// which.
struct CheckpointIndex {
  std::vector<std::string> files;
  /// Tensor name to position in `files`.
  std::map<std::string, std::size_t, std::less<>> weight_map;
};

/// Reads an index; `files` comes sorted. Throws InputError unless weight_map maps at least one
/// tensor, each to the plain name of a file (no folders, so that no index reaches outside its own
/// folder).
[[nodiscard]] CheckpointIndex read_checkpoint_index(const std::filesystem::path& path);

/// True for .pth, .pt and .bin, the names of files of torch.save.
[[nodiscard]] bool is_torch_file_name(const std::filesystem::path& path);

/// Opens a file of tensors by its name: a TorchFile or a SafetensorsFile.
[[nodiscard]] std::unique_ptr<TensorFile> open_tensor_file(const std::filesystem::path& path);

/// Opens the files that the index at `path` names, in the order of `index.files`. Throws InputError
/// unless each is sound and holds the tensors that weight_map says it holds.
[[nodiscard]] std::vector<std::unique_ptr<TensorFile>> open_indexed_files(
    const std::filesystem::path& path, const CheckpointIndex& index);

/// All tensors of a folder.
class WeightFiles {
 public:
  struct Location {
    const TensorFile* file = nullptr;
    const TensorEntry* tensor = nullptr;
  };

  /// Opens the first there is of model.safetensors, pytorch_model.bin and their indexes. Throws
  /// InputError unless there is one and what it names is sound.
  explicit WeightFiles(const std::filesystem::path& folder);

  [[nodiscard]] std::vector<std::unique_ptr<TensorFile>>& files() noexcept { return files_; }
  /// Where that tensor is; Location{} if nowhere.
  [[nodiscard]] Location find(std::string_view tensor) const;
  /// Throws the InputError that says that the tensor is missing.
  [[noreturn]] void fail_missing(std::string_view tensor) const;

 private:
  std::string source_;  ///< the file or the index, for messages
  bool indexed_ = false;
  std::vector<std::unique_ptr<TensorFile>> files_;
  std::map<std::string, Location, std::less<>> tensors_;
};

}  // namespace portolan
