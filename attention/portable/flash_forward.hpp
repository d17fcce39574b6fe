// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Kokkos_Core.hpp>
#include <cmath>
#include <cstdint>
#include <limits>

#include "attention/portable/operands.hpp"

namespace portolan::portable {

/// Forward pass in tiles with online softmax: the score matrix never exists as a whole
/// (FlashAttention-2: Dao 2023, arXiv:2307.08691). One team per tile of queries of one head; the
/// operands of a tile are widened to f32 in team scratch.
template <typename Space, typename T, typename Out>
class FlashForward {
 public:
  using Policy = Kokkos::TeamPolicy<Space, Kokkos::Schedule<Kokkos::Dynamic>>;
  using Member = typename Policy::member_type;

  /// Neighbouring columns that one thread computes: a few vector registers on a CPU.
  static constexpr int kLanes =
      Kokkos::SpaceAccessibility<Kokkos::HostSpace, typename Space::memory_space>::accessible ? 16
                                                                                              : 4;

  /// Scratch must fit into 48 KiB, which every GPU grants without asking.
  static constexpr int query_tile(int head_dim) { return head_dim <= 128 ? 16 : 8; }
  static constexpr int key_tile(int head_dim) { return head_dim <= 128 ? 32 : 16; }

  FlashForward(const Operands<T, Out>& operands, const RowTile* query_tiles,
               std::int64_t query_tile_count, const RowTile* key_runs, int key_run_count)
      : operands_(operands),
        query_tiles_(query_tiles),
        query_tile_count_(query_tile_count),
        key_runs_(key_runs),
        key_run_count_(key_run_count),
        padded_dim_((operands.head_dim + kLanes - 1) / kLanes * kLanes),
        query_tile_(query_tile(operands.head_dim)),
        key_tile_(key_tile(operands.head_dim)) {}

  void launch() const {
    const auto league = static_cast<int>(operands_.batch * operands_.heads * query_tile_count_);
    constexpr bool kHost = kLanes == 16;
    Policy policy = kHost ? Policy(league, 1) : Policy(league, Kokkos::AUTO);
    policy.set_scratch_size(0, Kokkos::PerTeam(scratch_bytes()));
    Kokkos::parallel_for("Portolan::Attention::flash_forward", policy, *this);
  }

  KOKKOS_INLINE_FUNCTION void operator()(const Member& team) const {
    const std::int64_t heads = operands_.heads;
    // Late tiles see the most keys under a causal mask; starting them first evens out the end.
    const std::int64_t index = team.league_rank();
    const RowTile queries = query_tiles_[query_tile_count_ - 1 - index / (operands_.batch * heads)];
    const std::int64_t batch = index % (operands_.batch * heads) / heads;
    const std::int64_t head = index % heads;

    Scratch scratch;
    auto* memory = static_cast<float*>(team.team_scratch(0).get_shmem(scratch_bytes()));
    scratch.q = memory;
    scratch.rows = scratch.q + query_tile_ * padded_dim_;
    scratch.out = scratch.rows + key_tile_ * padded_dim_;
    scratch.scores = scratch.out + query_tile_ * padded_dim_;
    scratch.maximum = scratch.scores + query_tile_ * key_tile_;
    scratch.sum = scratch.maximum + query_tile_;
    scratch.factor = scratch.sum + query_tile_;

    load_queries(team, scratch, batch, head, queries);
    const std::int64_t last = queries.position + queries.length - 1;
    for (int r = 0; r < key_run_count_; ++r) {
      const RowTile& run = key_runs_[r];
      const std::int64_t first = operands_.rule.first_key(queries.position, run.position);
      const std::int64_t end = operands_.rule.end_key(last, run.position + run.length);
      const std::int64_t aligned = (first - run.position) / key_tile_ * key_tile_;
      for (std::int64_t begin = aligned; run.position + begin < end; begin += key_tile_) {
        const std::int64_t rest = run.length - begin;
        const RowTile keys{run.row + begin, run.position + begin,
                           rest < key_tile_ ? rest : key_tile_};
        visit(team, scratch, batch, head, queries, keys);
      }
    }
    store(team, scratch, batch, head, queries);
  }

