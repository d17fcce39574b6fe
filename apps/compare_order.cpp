// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <random>

#include "apps/compare_settings.hpp"

namespace portolan {
namespace {

int threads_per_rank(const CompareSettings& settings, int ranks) {
  return settings.device == "serial" ? 1 : std::max(1, settings.cores / ranks);
}

bool contains(const std::vector<std::string>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// Fisher and Yates' shuffle with a generator that is the same on every platform, which
/// std::shuffle's use of distributions is not.
void shuffle(std::vector<CompareJob>& jobs, std::uint64_t seed) {
  std::mt19937_64 generator(seed);
  for (std::size_t i = jobs.size(); i > 1; --i) std::swap(jobs[i - 1], jobs[generator() % i]);
}

}  // namespace

std::vector<CompareJob> plan_jobs(const CompareSettings& settings) {
  std::vector<CompareJob> jobs;
  const auto add = [&](const std::string& mode, const std::string& dtype, Protocol protocol,
                       int ranks) {
    jobs.push_back({mode, dtype, protocol, ranks, threads_per_rank(settings, ranks)});
  };
  for (const Protocol protocol : settings.protocols) {
    for (const std::string& dtype : settings.dtypes) {
      if (protocol == Protocol::published) {
        for (const int ranks : settings.ranks) {
          if (ranks > 1) add("sp", dtype, protocol, ranks);
        }
        continue;
      }
      for (const std::string& mode : settings.modes) {
        if (mode == "none") {
          add(mode, dtype, protocol, 1);
          continue;
        }
        // With one rank every mode is `none`, whose row is that point of the scaling curves.
        for (const int ranks : settings.ranks) {
          if (ranks > 1) add(mode, dtype, protocol, ranks);
        }
      }
    }
  }
  shuffle(jobs, settings.seed);
  const std::string cheapest = contains(settings.dtypes, "bf16") ? "bf16" : settings.dtypes.front();
  const auto first = std::find_if(jobs.begin(), jobs.end(), [&](const CompareJob& job) {
    return job.dtype == cheapest && job.protocol == Protocol::fair;
  });
  if (first != jobs.end()) std::rotate(jobs.begin(), first, first + 1);
  return jobs;
}

}  // namespace portolan
