// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <string>

#include "core/backend.hpp"
#include "tests/unit/checksums.hpp"
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
          std::uint64_t checksum = kChecksumStart;
          for (const TestMatrix& result : instance.results) {
            checksum = checksum_of(result.whole, checksum);
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

TEST(OpThreads, NumberOfThreadsDoesNotChangeABit) { expect_same_bits("ops", {2, 3, 4}, 500); }

}  // namespace
}  // namespace portolan::testing_support