 private:
  struct Scratch {
    float* q;        // [query_tile][padded_dim]
    float* rows;     // keys [head_dim][key_tile], then values [key_tile][padded_dim]
    float* out;      // [query_tile][padded_dim], not yet divided by sum
    float* scores;   // [query_tile][key_tile]
    float* maximum;  // [query_tile]
    float* sum;
    float* factor;
  };

  [[nodiscard]] KOKKOS_INLINE_FUNCTION std::size_t scratch_bytes() const {
    return sizeof(float) *
           static_cast<std::size_t>(2 * query_tile_ * padded_dim_ + key_tile_ * padded_dim_ +
                                    query_tile_ * key_tile_ + 3 * query_tile_);
  }

  KOKKOS_INLINE_FUNCTION void load_queries(const Member& team, const Scratch& scratch,
                                           std::int64_t batch, std::int64_t head,
                                           const RowTile& queries) const {
    Kokkos::parallel_for(
        Kokkos::TeamThreadRange(team, query_tile_ * padded_dim_), [&](const int index) {
          const int row = index / padded_dim_;
          const int column = index % padded_dim_;
          const bool inside = row < queries.length && column < operands_.head_dim;
          scratch.q[index] =
              inside
                  ? operands_.scale *
                        to_float(
                            operands_.q[operands_.q_strides.offset(batch, queries.row + row, head) +
                                        column])
                  : 0.0F;
          scratch.out[index] = 0.0F;
        });
    Kokkos::parallel_for(Kokkos::TeamThreadRange(team, query_tile_), [&](const int row) {
      scratch.maximum[row] = -std::numeric_limits<float>::infinity();
      scratch.sum[row] = 0.0F;
    });
    team.team_barrier();
  }

  KOKKOS_INLINE_FUNCTION void visit(const Member& team, const Scratch& scratch, std::int64_t batch,
                                    std::int64_t head, const RowTile& queries,
                                    const RowTile& keys) const {
    const std::int64_t key_head = head / operands_.heads_per_key_head;
    const int tile = key_tile_;
    const int head_dim = operands_.head_dim;
    const T* k = operands_.k + operands_.k_strides.offset(batch, keys.row, key_head);
    Kokkos::parallel_for(Kokkos::TeamThreadRange(team, tile * head_dim), [&](const int index) {
      const int row = index / head_dim;
      const int column = index % head_dim;
      scratch.rows[column * tile + row] =
          row < keys.length ? to_float(k[row * operands_.k_strides.token + column]) : 0.0F;
    });
    team.team_barrier();

    const int key_blocks = tile / kLanes;
    Kokkos::parallel_for(Kokkos::TeamThreadRange(team, query_tile_ * key_blocks),
                         [&](const int index) {
                           const int row = index / key_blocks;
                           const int column = index % key_blocks * kLanes;
                           float sums[kLanes] = {};
                           for (int d = 0; d < head_dim; ++d) {
                             const float q = scratch.q[row * padded_dim_ + d];
                             const float* key = scratch.rows + d * tile + column;
                             for (int lane = 0; lane < kLanes; ++lane) sums[lane] += q * key[lane];
                           }
                           float* scores = scratch.scores + row * tile + column;
                           for (int lane = 0; lane < kLanes; ++lane) scores[lane] = sums[lane];
                         });
    team.team_barrier();

    Kokkos::parallel_for(Kokkos::TeamThreadRange(team, query_tile_),
                         [&](const int row) { soften_row(scratch, row, queries, keys); });
    const T* v = operands_.v + operands_.v_strides.offset(batch, keys.row, key_head);
    Kokkos::parallel_for(Kokkos::TeamThreadRange(team, tile * padded_dim_), [&](const int index) {
      const int row = index / padded_dim_;
      const int column = index % padded_dim_;
      scratch.rows[index] = row < keys.length && column < head_dim
                                ? to_float(v[row * operands_.v_strides.token + column])
                                : 0.0F;
    });
    team.team_barrier();

    const int dim_blocks = padded_dim_ / kLanes;
    Kokkos::parallel_for(Kokkos::TeamThreadRange(team, query_tile_ * dim_blocks),
                         [&](const int index) {
                           const int row = index / dim_blocks;
                           const int column = index % dim_blocks * kLanes;
                           float* out = scratch.out + row * padded_dim_ + column;
                           float sums[kLanes];
                           for (int lane = 0; lane < kLanes; ++lane)
                             sums[lane] = out[lane] * scratch.factor[row];
                           for (int key = 0; key < keys.length; ++key) {
                             const float weight = scratch.scores[row * tile + key];
                             const float* value = scratch.rows + key * padded_dim_ + column;
                             for (int lane = 0; lane < kLanes; ++lane)
                               sums[lane] += weight * value[lane];
                           }
                           for (int lane = 0; lane < kLanes; ++lane) out[lane] = sums[lane];
                         });
    team.team_barrier();
  }

