// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

#include "core/dtype.hpp"

namespace portolan {

/// Names one stream of random numbers. Every element of a stream is a pure function of (seed,
/// stream, element index), so shards, ranks, threads and backends all see the same bits.
struct RandomKey {
  std::uint64_t seed = 0;
  std::uint64_t stream = 0;
};

/// Stream for a named tensor (FNV-1a of the name), so that parameters draw independently of the
/// order in which, and the rank on which, they are made.
[[nodiscard]] RandomKey random_key(std::uint64_t seed, std::string_view name);

/// Philox4x32-10: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3",
/// SC 2011. Ten rounds pass BigCrush.
[[nodiscard]] PORTOLAN_HOST_DEVICE inline std::array<std::uint32_t, 4> philox4x32(
    std::array<std::uint32_t, 4> counter, std::uint32_t key0, std::uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = std::uint64_t{0xD2511F53u} * counter[0];
    const std::uint64_t product1 = std::uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key0,
               static_cast<std::uint32_t>(product1),
               static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key1,
               static_cast<std::uint32_t>(product0)};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

/// The four 32-bit words of elements [4 * group, 4 * group + 4) of a stream.
[[nodiscard]] PORTOLAN_HOST_DEVICE inline std::array<std::uint32_t, 4> random_words(
    RandomKey key, std::uint64_t group) {
  return philox4x32(
      {static_cast<std::uint32_t>(group), static_cast<std::uint32_t>(group >> 32),
       static_cast<std::uint32_t>(key.stream), static_cast<std::uint32_t>(key.stream >> 32)},
      static_cast<std::uint32_t>(key.seed), static_cast<std::uint32_t>(key.seed >> 32));
}

/// Uniform on [-1, 1): 24 random bits, exact in f32, so that every backend agrees to the bit.
[[nodiscard]] PORTOLAN_HOST_DEVICE inline float symmetric_uniform(std::uint32_t word) {
  return static_cast<float>(static_cast<std::int32_t>(word >> 8) - (1 << 23)) * 0x1p-23F;
}

/// Element `index` of the stream, uniform on [-1, 1).
[[nodiscard]] PORTOLAN_HOST_DEVICE inline float symmetric_uniform(RandomKey key,
                                                                  std::uint64_t index) {
  return symmetric_uniform(random_words(key, index / 4)[index % 4]);
}

/// An element is dropped where its random word is less than this.
[[nodiscard]] PORTOLAN_HOST_DEVICE inline std::uint32_t dropout_threshold(float probability) {
  return static_cast<std::uint32_t>(static_cast<double>(probability) * 4294967296.0);
}

}  // namespace portolan
