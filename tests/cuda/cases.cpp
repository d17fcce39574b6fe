// SPDX-License-Identifier: Apache-2.0
#include "tests/cuda/cases.hpp"

#include <algorithm>
#include <cmath>
#include <sstream>

namespace portolan::cuda_testing {

using cuda::AttentionElement;
using cuda::AttentionOutput;

std::vector<std::int32_t> offsets_of(const std::vector<std::int32_t>& lengths) {
  std::vector<std::int32_t> offsets{0};
  for (const std::int32_t length : lengths) offsets.push_back(offsets.back() + length);
  return offsets;
}

std::int64_t Case::query_rows() const {
  return packed() ? offsets_of(query_lengths).back() : query_tokens;
}
std::int64_t Case::key_rows() const {
  return packed() ? offsets_of(key_lengths).back() : key_tokens;
}

std::int64_t Case::first_key(std::int64_t entry) const {
  if (cached_rows.empty()) return 0;
  return std::clamp<std::int64_t>(cached_rows[static_cast<std::size_t>(2 * entry)], 0, key_tokens);
}
std::int64_t Case::end_key(std::int64_t entry) const {
  if (cached_rows.empty()) return key_tokens;
  return std::clamp<std::int64_t>(cached_rows[static_cast<std::size_t>(2 * entry + 1)], 0,
                                  key_tokens);
}

cuda::AttentionShape Case::shape() const {
  cuda::AttentionShape shape{.batch = batch,
                             .query_tokens = query_tokens,
                             .key_tokens = key_tokens,
                             .heads = heads,
                             .key_heads = key_heads,
                             .head_dim = head_dim,
                             .element = element,
                             .causal = causal,
                             .window = window,
                             .scale = 1.0F / std::sqrt(static_cast<float>(head_dim))};
  if (packed()) {
    shape.batch = static_cast<std::int64_t>(query_lengths.size());
    shape.query_tokens = *std::max_element(query_lengths.begin(), query_lengths.end());
    shape.key_tokens = *std::max_element(key_lengths.begin(), key_lengths.end());
  }
  return shape;
}

std::string Case::text() const {
  std::ostringstream text;
  text << (element == AttentionElement::bf16 ? "bf16" : "f16 ") << " d" << head_dim << " h" << heads
       << '/' << key_heads;
  if (packed()) {
    text << " packed";
    for (std::size_t i = 0; i < query_lengths.size(); ++i) {
      text << ' ' << query_lengths[i] << 'x' << key_lengths[i];
    }
  } else {
    text << " b" << batch << ' ' << query_tokens << 'x' << key_tokens;
  }
  if (!cached_rows.empty()) text << " of";
  for (std::size_t i = 0; i < cached_rows.size(); i += 2) {
    text << ' ' << cached_rows[i] << ':' << cached_rows[i + 1];
  }
  if (window > 0) {
    text << " window " << window;
  } else {
    text << (causal ? " causal" : " full");
  }
  if (output == AttentionOutput::f32) text << " to f32";
  if (output == AttentionOutput::f32_sum) text << " added to f32";
  return text.str();
}

std::vector<Case> attention_cases() {
  std::vector<Case> cases;
  for (const std::int64_t head_dim : {64, 128}) {
    for (const bool causal : {true, false}) {
      for (const std::int64_t tokens : {1, 5, 64, 257, 1000}) {
        cases.push_back({.query_tokens = tokens,
                         .key_tokens = tokens,
                         .heads = 4,
                         .key_heads = 4,
                         .head_dim = head_dim,
                         .causal = causal,
                         .small = tokens == 257});
      }
      cases.push_back({.query_tokens = 257,
                       .key_tokens = 257,
                       .heads = 4,
                       .key_heads = 4,
                       .head_dim = head_dim,
                       .causal = causal,
                       .element = AttentionElement::f16});
      // Chunks of a prefill, one that starts in the middle of a tile; and queries without keys.
      cases.push_back({.query_tokens = 100,
                       .key_tokens = 733,
                       .heads = 4,
                       .key_heads = 4,
                       .head_dim = head_dim,
                       .causal = causal});
      cases.push_back({.query_tokens = 300,
                       .key_tokens = 170,
                       .heads = 4,
                       .key_heads = 4,
                       .head_dim = head_dim,
                       .causal = causal,
                       .small = true});
    }
    cases.push_back({.batch = 3,
                     .query_tokens = 200,
                     .key_tokens = 200,
                     .heads = 8,
                     .key_heads = 2,
                     .head_dim = head_dim});
    cases.push_back({.batch = 2,
                     .query_tokens = 130,
                     .key_tokens = 259,
                     .heads = 6,
                     .key_heads = 1,
                     .head_dim = head_dim,
                     .causal = false,
                     .element = AttentionElement::f16});
    for (const std::int64_t window : {1, 64, 200, 5000}) {
      cases.push_back({.query_tokens = 700,
                       .key_tokens = 900,
                       .heads = 2,
                       .key_heads = 1,
                       .head_dim = head_dim,
                       .window = window});
    }
    cases.push_back({.heads = 4,
                     .key_heads = 2,
                     .head_dim = head_dim,
                     .query_lengths = {5, 257, 0, 64, 1},
                     .key_lengths = {5, 257, 9, 64, 130},
                     .small = true});
    cases.push_back({.heads = 2,
                     .key_heads = 2,
                     .head_dim = head_dim,
                     .causal = false,
                     .element = AttentionElement::f16,
                     .query_lengths = {130, 1000},
                     .key_lengths = {20, 1000}});
    cases.push_back({.heads = 4,
                     .key_heads = 4,
                     .head_dim = head_dim,
                     .window = 33,
                     .query_lengths = {300, 100},
                     .key_lengths = {300, 400}});
    cases.push_back({.query_tokens = 257,
                     .key_tokens = 300,
                     .heads = 4,
                     .key_heads = 4,
                     .head_dim = head_dim,
                     .output = AttentionOutput::f32});
    cases.push_back({.query_tokens = 257,
                     .key_tokens = 300,
                     .heads = 4,
                     .key_heads = 4,
                     .head_dim = head_dim,
                     .output = AttentionOutput::f32_sum});
    // Enough blocks to keep every multiprocessor busy with several.
    cases.push_back({.batch = 8,
                     .query_tokens = 512,
                     .key_tokens = 512,
                     .heads = 16,
                     .key_heads = 4,
                     .head_dim = head_dim});
  }
  // Only some kernels serve these.
  for (const std::int64_t head_dim : {32, 80, 96}) {
    for (const bool causal : {true, false}) {
      cases.push_back({.query_tokens = 257,
                       .key_tokens = 300,
                       .heads = 4,
                       .key_heads = 2,
                       .head_dim = head_dim,
                       .causal = causal});
    }
  }
  return cases;
}

std::vector<Case> decode_cases() {
  std::vector<Case> cases;
  for (const std::int64_t head_dim : {64, 128}) {
    for (const std::int64_t key_tokens : {1, 5, 64, 257, 1000, 9000}) {
      cases.push_back({.query_tokens = 1,
                       .key_tokens = key_tokens,
                       .heads = 8,
                       .key_heads = 2,
                       .head_dim = head_dim,
                       .small = key_tokens == 1000});
    }
    cases.push_back({.batch = 5,
                     .query_tokens = 1,
                     .key_tokens = 3001,
                     .heads = 32,
                     .key_heads = 8,
                     .head_dim = head_dim,
                     .element = AttentionElement::f16});
    cases.push_back({.batch = 2,
                     .query_tokens = 16,
                     .key_tokens = 2000,
                     .heads = 8,
                     .key_heads = 1,
                     .head_dim = head_dim});
    cases.push_back({.query_tokens = 4,
                     .key_tokens = 2000,
                     .heads = 2,
                     .key_heads = 2,
                     .head_dim = head_dim,
                     .window = 700});
    cases.push_back({.query_tokens = 7,
                     .key_tokens = 1500,
                     .heads = 4,
                     .key_heads = 4,
                     .head_dim = head_dim,
                     .causal = false,
                     .output = AttentionOutput::f32});
    cases.push_back({.batch = 64,
                     .query_tokens = 1,
                     .key_tokens = 600,
                     .heads = 8,
                     .key_heads = 8,
                     .head_dim = head_dim});
    cases.push_back({.batch = 5,
                     .query_tokens = 1,
                     .key_tokens = 3000,
                     .heads = 8,
                     .key_heads = 2,
                     .head_dim = head_dim,
                     .cached_rows = {0, 3000, 0, 1, 100, 1700, 2999, 3000, 50, 50},
                     .small = true});
    cases.push_back({.batch = 3,
                     .query_tokens = 7,
                     .key_tokens = 2000,
                     .heads = 4,
                     .key_heads = 1,
                     .head_dim = head_dim,
                     .window = 300,
                     .element = AttentionElement::f16,
                     .output = AttentionOutput::f32,
                     .cached_rows = {0, 1999, 900, 1000, 3, 6}});
    cases.push_back({.batch = 2,
                     .query_tokens = 16,
                     .key_tokens = 200,
                     .heads = 2,
                     .key_heads = 2,
                     .head_dim = head_dim,
                     .causal = false,
                     .cached_rows = {-7, 400, 150, 20}});
  }
  return cases;
}

}  // namespace portolan::cuda_testing
