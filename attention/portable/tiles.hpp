// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include "attention/kernel.hpp"
#include "attention/portable/products.hpp"
#include "core/error.hpp"

/// What methods that go tile by tile share: a team holds a tile of rows, widened to f32, in its
/// scratch memory, and visits tiles of the rows on the other side, which it stages there one by
/// one.
namespace portolan::portable {

template <class Space>
inline constexpr bool kOnHost = compat::kRunsOnHost<Space>;

/// What the columns of tiles are padded to: vectors of the host, or what a GPU's thread computes.
template <class Space>
inline constexpr int kLanes = kOnHost<Space> ? 16 : 4;

struct TileShape {
  int own = 0;    ///< rows that a team holds
  int other = 0;  ///< rows that it visits at a time
};

/// On GPUs scratch must fit into 48 KiB, which every GPU grants without asking.
template <class Space>
constexpr TileShape tile_shape(AttentionPass pass, std::int64_t head_dim) {
  const bool forward = pass == AttentionPass::forward;
  if (kOnHost<Space>) return {forward ? 32 : 64, 64};
  const int own = head_dim <= 128 ? 16 : 8;
  return {own, forward ? 2 * own : own};
}

/// Tiles that one team visited, and those of them in which indices were compared.
struct TileCounts {
  std::int64_t visited = 0;
  std::int64_t compared = 0;
};

/// The work of one team of a kernel: its scratch memory, and the steps that kernels consist of.
/// Each step ends with a barrier.
template <class Space>
class TileTeam {
 public:
  using Policy = Kokkos::TeamPolicy<Space, Kokkos::Schedule<Kokkos::Dynamic>>;
  using Member = typename Policy::member_type;
  /// On the host, where the levels do not differ, the one that has no small limit. (A value where
  /// it is used: what is taken by reference would have to exist on a GPU.)
  static constexpr int kScratchLevel = kOnHost<Space> ? 1 : 0;

  /// own_tiles tiles [own][padded_dim], one for the other side, two tiles of scores.
  static KOKKOS_INLINE_FUNCTION std::size_t scratch_bytes(const TileShape& shape, int head_dim,
                                                          int own_tiles) {
    const int rows = own_tiles * shape.own + shape.other;
    return sizeof(float) *
           static_cast<std::size_t>(rows * padded(head_dim) + 2 * shape.own * shape.other);
  }

  template <class Kernel>
  static void launch(const char* name, std::int64_t league, std::size_t bytes,
                     const Kernel& kernel) {
    if (league == 0) return;
    require(league <= std::numeric_limits<int>::max(),
            "{}: {} tiles are more than a launch can count", name, league);
    const auto teams = static_cast<int>(league);
    Policy policy = kOnHost<Space> ? Policy(teams, 1) : Policy(teams, Kokkos::AUTO);
    policy.set_scratch_size(kScratchLevel, Kokkos::PerTeam(static_cast<int>(bytes)));
    Kokkos::parallel_for(name, policy, kernel);
  }

  KOKKOS_INLINE_FUNCTION TileTeam(const Member& member, const ProblemView<Space>& problem,
                                  const TileShape& shape, int own_tiles)
      : member_(member),
        problem_(problem),
        shape_(shape),
        head_dim_(problem.head_dim),
        padded_dim_(padded(problem.head_dim)) {
    own_ = static_cast<float*>(
        member.team_scratch(int{kScratchLevel})
            .get_shmem(static_cast<int>(scratch_bytes(shape, head_dim_, own_tiles))));
    other_ = own_ + own_tiles * shape.own * padded_dim_;
    scores_ = other_ + shape.other * padded_dim_;
  }

  [[nodiscard]] KOKKOS_INLINE_FUNCTION float* own(int tile) const {
    return own_ + tile * shape_.own * padded_dim_;
  }
  /// Tiles [own][other].
  [[nodiscard]] KOKKOS_INLINE_FUNCTION float* scores(int tile) const {
    return scores_ + tile * shape_.own * shape_.other;
  }
  [[nodiscard]] KOKKOS_INLINE_FUNCTION int padded_dim() const { return padded_dim_; }
  [[nodiscard]] KOKKOS_INLINE_FUNCTION const TileShape& shape() const { return shape_; }

  /// Calls `function(row)` for rows 0 .. count - 1, each on one thread.
  template <typename Function>
  KOKKOS_INLINE_FUNCTION void for_rows(std::int64_t count, const Function& function) const {
    Kokkos::parallel_for(Kokkos::TeamThreadRange(member_, static_cast<int>(count)), function);
    member_.team_barrier();
  }

