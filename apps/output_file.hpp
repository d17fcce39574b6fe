// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>

#include "core/output_file.hpp"

namespace portolan {

/// Creates the folder, parents included, and makes sure that files can be written into it. Throws
/// UsageError "PATH: ..." otherwise.
void prepare_output_folder(const std::filesystem::path& folder);

/// A folder of temporary files inside `parent`, which exists. Gone with this object.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(const std::filesystem::path& parent);
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  /// Absolute.
  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace portolan
