// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include "backends/portable/rows.hpp"
#include "backends/portable/team_loops.hpp"
#include "backends/portable/token_rows.hpp"
#include "core/allocator.hpp"
#include "core/token_choice.hpp"

/// The choice among the tokens that top-k or top-p leave. Each chunk counts (for top-k) or weighs
/// (for top-p) its tokens by their distance from the row's largest logit; the bins up to the one in
/// which enough come together hold the candidates, which are gathered in the order of their ids.
/// One team for each row then finds the exact limit among these by their keys, without sorting.
namespace portolan::portable {

/// Of each chunk, over its bins up to each: how many tokens, and their weight.
struct BinSums {
  static constexpr int kBins = DistanceBins::kCount;

  std::uint32_t* counts = nullptr;   // [chunks of all rows, kBins]
  std::uint64_t* weights = nullptr;  // likewise; unused for top-k

  /// Of all chunks of a row.
  template <class T>
  KOKKOS_INLINE_FUNCTION static std::uint64_t total(const T* sums, std::int64_t first_chunk,
                                                    std::int64_t chunks, std::int64_t bin) {
    std::uint64_t result = 0;
    for (std::int64_t i = 0; i < chunks; ++i) result += sums[(first_chunk + i) * kBins + bin];
    return result;
  }
};

/// visit(id, bin) for the tokens of a chunk in bins up to `last_bin`, by rising ids, on one thread.
/// Strip by strip: their bins come from a loop that vectorises, which also shows whether a strip
/// has any such token.
template <class Row, class Visit>
KOKKOS_INLINE_FUNCTION void for_near_tokens(const TokenChunk& chunk, const Row& logits, float top,
                                            const DistanceBins& bins, int last_bin,
                                            const Visit& visit) {
  constexpr int kStrip = 128;
  int found[kStrip];
  for (std::int64_t begin = chunk.begin; begin < chunk.end; begin += kStrip) {
    const int count = static_cast<int>(chunk.end - begin < kStrip ? chunk.end - begin : kStrip);
    int nearest = DistanceBins::kCount;
    for (int i = 0; i < count; ++i) {
      const int bin = bins(logits(begin + i), top);
      found[i] = bin;
      if (bin < nearest) nearest = bin;
    }
    if (nearest > last_bin) continue;
    for (int i = 0; i < count; ++i) {
      if (found[i] <= last_bin) visit(begin + i, found[i]);
    }
  }
}

/// kWeigh: for top-p, which needs the weight of every token. Tokens beyond the last bin weigh
/// nothing and are passed over.
template <class Space, class Logits, bool kWeigh>
struct BinTeams {
  TokenRows<Logits> rows;
  TokenDraw draw;
  BinSums sums;

  [[nodiscard]] static std::size_t scratch_bytes() {
    return TeamArray<Space, std::uint32_t>::shmem_size(BinSums::kBins) +
           (kWeigh ? TeamArray<Space, std::uint64_t>::shmem_size(BinSums::kBins) : 0);
  }

  KOKKOS_INLINE_FUNCTION void operator()(const typename RowTeams<Space>::member_type& team) const {
    const auto index = static_cast<std::int64_t>(team.league_rank());
    const TokenChunk chunk = rows.chunk(index);
    const std::int32_t largest = rows.largest_key(chunk.row);
    if (!is_finite_key(largest)) return;
    const TeamArray<Space, std::uint32_t> count_array(team.team_scratch(0), BinSums::kBins);
    const TeamArray<Space, std::uint64_t> weight_array(team.team_scratch(0),
                                                       kWeigh ? BinSums::kBins : 0);
    std::uint32_t* const counts = count_array.data();
    std::uint64_t* const weights = weight_array.data();
    team_for<Space>(team, 0, BinSums::kBins, [&](std::int64_t bin) {
      counts[bin] = 0;
      if constexpr (kWeigh) weights[bin] = 0;
    });
    team.team_barrier();
    const auto logits = rows.logits.row(chunk.row);
    const float top = logit_of_key(largest);
    const auto add = [&](std::int64_t id, int bin) {
      team_add<Space>(counts[bin], std::uint32_t{1});
      if constexpr (kWeigh) team_add<Space>(weights[bin], draw.weight(logits(id), top));
    };
    if constexpr (compat::kRunsOnHost<Space>) {
      for_near_tokens(chunk, logits, top, draw.bins, BinSums::kBins - 1, add);
    } else {
      team_for<Space>(team, chunk.begin, chunk.end, [&](std::int64_t id) {
        const int bin = draw.bins(logits(id), top);
        if (bin < BinSums::kBins) add(id, bin);
      });
    }
    team.team_barrier();
    write_sums(team, counts, sums.counts + index * BinSums::kBins);
    if constexpr (kWeigh) write_sums(team, weights, sums.weights + index * BinSums::kBins);
  }

