// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "apps/comparison.hpp"

/// Rows as text: for a terminal, for spreadsheets, and the cells that the page shares with them.
namespace portolan {

/// A field of a CSV file, in quotes where RFC 4180 wants them.
[[nodiscard]] std::string csv_quoted(std::string_view text);
/// Three significant digits, without an exponent where that stays short: "0.612", "16.8",
/// "1.23e-07".
[[nodiscard]] std::string number_text(double value);
/// "0.612 (3) [0.601, 0.640]": median, number of samples, range; in seconds.
[[nodiscard]] std::string time_text(const TimeSamples& times);
/// Gigabytes, powers of ten: "1.370".
[[nodiscard]] std::string gigabytes_text(std::int64_t bytes);
/// "1.05x".
[[nodiscard]] std::string ratio_text(double ratio);
/// "3.1 %".
[[nodiscard]] std::string percent_text(double share);
/// "2 x 4": ranks by threads of each.
[[nodiscard]] std::string ranks_text(const CompareRow& row);
/// "2 ranks x 4 threads".
[[nodiscard]] std::string long_ranks_text(const CompareRow& row);

/// Median over the floor, and over `none` of the same dtype, length and protocol.
[[nodiscard]] std::optional<double> time_over_floor(const CompareRow& row);
[[nodiscard]] std::optional<double> time_over_none(const CompareRow& row,
                                                   const std::vector<CompareRow>& rows);

/// A row as the line that is printed when it arrives.
[[nodiscard]] std::string row_line(const CompareRow& row);

/// The table that `portolan compare` prints: a header line and one line per row, refused rows with
/// their reason. Memory is that of the rank with the most.
[[nodiscard]] std::string text_table(const std::vector<CompareRow>& rows);

/// The same and more as CSV (RFC 4180, one header line, "\n" line ends): seconds, bytes and shares.
[[nodiscard]] std::string csv_table(const std::vector<CompareRow>& rows);

}  // namespace portolan
