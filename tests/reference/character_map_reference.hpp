// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>

/// Tables of SentencePiece normalization, made the slow way. Shares no code with the engine.
namespace portolan::reference {

/// The bytes of a table that puts the values in place of the keys, which must not be empty.
[[nodiscard]] std::string character_map_bytes(const std::map<std::string, std::string>& rules);

}  // namespace portolan::reference
