// SPDX-License-Identifier: Apache-2.0
#include "attention/openmp/tile_dropout.hpp"

#include <array>

// As in tile_packing.cpp.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_AVX3_DL)
#define HWY_BROKEN_EMU128 0
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "attention/openmp/tile_dropout.cpp"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#ifndef PORTOLAN_ATTENTION_TILE_DROPOUT_ONCE
#define PORTOLAN_ATTENTION_TILE_DROPOUT_ONCE
namespace portolan::flash {

/// What dropout_words() is given for the quads of keys of one row.
struct DropoutRow {
  std::uint32_t first_quad = 0;
  std::uint32_t query_position = 0;
  std::uint32_t head = 0;
  std::uint32_t entry = 0;
  std::uint32_t key0 = 0;
  std::uint32_t key1 = 0;
  std::uint32_t threshold = 0;
};

/// Words of 64 bits that hold the quads of a tile, whatever key of a quad it starts with.
inline constexpr int kDropoutWords = TileBits::kWords + 1;

/// Bit i of a byte at bit 4 i.
inline constexpr auto kSpreadBits = [] {
  std::array<std::uint32_t, 256> spread{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    for (std::uint32_t bit = 0; bit < 8; ++bit) spread[byte] |= ((byte >> bit) & 1U) << (4 * bit);
  }
  return spread;
}();

}  // namespace portolan::flash
#endif

HWY_BEFORE_NAMESPACE();
namespace portolan::flash::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using LongTag = hn::CappedTag<std::uint64_t, 8>;
using WordTag = hn::Repartition<std::uint32_t, LongTag>;
using Longs = hn::Vec<LongTag>;
constexpr int kLongLanes = static_cast<int>(hn::MaxLanes(LongTag()));

/// Bits of the kept ones among the four keys of each lane's quad. Each lane of Philox4x32-10 holds
/// one 32-bit word in its lower half; the upper half is garbage that no step reads.
HWY_INLINE std::uint32_t kept_quads(const DropoutRow& row, std::uint32_t quad) {
  const LongTag longs;
  const hn::RebindToSigned<LongTag> integers;
  const WordTag words;
  const auto multiplier0 = hn::BitCast(words, hn::Set(longs, 0xD2511F53U));
  const auto multiplier1 = hn::BitCast(words, hn::Set(longs, 0xCD9E8D57U));
  Longs counter[4] = {hn::Add(hn::Iota(longs, 0), hn::Set(longs, quad)),
                      hn::Set(longs, row.query_position), hn::Set(longs, row.head),
                      hn::Set(longs, row.entry)};
  std::uint32_t key0 = row.key0;
  std::uint32_t key1 = row.key1;
  for (int round = 0; round < 10; ++round) {
    const Longs product0 = hn::MulEven(multiplier0, hn::BitCast(words, counter[0]));
    const Longs product1 = hn::MulEven(multiplier1, hn::BitCast(words, counter[2]));
    counter[0] = hn::Xor(hn::Xor(hn::ShiftRight<32>(product1), counter[1]), hn::Set(longs, key0));
    counter[2] = hn::Xor(hn::Xor(hn::ShiftRight<32>(product0), counter[3]), hn::Set(longs, key1));
    counter[1] = product1;
    counter[3] = product0;
    key0 += 0x9E3779B9U;
    key1 += 0xBB67AE85U;
  }
  std::uint32_t bits = 0;
  for (int word = 0; word < 4; ++word) {
    const auto word_value =
        hn::BitCast(integers, hn::And(counter[word], hn::Set(longs, 0xFFFFFFFFU)));
    const auto kept = hn::Not(hn::Lt(word_value, hn::Set(integers, std::int64_t{row.threshold})));
    alignas(8) std::uint8_t lanes[8] = {};
    hn::StoreMaskBits(integers, kept, lanes);
    bits |= kSpreadBits[lanes[0]] << word;
  }
  return bits;
}

void KeptQuads(const DropoutRow& row, int quads, std::uint64_t* kept) {
  for (int word = 0; word < kDropoutWords; ++word) kept[word] = 0;
  for (int quad = 0; quad < quads; quad += kLongLanes) {
    const std::uint64_t bits = kept_quads(row, row.first_quad + static_cast<std::uint32_t>(quad));
    kept[quad / 16] |= bits << (quad % 16 * 4);
  }
}

}  // namespace portolan::flash::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace portolan::flash {

HWY_EXPORT(KeptQuads);

void find_kept(const AttentionDropout& dropout, const HeadGroup& heads, const QueryTile& queries,
               const RowTile& keys, TileBits& kept) {
  // Positions may be negative; shifting rounds quads down for those too.
  const std::int64_t first_quad = keys.position >> 2;
  const auto skipped = static_cast<int>(keys.position & 3);
  const int quads = (skipped + static_cast<int>(keys.length) + 3) / 4;
  const std::int64_t entry = dropout.first_entry + heads.batch + keys.sequence;
  DropoutRow row{.first_quad = static_cast<std::uint32_t>(first_quad),
                 .entry = static_cast<std::uint32_t>(entry),
                 .key0 = static_cast<std::uint32_t>(dropout.key.seed) ^
                         static_cast<std::uint32_t>(dropout.key.stream),
                 .key1 = static_cast<std::uint32_t>(dropout.key.seed >> 32) ^
                         static_cast<std::uint32_t>(dropout.key.stream >> 32),
                 .threshold = dropout_threshold(dropout.probability)};
  for (int i = 0; i < queries.rows; ++i) {
    row.query_position = static_cast<std::uint32_t>(queries.position(i));
    row.head = static_cast<std::uint32_t>(dropout.first_head + heads.first_head + queries.head(i));
    std::uint64_t bits[kDropoutWords];
    HWY_DYNAMIC_DISPATCH(KeptQuads)(row, quads, bits);
    for (int word = 0; word < TileBits::kWords; ++word) {
      kept.rows[i][word] =
          skipped == 0 ? bits[word] : bits[word] >> skipped | bits[word + 1] << (64 - skipped);
    }
  }
}

}  // namespace portolan::flash
#endif  // HWY_ONCE
