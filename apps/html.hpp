// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>
#include <vector>

/// The few pieces of HTML that the report is made of. All text that goes into it is escaped here.
namespace portolan {

/// For text and for attribute values in double quotes; bytes that are not UTF-8 become U+FFFD, and
/// control characters spaces.
[[nodiscard]] std::string html_escape(std::string_view text);

/// A table with a header line. Columns from `first_number_column` on are aligned as numbers.
class HtmlTable {
 public:
  HtmlTable(std::vector<std::string> header, std::size_t first_number_column);
  /// A row of as many cells as the header has; `row_class` is empty or a CSS class.
  void add(std::vector<std::string> cells, std::string row_class = {});
  /// A row of one cell across all columns, for remarks on the row before.
  void add_remark(std::string text);
  [[nodiscard]] bool empty() const noexcept { return rows_.empty(); }
  /// The element, in a box that scrolls sideways on narrow screens.
  [[nodiscard]] std::string html(std::string_view caption = {}) const;

 private:
  struct Row {
    std::vector<std::string> cells;
    std::string row_class;
  };
  std::vector<std::string> header_;
  std::size_t first_number_column_;
  std::vector<Row> rows_;
};

}  // namespace portolan
