// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>
#include <string_view>
#include <utility>

#include "apps/comparison.hpp"
#include "core/json_file.hpp"

namespace portolan {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kMostRanks = 1 << 20;
constexpr double kMostSeconds = 1e9;
constexpr double kMostDifference = std::numeric_limits<double>::max();

using MemoryField = std::pair<std::string_view, std::vector<std::int64_t> RowMemory::*>;
constexpr std::array<MemoryField, 9> kMemoryFields{{
    {"allocated_before_model", &RowMemory::allocated_before_model},
    {"allocated_peak", &RowMemory::allocated_peak},
    {"reserved_peak", &RowMemory::reserved_peak},
    {"resident_peak", &RowMemory::resident_peak},
    {"resident_before_model", &RowMemory::resident_before_model},
    {"weights", &RowMemory::weights},
    {"resident", &RowMemory::resident},
    {"resident_peak_loading", &RowMemory::resident_peak_loading},
    {"formula", &RowMemory::formula},
}};

std::string one_of(const JsonObject& object, std::string_view name,
                   std::initializer_list<std::string_view> valid) {
  std::string text = object.text(name);
  if (std::find(valid.begin(), valid.end(), text) == valid.end()) {
    std::string list;
    for (const std::string_view each : valid) {
      list += list.empty() ? "" : ", ";
      list += each;
    }
    object.fail(name, "one of " + list);
  }
  return text;
}

const json& list_at(const JsonObject& object, std::string_view name) {
  const json* member = object.find(name);
  if (member == nullptr || !member->is_array()) object.fail(name, "a list");
  return *member;
}

TimeSamples parse_times(const JsonObject& object) {
  TimeSamples times;
  times.median = object.positive_number("median");
  times.minimum = object.positive_number("min");
  times.maximum = object.positive_number("max");
  for (const json& sample : list_at(object, "samples")) {
    if (!sample.is_number() || !(sample.get<double>() > 0.0)) {
      object.fail("samples", "a list of numbers above 0");
    }
    times.samples.push_back(sample.get<double>());
  }
  if (times.samples.empty()) object.fail("samples", "a list of at least one number");
  if (times.minimum > times.median || times.median > times.maximum) {
    object.fail("median", "a number from min to max");
  }
  return times;
}

std::vector<std::int64_t> parse_per_rank(const JsonObject& object, std::string_view name,
                                         int ranks) {
  std::vector<std::int64_t> values;
  const auto expected = fmt::format("a list of {} byte counts, one per rank", ranks);
  for (const json& value : list_at(object, name)) {
    if (!value.is_number_unsigned() ||
        value.get<std::uint64_t>() > static_cast<std::uint64_t>(kMost)) {
      object.fail(name, expected);
    }
    values.push_back(value.get<std::int64_t>());
  }
  if (values.size() != static_cast<std::size_t>(ranks)) object.fail(name, expected);
  return values;
}

std::map<std::string, CollectiveUse> parse_collectives(const JsonObject& object) {
  std::map<std::string, CollectiveUse> uses;
  for (const auto& [name, value] : object.members().items()) {
    const JsonObject member = object.object(name);
    CollectiveUse use;
    use.calls = member.integer("calls", 0, kMost);
    use.bytes = member.integer("bytes", 0, kMost);
    if (member.has("seconds")) use.seconds = member.number("seconds", 0.0, kMostSeconds);
    uses.emplace(name, use);
  }
  return uses;
}

RowCommunication parse_communication(const JsonObject& object) {
  RowCommunication communication;
  communication.calls = object.integer("calls", 0, kMost);
  communication.bytes = object.integer("bytes", 0, kMost);
  communication.seconds = object.number("seconds", 0.0, kMostSeconds);
  communication.by_collective = parse_collectives(object.object("by_collective"));
  if (object.has("expected")) communication.expected = parse_collectives(object.object("expected"));
  return communication;
}

void parse_measurements(const JsonObject& object, CompareRow& row) {
  row.time_s = parse_times(object.object("time_s"));
  if (object.has("floor_s")) row.floor_s = object.number("floor_s", 0.0, kMostSeconds);
  const JsonObject memory = object.object("memory_bytes");
  for (const auto& [name, field] : kMemoryFields) {
    const bool required = field == &RowMemory::allocated_peak || field == &RowMemory::resident_peak;
    if (required || memory.has(name)) row.memory.*field = parse_per_rank(memory, name, row.ranks);
  }
  if (memory.has("resident_peak_is_of")) {
    row.memory.resident_peak_is_of = memory.text("resident_peak_is_of");
  }
  row.communication = parse_communication(object.object("communication"));
  if (object.has("max_abs_difference")) {
    row.max_abs_difference = object.number("max_abs_difference", 0.0, kMostDifference);
  }
  if (object.has("difference_reference")) {
    row.difference_reference = object.text("difference_reference");
  }
  if (object.has("largest_logit")) {
    row.largest_logit = object.number("largest_logit", 0.0, kMostDifference);
  }
}

ordered_json to_json(const std::map<std::string, CollectiveUse>& uses, bool with_seconds) {
  ordered_json object = ordered_json::object();
  for (const auto& [name, use] : uses) {
    ordered_json& member = object[name];
    member["calls"] = use.calls;
    member["bytes"] = use.bytes;
    if (with_seconds) member["seconds"] = use.seconds;
  }
  return object;
}

template <typename T>
ordered_json or_null(const std::optional<T>& value) {
  return value ? ordered_json(*value) : ordered_json(nullptr);
}

}  // namespace

