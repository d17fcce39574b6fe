// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <optional>
#include <string>

namespace portolan {

/// Lines of a file descriptor as they arrive. It knows whether the next line is there already, so
/// that a filter can answer at once in a conversation and in large blocks otherwise.
class LineReader {
 public:
  /// `name` is what errors call the descriptor, which is not closed.
  LineReader(int descriptor, std::string name);

  /// The next line without its end; the last may lack one. Nothing at the end of the input. Throws
  /// InputError when reading fails or a line has more than kLongestLine bytes.
  [[nodiscard]] std::optional<std::string> next();
  /// Whether next() will not have to wait.
  [[nodiscard]] bool has_line() const;

  static constexpr std::size_t kLongestLine = std::size_t{1} << 28;

 private:
  bool fill();

  int descriptor_;
  std::string name_;
  std::string buffer_;
  std::size_t begin_ = 0;  ///< of what has not been given out
  std::size_t seen_ = 0;   ///< up to here there is no end of a line after begin_
  bool at_end_ = false;
};

}  // namespace portolan
