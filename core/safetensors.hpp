// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/tensor_file.hpp"

/// Reading of safetensors files: 8 bytes of little-endian header length, a JSON header that gives
/// each tensor's dtype, shape and byte range, then the data, row-major and little-endian.
namespace portolan {

/// What a header says of one tensor; its range is within the data that follows the header.
using SafetensorsEntry = TensorEntry;

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

/// An open safetensors file.
class SafetensorsFile final : public TensorFile {
 public:
  /// Reads and checks the header (see parse_safetensors); touches no data. Entries are in the order
  /// of the data.
  explicit SafetensorsFile(const std::filesystem::path& path);

  [[nodiscard]] const std::map<std::string, std::string>& metadata() const noexcept {
    return metadata_;
  }

 private:
  std::map<std::string, std::string> metadata_;
};

}  // namespace portolan
