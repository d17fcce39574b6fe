// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace portolan {

/// A regular file, opened for reading as long as the object lives. Anything else (a folder, a pipe,
/// a device) is refused without being read, so a loader cannot be made to wait or to read forever.
class InputFile {
 public:
  /// Throws InputError "PATH: ..." when there is no readable regular file.
  explicit InputFile(const std::filesystem::path& path);
  ~InputFile();
  InputFile(const InputFile&) = delete;
  InputFile& operator=(const InputFile&) = delete;

  /// The path as it was given, fit for printing.
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  /// Bytes, as they were when the file was opened.
  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
  [[nodiscard]] int descriptor() const noexcept { return descriptor_; }

  /// Copies destination.size() bytes from `offset` on. Throws InputError when the file cannot be
  /// read or has become shorter since. Any number of threads may read at once.
  void read(std::uint64_t offset, std::span<std::byte> destination) const;

 private:
  std::string name_;
  int descriptor_ = -1;
  std::uint64_t size_ = 0;
};

/// The whole text of a regular file of at most `maximum_bytes`; InputError otherwise.
[[nodiscard]] std::string read_text_file(const std::filesystem::path& path,
                                         std::uint64_t maximum_bytes);

/// A read-only mapping of a whole file. Pages come into memory when they are first touched and can
/// be dropped again by release().
///
/// The size is taken when the file is opened. A file that another process truncates afterwards
/// raises SIGBUS in whoever touches the missing pages of bytes(): that cannot be turned into an
/// error safely in a library, so code that copies data out uses read(), which throws InputError in
/// that case, and bytes() is for short reads right after opening and for files that nobody else
/// writes.
class MappedFile {
 public:
  /// Throws InputError when there is no readable regular file or it cannot be mapped.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  [[nodiscard]] const std::string& name() const noexcept { return file_.name(); }
  [[nodiscard]] std::uint64_t size() const noexcept { return file_.size(); }
  /// Empty for an empty file.
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept;

  /// As InputFile::read: does not touch the mapping.
  void read(std::uint64_t offset, std::span<std::byte> destination) const {
    file_.read(offset, destination);
  }

  /// Drops the resident pages that hold any of the bytes [offset, offset + length). They stay
  /// readable; touching them again fetches them from the page cache or the disk.
  void release(std::uint64_t offset, std::uint64_t length) const;

 private:
  InputFile file_;
  void* address_ = nullptr;
};

}  // namespace portolan
