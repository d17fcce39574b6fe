// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizers/bpe_merges.hpp"

#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

#include "core/error.hpp"

namespace portolan {
namespace {

constexpr std::uint32_t kNone = std::numeric_limits<std::uint32_t>::max();
constexpr TokenId kMerged = -1;

using Candidate = BpeMerges::Scratch::Candidate;

/// Orders a heap whose top is the lowest rank, then the leftmost.
bool comes_later(const Candidate& a, const Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
}

}  // namespace

BpeMerges::BpeMerges(std::size_t expected_merges)
    : slots_(std::bit_ceil(2 * expected_merges + 2), Slot{kEmpty, {}}), mask_(slots_.size() - 1) {}

void BpeMerges::add(TokenId left, TokenId right, Merge merge) {
  if (2 * (count_ + 1) > slots_.size()) grow();
  const std::uint64_t key = key_of(left, right);
  std::size_t i = slot_of(key);
  while (slots_[i].key != kEmpty && slots_[i].key != key) i = (i + 1) & mask_;
  if (slots_[i].key == kEmpty) ++count_;
  slots_[i] = {key, merge};
}

void BpeMerges::grow() {
  std::vector<Slot> old(2 * slots_.size(), Slot{kEmpty, {}});
  std::swap(old, slots_);
  mask_ = slots_.size() - 1;
  for (const Slot& slot : old) {
    if (slot.key == kEmpty) continue;
    std::size_t i = slot_of(slot.key);
    while (slots_[i].key != kEmpty) i = (i + 1) & mask_;
    slots_[i] = slot;
  }
}

void BpeMerges::apply(std::vector<TokenId>& symbols, Scratch& scratch) const {
  require(symbols.size() < kNone, "a text has at most {} symbols", kNone - 1);
  auto& [nodes, heap] = scratch;
  nodes.clear();
  heap.clear();
  const auto count = static_cast<std::uint32_t>(symbols.size());
  for (std::uint32_t i = 0; i < count; ++i) {
    nodes.push_back({symbols[i], i == 0 ? kNone : i - 1, i + 1 == count ? kNone : i + 1});
    if (i + 1 == count) break;
    if (const Merge* merge = find(symbols[i], symbols[i + 1])) {
      heap.push_back({merge->rank, i, merge->result});
    }
  }
  std::make_heap(heap.begin(), heap.end(), comes_later);
  const auto offer = [&](std::uint32_t position, TokenId left, TokenId right) {
    if (const Merge* merge = find(left, right)) {
      heap.push_back({merge->rank, position, merge->result});
      std::push_heap(heap.begin(), heap.end(), comes_later);
    }
  };
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), comes_later);
    const Candidate candidate = heap.back();
    heap.pop_back();
    auto& node = nodes[candidate.position];
    if (node.symbol == kMerged || node.next == kNone) continue;
    auto& right = nodes[node.next];
    // What stood here may have been merged since, and then the pair is another one.
    const Merge* merge = find(node.symbol, right.symbol);
    if (merge == nullptr || merge->result != candidate.result) continue;
    node.symbol = candidate.result;
    node.next = right.next;
    right.symbol = kMerged;
    if (node.next != kNone) nodes[node.next].previous = candidate.position;
    if (node.previous != kNone) offer(node.previous, nodes[node.previous].symbol, node.symbol);
    if (node.next != kNone) offer(candidate.position, node.symbol, nodes[node.next].symbol);
  }
  symbols.clear();
  for (std::uint32_t i = count == 0 ? kNone : 0; i != kNone; i = nodes[i].next) {
    symbols.push_back(nodes[i].symbol);
  }
}

}  // namespace portolan
