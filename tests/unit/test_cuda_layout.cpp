// SPDX-License-Identifier: Apache-2.0
// What the fused CUDA kernels do that needs no GPU: who takes which elements, and the functions of
// one number.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <new>
#include <numbers>
#include <numeric>
#include <vector>

#include "backends/cuda/activation_functions.hpp"
#include "backends/cuda/aligned_scratch.hpp"
#include "backends/cuda/vector_layout.hpp"

namespace portolan::cuda {
namespace {

constexpr DType kDtypes[] = {DType::f32, DType::bf16, DType::f16};

TEST(CudaVectors, RowsAreVectorsOnlyIfAllOfThemAre) {
  alignas(16) const std::byte memory[32] = {};
  EXPECT_EQ(vector_elements(DType::f32), 4);
  EXPECT_EQ(vector_elements(DType::bf16), 8);
  EXPECT_TRUE(rows_are_vectors(memory, 2, 16, 24, DType::bf16));
  EXPECT_TRUE(rows_are_vectors(memory + 16, 2, 16, 24, DType::bf16));
  EXPECT_FALSE(rows_are_vectors(memory + 8, 2, 16, 24, DType::bf16)) << "the first is not aligned";
  EXPECT_FALSE(rows_are_vectors(memory, 2, 12, 24, DType::bf16)) << "half a vector at the end";
  EXPECT_FALSE(rows_are_vectors(memory, 2, 16, 20, DType::bf16)) << "the second is not aligned";
  EXPECT_TRUE(rows_are_vectors(memory, 1, 16, 20, DType::bf16)) << "there is no second";
  EXPECT_TRUE(rows_are_vectors(memory, 2, 12, 20, DType::f32));
}

TEST(CudaVectors, EachPlaceOfARowIsTakenOnce) {
  constexpr std::uint32_t kRows = 7;
  for (const std::uint32_t per_row : {1U, 3U, 8U, 1376U}) {
    std::vector<int> taken(kRows * per_row, 0);
    for (std::uint32_t index = 0; index < kRows * per_row; ++index) {
      const VectorPlace place(index, per_row);
      ASSERT_LT(place.row, kRows);
      ASSERT_LT(place.column, per_row);
      ++taken[place.row * per_row + place.column];
    }
    EXPECT_EQ(taken, std::vector<int>(taken.size(), 1));
  }
  const VectorPlace last(0xFFFF'FFFFU, 5);
  EXPECT_EQ(last.row, 858'993'459U);
  EXPECT_EQ(last.column, 0U);
}

TEST(CudaNorm, ThreadsTogetherHaveEachVectorOfARow) {
  constexpr std::int64_t kMost = 8 * kMaximumNormThreads;
  for (std::int64_t vectors = 1; vectors <= kMost; ++vectors) {
    const NormPlan plan = norm_plan(vectors);
    ASSERT_GT(plan.threads, 0) << vectors;
    ASSERT_LE(plan.threads, kMaximumNormThreads);
    ASSERT_EQ(plan.threads % 32, 0) << "shuffles need whole warps";
    std::vector<int> taken(static_cast<std::size_t>(vectors), 0);
    for (int thread = 0; thread < plan.threads; ++thread) {
      for (int i = 0; i < plan.vectors_per_thread; ++i) {
        const std::int64_t vector = std::int64_t{i} * plan.threads + thread;
        if (vector < vectors) ++taken[static_cast<std::size_t>(vector)];
      }
    }
    ASSERT_EQ(std::accumulate(taken.begin(), taken.end(), std::int64_t{0}), vectors) << vectors;
  }
  EXPECT_EQ(norm_plan(kMost + 1).threads, 0) << "no block has registers for it";
  // Rows of common models: one vector a thread where the block is large enough.
  EXPECT_EQ(norm_plan(4096 / 8).threads, 512);
  EXPECT_EQ(norm_plan(4096 / 8).vectors_per_thread, 1);
  EXPECT_EQ(norm_plan(8192 / 4).vectors_per_thread, 4);
}

TEST(CudaRotary, EachPairOfVectorsIsTurnedOnce) {
  for (const DType dtype : kDtypes) {
    for (const std::int64_t heads : {1, 3, 8, 32, 40, 71}) {
      for (const std::int64_t head_dim : {16, 64, 80, 128, 256}) {
        const RotaryPlan plan = rotary_plan(heads, head_dim, dtype);
        ASSERT_GT(plan.columns, 0);
        ASSERT_LE(plan.columns * plan.heads_per_block, 1024) << "threads of a block";
        std::vector<int> turned(static_cast<std::size_t>(heads * head_dim), 0);
        for (std::int64_t block = 0; block < plan.head_blocks; ++block) {
          for (std::int64_t y = 0; y < plan.heads_per_block; ++y) {
            const std::int64_t head = block * plan.heads_per_block + y;
            if (head >= heads) continue;
            for (std::int64_t column = 0; column < plan.columns; ++column) {
              for (std::int64_t j = 0; j < vector_elements(dtype); ++j) {
                const std::int64_t first = head * head_dim + column * vector_elements(dtype) + j;
                ++turned[static_cast<std::size_t>(first)];
                ++turned[static_cast<std::size_t>(first + head_dim / 2)];
              }
            }
          }
        }
        ASSERT_EQ(turned, std::vector<int>(turned.size(), 1)) << heads << " x " << head_dim;
      }
    }
  }
  EXPECT_EQ(rotary_plan(8, 20, DType::bf16).columns, 0) << "half a head is 10 elements";
  EXPECT_EQ(rotary_plan(8, 24, DType::bf16).columns, 0);
  EXPECT_EQ(rotary_plan(8, 24, DType::f32).columns, 3);
}

TEST(CudaRows, ShortRowsAreWholeInOneBlock) {
  for (std::int64_t vectors = 1; vectors <= kElementwiseThreads; ++vectors) {
    const RowTile tile = row_tile(vectors);
    ASSERT_EQ(tile.columns, vectors);
    ASSERT_GE(tile.rows, 1);
    ASSERT_LE(tile.columns * tile.rows, kElementwiseThreads);
    ASSERT_GT(tile.columns * (tile.rows + 1), kElementwiseThreads) << "another row had room";
  }
  EXPECT_EQ(row_tile(0).columns, 0);
  EXPECT_EQ(row_tile(kElementwiseThreads + 1).columns, 0);
}

TEST(CudaQuantized, EachWeightIsTakenOnce) {
  constexpr int kWidth = 64;
  constexpr std::int64_t kPanels = 3;
  constexpr std::int64_t kSteps = 100;  // no multiple of the lanes
  std::vector<int> taken(kPanels * kWidth * kSteps, 0);
  for (std::int64_t block = 0; block < kPanels * kWidth / QuantizedPlace::kOutputs; ++block) {
    for (int thread = 0; thread < QuantizedPlace::kThreads; ++thread) {
      const QuantizedPlace place(block, thread, kWidth);
      for (std::int64_t step = place.lane; step < kSteps; step += QuantizedPlace::kLanes) {
        for (int j = 0; j < 4; ++j) {
          ++taken[static_cast<std::size_t>((place.panel * kWidth + place.output + j) * kSteps +
                                           step)];
        }
      }
    }
  }
  EXPECT_EQ(taken, std::vector<int>(taken.size(), 1));
  // Neighbouring threads read neighbouring bytes.
  EXPECT_EQ(QuantizedPlace(5, 1, kWidth).output, QuantizedPlace(5, 0, kWidth).output + 4);
  EXPECT_EQ(QuantizedPlace(5, 4, kWidth).output, QuantizedPlace(5, 0, kWidth).output);
}

/// A copy by a plan's vectors, as the kernel makes it.
void copy_by(const CopyPlan& plan, const std::byte* source, std::byte* target) {
  for (std::uint32_t index = 0; index < plan.vectors; ++index) {
    const VectorPlace place(index, plan.columns);
    std::memcpy(target + (plan.offset(1, place.row) + place.column) * kVectorBytes,
                source + (plan.offset(0, place.row) + place.column) * kVectorBytes, kVectorBytes);
  }
}

CopyPlan plan_of(const Shape& shape, const Shape& from, const Shape& to, const void* source,
                 const void* target, std::int64_t element_bytes) {
  return copy_plan(portable::strided_rows<2>(shape, {&from, &to}), source, target, element_bytes);
}

TEST(CudaCopy, MovesEachElementToItsPlace) {
  // New keys of two sequences into a cache of more tokens, out of a fused projection.
  const Shape shape{2, 3, 4, 16};
  const Shape from{3 * 192, 192, 16, 1};
  const Shape to{7 * 64, 64, 16, 1};
  std::vector<std::uint16_t> source(2 * 3 * 192 + 64);
  std::iota(source.begin(), source.end(), std::uint16_t{1});
  std::vector<std::uint16_t> target(2 * 7 * 64, 0);
  std::vector<std::uint16_t> expected = target;
  for (std::int64_t b = 0; b < 2; ++b) {
    for (std::int64_t s = 0; s < 3; ++s) {
      for (std::int64_t i = 0; i < 64; ++i) {
        expected[static_cast<std::size_t>(b * to[0] + s * to[1] + i)] =
            source[static_cast<std::size_t>(b * from[0] + s * from[1] + i)];
      }
    }
  }
  const CopyPlan plan = plan_of(shape, from, to, source.data(), target.data(), 2);
  ASSERT_TRUE(plan.fits);
  EXPECT_EQ(plan.columns, 8U) << "the heads of a token are one row";
  EXPECT_EQ(plan.vectors, 2U * 3U * 8U);
  copy_by(plan, reinterpret_cast<const std::byte*>(source.data()),
          reinterpret_cast<std::byte*>(target.data()));
  EXPECT_EQ(target, expected);
}

TEST(CudaCopy, FitsOnlyWholeAlignedVectors) {
  alignas(16) const std::byte memory[64] = {};
  const Shape shape{2, 8};
  const auto fits = [&](const Shape& from, const Shape& to, std::size_t shift) {
    return plan_of(shape, from, to, memory + shift, memory, 2).fits;
  };
  EXPECT_TRUE(fits({8, 1}, {16, 1}, 0));
  EXPECT_FALSE(fits({8, 1}, {12, 1}, 0)) << "the target's second row is not aligned";
  EXPECT_FALSE(fits({8, 1}, {16, 1}, 2));
  EXPECT_FALSE(fits({1, 2}, {8, 1}, 0)) << "the source is transposed";
  const Shape short_rows{2, 4};
  EXPECT_FALSE(plan_of(short_rows, {8, 1}, {16, 1}, memory, memory, 2).fits);
  EXPECT_TRUE(plan_of(short_rows, {8, 1}, {16, 1}, memory, memory, 4).fits);
  const Shape deep{2, 2, 2, 2, 8};
  const Shape gaps{1024, 256, 64, 16, 1};
  EXPECT_FALSE(plan_of(deep, gaps, gaps, memory, memory, 2).fits) << "rows in four dimensions";
}

TEST(CudaActivations, AreAccurateAndNeverOverflow) {
  for (float x = -120.0F; x <= 120.0F; x += 0.37F) {
    const double exact = x;
    const auto near = [&](float found, double expected, double relative) {
      // Below the smallest normal number there is nothing to be relative to.
      EXPECT_NEAR(found, expected, std::abs(expected) * relative + 0x1p-126) << x;
    };
    near(silu(x), exact / (1.0 + std::exp(-exact)), 0x1p-21);
    // What the function multiplies the rounding of its argument by grows with the argument.
    near(gelu_erf(x), 0.5 * exact * std::erfc(-exact / std::numbers::sqrt2), 0x1p-15);
    const double u =
        2.0 * std::sqrt(2.0 / std::numbers::pi) * (exact + 0.044715 * exact * exact * exact);
    near(gelu_tanh(x), exact / (1.0 + std::exp(-u)), 0x1p-21 * (4.0 + std::clamp(-u, 0.0, 100.0)));
  }
  constexpr float kLargest = std::numeric_limits<float>::max();
  EXPECT_EQ(silu(kLargest), kLargest);
  EXPECT_EQ(silu(-kLargest), 0.0F);
  EXPECT_EQ(gelu_tanh(kLargest), kLargest);
  EXPECT_EQ(gelu_tanh(-kLargest), 0.0F);
  EXPECT_TRUE(std::isnan(silu(std::numeric_limits<float>::quiet_NaN())));
}

TEST(CudaScratch, IsAlignedWhereverTheAllocatorsBlockLies) {
  constexpr std::size_t kBytes = 1000;
  CachingAllocator allocator(
      {.allocate = [](std::size_t bytes) { return ::operator new(bytes, std::align_val_t(4096)); },
       .release = [](void* address,
                     std::size_t) { ::operator delete(address, std::align_val_t(4096)); }});
  std::vector<BlockReference> before;
  for (int blocks = 0; blocks < 4; ++blocks) {
    {
      const AlignedScratch scratch(allocator, kBytes);
      const BlockReference behind = allocator.allocate(1);
      const auto* const data = static_cast<const std::byte*>(scratch.data());
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(data) % AlignedScratch::kAlignment, 0U);
      EXPECT_LE(data + kBytes, behind.get()->data());
    }
    before.push_back(allocator.allocate(1));
  }
  EXPECT_EQ(AlignedScratch(allocator, 0).data(), nullptr);
}

}  // namespace
}  // namespace portolan::cuda
