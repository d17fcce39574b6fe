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
#include "models/config.hpp"
#include "models/meta_checkpoint.hpp"
#include "models/stored_parameter.hpp"
#include "models/weight_files.hpp"

namespace portolan {

/// How a folder holds a model.
enum class CheckpointFormat { hugging_face, meta };

/// A model folder: in Hugging Face's layout, config.json and model.safetensors or
/// pytorch_model.bin, whole or with the index of its parts; or in Meta's, params.json and
/// consolidated.NN.pth (see MetaCheckpoint), which is looked for where there is no config.json.
///
/// The constructor checks everything before anything is allocated for weights: the config, the
/// files' headers, that every parameter of the architecture is there in its shape and in a
/// floating-point dtype, as a tensor of its own or as a part of a fused one. Tensors that the
/// architecture does not use are ignored. Errors are InputError "FOLDER/FILE: ...". Reading is
/// thread-safe.
class Checkpoint {
 public:
  /// What to do with weights of a dtype that the engine has no conversion for, such as F8_E4M3:
  /// integers, which hold no weights without a scale that the config does not define, are refused
  /// either way.
  enum class UnknownDTypes { refuse, list };

  explicit Checkpoint(const std::filesystem::path& folder,
                      UnknownDTypes unknown_dtypes = UnknownDTypes::refuse);

  [[nodiscard]] CheckpointFormat format() const noexcept { return format_; }
  [[nodiscard]] const ModelConfig& config() const noexcept { return config_; }
  /// The architecture's parameters; a tied weight appears once.
  [[nodiscard]] const std::vector<ParameterShape>& parameters() const noexcept {
    return parameters_;
  }
  [[nodiscard]] const std::vector<std::unique_ptr<TensorFile>>& files() const noexcept {
    return files_;
  }

  /// Where a parameter is stored; InputError for a name that is none.
  [[nodiscard]] const StoredParameter& stored(std::string_view name) const;
  /// Its shape and element type.
  [[nodiscard]] const TensorEntry& entry(std::string_view name) const {
    return stored(name).description;
  }
  /// Names of tensors in the files that no parameter is read from.
  [[nodiscard]] std::size_t unused_tensors() const;

  /// Copies a block of a parameter, seen as a matrix [rows, columns] (a vector: [rows, 1]), to
  /// `destination`, dense and row-major, converted to `dtype`. As TensorFile::read_block.
  void read_block(std::string_view name, std::int64_t row_begin, std::int64_t row_end,
                  std::int64_t column_begin, std::int64_t column_end, void* destination,
                  DType dtype) const;
  /// The whole parameter.
  void read(std::string_view name, void* destination, DType dtype) const;

  /// Bytes of weights read from the files so far.
  [[nodiscard]] std::int64_t bytes_read() const noexcept;

 private:
  void find_parameters(WeightFiles& files);
  [[noreturn]] void fail_missing(const WeightFiles& files, const std::string& parameter) const;
  void find_parameters(MetaCheckpoint& checkpoint);
  void check_parameter(const ParameterShape& parameter, UnknownDTypes unknown_dtypes) const;

  std::filesystem::path folder_;
  CheckpointFormat format_ = CheckpointFormat::hugging_face;
  ModelConfig config_;
  std::vector<ParameterShape> parameters_;
  std::vector<std::unique_ptr<TensorFile>> files_;
  std::map<std::string, StoredParameter, std::less<>> stored_;
};

}  // namespace portolan
