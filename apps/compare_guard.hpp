// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "apps/compare_settings.hpp"
#include "apps/comparison.hpp"

/// What a row has to show before it counts. A row that does not is kept, with the reason.
namespace portolan {

/// Refuses a row unless it is the one that the job was to give, took the samples that were asked
/// for, started with no memory allocated, and its communication counters equal the closed form of
/// the plan: the proof that the mode was on. The first reason found stays.
void check_row(CompareRow& row, const CompareJob& job, const CompareSettings& settings);

/// A refused row for a length whose measurement never came.
[[nodiscard]] CompareRow missing_row(const CompareJob& job, const std::string& mode,
                                     std::int64_t seq_len, const CompareSettings& settings,
                                     const std::string& reason);

/// Largest |difference| of logits accepted, as a share of the reference's largest |logit|: far
/// above what the dtype's rounding gives, far below what a wrong mask, shard or position gives.
[[nodiscard]] double accepted_difference(const std::string& dtype);

/// Files of sampled logits of the jobs that are done, by (mode, dtype, ranks).
using SampleFiles = std::map<std::tuple<std::string, std::string, int>, std::filesystem::path>;

/// Fills max_abs_difference of the fair rows that lack it and whose reference is there: `none` of
/// the same dtype, for `none` itself f32. Refuses rows whose logits differ by more than is
/// accepted.
void compare_logits(std::vector<CompareRow>& rows, const SampleFiles& samples);

}  // namespace portolan
