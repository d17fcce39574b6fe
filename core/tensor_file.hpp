// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/dtype.hpp"
#include "core/mapped_file.hpp"

/// What files of named tensors have in common, whatever their format: see core/safetensors.hpp and
/// core/torch_file.hpp.
namespace portolan {

/// One tensor of a file.
struct TensorEntry {
  std::string name;
  /// In safetensors' spelling: "F32", "BF16", "F8_E4M3", ...
  std::string dtype_name;
  /// Empty for a dtype that the engine has no element type for.
  std::optional<DType> dtype;
  /// Any rank; rank 0 is a scalar. Extents may be 0.
  std::vector<std::int64_t> shape;
  /// Byte range within the file's data, if the rows lie side by side.
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  /// Elements from the start of a row to that of the next; 0 where the rows lie side by side. A
  /// tensor that was saved as some columns of a wider one has longer steps.
  std::int64_t row_stride = 0;

  /// Of the tensor's own elements.
  [[nodiscard]] std::uint64_t byte_size() const noexcept { return end - begin; }
  [[nodiscard]] std::int64_t elements() const noexcept;
  /// The tensor seen as a matrix: the first dimension (1 for a scalar) by the product of the
  /// others.
  [[nodiscard]] std::int64_t rows() const noexcept;
  [[nodiscard]] std::int64_t columns() const noexcept;
};

/// A tensor of a file to be written.
struct TensorDescription {
  std::string name;
  DType dtype = DType::f32;
  std::vector<std::int64_t> shape;

  /// Bytes of the tensor. Throws UsageError, which starts with `file`, for a negative extent or a
  /// size beyond 63 bits.
  [[nodiscard]] std::uint64_t checked_size(const std::string& file) const;
};

/// "[2, 3]"; long shapes are cut.
[[nodiscard]] std::string shape_text(std::span<const std::int64_t> shape);

/// An open file of tensors. Thread-safe: all members are const.
class TensorFile {
 public:
  virtual ~TensorFile() = default;
  TensorFile(const TensorFile&) = delete;
  TensorFile& operator=(const TensorFile&) = delete;

  [[nodiscard]] const std::string& name() const noexcept { return file_.name(); }
  [[nodiscard]] const std::vector<TensorEntry>& entries() const noexcept { return entries_; }
  /// The tensor of that name, or nullptr.
  [[nodiscard]] const TensorEntry* find(std::string_view tensor) const;
  /// The tensor of that name; InputError when there is none.
  [[nodiscard]] const TensorEntry& at(std::string_view tensor) const;

  /// The bytes in the mapping of a tensor whose rows lie side by side, in general unaligned. See
  /// MappedFile about files that change; release() drops the pages again.
  [[nodiscard]] std::span<const std::byte> bytes(const TensorEntry& entry) const;
  void release(const TensorEntry& entry) const;

  /// Copies the block [row_begin, row_end) x [column_begin, column_end) of the tensor seen as a
  /// matrix (TensorEntry::rows, columns) to `destination`, row-major, converted to `dtype` as
  /// convert_elements does; rows start `destination_stride` elements apart (0: they are dense).
  /// Reads the block's bytes only, through a small buffer, not through the mapping: resident memory
  /// does not grow. Throws UsageError for a block outside the tensor, UnsupportedError for a
  /// conversion that does not exist, InputError when the file became shorter.
  void read_block(const TensorEntry& entry, std::int64_t row_begin, std::int64_t row_end,
                  std::int64_t column_begin, std::int64_t column_end, void* destination,
                  DType dtype, std::int64_t destination_stride = 0) const;
  /// The whole tensor.
  void read(const TensorEntry& entry, void* destination, DType dtype) const;

  /// Bytes of tensor data that read_block and read have taken from the file so far.
  [[nodiscard]] std::int64_t bytes_read() const noexcept { return bytes_read_.load(); }

 protected:
  explicit TensorFile(const std::filesystem::path& path) : file_(path) {}
  [[nodiscard]] const MappedFile& file() const noexcept { return file_; }
  /// To be called once, with names that differ and ranges that lie within the file; the data starts
  /// at byte `data_begin`.
  void set_entries(std::vector<TensorEntry> entries, std::uint64_t data_begin);

 private:
  void read_elements(const TensorEntry& entry, std::int64_t first, std::int64_t count,
                     std::byte* destination, DType dtype, std::span<std::byte> buffer) const;

  MappedFile file_;
  std::vector<TensorEntry> entries_;
  std::uint64_t data_begin_ = 0;
  std::unordered_map<std::string_view, std::size_t> index_;
  mutable std::atomic<std::int64_t> bytes_read_{0};
};

}  // namespace portolan
