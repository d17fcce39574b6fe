// SPDX-License-Identifier: Apache-2.0
#include "core/log.hpp"

#include <spdlog/logger.h>
#include <spdlog/sinks/stdout_color_sinks.h>

#include <array>
#include <cstdlib>
#include <functional>
#include <mutex>
#include <set>
#include <string>

#include "core/error.hpp"

namespace portolan {

namespace {

constexpr std::array<std::string_view, 6> kLevelNames = {"trace", "debug", "info",
                                                         "warn",  "error", "off"};

spdlog::level::level_enum spdlog_level(LogLevel level) noexcept {
  constexpr std::array kLevels = {spdlog::level::trace, spdlog::level::debug, spdlog::level::info,
                                  spdlog::level::warn,  spdlog::level::err,   spdlog::level::off};
  return kLevels[static_cast<std::size_t>(level)];
}

}  // namespace

struct Logger::State {
  spdlog::logger sink{"portolan", std::make_shared<spdlog::sinks::stderr_color_sink_mt>()};
  LogLevel level = LogLevel::warn;
  LogLevel lowest_for_rank = LogLevel::trace;
  std::mutex keys_mutex;
  std::set<std::string, std::less<>> keys;
};

std::optional<LogLevel> parse_log_level(std::string_view name) {
  for (std::size_t i = 0; i < kLevelNames.size(); ++i) {
    if (kLevelNames[i] == name) return static_cast<LogLevel>(i);
  }
  return std::nullopt;
}

Logger::Logger() : state_(std::make_unique<State>()) {
  // Levels are decided here, so that one rule serves all ranks.
  state_->sink.set_level(spdlog::level::trace);
  state_->sink.set_pattern("portolan: %^%l%$: %v");
  const char* name = std::getenv("PORTOLAN_LOG");
  if (name == nullptr || *name == '\0') return;
  if (const auto level = parse_log_level(name)) {
    state_->level = *level;
  } else {
    warn("PORTOLAN_LOG must be trace, debug, info, warn, error or off; found \"{}\", using warn",
         name);
  }
}

Logger::~Logger() = default;

bool Logger::enabled(LogLevel level) const noexcept {
  return level != LogLevel::off && level >= state_->level && level >= state_->lowest_for_rank;
}

void Logger::set_level(LogLevel level) noexcept { state_->level = level; }

LogLevel Logger::level() const noexcept { return state_->level; }

void Logger::write(LogLevel level, std::string_view message) {
  if (enabled(level)) {
    state_->sink.log(spdlog_level(level), spdlog::string_view_t(message.data(), message.size()));
  }
}

Logger& log() {
  static Logger logger;
  return logger;
}

void set_log_rank(int rank, int size) {
  require(0 <= rank && rank < size, "a log's rank must be from 0 to {}, not {}", size - 1, rank);
  Logger::State& state = *log().state_;
  state.lowest_for_rank = rank == 0 ? LogLevel::trace : LogLevel::warn;
  state.sink.set_pattern(size == 1 ? "portolan: %^%l%$: %v"
                                   : fmt::format("portolan: [rank {}] %^%l%$: %v", rank));
}

bool first_use_of_log_key(std::string_view key) {
  Logger::State& state = *log().state_;
  const std::lock_guard lock(state.keys_mutex);
  return state.keys.emplace(key).second;
}

}  // namespace portolan
