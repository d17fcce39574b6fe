// SPDX-License-Identifier: Apache-2.0
#include "apps/memory_check.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <string>

#include "core/error.hpp"
#include "core/host_info.hpp"
#include "core/memory_info.hpp"
#include "core/printable.hpp"
#include "parallel/gather_values.hpp"

namespace portolan {
namespace {

struct Node {
  int ranks = 0;
  double weights = 0.0;
  double activations = 0.0;
  double cache = 0.0;
  double available = std::numeric_limits<double>::infinity();
};

}  // namespace

void require_memory(Communicator& world, Device device, const MemoryNeed& need) {
  if (!is_host(device)) return;
  // Where the system does not say, nothing is refused.
  constexpr double kUnknown = -1.0;
  const auto available = available_memory();
  const auto hosts = gather_texts(world, host_info().host_name);
  const auto weights = gather_values(world, static_cast<double>(need.weights));
  const auto activations = gather_values(world, static_cast<double>(need.activations));
  const auto cache = gather_values(world, static_cast<double>(need.cache));
  const auto left = gather_values(world, available ? static_cast<double>(*available) : kUnknown);
  std::map<std::string, Node> nodes;
  for (std::size_t rank = 0; rank < hosts.size(); ++rank) {
    Node& node = nodes[hosts[rank]];
    ++node.ranks;
    node.weights += weights[rank];
    node.cache += cache[rank];
    node.activations = std::max(node.activations, activations[rank]);
    if (left[rank] >= 0.0) node.available = std::min(node.available, left[rank]);
  }
  for (const auto& [host, node] : nodes) {
    const double whole = node.weights + node.activations + node.cache;
    if (whole <= node.available) continue;
    const std::string cached =
        node.cache > 0.0 ? fmt::format(", {:.3f} GB of cached keys and values", node.cache * 1e-9)
                         : "";
    throw OutOfMemoryError(fmt::format(
        "the model does not fit: {} rank{} on {} need {:.3f} GB ({:.3f} GB of weights{} and "
        "{:.3f} GB of activations), and {:.3f} GB are available",
        node.ranks, node.ranks == 1 ? "" : "s", printable(host), whole * 1e-9, node.weights * 1e-9,
        cached, node.activations * 1e-9, node.available * 1e-9));
  }
}

bool finds_memory(Communicator& world, const std::function<void()>& prepare) {
  double failed = 0.0;
  try {
    prepare();
  } catch (const OutOfMemoryError&) {
    failed = 1.0;
  }
  return largest_value(world, failed) == 0.0;
}

}  // namespace portolan
