// SPDX-License-Identifier: Apache-2.0
#include "parallel/partition.hpp"

#include <algorithm>

#include "core/error.hpp"

namespace portolan {

Partition::Partition(const std::vector<std::int64_t>& shares) {
  offsets_.reserve(shares.size() + 1);
  for (const std::int64_t share : shares) {
    require(share >= 0, "a share must not be negative, found {}", share);
    offsets_.push_back(offsets_.back() + share);
  }
}

Partition Partition::even(std::int64_t extent, int parts, std::int64_t unit) {
  require(parts > 0 && unit > 0 && extent >= 0, "cannot deal {} in {} shares of multiples of {}",
          extent, parts, unit);
  const std::int64_t units = (extent + unit - 1) / unit;
  std::vector<std::int64_t> shares;
  std::int64_t begin = 0;
  for (int part = 0; part < parts; ++part) {
    const std::int64_t count = units / parts + (part < units % parts ? 1 : 0);
    const std::int64_t end = std::min(extent, begin + count * unit);
    shares.push_back(end - begin);
    begin = end;
  }
  return Partition(shares);
}

std::int64_t Partition::largest_share() const {
  std::int64_t largest = 0;
  for (int part = 0; part < parts(); ++part) largest = std::max(largest, share(part));
  return largest;
}

}  // namespace portolan