  template <class T>
  KOKKOS_INLINE_FUNCTION static void write_sums(const typename RowTeams<Space>::member_type& team,
                                                const T* bins, T* to) {
    team_scan<Space>(team, 0, BinSums::kBins,
                     [&](std::int64_t bin, std::uint64_t& sum, bool final) {
                       sum += bins[bin];
                       if (final) to[bin] = static_cast<T>(sum);
                     });
  }
};

/// Candidates of all rows, each row's in the order of their ids.
struct TokenCandidates {
  std::int32_t* keys = nullptr;      // [rows, columns], of which `sizes` are used
  std::int32_t* ids = nullptr;       // likewise
  std::uint64_t* weights = nullptr;  // likewise, as if there were no min-p
  std::int64_t* sizes = nullptr;     // [rows]; 0: the row's logits are not finite
  std::uint64_t* wanted = nullptr;   // [rows], the weight that top-p wants; unused after top-k
};

template <class Space, class Logits, bool kWeigh>
struct GatherTeams {
  TokenRows<Logits> rows;
  TokenDraw draw;
  BinSums sums;
  TokenCandidates candidates;

  KOKKOS_INLINE_FUNCTION void operator()(const typename RowTeams<Space>::member_type& team) const {
    const auto index = static_cast<std::int64_t>(team.league_rank());
    const TokenChunk chunk = rows.chunk(index);
    const std::int32_t largest = rows.largest_key(chunk.row);
    const std::int64_t first = chunk.row * rows.chunks;
    const bool last = index + 1 == first + rows.chunks;
    if (!is_finite_key(largest)) {
      if (last) Kokkos::single(Kokkos::PerTeam(team), [&]() { candidates.sizes[chunk.row] = 0; });
      return;
    }
    const std::uint64_t wanted = wanted_of(first);
    const int last_bin = bin_reaching(first, wanted);
    const auto place =
        static_cast<std::int64_t>(BinSums::total(sums.counts, first, index - first, last_bin)) +
        chunk.row * rows.columns;
    const auto logits = rows.logits.row(chunk.row);
    const float top = logit_of_key(largest);
    const auto put = [&](std::int64_t id, std::int64_t to) {
      const float logit = logits(id);
      candidates.keys[to] = logit_key(logit);
      candidates.ids[to] = static_cast<std::int32_t>(id);
      candidates.weights[to] = draw.weight(logit, top);
    };
    if constexpr (compat::kRunsOnHost<Space>) {
      std::int64_t to = place;
      for_near_tokens(chunk, logits, top, draw.bins, last_bin,
                      [&](std::int64_t id, int /*bin*/) { put(id, to++); });
    } else {
      team_scan<Space>(team, chunk.begin, chunk.end,
                       [&](std::int64_t id, std::uint64_t& before, bool final) {
                         if (draw.bins(logits(id), top) > last_bin) return;
                         if (final) put(id, place + static_cast<std::int64_t>(before));
                         ++before;
                       });
    }
    if (last) {
      Kokkos::single(Kokkos::PerTeam(team), [&]() {
        candidates.sizes[chunk.row] =
            static_cast<std::int64_t>(BinSums::total(sums.counts, first, rows.chunks, last_bin));
        if constexpr (kWeigh) candidates.wanted[chunk.row] = wanted;
      });
    }
  }

