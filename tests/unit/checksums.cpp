// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/checksums.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>

#include "core/ops.hpp"

namespace portolan::testing_support {
namespace {

/// What this program prints when it is started anew with that many threads.
std::string lines_with(const std::string& kind, int threads) {
  std::array<char, 4096> path{};
  const ssize_t length = readlink("/proc/self/exe", path.data(), path.size() - 1);
  EXPECT_GT(length, 0);
  const std::string command =
      fmt::format("OMP_WAIT_POLICY=passive '{}' --checksums {} {}", path.data(), kind, threads);
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command.c_str(), "r"), pclose);
  std::string output;
  std::array<char, 4096> buffer{};
  while (pipe && std::fgets(buffer.data(), buffer.size(), pipe.get()) != nullptr) {
    output += buffer.data();
  }
  return output;
}

}  // namespace

std::uint64_t checksum_of(const Tensor& tensor, std::uint64_t before) {
  const Tensor bits = ops::to_host(tensor);
  std::uint64_t checksum = before;
  for (std::size_t i = 0; i < bits.bytes(); ++i) {
    checksum = (checksum ^ static_cast<std::uint64_t>(bits.raw()[i])) * 1099511628211ULL;
  }
  return checksum;
}

std::string checksum_lines(const std::string& kind) {
  if (kind == "choices") return choice_checksums();
  return kind == "attention" ? attention_checksums() : op_checksums();
}

void expect_same_bits(const std::string& kind, std::initializer_list<int> threads,
                      int fewest_lines) {
  const std::string expected = lines_with(kind, 1);
  EXPECT_GT(std::count(expected.begin(), expected.end(), '\n'), fewest_lines);
  for (const int count : threads) {
    const std::string found = lines_with(kind, count);
    // Line by line, so that a failure names the result.
    std::size_t begin = 0;
    while (begin < expected.size()) {
      const std::size_t end = expected.find('\n', begin) + 1;
      ASSERT_EQ(found.substr(begin, end - begin), expected.substr(begin, end - begin))
          << count << " threads";
      begin = end;
    }
  }
}

}  // namespace portolan::testing_support
