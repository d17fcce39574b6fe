// SPDX-License-Identifier: Apache-2.0
#include "tests/reference/character_map_reference.hpp"

#include <cstdint>
#include <set>
#include <vector>

namespace portolan::reference {
namespace {

using Values = std::map<std::string, std::uint32_t>;

/// Puts nodes wherever there is room.
class DoubleArray {
 public:
  explicit DoubleArray(const Values& values) : values_(values) {
    take(0);
    place(0, "");
  }

  [[nodiscard]] const std::vector<std::uint32_t>& units() const { return units_; }

 private:
  void take(std::size_t unit) {
    while (units_.size() <= unit) {
      units_.resize(units_.size() + 256);
      taken_.resize(units_.size());
    }
    taken_[unit] = true;
  }

  [[nodiscard]] bool is_free(std::size_t unit) const {
    return unit >= taken_.size() || !taken_[unit];
  }

  /// The bytes that follow `prefix`; 0 where it is a key itself.
  [[nodiscard]] std::set<std::uint8_t> labels_after(const std::string& prefix) const {
    std::set<std::uint8_t> labels;
    for (const auto& [key, value] : values_) {
      if (!key.starts_with(prefix)) continue;
      labels.insert(key.size() == prefix.size() ? 0
                                                : static_cast<std::uint8_t>(key[prefix.size()]));
    }
    return labels;
  }

  void place(std::size_t node, const std::string& prefix) {
    const std::set<std::uint8_t> labels = labels_after(prefix);
    std::size_t base = 1;
    const auto fits = [&] {
      for (const std::uint8_t label : labels) {
        if (!is_free(base ^ label)) return false;
      }
      return !bases_.contains(base);
    };
    while (!fits()) ++base;
    bases_.insert(base);
    for (const std::uint8_t label : labels) take(base ^ label);
    const auto distance = static_cast<std::uint32_t>(node ^ base);
    // Both ways to write it are in use.
    units_[node] |= distance % 256 == 0 ? (distance / 256) << 10 | 1u << 9 : distance << 10;
    for (const std::uint8_t label : labels) {
      if (label == 0) {
        units_[node] |= 1u << 8;
        units_[base] = values_.at(prefix) | 1u << 31;
      } else {
        units_[base ^ label] = label;
        place(base ^ label, prefix + static_cast<char>(label));
      }
    }
  }

  Values values_;
  std::vector<std::uint32_t> units_;
  std::vector<bool> taken_;
  std::set<std::size_t> bases_;
};

std::string little_endian(std::uint32_t value) {
  std::string bytes;
  for (int shift = 0; shift < 32; shift += 8) bytes += static_cast<char>(value >> shift & 0xFF);
  return bytes;
}

}  // namespace

std::string character_map_bytes(const std::map<std::string, std::string>& rules) {
  Values values;
  std::string replacements;
  for (const auto& [key, replacement] : rules) {
    values.emplace(key, static_cast<std::uint32_t>(replacements.size()));
    replacements += replacement + '\0';
  }
  const DoubleArray array(values);
  std::string bytes = little_endian(static_cast<std::uint32_t>(4 * array.units().size()));
  for (const std::uint32_t unit : array.units()) bytes += little_endian(unit);
  return bytes + replacements;
}

}  // namespace portolan::reference
