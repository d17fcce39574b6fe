// SPDX-License-Identifier: Apache-2.0
#include "core/safetensors.hpp"

#include <algorithm>
#include <bit>
#include <memory>
#include <numeric>

#include "core/convert.hpp"
#include "core/error.hpp"
#include "core/printable.hpp"
#include "core/safetensors_header.hpp"

namespace portolan {

static_assert(std::endian::native == std::endian::little,
              "safetensors data is little-endian and is read without swapping");

namespace {

/// Large enough to make system calls rare, small enough to stay in the second-level cache.
constexpr std::size_t kBufferBytes = std::size_t{256} << 10;
/// Bytes read at once when no conversion is needed.
constexpr std::size_t kPartBytes = std::size_t{8} << 20;

}  // namespace

std::int64_t SafetensorsEntry::elements() const noexcept { return rows() * columns(); }

std::int64_t SafetensorsEntry::rows() const noexcept { return shape.empty() ? 1 : shape.front(); }

std::int64_t SafetensorsEntry::columns() const noexcept {
  if (shape.empty()) return 1;
  return std::accumulate(shape.begin() + 1, shape.end(), std::int64_t{1}, std::multiplies<>());
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(path) {
  std::vector<std::byte> prefix(std::min<std::uint64_t>(file_.size(), kSafetensorsPrefixBytes));
  file_.read(0, prefix);
  const std::uint64_t length = safetensors_header_length(prefix, file_.size(), name());
  std::string text(static_cast<std::size_t>(length), '\0');
  file_.read(kSafetensorsPrefixBytes, std::as_writable_bytes(std::span(text)));
  header_ = parse_safetensors_header(text, file_.size() - kSafetensorsPrefixBytes - length, name());
  index_.reserve(header_.entries.size());
  for (std::size_t i = 0; i < header_.entries.size(); ++i) {
    index_.emplace(header_.entries[i].name, i);
  }
}

const SafetensorsEntry* SafetensorsFile::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &header_.entries[found->second];
}

const SafetensorsEntry& SafetensorsFile::at(std::string_view tensor) const {
  const SafetensorsEntry* entry = find(tensor);
  if (entry == nullptr) {
    throw InputError(fmt::format("{}: expected a tensor '{}', found {} tensors without it", name(),
                                 printable(tensor), header_.entries.size()));
  }
  return *entry;
}

std::span<const std::byte> SafetensorsFile::bytes(const SafetensorsEntry& entry) const {
  return file_.bytes().subspan(static_cast<std::size_t>(header_.data_begin + entry.begin),
                               static_cast<std::size_t>(entry.byte_size()));
}

void SafetensorsFile::release(const SafetensorsEntry& entry) const {
  file_.release(header_.data_begin + entry.begin, entry.byte_size());
}

void SafetensorsFile::read(const SafetensorsEntry& entry, void* destination, DType dtype) const {
  read_block(entry, 0, entry.rows(), 0, entry.columns(), destination, dtype);
}

void SafetensorsFile::read_block(const SafetensorsEntry& entry, std::int64_t row_begin,
                                 std::int64_t row_end, std::int64_t column_begin,
                                 std::int64_t column_end, void* destination, DType dtype) const {
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
  if (width == columns) {
    read_elements(entry, row_begin * columns, width * height, output, dtype, buffer);
    return;
  }
  const auto row_bytes = static_cast<std::size_t>(width) * size_of(dtype);
  for (std::int64_t row = row_begin; row < row_end; ++row) {
    read_elements(entry, row * columns + column_begin, width, output, dtype, buffer);
    output += row_bytes;
  }
}

void SafetensorsFile::read_elements(const SafetensorsEntry& entry, std::int64_t first,
                                    std::int64_t count, std::byte* destination, DType dtype,
                                    std::span<std::byte> buffer) const {
  const auto width = static_cast<std::int64_t>(size_of(*entry.dtype));
  const auto out_width = static_cast<std::int64_t>(size_of(dtype));
  const bool direct = *entry.dtype == dtype;
  const auto part = static_cast<std::int64_t>(direct ? kPartBytes : buffer.size()) / width;
  std::uint64_t offset =
      header_.data_begin + entry.begin + static_cast<std::uint64_t>(first * width);
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
