// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <functional>
#include <set>
#include <string>
#include <vector>

#include "attention/attention.hpp"
#include "core/backend.hpp"
#include "core/error.hpp"
#include "core/ops.hpp"
#include "tests/unit/attention_testing.hpp"
#if defined(PORTOLAN_HAS_OPENMP)
#include "attention/openmp/openmp_attention.hpp"
#endif

/// Problems whose keys are rows of a cache that only the device knows.
namespace portolan::testing_support {
namespace {

constexpr Device kSerial{DeviceKind::serial, 0};

/// Before, within and behind a cache of 150 rows; none; and bounds that have to be clamped.
const std::vector<KeyRange> kRows{{0, 150}, {0, 70},    {5, 33}, {64, 130},  {12, 12}, {-4, 500},
                                  {90, 20}, {149, 150}, {0, 1},  {200, 300}, {-9, -2}};

AttentionCase cached_case(std::int64_t query_tokens) {
  return {.batch = std::ssize(kRows),
          .query_tokens = query_tokens,
          .key_tokens = 150,
          .heads = 6,
          .key_heads = 2,
          .head_dim = 24,
          .cached_rows = kRows};
}

/// Runs what serves the case on each device: at least `standard` and `flash`.
void check_on_serving_kernels(const AttentionCase& c) {
  SCOPED_TRACE(c.to_string());
  const reference::AttentionOutput expected =
      reference::attention(make_setup(c, kSerial).reference);
  for (const auto& backend : registered_backends()) {
    const Device device = backend->device();
    std::set<AttentionMethod> methods;
    for (const auto& kernel : attention_forward_kernels()) {
      if (kernel->device() != device.kind) continue;
      const AttentionSetup setup = make_setup(c, device);
      if (!kernel->unsupported_reason(setup.problem).empty()) continue;
      SCOPED_TRACE(fmt::format("{} on {}", name_of(kernel->method()), name_of(device.kind)));
      methods.insert(kernel->method());
      kernel->forward(setup.problem, setup.out, setup.log_sum_exp);
      expect_matches(c, setup, expected);
    }
    EXPECT_TRUE(methods.contains(AttentionMethod::standard)) << name_of(device.kind);
    EXPECT_TRUE(methods.contains(AttentionMethod::flash)) << name_of(device.kind);
    if (device.kind == DeviceKind::cpu) {
      EXPECT_EQ(methods.contains(AttentionMethod::window), c.mask.window > 0);
    }
  }
}

TEST(AttentionCachedRows, OfEachEntryAreTheKeysThatItsQueriesSee) {
  for (const DType dtype : computed_dtypes()) {
    for (const std::int64_t query_tokens : {1, 2, 5, 16, 40}) {
      AttentionCase c = cached_case(query_tokens);
      c.dtype = dtype;
      c.out_dtype = query_tokens % 2 == 0 ? DType::f32 : dtype;
      check_on_serving_kernels(c);
    }
  }
}

TEST(AttentionCachedRows, WindowsAndNoCausalityCountFromTheEndOfTheRows) {
  for (const DType dtype : computed_dtypes()) {
    for (const std::int64_t query_tokens : {1, 3, 20}) {
      for (const std::int64_t window : {0, 1, 9, 64, 400}) {
        AttentionCase c = cached_case(query_tokens);
        c.dtype = dtype;
        c.mask.window = window;
        c.mask.causal = false;  // which a window implies
        c.layout = AttentionLayout::padded;
        check_on_serving_kernels(c);
      }
    }
  }
}

TEST(AttentionCachedRows, OfALongCacheMayBeOfAnyLength) {
  for (const DType dtype : computed_dtypes()) {
    AttentionCase c{.batch = 4,
                    .query_tokens = 1,
                    .key_tokens = 2600,
                    .heads = 4,
                    .key_heads = 2,
                    .head_dim = 64,
                    .cached_rows = {{0, 2600}, {0, 2600}, {700, 2600}, {3, 1025}}};
    c.dtype = dtype;
    check_on_serving_kernels(c);
  }
}

TEST(AttentionCachedRows, AreReadWhenTheKernelRuns) {
  AttentionCase c{.batch = 3,
                  .query_tokens = 2,
                  .key_tokens = 90,
                  .heads = 4,
                  .key_heads = 2,
                  .cached_rows = {{0, 90}, {0, 90}, {4, 90}}};
  for (const auto& backend : registered_backends()) {
    AttentionSetup setup = make_setup(c, backend->device());
    for (const std::vector<KeyRange>& rows : {std::vector<KeyRange>{{0, 7}, {3, 9}, {4, 40}},
                                              {{0, 8}, {3, 10}, {4, 41}},
                                              {{0, 90}, {11, 30}, {50, 50}}}) {
      set_cached_rows(setup, rows);
      attention_forward(setup.problem, setup.out, setup.log_sum_exp);
      expect_matches(c, setup, reference::attention(setup.reference));
    }
  }
}

TEST(AttentionCachedRows, HaveNoBackwardPass) {
  const AttentionSetup setup = make_setup(cached_case(2), kSerial);
  EXPECT_THROW(attention_backward(setup.problem, setup.gradients), UsageError);
  for (const auto& kernel : attention_backward_kernels()) {
    // A method may have another reason that it names first.
    EXPECT_NE(kernel->unsupported_reason(setup.problem), "") << name_of(kernel->method());
  }
}

TEST(AttentionCachedRows, KernelsThatDoNotServeThemSayWhy) {
  const AttentionSetup setup = make_setup(cached_case(2), kSerial);
  for (const auto& kernel : attention_forward_kernels()) {
    if (kernel->device() != DeviceKind::serial) continue;
    const std::string reason = kernel->unsupported_reason(setup.problem);
    if (kernel->method() == AttentionMethod::standard ||
        kernel->method() == AttentionMethod::flash) {
      EXPECT_EQ(reason, "");
    } else if (kernel->method() == AttentionMethod::memory_efficient) {
      EXPECT_EQ(reason, "it takes no cached rows");
    } else {
      EXPECT_NE(reason, "");
    }
  }
}

TEST(AttentionCachedRows, WhatDoesNotFitThemIsAnError) {
  const auto message_of = [](const std::function<void(AttentionProblem&)>& change) {
    AttentionSetup setup = make_setup(cached_case(2), kSerial);
    change(setup.problem);
    try {
      attention_forward(setup.problem, setup.out, setup.log_sum_exp);
    } catch (const UsageError& error) {
      return std::string(error.what());
    }
    return std::string("no error");
  };
  const auto rows_like = [](const Shape& shape, DType dtype) {
    return [=](AttentionProblem& problem) {
      problem.cached_rows = Tensor::empty(shape, dtype, kSerial);
    };
  };
  const std::int64_t batch = std::ssize(kRows);
  EXPECT_EQ(message_of([](AttentionProblem&) {}), "no error");
  EXPECT_EQ(message_of(rows_like({batch, 1}, DType::i32)),
            "attention: the cached rows must be i32 [11, 2], found i32 [11, 1]");
  EXPECT_EQ(message_of(rows_like({batch, 2}, DType::f32)),
            "attention: the cached rows must be i32 [11, 2], found f32 [11, 2]");
  EXPECT_EQ(message_of([&](AttentionProblem& problem) {
              problem.cached_rows = Tensor::empty({batch, 3}, DType::i32, kSerial).slice(1, 0, 2);
            }),
            "attention: the cached rows must be contiguous, found strides [3, 1]");
  const auto excluded = [&](const char* found, const std::function<void(AttentionProblem&)>& set) {
    EXPECT_EQ(message_of(set),
              fmt::format("attention: a problem with cached rows has {} as well", found));
  };
  excluded("runs of queries", [](AttentionProblem& p) { p.mask.query_runs = {{148, 2}}; });
  excluded("runs of keys", [](AttentionProblem& p) { p.mask.key_runs = {{0, 150}}; });
  excluded("key ranges", [](AttentionProblem& p) { p.mask.key_ranges.resize(kRows.size()); });
  excluded("a block map", [](AttentionProblem& p) {
    const std::vector<std::uint8_t> flags(6, 1);
    p.mask.blocks = std::make_shared<BlockMap>(
        block_map_from_flags(6, 1, 1, p.q.dim(1), p.k.dim(1), flags.data()));
  });
  excluded("dropout", [](AttentionProblem& p) { p.dropout.probability = 0.5F; });
}

#if defined(PORTOLAN_HAS_OPENMP)
TEST(AttentionCachedRows, AreTheSameBitsAsAProblemOfThoseKeysAlone) {
  const auto flash = make_openmp_flash_attention();
  for (const DType dtype : computed_dtypes()) {
    for (const std::int64_t query_tokens : {1, 20}) {
      AttentionCase c{.batch = 5,
                      .query_tokens = query_tokens,
                      .key_tokens = 1500,
                      .heads = 6,
                      .key_heads = 3,
                      .head_dim = 40,
                      .cached_rows = {{0, 1500}, {7, 1300}, {7, 1300}, {8, 1300}, {40, 40}}};
      c.dtype = c.out_dtype = dtype;
      const AttentionSetup setup = make_setup(c, {DeviceKind::cpu, 0});
      flash->forward(setup.problem, setup.out, setup.log_sum_exp);
      for (std::int64_t entry = 0; entry < c.batch; ++entry) {
        const KeyRange rows = c.cached_rows[static_cast<std::size_t>(entry)];
        const auto of_entry = [&](const Tensor& tensor) {
          return tensor.slice(0, entry, entry + 1);
        };
        AttentionProblem alone{.q = of_entry(setup.problem.q),
                               .k = of_entry(setup.problem.k).slice(1, rows.begin, rows.end),
                               .v = of_entry(setup.problem.v).slice(1, rows.begin, rows.end)};
        alone.scale = setup.problem.scale;
        const Tensor out = Tensor::empty(alone.q.shape(), dtype, alone.q.device());
        const Tensor log_sum_exp =
            Tensor::empty({1, c.heads, query_tokens}, DType::f32, alone.q.device());
        flash->forward(alone, out, log_sum_exp);
        EXPECT_EQ(values_of(of_entry(setup.out)), values_of(out)) << "entry " << entry;
        EXPECT_EQ(values_of(of_entry(setup.log_sum_exp)), values_of(log_sum_exp));
      }
    }
  }
}

TEST(AttentionCachedRows, EntriesOfTheSameRowsAreOneProblem) {
  const auto scratch_of = [](const std::vector<KeyRange>& rows) {
    AttentionCase c{.batch = 2, .query_tokens = 1, .key_tokens = 4000, .cached_rows = rows};
    const AttentionSetup setup = make_setup(c, {DeviceKind::cpu, 0});
    return make_openmp_flash_attention()->workspace_bytes(setup.problem);
  };
  // Splits of long keys are kept for each key head of a problem.
  EXPECT_LT(scratch_of({{0, 3999}, {0, 4000}}), scratch_of({{0, 4000}, {0, 4000}}));
  EXPECT_LT(scratch_of({{0, 10}, {0, 10}}), scratch_of({{0, 4000}, {0, 4000}}));
}
#endif

}  // namespace
}  // namespace portolan::testing_support
