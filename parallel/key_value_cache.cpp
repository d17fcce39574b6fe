// SPDX-License-Identifier: Apache-2.0
#include "parallel/key_value_cache.hpp"

#include <algorithm>

#include "core/error.hpp"
#include "core/ops.hpp"

namespace portolan {

// Its share of those dealt in zigzag (at most two tokens more than an even one) and of those dealt
// in runs (at most one run, and one that was cut).
std::int64_t KeyValueCache::most_local_tokens(std::int64_t tokens, int ranks) {
  if (ranks == 1) return tokens;
  return std::min(tokens, tokens / ranks + 2 + 3 * kRunTokens);
}

KeyValueCache::KeyValueCache(const Extents& extents, DType dtype, Device device, int rank,
                             int ranks)
    : extents_(extents),
      rank_(rank),
      ranks_(ranks),
      local_capacity_(most_local_tokens(extents.tokens, ranks)) {
  layers_.reserve(static_cast<std::size_t>(extents.layers));
  for (std::int64_t layer = 0; layer < extents.layers; ++layer) {
    layers_.push_back(Tensor::empty(
        {2, extents.batch, extents.kv_heads, local_capacity_, extents.head_dim}, dtype, device));
  }
}

std::int64_t KeyValueCache::bytes() const {
  std::int64_t bytes = 0;
  for (const Tensor& layer : layers_) bytes += static_cast<std::int64_t>(layer.bytes());
  return bytes;
}

void KeyValueCache::begin(std::int64_t tokens) {
  require(length_ + tokens <= extents_.tokens,
          "the key/value cache holds {} tokens of a sequence, {} are asked for", extents_.tokens,
          length_ + tokens);
  new_tokens_ = {.position = length_, .length = tokens};
  length_ += tokens;
  pieces_.clear();
}

void KeyValueCache::hold(std::int64_t source, std::int64_t position, std::int64_t length) {
  pieces_.push_back({source, held_, length});
  if (!runs_.empty() && runs_.back().position + runs_.back().length == position) {
    runs_.back().length += length;
  } else {
    runs_.push_back({.position = position, .length = length});
  }
  held_ += length;
}

void KeyValueCache::extend(std::int64_t tokens) {
  begin(tokens);
  const std::int64_t first = new_tokens_.position;
  for (std::int64_t position = first; position < length_;) {
    const std::int64_t run = position / kRunTokens;
    const std::int64_t end = ranks_ == 1 ? length_ : std::min(length_, (run + 1) * kRunTokens);
    if (run % ranks_ == rank_ || ranks_ == 1) hold(position - first, position, end - position);
    position = end;
  }
}

void KeyValueCache::extend(std::int64_t tokens, std::span<const TokenRun> own) {
  begin(tokens);
  std::int64_t source = 0;
  for (const TokenRun& run : own) {
    hold(source, run.position, run.length);
    source += run.length;
  }
}

Tensor KeyValueCache::part(std::int64_t layer, int which) const {
  const Tensor& both = layers_[static_cast<std::size_t>(layer)];
  return both.slice(0, which, which + 1)
      .view({extents_.batch, extents_.kv_heads, local_capacity_, extents_.head_dim})
      .transpose(1, 2);
}

void KeyValueCache::store(std::int64_t layer, const Tensor& k, const Tensor& v) {
  for (const Piece& piece : pieces_) {
    const auto copy = [&](const Tensor& from, int which) {
      ops::copy(from.slice(1, piece.source, piece.source + piece.length),
                part(layer, which).slice(1, piece.target, piece.target + piece.length));
    };
    copy(k, 0);
    copy(v, 1);
  }
}

Tensor KeyValueCache::keys(std::int64_t layer) const { return part(layer, 0).slice(1, 0, held_); }
Tensor KeyValueCache::values(std::int64_t layer) const { return part(layer, 1).slice(1, 0, held_); }

void KeyValueCache::read_rows_from(const Tensor& rows) {
  require(ranks_ == 1, "{} ranks share the sequences of a cache whose rows are recorded", ranks_);
  rows_ = rows;
}

CacheRows KeyValueCache::rows_of_layer(std::int64_t layer) const {
  return {part(layer, 0), part(layer, 1), rows_};
}

void KeyValueCache::select(std::span<const std::int64_t> entries) {
  const std::int64_t batch = std::ssize(entries);
  bool same = batch == extents_.batch;
  for (std::int64_t i = 0; i < batch; ++i) {
    const std::int64_t entry = entries[static_cast<std::size_t>(i)];
    require(entry >= 0 && entry < extents_.batch, "sequence {} of a batch of {}", entry,
            extents_.batch);
    same = same && entry == i;
  }
  if (same) return;
  for (Tensor& layer : layers_) {
    const Tensor old = layer;
    Shape shape = old.shape();
    shape[1] = batch;
    layer = Tensor::empty(shape, old.dtype(), old.device());
    for (std::int64_t i = 0; i < batch; ++i) {
      const std::int64_t entry = entries[static_cast<std::size_t>(i)];
      ops::copy(old.slice(1, entry, entry + 1).slice(3, 0, held_),
                layer.slice(1, i, i + 1).slice(3, 0, held_));
    }
  }
  extents_.batch = batch;
}

}  // namespace portolan