  /// Turns a row of scores into weights relative to the row's maximum so far, and sets the factor
  /// by which what was accumulated under the earlier maximum has to shrink.
  KOKKOS_INLINE_FUNCTION void soften_row(const Scratch& scratch, int row, const RowTile& queries,
                                         const RowTile& keys) const {
    float* scores = scratch.scores + row * key_tile_;
    const std::int64_t query = queries.position + row;
    const auto first =
        static_cast<int>(operands_.rule.first_key(query, keys.position) - keys.position);
    const auto end = static_cast<int>(operands_.rule.end_key(query, keys.position + keys.length) -
                                      keys.position);
    const float before = scratch.maximum[row];
    float maximum = before;
    for (int key = first; key < end; ++key) maximum = scores[key] > maximum ? scores[key] : maximum;
    // A row that has seen nothing yet keeps weights of 0: exp(-inf - 0).
    const float reference = maximum == -std::numeric_limits<float>::infinity() ? 0.0F : maximum;
    float sum = 0.0F;
    for (int key = 0; key < key_tile_; ++key) {
      const bool seen = key >= first && key < end;
      scores[key] = seen ? std::exp(scores[key] - reference) : 0.0F;
      sum += scores[key];
    }
    scratch.factor[row] = std::exp(before - reference);
    scratch.maximum[row] = maximum;
    scratch.sum[row] = scratch.sum[row] * scratch.factor[row] + sum;
  }

  KOKKOS_INLINE_FUNCTION void store(const Member& team, const Scratch& scratch, std::int64_t batch,
                                    std::int64_t head, const RowTile& queries) const {
    const int head_dim = operands_.head_dim;
    const auto rows = static_cast<int>(queries.length);
    Kokkos::parallel_for(Kokkos::TeamThreadRange(team, rows * head_dim), [&](const int index) {
      const int row = index / head_dim;
      const int column = index % head_dim;
      const float sum = scratch.sum[row];
      const float value = scratch.out[row * padded_dim_ + column];
      operands_.out[operands_.out_strides.offset(batch, queries.row + row, head) + column] =
          from_float<Out>(sum == 0.0F ? 0.0F : value / sum);
    });
    Kokkos::parallel_for(Kokkos::TeamThreadRange(team, rows), [&](const int row) {
      // log(0) is the -infinity of a row that sees no key.
      const float sum = scratch.sum[row];
      operands_.store_log_sum_exp(batch, head, queries.row + row,
                                  sum == 0.0F ? -std::numeric_limits<float>::infinity()
                                              : scratch.maximum[row] + std::log(sum));
    });
  }

  Operands<T, Out> operands_;
  const RowTile* query_tiles_;
  std::int64_t query_tile_count_;
  const RowTile* key_runs_;
  int key_run_count_;
  int padded_dim_;
  int query_tile_;
  int key_tile_;
};

}  // namespace portolan::portable
