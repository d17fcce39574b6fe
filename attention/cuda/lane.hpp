// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>

/// What kernels and every kind of Lane (device_function.hpp) have in common.
namespace portolan::cuda::sm80 {

/// Moved by one thread at once.
struct alignas(16) Chunk {
  std::uint32_t words[4];
};
struct alignas(8) FloatPair {
  float first;
  float second;
};

/// Which part of the result a block computes.
struct BlockIndex {
  int tile = 0;
  int head = 0;
  int entry = 0;
};

inline constexpr float kLog2E = 1.44269504088896340736F;
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr float kLn2 = 0.69314718055994530942F;

}  // namespace portolan::cuda::sm80