CompareRow parse_row(const json& value, const std::string& source, const std::string& path) {
  const JsonObject object(value, source, path);
  CompareRow row;
  row.mode = one_of(object, "mode", {"none", "tp", "sp", "ring"});
  row.dtype = one_of(object, "dtype", {"f32", "bf16", "f16"});
  if (object.has("protocol")) {
    row.protocol = protocol_from_name(one_of(object, "protocol", {"fair", "published"}));
  }
  row.seq_len = object.integer("seq_len", 1, kMost);
  row.batch = object.integer("batch", 1, kMost);
  row.layers = object.integer("layers", 1, kMost);
  row.ranks = static_cast<int>(object.integer("ranks", 1, kMostRanks));
  row.threads_per_rank = static_cast<int>(object.integer("threads_per_rank", 1, kMostRanks));
  row.proven = object.boolean("proven");
  if (!row.proven) row.reason = object.text("reason");
  // A job that failed has a row without measurements; a row that is proven has them all.
  if (row.proven || object.has("time_s")) parse_measurements(object, row);
  return row;
}

ordered_json to_json(const CompareRow& row) {
  ordered_json object;
  object["mode"] = row.mode;
  object["dtype"] = row.dtype;
  object["protocol"] = std::string(name_of(row.protocol));
  object["seq_len"] = row.seq_len;
  object["batch"] = row.batch;
  object["layers"] = row.layers;
  object["ranks"] = row.ranks;
  object["threads_per_rank"] = row.threads_per_rank;
  object["proven"] = row.proven;
  if (!row.proven) object["reason"] = row.reason;
  if (!row.time_s) return object;
  object["time_s"] = {{"median", row.time_s->median},
                      {"min", row.time_s->minimum},
                      {"max", row.time_s->maximum},
                      {"samples", row.time_s->samples}};
  object["floor_s"] = or_null(row.floor_s);
  ordered_json& memory = object["memory_bytes"] = ordered_json::object();
  for (const auto& [name, field] : kMemoryFields) {
    if (!(row.memory.*field).empty()) memory[std::string(name)] = row.memory.*field;
  }
  if (!row.memory.resident_peak_is_of.empty()) {
    memory["resident_peak_is_of"] = row.memory.resident_peak_is_of;
  }
  ordered_json& communication = object["communication"];
  communication["calls"] = row.communication.calls;
  communication["bytes"] = row.communication.bytes;
  communication["seconds"] = row.communication.seconds;
  communication["by_collective"] = to_json(row.communication.by_collective, true);
  if (row.communication.expected) {
    communication["expected"] = to_json(*row.communication.expected, false);
  }
  object["max_abs_difference"] = or_null(row.max_abs_difference);
  if (row.max_abs_difference) {
    object["difference_reference"] = row.difference_reference;
    object["largest_logit"] = or_null(row.largest_logit);
  }
  return object;
}

Comparison read_comparison(const std::filesystem::path& path) {
  const json document = read_json_file(path);
  const std::string source = path.string();
  const JsonObject object(document, source);
  Comparison comparison;
  comparison.environment = object.object("environment").members();
  const json& rows = list_at(object, "rows");
  for (std::size_t i = 0; i < rows.size(); ++i) {
    comparison.rows.push_back(parse_row(rows[i], source, fmt::format("rows[{}]", i)));
  }
  if (comparison.rows.empty()) object.refuse("rows", "expected at least one row, found none");
  sort_rows(comparison.rows);
  return comparison;
}

ordered_json to_json(const Comparison& comparison) {
  ordered_json document;
  document["environment"] = comparison.environment;
  ordered_json& rows = document["rows"] = ordered_json::array();
  for (const CompareRow& row : comparison.rows) rows.push_back(to_json(row));
  return document;
}

}  // namespace portolan
