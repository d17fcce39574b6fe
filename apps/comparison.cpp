// SPDX-License-Identifier: Apache-2.0
#include "apps/comparison.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>
#include <string_view>
#include <tuple>

#include "core/error.hpp"
#include "core/printable.hpp"

namespace portolan {
namespace {

constexpr std::array<std::string_view, 4> kModeOrder{"none", "tp", "sp", "ring"};
constexpr std::array<std::string_view, 3> kDTypeOrder{"f32", "bf16", "f16"};

template <typename Order>
int place(const Order& order, std::string_view name) {
  return static_cast<int>(std::find(order.begin(), order.end(), name) - order.begin());
}

std::string text_at(const nlohmann::ordered_json& object, const char* name) {
  const auto member = object.find(name);
  return member != object.end() && member->is_string() ? member->get<std::string>() : std::string{};
}

/// Empty in records that do not say.
std::string device_of(const Comparison& comparison) {
  const auto experiment = comparison.environment.find("experiment");
  if (experiment == comparison.environment.end() || !experiment->is_object()) return {};
  return text_at(*experiment, "device");
}

}  // namespace

std::string_view name_of(Protocol protocol) {
  return protocol == Protocol::fair ? "fair" : "published";
}

Protocol protocol_from_name(std::string_view name) {
  if (name == "fair") return Protocol::fair;
  if (name == "published") return Protocol::published;
  throw UsageError(
      fmt::format("unknown protocol '{}': expected fair or published", printable(name)));
}

int mode_place(const std::string& mode) { return place(kModeOrder, mode); }

int dtype_place(const std::string& dtype) { return place(kDTypeOrder, dtype); }

void sort_rows(std::vector<CompareRow>& rows) {
  const auto key = [](const CompareRow& row) {
    return std::make_tuple(row.protocol, dtype_place(row.dtype), mode_place(row.mode), row.ranks,
                           row.seq_len);
  };
  std::stable_sort(rows.begin(), rows.end(),
                   [&key](const CompareRow& a, const CompareRow& b) { return key(a) < key(b); });
}

std::optional<double> communication_share(const CompareRow& row) {
  if (!row.time_s || row.time_s->median <= 0.0) return std::nullopt;
  return row.communication.seconds / row.time_s->median;
}

std::optional<std::int64_t> largest(const std::vector<std::int64_t>& values) {
  const auto found = std::max_element(values.begin(), values.end());
  if (found == values.end()) return std::nullopt;
  return *found;
}

const CompareRow* find_row(const std::vector<CompareRow>& rows, Protocol protocol,
                           const std::string& mode, const std::string& dtype, std::int64_t seq_len,
                           int ranks) {
  for (const CompareRow& row : rows) {
    if (row.protocol == protocol && row.mode == mode && row.dtype == dtype &&
        row.seq_len == seq_len && (ranks == 0 || row.ranks == ranks)) {
      return &row;
    }
  }
  return nullptr;
}

const CompareRow* baseline_of(const CompareRow& row, const std::vector<CompareRow>& rows) {
  return find_row(rows, row.protocol, "none", row.dtype, row.seq_len);
}

std::string Comparison::machine() const {
  const auto found = environment.find("machine");
  if (found == environment.end() || !found->is_object()) return "unknown machine";
  std::string name = text_at(*found, "cpu_model");
  if (name.empty()) return "unknown machine";
  const auto cores = found->find("cores_used");
  if (cores != found->end() && cores->is_number_integer()) {
    const auto count = cores->get<std::int64_t>();
    name += fmt::format(", {} core{}", count, count == 1 ? "" : "s");
  }
  // The CPU and the GPU of one machine are two columns of a page.
  const std::string device = device_of(*this);
  if (!device.empty() && device != "cpu") name += ", device " + device;
  return name;
}

Resources resources_of(const Comparison& comparison) {
  if (device_of(comparison) == "cuda") return Resources::gpu_each;
  std::set<std::int64_t> cores;
  for (const CompareRow& row : comparison.rows) {
    if (row.protocol == Protocol::fair) {
      cores.insert(std::int64_t{row.ranks} * row.threads_per_rank);
    }
  }
  return cores.size() > 1 ? Resources::unequal_cores : Resources::equal_cores;
}

}  // namespace portolan
