// SPDX-License-Identifier: Apache-2.0
#include "apps/compare_guard.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "apps/comparison_table.hpp"
#include "apps/sample_difference.hpp"
#include "core/error.hpp"

namespace portolan {
namespace {

void refuse(CompareRow& row, std::string reason) {
  if (row.proven) row.reason = std::move(reason);
  row.proven = false;
}

std::string use_text(const CollectiveUse& use) {
  return fmt::format("{} call{} and {} bytes", use.calls, use.calls == 1 ? "" : "s", use.bytes);
}

CollectiveUse use_of(const std::map<std::string, CollectiveUse>& uses, const std::string& name) {
  const auto found = uses.find(name);
  return found == uses.end() ? CollectiveUse{} : found->second;
}

void check_counters(CompareRow& row) {
  if (!row.communication.expected) {
    refuse(row, "the plan's closed form of the communication is missing");
    return;
  }
  std::set<std::string> names;
  for (const auto& [name, use] : row.communication.by_collective) names.insert(name);
  for (const auto& [name, use] : *row.communication.expected) names.insert(name);
  for (const std::string& name : names) {
    const CollectiveUse counted = use_of(row.communication.by_collective, name);
    const CollectiveUse expected = use_of(*row.communication.expected, name);
    if (counted.calls != expected.calls || counted.bytes != expected.bytes) {
      refuse(row, fmt::format("{}: counted {}, but the plan says {}", name, use_text(counted),
                              use_text(expected)));
      return;
    }
  }
}

}  // namespace

void check_row(CompareRow& row, const CompareJob& job, const CompareSettings& settings) {
  if (row.dtype != job.dtype || row.ranks != job.ranks || row.batch != settings.batch ||
      row.layers != settings.layers || row.threads_per_rank != job.threads) {
    refuse(row, fmt::format("the row is of {} {}, {}, batch {}, {} layers, which is not what was "
                            "asked for",
                            row.mode, row.dtype, long_ranks_text(row), row.batch, row.layers));
  }
  if (!row.time_s) {
    refuse(row, "no forward was timed");
    return;
  }
  const std::size_t wanted =
      job.protocol == Protocol::fair ? static_cast<std::size_t>(settings.repeat) : 1;
  if (row.time_s->samples.size() != wanted) {
    refuse(row,
           fmt::format("{} forwards were timed instead of {}", row.time_s->samples.size(), wanted));
  }
  const auto before = largest(row.memory.allocated_before_model);
  if (!before) refuse(row, "the memory allocated before the model was made is missing");
  // The published order keeps the first model alive while the second runs: that is what it shows.
  if (before && *before > 0 && job.protocol == Protocol::fair) {
    refuse(row, fmt::format("{} GB were already allocated when the model was made",
                            number_text(static_cast<double>(*before) / 1e9)));
  }
  check_counters(row);
}

CompareRow missing_row(const CompareJob& job, const std::string& mode, std::int64_t seq_len,
                       const CompareSettings& settings, const std::string& reason) {
  CompareRow row;
  row.mode = mode;
  row.dtype = job.dtype;
  row.protocol = job.protocol;
  row.seq_len = seq_len;
  row.batch = settings.batch;
  row.layers = settings.layers;
  row.ranks = job.ranks;
  row.threads_per_rank = job.threads;
  row.proven = false;
  row.reason = reason;
  return row;
}

double accepted_difference(const std::string& dtype) {
  if (dtype == "f32") return 1e-4;
  if (dtype == "f16") return 2e-2;
  return 1e-1;
}

void compare_logits(std::vector<CompareRow>& rows, const SampleFiles& samples) {
  for (CompareRow& row : rows) {
    if (row.protocol != Protocol::fair || !row.time_s || row.max_abs_difference) continue;
    // `none` in f32 is what the others are compared with: beside itself it shows that it is finite.
    const std::string reference_dtype = row.mode == "none" ? "f32" : row.dtype;
    const bool is_reference = row.mode == "none" && row.dtype == "f32";
    const auto own = samples.find({row.mode, row.dtype, row.ranks});
    const auto reference = samples.find({"none", reference_dtype, 1});
    if (own == samples.end() || reference == samples.end()) continue;
    SampleDifference difference;
    try {
      difference = compare_samples(own->second, reference->second, row.seq_len);
    } catch (const Error& error) {
      refuse(row, fmt::format("the logits cannot be compared: {}", error.what()));
      continue;
    }
    const std::string name = "none " + reference_dtype;
    const double accepted = accepted_difference(row.dtype) * difference.largest_logit;
    if (!std::isfinite(difference.max_abs_difference) || difference.max_abs_difference > accepted) {
      refuse(row, fmt::format("the logits differ from {} by {}, where {} is accepted", name,
                              number_text(difference.max_abs_difference), number_text(accepted)));
    }
    // JSON has no infinity: the reason says it.
    if (is_reference || !std::isfinite(difference.max_abs_difference)) continue;
    row.difference_reference = name;
    row.max_abs_difference = difference.max_abs_difference;
    row.largest_logit = difference.largest_logit;
  }
}

}  // namespace portolan
