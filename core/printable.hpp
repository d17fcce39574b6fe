// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

namespace portolan {

/// `text` made fit for one line of an error message, whatever a file or a command line put into it:
/// control characters and bytes that are not UTF-8 become \xNN, and what exceeds `limit` bytes is
/// cut off and marked by "...". Other text, non-ASCII included, stays as it is.
[[nodiscard]] std::string printable(std::string_view text, std::size_t limit = 160);

/// The same of a path, up to the longest that the system takes.
[[nodiscard]] std::string printable_path(const std::filesystem::path& path);

/// Length in bytes of the UTF-8 character at the start of `text`, by the Unicode standard's table
/// of well-formed byte sequences (no overlong forms, no surrogates); 0 where none starts there.
[[nodiscard]] std::size_t utf8_character_length(std::string_view text);

}  // namespace portolan
