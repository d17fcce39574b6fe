// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <utility>
#include <vector>

/// Byte pair encoding as its definition says, on strings and in quadratic time. Shares no code with
/// the engine.
namespace portolan::reference {

using Symbols = std::vector<std::string>;

/// Joins the leftmost of the neighbours whose pair has the lowest rank, until no pair has one.
[[nodiscard]] Symbols merge_pairs(
    Symbols symbols, const std::map<std::pair<std::string, std::string>, std::size_t>& ranks);

/// Joins the leftmost of the neighbours that spell the token of lowest rank, until none spell one.
[[nodiscard]] Symbols merge_tokens(Symbols symbols,
                                   const std::map<std::string, std::size_t>& ranks);

}  // namespace portolan::reference
