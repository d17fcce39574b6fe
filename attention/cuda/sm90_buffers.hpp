// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "attention/cuda/device_function.hpp"

/// Shared buffers that one thread has filled by the copy engine and warpgroups work off.
namespace portolan::cuda::sm90 {

/// Where a box of a tensor [batch, tokens, heads, head_dim] starts.
struct BoxOrigin {
  int column = 0;
  int head = 0;
  int token = 0;
  int entry = 0;
};

/// The place in a ring of buffers that a thread is at, and the parity of its turn there: what is
/// waited for before reading; before filling, the other parity. One number, for registers' sake.
template <int kStages>
class RingPlace {
 public:
  static_assert((kStages & (kStages - 1)) == 0, "the count may wrap around");

  [[nodiscard]] PORTOLAN_DEVICE int stage() const { return static_cast<int>(count_ % kStages); }
  [[nodiscard]] PORTOLAN_DEVICE std::uint32_t parity() const { return count_ / kStages % 2; }
  [[nodiscard]] PORTOLAN_DEVICE RingPlace next() const {
    RingPlace place;
    place.count_ = count_ + 1;
    return place;
  }

 private:
  std::uint32_t count_ = 0;
};

}  // namespace portolan::cuda::sm90
