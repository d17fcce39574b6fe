// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention/portable/tiles.hpp"

/// The tiled methods: only tiles of scores that the mask leaves are computed, and none is kept. For
/// dense masks that is flash attention (Dao 2023, arXiv:2307.08691), for sliding windows a band
/// (Beltagy et al. 2020, arXiv:2004.05150), with a block map block-sparse attention (Child et al.
/// 2019, arXiv:1904.10509).
namespace portolan::portable {

/// Tiles of rows that the teams of a kernel hold, by the row on device memory.
struct TileTable {
  const RowTile* tiles = nullptr;
  std::int64_t count = 0;
};

/// One team per tile of queries of one head, with online softmax over tiles of keys.
template <class Space>
class TiledForward {
 public:
  using Team = TileTeam<Space>;

  TiledForward(const ProblemView<Space>& problem, const TileTable& queries, TileCounts* counts,
               const Tensor& out, const Tensor& log_sum_exp)
      : problem_(problem),
        queries_(queries),
        counts_(counts),
        out_(out),
        log_sum_exp_(log_sum_exp),
        shape_(tile_shape<Space>(AttentionPass::forward, problem.head_dim)) {}

  void launch() const {
    Team::launch("Portolan::Attention::tiled_forward",
                 problem_.batch * problem_.heads * queries_.count, scratch_bytes(), *this);
  }

  KOKKOS_INLINE_FUNCTION void operator()(const typename Team::Member& member) const {
    const Team team(member, problem_, shape_, kOwnTiles);
    // Late tiles see the most keys under a causal mask; starting them first evens out the end.
    const std::int64_t rows = problem_.batch * problem_.heads;
    const RowTile queries = queries_.tiles[queries_.count - 1 - member.league_rank() / rows];
    const std::int64_t batch = member.league_rank() % rows / problem_.heads;
    const std::int64_t head = member.league_rank() % problem_.heads;
    const std::int64_t key_head = head / problem_.heads_per_key_head;
    auto* softmax = reinterpret_cast<RunningSoftmax*>(team.scores(1));

    team.load_own(kQ, problem_.q, batch, queries, head, problem_.scale);
    team.clear_own(kOut);
    team.for_rows(shape_.own, [&](const int row) { softmax[row] = RunningSoftmax(); });
    TileCounts counts;
    problem_.for_seen_keys(batch, head, queries, [&](const RowTile& stretch) {
      for_tiles(stretch, shape_.other, [&](const RowTile& keys) {
        const TileMask mask(problem_.rule, queries, keys, counts);
        team.score(kQ, problem_.k, batch, keys, key_head, 0);
        team.for_rows(queries.length, [&](const int row) {
          const auto columns = mask.keys_of(row);
          const float factor = softmax[row].take(team.scores(0) + row * shape_.other, columns.first,
                                                 columns.end, keys.length);
          if (factor == 1.0F) return;
          float* out = team.own(kOut) + row * team.padded_dim();
          for (int d = 0; d < team.padded_dim(); ++d) out[d] *= factor;
        });
        team.drop(0, batch, head, queries, keys, shape_.other, 1);
        team.load_other(problem_.v, batch, keys, key_head);
        team.accumulate(0, keys.length, kOut);
      });
    });
    team.store_own(
        kOut, out_, batch, queries, head, [&](int row) { return softmax[row].inverse_sum(); },
        false);
    if (log_sum_exp_.data != nullptr) {
      team.for_rows(queries.length, [&](const int row) {
        log_sum_exp_.at(batch, head, queries.row + row) = softmax[row].log_sum_exp();
      });
    }
    team.store_counts(counts_, counts);
  }

 private:
  enum OwnTile { kQ, kOut, kOwnTiles };

  [[nodiscard]] std::size_t scratch_bytes() const {
    return Team::scratch_bytes(shape_, problem_.head_dim, kOwnTiles);
  }

  ProblemView<Space> problem_;
  TileTable queries_;
  TileCounts* counts_;
  Operand out_;
  RowValues log_sum_exp_;
  TileShape shape_;
};

/// What both passes of the gradient share. Neither writes what another team writes, and nothing is
/// summed but by the team that owns it, so no atomics are needed and sums have one order.
template <class Space>
class TiledGradient {
 public:
  using Team = TileTeam<Space>;

