// SPDX-License-Identifier: Apache-2.0
#include "core/tensor_file.hpp"

#include <algorithm>
#include <bit>
#include <memory>
#include <numeric>

#include "core/convert.hpp"
#include "core/error.hpp"
#include "core/printable.hpp"

namespace portolan {

static_assert(std::endian::native == std::endian::little,
              "tensor files are little-endian and are read without swapping");

namespace {

/// Large enough to make system calls rare, small enough to stay in the second-level cache.
constexpr std::size_t kBufferBytes = std::size_t{256} << 10;
/// Bytes read at once when no conversion is needed.
constexpr std::size_t kPartBytes = std::size_t{8} << 20;

}  // namespace

std::int64_t TensorEntry::elements() const noexcept { return rows() * columns(); }

std::int64_t TensorEntry::rows() const noexcept { return shape.empty() ? 1 : shape.front(); }

std::int64_t TensorEntry::columns() const noexcept {
  if (shape.empty()) return 1;
  return std::accumulate(shape.begin() + 1, shape.end(), std::int64_t{1}, std::multiplies<>());
}

std::uint64_t TensorDescription::checked_size(const std::string& file) const {
  auto size = static_cast<std::int64_t>(size_of(dtype));
  for (const std::int64_t extent : shape) {
    require(extent >= 0 && !__builtin_mul_overflow(size, extent, &size),
            "{}: cannot write tensor '{}' of shape {}", file, printable(name), shape_text(shape));
  }
  return static_cast<std::uint64_t>(size);
}

std::string shape_text(std::span<const std::int64_t> shape) {
  constexpr std::size_t kMaximumExtents = 8;
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += ", ";
    if (i == kMaximumExtents) {
      text += "...";
      break;
    }
    text += std::to_string(shape[i]);
  }
  return text + "]";
}

void TensorFile::set_entries(std::vector<TensorEntry> entries, std::uint64_t data_begin) {
  entries_ = std::move(entries);
  data_begin_ = data_begin;
  index_.reserve(entries_.size());
  for (std::size_t i = 0; i < entries_.size(); ++i) index_.emplace(entries_[i].name, i);
}

const TensorEntry* TensorFile::find(std::string_view tensor) const {
  const auto found = index_.find(tensor);
  return found == index_.end() ? nullptr : &entries_[found->second];
}

const TensorEntry& TensorFile::at(std::string_view tensor) const {
  const TensorEntry* entry = find(tensor);
  if (entry == nullptr) {
    throw InputError(fmt::format("{}: expected a tensor '{}', found {} tensors without it", name(),
                                 printable(tensor), entries_.size()));
  }
  return *entry;
}

std::span<const std::byte> TensorFile::bytes(const TensorEntry& entry) const {
  return file_.bytes().subspan(static_cast<std::size_t>(data_begin_ + entry.begin),
                               static_cast<std::size_t>(entry.byte_size()));
}

void TensorFile::release(const TensorEntry& entry) const {
  file_.release(data_begin_ + entry.begin, entry.byte_size());
}

void TensorFile::read(const TensorEntry& entry, void* destination, DType dtype) const {
  read_block(entry, 0, entry.rows(), 0, entry.columns(), destination, dtype);
}

void TensorFile::read_block(const TensorEntry& entry, std::int64_t row_begin, std::int64_t row_end,
                            std::int64_t column_begin, std::int64_t column_end, void* destination,
                            DType dtype, std::int64_t destination_stride) const {
  const std::int64_t rows = entry.rows();
  const std::int64_t columns = entry.columns();
  require(
      0 <= row_begin && row_begin <= row_end && row_end <= rows && 0 <= column_begin &&
          column_begin <= column_end && column_end <= columns,
      "{}: tensor '{}': rows {} to {} and columns {} to {} lie outside its {} rows and {} columns",
      name(), printable(entry.name), row_begin, row_end, column_begin, column_end, rows, columns);
  if (!entry.dtype || !is_convertible(*entry.dtype, dtype)) {
    throw UnsupportedError(fmt::format("{}: tensor '{}': no conversion from {} to {}", name(),
                                       printable(entry.name), entry.dtype_name, name_of(dtype)));
  }
  const std::int64_t width = column_end - column_begin;
  const std::int64_t height = row_end - row_begin;
  if (width == 0 || height == 0) return;

  std::unique_ptr<std::byte[]> storage;
  std::span<std::byte> buffer;
  if (*entry.dtype != dtype) {
    const auto needed = static_cast<std::uint64_t>(width * height) * size_of(*entry.dtype);
    const auto size = static_cast<std::size_t>(std::min<std::uint64_t>(kBufferBytes, needed));
    storage = std::make_unique_for_overwrite<std::byte[]>(size);
    buffer = {storage.get(), size};
  }
  auto* output = static_cast<std::byte*>(destination);
  const std::int64_t source_stride = entry.row_stride == 0 ? columns : entry.row_stride;
  const std::int64_t output_stride = destination_stride == 0 ? width : destination_stride;
  if (width == source_stride && width == output_stride) {
    read_elements(entry, row_begin * width, width * height, output, dtype, buffer);
    return;
  }
  const std::size_t output_step = static_cast<std::size_t>(output_stride) * size_of(dtype);
  for (std::int64_t row = row_begin; row < row_end; ++row) {
    read_elements(entry, row * source_stride + column_begin, width, output, dtype, buffer);
    output += output_step;
  }
}

void TensorFile::read_elements(const TensorEntry& entry, std::int64_t first, std::int64_t count,
                               std::byte* destination, DType dtype,
                               std::span<std::byte> buffer) const {
  const auto width = static_cast<std::int64_t>(size_of(*entry.dtype));
  const auto out_width = static_cast<std::int64_t>(size_of(dtype));
  const bool direct = *entry.dtype == dtype;
  const auto part = static_cast<std::int64_t>(direct ? kPartBytes : buffer.size()) / width;
  std::uint64_t offset = data_begin_ + entry.begin + static_cast<std::uint64_t>(first * width);
  while (count > 0) {
    const std::int64_t taken = std::min(part, count);
    const auto bytes = static_cast<std::size_t>(taken * width);
    if (direct) {
      file_.read(offset, {destination, bytes});
    } else {
      file_.read(offset, buffer.first(bytes));
      convert_elements(buffer.data(), *entry.dtype, destination, dtype, taken);
    }
    bytes_read_.fetch_add(taken * width, std::memory_order_relaxed);
    offset += bytes;
    destination += taken * out_width;
    count -= taken;
  }
}

}  // namespace portolan
