// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "backends/compat/kokkos.hpp"

namespace portolan::compat {

/// C = op(A) op(B) + beta C in f32, row-major, for a Kokkos without Kokkos Kernels: one team per
/// tile of C, operands brought to team scratch tile by tile. Sums run along k in order, whatever
/// the team.
template <class Space>
struct TiledGemm {
  using Policy = Kokkos::TeamPolicy<Space>;
  using Member = typename Policy::member_type;

  static constexpr int kTile = 32;
  /// Neighbouring columns that one thread computes: a vector register on a CPU.
  static constexpr int kLanes = kRunsOnHost<Space> ? 16 : 4;
  static constexpr int kItems = kTile * kTile / kLanes;
  static constexpr int kTeamSize = kRunsOnHost<Space> ? 1 : kItems;

  const float* a = nullptr;  // [rows, inner], or its transpose
  const float* b = nullptr;  // [inner, columns], or its transpose
  float* c = nullptr;        // [rows, columns]
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t inner = 0;
  std::int64_t a_stride = 0;
  std::int64_t b_stride = 0;
  std::int64_t c_stride = 0;
  bool transpose_a = false;
  bool transpose_b = false;
  float beta = 0.0F;

  [[nodiscard]] static constexpr std::int64_t tiles(std::int64_t extent) {
    return (extent + kTile - 1) / kTile;
  }

  void launch(const Space& space) const {
    if (rows == 0 || columns == 0) return;
    constexpr std::size_t kScratchBytes = 3 * kTile * kTile * sizeof(float);
    Policy policy(space, static_cast<int>(tiles(rows) * tiles(columns)), kTeamSize);
    policy.set_scratch_size(0, Kokkos::PerTeam(kScratchBytes));
    Kokkos::parallel_for("Portolan::Matmul::tiled_gemm", policy, *this);
  }

  KOKKOS_INLINE_FUNCTION void operator()(const Member& team) const {
    const std::int64_t column_tiles = tiles(columns);
    const std::int64_t row = team.league_rank() / column_tiles * kTile;
    const std::int64_t column = team.league_rank() % column_tiles * kTile;
    constexpr std::size_t kScratchBytes = 3 * kTile * kTile * sizeof(float);
    auto* const a_tile = static_cast<float*>(team.team_scratch(0).get_shmem(kScratchBytes));
    float* const b_tile = a_tile + kTile * kTile;
    float* const sums = b_tile + kTile * kTile;
    Kokkos::parallel_for(Kokkos::TeamThreadRange(team, kTile * kTile),
                         [&](const int index) { sums[index] = 0.0F; });
    for (std::int64_t k = 0; k < inner; k += kTile) {
      load(team, a_tile, b_tile, row, column, k);
      team.team_barrier();
      Kokkos::parallel_for(Kokkos::TeamThreadRange(team, int{kItems}), [&](const int item) {
        const int i = item / (kTile / kLanes);
        const int j = item % (kTile / kLanes) * kLanes;
        float own[kLanes];
        for (int lane = 0; lane < kLanes; ++lane) own[lane] = sums[i * kTile + j + lane];
        for (int inner_index = 0; inner_index < kTile; ++inner_index) {
          const float value = a_tile[i * kTile + inner_index];
          const float* const other = b_tile + inner_index * kTile + j;
          for (int lane = 0; lane < kLanes; ++lane) own[lane] += value * other[lane];
        }
        for (int lane = 0; lane < kLanes; ++lane) sums[i * kTile + j + lane] = own[lane];
      });
      team.team_barrier();
    }
    Kokkos::parallel_for(Kokkos::TeamThreadRange(team, kTile * kTile), [&](const int index) {
      const std::int64_t i = row + index / kTile;
      const std::int64_t j = column + index % kTile;
      if (i >= rows || j >= columns) return;
      float& to = c[i * c_stride + j];
      to = beta == 0.0F ? sums[index] : sums[index] + beta * to;
    });
  }

 private:
  /// Tiles of A as [row][k] and of B as [k][column]; 0 beyond the matrices.
  KOKKOS_INLINE_FUNCTION void load(const Member& team, float* a_tile, float* b_tile,
                                   std::int64_t row, std::int64_t column, std::int64_t k) const {
    Kokkos::parallel_for(Kokkos::TeamThreadRange(team, kTile * kTile), [&](const int index) {
      const int first = index / kTile;
      const int second = index % kTile;
      // Neighbouring threads read neighbouring elements of A and of B either way.
      const int a_row = transpose_a ? second : first;
      const int a_k = transpose_a ? first : second;
      const std::int64_t a_offset =
          transpose_a ? (k + a_k) * a_stride + row + a_row : (row + a_row) * a_stride + k + a_k;
      a_tile[a_row * kTile + a_k] = row + a_row < rows && k + a_k < inner ? a[a_offset] : 0.0F;
      const int b_k = transpose_b ? second : first;
      const int b_column = transpose_b ? first : second;
      const bool inside = k + b_k < inner && column + b_column < columns;
      const std::int64_t offset = transpose_b ? (column + b_column) * b_stride + k + b_k
                                              : (k + b_k) * b_stride + column + b_column;
      b_tile[b_k * kTile + b_column] = inside ? b[offset] : 0.0F;
    });
  }
};

}  // namespace portolan::compat
