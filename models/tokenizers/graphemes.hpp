// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string_view>

namespace portolan {

/// Calls `sink` for what readers take for one character each (extended grapheme clusters, Unicode
/// Standard Annex 29), from left to right. `text` must be UTF-8.
void for_each_grapheme(std::string_view text, const std::function<void(std::string_view)>& sink);

}  // namespace portolan
