// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "attention/cuda/decode_tile.hpp"
#include "attention/cuda/sm80_backward_tile.hpp"
#include "attention/cuda/sm80_forward_tile.hpp"
#include "core/random.hpp"
#include "tests/cuda/cases.hpp"
#include "tests/reference/attention_reference.hpp"
#include "tests/unit/emulated_lane.hpp"
#include "tests/unit/strided_operand.hpp"

/// Attention problems for the emulated sm_80 kernels.
namespace portolan::testing_support {

using cuda::AttentionElement;
using cuda::AttentionOutput;
using cuda::sm80::BlockIndex;
using cuda_testing::Case;
using cuda_testing::offsets_of;

/// A case's operands, its expected results, and what the kernels make of it.
class Emulation {
 public:
  Emulation(const Case& c, EmulationOrder order)
      : case_(c),
        order_(order),
        query_offsets_(offsets_of(c.query_lengths)),
        key_offsets_(offsets_of(c.key_lengths)),
        cached_rows_(c.cached_rows),
        q_(c.entries(), c.query_rows(), c.heads, c.head_dim),
        k_(c.entries(), c.key_rows(), c.key_heads, c.head_dim),
        v_(k_),
        out_(q_),
        grad_out_(q_),
        dq_(q_),
        dk_(k_),
        dv_(k_),
        log_sum_exp_(static_cast<std::size_t>(c.entries() * c.heads * c.query_rows()),
                     std::numeric_limits<float>::quiet_NaN()),
        shape_(c.shape()) {
    input_.batch = c.entries();
    input_.query_tokens = c.query_rows();
    input_.key_tokens = c.key_rows();
    input_.heads = c.heads;
    input_.key_heads = c.key_heads;
    input_.head_dim = c.head_dim;
    input_.scale = 1.0 / std::sqrt(static_cast<double>(c.head_dim));
    input_.causal = c.causal || c.window > 0;
    input_.window = c.window;
    place_tokens();
    input_.q = random(q_, 1, c.query_rows() * c.heads);
    input_.k = random(k_, 2, c.key_rows() * c.key_heads);
    input_.v = random(v_, 3, c.key_rows() * c.key_heads);
    grad_out_values_ = random(grad_out_, 4, c.query_rows() * c.heads);
    if (!cached_rows_.empty()) {
      shape_.cached_rows = cached_rows_.data();
      place_cached_tokens();
      spoil_other_rows();
    }
    expected_ = reference::attention(input_);
    if (c.packed()) {
      shape_.query_offsets = query_offsets_.data();
      shape_.key_offsets = key_offsets_.data();
    }
  }

  /// Other rows at the same place; those that were outside before are still not numbers.
  void set_cached_rows(const std::vector<std::int32_t>& rows) {
    case_.cached_rows = rows;
    std::copy(rows.begin(), rows.end(), cached_rows_.begin());
    place_cached_tokens();
    expected_ = reference::attention(input_);
  }

  /// Makes an element of a key not a number, of head 0 and batch entry 0.
  void spoil_key(int token) {
    input_.k[static_cast<std::size_t>(token * case_.key_heads * case_.head_dim + 5)] =
        std::numeric_limits<double>::quiet_NaN();
    k_.fill(case_.element, input_.k);
  }

  void run_forward() {
    const auto run = [&](auto element, auto head_dim) {
      using Tiles = cuda::sm80::ForwardTiles<head_dim()>;
      each_block(shape_.query_tokens, Tiles::kQueries, case_.heads, Tiles::kThreads,
                 Tiles::kSharedBytes, [&](const EmulatedLane& lane, const BlockIndex& i) {
                   cuda::sm80::forward_tile<element(), head_dim()>(lane, forward_arguments(), i);
                 });
    };
    with_constants(run);
  }

