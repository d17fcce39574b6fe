// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attention/problem.hpp"
#include "core/backend.hpp"
#include "core/tensor.hpp"

namespace portolan {

/// Keys and values, of every layer, of the tokens that a model has seen, as one rank holds them: of
/// its own heads under tensor parallelism, of its own tokens under context parallelism. Tokens stay
/// where the pass that brought them computed them; those that follow one by one are dealt to the
/// context-parallel ranks in runs of kRunTokens, so that the cache grows evenly.
///
/// One forward pass calls extend() once, then store() for each layer.
class KeyValueCache {
 public:
  static constexpr std::int64_t kRunTokens = 64;
  /// Of the tokens of a sequence, how many one of `ranks` ranks may come to hold.
  [[nodiscard]] static std::int64_t most_local_tokens(std::int64_t tokens, int ranks);

  struct Extents {
    std::int64_t layers = 0;
    std::int64_t batch = 0;
    std::int64_t tokens = 0;  ///< of each sequence, over all ranks, at most
    std::int64_t kv_heads = 0;
    std::int64_t head_dim = 0;
  };
  /// This is rank `rank` of `ranks` that share each sequence. Takes all memory at once; throws
  /// OutOfMemoryError.
  KeyValueCache(const Extents& extents, DType dtype, Device device, int rank = 0, int ranks = 1);

  /// Tokens of each sequence so far, on all ranks together.
  [[nodiscard]] std::int64_t length() const noexcept { return length_; }
  [[nodiscard]] std::int64_t batch() const noexcept { return extents_.batch; }
  [[nodiscard]] std::int64_t capacity() const noexcept { return extents_.tokens; }
  /// Of this rank.
  [[nodiscard]] std::int64_t bytes() const;

  /// Announces `tokens` tokens of each sequence that follow those seen so far and are computed on
  /// every rank. Throws UsageError beyond the capacity.
  void extend(std::int64_t tokens);
  /// Announces the first tokens of each sequence, of which this rank computes `own` and, all ranks
  /// together, `tokens`.
  void extend(std::int64_t tokens, std::span<const TokenRun> own);

  /// Of the last extend(): where its tokens stand.
  [[nodiscard]] TokenRun new_tokens() const noexcept { return new_tokens_; }
  /// Takes this rank's part of k and v [batch, tokens, kv_heads, head_dim], the tokens of the last
  /// extend() that this rank computed.
  void store(std::int64_t layer, const Tensor& k, const Tensor& v);

  /// [batch, tokens held here, kv_heads, head_dim], the last extend() included.
  [[nodiscard]] Tensor keys(std::int64_t layer) const;
  [[nodiscard]] Tensor values(std::int64_t layer) const;
  /// Positions of these, ascending.
  [[nodiscard]] const std::vector<TokenRun>& runs() const noexcept { return runs_; }
  [[nodiscard]] std::int64_t held_tokens() const noexcept { return held_; }

  /// From now on which rows hold tokens is read from `rows` (CacheRows::rows) whenever an operation
  /// on rows_of_layer() runs, so that it can be recorded; undefined: no longer. extend() still
  /// counts tokens, store(), keys() and values() are not for use. For ranks that share no sequence.
  void read_rows_from(const Tensor& rows);
  [[nodiscard]] bool reads_rows() const noexcept { return rows_.defined(); }
  [[nodiscard]] CacheRows rows_of_layer(std::int64_t layer) const;

  /// Sequence i becomes a copy of what sequence entries[i] is now; as many sequences as entries.
  void select(std::span<const std::int64_t> entries);

 private:
  /// Rows [source, source + length) of a layer's new tokens go to rows [target, ...) held here.
  struct Piece {
    std::int64_t source = 0;
    std::int64_t target = 0;
    std::int64_t length = 0;
  };

  void begin(std::int64_t tokens);
  void hold(std::int64_t source, std::int64_t position, std::int64_t length);
  [[nodiscard]] Tensor part(std::int64_t layer, int which) const;

  Extents extents_;
  int rank_;
  int ranks_;
  std::int64_t local_capacity_;
  /// Each [2 (keys, values), batch, kv_heads, local capacity, D]: attention goes through a head's
  /// tokens, which lie one after the other.
  std::vector<Tensor> layers_;
  std::int64_t length_ = 0;
  std::int64_t held_ = 0;
  TokenRun new_tokens_;
  std::vector<TokenRun> runs_;
  std::vector<Piece> pieces_;  ///< of the last extend()
  Tensor rows_;                ///< if they are read from device memory
};

}  // namespace portolan
