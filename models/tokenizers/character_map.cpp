// SPDX-License-Identifier: Apache-2.0
#include "models/tokenizers/character_map.hpp"

#include "core/error.hpp"
#include "models/tokenizers/unicode_text.hpp"

namespace portolan {
namespace {

// A unit stands for a node and says where its children are. Bits 0 to 7: the byte that leads to it;
// 8: whether the text up to it is an entry, whose value is then the child by no byte; 9: whether
// the distance to the children counts units by 256; from 10 on: that distance. Values have bit 31
// set, which keeps them from being taken for nodes.
constexpr std::uint32_t kIsValue = std::uint32_t{1} << 31;

std::uint32_t label_of(std::uint32_t unit) { return unit & (kIsValue | 0xFF); }
bool is_entry(std::uint32_t unit) { return (unit >> 8 & 1) != 0; }
std::uint32_t distance_of(std::uint32_t unit) { return unit >> 10 << ((unit & (1u << 9)) >> 6); }

std::uint32_t read_u32(std::string_view bytes, std::size_t position) {
  std::uint32_t value = 0;
  for (unsigned i = 0; i < 4; ++i) {
    value |= static_cast<std::uint32_t>(static_cast<std::uint8_t>(bytes[position + i])) << (8 * i);
  }
  return value;
}

}  // namespace

CharacterMap::CharacterMap(std::string_view bytes) {
  constexpr std::size_t kUnitBytes = 4;
  require(bytes.size() >= kUnitBytes, "it has {} bytes, fewer than its length takes", bytes.size());
  const std::size_t tree = read_u32(bytes, 0);
  bytes.remove_prefix(kUnitBytes);
  require(tree > 0 && tree % kUnitBytes == 0 && tree <= bytes.size(),
          "its tree has {} bytes, expected a multiple of {} up to the {} that follow", tree,
          kUnitBytes, bytes.size());
  units_.reserve(tree / kUnitBytes);
  for (std::size_t i = 0; i < tree; i += kUnitBytes) units_.push_back(read_u32(bytes, i));
  replacements_ = bytes.substr(tree);
  require(!find_invalid_utf8(replacements_), "its replacements are not UTF-8");
  check_leaves();
}

void CharacterMap::check_leaves() const {
  for (std::uint32_t node = 0; node < units_.size(); ++node) {
    const std::uint32_t unit = units_[node];
    if ((unit & kIsValue) != 0 || !is_entry(unit)) continue;
    const std::uint32_t leaf = node ^ distance_of(unit);
    require(leaf < units_.size(), "unit {} has its value at {}, of {} units", node, leaf,
            units_.size());
    const std::uint32_t value = units_[leaf] & ~kIsValue;
    const auto is_inside_character = [&] {
      return (static_cast<std::uint8_t>(replacements_[value]) & 0xC0U) == 0x80U;
    };
    require(
        value <= replacements_.size() && (value == replacements_.size() || !is_inside_character()),
        "the value {} of unit {} is not where one of its {} bytes of replacements starts", value,
        leaf, replacements_.size());
    require(replacement(value).size() <= kLongestReplacement,
            "the replacement at {} has more than {} bytes", value, kLongestReplacement);
  }
}

std::string_view CharacterMap::replacement(std::uint32_t value) const {
  // One byte beyond the limit is enough to see that there are too many.
  const std::string_view start =
      std::string_view(replacements_).substr(value, kLongestReplacement + 1);
  return start.substr(0, start.find('\0'));
}

template <typename Found>
void CharacterMap::walk(std::string_view text, const Found& found) const {
  std::uint32_t node = distance_of(units_.front());
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<std::uint8_t>(text[i]);
    // The child by no byte is a value.
    if (byte == 0) return;
    node ^= byte;
    if (node >= units_.size() || label_of(units_[node]) != byte) return;
    const std::uint32_t unit = units_[node];
    node ^= distance_of(unit);
    if (is_entry(unit) && !found(Match{i + 1, replacement(units_[node] & ~kIsValue)})) return;
  }
}

std::optional<CharacterMap::Match> CharacterMap::shortest_prefix(std::string_view text) const {
  std::optional<Match> result;
  walk(text, [&](const Match& match) {
    result = match;
    return false;
  });
  return result;
}

std::optional<CharacterMap::Match> CharacterMap::longest_prefix(std::string_view text) const {
  std::optional<Match> result;
  walk(text, [&](const Match& match) {
    result = match;
    return true;
  });
  return result;
}

}  // namespace portolan
