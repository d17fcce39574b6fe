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
/// waited for before reading; before filling, the other parity.
template <int kStages>
struct RingPlace {
  int stage = 0;
  std::uint32_t parity = 0;

  PORTOLAN_DEVICE void advance() {
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1U;
    }
  }
};

}  // namespace portolan::cuda::sm90