  void run_backward() {
    const reference::AttentionGradient gradient =
        reference::attention_gradient(input_, grad_out_values_);
    expected_gradient_ = gradient;
    delta_.assign(gradient.delta.begin(), gradient.delta.end());
    log_sum_exp_.assign(expected_.log_sum_exp.begin(), expected_.log_sum_exp.end());
    if (case_.output == AttentionOutput::f32_sum) {
      for (StridedOperand* result : {&dq_, &dk_, &dv_}) result->fill_f32(kBefore);
    }
    const auto run = [&](auto element, auto head_dim) {
      using QueryTiles = cuda::sm80::QueryGradientTiles<head_dim()>;
      each_block(shape_.query_tokens, QueryTiles::kQueries, case_.heads, QueryTiles::kThreads,
                 QueryTiles::kSharedBytes, [&](const EmulatedLane& lane, const BlockIndex& i) {
                   cuda::sm80::query_gradient_tile<element(), head_dim()>(lane,
                                                                          backward_arguments(), i);
                 });
      using KeyTiles = cuda::sm80::KeyGradientTiles<head_dim()>;
      each_block(shape_.key_tokens, KeyTiles::kKeys, case_.key_heads, KeyTiles::kThreads,
                 KeyTiles::kSharedBytes, [&](const EmulatedLane& lane, const BlockIndex& i) {
                   cuda::sm80::key_gradient_tile<element(), head_dim()>(lane, backward_arguments(),
                                                                        i);
                 });
    };
    with_constants(run);
  }

  void run_decode() {
    const cuda::DecodePlan plan(shape_);
    const std::size_t bytes = cuda::DecodeWorkspace(shape_, plan).bytes();
    std::vector<float> workspace(bytes / sizeof(float), std::numeric_limits<float>::quiet_NaN());
    const auto run = [&](auto element, auto head_dim) {
      using Tiles = cuda::sm80::DecodeTiles<head_dim()>;
      each_block(plan.splits * plan.row_tiles, 1, case_.key_heads, Tiles::kThreads,
                 Tiles::kSharedBytes, [&](const EmulatedLane& lane, const BlockIndex& i) {
                   cuda::sm80::decode_tile<element(), head_dim()>(lane, forward_arguments(),
                                                                  workspace.data(), i);
                 });
      if (plan.splits == 1) return;
      run_emulated_block(32, 0, order_, [&](const EmulatedLane& lane) {
        if (lane.thread() > 0) return;
        for (std::int64_t row = 0; row < shape_.batch * case_.heads * shape_.query_tokens; ++row) {
          for (int part = 0; part < case_.head_dim / 8; ++part) {
            cuda::sm80::merge_splits<element()>(lane, forward_arguments(), workspace.data(), row,
                                                part);
          }
        }
      });
    };
    with_constants(run);
    splits_ = plan.splits;
  }

  [[nodiscard]] int splits() const { return splits_; }
  [[nodiscard]] std::vector<double> out() const { return out_.values(case_.element, case_.output); }
  [[nodiscard]] const std::vector<float>& log_sum_exp() const { return log_sum_exp_; }

  void expect_forward() const {
    expect_close(out_, expected_.out, "out", 0.0);
    ASSERT_EQ(log_sum_exp_.size(), expected_.log_sum_exp.size());
    for (std::size_t i = 0; i < log_sum_exp_.size(); ++i) {
      const double expected = expected_.log_sum_exp[i];
      if (std::isinf(expected)) {
        ASSERT_EQ(log_sum_exp_[i], expected) << "row " << i;
      } else {
        ASSERT_NEAR(log_sum_exp_[i], expected, 1e-5 * (1.0 + std::abs(expected))) << "row " << i;
      }
    }
  }
  /// Of a causal case of one head: rows that see the token, and no others, are NaN.
  void expect_spoiled(int token) const {
    const std::vector<double> values = out_.values(case_.element, case_.output);
    for (std::int64_t query = 0; query < case_.query_tokens; ++query) {
      const bool sees = query + case_.key_tokens - case_.query_tokens >= token;
      ASSERT_EQ(std::isnan(log_sum_exp_[static_cast<std::size_t>(query)]), sees) << query;
      for (std::int64_t i = 0; i < case_.head_dim; ++i) {
        const auto index = static_cast<std::size_t>(query * case_.head_dim + i);
        ASSERT_EQ(std::isnan(values[index]), sees) << "row " << query;
      }
    }
  }
  void expect_backward() const {
    const double before = case_.output == AttentionOutput::f32_sum ? kBefore : 0.0;
    expect_close(dq_, expected_gradient_.dq, "dq", before);
    expect_close(dk_, expected_gradient_.dk, "dk", before);
    expect_close(dv_, expected_gradient_.dv, "dv", before);
  }

