// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "core/safetensors.hpp"

/// The two steps of parse_safetensors, for readers that do not hold the whole file.
namespace portolan {

/// Bytes before the header: its length.
constexpr std::uint64_t kSafetensorsPrefixBytes = 8;

/// The header's length in bytes, from the file's first (at most 8) bytes. Throws InputError unless
/// the header lies within the file and within the format's limit of 100 MB.
[[nodiscard]] std::uint64_t safetensors_header_length(std::span<const std::byte> prefix,
                                                      std::uint64_t file_size,
                                                      const std::string& source);

/// Checks the header's text against the bytes of data that follow it.
[[nodiscard]] SafetensorsHeader parse_safetensors_header(std::string_view text,
                                                         std::uint64_t data_size,
                                                         const std::string& source);

}  // namespace portolan