  KOKKOS_INLINE_FUNCTION void clear_own(int tile) const {
    float* values = own(tile);
    for_elements(shape_.own, padded_dim_,
                 [&](int row, int column) { values[row * padded_dim_ + column] = 0.0F; });
  }

  /// Own tile = factor * rows, zeros around them.
  KOKKOS_INLINE_FUNCTION void load_own(int tile, const Operand& operand, std::int64_t batch,
                                       const RowTile& rows, std::int64_t head, float factor) const {
    load(own(tile), shape_.own, operand, batch, rows, head, factor);
  }
  KOKKOS_INLINE_FUNCTION void load_other(const Operand& operand, std::int64_t batch,
                                         const RowTile& rows, std::int64_t head) const {
    load(other_, shape_.other, operand, batch, rows, head, 1.0F);
  }

  /// scores(tile)[own][other] = own(own_tile) . rows of the other side.
  KOKKOS_INLINE_FUNCTION void score(int own_tile, const Operand& operand, std::int64_t batch,
                                    const RowTile& rows, std::int64_t head, int tile) const {
    const int columns = shape_.other;
    const auto length = static_cast<int>(rows.length);
    operand.at(batch, rows.row, head, [&](const auto* values) {
      const std::int64_t stride = operand.token_stride;
      for_elements(head_dim_, length, [&](int d, int row) {
        other_[d * columns + row] = to_float(values[row * stride + d]);
      });
    });
    for_elements(head_dim_, columns - length,
                 [&](int d, int row) { other_[d * columns + length + row] = 0.0F; });
    multiply(own(own_tile), padded_dim_, other_, columns, scores(tile), columns, head_dim_, columns,
             false);
  }

  /// own(own_tile) += scores(tile) times what load_other() has loaded.
  KOKKOS_INLINE_FUNCTION void accumulate(int tile, std::int64_t rows, int own_tile) const {
    multiply(scores(tile), shape_.other, other_, padded_dim_, own(own_tile), padded_dim_,
             static_cast<int>(rows), padded_dim_, true);
  }

  /// Multiplies scores(tile) by dropout's factors; a score lies query_stride and key_stride from
  /// its neighbours.
  KOKKOS_INLINE_FUNCTION void drop(int tile, std::int64_t batch, std::int64_t head,
                                   const RowTile& queries, const RowTile& keys, int query_stride,
                                   int key_stride) const {
    if (!problem_.dropout.active()) return;
    float* values = scores(tile);
    for_rows(queries.length, [&](const int row) {
      const RowTile query = rows_within(queries, queries.row + row, queries.row + row + 1);
      problem_.dropout.for_keys(
          batch, head, query, keys.position, keys.length, [&](std::int64_t i, bool dropped) {
            values[row * query_stride + i * key_stride] *= dropped ? 0.0F : problem_.dropout.kept;
          });
    });
  }

  /// Writes factor(row) * own rows, or adds that to what is there.
  template <typename Factor>
  KOKKOS_INLINE_FUNCTION void store_own(int tile, const Operand& operand, std::int64_t batch,
                                        const RowTile& rows, std::int64_t head,
                                        const Factor& factor, bool accumulate) const {
    const float* source = own(tile);
    operand.at(batch, rows.row, head, [&](auto* values) {
      using Value = std::remove_pointer_t<decltype(values)>;
      const std::int64_t stride = operand.token_stride;
      for_elements(static_cast<int>(rows.length), head_dim_, [&](int row, int d) {
        Value& value = values[row * stride + d];
        const float before = accumulate ? to_float(value) : 0.0F;
        value = from_float<Value>(before + factor(row) * source[row * padded_dim_ + d]);
      });
    });
  }

  KOKKOS_INLINE_FUNCTION void store_counts(TileCounts* counts, const TileCounts& own) const {
    if (counts == nullptr) return;
    Kokkos::single(Kokkos::PerTeam(member_), [&]() { counts[member_.league_rank()] = own; });
  }

 private:
  static KOKKOS_INLINE_FUNCTION int padded(int head_dim) {
    return (head_dim + kLanes<Space> - 1) / kLanes<Space> * kLanes<Space>;
  }

