// SPDX-License-Identifier: Apache-2.0
#include "apps/progress.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace portolan {
namespace {

std::size_t terminal_width() {
  winsize size{};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

bool can_rewrite_lines() {
  const char* terminal = std::getenv("TERM");
  return ::isatty(STDERR_FILENO) == 1 && terminal != nullptr &&
         std::string_view(terminal) != "dumb";
}

}  // namespace

Progress::Progress(bool quiet) : quiet_(quiet), terminal_(!quiet && can_rewrite_lines()) {}

Progress::~Progress() { clear(); }

void Progress::milestone(std::string_view line) {
  if (quiet_) return;
  clear();
  fmt::print(stderr, "{}\n", line);
}

void Progress::activity(std::string_view line) {
  if (!terminal_ || line == last_) return;
  last_ = line;
  const std::size_t width = std::max<std::size_t>(terminal_width(), 2) - 1;
  fmt::print(stderr, "\r\x1b[2K{}", line.substr(0, width));
  std::fflush(stderr);
  shown_ = true;
}

void Progress::clear() {
  if (!shown_) return;
  fmt::print(stderr, "\r\x1b[2K");
  std::fflush(stderr);
  shown_ = false;
  last_.clear();
}

std::string clock_text(double seconds) {
  const auto total = std::lround(std::max(0.0, seconds));
  if (total < 60) return fmt::format("{} s", total);
  if (total < 3600) return fmt::format("{}:{:02}", total / 60, total % 60);
  return fmt::format("{}:{:02}:{:02}", total / 3600, total / 60 % 60, total % 60);
}

}  // namespace portolan