  TiledGradient(const ProblemView<Space>& problem, const TileTable& tiles, TileCounts* counts,
                const AttentionGradients& gradients)
      : problem_(problem),
        tiles_(tiles),
        counts_(counts),
        gradients_(gradients),
        shape_(tile_shape<Space>(AttentionPass::backward, problem.head_dim)) {}

 protected:
  /// Which scores() hold what.
  enum ScoreTile { kSlopes, kWeights };

  /// Turns a score, and the product of grad_out and v times dropout's factor, into the slope of the
  /// loss with respect to the scaled score, and the weight.
  struct Element {
    float slope;
    float weight;
  };
  [[nodiscard]] KOKKOS_INLINE_FUNCTION Element differentiate(float score, float product,
                                                             float log_sum_exp, float delta) const {
    const float weight = weight_of(score, log_sum_exp);
    return {weight * (product - delta), weight};
  }

  ProblemView<Space> problem_;
  TileTable tiles_;
  TileCounts* counts_;
  GradientView gradients_;
  TileShape shape_;
};

/// dq: one team per tile of queries of one head.
template <class Space>
class TiledQueryGradient : private TiledGradient<Space> {
 public:
  using Base = TiledGradient<Space>;
  using Team = typename Base::Team;
  using Base::Base;

  void launch() const {
    Team::launch("Portolan::Attention::tiled_dq", problem_.batch * problem_.heads * tiles_.count,
                 Team::scratch_bytes(shape_, problem_.head_dim, kOwnTiles), *this);
  }

  KOKKOS_INLINE_FUNCTION void operator()(const typename Team::Member& member) const {
    const Team team(member, problem_, shape_, kOwnTiles);
    const std::int64_t rows = problem_.batch * problem_.heads;
    const RowTile queries = tiles_.tiles[tiles_.count - 1 - member.league_rank() / rows];
    const std::int64_t batch = member.league_rank() % rows / problem_.heads;
    const std::int64_t head = member.league_rank() % problem_.heads;
    const std::int64_t key_head = head / problem_.heads_per_key_head;

    team.load_own(kQ, problem_.q, batch, queries, head, problem_.scale);
    team.load_own(kGradOut, gradients_.grad_out, batch, queries, head, 1.0F);
    team.clear_own(kDq);
    TileCounts counts;
    problem_.for_seen_keys(batch, head, queries, [&](const RowTile& stretch) {
      for_tiles(stretch, shape_.other, [&](const RowTile& keys) {
        const TileMask mask(problem_.rule, queries, keys, counts);
        team.score(kQ, problem_.k, batch, keys, key_head, Base::kSlopes);
        team.score(kGradOut, problem_.v, batch, keys, key_head, Base::kWeights);
        team.drop(Base::kWeights, batch, head, queries, keys, shape_.other, 1);
        team.for_rows(queries.length, [&](const int row) {
          const std::int64_t token = queries.row + row;
          const float log_sum_exp = gradients_.log_sum_exp.at(batch, head, token);
          const float delta = gradients_.delta.at(batch, head, token);
          const auto columns = mask.keys_of(row);
          float* slopes = team.scores(Base::kSlopes) + row * shape_.other;
          const float* products = team.scores(Base::kWeights) + row * shape_.other;
          for (int i = 0; i < keys.length; ++i) {
            const bool seen = i >= columns.first && i < columns.end;
            slopes[i] =
                seen ? this->differentiate(slopes[i], products[i], log_sum_exp, delta).slope : 0.0F;
          }
        });
        team.load_other(problem_.k, batch, keys, key_head);
        team.accumulate(Base::kSlopes, keys.length, kDq);
      });
    });
    team.store_own(
        kDq, gradients_.dq, batch, queries, head, [&](int) { return problem_.scale; },
        gradients_.accumulate);
    team.store_counts(counts_, counts);
  }

 private:
  enum OwnTile { kQ, kGradOut, kDq, kOwnTiles };

