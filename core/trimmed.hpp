// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <string_view>

namespace portolan {

/// `text` without the characters of `blank` at its two ends.
[[nodiscard]] constexpr std::string_view trimmed(std::string_view text, std::string_view blank) {
  const std::size_t begin = std::min(text.find_first_not_of(blank), text.size());
  const std::size_t end = text.find_last_not_of(blank) + 1;
  return text.substr(begin, std::max(begin, end) - begin);
}

}  // namespace portolan
