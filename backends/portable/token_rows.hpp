// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cfloat>
#include <cstdint>

#include "backends/portable/rows.hpp"
#include "backends/portable/team_loops.hpp"
#include "core/allocator.hpp"
#include "core/tensor.hpp"
#include "core/token_choice.hpp"

/// What the kernels that choose tokens read and write.
namespace portolan::portable {

/// Tokens of a row that a team takes at a time, whatever the device and the number of threads.
inline constexpr std::int64_t kTokenChunk = 4096;

/// Logits as they are.
struct PlainLogits {
  struct Row {
    const float* logits = nullptr;
    KOKKOS_INLINE_FUNCTION float operator()(std::int64_t id) const { return logits[id]; }
  };

  const float* logits = nullptr;
  std::int64_t stride = 0;

  [[nodiscard]] KOKKOS_INLINE_FUNCTION Row row(std::int64_t index) const {
    return {logits + index * stride};
  }
};

/// Logits after the repetition penalty.
struct PenalizedLogits {
  struct Row {
    const float* logits = nullptr;
    const std::uint8_t* seen = nullptr;
    double penalty = 1.0;
    KOKKOS_INLINE_FUNCTION float operator()(std::int64_t id) const {
      return seen[id] != 0 ? penalized_logit(logits[id], penalty) : logits[id];
    }
  };

  PlainLogits logits;
  const std::uint8_t* seen = nullptr;
  std::int64_t seen_stride = 0;
  double penalty = 1.0;

  [[nodiscard]] KOKKOS_INLINE_FUNCTION Row row(std::int64_t index) const {
    return {logits.row(index).logits, seen + index * seen_stride, penalty};
  }
};

inline PlainLogits plain_logits(const Tensor& logits) {
  return {logits.data<float>(), logits.strides()[0]};
}

/// Tokens [begin, end) of a row.
struct TokenChunk {
  std::int64_t row = 0;
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

/// Rows of logits, each in chunks.
template <class Logits>
struct TokenRows {
  Logits logits;
  std::int64_t count = 0;
  std::int64_t columns = 0;
  std::int64_t chunks = 0;         // of a row
  std::int32_t* maxima = nullptr;  // [count, chunks], the largest key of each

  [[nodiscard]] KOKKOS_INLINE_FUNCTION TokenChunk chunk(std::int64_t index) const {
    const std::int64_t row = index / chunks;
    const std::int64_t begin = (index - row * chunks) * kTokenChunk;
    const std::int64_t end = begin + kTokenChunk;
    return {row, begin, end < columns ? end : columns};
  }
  [[nodiscard]] KOKKOS_INLINE_FUNCTION std::int32_t largest_key(std::int64_t row) const {
    std::int32_t largest = maxima[row * chunks];
    for (std::int64_t i = 1; i < chunks; ++i) {
      const std::int32_t key = maxima[row * chunks + i];
      if (key > largest) largest = key;
    }
    return largest;
  }
};

template <class Logits>
TokenRows<Logits> token_rows(const Logits& logits, const Tensor& shape) {
  const std::int64_t columns = shape.dim(1);
  return {logits, shape.dim(0), columns, (columns + kTokenChunk - 1) / kTokenChunk, nullptr};
}

template <class Space, class Logits>
struct ChunkMaximaTeams {
  TokenRows<Logits> rows;

  KOKKOS_INLINE_FUNCTION void operator()(const typename RowTeams<Space>::member_type& team) const {
    const auto index = static_cast<std::int64_t>(team.league_rank());
    const TokenChunk chunk = rows.chunk(index);
    const auto logits = rows.logits.row(chunk.row);
    const auto largest = team_reduce<Space, Kokkos::Max<std::int32_t>>(
        team, chunk.begin, chunk.end, [&](std::int64_t id, std::int32_t& most) {
          const std::int32_t key = logit_key(logits(id));
          if (key > most) most = key;
        });
    Kokkos::single(Kokkos::PerTeam(team), [&]() { rows.maxima[index] = largest; });
  }
};

/// Where the choice goes.
struct ChosenTokens {
  std::int32_t* ids = nullptr;
  std::int64_t ids_stride = 1;
  std::uint8_t* seen = nullptr;  // may be null
  std::int64_t seen_stride = 0;

