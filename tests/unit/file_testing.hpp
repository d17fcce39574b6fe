// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// What the tests of file formats share.
namespace portolan::testing {

/// A file or folder under tests/data.
[[nodiscard]] std::filesystem::path data_path(const std::string& relative);

/// The bytes of a file.
[[nodiscard]] std::string read_file(const std::filesystem::path& path);
void write_file(const std::filesystem::path& path, std::string_view bytes);

/// A safetensors file's bytes from header text and data.
[[nodiscard]] std::string safetensors_bytes(std::string_view header, std::string_view data);

/// A fresh folder that disappears with the object.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  [[nodiscard]] const std::filesystem::path& path() const noexcept { return path_; }
  [[nodiscard]] std::filesystem::path operator/(const std::string& name) const {
    return path_ / name;
  }
  /// Names of what it holds, sorted.
  [[nodiscard]] std::vector<std::string> names() const;

 private:
  std::filesystem::path path_;
};

/// The message of the InputError that `action` throws. If it throws none, or one of several lines,
/// the test has failed and the result is empty.
[[nodiscard]] std::string input_error(const std::function<void()>& action);

/// One entry of tests/data/bad/cases.json.
struct BadCase {
  std::string path;
  std::string kind;
  std::string wrong;
  /// A word that the message must hold; may be empty.
  std::string error_should_name;
};

/// The malformed inputs of one kind: "safetensors", "config", "model".
[[nodiscard]] std::vector<BadCase> bad_cases(const std::string& kind);

/// A test name from a path: letters, digits and underscores.
[[nodiscard]] std::string identifier(std::string_view text);

/// Resident memory of this process in bytes.
[[nodiscard]] std::int64_t resident_bytes();

}  // namespace portolan::testing
