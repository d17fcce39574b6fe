// SPDX-License-Identifier: Apache-2.0
#include "models/generation/text_stream.hpp"

#include <algorithm>
#include <utility>

namespace portolan {
namespace {

/// Bytes at the end of `text` that may be the beginning of `stop`.
std::size_t begun(std::string_view text, std::string_view stop) {
  std::size_t length = std::min(text.size(), stop.size() - 1);
  while (length > 0 && !text.ends_with(stop.substr(0, length))) --length;
  return length;
}

}  // namespace

StopSearch::StopSearch(std::vector<std::string> stops) : stops_(std::move(stops)) {
  std::erase(stops_, std::string());
}

std::string StopSearch::push(std::string_view piece) {
  if (found_) return {};
  held_ += piece;
  std::size_t first = std::string::npos;
  std::size_t end = std::string::npos;
  for (const std::string& stop : stops_) {
    const std::size_t at = held_.find(stop);
    if (at == std::string::npos) continue;
    if (at + stop.size() < end || (at + stop.size() == end && at < first)) {
      first = at;
      end = at + stop.size();
    }
  }
  if (first != std::string::npos) {
    found_ = true;
    return held_.substr(0, first);
  }
  std::size_t kept = 0;
  for (const std::string& stop : stops_) kept = std::max(kept, begun(held_, stop));
  std::string certain = held_.substr(0, held_.size() - kept);
  held_.erase(0, certain.size());
  return certain;
}

std::string StopSearch::finish() { return found_ ? std::string() : std::exchange(held_, {}); }

std::string TextStream::finish() {
  std::string rest = search_.push(decoder_.finish());
  rest += search_.finish();
  return add(std::move(rest));
}

}  // namespace portolan
