// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/file_testing.hpp"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "core/error.hpp"

namespace portolan::testing {

namespace fs = std::filesystem;

fs::path data_path(const std::string& relative) { return fs::path(PORTOLAN_TEST_DATA) / relative; }

std::string read_file(const fs::path& path) {
  std::ifstream stream(path, std::ios::binary);
  if (!stream) throw std::runtime_error("cannot open " + path.string());
  return {std::istreambuf_iterator<char>(stream), {}};
}

void write_file(const fs::path& path, std::string_view bytes) {
  std::ofstream stream(path, std::ios::binary);
  stream.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!stream) throw std::runtime_error("cannot write " + path.string());
}

std::string safetensors_bytes(std::string_view header, std::string_view data) {
  std::string bytes;
  for (int i = 0; i < 8; ++i) bytes += static_cast<char>((header.size() >> (8 * i)) & 0xFFu);
  return bytes.append(header).append(data);
}

TemporaryFolder::TemporaryFolder() {
  std::string pattern = (fs::temp_directory_path() / "portolan-test-XXXXXX").string();
  if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("cannot make " + pattern);
  path_ = pattern;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

std::vector<std::string> TemporaryFolder::names() const {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(path_)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

std::string input_error(const std::function<void()>& action) {
  try {
    action();
  } catch (const InputError& error) {
    const std::string message = error.what();
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    EXPECT_EQ(error.exit_code(), 2);
    return message;
  } catch (const std::exception& error) {
    ADD_FAILURE() << "expected an InputError, found: " << error.what();
    return "";
  }
  ADD_FAILURE() << "expected an InputError, found none";
  return "";
}

std::vector<BadCase> bad_cases(const std::string& kind) {
  const auto document = nlohmann::json::parse(read_file(data_path("bad/cases.json")));
  std::vector<BadCase> cases;
  for (const auto& each : document.at("bad")) {
    if (each.at("kind") != kind) continue;
    cases.push_back(
        {each.at("path"), kind, each.at("wrong"), each.value("error_should_name", std::string())});
  }
  return cases;
}

std::string identifier(std::string_view text) {
  std::string result;
  for (const char c : text) {
    result += std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '_';
  }
  return result;
}

std::int64_t resident_bytes() {
  std::ifstream stream("/proc/self/statm");
  std::int64_t total = 0;
  std::int64_t resident = 0;
  stream >> total >> resident;
  return resident * ::sysconf(_SC_PAGESIZE);
}

}  // namespace portolan::testing
