// SPDX-License-Identifier: Apache-2.0
#include "apps/line_reader.hpp"

#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "core/error.hpp"

namespace portolan {

LineReader::LineReader(int descriptor, std::string name)
    : descriptor_(descriptor), name_(std::move(name)) {}

std::optional<std::string> LineReader::next() {
  while (true) {
    const std::size_t end = buffer_.find('\n', seen_);
    if (end != std::string::npos || (at_end_ && begin_ < buffer_.size())) {
      std::string line = buffer_.substr(begin_, end == std::string::npos ? end : end - begin_);
      begin_ = end == std::string::npos ? buffer_.size() : end + 1;
      seen_ = begin_;
      return line;
    }
    if (at_end_) return std::nullopt;
    seen_ = buffer_.size();
    if (seen_ - begin_ > kLongestLine) {
      throw InputError(fmt::format("{}: a line has more than {} bytes", name_, kLongestLine));
    }
    at_end_ = !fill();
  }
}

bool LineReader::has_line() const {
  return at_end_ || buffer_.find('\n', seen_) != std::string::npos;
}

bool LineReader::fill() {
  constexpr std::size_t kBlock = 1 << 16;
  buffer_.erase(0, begin_);
  seen_ -= begin_;
  begin_ = 0;
  const std::size_t size = buffer_.size();
  buffer_.resize(size + kBlock);
  ssize_t count = 0;
  do {
    count = ::read(descriptor_, buffer_.data() + size, kBlock);
  } while (count < 0 && errno == EINTR);
  if (count < 0) {
    throw InputError(
        fmt::format("{}: cannot be read: {}", name_, std::generic_category().message(errno)));
  }
  buffer_.resize(size + static_cast<std::size_t>(count));
  return count > 0;
}

}  // namespace portolan
