// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "parallel/communicator.hpp"

/// Small facts of every rank, for records: not for hot paths. No backend is needed.
namespace portolan {

/// Every rank's value to the bit, in rank order, on every rank. Collective.
[[nodiscard]] std::vector<double> gather_values(Communicator& communicator, double value);

/// The largest of the ranks' values, on every rank. Collective.
[[nodiscard]] double largest_value(Communicator& communicator, double value);

/// Every rank's text, in rank order, on every rank. Collective.
[[nodiscard]] std::vector<std::string> gather_texts(Communicator& communicator,
                                                    const std::string& text);

}  // namespace portolan
