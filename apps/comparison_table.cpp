// SPDX-License-Identifier: Apache-2.0
#include "apps/comparison_table.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

namespace portolan {
namespace {

constexpr std::array<std::string_view, 11> kHeader{
    "mode",      "dtype",  "ranks x threads", "length",      "time s (n) [min, max]",
    "/ floor",   "/ none", "alloc GB",        "resident GB", "comm",
    "max |diff|"};
/// Names stand on the left of their column, numbers on the right.
constexpr std::size_t kNameColumns = 3;

using Cells = std::array<std::string, kHeader.size()>;

template <typename T, typename Format>
std::string or_dash(const std::optional<T>& value, Format format) {
  return value ? format(*value) : "-";
}

Cells cells_of(const CompareRow& row, const std::vector<CompareRow>& rows) {
  return {row.mode + (row.protocol == Protocol::published ? "*" : ""),
          row.dtype,
          ranks_text(row),
          std::to_string(row.seq_len),
          or_dash(row.time_s, time_text),
          or_dash(time_over_floor(row), ratio_text),
          or_dash(time_over_none(row, rows), ratio_text),
          or_dash(largest(row.memory.allocated_peak), gigabytes_text),
          or_dash(largest(row.memory.resident_peak), gigabytes_text),
          row.ranks > 1 ? or_dash(communication_share(row), percent_text) : "-",
          or_dash(row.max_abs_difference, number_text)};
}

std::string line_of(const Cells& cells, const std::array<std::size_t, kHeader.size()>& widths) {
  std::string line;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    if (i > 0) line += "  ";
    line += i < kNameColumns ? fmt::format("{:<{}}", cells[i], widths[i])
                             : fmt::format("{:>{}}", cells[i], widths[i]);
  }
  return line;
}

/// What the columns' short names mean.
std::string legend(const std::vector<CompareRow>& rows) {
  std::string text =
      "/ floor: over the time of the model's matrix products alone; GB: peaks, of the rank with "
      "the "
      "most\n";
  std::optional<double> largest_logit;
  for (const CompareRow& row : rows) {
    if (row.largest_logit)
      largest_logit = std::max(largest_logit.value_or(0.0), *row.largest_logit);
  }
  if (largest_logit) {
    text += fmt::format(
        "|diff|: of the logits, up to {}, from those of none in the same dtype (of none: in f32)\n",
        number_text(*largest_logit));
  }
  return text;
}

template <typename T>
std::string or_empty(const std::optional<T>& value) {
  return value ? fmt::format("{}", *value) : std::string{};
}

}  // namespace

std::string csv_quoted(std::string_view text) {
  if (text.find_first_of(",\"\r\n") == std::string_view::npos) return std::string(text);
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"') result += '"';
    result += c;
  }
  return result + "\"";
}

std::string number_text(double value) {
  const double magnitude = std::abs(value);
  if (value == 0.0) return "0";
  if (magnitude < 1e-3 || magnitude >= 1e5) return fmt::format("{:.2e}", value);
  const int digits = std::clamp(2 - static_cast<int>(std::floor(std::log10(magnitude))), 0, 5);
  return fmt::format("{:.{}f}", value, digits);
}

std::string time_text(const TimeSamples& times) {
  return fmt::format("{} ({}) [{}, {}]", number_text(times.median), times.samples.size(),
                     number_text(times.minimum), number_text(times.maximum));
}

std::string gigabytes_text(std::int64_t bytes) {
  const double gigabytes = static_cast<double>(bytes) / 1e9;
  if (gigabytes >= 10.0) return fmt::format("{:.2f}", gigabytes);
  if (gigabytes >= 0.1) return fmt::format("{:.3f}", gigabytes);
  return number_text(gigabytes);
}

std::string ratio_text(double ratio) { return fmt::format("{:.2f}x", ratio); }

std::string percent_text(double share) { return fmt::format("{:.1f} %", 100.0 * share); }

std::string ranks_text(const CompareRow& row) {
  return fmt::format("{} x {}", row.ranks, row.threads_per_rank);
}

std::string long_ranks_text(const CompareRow& row) {
  return fmt::format("{} rank{} x {} thread{}", row.ranks, row.ranks == 1 ? "" : "s",
                     row.threads_per_rank, row.threads_per_rank == 1 ? "" : "s");
}

