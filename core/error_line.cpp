// SPDX-License-Identifier: Apache-2.0
#include "core/error_line.hpp"

#include <fmt/format.h>

#include <cstdio>
#include <string>

#include "core/printable.hpp"

namespace portolan {

void print_error(std::string_view message) {
  constexpr std::size_t kLongestMessage = 2000;
  std::string line(message);
  for (char& c : line) {
    if (c == '\n' || c == '\r') c = ' ';
  }
  while (!line.empty() && line.back() == ' ') line.pop_back();
  // One write, so that lines of several ranks do not mix.
  line = fmt::format("portolan: error: {}\n", printable(line, kLongestMessage));
  std::fwrite(line.data(), 1, line.size(), stderr);
}

}  // namespace portolan
