// SPDX-License-Identifier: Apache-2.0
#include "runtime/placement.hpp"

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <numeric>
#include <optional>
#include <set>
#include <tuple>

#include "core/error.hpp"
#include "runtime/bitmap.hpp"

namespace portolan {

namespace {

/// A rank's cores: positions [begin, end) of Topology::cores().
struct Share {
  int begin = 0;
  int end = 0;
  [[nodiscard]] int size() const { return end - begin; }
};

/// Part `index` of `parts` of `count` cores from `first` on. With more parts than cores, parts
/// share cores.
Share even_share(int first, int count, int index, int parts) {
  const auto boundary = [&](int i) {
    return static_cast<int>(static_cast<std::int64_t>(count) * i / parts);
  };
  const int begin = boundary(index);
  return {first + begin, first + std::max(boundary(index + 1), begin + 1)};
}

/// How many ranks each domain takes, one rank after the other going where it finds the most cores,
/// so that the smallest share is as large as possible. Nothing if some rank would have fewer than
/// `threads` cores.
std::optional<std::vector<int>> ranks_of_domains(const std::vector<NumaDomain>& domains, int ranks,
                                                 int threads) {
  std::vector<int> taken(domains.size(), 0);
  for (int rank = 0; rank < ranks; ++rank) {
    std::optional<std::size_t> best;
    for (std::size_t i = 0; i < domains.size(); ++i) {
      const std::int64_t cores = domains[i].cores;
      if (cores < static_cast<std::int64_t>(taken[i] + 1) * threads) continue;
      if (!best) {
        best = i;
        continue;
      }
      const std::int64_t here = cores * (taken[*best] + 1);
      const std::int64_t there = std::int64_t{domains[*best].cores} * (taken[i] + 1);
      if (here > there || (here == there && taken[i] < taken[*best])) best = i;
    }
    if (!best) return std::nullopt;
    ++taken[*best];
  }
  return taken;
}

/// At least as many ranks as domains: ranks divide domains.
std::optional<std::vector<Share>> divide_domains(const std::vector<NumaDomain>& domains, int ranks,
                                                 int threads) {
  const auto taken = ranks_of_domains(domains, ranks, threads);
  if (!taken) return std::nullopt;
  std::vector<Share> shares;
  for (std::size_t i = 0; i < domains.size(); ++i) {
    for (int part = 0; part < (*taken)[i]; ++part) {
      shares.push_back(even_share(domains[i].first_core, domains[i].cores, part, (*taken)[i]));
    }
  }
  return shares;
}

/// Fewer ranks than domains: each rank takes whole domains, borders as near as possible to equal
/// numbers of cores.
std::vector<Share> group_domains(const std::vector<NumaDomain>& domains, int ranks) {
  const auto start = [&](std::size_t domain) -> std::int64_t {
    return domain < domains.size() ? domains[domain].first_core
                                   : domains.back().first_core + domains.back().cores;
  };
  std::vector<Share> shares;
  const auto count = static_cast<std::size_t>(ranks);
  std::size_t first = 0;
  for (std::size_t rank = 0; rank < count; ++rank) {
    const std::int64_t ideal = start(domains.size()) * static_cast<std::int64_t>(rank + 1);
    const auto distance = [&](std::size_t border) {
      return std::abs(start(border) * ranks - ideal);
    };
    // Each later rank needs a domain too.
    const std::size_t last_possible = domains.size() - (count - rank - 1);
    std::size_t border = rank + 1 == count ? domains.size() : first + 1;
    while (border < last_possible && distance(border + 1) < distance(border)) ++border;
    shares.push_back({static_cast<int>(start(first)), static_cast<int>(start(border))});
    first = border;
  }
  return shares;
}

std::vector<Share> shares_of_ranks(const Topology& topology, int ranks, int threads) {
  const auto& domains = topology.numa_domains();
  const auto cores = static_cast<int>(topology.cores().size());
  const int needed = std::max(threads, 1);
  std::optional<std::vector<Share>> by_domain;
  if (ranks >= static_cast<int>(domains.size())) {
    by_domain = divide_domains(domains, ranks, needed);
  } else {
    by_domain = group_domains(domains, ranks);
    const bool fits = std::all_of(by_domain->begin(), by_domain->end(),
                                  [&](const Share& share) { return share.size() >= needed; });
    if (!fits) by_domain.reset();
  }
  if (by_domain) return *std::move(by_domain);
  if (static_cast<std::int64_t>(ranks) * needed <= cores) {
    std::vector<Share> shares;
    for (int rank = 0; rank < ranks; ++rank) shares.push_back(even_share(0, cores, rank, ranks));
    return shares;
  }
  // Cores must be shared in any case: keep to the domains.
  if (ranks < static_cast<int>(domains.size())) return group_domains(domains, ranks);
  return divide_domains(domains, ranks, 0).value();
}

int chosen_threads(const Share& share, const PlacementPolicy& policy) {
  int threads = std::max(1, share.size() - policy.spare_cores);
  if (policy.max_threads > 0) threads = std::min(threads, policy.max_threads);
  return threads;
}

/// The sentence about cores that carry several threads.
std::string sharing_warning(CoreSharing sharing, std::size_t ranks, int threads_per_rank,
                            std::size_t cores) {
  if (sharing == CoreSharing::none) return {};
  const auto plural = [](std::size_t count) { return count == 1 ? "" : "s"; };
  return fmt::format("{} rank{} x {} thread{} on {} core{}: {}", ranks, plural(ranks),
                     threads_per_rank, plural(static_cast<std::size_t>(threads_per_rank)), cores,
                     plural(cores),
                     sharing == CoreSharing::smt_siblings
                         ? "threads share cores as SMT siblings, which rarely computes faster"
                         : "threads take turns on the cores, and times say little");
}

}  // namespace

std::vector<Placement> plan_node(const Topology& topology, int local_ranks, int threads,
                                 const PlacementPolicy& policy) {
  require(local_ranks >= 1, "a node must have at least one rank, found {}", local_ranks);
  require(threads >= 0 && policy.spare_cores >= 0 && policy.max_threads >= 0,
          "threads, spare cores and the limit of threads must not be negative, found {}, {}, {}",
          threads, policy.spare_cores, policy.max_threads);
  const auto& cores = topology.cores();
  const std::vector<Share> shares = shares_of_ranks(topology, local_ranks, threads);
  std::vector<Placement> placements;
  std::vector<std::size_t> carried(cores.size(), 0);  // threads on each core, of all ranks so far
  CoreSharing sharing = CoreSharing::none;
  for (const Share& share : shares) {
    Placement placement;
    placement.threads = threads > 0 ? threads : chosen_threads(share, policy);
    placement.bind_memory = policy.bind_memory;
    placement.cores.resize(static_cast<std::size_t>(share.size()));
    std::iota(placement.cores.begin(), placement.cores.end(), share.begin);
    std::set<int> nodes;
    for (int thread = 0; thread < placement.threads; ++thread) {
      // The first of the least loaded cores, those with a free hardware thread before all others.
      const auto load = [&](int position) {
        const auto core = static_cast<std::size_t>(position);
        return std::tuple(carried[core] >= cores[core].processing_units.size(), carried[core]);
      };
      const auto core = static_cast<std::size_t>(
          *std::min_element(placement.cores.begin(), placement.cores.end(),
                            [&](int left, int right) { return load(left) < load(right); }));
      const auto& units = cores[core].processing_units;
      placement.thread_units.push_back(units[carried[core] % units.size()]);
      ++carried[core];
      if (carried[core] > units.size()) {
        sharing = CoreSharing::oversubscribed;
      } else if (carried[core] > 1) {
        sharing = std::max(sharing, CoreSharing::smt_siblings);
      }
      const auto domain = static_cast<std::size_t>(cores[core].numa_domain);
      nodes.insert(topology.numa_domains()[domain].nodes.begin(),
                   topology.numa_domains()[domain].nodes.end());
    }
    placement.numa_nodes.assign(nodes.begin(), nodes.end());
    placements.push_back(std::move(placement));
  }
  for (Placement& placement : placements) {
    placement.sharing = sharing;
    placement.warning =
        sharing_warning(sharing, placements.size(), placements.front().threads, cores.size());
    placement.pin_threads = policy.pin_threads && sharing != CoreSharing::oversubscribed;
  }
  return placements;
}

Placement plan_placement(const Topology& topology, int local_rank, int local_ranks, int threads,
                         const PlacementPolicy& policy) {
  require(0 <= local_rank && local_rank < local_ranks,
          "a local rank must be from 0 to {}, found {}", local_ranks - 1, local_rank);
  auto placements = plan_node(topology, local_ranks, threads, policy);
  return std::move(placements[static_cast<std::size_t>(local_rank)]);
}

MaskGroup mask_group(std::span<const std::string> masks, int local_rank) {
  require(0 <= local_rank && static_cast<std::size_t>(local_rank) < masks.size(),
          "a local rank must be from 0 to {}, found {}", static_cast<int>(masks.size()) - 1,
          local_rank);
  const auto own_rank = static_cast<std::size_t>(local_rank);
  const Bitmap own = Bitmap::from_list(masks[own_rank]);
  MaskGroup group{.rank = 0, .ranks = 0};
  for (std::size_t rank = 0; rank < masks.size(); ++rank) {
    const Bitmap other = Bitmap::from_list(masks[rank]);
    if (hwloc_bitmap_isequal(own.get(), other.get())) {
      if (rank < own_rank) ++group.rank;
      ++group.ranks;
    } else if (hwloc_bitmap_intersects(own.get(), other.get())) {
      group.overlaps_others = true;
    }
  }
  return group;
}

std::string binding_string(const Topology& topology, const Placement& placement) {
  const std::set<int> in_use(placement.thread_units.begin(), placement.thread_units.end());
  std::vector<int> names;
  for (const int position : placement.cores) {
    const auto& units = topology.cores()[static_cast<std::size_t>(position)].processing_units;
    const bool used =
        std::any_of(units.begin(), units.end(), [&](int unit) { return in_use.contains(unit); });
    if (used || !placement.pin_threads) names.push_back(units.front());
  }
  std::string text = fmt::format("core{} {}", names.size() == 1 ? "" : "s", index_list(names));
  if (placement.sharing == CoreSharing::oversubscribed) {
    text += ", oversubscribed";
  } else if (static_cast<std::size_t>(placement.threads) > names.size()) {
    text += fmt::format(", {} threads", placement.threads);
  }
  if (!placement.numa_nodes.empty()) {
    text += fmt::format(" (NUMA {})", index_list(placement.numa_nodes));
  }
  return text;
}

}  // namespace portolan
