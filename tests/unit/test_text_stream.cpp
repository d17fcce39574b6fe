// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "models/generation/text_stream.hpp"

namespace portolan {
namespace {

/// What is shown of a text that arrives in pieces of `size` bytes, and whether it was stopped.
std::pair<std::string, bool> shown(const std::string& text, const std::vector<std::string>& stops,
                                   std::size_t size) {
  StopSearch search(stops);
  std::string all;
  for (std::size_t i = 0; i < text.size(); i += size) {
    all += search.push(std::string_view(text).substr(i, size));
    // Nothing shown may have to be taken back.
    for (const std::string& stop : stops) {
      if (!stop.empty()) {
        EXPECT_EQ(all.find(stop), std::string::npos);
      }
    }
  }
  all += search.finish();
  return {all, search.found()};
}

TEST(StopSearch, EndsBeforeTheFirstStopHoweverTheTextArrives) {
  const std::string text = "one two three four";
  for (std::size_t size = 1; size <= text.size(); ++size) {
    EXPECT_EQ(shown(text, {"three"}, size), std::pair(std::string("one two "), true));
    EXPECT_EQ(shown(text, {"four", "wo t"}, size), std::pair(std::string("one t"), true));
    EXPECT_EQ(shown(text, {"five", ""}, size), std::pair(text, false));
    EXPECT_EQ(shown(text, {"four!"}, size), std::pair(text, false));
    EXPECT_EQ(shown("aaab", {"aab"}, size), std::pair(std::string("a"), true));
  }
}

TEST(StopSearch, OfStopsThatOverlapFindsTheOneThatEndsFirst) {
  const std::string text = "xabcd";
  for (std::size_t size = 1; size <= text.size(); ++size) {
    EXPECT_EQ(shown(text, {"abcd", "bc"}, size), std::pair(std::string("xa"), true));
    EXPECT_EQ(shown(text, {"bc", "abc"}, size), std::pair(std::string("x"), true));
  }
}

TEST(StopSearch, ShowsWhatCannotBeginAStopAtOnce) {
  StopSearch search({"xyz"});
  EXPECT_EQ(search.push("abx"), "ab");
  EXPECT_EQ(search.push("yq"), "xyq");
  EXPECT_EQ(search.push("xy"), "");
  EXPECT_EQ(search.finish(), "xy");
}

}  // namespace
}  // namespace portolan
