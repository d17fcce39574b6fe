// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace portolan {

/// The bytes that `text` stands for (RFC 4648, with padding); nothing if it is empty or not base64.
[[nodiscard]] std::optional<std::string> decode_base64(std::string_view text);

}  // namespace portolan
