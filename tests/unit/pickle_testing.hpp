// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// Pickles and torch files as others write them, byte by byte, for tests. Knows nothing of the
/// engine's own writer.
namespace portolan::testing {

/// Little-endian.
[[nodiscard]] std::string number_bytes(std::uint64_t value, int width);

/// Opcodes of protocol 2.
namespace pickle {
[[nodiscard]] std::string text(std::string_view value);
[[nodiscard]] std::string integer(std::int64_t value);  ///< LONG1 of 8 bytes
[[nodiscard]] std::string global(std::string_view module, std::string_view name);
[[nodiscard]] std::string tuple(const std::vector<std::string>& items);
[[nodiscard]] std::string integers(const std::vector<std::int64_t>& values);
/// PROTO 2, the value, STOP.
[[nodiscard]] std::string document(const std::string& value);
}  // namespace pickle

/// A tensor as _rebuild_tensor_v2 gets it; every part may be wrong.
struct PickledTensor {
  std::string storage_type = "FloatStorage";
  std::string key = "0";
  std::int64_t storage_elements = 6;
  std::int64_t offset = 0;
  std::vector<std::int64_t> shape{2, 3};
  std::vector<std::int64_t> strides{3, 1};
  /// Opcodes.
  [[nodiscard]] std::string bytes() const;
};

/// {name: value, ...} from opcodes of values.
[[nodiscard]] std::string pickled_dictionary(
    const std::vector<std::pair<std::string, std::string>>& items);

struct StoredZipEntry {
  std::string name;
  std::string content;
  std::uint16_t method = 0;
};
/// A zip archive without 64-bit sizes; the method is only claimed.
[[nodiscard]] std::string zip_bytes(const std::vector<StoredZipEntry>& entries);

/// The archive of a torch file with one storage "0" of `storage` bytes.
[[nodiscard]] std::string torch_bytes(const std::string& pickle, const std::string& storage);

}  // namespace portolan::testing
