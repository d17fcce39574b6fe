// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <vector>

/// Unigram segmentation as its definition says, on strings and in cubic time. Shares no code with
/// the engine.
namespace portolan::reference {

/// Of all ways to cut `text` into keys of `scores` and single bytes that are no keys, which cost
/// `unknown` each, the one whose scores have the highest sum; of equals, for each start of the
/// text, the one whose last piece is the longest.
[[nodiscard]] std::vector<std::string> best_segmentation(
    const std::string& text, const std::map<std::string, double>& scores, double unknown);

}  // namespace portolan::reference
