// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include <memory>
#include <optional>
#include <string_view>
#include <utility>

/// Messages to the person at the terminal, one line each, on stderr; stdout belongs to commands.
///
///   log().info("{} layers loaded", layers);
///   log_once("bf16", LogLevel::warn, "bf16 is computed in f32: this CPU has no AVX-512");
///
/// The environment's PORTOLAN_LOG gives the level: trace, debug, info, warn (the default), error or
/// off.
namespace portolan {

enum class LogLevel { trace, debug, info, warn, error, off };

/// The level of that name, or nothing.
[[nodiscard]] std::optional<LogLevel> parse_log_level(std::string_view name);

/// Thread-safe, except for its setters.
class Logger {
 public:
  ~Logger();
  Logger(const Logger&) = delete;
  Logger& operator=(const Logger&) = delete;

  /// Whether a message of that level would be written by this rank.
  [[nodiscard]] bool enabled(LogLevel level) const noexcept;

  /// Messages below the level are dropped.
  void set_level(LogLevel level) noexcept;
  [[nodiscard]] LogLevel level() const noexcept;

  /// Writes the message as it is, if enabled.
  void write(LogLevel level, std::string_view message);

  template <typename... Arguments>
  void write(LogLevel level, fmt::format_string<Arguments...> message, Arguments&&... arguments) {
    if (enabled(level)) {
      write(level, std::string_view(fmt::format(message, std::forward<Arguments>(arguments)...)));
    }
  }
  template <typename... Arguments>
  void trace(fmt::format_string<Arguments...> message, Arguments&&... arguments) {
    write(LogLevel::trace, message, std::forward<Arguments>(arguments)...);
  }
  template <typename... Arguments>
  void debug(fmt::format_string<Arguments...> message, Arguments&&... arguments) {
    write(LogLevel::debug, message, std::forward<Arguments>(arguments)...);
  }
  template <typename... Arguments>
  void info(fmt::format_string<Arguments...> message, Arguments&&... arguments) {
    write(LogLevel::info, message, std::forward<Arguments>(arguments)...);
  }
  template <typename... Arguments>
  void warn(fmt::format_string<Arguments...> message, Arguments&&... arguments) {
    write(LogLevel::warn, message, std::forward<Arguments>(arguments)...);
  }
  template <typename... Arguments>
  void error(fmt::format_string<Arguments...> message, Arguments&&... arguments) {
    write(LogLevel::error, message, std::forward<Arguments>(arguments)...);
  }

 private:
  friend Logger& log();
  friend void set_log_rank(int rank, int size);
  friend bool first_use_of_log_key(std::string_view key);
  Logger();

  struct State;
  std::unique_ptr<State> state_;
};

/// The process's logger. The first call reads PORTOLAN_LOG.
[[nodiscard]] Logger& log();

/// Tells the logger which of `size` processes this is. With more than one, messages begin with the
/// rank, and ranks other than 0 write only warnings and errors. To be called before other threads
/// log. Throws UsageError unless 0 <= rank < size.
void set_log_rank(int rank, int size);

/// True at the first call with that key in this process.
[[nodiscard]] bool first_use_of_log_key(std::string_view key);

/// Writes the message the first time that the key is seen at an enabled level.
template <typename... Arguments>
void log_once(std::string_view key, LogLevel level, fmt::format_string<Arguments...> message,
              Arguments&&... arguments) {
  if (log().enabled(level) && first_use_of_log_key(key)) {
    log().write(level, message, std::forward<Arguments>(arguments)...);
  }
}

}  // namespace portolan
