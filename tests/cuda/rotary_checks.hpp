// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backends/cuda/elementwise_kernels.hpp"
#include "tests/cuda/kernel_report.hpp"
#include "tests/reference/ops_reference.hpp"

/// Rotary embedding, alone and on the way into a key/value cache, beside the reference.
namespace portolan::cuda {

/// Tokens of any heads with the tables that turn them, in device memory.
struct Rotation {
  static constexpr std::int64_t kLength = 64;

  Rotation(DType dtype, std::int64_t tokens, std::int64_t heads, std::int64_t head_dim)
      : x(random_values(static_cast<std::size_t>(tokens * heads * head_dim), dtype, 8)),
        cosines(random_values(static_cast<std::size_t>(kLength * head_dim / 2), DType::f32, 9)),
        sines(random_values(cosines.size(), DType::f32, 10)),
        positions(static_cast<std::size_t>(tokens)),
        memory(encode(x, dtype)),
        cosine_memory(encode(cosines, DType::f32)),
        sine_memory(encode(sines, DType::f32)),
        position_memory(positions.size() * sizeof(std::int32_t)) {
    for (std::size_t t = 0; t < positions.size(); ++t) {
      positions[t] = static_cast<std::int32_t>(t * 37 % kLength);
    }
    write(position_memory, positions);
    arguments = {.x = memory.get(),
                 .positions = static_cast<std::int32_t*>(position_memory.get()),
                 .cosines = static_cast<float*>(cosine_memory.get()),
                 .sines = static_cast<float*>(sine_memory.get()),
                 .token_stride = heads * head_dim,
                 .head_stride = head_dim,
                 .positions_stride = 1,
                 .cosine_stride = head_dim / 2,
                 .sine_stride = head_dim / 2,
                 .tokens = tokens,
                 .heads = heads,
                 .head_dim = head_dim,
                 .dtype = dtype};
  }

  static void write(const Buffer& buffer, const std::vector<std::int32_t>& values) {
    check(cudaMemcpy(buffer.get(), values.data(), values.size() * sizeof(std::int32_t),
                     cudaMemcpyHostToDevice),
          "writing integers");
  }
  [[nodiscard]] Sums turned() const {
    return reference::rotary_embedding(x, positions, cosines, sines, arguments.heads,
                                       arguments.head_dim);
  }

  Values x;
  Values cosines;
  Values sines;
  std::vector<std::int32_t> positions;
  Buffer memory;
  Buffer cosine_memory;
  Buffer sine_memory;
  Buffer position_memory;
  RotaryArguments arguments;
};

inline void check_rotary(Report& report, DType dtype, std::int64_t tokens, std::int64_t heads,
                         std::int64_t head_dim) {
  const Rotation rotation(dtype, tokens, heads, head_dim);
  check(launch_rotary_embedding(rotation.arguments, nullptr), "rotary_embedding");
  report.compare(name_of("rotary_embedding", dtype, tokens, heads * head_dim), dtype,
                 decode(rotation.memory.read(), dtype), rotation.turned(), 4.0);
}

/// Two tokens of each of three entries go to a cache of eight rows, the last of them half outside.
inline void check_cache_rows(Report& report, DType dtype, std::int64_t heads,
                             std::int64_t key_heads, std::int64_t head_dim) {
  constexpr std::int64_t kEntries = 3;
  constexpr std::int64_t kTokens = 2;
  constexpr std::int64_t kCapacity = 8;
  const std::vector<std::int32_t> rows{0, 2, 1, 7, 0, kCapacity + 1};
  const std::int64_t all_heads = heads + 2 * key_heads;
  const Rotation rotation(dtype, kEntries * kTokens, all_heads, head_dim);
  const auto count = static_cast<std::size_t>(kEntries * kCapacity * key_heads * head_dim);
  const Values before(count, 7.0);
  const Buffer keys(encode(before, dtype));
  const Buffer values(encode(before, dtype));
  const Buffer row_memory(rows.size() * sizeof(std::int32_t));
  Rotation::write(row_memory, rows);
  RotaryArguments arguments = rotation.arguments;
  arguments.cached_keys = keys.get();
  arguments.cached_values = values.get();
  arguments.cached_rows = static_cast<std::int32_t*>(row_memory.get());
  arguments.key_heads = key_heads;
  arguments.capacity = kCapacity;
  arguments.entry_tokens = kTokens;
  arguments.cache_entry_stride = kCapacity * key_heads * head_dim;
  arguments.cache_row_stride = key_heads * head_dim;
  arguments.cache_head_stride = head_dim;
  check(launch_rotary_embedding(arguments, nullptr), "rotary_store_cache_rows");

  const auto [turned, magnitudes] = rotation.turned();
  const Values found = decode(rotation.memory.read(), dtype);
  Values queries;
  Sums expected_queries;
  Sums expected_keys{before, before};
  Values expected_values = before;
  for (std::int64_t token = 0; token < kEntries * kTokens; ++token) {
    const std::int64_t entry = token / kTokens;
    const std::int64_t row =
        rows[static_cast<std::size_t>(2 * entry + 1)] - kTokens + token % kTokens;
    for (std::int64_t head = 0; head < all_heads; ++head) {
      for (std::int64_t d = 0; d < head_dim; ++d) {
        const auto place = static_cast<std::size_t>((token * all_heads + head) * head_dim + d);
        if (head < heads) {
          queries.push_back(found[place]);
          expected_queries.values.push_back(turned[place]);
          expected_queries.magnitudes.push_back(magnitudes[place]);
        } else if (row < kCapacity) {
          const std::int64_t cache_head = (head - heads) % key_heads;
          const auto target = static_cast<std::size_t>(
              ((entry * kCapacity + row) * key_heads + cache_head) * head_dim + d);
          if (head < heads + key_heads) {
            expected_keys.values[target] = turned[place];
            expected_keys.magnitudes[target] = magnitudes[place];
          } else {
            expected_values[target] = rotation.x[place];
          }
        }
      }
    }
  }
  const std::string name =
      name_of("rotary_store_cache_rows", dtype, kEntries * kTokens, all_heads * head_dim);
  report.compare(name + " (queries)", dtype, queries, expected_queries, 4.0);
  report.compare(name + " (keys)", dtype, decode(keys.read(), dtype), expected_keys, 4.0);
  report.compare(name + " (values)", dtype, decode(values.read(), dtype), expected_values, 0.0);
}

}  // namespace portolan::cuda
