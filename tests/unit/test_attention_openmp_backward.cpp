// SPDX-License-Identifier: Apache-2.0
#if defined(PORTOLAN_HAS_OPENMP)
#include <gtest/gtest.h>

#include "attention/openmp/openmp_attention.hpp"
#include "core/backend.hpp"
#include "tests/unit/attention_openmp_testing.hpp"

namespace portolan {
namespace {

using testing_support::computed_dtypes;
using testing_support::GradientCase;
using testing_support::GradientSetup;
using testing_support::make_gradient_setup;
using testing_support::OpenmpThreads;
using testing_support::values_of;

void check(const GradientCase& test_case) {
  SCOPED_TRACE(test_case.to_string());
  const GradientSetup setup = make_gradient_setup(test_case);
  make_openmp_flash_attention_backward()->backward(setup.tensors.problem, setup.tensors.gradients);
  testing_support::expect_gradients(test_case, setup);
}

TEST(AttentionOpenmpBackward, HeadDimsAndDTypes) {
  for (const DType dtype : computed_dtypes()) {
    for (const std::int64_t head_dim : {1, 2, 5, 16, 17, 40, 64, 80, 128, 129, 256}) {
      GradientCase c{.base = {.query_tokens = 150, .key_tokens = 150, .heads = 2, .key_heads = 1}};
      c.base.head_dim = head_dim;
      c.base.dtype = c.base.out_dtype = c.grad_out_dtype = dtype;
      check(c);
    }
  }
}

TEST(AttentionOpenmpBackward, Lengths) {
  constexpr std::int64_t kLengths[][2] = {{1, 1},    {1, 300}, {300, 1},   {64, 128},
                                          {65, 129}, {31, 33}, {257, 257}, {90, 200}};
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const auto& [query_tokens, key_tokens] : kLengths) {
      for (const bool causal : {true, false}) {
        GradientCase c{.base = {.query_tokens = query_tokens,
                                .key_tokens = key_tokens,
                                .heads = 3,
                                .key_heads = 1,
                                .head_dim = 24}};
        c.base.dtype = dtype;
        c.base.mask.causal = causal;
        check(c);
      }
    }
  }
}

TEST(AttentionOpenmpBackward, RandomProblems) {
  std::mt19937_64 generator(11);
  for (int trial = 0; trial < 150; ++trial) {
    const GradientCase c = testing_support::random_case(generator, 200);
    const OpenmpThreads threads(1 + trial % 4);
    SCOPED_TRACE("trial " + std::to_string(trial));
    check(c);
    if (HasFailure()) return;
  }
}

TEST(AttentionOpenmpBackward, ScalesOfAnySign) {
  for (const float scale : {-0.7F, 1e-6F, 2.0F}) {
    GradientCase c{.base = {.query_tokens = 70, .key_tokens = 70, .heads = 2, .key_heads = 2}};
    c.base.scale = scale;
    check(c);
  }
}

