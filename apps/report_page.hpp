// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "apps/comparison.hpp"
#include "apps/gnuplot.hpp"

namespace portolan {

/// One self-contained page (HTML5 that is also well-formed XML; no scripts, nothing loaded from
/// elsewhere) with the plots, tables, circumstances and limits of one or several comparisons.
[[nodiscard]] std::string report_page(const std::vector<Comparison>& comparisons,
                                      const Gnuplot& gnuplot);

}  // namespace portolan