 private:
  static constexpr float kBefore = 0.5F;

  /// Sequences one after the other, each aligned bottom-right.
  void place_tokens() {
    std::vector<std::int32_t> queries = case_.query_lengths;
    std::vector<std::int32_t> keys = case_.key_lengths;
    if (!case_.packed()) {
      queries = {static_cast<std::int32_t>(case_.query_tokens)};
      keys = {static_cast<std::int32_t>(case_.key_tokens)};
    }
    for (std::size_t s = 0; s < queries.size(); ++s) {
      const auto sequence = static_cast<std::int64_t>(s);
      for (int i = 0; i < queries[s]; ++i) {
        input_.query_positions.push_back(i + keys[s] - queries[s]);
        input_.query_sequences.push_back(sequence);
      }
      for (int i = 0; i < keys[s]; ++i) {
        input_.key_positions.push_back(i);
        input_.key_sequences.push_back(sequence);
      }
    }
  }

  void place_cached_tokens() {
    input_.query_positions.clear();
    input_.key_begin.clear();
    input_.key_end.clear();
    for (std::int64_t entry = 0; entry < case_.batch; ++entry) {
      input_.key_begin.push_back(case_.first_key(entry));
      input_.key_end.push_back(case_.end_key(entry));
      for (std::int64_t i = 0; i < case_.query_tokens; ++i) {
        input_.query_positions.push_back(case_.end_key(entry) - case_.query_tokens + i);
      }
    }
  }

  void spoil_other_rows() {
    const std::int64_t row = case_.key_heads * case_.head_dim;
    for (std::int64_t entry = 0; entry < case_.batch; ++entry) {
      for (std::int64_t token = 0; token < case_.key_tokens; ++token) {
        if (token >= case_.first_key(entry) && token < case_.end_key(entry)) continue;
        for (std::vector<double>* values : {&input_.k, &input_.v}) {
          std::fill_n(values->begin() + (entry * case_.key_tokens + token) * row, row,
                      std::numeric_limits<double>::quiet_NaN());
        }
      }
    }
    k_.fill(case_.element, input_.k);
    v_.fill(case_.element, input_.v);
  }

  std::vector<double> random(StridedOperand& operand, std::uint32_t stream,
                             std::int64_t rows) const {
    std::vector<double> values;
    for (std::int64_t i = 0; i < case_.entries() * rows * case_.head_dim; ++i) {
      const auto words = philox4x32({static_cast<std::uint32_t>(i), 0, 0, 0}, 7, stream);
      const float value = 3.0F * symmetric_uniform(words[0]);
      values.push_back(value_of(case_.element, bits_of(case_.element, value)));
    }
    operand.fill(case_.element, values);
    return values;
  }

  template <typename Run>
  void with_constants(const Run& run) const {
    using Bf16 = std::integral_constant<AttentionElement, AttentionElement::bf16>;
    using F16 = std::integral_constant<AttentionElement, AttentionElement::f16>;
    const auto with_head_dim = [&](auto element) {
      if (case_.head_dim == 64) return run(element, std::integral_constant<int, 64>());
      return run(element, std::integral_constant<int, 128>());
    };
    return case_.element == AttentionElement::bf16 ? with_head_dim(Bf16()) : with_head_dim(F16());
  }

