// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "attention/tiles.hpp"
#include "core/random.hpp"
#include "core/tensor.hpp"

/// What is asked of attention: operands, mask, dropout.
///
/// Letters: B batch, Sq and Sk tokens, H query heads, Hkv key/value heads (H a multiple of Hkv;
/// query head h reads key/value head h / (H / Hkv)), D head_dim (1 to kMaximumAttentionHeadDim).
namespace portolan {

/// A contiguous run of tokens: `length` rows of a tensor that stand at positions `position`,
/// `position + 1`, ... of sequence `sequence`. Queries see keys of their own sequence only, so that
/// sequences of any lengths lie packed in the rows of one batch entry (Krell et al. 2021,
/// arXiv:2107.02027).
struct TokenRun {
  std::int64_t position = 0;
  std::int64_t length = 0;
  std::int64_t sequence = 0;
};

/// Rows [begin, end) of the keys: those of one batch entry that are not padding.
struct KeyRange {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

/// Which blocks of scores are computed, per query head: block (i, j) is rows
/// [i * block_queries, ...) of q and rows [j * block_keys, ...) of k. Compressed rows: the blocks
/// of block row i of head h are columns[row_begin[h * block_rows + i]] to columns[row_begin[h *
/// block_rows + i + 1]], ascending (Child et al. 2019, arXiv:1904.10509).
struct BlockMap {
  std::int64_t heads = 0;
  std::int64_t block_rows = 0;
  std::int64_t block_columns = 0;
  std::int64_t block_queries = 0;
  std::int64_t block_keys = 0;
  std::vector<std::int32_t> row_begin;
  std::vector<std::int32_t> columns;

  [[nodiscard]] bool contains(std::int64_t head, std::int64_t block_row,
                              std::int64_t block_column) const;
};

/// From dense flags [heads][block_rows][block_columns]; not 0: computed.
[[nodiscard]] BlockMap block_map_from_flags(std::int64_t heads, std::int64_t block_rows,
                                            std::int64_t block_columns, std::int64_t block_queries,
                                            std::int64_t block_keys, const std::uint8_t* flags);

/// Which keys a query sees. Position-carrying runs make chunked prefill, zigzag shards, packing and
/// ordinary self-attention one thing: a query at position p sees a key of its sequence at position
/// j if (not causal or j <= p) and (window == 0 or p - j < window), if the key is no padding, and
/// if its block is computed.
struct AttentionMask {
  bool causal = true;
  /// Sliding window: a token sees itself and the window - 1 before it. 0: none. Implies causal.
  std::int64_t window = 0;
  /// In the order of the rows of q and of k; lengths add up to Sq and Sk. Empty means one run that
  /// is aligned bottom-right: queries end where the keys end.
  std::vector<TokenRun> query_runs = {};
  std::vector<TokenRun> key_runs = {};
  /// One per batch entry, or empty: no padding.
  std::vector<KeyRange> key_ranges = {};
  /// Null: all blocks.
  std::shared_ptr<const BlockMap> blocks = {};
};

/// Weights are dropped after the softmax and the others scaled by 1 / (1 - probability). Whether
/// one is dropped is a pure function of key and of (entry, head, query position, key position), so
/// that tiling, ranks and passes agree. Entry is batch entry + sequence.
struct AttentionDropout {
  float probability = 0.0F;  ///< in [0, 1)
  RandomKey key = {};
  /// Global indices of batch entry 0 and of query head 0 of q.
  std::int64_t first_entry = 0;
  std::int64_t first_head = 0;
};

/// The words that decide on the key at key_position and its neighbours, which are those of equal
/// key_position / 4 rounded down, in their order: a weight is dropped where the word is less than
/// dropout_threshold(probability).
[[nodiscard]] PORTOLAN_HOST_DEVICE inline std::array<std::uint32_t, 4> dropout_words(
    RandomKey key, std::int64_t entry, std::int64_t head, std::int64_t query_position,
    std::int64_t key_position) {
  // The stream's words are mixed into the key, which leaves the whole counter to the coordinates.
  return philox4x32(
      {static_cast<std::uint32_t>(key_position >> 2), static_cast<std::uint32_t>(query_position),
       static_cast<std::uint32_t>(head), static_cast<std::uint32_t>(entry)},
      static_cast<std::uint32_t>(key.seed) ^ static_cast<std::uint32_t>(key.stream),
      static_cast<std::uint32_t>(key.seed >> 32) ^ static_cast<std::uint32_t>(key.stream >> 32));
}

/// Work that a kernel did, for tests and benchmarks. A tile is a block of scores that the kernel
/// computes as one.
struct AttentionStatistics {
  std::int64_t tiles_visited = 0;
  std::int64_t tiles_compared = 0;  ///< of these, where indices were compared
  std::int64_t query_tile = 0;      ///< rows of q that one tile has at most, per query head
  std::int64_t key_tile = 0;
};

struct AttentionProblem {
  Tensor q;  ///< [B, Sq, H, D], any strides for B, S and H, dense in D
  Tensor k;  ///< [B, Sk, Hkv, D]
  Tensor v;  ///< [B, Sk, Hkv, D]
  AttentionMask mask = {};
  float scale = 1.0F;  ///< multiplies q.k, usually 1 / sqrt(D)
  AttentionDropout dropout = {};
  /// Rows [begin, end) of k and v of each batch entry that hold tokens: i32 [B, 2] on the device of
  /// q, contiguous. Undefined: all rows do. Read when the kernel runs, so that recorded work can be
  /// started again after they have changed; rows outside are never read, bounds beyond [0, Sk] are
  /// clamped. The queries of an entry stand at the last Sq of its rows. Such a problem has no runs,
  /// padding, blocks or dropout in it, and no backward pass.
  Tensor cached_rows = {};
  /// Absent: what the kernel takes by itself. Kernels whose tiles are fixed do not look at it.
  std::optional<AttentionTiles> tiles = {};
  /// Added to if not null, by kernels that work in tiles.
  AttentionStatistics* statistics = nullptr;
};

/// The gradient of a loss with respect to q, k and v, given that with respect to out.
struct AttentionGradients {
  Tensor grad_out;     ///< [B, Sq, H, D], dtype of q or f32
  Tensor log_sum_exp;  ///< [B, H, Sq] f32: of all keys that the row sees, also in other blocks
  Tensor delta;        ///< [B, H, Sq] f32: sum over D of out * grad_out, of the whole out
  Tensor dq;           ///< shape of q; dtype of q, or f32
  Tensor dk;           ///< shape of k; dtype of k, or f32
  Tensor dv;           ///< like dk
  /// Add to what dq, dk, dv hold (all f32) instead of overwriting it.
  bool accumulate = false;
};

/// Scores that the mask leaves, summed over queries, for one head of one batch entry: 2 products of
/// 2 D FLOPs each. Padding and blocks are not looked at.
[[nodiscard]] std::int64_t visible_scores(const AttentionMask& mask, std::int64_t query_tokens,
                                          std::int64_t key_tokens);

/// Runs with the default (bottom-right aligned) filled in.
[[nodiscard]] std::vector<TokenRun> resolved_query_runs(const AttentionMask& mask,
                                                        std::int64_t query_tokens,
                                                        std::int64_t key_tokens);
[[nodiscard]] std::vector<TokenRun> resolved_key_runs(const AttentionMask& mask,
                                                      std::int64_t key_tokens);

}  // namespace portolan
