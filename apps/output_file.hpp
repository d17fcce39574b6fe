// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <string_view>

namespace portolan {

/// Creates the folder, parents included, and makes sure that files can be written into it. Throws
/// UsageError "PATH: ..." otherwise.
void prepare_output_folder(const std::filesystem::path& folder);

/// Writes beside the file and renames, so that a reader sees the old text or the new one and never
/// a part. Throws Error "PATH: ..." when it cannot, e.g. on a full disk.
void write_file(const std::filesystem::path& path, std::string_view text);

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