  template <typename Body>
  void each_block(std::int64_t rows, int tile_rows, std::int64_t heads, int threads,
                  std::uint32_t shared_bytes, const Body& body) const {
    for (int entry = 0; entry < static_cast<int>(shape_.batch); ++entry) {
      for (int head = 0; head < heads; ++head) {
        for (int tile = 0; tile < (rows + tile_rows - 1) / tile_rows; ++tile) {
          run_emulated_block(threads, shared_bytes, order_, [&](const EmulatedLane& lane) {
            body(lane, BlockIndex{.tile = tile, .head = head, .entry = entry});
          });
        }
      }
    }
  }

  cuda::AttentionForwardArguments forward_arguments() {
    return {.shape = shape_,
            .q = q_.bits(),
            .k = k_.bits(),
            .v = v_.bits(),
            .out = out_.data(case_.output),
            .output = case_.output,
            .q_strides = q_.strides(),
            .k_strides = k_.strides(),
            .v_strides = v_.strides(),
            .out_strides = out_.strides(),
            .log_sum_exp = log_sum_exp_.data(),
            .log_sum_exp_stride = case_.query_rows()};
  }
  cuda::AttentionBackwardArguments backward_arguments() {
    return {.shape = shape_,
            .q = q_.bits(),
            .k = k_.bits(),
            .v = v_.bits(),
            .grad_out = grad_out_.bits(),
            .q_strides = q_.strides(),
            .k_strides = k_.strides(),
            .v_strides = v_.strides(),
            .grad_out_strides = grad_out_.strides(),
            .log_sum_exp = log_sum_exp_.data(),
            .delta = delta_.data(),
            .log_sum_exp_stride = case_.query_rows(),
            .dq = dq_.data(case_.output),
            .dk = dk_.data(case_.output),
            .dv = dv_.data(case_.output),
            .output = case_.output,
            .dq_strides = dq_.strides(),
            .dk_strides = dk_.strides(),
            .dv_strides = dv_.strides()};
  }

  /// By the relative error in the Euclidean norm. Rounding weights, gradients of scores and results
  /// to 8 or 11 significant bits makes about 2e-3 and 2.5e-4.
  void expect_close(const StridedOperand& found, const std::vector<double>& expected,
                    const char* name, double before) const {
    EXPECT_TRUE(found.gaps_untouched()) << name << " was written outside of its rows";
    const std::vector<double> values = found.values(case_.element, case_.output);
    ASSERT_EQ(values.size(), expected.size()) << name;
    double error = 0.0;
    double norm = 0.0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      ASSERT_TRUE(std::isfinite(values[i])) << name << " at " << i;
      error += std::pow(values[i] - before - expected[i], 2);
      norm += std::pow(expected[i], 2);
    }
    const double tolerance = case_.element == AttentionElement::bf16 ? 4e-3 : 6e-4;
    // What is 0 because it cancels is so but for the rounding of f32.
    const double cancelled = 1e-6 * std::sqrt(static_cast<double>(values.size()));
    EXPECT_LE(std::sqrt(error), tolerance * std::sqrt(norm) + cancelled) << name;
  }

  Case case_;
  EmulationOrder order_;
  reference::AttentionInput input_;
  reference::AttentionOutput expected_;
  reference::AttentionGradient expected_gradient_;
  std::vector<std::int32_t> query_offsets_;
  std::vector<std::int32_t> key_offsets_;
  std::vector<std::int32_t> cached_rows_;
  StridedOperand q_;
  StridedOperand k_;
  StridedOperand v_;
  StridedOperand out_;
  StridedOperand grad_out_;
  StridedOperand dq_;
  StridedOperand dk_;
  StridedOperand dv_;
  std::vector<double> grad_out_values_;
  std::vector<float> log_sum_exp_;
  std::vector<float> delta_;
  cuda::AttentionShape shape_;
  int splits_ = 0;
};

}  // namespace portolan::testing_support
