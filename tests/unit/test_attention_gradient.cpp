// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "attention/attention.hpp"
#include "attention/block_patterns.hpp"
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

/// A small problem with every feature; a window and a block map make every kernel serve it but
/// flash and window, which take no map.
AttentionCase case_with_everything() {
  AttentionCase c{.batch = 2, .query_tokens = 9, .key_tokens = 11, .heads = 4, .key_heads = 2};
  c.head_dim = 3;
  c.mask.window = 7;
  c.mask.query_runs = {{2, 5, 0}, {0, 4, 3}};
  c.mask.key_runs = {{0, 6, 0}, {0, 5, 3}};
  c.mask.key_ranges = {{0, 10}, {2, 11}};
  c.mask.blocks = std::make_shared<BlockMap>(
      united(global_blocks({4, 9, 11, 3, 4}, 1), local_blocks({4, 9, 11, 3, 4}, 0)));
  c.dropout = {.probability = 0.3F, .key = {5, 6}, .first_entry = 2, .first_head = 7};
  return c;
}

/// Calls `check(kernel, device)` for each registered backward kernel that serves the case.
void for_each_backward_kernel(const AttentionCase& c, const auto& check) {
  int kernels = 0;
  for (const auto& kernel : attention_backward_kernels()) {
    const Device device{kernel->device(), 0};
    if (!kernel->unsupported_reason(make_setup(c, device).problem).empty()) continue;
    SCOPED_TRACE(std::string(name_of(device.kind)) + " " + std::string(name_of(kernel->method())));
    check(*kernel, device);
    ++kernels;
  }
  ASSERT_GE(kernels, 3);  // standard, memory-efficient and a tiled one at least
}

TEST(AttentionGradient, ReferenceIsTheDerivativeOfTheReference) {
  const AttentionSetup setup = make_setup(case_with_everything(), {DeviceKind::serial, 0});
  reference::AttentionInput input = setup.reference;
  const reference::AttentionGradient gradient =
      reference::attention_gradient(input, setup.grad_out);
  const auto loss = [&] {
    const std::vector<double> out = reference::attention(input).out;
    double sum = 0.0;
    for (std::size_t i = 0; i < out.size(); ++i) sum += out[i] * setup.grad_out[i];
    return sum;
  };
  const auto check = [&](std::vector<double>& values, const std::vector<double>& slopes) {
    double largest = 0.0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      constexpr double kStep = 1e-5;
      const double value = values[i];
      values[i] = value + kStep;
      const double above = loss();
      values[i] = value - kStep;
      const double below = loss();
      values[i] = value;
      ASSERT_NEAR(slopes[i], (above - below) / (2.0 * kStep), 1e-8) << "element " << i;
      largest = std::max(largest, std::abs(slopes[i]));
    }
    EXPECT_GT(largest, 0.05);
  };
  check(input.q, gradient.dq);
  check(input.k, gradient.dk);
  check(input.v, gradient.dv);
}

TEST(AttentionGradient, EveryFeatureAtOnce) {
  for (const DType dtype : computed_dtypes()) {
    AttentionCase c = case_with_everything();
    c.dtype = dtype;
    testing_support::check_on_all_kernels(c);
    c.mask.blocks = nullptr;
    testing_support::check_on_all_kernels(c);
  }
}

TEST(AttentionGradient, BlocksOfKeysAddUpToTheWhole) {
  // As round a ring: each rank's keys alone, with the log-sum-exp and delta of whole rows.
  for (const DType dtype : computed_dtypes()) {
    AttentionCase c{.batch = 2, .query_tokens = 90, .key_tokens = 90, .heads = 4, .key_heads = 2};
    c.dtype = dtype;
    for_each_backward_kernel(c, [&](const AttentionBackwardKernel& kernel, Device device) {
      const AttentionSetup setup = make_setup(c, device);
      const reference::AttentionGradient expected =
          reference::attention_gradient(setup.reference, setup.grad_out);
      testing_support::set_statistics(setup, reference::attention(setup.reference), expected);
      constexpr double kBefore = 2.5;
      for (const Tensor* tensor : {&setup.gradients.dq, &setup.gradients.dk, &setup.gradients.dv}) {
        testing_support::set_values(
            *tensor, std::vector<double>(static_cast<std::size_t>(tensor->elements()), kBefore));
      }
      constexpr std::int64_t kBounds[] = {0, 31, 32, 77, 90};
      for (int block = 0; block < 4; ++block) {
        const std::int64_t begin = kBounds[block];
        const std::int64_t end = kBounds[block + 1];
        AttentionProblem part = setup.problem;
        part.k = setup.problem.k.slice(1, begin, end);
        part.v = setup.problem.v.slice(1, begin, end);
        part.mask.query_runs = {{0, 90}};
        part.mask.key_runs = {{begin, end - begin}};
        AttentionGradients gradients = setup.gradients;
        gradients.dk = setup.gradients.dk.slice(1, begin, end);
        gradients.dv = setup.gradients.dv.slice(1, begin, end);
        gradients.accumulate = true;
        kernel.backward(part, gradients);
      }
      reference::AttentionGradient added = expected;
      for (std::vector<double>* values : {&added.dq, &added.dk, &added.dv}) {
        for (double& value : *values) value += kBefore;
      }
      testing_support::expect_gradients(c, setup, added);
    });
  }
}

