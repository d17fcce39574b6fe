// SPDX-License-Identifier: Apache-2.0
#include "apps/report_tables.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <tuple>

#include "apps/comparison_table.hpp"
#include "apps/html.hpp"
#include "apps/published_results.hpp"
#include "apps/report_plots.hpp"

namespace portolan {
namespace {

const std::string kAbsent = "–";

template <typename T, typename Format>
std::string or_absent(const std::optional<T>& value, Format format) {
  return value ? format(*value) : kAbsent;
}

std::string megabytes_text(std::int64_t bytes) {
  return number_text(static_cast<double>(bytes) / 1e6);
}

/// The difference, and what share of the largest logit it is.
std::string difference_text(const CompareRow& row) {
  if (!row.max_abs_difference) return kAbsent;
  std::string text = number_text(*row.max_abs_difference);
  if (row.largest_logit && *row.largest_logit > 0.0) {
    text += fmt::format(" of {}", number_text(*row.largest_logit));
  }
  return text;
}

std::string machine_name(const std::vector<Comparison>& comparisons, std::size_t index) {
  if (comparisons.size() == 1) return "here";
  return fmt::format("machine {}", index + 1);
}

std::string scalar_text(const nlohmann::ordered_json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_array()) {
    std::string text;
    for (const auto& item : value) text += (text.empty() ? "" : ", ") + scalar_text(item);
    return text;
  }
  if (value.is_object()) {
    std::string text;
    for (const auto& [name, item] : value.items()) {
      text += fmt::format("{}{} {}", text.empty() ? "" : ", ", name, scalar_text(item));
    }
    return text;
  }
  return value.dump();
}

/// "NAME: VALUE" for a member that can be a plain value or hold others.
void add_members(HtmlTable& table, const std::string& prefix, const nlohmann::ordered_json& value) {
  for (const auto& [name, member] : value.items()) {
    std::string label = name;
    std::replace(label.begin(), label.end(), '_', ' ');
    if (!prefix.empty()) label.insert(0, prefix + ": ");
    if (name == "jobs") continue;  // each has a line of its own
    if (name == "memory_bytes" && member.is_number()) {
      table.add({"machine: memory", fmt::format("{:.1f} GB", member.get<double>() / 1e9)});
    } else if (member.is_array() || !member.is_structured()) {
      const std::string text = scalar_text(member);
      if (!text.empty()) table.add({label, text});
    }
  }
}

}  // namespace

std::string rows_table(const Comparison& comparison) {
  HtmlTable table(
      {"mode", "dtype", "ranks × threads", "length", "time s (n) [min, max]", "× floor", "× none",
       "allocated GB", "reserved GB", "resident GB", "communication", "largest logit difference"},
      2);
  for (const CompareRow& row : comparison.rows) {
    if (row.protocol != Protocol::fair) continue;
    table.add({row.mode, row.dtype, fmt::format("{} × {}", row.ranks, row.threads_per_rank),
               std::to_string(row.seq_len), or_absent(row.time_s, time_text),
               or_absent(time_over_floor(row), ratio_text),
               or_absent(time_over_none(row, comparison.rows), ratio_text),
               or_absent(largest(row.memory.allocated_peak), gigabytes_text),
               or_absent(largest(row.memory.reserved_peak), gigabytes_text),
               or_absent(largest(row.memory.resident_peak), gigabytes_text),
               row.ranks > 1 ? or_absent(communication_share(row), percent_text) : kAbsent,
               difference_text(row)},
              row.proven ? row.mode : "refused");
    if (!row.proven) table.add_remark("Refused: " + row.reason);
  }
  return table.empty() ? std::string{} : table.html();
}

