// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "models/tokenizers/vocabulary.hpp"

namespace portolan {

/// The merges of byte pair encoding (Sennrich, Haddow, Birch, "Neural Machine Translation of Rare
/// Words with Subword Units", 2016): which two neighbours become one symbol, and what goes first.
class BpeMerges {
 public:
  /// What a pair becomes. Lower ranks go first.
  struct Merge {
    std::uint32_t rank;
    TokenId result;
  };
  /// Memory of apply() that calls reuse.
  struct Scratch;

  explicit BpeMerges(std::size_t expected_merges);

  /// A pair that is there already gets the new rank and result.
  void add(TokenId left, TokenId right, Merge merge);
  [[nodiscard]] std::size_t size() const noexcept { return count_; }

  /// The merge of a pair, or nullptr.
  [[nodiscard]] const Merge* find(TokenId left, TokenId right) const noexcept {
    const std::uint64_t key = key_of(left, right);
    for (std::size_t i = slot_of(key);; i = (i + 1) & mask_) {
      if (slots_[i].key == key) return &slots_[i].merge;
      if (slots_[i].key == kEmpty) return nullptr;
    }
  }

  /// Whether `condition` holds for what each pair becomes.
  template <typename Condition>
  [[nodiscard]] bool all_of_results(const Condition& condition) const {
    return std::ranges::all_of(slots_, [&](const Slot& slot) {
      return slot.key == kEmpty || condition(slot.merge.result);
    });
  }

  /// Merges `symbols` until nothing is left to merge, always the pair of lowest rank and among
  /// equals the leftmost. Time is n log n in the number of symbols, whatever they are.
  void apply(std::vector<TokenId>& symbols, Scratch& scratch) const;

 private:
  struct Slot {
    std::uint64_t key;
    Merge merge;
  };
  static constexpr std::uint64_t kEmpty = ~std::uint64_t{0};

  static std::uint64_t key_of(TokenId left, TokenId right) noexcept {
    return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 |
           static_cast<std::uint32_t>(right);
  }
  [[nodiscard]] std::size_t slot_of(std::uint64_t key) const noexcept {
    // Multiplicative hashing: the upper bits of the product depend on all bits of the key.
    return static_cast<std::size_t>(key * 0x9E3779B97F4A7C15u >> 20) & mask_;
  }
  void grow();

  std::vector<Slot> slots_;
  std::size_t mask_ = 0;
  std::size_t count_ = 0;
};

struct BpeMerges::Scratch {
  struct Node {
    TokenId symbol;
    std::uint32_t previous;
    std::uint32_t next;
  };
  /// Rank in the upper half, place in the lower one: the lowest goes first.
  using Candidate = std::uint64_t;
  std::vector<Node> nodes;
  std::vector<Candidate> first;  ///< those of the text as it comes, in order
  std::vector<Candidate> heap;   ///< those that merges have made
};

}  // namespace portolan
