// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>
#include <tuple>

#include "core/backend.hpp"
#include "core/ops.hpp"
#include "tests/unit/op_list.hpp"

namespace portolan::testing_support {
namespace {

std::string describe(const OpSize& size) {
  return std::to_string(size.rows) + " x " + std::to_string(size.columns) + " x " +
         std::to_string(size.extent) + (size.strided ? ", padded rows" : "");
}

std::vector<Device> devices() {
  std::vector<Device> result;
  for (const auto& backend : registered_backends()) result.push_back(backend->device());
  return result;
}

void expect_as_reference(const TestMatrix& result, const Expectation& expected) {
  const Values found = result.values();
  ASSERT_EQ(found.size(), expected.values.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (std::isinf(expected.values[i])) {
      ASSERT_EQ(found[i], expected.values[i]) << "element " << i;
      continue;
    }
    // Written so that NaN fails.
    ASSERT_TRUE(std::abs(found[i] - expected.values[i]) <= expected.tolerance[i])
        << "element " << i << " is " << found[i] << " instead of " << expected.values[i]
        << ", off by more than " << expected.tolerance[i];
  }
  EXPECT_TRUE(result.padding_is_intact());
}

class Op : public testing::TestWithParam<std::size_t> {
 protected:
  [[nodiscard]] const OpCase& op() const { return op_list().at(GetParam()); }

  /// Calls function(size, dtype, device) for all that the case is to be tested with.
  template <class Function>
  void for_each(const Function& function) const {
    for (const Device device : devices()) {
      for (const DType dtype : op().dtypes) {
        for (const OpSize& size : op().sizes) {
          SCOPED_TRACE(std::string(name_of(device.kind)) + ", " + std::string(name_of(dtype)) +
                       ", " + describe(size));
          function(size, dtype, device);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
};

TEST_P(Op, IsAsTheReference) {
  for_each([&](const OpSize& size, DType dtype, Device device) {
    const OpInstance instance = op().make(size, dtype, device);
    instance.run();
    const std::vector<Expectation> expected = instance.expected();
    ASSERT_EQ(expected.size(), instance.results.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      expect_as_reference(instance.results[i], expected[i]);
    }
  });
}

TEST_P(Op, RepeatsBitForBit) {
  for_each([&](const OpSize& size, DType dtype, Device device) {
    const OpInstance first = op().make(size, dtype, device);
    first.run();
    const OpInstance second = op().make(size, dtype, device);
    second.run();
    for (std::size_t i = 0; i < first.results.size(); ++i) {
      const Tensor bits = ops::to_host(first.results[i].whole);
      const Tensor again = ops::to_host(second.results[i].whole);
      EXPECT_EQ(std::memcmp(bits.raw(), again.raw(), bits.bytes()), 0);
    }
  });
}

INSTANTIATE_TEST_SUITE_P(List, Op, testing::Range<std::size_t>(0, op_list().size()),
                         [](const testing::TestParamInfo<std::size_t>& info) {
                           return op_list().at(info.param).name;
                         });

}  // namespace
}  // namespace portolan::testing_support
