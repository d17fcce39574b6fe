// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/dtype.hpp"
#include "core/mapped_file.hpp"

/// Reading of safetensors files: 8 bytes of little-endian header length, a JSON header that gives
/// each tensor's dtype, shape and byte range, then the data, row-major and little-endian.
namespace portolan {

/// One tensor of a file.
struct SafetensorsEntry {
  std::string name;
  /// As the file spells it: "F32", "BF16", "F8_E4M3", ...
  std::string dtype_name;
  /// Empty for a dtype of the format that the engine has no element type for.
  std::optional<DType> dtype;
  /// Any rank; rank 0 is a scalar. Extents may be 0.
  std::vector<std::int64_t> shape;
  /// Byte range within the data that follows the header.
  std::uint64_t begin = 0;
  std::uint64_t end = 0;

  [[nodiscard]] std::uint64_t byte_size() const noexcept { return end - begin; }
  [[nodiscard]] std::int64_t elements() const noexcept;
  /// The tensor seen as a matrix: the first dimension (1 for a scalar) by the product of the
  /// others.
  [[nodiscard]] std::int64_t rows() const noexcept;
  [[nodiscard]] std::int64_t columns() const noexcept;
};

/// What the header says, checked.
struct SafetensorsHeader {
  /// In the order of the data.
  std::vector<SafetensorsEntry> entries;
  std::map<std::string, std::string> metadata;
  /// Where the data starts in the file.
  std::uint64_t data_begin = 0;
};

/// Checks the header of a whole file in memory. Throws InputError that starts with `source` unless
/// the file is sound: strict JSON, known dtypes, byte ranges that fit dtype and shape without
/// overflow and cover the data without gap, overlap or rest. Memory: a small multiple of the
/// header.
[[nodiscard]] SafetensorsHeader parse_safetensors(std::span<const std::byte> file,
                                                  const std::string& source);

/// The format's name of a dtype, e.g. "BF16".
[[nodiscard]] std::string_view safetensors_name_of(DType dtype);

/// "[2, 3]"; long shapes are cut.
[[nodiscard]] std::string shape_text(std::span<const std::int64_t> shape);

/// An open file. Thread-safe: all members are const.
class SafetensorsFile {
 public:
  /// Reads and checks the header (see parse_safetensors); touches no data.
  explicit SafetensorsFile(const std::filesystem::path& path);

  [[nodiscard]] const std::string& name() const noexcept { return file_.name(); }
  /// In the order of the data.
  [[nodiscard]] const std::vector<SafetensorsEntry>& entries() const noexcept {
    return header_.entries;
  }
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const noexcept {
    return header_.metadata;
  }
  /// The tensor of that name, or nullptr.
  [[nodiscard]] const SafetensorsEntry* find(std::string_view name) const;
  /// The tensor of that name; InputError when there is none.
  [[nodiscard]] const SafetensorsEntry& at(std::string_view name) const;

  /// The tensor's bytes in the mapping, in general unaligned. See MappedFile about files that
  /// change; release() drops the pages again.
  [[nodiscard]] std::span<const std::byte> bytes(const SafetensorsEntry& entry) const;
  void release(const SafetensorsEntry& entry) const;

  /// Copies the block [row_begin, row_end) x [column_begin, column_end) of the tensor seen as a
  /// matrix (SafetensorsEntry::rows, columns) to `destination`, dense and row-major, converted to
  /// `dtype` as convert_elements does. Reads the block's bytes only, through a small buffer, not
  /// through the mapping: resident memory does not grow. Throws UsageError for a block outside the
  /// tensor, UnsupportedError for a conversion that does not exist, InputError when the file became
  /// shorter.
  void read_block(const SafetensorsEntry& entry, std::int64_t row_begin, std::int64_t row_end,
                  std::int64_t column_begin, std::int64_t column_end, void* destination,
                  DType dtype) const;
  /// The whole tensor.
  void read(const SafetensorsEntry& entry, void* destination, DType dtype) const;

  /// Bytes of tensor data that read_block and read have taken from the file so far.
  [[nodiscard]] std::int64_t bytes_read() const noexcept { return bytes_read_.load(); }

 private:
  void read_elements(const SafetensorsEntry& entry, std::int64_t first, std::int64_t count,
                     std::byte* destination, DType dtype, std::span<std::byte> buffer) const;

  MappedFile file_;
  SafetensorsHeader header_;
  std::unordered_map<std::string_view, std::size_t> index_;
  mutable std::atomic<std::int64_t> bytes_read_{0};
};

}  // namespace portolan
