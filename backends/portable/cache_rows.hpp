// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "backends/portable/rows.hpp"
#include "core/backend.hpp"

/// Storing tokens in a key/value cache whose rows are known when the kernel runs.
namespace portolan::portable {

/// Keys or values; elements are copied as they are, so that Bits is an integer of their size.
template <class Bits>
struct StoreCacheRows {
  struct Side {
    const Bits* source = nullptr;  ///< [tokens, heads, head_dim]
    std::int64_t token_stride = 0;
    std::int64_t head_stride = 0;
    Bits* cache = nullptr;  ///< [batch, capacity, heads, head_dim]
    std::int64_t batch_stride = 0;
    std::int64_t row_stride = 0;
    std::int64_t cache_head_stride = 0;
  };
  Side sides[2];  ///< keys, values
  const std::int32_t* rows = nullptr;
  std::int64_t tokens = 0;  ///< of an entry
  std::int64_t heads = 0;
  std::int64_t capacity = 0;

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t index, std::int64_t begin,
                                         std::int64_t end) const {
    const Side& side = sides[index & 1];
    const std::int64_t token = (index >> 1) / heads;
    const std::int64_t head = (index >> 1) - token * heads;
    const std::int64_t entry = token / tokens;
    const std::int64_t row = rows[2 * entry + 1] - tokens + (token - entry * tokens);
    if (row < 0 || row >= capacity) return;
    const Bits* const from = side.source + token * side.token_stride + head * side.head_stride;
    Bits* const to = side.cache + entry * side.batch_stride + row * side.row_stride +
                     head * side.cache_head_stride;
    for (std::int64_t column = begin; column < end; ++column) to[column] = from[column];
  }
};

template <class Space>
void store_cache_rows(const Space& space, const Tensor& k, const Tensor& v,
                      const CacheRows& cache) {
  const auto launch = [&]<class Bits>(Bits /*type*/) {
    const auto side = [](const Tensor& source, const Tensor& target) {
      return typename StoreCacheRows<Bits>::Side{
          source.data<Bits>(), source.strides()[0], source.strides()[1], target.data<Bits>(),
          target.strides()[0], target.strides()[1], target.strides()[2]};
    };
    for_rows(space, "Portolan::KeyValueCache::store", 2 * k.dim(0) * k.dim(1), k.dim(2),
             StoreCacheRows<Bits>{{side(k, cache.keys), side(v, cache.values)},
                                  cache.rows.data<std::int32_t>(),
                                  k.dim(0) / cache.keys.dim(0),
                                  k.dim(1),
                                  cache.keys.dim(1)});
  };
  if (size_of(k.dtype()) == 2) {
    launch(std::uint16_t{});
  } else {
    launch(std::uint32_t{});
  }
}

}  // namespace portolan::portable
