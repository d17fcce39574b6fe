// SPDX-License-Identifier: Apache-2.0
#if defined(PORTOLAN_HAS_OPENMP)

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "backends/openmp/simd/kernels.hpp"
#include "core/backend.hpp"
#include "core/ops.hpp"
#include "tests/unit/op_list.hpp"

namespace portolan::testing_support {
namespace {

constexpr Device kCpu{DeviceKind::cpu, 0};

/// Runs `body` once with each instruction set that this build has kernels for and this CPU can run,
/// down to plain scalar code.
void for_each_instruction_set(const std::function<void()>& body) {
  std::set<std::string> seen;
  for (std::int64_t rest = hwy::SupportedTargets(); rest != 0; rest &= rest - 1) {
    hwy::SetSupportedTargetsForTest(rest & -rest);
    hwy::GetChosenTarget().DeInit();
    if (!seen.insert(simd::target_name()).second) continue;
    SCOPED_TRACE(simd::target_name());
    body();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().DeInit();
  EXPECT_GE(seen.size(), 2U) << "there should be scalar code and at least one vector set";
}

TEST(Simd, EveryInstructionSetGivesTheReference) {
  for_each_instruction_set([] {
    for (const OpCase& op : op_list()) {
      for (const DType dtype : op.dtypes) {
        for (const OpSize& size : op.sizes) {
          if (size.rows * size.columns * size.extent > 20000) continue;
          SCOPED_TRACE(op.name + " " + std::string(name_of(dtype)));
          const OpInstance instance = op.make(size, dtype, kCpu);
          instance.run();
          const std::vector<Expectation> expected = instance.expected();
          for (std::size_t r = 0; r < expected.size(); ++r) {
            const Values found = instance.results[r].values();
            for (std::size_t i = 0; i < found.size(); ++i) {
              if (std::isinf(expected[r].values[i])) continue;
              ASSERT_TRUE(std::abs(found[i] - expected[r].values[i]) <= expected[r].tolerance[i])
                  << "element " << i << " is " << found[i] << " instead of "
                  << expected[r].values[i];
            }
          }
        }
      }
    }
  });
}

/// f32 values around everything that rounding to 16 bits distinguishes: each value of the upper
/// half with lower halves at, just below and just above the ties of both formats.
Tensor interesting_floats() {
  const std::vector<std::uint32_t> lower = {0x0000, 0x0001, 0x0FFF, 0x1000, 0x1001, 0x2FFF,
                                            0x3000, 0x3001, 0x7FFF, 0x8000, 0x8001, 0xFFFF};
  const Tensor result =
      Tensor::empty({1 << 16, static_cast<std::int64_t>(lower.size())}, DType::f32, kCpu);
  std::uint32_t* bits = result.data<std::uint32_t>();
  for (std::uint32_t upper = 0; upper < 1U << 16; ++upper) {
    for (const std::uint32_t half : lower) *bits++ = (upper << 16) | half;
  }
  return result;
}

template <class T>
void expect_rounds_as_core(DType dtype) {
  const Tensor floats = interesting_floats();
  const Tensor rounded = ops::to_dtype(floats, dtype);
  for (std::int64_t i = 0; i < floats.elements(); ++i) {
    const T expected = from_float<T>(floats.data<float>()[i]);
    ASSERT_EQ(rounded.data<T>()[i].bits, expected.bits)
        << std::hex << floats.data<std::uint32_t>()[i];
  }
}

template <class T>
void expect_widens_as_core(DType dtype) {
  const Tensor all = Tensor::empty({1 << 16}, dtype, kCpu);
  for (std::uint32_t bits = 0; bits < 1U << 16; ++bits) {
    all.data<std::uint16_t>()[bits] = static_cast<std::uint16_t>(bits);
  }
  const Tensor wide = ops::to_dtype(all, DType::f32);
  for (std::uint32_t bits = 0; bits < 1U << 16; ++bits) {
    const float expected = to_float(all.data<T>()[bits]);
    ASSERT_EQ(std::memcmp(&wide.data<float>()[bits], &expected, sizeof(float)), 0)
        << std::hex << bits;
  }
}

TEST(Simd, ConversionsAgreeWithCoreToTheBit) {
  for_each_instruction_set([] {
    expect_rounds_as_core<BFloat16>(DType::bf16);
    expect_rounds_as_core<Float16>(DType::f16);
    expect_widens_as_core<BFloat16>(DType::bf16);
    expect_widens_as_core<Float16>(DType::f16);
  });
}

TEST(Simd, RandomNumbersAgreeWithThePortableKernelToTheBit) {
  const Device serial{DeviceKind::serial, 0};
  const RandomKey key{7, 0xABCDEF0123456789ULL};
  // The group index passes 2^32 inside the block: both words of the counter matter.
  const MatrixBlock block{.row_begin = (std::int64_t{1} << 34) / 1000 - 2, .columns = 1000};
  for (const DType dtype : computed_dtypes()) {
    const Tensor expected = Tensor::empty({5, 1000}, dtype, serial);
    ops::random_uniform(expected, key, block, -0.5F, 0.3F);
    for_each_instruction_set([&] {
      const Tensor found = Tensor::empty({5, 1000}, dtype, kCpu);
      ops::random_uniform(found, key, block, -0.5F, 0.3F);
      EXPECT_EQ(std::memcmp(found.raw(), expected.raw(), found.bytes()), 0) << name_of(dtype);
    });
  }
}

/// Results larger than the last-level cache are stored past it.
TEST(Simd, LargeResultsAreTheSameAsSmallOnes) {
  constexpr std::int64_t kColumns = 4099;  // rows at every alignment
  const std::int64_t rows = (std::int64_t{80} << 20) / kColumns / 4;
  const Tensor gate = Tensor::empty({rows, kColumns}, DType::f32, kCpu);
  const Tensor up = Tensor::empty({rows, kColumns}, DType::f32, kCpu);
  const Tensor weight = Tensor::empty({1, kColumns}, DType::f32, kCpu);
  ops::random_uniform(gate, {1, 1}, {.columns = kColumns}, 0.0F, 4.0F);
  ops::random_uniform(up, {1, 2}, {.columns = kColumns}, 0.0F, 4.0F);
  ops::random_uniform(weight, {1, 3}, {.columns = kColumns}, 0.0F, 1.0F);
  const auto check = [&](const std::function<void(const Tensor&, const Tensor&, const Tensor&)>& op,
                         DType out_dtype) {
    const Tensor whole = Tensor::empty({rows, kColumns}, out_dtype, kCpu);
    const Tensor part = Tensor::empty({3, kColumns}, out_dtype, kCpu);
    op(gate, up, whole);
    for (const std::int64_t row : {std::int64_t{0}, std::int64_t{1000}, rows - 3}) {
      op(gate.slice(0, row, row + 3), up.slice(0, row, row + 3), part);
      EXPECT_EQ(std::memcmp(part.raw(), whole.slice(0, row, row + 3).raw(), part.bytes()), 0);
    }
  };
  check([](const Tensor& a, const Tensor& b, const Tensor& out) { ops::swiglu(a, b, out); },
        DType::f32);
  check(
      [](const Tensor& a, const Tensor& b, const Tensor& out) {
        ops::sum(std::vector<Tensor>{a, b}, std::vector<Tensor>{out});
      },
      DType::f32);
  check(
      [](const Tensor& a, const Tensor& b, const Tensor& out) {
        ops::sum(std::vector<Tensor>{a, b, a}, std::vector<Tensor>{out});
      },
      DType::f32);
  check([&](const Tensor& a, const Tensor&,
            const Tensor& out) { ops::rms_norm(a, weight.view({kColumns}), 1e-5F, out); },
        DType::f32);
  check([](const Tensor& a, const Tensor&, const Tensor& out) { ops::copy(a, out); }, DType::f32);
  check([](const Tensor& a, const Tensor&, const Tensor& out) { ops::copy(a, out); }, DType::bf16);
}

}  // namespace
}  // namespace portolan::testing_support

#endif  // defined(PORTOLAN_HAS_OPENMP)
