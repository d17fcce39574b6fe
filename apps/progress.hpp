// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <string_view>

namespace portolan {

/// Progress on stderr: on a terminal one line that is rewritten, elsewhere a plain line for each
/// milestone. Silent when `quiet`.
class Progress {
 public:
  explicit Progress(bool quiet);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// Something finished that is worth a line of its own.
  void milestone(std::string_view line);
  /// What is going on now; shown on a terminal only, and cut to its width.
  void activity(std::string_view line);
  /// Removes the line of activity, before something else is printed.
  void clear();
  [[nodiscard]] bool on_terminal() const noexcept { return terminal_; }

 private:
  bool quiet_;
  bool terminal_;
  bool shown_ = false;
  std::string last_;
};

/// "7 s", "3:07", "1:02:03".
[[nodiscard]] std::string clock_text(double seconds);

}  // namespace portolan
