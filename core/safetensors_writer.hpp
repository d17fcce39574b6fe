// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor_file.hpp"

namespace portolan {

/// What the header of a file to be written says of one tensor.
using SafetensorsTensor = TensorDescription;

/// Writes a safetensors file piece by piece, so that no more than one piece need be in memory.
///
/// The data goes to a temporary file beside the target, which finish() renames: whatever happens, a
/// file of the target's name is complete. Same tensors and metadata, same bytes: tensors are stored
/// by descending element size, then by name, so that each is aligned, and the header is padded with
/// spaces to a multiple of 8 bytes.
class SafetensorsWriter {
 public:
  /// Creates the temporary file and writes the header. Throws UsageError for names that repeat, are
  /// "__metadata__" or not UTF-8, for negative extents, and when the file cannot be created there;
  /// Error when writing fails.
  explicit SafetensorsWriter(const std::filesystem::path& path,
                             std::vector<SafetensorsTensor> tensors,
                             const std::map<std::string, std::string>& metadata = {});
  /// Removes the temporary file unless finish() has renamed it.
  ~SafetensorsWriter();
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;

  /// Adds the next bytes of a tensor; tensors may be written in any order and in turns. Throws
  /// UsageError for an unknown name or more bytes than the tensor has, Error when writing fails (a
  /// full disk, a quota).
  void append(std::string_view name, std::span<const std::byte> bytes);

  /// Gives the file its name. Throws UsageError when a tensor is not complete, Error when writing
  /// fails.
  void finish();

 private:
  struct Progress {
    std::uint64_t position = 0;
    std::uint64_t end = 0;
  };

  void create_temporary();
  void write(std::uint64_t offset, std::span<const std::byte> bytes);

  std::filesystem::path path_;
  std::string name_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
  std::map<std::string, Progress, std::less<>> progress_;
};

}  // namespace portolan