std::optional<double> time_over_floor(const CompareRow& row) {
  if (!row.time_s || !row.floor_s || *row.floor_s <= 0.0) return std::nullopt;
  return row.time_s->median / *row.floor_s;
}

std::optional<double> time_over_none(const CompareRow& row, const std::vector<CompareRow>& rows) {
  const CompareRow* baseline = baseline_of(row, rows);
  if (baseline == nullptr || !baseline->time_s || !row.time_s) return std::nullopt;
  return row.time_s->median / baseline->time_s->median;
}

std::string row_line(const CompareRow& row) {
  std::string line =
      fmt::format("{} {}, {}, length {}: ", row.mode, row.dtype, long_ranks_text(row), row.seq_len);
  if (!row.proven) return line + "refused: " + row.reason;
  line += time_text(*row.time_s) + " s";
  if (const auto bytes = largest(row.memory.allocated_peak)) {
    line += fmt::format(", {} GB allocated per rank", gigabytes_text(*bytes));
  }
  if (const auto share = communication_share(row); share && row.ranks > 1) {
    line += fmt::format(", communication {}", percent_text(*share));
  }
  return line;
}

std::string text_table(const std::vector<CompareRow>& rows) {
  std::vector<Cells> lines(1);
  std::copy(kHeader.begin(), kHeader.end(), lines[0].begin());
  for (const CompareRow& row : rows) lines.push_back(cells_of(row, rows));
  std::array<std::size_t, kHeader.size()> widths{};
  for (const Cells& cells : lines) {
    for (std::size_t i = 0; i < cells.size(); ++i) {
      widths[i] = std::max(widths[i], cells[i].size());
    }
  }
  std::string text = line_of(lines[0], widths) + "\n";
  text += std::string(text.size() - 1, '-') + "\n";
  for (std::size_t i = 0; i < rows.size(); ++i) {
    text += line_of(lines[i + 1], widths) + "\n";
    if (!rows[i].proven) text += "  refused: " + rows[i].reason + "\n";
  }
  text += legend(rows);
  const bool published = std::any_of(rows.begin(), rows.end(), [](const CompareRow& row) {
    return row.protocol == Protocol::published;
  });
  if (published) {
    text += "* as in the published experiment: sp, then tp in one process, one cold forward each\n";
  }
  return text;
}

std::string csv_table(const std::vector<CompareRow>& rows) {
  std::string text =
      "protocol,mode,dtype,seq_len,batch,layers,ranks,threads_per_rank,proven,reason,time_median_s,"
      "time_min_s,time_max_s,time_samples,floor_s,time_over_floor,time_over_none,"
      "allocated_before_model_bytes,allocated_peak_bytes,reserved_peak_bytes,resident_peak_bytes,"
      "weights_bytes,communication_calls,communication_bytes,communication_s,communication_share,"
      "max_abs_difference,difference_reference,largest_logit\n";
  for (const CompareRow& row : rows) {
    text +=
        fmt::format("{},{},{},{},{},{},{},{},{},{},", name_of(row.protocol), row.mode, row.dtype,
                    row.seq_len, row.batch, row.layers, row.ranks, row.threads_per_rank,
                    row.proven ? "true" : "false", csv_quoted(row.reason));
    if (row.time_s) {
      text += fmt::format("{},{},{},{},", row.time_s->median, row.time_s->minimum,
                          row.time_s->maximum, row.time_s->samples.size());
    } else {
      text += ",,,,";
    }
    text += fmt::format("{},{},{},", or_empty(row.floor_s), or_empty(time_over_floor(row)),
                        or_empty(time_over_none(row, rows)));
    text += fmt::format(
        "{},{},{},{},{},", or_empty(largest(row.memory.allocated_before_model)),
        or_empty(largest(row.memory.allocated_peak)), or_empty(largest(row.memory.reserved_peak)),
        or_empty(largest(row.memory.resident_peak)), or_empty(largest(row.memory.weights)));
    if (row.time_s) {
      text += fmt::format("{},{},{},{},", row.communication.calls, row.communication.bytes,
                          row.communication.seconds, or_empty(communication_share(row)));
    } else {
      text += ",,,,";
    }
    text += fmt::format("{},{},{}\n", or_empty(row.max_abs_difference),
                        csv_quoted(row.difference_reference), or_empty(row.largest_logit));
  }
  return text;
}

}  // namespace portolan
