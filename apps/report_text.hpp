// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "apps/comparison.hpp"

/// The report's sentences, as HTML.
namespace portolan {

/// A list of what the rows say, computed from them.
[[nodiscard]] std::string findings_list(const std::vector<Comparison>& comparisons);

/// Four figures that sum a comparison up, as tiles.
[[nodiscard]] std::string summary_tiles(const Comparison& comparison);

/// What the published tables can and cannot be compared with: what they state, what follows from it
/// by arithmetic, and what is inferred.
[[nodiscard]] std::string comparability_section();

/// "All modes had the same cores in total.", or how that was not so.
[[nodiscard]] std::string resources_text(const std::vector<Comparison>& comparisons);

/// How the numbers of the page were taken.
[[nodiscard]] std::string method_section(const std::vector<Comparison>& comparisons);

/// What the published order of events changes.
[[nodiscard]] std::string protocol_section();

/// "llama-7b, 2 layers, batch 2".
[[nodiscard]] std::string experiment_text(const Comparison& comparison);

}  // namespace portolan