  /// By one thread.
  KOKKOS_INLINE_FUNCTION void store(std::int64_t row, std::int64_t id) const {
    ids[row * ids_stride] = static_cast<std::int32_t>(id);
    if (seen != nullptr) seen[row * seen_stride + id] = 1;
  }
  /// The row's logits leave nothing to choose from.
  template <class Team>
  KOKKOS_INLINE_FUNCTION void refuse(const Team& team, std::int64_t row) const {
    Kokkos::single(Kokkos::PerTeam(team), [&]() { ids[row * ids_stride] = -1; });
  }
};

/// Bins of distances from the largest logit: 64 to an octave of the distance, so that they are
/// narrow at every temperature. They only say where to look closer, which is why f32 will do; what
/// matters is that a less likely token is never in an earlier bin.
struct DistanceBins {
  static constexpr int kCount = 1024;  // the number of what is so far that its weight is 0
  static constexpr float kNearest = 0x1p-10F;
  static constexpr float kFarthest = 0x1p6F;
  static_assert(kTokenWeightOctaves < kFarthest);

  float scale = 0.0F;  // octaves of weight for a difference of 1, finite

  [[nodiscard]] KOKKOS_INLINE_FUNCTION int operator()(float logit, float largest) const {
    const float difference = largest - logit;
    float octaves = (difference < FLT_MAX ? difference : FLT_MAX) * scale;
    octaves = octaves > kNearest ? octaves : kNearest;
    octaves = octaves < kFarthest ? octaves : kFarthest;
    return (std::bit_cast<std::int32_t>(octaves) >> 17) -
           (std::bit_cast<std::int32_t>(kNearest) >> 17);
  }
};

/// A TokenChoice with a temperature, as kernels use it.
struct TokenDraw {
  double scale = 1.0;              // see token_distance
  std::uint64_t least_weight = 0;  // that min-p leaves
  std::uint64_t top_p = 0;         // of 2^64
  std::int64_t top_k = 0;
  bool cuts_weight = false;  // by top_p
  DistanceBins bins;
  RandomKey key;
  std::int64_t step = 0;
  const std::int32_t* sequences = nullptr;
  std::int64_t sequences_stride = 1;

  [[nodiscard]] KOKKOS_INLINE_FUNCTION std::uint64_t weight(float logit, float largest) const {
    return token_weight(token_distance(logit, largest, scale));
  }
  /// What min-p leaves of a weight.
  [[nodiscard]] KOKKOS_INLINE_FUNCTION std::uint64_t likely_weight(std::uint64_t weight) const {
    return weight < least_weight ? 0 : weight;
  }
  /// The weight that top-p wants together, of `total`: rounded up, and not 0.
  [[nodiscard]] KOKKOS_INLINE_FUNCTION std::uint64_t wanted_weight(std::uint64_t total) const {
    const std::uint64_t whole = multiply_high(top_p, total);
    return whole + (top_p * total != 0 || whole == 0 ? 1 : 0);
  }
  [[nodiscard]] KOKKOS_INLINE_FUNCTION std::uint64_t target(std::uint64_t total,
                                                            std::int64_t row) const {
    return draw_below(total, key, sequences[row * sequences_stride], step);
  }
};

/// Memory that the kernels of one operation pass on.
template <class T>
class TeamScratch {
 public:
  TeamScratch(CachingAllocator& allocator, std::int64_t count)
      : block_(allocator.allocate(static_cast<std::size_t>(count) * sizeof(T))) {}

  [[nodiscard]] T* data() const { return reinterpret_cast<T*>(block_.get()->data()); }

 private:
  BlockReference block_;
};

}  // namespace portolan::portable
