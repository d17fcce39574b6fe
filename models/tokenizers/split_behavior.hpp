// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <utility>

namespace portolan {

/// What becomes of the matches at which text is split.
enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

/// Turns the matches in a text, in order, into its pieces.
/// `emit(begin, end)` is called for pieces that are not empty.
template <typename Emit>
class SplitAssembler {
 public:
  /// With `invert` what lies between matches counts as the matches.
  SplitAssembler(SplitBehavior behavior, bool invert, Emit emit)
      : behavior_(behavior), invert_(invert), emit_(std::move(emit)) {}

  void match(std::size_t begin, std::size_t end) {
    if (done_ < begin) add({done_, begin, invert_});
    add({begin, end, !invert_});
    done_ = end;
  }

  void finish(std::size_t size) {
    if (done_ < size) add({done_, size, invert_});
    if (holds_) emit(held_);
    holds_ = false;
  }

 private:
  struct Span {
    std::size_t begin;
    std::size_t end;
    bool is_match;
  };

  void emit(const Span& span) {
    if (span.begin < span.end) emit_(span.begin, span.end);
  }

  /// Whether `span` and the one before it make one piece.
  [[nodiscard]] bool joins(const Span& span) const {
    switch (behavior_) {
      case SplitBehavior::merged_with_previous:
        return span.is_match && !last_is_match_;
      case SplitBehavior::merged_with_next:
        return !span.is_match && last_is_match_;
      case SplitBehavior::contiguous:
        return span.is_match == last_is_match_;
      default:
        return false;
    }
  }

  void add(const Span& span) {
    if (behavior_ == SplitBehavior::isolated) return emit(span);
    if (behavior_ == SplitBehavior::removed) {
      if (!span.is_match) emit(span);
      return;
    }
    if (holds_ && joins(span)) {
      held_.end = span.end;
    } else {
      if (holds_) emit(held_);
      held_ = span;
      holds_ = true;
    }
    last_is_match_ = span.is_match;
  }

  SplitBehavior behavior_;
  bool invert_;
  Emit emit_;
  std::size_t done_ = 0;
  /// The piece that what follows may still belong to.
  Span held_{0, 0, false};
  bool holds_ = false;
  bool last_is_match_ = false;
};

}  // namespace portolan
