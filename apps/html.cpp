// SPDX-License-Identifier: Apache-2.0
#include "apps/html.hpp"

#include <fmt/format.h>

#include <utility>

#include "core/error.hpp"
#include "core/printable.hpp"

namespace portolan {

std::string html_escape(std::string_view text) {
  std::string escaped;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t length = utf8_character_length(text.substr(i));
    const char c = text[i];
    if (length == 0) {
      escaped += "\xEF\xBF\xBD";
      ++i;
      continue;
    }
    if (c == '&') {
      escaped += "&amp;";
    } else if (c == '<') {
      escaped += "&lt;";
    } else if (c == '>') {
      escaped += "&gt;";
    } else if (c == '"') {
      escaped += "&quot;";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      escaped += ' ';
    } else {
      escaped += text.substr(i, length);
    }
    i += length;
  }
  return escaped;
}

HtmlTable::HtmlTable(std::vector<std::string> header, std::size_t first_number_column)
    : header_(std::move(header)), first_number_column_(first_number_column) {}

void HtmlTable::add(std::vector<std::string> cells, std::string row_class) {
  require(cells.size() == header_.size(), "a table row has {} cells, its header {}", cells.size(),
          header_.size());
  rows_.push_back({std::move(cells), std::move(row_class)});
}

void HtmlTable::add_remark(std::string text) { rows_.push_back({{std::move(text)}, "remark"}); }

std::string HtmlTable::html(std::string_view caption) const {
  std::string text = "<div class=\"scroll\"><table>";
  if (!caption.empty()) text += fmt::format("<caption>{}</caption>", html_escape(caption));
  const auto number_class = [this](std::size_t column) {
    return column >= first_number_column_ ? " class=\"n\"" : "";
  };
  text += "\n<thead><tr>";
  for (std::size_t i = 0; i < header_.size(); ++i) {
    text += fmt::format("<th scope=\"col\"{}>{}</th>", number_class(i), html_escape(header_[i]));
  }
  text += "</tr></thead>\n<tbody>\n";
  for (const Row& row : rows_) {
    text += row.row_class.empty() ? "<tr>" : fmt::format("<tr class=\"{}\">", row.row_class);
    if (row.cells.size() == 1 && header_.size() > 1) {
      text += fmt::format("<td colspan=\"{}\">{}</td>", header_.size(), html_escape(row.cells[0]));
    } else {
      for (std::size_t i = 0; i < row.cells.size(); ++i) {
        text += fmt::format("<td{}>{}</td>", number_class(i), html_escape(row.cells[i]));
      }
    }
    text += "</tr>\n";
  }
  return text + "</tbody></table></div>\n";
}

}  // namespace portolan
