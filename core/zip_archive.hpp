// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// Zip archives whose entries are stored as they are, so that they can be read where they lie.
namespace portolan {

struct ZipEntry {
  /// Where the content starts in the archive.
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
};

class ZipArchive {
 public:
  /// Lists the archive. Throws InputError unless it is sound, its names differ, and every entry is
  /// stored without compression or encryption and lies within the file.
  explicit ZipArchive(const std::filesystem::path& path);
  ~ZipArchive();
  ZipArchive(const ZipArchive&) = delete;
  ZipArchive& operator=(const ZipArchive&) = delete;

  [[nodiscard]] const std::map<std::string, ZipEntry, std::less<>>& entries() const noexcept {
    return entries_;
  }
  /// The entry of that name, or nullptr.
  [[nodiscard]] const ZipEntry* find(std::string_view name) const;
  /// The content of an entry of at most `maximum_bytes`, checked against its checksum. Throws
  /// InputError.
  [[nodiscard]] std::vector<std::byte> read(std::string_view name,
                                            std::uint64_t maximum_bytes) const;

 private:
  struct Handle;

  std::string name_;
  std::unique_ptr<Handle> handle_;
  std::map<std::string, ZipEntry, std::less<>> entries_;
};

/// Writes an archive of stored entries, one after the other. The content of each starts at a
/// multiple of kZipAlignment bytes, as torch.save has it, so that it can be mapped.
class ZipWriter {
 public:
  /// Throws Error when the file cannot be created, and every other member when writing fails.
  explicit ZipWriter(const std::filesystem::path& path);
  ~ZipWriter();
  ZipWriter(const ZipWriter&) = delete;
  ZipWriter& operator=(const ZipWriter&) = delete;

  /// Starts an entry, which ends where the next one begins.
  void begin(const std::string& name);
  /// Adds to the entry that was begun last.
  void append(std::span<const std::byte> bytes);
  void finish();

 private:
  void end_entry();
  void check(int result) const;

  std::string name_;
  void* file_ = nullptr;
  bool in_entry_ = false;
  std::uint64_t position_ = 0;
};

constexpr std::uint64_t kZipAlignment = 64;

}  // namespace portolan