std::string machines_table(const std::vector<Comparison>& comparisons) {
  std::vector<std::string> header{"mode", "dtype", "ranks", "length"};
  for (std::size_t i = 0; i < comparisons.size(); ++i) {
    header.push_back(fmt::format("machine {}: s", i + 1));
    header.push_back("× its none");
    header.push_back("allocated GB");
  }
  // Lengths within ranks within dtypes within modes, whichever machine has them.
  std::set<std::tuple<int, int, int, std::int64_t>> keys;
  for (const Comparison& comparison : comparisons) {
    for (const CompareRow& row : comparison.rows) {
      if (row.protocol == Protocol::fair && row.proven) {
        keys.emplace(dtype_place(row.dtype), mode_place(row.mode), row.ranks, row.seq_len);
      }
    }
  }
  HtmlTable table(header, 2);
  for (const auto& [dtype_index, place, ranks, length] : keys) {
    std::string mode;
    std::string dtype;
    std::vector<std::string> cells;
    for (const Comparison& comparison : comparisons) {
      const auto row =
          std::find_if(comparison.rows.begin(), comparison.rows.end(), [&](const CompareRow& each) {
            return each.protocol == Protocol::fair && each.proven &&
                   dtype_place(each.dtype) == dtype_index && mode_place(each.mode) == place &&
                   each.ranks == ranks && each.seq_len == length;
          });
      if (row == comparison.rows.end()) {
        cells.insert(cells.end(), 3, kAbsent);
        continue;
      }
      mode = row->mode;
      dtype = row->dtype;
      cells.push_back(or_absent(row->time_s, time_text));
      cells.push_back(or_absent(time_over_none(*row, comparison.rows), ratio_text));
      cells.push_back(or_absent(largest(row->memory.allocated_peak), gigabytes_text));
    }
    cells.insert(cells.begin(), {mode, dtype, std::to_string(ranks), std::to_string(length)});
    table.add(cells, mode);
  }
  return table.empty() ? std::string{} : table.html();
}

std::string published_table(const std::vector<Comparison>& comparisons) {
  HtmlTable table({"source", "length", "TP s", "SP s", "SP / TP", "TP GB", "SP GB", "TP − SP"}, 1);
  for (const PublishedTable& published : published_sequence_parallel_tables()) {
    for (const PublishedPoint& point : published.points) {
      table.add(
          {std::string(published.name), std::to_string(point.seq_len),
           fmt::format("{:.2f}", point.tp_s), fmt::format("{:.2f}", point.sp_s),
           fmt::format("{:.2f}", point.sp_s / point.tp_s),
           fmt::format("{:.2f}", point.tp_gigabytes), fmt::format("{:.2f}", point.sp_gigabytes),
           fmt::format("{:.2f} GB", point.tp_gigabytes - point.sp_gigabytes)},
          "published");
    }
    table.add_remark(fmt::format("{}: {}. Memory: {}.", published.hardware, published.experiment,
                                 published.memory));
  }
  for (std::size_t i = 0; i < comparisons.size(); ++i) {
    for (const std::string& dtype : dtypes_of(comparisons[i])) {
      const auto pairs = tp_sp_pairs(comparisons[i], dtype, Protocol::fair);
      for (const auto& [tp, sp] : pairs) {
        const auto tp_bytes = largest(tp->memory.allocated_peak).value_or(0);
        const auto sp_bytes = largest(sp->memory.allocated_peak).value_or(0);
        table.add({fmt::format("{}, {}", machine_name(comparisons, i), dtype),
                   std::to_string(tp->seq_len), number_text(tp->time_s->median),
                   number_text(sp->time_s->median),
                   fmt::format("{:.2f}", sp->time_s->median / tp->time_s->median),
                   fmt::format("{:.3f}", static_cast<double>(tp_bytes) / 1e9),
                   fmt::format("{:.3f}", static_cast<double>(sp_bytes) / 1e9),
                   megabytes_text(tp_bytes - sp_bytes) + " MB"});
      }
      if (pairs.empty()) continue;
      const CompareRow& row = *pairs.front().first;
      table.add_remark(fmt::format("{}: {} layer{}, batch {}, {}, {}. Memory: peak allocated.",
                                   comparisons[i].machine(), row.layers, row.layers == 1 ? "" : "s",
                                   row.batch, dtype, long_ranks_text(row)));
    }
  }
  return table.html();
}