  /// How many tokens top-k wants of a row, or how much weight top-p.
  [[nodiscard]] KOKKOS_INLINE_FUNCTION std::uint64_t wanted_of(std::int64_t first) const {
    if constexpr (kWeigh) {
      return draw.wanted_weight(
          BinSums::total(sums.weights, first, rows.chunks, BinSums::kBins - 1));
    } else {
      return static_cast<std::uint64_t>(draw.top_k);
    }
  }
  /// The first bin up to which that comes together; the last if it does nowhere.
  [[nodiscard]] KOKKOS_INLINE_FUNCTION int bin_reaching(std::int64_t first,
                                                        std::uint64_t wanted) const {
    int low = 0;
    int high = BinSums::kBins - 1;
    while (low < high) {
      const int middle = (low + high) / 2;
      std::uint64_t reached = 0;
      if constexpr (kWeigh) {
        reached = BinSums::total(sums.weights, first, rows.chunks, middle);
      } else {
        reached = BinSums::total(sums.counts, first, rows.chunks, middle);
      }
      if (reached < wanted) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }
};

/// The last token that is kept: those of larger keys are, too, and of its own key those up to it.
struct TokenLimit {
  std::int32_t key = std::numeric_limits<std::int32_t>::min();
  std::int32_t id = std::numeric_limits<std::int32_t>::max();

  [[nodiscard]] KOKKOS_INLINE_FUNCTION bool keeps(std::int32_t other_key,
                                                  std::int32_t other_id) const {
    return other_key > key || (other_key == key && other_id <= id);
  }
};

/// Chooses among the candidates of a row.
template <class Space>
struct CandidateTeams {
  using Team = typename RowTeams<Space>::member_type;

  static constexpr int kDigitBits = 8;
  static constexpr int kDigits = 1 << kDigitBits;

  /// What a team's search for a limit shares.
  struct Search {
    std::uint64_t amounts[kDigits];
    std::uint64_t wanted;
    std::uint32_t digit;
    std::int32_t id;
  };

  TokenCandidates candidates;
  std::int64_t columns = 0;
  bool wanted_is_known = false;  // of top-p
  TokenDraw draw;
  ChosenTokens chosen;

  [[nodiscard]] static std::size_t scratch_bytes() {
    return TeamArray<Space, Search>::shmem_size(1);
  }

  KOKKOS_INLINE_FUNCTION void operator()(const Team& team) const {
    const auto row = static_cast<std::int64_t>(team.league_rank());
    const std::int64_t size = candidates.sizes[row];
    if (size == 0) return chosen.refuse(team, row);
    const std::int32_t* const keys = candidates.keys + row * columns;
    const std::int32_t* const ids = candidates.ids + row * columns;
    const std::uint64_t* const weights = candidates.weights + row * columns;
    const auto kept_weight = [&](const TokenLimit& limit, std::int64_t i) {
      return limit.keeps(keys[i], ids[i]) ? weights[i] : 0;
    };

    const TeamArray<Space, Search> array(team.team_scratch(0), 1);
    Search& search = *array.data();
    TokenLimit limit;
    if (draw.top_k > 0 && draw.top_k < size) {
      limit = limit_reaching(team, search, keys, ids, size, static_cast<std::uint64_t>(draw.top_k),
                             [](std::int64_t) { return std::uint64_t{1}; });
    }
    if (draw.cuts_weight) {
      const auto amount = [&](std::int64_t i) { return kept_weight(limit, i); };
      const std::uint64_t wanted =
          wanted_is_known ? candidates.wanted[row] : draw.wanted_weight(sum_of(team, size, amount));
      limit = limit_reaching(team, search, keys, ids, size, wanted, amount);
    }
    const auto amount = [&](std::int64_t i) { return draw.likely_weight(kept_weight(limit, i)); };
    const std::uint64_t target = draw.target(sum_of(team, size, amount), row);
    team_scan<Space>(team, 0, size, [&](std::int64_t i, std::uint64_t& sum, bool final) {
      const std::uint64_t own = amount(i);
      if (final && sum <= target && target < sum + own) chosen.store(row, ids[i]);
      sum += own;
    });
  }

  template <class Amount>
  KOKKOS_INLINE_FUNCTION static std::uint64_t sum_of(const Team& team, std::int64_t size,
                                                     const Amount& amount) {
    return team_reduce<Space, Kokkos::Sum<std::uint64_t>>(
        team, 0, size, [&](std::int64_t i, std::uint64_t& sum) { sum += amount(i); });
  }

