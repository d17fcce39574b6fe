// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizers/bpe_merges.hpp"

#include <algorithm>
#include <bit>
#include <functional>
#include <limits>
#include <optional>
#include <utility>

#include "core/error.hpp"

namespace portolan {
namespace {

constexpr std::uint32_t kNone = std::numeric_limits<std::uint32_t>::max();
constexpr TokenId kMerged = -1;

using Candidate = BpeMerges::Scratch::Candidate;

Candidate make_candidate(std::uint32_t rank, std::uint32_t position) {
  return static_cast<Candidate>(rank) << 32 | position;
}
std::uint32_t rank_of(Candidate candidate) { return static_cast<std::uint32_t>(candidate >> 32); }
std::uint32_t position_of(Candidate candidate) { return static_cast<std::uint32_t>(candidate); }

/// The candidates of a text, the lowest first. Those that are there from the start, which are most,
/// are sorted once; only what comes later pays for a heap.
class Agenda {
 public:
  explicit Agenda(BpeMerges::Scratch& scratch) : first_(scratch.first), heap_(scratch.heap) {
    // Those of a long run of one character are in order as they come.
    if (!std::ranges::is_sorted(first_)) std::ranges::sort(first_);
  }

  void push(Candidate candidate) {
    heap_.push_back(candidate);
    std::ranges::push_heap(heap_, std::greater<>());
  }

  std::optional<Candidate> pop() {
    if (next_ < first_.size() && (heap_.empty() || first_[next_] < heap_.front())) {
      return first_[next_++];
    }
    if (heap_.empty()) return std::nullopt;
    std::ranges::pop_heap(heap_, std::greater<>());
    const Candidate candidate = heap_.back();
    heap_.pop_back();
    return candidate;
  }

 private:
  std::vector<Candidate>& first_;
  std::vector<Candidate>& heap_;
  std::size_t next_ = 0;
};

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
  std::vector<Scratch::Node>& nodes = scratch.nodes;
  nodes.clear();
  scratch.first.clear();
  scratch.heap.clear();
  const auto count = static_cast<std::uint32_t>(symbols.size());
  for (std::uint32_t i = 0; i < count; ++i) {
    nodes.push_back({symbols[i], i == 0 ? kNone : i - 1, i + 1 == count ? kNone : i + 1});
    if (i + 1 == count) break;
    if (const Merge* merge = find(symbols[i], symbols[i + 1])) {
      scratch.first.push_back(make_candidate(merge->rank, i));
    }
  }
  Agenda agenda(scratch);
  const auto offer = [&](std::uint32_t position, TokenId left, TokenId right) {
    if (const Merge* merge = find(left, right)) agenda.push(make_candidate(merge->rank, position));
  };
  while (const auto candidate = agenda.pop()) {
    const std::uint32_t position = position_of(*candidate);
    auto& node = nodes[position];
    if (node.symbol == kMerged || node.next == kNone) continue;
    auto& right = nodes[node.next];
    // What stood here may have been merged since, and then the pair is another one.
    const Merge* merge = find(node.symbol, right.symbol);
    if (merge == nullptr || merge->rank != rank_of(*candidate)) continue;
    node.symbol = merge->result;
    node.next = right.next;
    right.symbol = kMerged;
    if (node.next != kNone) nodes[node.next].previous = position;
    if (node.previous != kNone) offer(node.previous, nodes[node.previous].symbol, node.symbol);
    if (node.next != kNone) offer(position, node.symbol, nodes[node.next].symbol);
  }
  symbols.clear();
  for (std::uint32_t i = count == 0 ? kNone : 0; i != kNone; i = nodes[i].next) {
    symbols.push_back(nodes[i].symbol);
  }
}

}  // namespace portolan
