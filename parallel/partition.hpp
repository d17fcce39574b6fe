// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

namespace portolan {

/// How an extent is dealt to ranks in contiguous, possibly uneven shares: rank r holds
/// [offset(r), offset(r) + share(r)). Shares may be empty.
class Partition {
 public:
  Partition() = default;
  /// Explicit shares, in rank order.
  explicit Partition(const std::vector<std::int64_t>& shares);
  /// `extent` in `parts` shares that differ by at most one unit; the first ranks get the larger
  /// ones. `unit` > 1 keeps shares multiples of it, except that the last nonempty one may end at
  /// `extent`.
  [[nodiscard]] static Partition even(std::int64_t extent, int parts, std::int64_t unit = 1);

  [[nodiscard]] int parts() const noexcept { return static_cast<int>(offsets_.size()) - 1; }
  [[nodiscard]] std::int64_t extent() const noexcept { return offsets_.back(); }
  [[nodiscard]] std::int64_t offset(int part) const {
    return offsets_[static_cast<std::size_t>(part)];
  }
  [[nodiscard]] std::int64_t share(int part) const { return offset(part + 1) - offset(part); }
  [[nodiscard]] std::int64_t largest_share() const;

  friend bool operator==(const Partition&, const Partition&) = default;

 private:
  std::vector<std::int64_t> offsets_{0};
};

}  // namespace portolan
