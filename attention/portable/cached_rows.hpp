// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>

#include "attention/portable/rows.hpp"
#include "backends/portable/rows.hpp"
#include "core/error.hpp"

/// Attention of few queries over a cache that says itself which of its rows hold tokens.
namespace portolan::portable {

/// One team for each query of each head, which goes through the keys in steps with an online
/// softmax: on a GPU each of its threads has a key of the step, then columns of the result. The
/// launch depends on shapes alone, and the host prepares nothing.
template <class Space>
class CachedRowsForward {
 public:
  using Policy = Kokkos::TeamPolicy<Space, Kokkos::IndexType<std::int64_t>>;
  using Member = typename Policy::member_type;

  CachedRowsForward(const AttentionProblem& problem, const Tensor& out, const Tensor& log_sum_exp)
      : q_(problem.q),
        k_(problem.k),
        v_(problem.v),
        out_(out),
        log_sum_exp_(log_sum_exp),
        rows_(problem.cached_rows.data<std::int32_t>()),
        batch_(problem.q.dim(0)),
        queries_(problem.q.dim(1)),
        heads_(problem.q.dim(2)),
        heads_per_key_head_(heads_ / problem.k.dim(2)),
        capacity_(problem.k.dim(1)),
        head_dim_(static_cast<int>(problem.q.dim(3))),
        scale_(problem.scale),
        rule_(problem.mask) {}

  void launch() const {
    const std::int64_t teams = batch_ * heads_ * queries_;
    if (teams == 0) return;
    constexpr const char* kName = "Portolan::Attention::cached_rows";
    require(teams <= std::numeric_limits<int>::max(),
            "{}: {} queries are more than a launch can count", kName, teams);
    Policy policy(static_cast<int>(teams), kThreads);
    policy.set_scratch_size(kScratchLevel, Kokkos::PerTeam(static_cast<int>(scratch_bytes())));
    // Arguments travel with the launch, however many: memory in between cannot be recorded.
    Kokkos::parallel_for(kName,
                         Kokkos::Experimental::require(
                             policy, Kokkos::Experimental::WorkItemProperty::HintLightWeight),
                         *this);
  }

  KOKKOS_INLINE_FUNCTION void operator()(const Member& team) const {
    const auto index = static_cast<std::int64_t>(team.league_rank());
    const std::int64_t token = index % queries_;
    const std::int64_t head = index / queries_ % heads_;
    const std::int64_t batch = index / queries_ / heads_;
    const std::int64_t key_head = head / heads_per_key_head_;
    const KeyRange rows = cached_rows_of(rows_, batch, capacity_);
    const std::int64_t position = rows.end - queries_ + token;
    const std::int64_t first = rule_.first_key(position, rows.begin);
    const std::int64_t last = rule_.end_key(position, rows.end);

    float* const query = static_cast<float*>(
        team.team_scratch(int{kScratchLevel}).get_shmem(static_cast<int>(scratch_bytes())));
    float* const sums = query + head_dim_;
    float* const weights = sums + head_dim_;
    for_columns(team, [&](const int d) {
      q_.at(batch, token, head, [&](const auto* row) { query[d] = scale_ * to_float(row[d]); });
      sums[d] = 0.0F;
    });
    float maximum = kNothing;
    float sum = 0.0F;
    for (std::int64_t key = first; key < last; key += kKeys) {
      const RowTile keys{key, key, last - key < kKeys ? last - key : kKeys};
      const float largest = row_maximum(team, keys.length, [&](const std::int64_t i) {
        multiply_rows(query, k_, batch, key_head, rows_within(keys, key + i, key + i + 1),
                      head_dim_, 1.0F, weights + i);
        return weights[i];
      });
      const float before = maximum;
      maximum = largest > maximum ? largest : maximum;
      // A row that has seen nothing yet keeps weights of 0: exp(-inf - 0).
      const float reference = maximum == kNothing ? 0.0F : maximum;
      team.team_barrier();
      const float part = row_sum<Space>(team, keys.length, [&](const std::int64_t i) {
        weights[i] = compat::exp(weights[i] - reference);
        return weights[i];
      });
      const float factor = compat::exp(before - reference);
      sum = sum * factor + part;
      team.team_barrier();
      add_values(team, batch, key_head, keys, factor, weights, sums);
      team.team_barrier();
    }
    const float inverse = sum == 0.0F ? 0.0F : 1.0F / sum;
    for_columns(team, [&](const int d) {
      out_.at(batch, token, head, [&](auto* row) {
        using Value = std::remove_pointer_t<decltype(row)>;
        row[d] = from_float<Value>(inverse * sums[d]);
      });
    });
    if (log_sum_exp_.data == nullptr) return;
    Kokkos::single(Kokkos::PerTeam(team), [&]() {
      log_sum_exp_.at(batch, head, token) = sum == 0.0F ? kNothing : maximum + compat::log(sum);
    });
  }

 private:
  static constexpr bool kOnHost = compat::kRunsOnHost<Space>;
  static constexpr int kThreads = kOnHost ? 1 : 128;
  /// Of a step: one for each thread of a GPU's team; what fits the cache beside its rows on hosts.
  static constexpr int kKeys = 128;
  /// On the host, where the levels do not differ, the one that has no small limit.
  static constexpr int kScratchLevel = kOnHost ? 1 : 0;

  [[nodiscard]] KOKKOS_INLINE_FUNCTION std::size_t scratch_bytes() const {
    return sizeof(float) * static_cast<std::size_t>(2 * head_dim_ + kKeys);
  }

  template <typename Function>
  KOKKOS_INLINE_FUNCTION void for_columns(const Member& team, const Function& function) const {
    Kokkos::parallel_for(Kokkos::TeamVectorRange(team, head_dim_), function);
    team.team_barrier();
  }

  /// sums = factor * sums + weights of the keys * their values.
  KOKKOS_INLINE_FUNCTION void add_values(const Member& team, std::int64_t batch,
                                         std::int64_t key_head, const RowTile& keys, float factor,
                                         const float* weights, float* sums) const {
    if constexpr (kOnHost) {
      for (int d = 0; d < head_dim_; ++d) sums[d] *= factor;
      add_weighted_rows([&](std::int64_t i) { return weights[i]; }, v_, batch, key_head, keys,
                        head_dim_, sums);
    } else {
      v_.at(batch, keys.row, key_head, [&](const auto* values) {
        Kokkos::parallel_for(Kokkos::TeamVectorRange(team, head_dim_), [&](const int d) {
          float total = factor * sums[d];
          for (std::int64_t i = 0; i < keys.length; ++i) {
            total += weights[i] * to_float(values[i * v_.token_stride + d]);
          }
          sums[d] = total;
        });
      });
    }
  }

  Operand q_;
  Operand k_;
  Operand v_;
  Operand out_;
  RowValues log_sum_exp_;
  const std::int32_t* rows_;
  std::int64_t batch_;
  std::int64_t queries_;
  std::int64_t heads_;
  std::int64_t heads_per_key_head_;
  std::int64_t capacity_;
  int head_dim_;
  float scale_;
  MaskRule rule_;
};

}  // namespace portolan::portable
