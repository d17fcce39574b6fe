// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string_view>

#include "core/file_descriptor.hpp"
#include "core/output_file.hpp"

namespace portolan {

/// Creates the folder, parents included, and makes sure that files can be written into it. Throws
/// UsageError "PATH: ..." otherwise.
void prepare_output_folder(const std::filesystem::path& folder);

/// Makes sure that a file of that name can be written into its folder, which exists. Throws
/// UsageError "PATH: ..." otherwise.
void prepare_output_file(const std::filesystem::path& file);

/// A folder of temporary files inside `parent`, which exists: ".NAME.portolan-" and six characters.
/// Gone with this object. A process that is killed leaves its folder behind; the next one that
/// makes a folder of the same name in the same place removes it. Which folders are still in use
/// shows from a lock (flock) that ends with the process that holds it; where a file system knows no
/// locks, nothing is removed.
class TemporaryFolder {
 public:
  TemporaryFolder(const std::filesystem::path& parent, std::string_view name);
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  /// Absolute.
  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }

 private:
  std::filesystem::path path_;
  FileDescriptor lock_;
};

}  // namespace portolan
