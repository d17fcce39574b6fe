// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <numbers>

#include "backends/portable/rows.hpp"
#include "backends/portable/team_loops.hpp"
#include "backends/portable/token_candidates.hpp"
#include "backends/portable/token_rows.hpp"
#include "core/allocator.hpp"
#include "core/tensor.hpp"
#include "core/token_choice.hpp"

/// The choice of the next token of each row of logits. Every path begins with the largest logit of
/// each chunk of the vocabulary. What is drawn from a whole row, or from the candidates that top-k
/// or top-p leave (token_candidates.hpp), is found by walking tokens in the order of their ids.
namespace portolan::portable {

/// The likeliest token, the first of equals.
template <class Space, class Logits>
struct LikeliestTeams {
  TokenRows<Logits> rows;
  ChosenTokens chosen;

  KOKKOS_INLINE_FUNCTION void operator()(const typename RowTeams<Space>::member_type& team) const {
    const auto row = static_cast<std::int64_t>(team.league_rank());
    const std::int32_t largest = rows.largest_key(row);
    if (!is_finite_key(largest)) return chosen.refuse(team, row);
    std::int64_t place = 0;
    while (rows.maxima[row * rows.chunks + place] != largest) ++place;
    const TokenChunk chunk = rows.chunk(row * rows.chunks + place);
    const auto logits = rows.logits.row(row);
    const auto first = team_reduce<Space, Kokkos::Min<std::int64_t>>(
        team, chunk.begin, chunk.end, [&](std::int64_t id, std::int64_t& least) {
          if (logit_key(logits(id)) == largest && id < least) least = id;
        });
    Kokkos::single(Kokkos::PerTeam(team), [&]() { chosen.store(row, first); });
  }
};

/// Each chunk's sum of the weights that min-p leaves.
template <class Space, class Logits>
struct ChunkWeightTeams {
  TokenRows<Logits> rows;
  TokenDraw draw;
  std::uint64_t* sums = nullptr;

  KOKKOS_INLINE_FUNCTION void operator()(const typename RowTeams<Space>::member_type& team) const {
    const auto index = static_cast<std::int64_t>(team.league_rank());
    const TokenChunk chunk = rows.chunk(index);
    const std::int32_t largest = rows.largest_key(chunk.row);
    if (!is_finite_key(largest)) return;
    const auto logits = rows.logits.row(chunk.row);
    const float top = logit_of_key(largest);
    const auto total = team_reduce<Space, Kokkos::Sum<std::uint64_t>>(
        team, chunk.begin, chunk.end, [&](std::int64_t id, std::uint64_t& sum) {
          sum += draw.likely_weight(draw.weight(logits(id), top));
        });
    Kokkos::single(Kokkos::PerTeam(team), [&]() { sums[index] = total; });
  }
};

/// Draws from whole rows, by the sums of their chunks.
template <class Space, class Logits>
struct DrawTeams {
  TokenRows<Logits> rows;
  TokenDraw draw;
  const std::uint64_t* sums = nullptr;
  ChosenTokens chosen;

  KOKKOS_INLINE_FUNCTION void operator()(const typename RowTeams<Space>::member_type& team) const {
    const auto row = static_cast<std::int64_t>(team.league_rank());
    const std::int32_t largest = rows.largest_key(row);
    if (!is_finite_key(largest)) return chosen.refuse(team, row);
    const std::uint64_t* const own = sums + row * rows.chunks;
    std::uint64_t total = 0;
    for (std::int64_t chunk = 0; chunk < rows.chunks; ++chunk) total += own[chunk];
    std::uint64_t target = draw.target(total, row);
    std::int64_t place = 0;
    for (; target >= own[place]; ++place) target -= own[place];
    const TokenChunk chunk = rows.chunk(row * rows.chunks + place);
    const auto logits = rows.logits.row(row);
    const float top = logit_of_key(largest);
    team_scan<Space>(
        team, chunk.begin, chunk.end, [&](std::int64_t id, std::uint64_t& sum, bool final) {
          const std::uint64_t weight = draw.likely_weight(draw.weight(logits(id), top));
          if (final && sum <= target && target < sum + weight) chosen.store(row, id);
          sum += weight;
        });
  }
};

/// What the kernels need to know of a choice.
inline TokenDraw token_draw(const TokenChoice& choice, const Tensor& sequences, std::int64_t step) {
  const double octaves = std::numbers::log2e / choice.temperature;
  TokenDraw draw;
  draw.scale = std::fmin(octaves, DBL_MAX * 0x1p-57) * 0x1p57;
  draw.bins.scale = static_cast<float>(std::fmin(octaves, FLT_MAX));
  draw.least_weight = static_cast<std::uint64_t>(
      std::ceil(choice.min_p * static_cast<double>(kLargestTokenWeight)));
  draw.top_k = choice.top_k;
  draw.cuts_weight = choice.top_p < 1.0;
  draw.top_p = draw.cuts_weight ? static_cast<std::uint64_t>(choice.top_p * 0x1p64) : 0;
  draw.key = choice.key;
  draw.step = step;
  draw.sequences = sequences.data<std::int32_t>();
  draw.sequences_stride = sequences.strides()[0];
  return draw;
}

template <class Space, class Logits>
void choose_tokens(const Space& space, CachingAllocator& allocator, TokenRows<Logits> rows,
                   const TokenDraw* draw, const ChosenTokens& chosen) {
  const std::int64_t chunks = rows.count * rows.chunks;
  const TeamScratch<std::int32_t> maxima(allocator, chunks);
  rows.maxima = maxima.data();
  for_row_teams(space, "Portolan::TokenChoice::maxima", chunks,
                ChunkMaximaTeams<Space, Logits>{rows});
  if (draw == nullptr) {
    for_row_teams(space, "Portolan::TokenChoice::likeliest", rows.count,
                  LikeliestTeams<Space, Logits>{rows, chosen});
  } else if (draw->cuts_weight || (draw->top_k > 0 && draw->top_k < rows.columns)) {
    draw_candidates(space, allocator, rows, *draw, chosen);
  } else {
    const TeamScratch<std::uint64_t> sums(allocator, chunks);
    for_row_teams(space, "Portolan::TokenChoice::weights", chunks,
                  ChunkWeightTeams<Space, Logits>{rows, *draw, sums.data()});
    for_row_teams(space, "Portolan::TokenChoice::draw", rows.count,
                  DrawTeams<Space, Logits>{rows, *draw, sums.data(), chosen});
  }
}

template <class Space>
void choose_tokens(const Space& space, CachingAllocator& allocator, const Tensor& logits,
                   const Tensor& seen, const TokenChoice& choice, const Tensor& sequences,
                   std::int64_t step, const Tensor& ids) {
  ChosenTokens chosen;
  chosen.ids = ids.data<std::int32_t>();
  chosen.ids_stride = ids.strides()[0];
  if (seen.defined()) {
    chosen.seen = seen.data<std::uint8_t>();
    chosen.seen_stride = seen.strides()[0];
  }
  TokenDraw draw;
  const bool draws = choice.temperature > 0.0;
  if (draws) draw = token_draw(choice, sequences, step);
  const auto choose = [&](const auto& rows) {
    choose_tokens(space, allocator, token_rows(rows, logits), draws ? &draw : nullptr, chosen);
  };
  if (seen.defined() && choice.repetition_penalty != 1.0) {
    choose(PenalizedLogits{plain_logits(logits), seen.data<std::uint8_t>(), seen.strides()[0],
                           choice.repetition_penalty});
  } else {
    choose(plain_logits(logits));
  }
}

}  // namespace portolan::portable
