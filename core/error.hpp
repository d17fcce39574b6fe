// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

/// One hierarchy of exceptions. The command line's edge turns each into one stderr line and its
/// exit code; libraries never call exit.
namespace portolan {

/// Base of all errors that Portolan raises. Exit code 1.
class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message) : std::runtime_error(message) {}
  /// Process exit code when the error reaches the command line: 1 failed, 2 bad usage or input.
  [[nodiscard]] virtual int exit_code() const noexcept { return 1; }
};

/// A call or command line that cannot mean anything: wrong shapes, unknown option values. Exit
/// code 2.
class UsageError : public Error {
 public:
  using Error::Error;
  [[nodiscard]] int exit_code() const noexcept override { return 2; }
};

/// A file that is not what it should be. The message starts with the path. Exit code 2.
class InputError : public Error {
 public:
  using Error::Error;
  [[nodiscard]] int exit_code() const noexcept override { return 2; }
};

/// Something this build or machine cannot do, although the request is well formed. Exit code 2.
class UnsupportedError : public Error {
 public:
  using Error::Error;
  [[nodiscard]] int exit_code() const noexcept override { return 2; }
};

/// A peer did not answer before its deadline, died, or a transport failed. Exit code 1.
class CommunicationError : public Error {
 public:
  using Error::Error;
};

/// A device cannot give the memory asked for. Exit code 1.
class OutOfMemoryError : public Error {
 public:
  using Error::Error;
};

/// Throws UsageError with the formatted sentence unless `condition` holds. The sentence states the
/// rule and the values found, e.g. `require(a == b, "rows of x ({}) must equal ...", ...)`.
template <typename... Arguments>
void require(bool condition, fmt::format_string<Arguments...> message, Arguments&&... arguments) {
  if (!condition) throw UsageError(fmt::format(message, std::forward<Arguments>(arguments)...));
}

}  // namespace portolan