std::string counters_table(const Comparison& comparison) {
  std::int64_t longest = 0;
  for (const CompareRow& row : comparison.rows) longest = std::max(longest, row.seq_len);
  HtmlTable table(
      {"mode", "dtype", "collective", "ranks", "calls", "by plan", "MB", "by plan", "seconds"}, 3);
  for (const CompareRow& row : comparison.rows) {
    if (row.protocol != Protocol::fair || row.seq_len != longest || !row.communication.expected) {
      continue;
    }
    for (const auto& [name, expected] : *row.communication.expected) {
      const auto found = row.communication.by_collective.find(name);
      const CollectiveUse use =
          found == row.communication.by_collective.end() ? CollectiveUse{} : found->second;
      if (use.calls == 0 && expected.calls == 0) continue;
      std::string label = name;
      std::replace(label.begin(), label.end(), '_', '-');
      table.add({row.mode, row.dtype, label, std::to_string(row.ranks), std::to_string(use.calls),
                 std::to_string(expected.calls), megabytes_text(use.bytes),
                 megabytes_text(expected.bytes), number_text(use.seconds)},
                row.mode);
    }
  }
  if (table.empty()) return {};
  return table.html(fmt::format(
      "One forward of length {}. Calls and bytes are summed over ranks; seconds are their mean.",
      longest));
}

std::string protocol_table(const Comparison& comparison) {
  HtmlTable table({"mode", "dtype", "length", "fair s (n) [min, max]", "published order s", "ratio",
                   "fair GB", "published order GB", "GB before its model"},
                  2);
  for (const CompareRow& row : comparison.rows) {
    if (row.protocol != Protocol::published) continue;
    if (!row.time_s) {
      table.add({row.mode, row.dtype, std::to_string(row.seq_len), kAbsent, kAbsent, kAbsent,
                 kAbsent, kAbsent, kAbsent},
                "refused");
      table.add_remark("Failed: " + row.reason);
      continue;
    }
    const CompareRow* fair =
        find_row(comparison.rows, Protocol::fair, row.mode, row.dtype, row.seq_len, row.ranks);
    const bool measured = fair != nullptr && fair->time_s.has_value();
    table.add({row.mode, row.dtype, std::to_string(row.seq_len),
               measured ? time_text(*fair->time_s) : kAbsent, number_text(row.time_s->median),
               measured ? ratio_text(row.time_s->median / fair->time_s->median) : kAbsent,
               measured ? or_absent(largest(fair->memory.allocated_peak), gigabytes_text) : kAbsent,
               or_absent(largest(row.memory.allocated_peak), gigabytes_text),
               or_absent(largest(row.memory.allocated_before_model), gigabytes_text)},
              row.mode);
  }
  return table.empty() ? std::string{} : table.html();
}

std::string environment_table(const Comparison& comparison) {
  const auto& environment = comparison.environment;
  HtmlTable table({"what", "value"}, 2);
  add_members(table, "", environment);
  for (const char* name : {"experiment", "machine", "portolan"}) {
    if (environment.contains(name) && environment[name].is_object()) {
      add_members(table, name, environment[name]);
    }
  }
  if (environment.contains("variables") && environment["variables"].is_object()) {
    for (const auto& [name, value] : environment["variables"].items()) {
      table.add({"variable " + name, scalar_text(value)});
    }
  }
  if (environment.contains("jobs") && environment["jobs"].is_array()) {
    for (const auto& job : environment["jobs"]) {
      if (!job.is_object() || !job.contains("job")) continue;
      std::string text;
      for (const char* name : {"transport", "binding", "threads_per_rank", "backend"}) {
        if (!job.contains(name)) continue;
        std::string label = name;
        std::replace(label.begin(), label.end(), '_', ' ');
        text += fmt::format("{}{} {}", text.empty() ? "" : "; ", label, scalar_text(job[name]));
      }
      table.add({"job " + scalar_text(job["job"]), text});
    }
  }
  return table.empty() ? std::string{} : table.html();
}

}  // namespace portolan