  using Base::counts_;
  using Base::gradients_;
  using Base::problem_;
  using Base::shape_;
  using Base::tiles_;
};

/// dk and dv: one team per tile of keys of one key/value head, which visits the queries of all
/// heads that read it, in head order.
template <class Space>
class TiledKeyGradient : private TiledGradient<Space> {
 public:
  using Base = TiledGradient<Space>;
  using Team = typename Base::Team;
  using Base::Base;

  void launch() const {
    Team::launch("Portolan::Attention::tiled_dkv",
                 problem_.batch * problem_.key_heads * tiles_.count,
                 Team::scratch_bytes(shape_, problem_.head_dim, kOwnTiles), *this);
  }

  KOKKOS_INLINE_FUNCTION void operator()(const typename Team::Member& member) const {
    const Team team(member, problem_, shape_, kOwnTiles);
    const std::int64_t rows = problem_.batch * problem_.key_heads;
    const RowTile keys = tiles_.tiles[member.league_rank() / rows];
    const std::int64_t batch = member.league_rank() % rows / problem_.key_heads;
    const std::int64_t key_head = member.league_rank() % problem_.key_heads;

    team.load_own(kK, problem_.k, batch, keys, key_head, problem_.scale);
    team.load_own(kV, problem_.v, batch, keys, key_head, 1.0F);
    team.clear_own(kDk);
    team.clear_own(kDv);
    TileCounts counts;
    for (std::int64_t h = 0; h < problem_.heads_per_key_head; ++h) {
      const std::int64_t head = key_head * problem_.heads_per_key_head + h;
      problem_.for_seeing_queries(batch, head, keys, [&](const RowTile& stretch) {
        for_tiles(stretch, shape_.other,
                  [&](const RowTile& queries) { visit(team, batch, head, queries, keys, counts); });
      });
    }
    const auto scale = [&](int) { return problem_.scale; };
    team.store_own(kDk, gradients_.dk, batch, keys, key_head, scale, gradients_.accumulate);
    team.store_own(
        kDv, gradients_.dv, batch, keys, key_head, [](int) { return 1.0F; }, gradients_.accumulate);
    team.store_counts(counts_, counts);
  }

 private:
  enum OwnTile { kK, kV, kDk, kDv, kOwnTiles };

  using Base::counts_;
  using Base::gradients_;
  using Base::problem_;
  using Base::shape_;
  using Base::tiles_;

  KOKKOS_INLINE_FUNCTION void visit(const Team& team, std::int64_t batch, std::int64_t head,
                                    const RowTile& queries, const RowTile& keys,
                                    TileCounts& counts) const {
    const TileMask mask(problem_.rule, queries, keys, counts);
    const RowTile shown = problem_.within_padding(batch, keys);
    team.score(kK, problem_.q, batch, queries, head, Base::kSlopes);
    team.score(kV, gradients_.grad_out, batch, queries, head, Base::kWeights);
    team.drop(Base::kWeights, batch, head, queries, keys, 1, shape_.other);
    team.for_rows(keys.length, [&](const int row) {
      const std::int64_t token = keys.row + row;
      const bool padding = token < shown.row || token >= shown.row + shown.length;
      const auto columns = mask.queries_of(row);
      float* slopes = team.scores(Base::kSlopes) + row * shape_.other;
      float* weights = team.scores(Base::kWeights) + row * shape_.other;
      for (int i = 0; i < queries.length; ++i) {
        typename Base::Element element{0.0F, 0.0F};
        if (!padding && i >= columns.first && i < columns.end) {
          element = this->differentiate(slopes[i], weights[i],
                                        gradients_.log_sum_exp.at(batch, head, queries.row + i),
                                        gradients_.delta.at(batch, head, queries.row + i));
        }
        slopes[i] = element.slope;
        weights[i] = element.weight;
      }
    });
    team.drop(Base::kWeights, batch, head, queries, keys, 1, shape_.other);
    team.load_other(gradients_.grad_out, batch, queries, head);
    team.accumulate(Base::kWeights, queries.length, kDv);
    team.load_other(problem_.q, batch, queries, head);
    team.accumulate(Base::kSlopes, queries.length, kDk);
  }
};

}  // namespace portolan::portable