  /// The first limit, by falling keys and then by rising ids, up to which amounts come to `wanted`,
  /// which is above 0 and at most their sum: digit by digit of its key.
  template <class Amount>
  KOKKOS_INLINE_FUNCTION static TokenLimit limit_reaching(const Team& team, Search& search,
                                                          const std::int32_t* keys,
                                                          const std::int32_t* ids,
                                                          std::int64_t size, std::uint64_t wanted,
                                                          const Amount& amount) {
    constexpr std::uint32_t kSign = 0x80000000U;  // flipped, keys are in the order of unsigned
    std::uint64_t prefix = 0;
    for (int shift = 32 - kDigitBits; shift >= 0; shift -= kDigitBits) {
      team_for<Space>(team, 0, kDigits, [&](std::int64_t i) { search.amounts[i] = 0; });
      team.team_barrier();
      team_for<Space>(team, 0, size, [&](std::int64_t i) {
        const std::uint64_t key = static_cast<std::uint32_t>(keys[i]) ^ kSign;
        if (key >> (shift + kDigitBits) != prefix) return;
        const std::uint64_t own = amount(i);
        if (own != 0) team_add<Space>(search.amounts[(key >> shift) % kDigits], own);
      });
      team.team_barrier();
      team_scan<Space>(team, 0, kDigits, [&](std::int64_t i, std::uint64_t& sum, bool final) {
        const auto digit = static_cast<std::uint32_t>(kDigits - 1 - i);
        const std::uint64_t own = search.amounts[digit];
        if (final && sum < wanted && wanted <= sum + own) {
          search.digit = digit;
          search.wanted = wanted - sum;
        }
        sum += own;
      });
      team.team_barrier();
      prefix = (prefix << kDigitBits) | search.digit;
      wanted = search.wanted;
    }
    const auto key = static_cast<std::int32_t>(static_cast<std::uint32_t>(prefix) ^ kSign);
    team_scan<Space>(team, 0, size, [&](std::int64_t i, std::uint64_t& sum, bool final) {
      if (keys[i] != key) return;
      const std::uint64_t own = amount(i);
      if (final && sum < wanted && wanted <= sum + own) search.id = ids[i];
      sum += own;
    });
    team.team_barrier();
    return {key, search.id};
  }
};

/// Chooses with top-k or top-p. The maxima of the rows' chunks are known.
template <class Space, class Logits>
void draw_candidates(const Space& space, CachingAllocator& allocator, const TokenRows<Logits>& rows,
                     const TokenDraw& draw, const ChosenTokens& chosen) {
  const std::int64_t chunks = rows.count * rows.chunks;
  const std::int64_t tokens = rows.count * rows.columns;
  const bool counts = draw.top_k > 0 && draw.top_k < rows.columns;
  const TeamScratch<std::uint32_t> bin_counts(allocator, chunks * BinSums::kBins);
  const TeamScratch<std::uint64_t> bin_weights(allocator, counts ? 1 : chunks * BinSums::kBins);
  const BinSums sums{bin_counts.data(), bin_weights.data()};
  const TeamScratch<std::int32_t> keys(allocator, tokens);
  const TeamScratch<std::int32_t> ids(allocator, tokens);
  const TeamScratch<std::uint64_t> weights(allocator, tokens);
  const TeamScratch<std::int64_t> sizes(allocator, rows.count);
  const TeamScratch<std::uint64_t> wanted(allocator, rows.count);
  const TokenCandidates candidates{keys.data(), ids.data(), weights.data(), sizes.data(),
                                   wanted.data()};
  const auto find = [&](auto weigh) {
    constexpr bool kWeigh = decltype(weigh)::value;
    for_row_teams(space, "Portolan::TokenChoice::bins", chunks,
                  BinTeams<Space, Logits, kWeigh>{rows, draw, sums},
                  BinTeams<Space, Logits, kWeigh>::scratch_bytes());
    for_row_teams(space, "Portolan::TokenChoice::gather", chunks,
                  GatherTeams<Space, Logits, kWeigh>{rows, draw, sums, candidates});
  };
  if (counts) {
    find(std::false_type());
  } else {
    find(std::true_type());
  }
  for_row_teams(space, "Portolan::TokenChoice::candidates", rows.count,
                CandidateTeams<Space>{candidates, rows.columns, !counts, draw, chosen},
                CandidateTeams<Space>::scratch_bytes());
}

}  // namespace portolan::portable
