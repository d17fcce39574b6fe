// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.hpp"
#include "core/safetensors.hpp"
#include "models/config.hpp"

namespace portolan {

/// The files that model.safetensors.index.json names, and which tensor is in which.
struct CheckpointIndex {
  std::vector<std::string> files;
  /// Tensor name to position in `files`.
  std::map<std::string, std::size_t, std::less<>> weight_map;
};

/// Reads an index; `files` comes sorted. Throws InputError unless weight_map maps at least one
/// tensor, each to the plain name of a file (no folders, so that no index reaches outside its own
/// folder).
[[nodiscard]] CheckpointIndex read_checkpoint_index(const std::filesystem::path& path);

/// Opens the files that the index at `path` names, in the order of `index.files`. Throws InputError
/// unless each is sound and holds the tensors that weight_map says it holds.
[[nodiscard]] std::vector<std::unique_ptr<SafetensorsFile>> open_indexed_files(
    const std::filesystem::path& path, const CheckpointIndex& index);

/// A model folder in Hugging Face's layout: config.json and either model.safetensors or
/// model.safetensors.index.json with the files it names.
///
/// The constructor checks everything before anything is allocated for weights: the config, the
/// files' headers, that every parameter of the architecture is there in its shape and in a
/// floating-point dtype. Tensors that the architecture does not use are ignored. Errors are
/// InputError "FOLDER/FILE:
/// ...". Reading is thread-safe.
class Checkpoint {
 public:
  /// What to do with weights of a dtype that the engine has no conversion for, such as F8_E4M3:
  /// integers, which hold no weights without a scale that the config does not define, are refused
  /// either way.
  enum class UnknownDTypes { refuse, list };

  explicit Checkpoint(const std::filesystem::path& folder,
                      UnknownDTypes unknown_dtypes = UnknownDTypes::refuse);

  [[nodiscard]] const ModelConfig& config() const noexcept { return config_; }
  /// The architecture's parameters; a tied weight appears once.
  [[nodiscard]] const std::vector<ParameterShape>& parameters() const noexcept {
    return parameters_;
  }
  [[nodiscard]] const std::vector<std::unique_ptr<SafetensorsFile>>& files() const noexcept {
    return files_;
  }

  /// The stored tensor of a parameter; InputError for a name that is none.
  [[nodiscard]] const SafetensorsEntry& entry(std::string_view name) const;

  /// Copies a block of a parameter, seen as a matrix [rows, columns] (a vector: [rows, 1]), to
  /// `destination`, dense and row-major, converted to `dtype`. As SafetensorsFile::read_block.
  void read_block(std::string_view name, std::int64_t row_begin, std::int64_t row_end,
                  std::int64_t column_begin, std::int64_t column_end, void* destination,
                  DType dtype) const;
  /// The whole parameter.
  void read(std::string_view name, void* destination, DType dtype) const;

  /// Bytes of weights read from the files so far.
  [[nodiscard]] std::int64_t bytes_read() const noexcept;

 private:
  struct Location {
    const SafetensorsFile* file = nullptr;
    const SafetensorsEntry* entry = nullptr;
  };

  void open_files();
  void open_index(const std::filesystem::path& path);
  void check_parameter(const ParameterShape& parameter, const Location& location,
                       UnknownDTypes unknown_dtypes) const;
  [[nodiscard]] const Location& locate(std::string_view name) const;

  std::filesystem::path folder_;
  ModelConfig config_;
  std::vector<ParameterShape> parameters_;
  std::vector<std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, Location, std::less<>> locations_;
};

}  // namespace portolan