  /// Neighbouring columns go to neighbouring threads, or into vectors on the host.
  template <typename Function>
  KOKKOS_INLINE_FUNCTION void for_elements(int rows, int columns, const Function& function) const {
    if constexpr (kOnHost<Space>) {
      for (int row = 0; row < rows; ++row) {
        for (int column = 0; column < columns; ++column) function(row, column);
      }
    } else {
      Kokkos::parallel_for(Kokkos::TeamThreadRange(member_, rows * columns),
                           [&](const int index) { function(index / columns, index % columns); });
      member_.team_barrier();
    }
  }

  KOKKOS_INLINE_FUNCTION void load(float* tile, int tile_rows, const Operand& operand,
                                   std::int64_t batch, const RowTile& rows, std::int64_t head,
                                   float factor) const {
    const auto length = static_cast<int>(rows.length);
    operand.at(batch, rows.row, head, [&](const auto* values) {
      const std::int64_t stride = operand.token_stride;
      for_elements(length, head_dim_, [&](int row, int d) {
        tile[row * padded_dim_ + d] = factor * to_float(values[row * stride + d]);
      });
    });
    for_elements(length, padded_dim_ - head_dim_,
                 [&](int row, int d) { tile[row * padded_dim_ + head_dim_ + d] = 0.0F; });
    for_elements(tile_rows - length, padded_dim_,
                 [&](int row, int d) { tile[(length + row) * padded_dim_ + d] = 0.0F; });
  }

  /// c[own][columns] (+)= a[own][inner] b[inner][columns].
  KOKKOS_INLINE_FUNCTION void multiply(const float* a, int a_stride, const float* b, int b_stride,
                                       float* c, int c_stride, int inner, int columns,
                                       bool add) const {
    // A whole row on the host, where columns go into vectors.
    const int lanes = kOnHost<Space> ? columns : kLanes<Space>;
    const int column_blocks = columns / lanes;
    for_rows(shape_.own * column_blocks, [=](const int index) {
      const int column = index % column_blocks * lanes;
      const float* factors = a + index / column_blocks * a_stride;
      float* sums = c + index / column_blocks * c_stride + column;
      if (!add) {
        for (int lane = 0; lane < lanes; ++lane) sums[lane] = 0.0F;
      }
      add_products([factors](std::int64_t i) { return factors[i]; }, b + column, b_stride, inner,
                   lanes, sums);
    });
  }

  const Member& member_;
  const ProblemView<Space>& problem_;
  TileShape shape_;
  int head_dim_;
  int padded_dim_;
  float* own_;
  float* other_;
  float* scores_;
};

/// Cuts a stretch of rows into tiles of at most `size` rows and calls `function(tile)` for each.
template <typename Function>
KOKKOS_INLINE_FUNCTION void for_tiles(const RowTile& rows, int size, const Function& function) {
  for (std::int64_t begin = rows.row; begin < rows.row + rows.length; begin += size) {
    function(rows_within(rows, begin, begin + size));
  }
}

/// Of a visited tile, the columns that each row sees.
class TileMask {
 public:
  KOKKOS_INLINE_FUNCTION TileMask(const MaskRule& rule, const RowTile& queries, const RowTile& keys,
                                  TileCounts& counts)
      : rule_(rule),
        queries_(queries),
        keys_(keys),
        compared_(tile_visibility(rule, queries, keys) != TileVisibility::full) {
    ++counts.visited;
    counts.compared += compared_ ? 1 : 0;
  }

  struct Columns {
    int first;
    int end;
  };
  /// Rows are queries, columns keys.
  [[nodiscard]] KOKKOS_INLINE_FUNCTION Columns keys_of(int row) const {
    if (!compared_) return {0, static_cast<int>(keys_.length)};
    return columns(seen_keys(rule_, one(queries_, row), keys_), keys_);
  }
  /// Rows are keys, columns queries.
  [[nodiscard]] KOKKOS_INLINE_FUNCTION Columns queries_of(int row) const {
    if (!compared_) return {0, static_cast<int>(queries_.length)};
    return columns(seeing_queries(rule_, queries_, one(keys_, row)), queries_);
  }

 private:
  static KOKKOS_INLINE_FUNCTION RowTile one(const RowTile& tile, int row) {
    return rows_within(tile, tile.row + row, tile.row + row + 1);
  }
  static KOKKOS_INLINE_FUNCTION Columns columns(const RowTile& part, const RowTile& tile) {
    const auto first = static_cast<int>(part.row - tile.row);
    return {first, first + static_cast<int>(part.length)};
  }

  const MaskRule& rule_;
  const RowTile& queries_;
  const RowTile& keys_;
  bool compared_;
};

}  // namespace portolan::portable
