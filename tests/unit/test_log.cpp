// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdlib>

#include "core/error.hpp"
#include "core/log.hpp"

namespace portolan {
namespace {

/// What the logger writes during `action`, at that level.
template <typename Action>
std::string logged(LogLevel level, Action action) {
  const LogLevel before = log().level();
  log().set_level(level);
  testing::internal::CaptureStderr();
  action();
  log().set_level(before);
  return testing::internal::GetCapturedStderr();
}

TEST(Log, LevelNames) {
  EXPECT_EQ(parse_log_level("trace"), LogLevel::trace);
  EXPECT_EQ(parse_log_level("warn"), LogLevel::warn);
  EXPECT_EQ(parse_log_level("off"), LogLevel::off);
  EXPECT_EQ(parse_log_level("WARN"), std::nullopt);
  EXPECT_EQ(parse_log_level(""), std::nullopt);
}

TEST(Log, WritesWhatTheLevelAdmits) {
  const auto speak = [] {
    log().debug("debug {}", 1);
    log().info("info {}", 2);
    log().warn("warn {}", 3);
    log().error("error {}", 4);
  };
  EXPECT_EQ(logged(LogLevel::info, speak),
            "portolan: info: info 2\nportolan: warning: warn 3\nportolan: error: error 4\n");
  EXPECT_EQ(logged(LogLevel::error, speak), "portolan: error: error 4\n");
  EXPECT_EQ(logged(LogLevel::off, speak), "");
}

TEST(Log, MessagesAreNotFormattedTwice) {
  EXPECT_EQ(logged(LogLevel::info,
                   [] { log().write(LogLevel::info, std::string_view("{} %v {broken")); }),
            "portolan: info: {} %v {broken\n");
  EXPECT_EQ(logged(LogLevel::info, [] { log().info("path {}", "{}%n"); }),
            "portolan: info: path {}%n\n");
}

TEST(Log, OnceForEachKey) {
  const auto speak = [] {
    for (int i = 0; i < 3; ++i) {
      log_once("test-a", LogLevel::warn, "a {}", i);
      log_once("test-b", LogLevel::info, "b {}", i);
    }
  };
  EXPECT_EQ(logged(LogLevel::warn, speak), "portolan: warning: a 0\n");
  // What was not written did not use up its key.
  EXPECT_EQ(logged(LogLevel::info, speak), "portolan: info: b 0\n");
}

TEST(Log, OtherRanksWriteOnlyWarningsAndErrors) {
  const auto speak = [] {
    log().info("news");
    log().warn("careful");
  };
  set_log_rank(0, 4);
  EXPECT_EQ(logged(LogLevel::trace, speak),
            "portolan: [rank 0] info: news\nportolan: [rank 0] warning: careful\n");
  set_log_rank(3, 4);
  EXPECT_EQ(logged(LogLevel::trace, speak), "portolan: [rank 3] warning: careful\n");
  EXPECT_EQ(logged(LogLevel::error, speak), "");
  set_log_rank(0, 1);
  EXPECT_EQ(logged(LogLevel::warn, speak), "portolan: warning: careful\n");
  EXPECT_THROW(set_log_rank(4, 4), UsageError);
  EXPECT_THROW(set_log_rank(-1, 4), UsageError);
}

/// In a fresh process, since the environment is read once.
[[noreturn]] void speak_with_environment(const char* value) {
  if (value == nullptr) {
    unsetenv("PORTOLAN_LOG");
  } else {
    setenv("PORTOLAN_LOG", value, 1);
  }
  log().debug("one");
  log().warn("two");
  std::exit(0);
}

TEST(LogDeathTest, Environment) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const testing::ExitedWithCode done(0);
  EXPECT_EXIT(speak_with_environment(nullptr), done, "^portolan: warning: two\n$");
  EXPECT_EXIT(speak_with_environment("debug"), done,
              "^portolan: debug: one\nportolan: warning: two\n$");
  EXPECT_EXIT(speak_with_environment("off"), done, "^$");
  EXPECT_EXIT(speak_with_environment("loud"), done,
              "^portolan: warning: PORTOLAN_LOG must be .* found \"loud\", using warn\n"
              "portolan: warning: two\n$");
}

}  // namespace
}  // namespace portolan
