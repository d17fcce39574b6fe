// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "core/backend.hpp"
#include "core/ops.hpp"
#include "tests/unit/devices.hpp"
#include "tests/unit/op_list.hpp"

namespace portolan::testing_support {
namespace {

/// What the list of operations cannot say of a product: weights of another dtype than x, memory,
/// and many shapes one after the other.
class Matmul : public testing::TestWithParam<DeviceKind> {
 protected:
  [[nodiscard]] static Device device() { return {GetParam(), 0}; }
  [[nodiscard]] static Backend& device_backend() { return backend_of(device()); }
};

TEST_P(Matmul, KeepsThePrecisionOfXWhenTheWeightHasLess) {
  Generator generator(1);
  constexpr std::int64_t kRows = 3;
  constexpr std::int64_t kIn = 70;
  constexpr std::int64_t kOut = 90;
  for (const DType weight_dtype : {DType::bf16, DType::f16}) {
    const TestMatrix x = random_matrix(generator, kRows, kIn, DType::f32, device(), false);
    const TestMatrix w = random_matrix(generator, kOut, kIn, weight_dtype, device(), false);
    Weight packed = device_backend().allocate_packed(kOut, kIn, weight_dtype);
    ops::pack_rows(w.view, 0, packed);
    const reference::Sums expected =
        reference::matmul(x.values(), w.values(), kRows, kIn, kOut, {});
    for (const Weight& weight : {packed, Weight::plain(w.view)}) {
      const Tensor out = Tensor::empty({kRows, kOut}, DType::f32, device());
      ops::matmul(x.view, weight, out);
      const Values found = values_of(out);
      for (std::size_t i = 0; i < found.size(); ++i) {
        // Rounding x to 16 bits would be wrong by more than 1e-3.
        ASSERT_NEAR(found[i], expected.values[i], 2e-5);
      }
    }
  }
}

TEST_P(Matmul, DoesNotRoundXToTheWeightsDtype) {
  Generator generator(4);
  const TestMatrix x = random_matrix(generator, 2, 40, DType::f16, device(), false);
  const TestMatrix w = random_matrix(generator, 70, 40, DType::bf16, device(), false);
  const Weight weight = Weight::plain(w.view);
  const Tensor out = Tensor::empty({2, 70}, DType::f32, device());
  ops::matmul(x.view, weight, out);
  const Values expected = reference::matmul(x.values(), w.values(), 2, 40, 70, {}).values;
  const Values found = values_of(out);
  for (std::size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i], expected[i], 2e-5);
}

TEST_P(Matmul, PackedWeightsAreOfTheDtypeThatIsComputed) {
  for (const DType dtype : computed_dtypes()) {
    const Weight weight = device_backend().allocate_packed(65, 33, dtype);
    EXPECT_EQ(weight.layout(), WeightLayout::panels);
    EXPECT_EQ(device_backend().packed_layout(65, 33, dtype),
              is_host(device()) ? WeightLayout::panels : WeightLayout::plain);
    EXPECT_EQ(weight.storage().elements(), panel_elements(65, 33, weight.dtype()));
    EXPECT_TRUE(weight.dtype() == dtype || weight.dtype() == device_backend().compute_dtype(dtype));
  }
}

TEST_P(Matmul, SteadyStateReservesNoMemory) {
  for (const DType dtype : computed_dtypes()) {
    for (const bool strided : {false, true}) {
      Generator generator(2);
      const TestMatrix x = random_matrix(generator, 20, 300, dtype, device(), strided);
      const TestMatrix rows = random_matrix(generator, 200, 300, dtype, device(), false);
      const TestMatrix out = constant_matrix(0.0, 20, 200, dtype, device(), strided);
      const Weight weight = device_backend().allocate_packed(200, 300, dtype);
      ops::pack_rows(rows.view, 0, weight);
      ops::matmul(x.view, weight, out.view);
      CachingAllocator& allocator = device_backend().allocator();
      allocator.reset_peaks();
      const MemoryCounters before = allocator.counters();
      for (int step = 0; step < 5; ++step) ops::matmul(x.view, weight, out.view);
      const MemoryCounters after = allocator.counters();
      EXPECT_EQ(after.reserved_peak, before.reserved);
      EXPECT_EQ(after.allocated, before.allocated);
    }
  }
}

/// More shapes than a backend may care to remember, then the first ones again.
TEST_P(Matmul, ManyShapesOneAfterTheOther) {
  constexpr std::int64_t kMostRows = 1100;
  constexpr std::int64_t kIn = 2;
  constexpr std::int64_t kOut = 3;
  Generator generator(3);
  const TestMatrix x = random_matrix(generator, kMostRows, kIn, DType::f32, device(), false);
  const TestMatrix w = random_matrix(generator, kOut, kIn, DType::f32, device(), false);
  const Weight weight = device_backend().allocate_packed(kOut, kIn, DType::f32);
  ops::pack_rows(w.view, 0, weight);
  const Values expected =
      reference::matmul(x.values(), w.values(), kMostRows, kIn, kOut, {}).values;
  const TestMatrix out = constant_matrix(0.0, kMostRows, kOut, DType::f32, device(), false);
  for (std::int64_t step = 1; step <= kMostRows + 3; ++step) {
    const std::int64_t rows = (step - 1) % kMostRows + 1;
    ops::matmul(x.view.slice(0, 0, rows), weight, out.view.slice(0, 0, rows));
    const Tensor last = out.view.slice(0, rows - 1, rows);
    const Values found = values_of(last);
    for (std::int64_t column = 0; column < kOut; ++column) {
      ASSERT_NEAR(found[static_cast<std::size_t>(column)],
                  expected[static_cast<std::size_t>((rows - 1) * kOut + column)], 1e-6)
          << rows << " rows";
    }
  }
}

TEST_P(Matmul, NoRowsAreNoWork) {
  const Weight weight = device_backend().allocate_packed(64, 32, DType::f32);
  const Tensor x = Tensor::empty({0, 32}, DType::f32, device());
  const Tensor out = Tensor::empty({0, 64}, DType::f32, device());
  EXPECT_NO_THROW(ops::matmul(x, weight, out));
}

INSTANTIATE_TEST_SUITE_P(Devices, Matmul, testing::ValuesIn(kDevices), name_of_device);

}  // namespace
}  // namespace portolan::testing_support
