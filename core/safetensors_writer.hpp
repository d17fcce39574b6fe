// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
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
/// The data goes to a file without a name in the target's folder, or, where the file system has no
/// such files, to a temporary one, and finish() gives it its name: whatever happens, a file of the
/// target's name is complete, and without a name nothing is left of a process that is killed. Same
/// tensors and metadata, same bytes: tensors are stored
/// by descending element size, then by name, so that each is aligned, and the header is padded with
/// spaces to a multiple of 8 bytes.
class SafetensorsWriter {
 public:
  /// Creates the file and writes the header. Throws UsageError for names that repeat, are
  /// "__metadata__" or not UTF-8, for negative extents, and when the file cannot be created there;
  /// Error when writing fails.
  explicit SafetensorsWriter(const std::filesystem::path& path,
                             std::vector<SafetensorsTensor> tensors,
                             const std::map<std::string, std::string>& metadata = {});
  /// Removes the file unless finish() has given it its name.
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
  /// Sets temporary_ to a name that `take` could take; false, and errno, if there is none.
  [[nodiscard]] bool take_free_name(const std::function<bool(const char*)>& take);
  [[nodiscard]] std::string descriptor_path() const;
  void write(std::uint64_t offset, std::span<const std::byte> bytes);

  std::filesystem::path path_;
  std::string name_;
  std::filesystem::path temporary_;  ///< empty while the file has no name
  int descriptor_ = -1;
  std::map<std::string, Progress, std::less<>> progress_;
};

}  // namespace portolan
