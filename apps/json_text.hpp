// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace portolan {

/// A document as it is printed or written, with a newline at its end. Names of files may be any
/// bytes: what is no UTF-8 in them becomes U+FFFD, as JSON has no way to write it.
template <typename Json>
[[nodiscard]] std::string json_text(const Json& document) {
  return document.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace portolan
