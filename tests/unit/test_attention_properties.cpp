// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <string>

#include "attention/attention.hpp"
#include "core/backend.hpp"
#include "core/error.hpp"
#include "tests/unit/attention_testing.hpp"
#if defined(PORTOLAN_HAS_OPENMP)
#include <omp.h>
#endif

namespace portolan {
namespace {

using testing_support::AttentionCase;
using testing_support::AttentionSetup;
using testing_support::computed_dtypes;
using testing_support::make_setup;
using testing_support::values_of;

/// Calls `check(kernel, device)` for each registered kernel that serves the case.
void for_each_kernel(const AttentionCase& c, const auto& check) {
  int kernels = 0;
  for (const auto& kernel : attention_forward_kernels()) {
    const Device device{kernel->device(), 0};
    // Those that need a window or a block map are the tiles of flash, and tested with such masks.
    if (kernel->method() == AttentionMethod::window ||
        kernel->method() == AttentionMethod::block_sparse) {
      continue;
    }
    if (!kernel->unsupported_reason(make_setup(c, device).problem).empty()) continue;
    SCOPED_TRACE(std::string(name_of(device.kind)) + " " + std::string(name_of(kernel->method())));
    check(*kernel, device);
    ++kernels;
  }
  ASSERT_GE(kernels, 2);  // standard and flash on the serial device at least
}

TEST(AttentionMerge, BlocksOfKeysMergeToTheWhole) {
  for (const DType dtype : computed_dtypes()) {
    AttentionCase c{.batch = 2,
                    .query_tokens = 90,
                    .key_tokens = 90,
                    .heads = 4,
                    .key_heads = 2,
                    .head_dim = 24};
    c.dtype = dtype;
    for_each_kernel(c, [&](const AttentionForwardKernel& kernel, Device device) {
      const AttentionSetup setup = make_setup(c, device);
      // Queries see none of the later blocks, and each block is masked in part.
      constexpr std::int64_t kBounds[] = {0, 31, 32, 77, 90};
      testing_support::set_values(setup.out, std::vector<double>(setup.reference.q.size(), 0.0));
      testing_support::set_values(
          setup.log_sum_exp,
          std::vector<double>(static_cast<std::size_t>(setup.log_sum_exp.elements()),
                              -std::numeric_limits<double>::infinity()));
      for (int block = 0; block < 4; ++block) {
        const std::int64_t begin = kBounds[block];
        const std::int64_t end = kBounds[block + 1];
        AttentionProblem part = setup.problem;
        part.k = setup.problem.k.slice(1, begin, end);
        part.v = setup.problem.v.slice(1, begin, end);
        part.mask.query_runs = {{0, 90}};
        part.mask.key_runs = {{begin, end - begin}};
        const Tensor out = Tensor::empty(setup.out.shape(), DType::f32, device);
        const Tensor lse = Tensor::empty(setup.log_sum_exp.shape(), DType::f32, device);
        kernel.forward(part, out, lse);
        attention_merge(out, lse, setup.out, setup.log_sum_exp);
      }
      testing_support::expect_matches(c, setup, reference::attention(setup.reference));
    });
  }
}

TEST(AttentionTiles, HiddenTilesAreNotVisited) {
  // Not-a-number in a value reaches every query whose tile is multiplied with it, even with weight
  // 0. Tiles of flash kernels divide 128, so a hidden square of 128 is made of hidden tiles.
  constexpr std::int64_t kSquare = 128;
  constexpr std::int64_t kTokens = 4 * kSquare;
  for (const DType dtype : computed_dtypes()) {
    for (const std::int64_t window : {std::int64_t{0}, std::int64_t{100}}) {
      AttentionCase c{.query_tokens = kTokens, .key_tokens = kTokens, .head_dim = 16};
      c.dtype = dtype;
      c.mask.window = window;
      for_each_kernel(c, [&](const AttentionForwardKernel& kernel, Device device) {
        if (kernel.method() != AttentionMethod::flash) return;
        AttentionStatistics tiles;
        AttentionSetup clean = make_setup(c, device);
        clean.problem.statistics = &tiles;
        kernel.forward(clean.problem, clean.out, {});
        if (tiles.tiles_visited == 0) {  // CUDA C++ kernels count none; theirs do not divide 128
          EXPECT_EQ(device.kind, DeviceKind::cuda);
          return;
        }
        for (std::int64_t square = 0; square < 4; ++square) {
          const AttentionSetup poisoned = make_setup(c, device);
          const Tensor values =
              poisoned.problem.v.slice(1, square * kSquare, (square + 1) * kSquare);
          testing_support::set_values(
              values, std::vector<double>(static_cast<std::size_t>(values.elements()),
                                          std::numeric_limits<double>::quiet_NaN()));
          kernel.forward(poisoned.problem, poisoned.out, {});
          for (std::int64_t rows = 0; rows < 4; ++rows) {
            const bool hidden = rows < square || (window > 0 && rows > square + 1);
            if (!hidden) continue;
            const auto part = [&](const Tensor& out) {
              return values_of(out.slice(1, rows * kSquare, (rows + 1) * kSquare));
            };
            EXPECT_EQ(part(poisoned.out), part(clean.out))
                << "queries " << rows << " keys " << square;
          }
        }
      });
    }
  }
}

TEST(AttentionWorkspace, IsWhatWasAnnounced) {
  AttentionCase c{.batch = 2, .query_tokens = 150, .key_tokens = 200, .heads = 4, .key_heads = 2};
  for_each_kernel(c, [&](const AttentionForwardKernel& kernel, Device device) {
    const AttentionSetup setup = make_setup(c, device);
    CachingAllocator& allocator = backend_of(device).allocator();
    const std::int64_t before = allocator.counters().allocated;
    allocator.reset_peaks();
    kernel.forward(setup.problem, setup.out, setup.log_sum_exp);
    const std::int64_t taken = allocator.counters().allocated_peak - before;
    const auto announced = static_cast<std::int64_t>(kernel.workspace_bytes(setup.problem));
    EXPECT_LE(taken, announced + static_cast<std::int64_t>(CachingAllocator::kAlignment));
    EXPECT_GE(taken, announced);
    EXPECT_EQ(allocator.counters().allocated, before);
  });
}

TEST(AttentionWorkspace, GrowsWithLengthAsTheMethodSays) {
  const AttentionCase any{.query_tokens = 64, .key_tokens = 64, .head_dim = 64};
  for_each_kernel(any, [&](const AttentionForwardKernel& kernel, Device device) {
    const auto bytes = [&](std::int64_t tokens) {
      AttentionCase c{.query_tokens = tokens, .key_tokens = tokens, .head_dim = 64};
      return static_cast<double>(kernel.workspace_bytes(make_setup(c, device).problem));
    };
    const double growth = bytes(8192) / bytes(4096);
    if (kernel.method() == AttentionMethod::standard) {
      EXPECT_NEAR(growth, 4.0, 0.01);
    } else {
      EXPECT_LE(growth, 2.01);
      EXPECT_LE(bytes(8192), 32e6);
    }
  });
}

TEST(AttentionDeterminism, RunsGiveEqualBits) {
  for (const DType dtype : computed_dtypes()) {
    AttentionCase c{.batch = 2,
                    .query_tokens = 300,
                    .key_tokens = 300,
                    .heads = 6,
                    .key_heads = 2,
                    .head_dim = 40};
    c.dtype = dtype;
    c.mask.query_runs = {{0, 100}, {700, 200}};
    c.mask.key_runs = {{0, 150}, {650, 150}};
    for_each_kernel(c, [&](const AttentionForwardKernel& kernel, Device device) {
      std::vector<double> first_out;
      std::vector<double> first_lse;
      for (int threads = 1; threads <= 4; ++threads) {
#if defined(PORTOLAN_HAS_OPENMP)
        const int before = omp_get_max_threads();
        omp_set_num_threads(threads);
#endif
        for (int repeat = 0; repeat < 2; ++repeat) {
          const AttentionSetup setup = make_setup(c, device);
          kernel.forward(setup.problem, setup.out, setup.log_sum_exp);
          const std::vector<double> out = values_of(setup.out);
          const std::vector<double> lse = values_of(setup.log_sum_exp);
          if (first_out.empty()) {
            first_out = out;
            first_lse = lse;
          }
          EXPECT_EQ(out, first_out) << threads << " threads";
          EXPECT_EQ(lse, first_lse) << threads << " threads";
        }
#if defined(PORTOLAN_HAS_OPENMP)
        omp_set_num_threads(before);
#endif
      }
    });
  }
}

#if !defined(PORTOLAN_HAS_CUDA)
TEST(AttentionRegistry, AnswersWithReasonsWhereNothingServes) {
  float memory[8] = {};
  const Device gpu{DeviceKind::cuda, 7};
  const Tensor tensor = Tensor::borrow(memory, {1, 1, 1, 8}, DType::f32, gpu);
  const AttentionProblem problem{.q = tensor, .k = tensor, .v = tensor, .mask = {}, .scale = 1.0F};
  for (const auto& kernel : attention_forward_kernels()) {
    ASSERT_NE(kernel->device(), DeviceKind::cuda);
  }
  try {
    static_cast<void>(select_attention_forward(problem, AttentionMethod::flash));
    FAIL() << "a kernel was found for a device without kernels";
  } catch (const UnsupportedError& error) {
    EXPECT_NE(std::string(error.what()).find("'cuda'"), std::string::npos) << error.what();
  }
}
#endif

}  // namespace
}  // namespace portolan
