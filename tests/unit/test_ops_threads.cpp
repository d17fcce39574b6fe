// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
#include <string>

#include "core/backend.hpp"
#include "core/ops.hpp"
#include "tests/unit/op_list.hpp"

namespace portolan::testing_support {

std::string op_checksums() {
  std::string lines;
  for (const auto& backend : registered_backends()) {
    const Device device = backend->device();
    for (const OpCase& op : op_list()) {
      std::vector<OpSize> sizes = op.sizes;
      if (op.name.starts_with("matmul") || op.name.starts_with("product")) {
        // Few outputs and many inputs: where a library would like to share out the inputs.
        for (const OpSize& size : {OpSize{1, 4096, 64}, OpSize{4, 11008, 64}, OpSize{33, 2048, 200},
                                   OpSize{100, 3000, 130}}) {
          sizes.push_back(size);
        }
      }
      for (const DType dtype : op.dtypes) {
        for (const OpSize& size : sizes) {
          if (device.kind == DeviceKind::serial &&
              size.rows * size.columns * size.extent > 1000000) {
            continue;
          }
          const OpInstance instance = op.make(size, dtype, device);
          instance.run();
          std::uint64_t checksum = 14695981039346656037ULL;  // FNV-1a
          for (const TestMatrix& result : instance.results) {
            const Tensor bits = ops::to_host(result.whole);
            for (std::size_t i = 0; i < bits.bytes(); ++i) {
              checksum = (checksum ^ static_cast<std::uint64_t>(bits.raw()[i])) * 1099511628211ULL;
            }
          }
          lines += fmt::format("{} {} {} {}x{}x{} {} {:016x}\n", name_of(device.kind), op.name,
                               name_of(dtype), size.rows, size.columns, size.extent,
                               size.strided ? "padded" : "dense", checksum);
        }
      }
    }
  }
  return lines;
}

namespace {

/// What this program prints when it is started anew with that many threads.
std::string checksums_with(int threads) {
  std::array<char, 4096> path{};
  const ssize_t length = readlink("/proc/self/exe", path.data(), path.size() - 1);
  EXPECT_GT(length, 0);
  const std::string command = "OMP_WAIT_POLICY=passive '" + std::string(path.data()) +
                              "' --op-checksums " + std::to_string(threads);
  const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command.c_str(), "r"), pclose);
  std::string output;
  std::array<char, 4096> buffer{};
  while (pipe && std::fgets(buffer.data(), buffer.size(), pipe.get()) != nullptr) {
    output += buffer.data();
  }
  return output;
}

TEST(OpThreads, NumberOfThreadsDoesNotChangeABit) {
  const std::string expected = checksums_with(1);
  EXPECT_GT(std::count(expected.begin(), expected.end(), '\n'), 500);
  for (const int threads : {2, 3, 4}) {
    const std::string found = checksums_with(threads);
    // Line by line, so that a failure names the operation.
    std::size_t begin = 0;
    while (begin < expected.size()) {
      const std::size_t end = expected.find('\n', begin) + 1;
      ASSERT_EQ(found.substr(begin, end - begin), expected.substr(begin, end - begin))
          << threads << " threads";
      begin = end;
    }
  }
}

}  // namespace
}  // namespace portolan::testing_support