TEST(AttentionGradient, ForwardDeltaAndBackwardFitTogether) {
  // Through the entry points alone, with what the forward pass itself has computed.
  for (const AttentionMethod method : {AttentionMethod::standard, AttentionMethod::memory_efficient,
                                       AttentionMethod::flash, AttentionMethod::window}) {
    AttentionCase c{.batch = 2, .query_tokens = 70, .key_tokens = 80, .heads = 4, .key_heads = 2};
    c.mask.window = 33;
    c.dropout.probability = 0.2F;
    const AttentionSetup setup = make_setup(c, {DeviceKind::serial, 0});
    const AttentionGradients& gradients = setup.gradients;
    attention_forward(setup.problem, setup.out, gradients.log_sum_exp, method);
    attention_delta(setup.out, gradients.grad_out, gradients.delta);
    attention_backward(setup.problem, gradients, method);
    testing_support::expect_gradients(
        c, setup, reference::attention_gradient(setup.reference, setup.grad_out));
  }
}

TEST(AttentionGradient, DropoutDropsAndKeepsTheMean) {
  AttentionCase c{.query_tokens = 200, .key_tokens = 200, .heads = 4, .key_heads = 4};
  c.mask.causal = false;
  c.scale = 1e-6F;  // equal weights
  c.dropout.probability = 0.25F;
  const AttentionSetup setup = make_setup(c, {DeviceKind::serial, 0});
  testing_support::set_values(
      setup.problem.v,
      std::vector<double>(static_cast<std::size_t>(setup.problem.v.elements()), 1));
  attention_forward(setup.problem, setup.out);
  double sum = 0.0;
  double squares = 0.0;
  const std::vector<double> out = values_of(setup.out);
  for (const double value : out) {
    sum += value / static_cast<double>(out.size());
    squares += value * value / static_cast<double>(out.size());
  }
  // Of a mean over 200 weights that are 0 or 4/3: variance 1/3 / 200.
  EXPECT_NEAR(sum, 1.0, 5.0 * std::sqrt(1.0 / 3.0 / (200.0 * 800.0)));
  EXPECT_NEAR(squares - sum * sum, 1.0 / 600.0, 0.3 / 600.0);
}

TEST(AttentionGradient, RunsGiveEqualBitsForAnyThreads) {
  for (const DType dtype : computed_dtypes()) {
    AttentionCase c{.batch = 2, .query_tokens = 150, .key_tokens = 170, .heads = 6, .key_heads = 2};
    c.dtype = dtype;
    c.dropout.probability = 0.1F;
    const AttentionSetup any = make_setup(c, {DeviceKind::serial, 0});
    const reference::AttentionOutput output = reference::attention(any.reference);
    const reference::AttentionGradient gradient =
        reference::attention_gradient(any.reference, any.grad_out);
    for_each_backward_kernel(c, [&](const AttentionBackwardKernel& kernel, Device device) {
      std::vector<std::vector<double>> first;
      for (int threads = 1; threads <= 3; ++threads) {
#if defined(PORTOLAN_HAS_OPENMP)
        const int before = omp_get_max_threads();
        omp_set_num_threads(threads);
#endif
        const AttentionSetup setup = make_setup(c, device);
        testing_support::set_statistics(setup, output, gradient);
        kernel.backward(setup.problem, setup.gradients);
#if defined(PORTOLAN_HAS_OPENMP)
        omp_set_num_threads(before);
#endif
        const std::vector<std::vector<double>> found = {values_of(setup.gradients.dq),
                                                        values_of(setup.gradients.dk),
                                                        values_of(setup.gradients.dv)};
        if (first.empty()) first = found;
        EXPECT_EQ(found, first) << threads << " threads";
      }
    });
  }
}

TEST(AttentionGradient, WorkspaceIsWhatWasAnnounced) {
  AttentionCase c{.batch = 2, .query_tokens = 150, .key_tokens = 200, .heads = 4, .key_heads = 2};
  for_each_backward_kernel(c, [&](const AttentionBackwardKernel& kernel, Device device) {
    const AttentionSetup setup = make_setup(c, device);
    CachingAllocator& allocator = backend_of(device).allocator();
    const std::int64_t before = allocator.counters().allocated;
    allocator.reset_peaks();
    kernel.backward(setup.problem, setup.gradients);
    const std::int64_t taken = allocator.counters().allocated_peak - before;
    const auto announced = static_cast<std::int64_t>(kernel.workspace_bytes(setup.problem));
    EXPECT_LE(taken, announced + static_cast<std::int64_t>(CachingAllocator::kAlignment));
    EXPECT_GE(taken, announced);
    EXPECT_EQ(allocator.counters().allocated, before);
    const auto bytes = [&](std::int64_t tokens) {
      AttentionCase longer{.query_tokens = tokens, .key_tokens = tokens};
      return static_cast<double>(kernel.workspace_bytes(make_setup(longer, device).problem));
    };
    const double growth = bytes(4096) / bytes(2048);
    if (kernel.method() == AttentionMethod::standard) {
      EXPECT_NEAR(growth, 4.0, 0.01);
    } else {
      EXPECT_LE(growth, 2.01);
    }
  });
}

TEST(AttentionGradient, RejectsWhatDoesNotFit) {
  const AttentionSetup setup =
      make_setup({.query_tokens = 4, .key_tokens = 6}, {DeviceKind::serial, 0});
  AttentionGradients transposed_roles = setup.gradients;
  transposed_roles.dk = setup.gradients.dq;
  EXPECT_THROW(attention_backward(setup.problem, transposed_roles), UsageError);
  AttentionGradients narrow = setup.gradients;
  narrow.dq = Tensor::empty(setup.problem.q.shape(), DType::bf16, setup.problem.q.device());
  EXPECT_THROW(attention_backward(setup.problem, narrow), UsageError);
  EXPECT_THROW(attention_backward(setup.problem, setup.gradients, AttentionMethod::window),
               UnsupportedError);
  EXPECT_THROW(attention_backward(setup.problem, setup.gradients, AttentionMethod::block_sparse),
               UnsupportedError);
}

}  // namespace
}  // namespace portolan