/// dq, dk and dv one after the other.
std::vector<double> gradients_of(const GradientSetup& setup) {
  make_openmp_flash_attention_backward()->backward(setup.tensors.problem, setup.tensors.gradients);
  std::vector<double> all;
  for (const Tensor* tensor :
       {&setup.tensors.gradients.dq, &setup.tensors.gradients.dk, &setup.tensors.gradients.dv}) {
    const std::vector<double> values = values_of(*tensor);
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

TEST(AttentionOpenmpBackward, EqualBitsForAnyNumberOfThreads) {
  // As many key heads as threads, and fewer, so that both ways of sharing out work are compared.
  for (const std::int64_t key_heads : {1, 2, 3, 8}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      GradientCase c{.base = {.query_tokens = 500,
                              .key_tokens = 500,
                              .heads = 2 * key_heads,
                              .key_heads = key_heads,
                              .head_dim = 40}};
      c.base.dtype = dtype;
      c.base.dropout = {.probability = 0.25F, .key = {3, 4}};
      const GradientSetup setup = make_gradient_setup(c);
      std::vector<double> first;
      for (int thread_count = 1; thread_count <= 4; ++thread_count) {
        const OpenmpThreads threads(thread_count);
        for (int repeat = 0; repeat < 2; ++repeat) {
          const std::vector<double> now = gradients_of(setup);
          if (first.empty()) first = now;
          ASSERT_EQ(now, first) << key_heads << " key heads, " << thread_count << " threads";
        }
      }
    }
  }
}

TEST(AttentionOpenmpBackward, EqualBitsForAnyTiles) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const int thread_count : {1, 3}) {
      GradientCase c{.base = {.query_tokens = 700, .key_tokens = 700, .heads = 4, .key_heads = 2}};
      c.base.dtype = dtype;
      GradientSetup setup = make_gradient_setup(c);
      const OpenmpThreads threads(thread_count);
      const std::vector<double> built_in = gradients_of(setup);
      for (const std::int64_t chunk : {1, 3, 8, 4096}) {
        setup.tensors.problem.tiles = AttentionTiles{.backward_chunk = chunk};
        ASSERT_EQ(gradients_of(setup), built_in) << chunk << " tiles, " << thread_count;
      }
    }
  }
}

TEST(AttentionOpenmpBackward, BlocksOfKeysAddUpToTheWhole) {
  GradientCase c{.base = {.query_tokens = 200, .key_tokens = 200, .heads = 4, .key_heads = 2}};
  c.accumulate = true;
  const GradientSetup setup = make_gradient_setup(c);
  const auto kernel = make_openmp_flash_attention_backward();
  for (const auto& [begin, end] : {std::pair(0, 90), std::pair(90, 200)}) {
    AttentionProblem part = setup.tensors.problem;
    part.k = part.k.slice(1, begin, end);
    part.v = part.v.slice(1, begin, end);
    part.mask.query_runs = {{0, 200}};
    part.mask.key_runs = {{begin, end - begin}};
    AttentionGradients gradients = setup.tensors.gradients;
    gradients.dk = gradients.dk.slice(1, begin, end);
    gradients.dv = gradients.dv.slice(1, begin, end);
    kernel->backward(part, gradients);
  }
  testing_support::expect_gradients(c, setup);
}

TEST(AttentionOpenmpBackward, WorkspaceIsWhatWasAnnouncedAndLinear) {
  const auto kernel = make_openmp_flash_attention_backward();
  const auto taken = [&](std::int64_t tokens) {
    GradientCase c{.base = {.query_tokens = tokens, .key_tokens = tokens, .heads = 2}};
    const GradientSetup setup = make_gradient_setup(c);
    CachingAllocator& allocator = backend_of({DeviceKind::cpu, 0}).allocator();
    const std::int64_t before = allocator.counters().allocated;
    allocator.reset_peaks();
    kernel->backward(setup.tensors.problem, setup.tensors.gradients);
    const std::int64_t bytes = allocator.counters().allocated_peak - before;
    EXPECT_EQ(bytes, static_cast<std::int64_t>(kernel->workspace_bytes(setup.tensors.problem)));
    return static_cast<double>(bytes);
  };
  EXPECT_LE(taken(2048) / taken(1024), 2.05);
}

TEST(AttentionOpenmpBackward, WindowNeedsNoMoreScratchForMoreKeys) {
  const Device device{DeviceKind::cpu, 0};
  const OpenmpThreads threads(1);
  const auto bytes = [&](std::int64_t tokens) {
    const Tensor tensor = Tensor::empty({1, tokens, 1, 16}, DType::f32, device);
    const AttentionProblem problem{.q = tensor, .k = tensor, .v = tensor, .mask = {.window = 300}};
    return make_openmp_flash_attention_backward()->workspace_bytes(problem);
  };
  EXPECT_EQ(bytes(2000), bytes(9000));
}

}  // namespace
}  // namespace portolan
#endif
