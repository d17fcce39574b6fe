// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

/// The alphabet of byte-level tokenizers: each byte is written as one printable character, so that
/// vocabularies are text (Radford et al., "Language Models are Unsupervised Multitask Learners",
/// 2019). Visible Latin-1 characters stand for themselves, the other bytes for U+0100 and
/// following.
namespace portolan {

/// Appends the characters of `bytes`, as UTF-8.
void append_byte_level(std::string& text, std::string_view bytes);

/// The byte that a character stands for.
[[nodiscard]] std::optional<std::uint8_t> byte_of_character(char32_t character);

}  // namespace portolan
