// SPDX-License-Identifier: Apache-2.0
#include "core/safetensors.hpp"

#include <algorithm>
#include <utility>

#include "core/safetensors_header.hpp"

namespace portolan {

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : TensorFile(path) {
  std::vector<std::byte> prefix(std::min<std::uint64_t>(file().size(), kSafetensorsPrefixBytes));
  file().read(0, prefix);
  const std::uint64_t length = safetensors_header_length(prefix, file().size(), name());
  std::string text(static_cast<std::size_t>(length), '\0');
  file().read(kSafetensorsPrefixBytes, std::as_writable_bytes(std::span(text)));
  SafetensorsHeader header =
      parse_safetensors_header(text, file().size() - kSafetensorsPrefixBytes - length, name());
  metadata_ = std::move(header.metadata);
  set_entries(std::move(header.entries), header.data_begin);
}

}  // namespace portolan
