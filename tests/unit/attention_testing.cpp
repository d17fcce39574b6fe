// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/attention_testing.hpp"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <set>
#include <span>

#include "core/backend.hpp"
#include "core/ops.hpp"

namespace portolan::testing_support {
namespace {

void set_element(const Tensor& tensor, std::int64_t offset, double value) {
  const auto narrow = static_cast<float>(value);
  switch (tensor.dtype()) {
    case DType::bf16:
      tensor.data<BFloat16>()[offset] = from_float<BFloat16>(narrow);
      return;
    case DType::f16:
      tensor.data<Float16>()[offset] = from_float<Float16>(narrow);
      return;
    default:
      tensor.data<float>()[offset] = narrow;
  }
}

void randomise(const Tensor& tensor, std::mt19937_64& generator, float spread) {
  std::vector<double> values(static_cast<std::size_t>(tensor.elements()));
  for (double& value : values) {
    const double unit = static_cast<double>(generator() >> 11) * 0x1p-52 - 1.0;
    value = unit * spread;
  }
  set_values(tensor, values);
}

// [batch, tokens, heads, head_dim] with `gap` unused elements behind each token's heads.
Tensor make_operand(std::int64_t batch, std::int64_t tokens, std::int64_t heads,
                    std::int64_t head_dim, DType dtype, Device device, std::int64_t gap) {
  return Tensor::empty({batch, tokens, heads * head_dim + gap}, dtype, device)
      .slice(2, 0, heads * head_dim)
      .split_last(heads);
}

std::vector<std::int64_t> sequences_of(const std::vector<TokenRun>& runs) {
  std::vector<std::int64_t> sequences;
  for (const TokenRun& run : runs) sequences.insert(sequences.end(), run.length, run.sequence);
  return sequences;
}

// Packing, padding, blocks and dropout.
void set_features(const AttentionCase& c, reference::AttentionInput& input) {
  input.query_sequences = sequences_of(c.mask.query_runs);
  input.key_sequences = sequences_of(c.mask.key_runs);
  input.query_sequences.resize(static_cast<std::size_t>(c.query_tokens));
  input.key_sequences.resize(static_cast<std::size_t>(c.key_tokens));
  for (const KeyRange& range : c.mask.key_ranges) {
    input.key_begin.push_back(range.begin);
    input.key_end.push_back(range.end);
  }
  if (c.mask.blocks) {
    const BlockMap& map = *c.mask.blocks;
    input.block_queries = map.block_queries;
    input.block_keys = map.block_keys;
    input.block_flags.resize(
        static_cast<std::size_t>(map.heads * map.block_rows * map.block_columns));
    for (std::int64_t row = 0; row < map.heads * map.block_rows; ++row) {
      for (std::int32_t i = map.row_begin[row]; i < map.row_begin[row + 1]; ++i) {
        input.block_flags[row * map.block_columns + map.columns[i]] = 1;
      }
    }
  }
  input.dropout = static_cast<double>(c.dropout.probability);
  input.seed = c.dropout.key.seed;
  input.stream = c.dropout.key.stream;
  input.first_entry = c.dropout.first_entry;
  input.first_head = c.dropout.first_head;
}

/// What lies outside of cached rows must not matter.
void spoil_other_rows(const AttentionCase& c, const AttentionProblem& problem) {
  for (std::size_t entry = 0; entry < c.cached_rows.size(); ++entry) {
    const auto index = static_cast<std::int64_t>(entry);
    const std::int64_t begin =
        std::clamp<std::int64_t>(c.cached_rows[entry].begin, 0, c.key_tokens);
    const std::int64_t end = std::clamp(c.cached_rows[entry].end, begin, c.key_tokens);
    for (const Tensor* tensor : {&problem.k, &problem.v}) {
      for (const KeyRange& other : {KeyRange{0, begin}, KeyRange{end, c.key_tokens}}) {
        const Tensor rows = tensor->slice(0, index, index + 1).slice(1, other.begin, other.end);
        set_values(rows, std::vector<double>(static_cast<std::size_t>(rows.elements()),
                                             std::numeric_limits<double>::quiet_NaN()));
      }
    }
  }
}

}  // namespace

std::string AttentionCase::to_string() const {
  std::string text =
      fmt::format("B{} Sq{} Sk{} H{}/{} D{} {} -> {} layout {} causal {} window {}", batch,
                  query_tokens, key_tokens, heads, key_heads, head_dim, name_of(dtype),
                  name_of(out_dtype), static_cast<int>(layout), mask.causal, mask.window);
  for (const TokenRun& run : mask.query_runs) {
    text += fmt::format(" q[{}: {}+{}]", run.sequence, run.position, run.length);
  }
  for (const TokenRun& run : mask.key_runs) {
    text += fmt::format(" k[{}: {}+{}]", run.sequence, run.position, run.length);
  }
  for (const KeyRange& range : mask.key_ranges) {
    text += fmt::format(" keys[{}, {})", range.begin, range.end);
  }
  for (const KeyRange& range : cached_rows) {
    text += fmt::format(" rows[{}, {})", range.begin, range.end);
  }
  if (mask.blocks) {
    text += fmt::format(" {} blocks of {}x{}", mask.blocks->columns.size(),
                        mask.blocks->block_queries, mask.blocks->block_keys);
  }
  if (dropout.probability > 0.0F) text += fmt::format(" dropout {}", dropout.probability);
  return text;
}

std::vector<std::int64_t> positions_of(const std::vector<TokenRun>& runs) {
  std::vector<std::int64_t> positions;
  for (const TokenRun& run : runs) {
    for (std::int64_t i = 0; i < run.length; ++i) positions.push_back(run.position + i);
  }
  return positions;
}

void set_values(const Tensor& tensor, const std::vector<double>& values) {
  const Tensor host = Tensor::empty(tensor.shape(), tensor.dtype(), {DeviceKind::serial, 0});
  for (std::int64_t i = 0; i < host.elements(); ++i) {
    set_element(host, i, values[static_cast<std::size_t>(i)]);
  }
  ops::copy(ops::to_device(host, tensor.device()), tensor);
}

void set_cached_rows(AttentionSetup& setup, const std::vector<KeyRange>& rows) {
  reference::AttentionInput& input = setup.reference;
  input.query_positions.clear();
  input.key_begin.clear();
  input.key_end.clear();
  std::vector<std::int32_t> bounds;
  for (const KeyRange& range : rows) {
    input.key_begin.push_back(range.begin);
    input.key_end.push_back(range.end);
    const std::int64_t end = std::clamp<std::int64_t>(range.end, 0, input.key_tokens);
    for (std::int64_t i = 0; i < input.query_tokens; ++i) {
      input.query_positions.push_back(end - input.query_tokens + i);
    }
    bounds.push_back(static_cast<std::int32_t>(range.begin));
    bounds.push_back(static_cast<std::int32_t>(range.end));
  }
  const Tensor& tensor = setup.problem.cached_rows;
  Backend& backend = backend_of(tensor.device());
  backend.copy_bytes(tensor.raw(), bounds.data(), tensor.bytes(), Queue::compute);
  backend.synchronize();
}

AttentionSetup make_setup(const AttentionCase& test_case, Device device) {
  const AttentionCase& c = test_case;
  AttentionSetup setup;
  const std::int64_t gap = c.layout == AttentionLayout::padded ? 7 : 0;
  if (c.layout == AttentionLayout::fused) {
    const std::int64_t q_width = c.heads * c.head_dim;
    const std::int64_t k_width = c.key_heads * c.head_dim;
    const Tensor all =
        Tensor::empty({c.batch, c.query_tokens, q_width + 2 * k_width}, c.dtype, device);
    setup.problem.q = all.slice(2, 0, q_width).split_last(c.heads);
    setup.problem.k = all.slice(2, q_width, q_width + k_width).split_last(c.key_heads);
    setup.problem.v =
        all.slice(2, q_width + k_width, q_width + 2 * k_width).split_last(c.key_heads);
  } else {
    setup.problem.q =
        make_operand(c.batch, c.query_tokens, c.heads, c.head_dim, c.dtype, device, gap);
    setup.problem.k =
        make_operand(c.batch, c.key_tokens, c.key_heads, c.head_dim, c.dtype, device, 2 * gap);
    setup.problem.v =
        make_operand(c.batch, c.key_tokens, c.key_heads, c.head_dim, c.dtype, device, gap);
  }
  setup.out = make_operand(c.batch, c.query_tokens, c.heads, c.head_dim, c.out_dtype, device, gap);
  const Shape row_values{c.batch, c.heads, c.query_tokens};
  setup.log_sum_exp = Tensor::empty(row_values, DType::f32, device);
  const auto like = [&](std::int64_t tokens, std::int64_t heads) {
    return make_operand(c.batch, tokens, heads, c.head_dim, c.out_dtype, device, gap);
  };
  setup.gradients = {.grad_out = like(c.query_tokens, c.heads),
                     .log_sum_exp = Tensor::empty(row_values, DType::f32, device),
                     .delta = Tensor::empty(row_values, DType::f32, device),
                     .dq = like(c.query_tokens, c.heads),
                     .dk = like(c.key_tokens, c.key_heads),
                     .dv = like(c.key_tokens, c.key_heads)};
  setup.problem.mask = c.mask;
  setup.problem.dropout = c.dropout;
  setup.problem.scale = c.scale != 0.0F
                            ? c.scale
                            : static_cast<float>(1.0 / std::sqrt(static_cast<double>(c.head_dim)));

  std::mt19937_64 generator(c.seed);
  for (const Tensor* tensor : {&setup.problem.q, &setup.problem.k, &setup.problem.v}) {
    randomise(*tensor, generator, c.spread);
  }
  randomise(setup.gradients.grad_out, generator, 1.0F);
  setup.grad_out = values_of(setup.gradients.grad_out);
  // What a kernel leaves unwritten must not pass for a result.
  for (const Tensor* tensor : {&setup.out, &setup.log_sum_exp, &setup.gradients.dq,
                               &setup.gradients.dk, &setup.gradients.dv}) {
    set_values(*tensor, std::vector<double>(static_cast<std::size_t>(tensor->elements()), 77.0));
  }
  spoil_other_rows(c, setup.problem);

  reference::AttentionInput& input = setup.reference;
  input.batch = c.batch;
  input.query_tokens = c.query_tokens;
  input.key_tokens = c.key_tokens;
  input.heads = c.heads;
  input.key_heads = c.key_heads;
  input.head_dim = c.head_dim;
  input.scale = setup.problem.scale;
  input.causal = c.mask.causal;
  input.window = c.mask.window;
  input.key_positions = positions_of(
      c.mask.key_runs.empty() ? std::vector<TokenRun>{{0, c.key_tokens}} : c.mask.key_runs);
  std::int64_t end = 0;
  for (const std::int64_t position : input.key_positions) end = std::max(end, position + 1);
  input.query_positions = positions_of(
      c.mask.query_runs.empty() ? std::vector<TokenRun>{{end - c.query_tokens, c.query_tokens}}
                                : c.mask.query_runs);
  set_features(c, input);
  if (!c.cached_rows.empty()) {
    setup.problem.cached_rows = Tensor::empty({c.batch, 2}, DType::i32, device);
    set_cached_rows(setup, c.cached_rows);
  }
  input.q = values_of(setup.problem.q);
  input.k = values_of(setup.problem.k);
  input.v = values_of(setup.problem.v);
  for (const double value : input.v) {
    setup.largest_value = std::max(setup.largest_value, std::abs(value));
  }
  return setup;
}

double out_tolerance(const AttentionCase& test_case, double largest_value, Device device) {
  largest_value /= 1.0 - static_cast<double>(test_case.dropout.probability);
  double tolerance = 1e-5 * std::max(1.0, largest_value);
  if (test_case.dtype == DType::bf16) tolerance += 0x1p-9 * largest_value;
  // GPUs multiply in f16 too, CPUs in f32.
  if (test_case.dtype == DType::f16 && !is_host(device)) tolerance += 0x1p-12 * largest_value;
  if (test_case.out_dtype == DType::bf16) tolerance += 0x1p-8 * largest_value;
  if (test_case.out_dtype == DType::f16) tolerance += 0x1p-11 * largest_value;
  return tolerance;
}

void expect_matches(const AttentionCase& test_case, const AttentionSetup& setup,
                    const reference::AttentionOutput& expected) {
  const std::vector<double> out = values_of(setup.out);
  const double tolerance = out_tolerance(test_case, setup.largest_value, setup.out.device());
  int wrong = 0;
  for (std::size_t i = 0; i < out.size() && wrong < 3; ++i) {
    if (std::abs(out[i] - expected.out[i]) <= tolerance) continue;
    ++wrong;
    ADD_FAILURE() << "out element " << i << ": " << out[i] << " should be " << expected.out[i]
                  << " within " << tolerance;
  }
  const std::vector<double> log_sum_exp = values_of(setup.log_sum_exp);
  for (std::size_t i = 0; i < log_sum_exp.size() && wrong < 6; ++i) {
    const double difference = std::abs(log_sum_exp[i] - expected.log_sum_exp[i]);
    if (log_sum_exp[i] == expected.log_sum_exp[i] || difference <= 1e-5) continue;
    ++wrong;
    ADD_FAILURE() << "log_sum_exp element " << i << ": " << log_sum_exp[i] << " should be "
                  << expected.log_sum_exp[i];
  }
}

void expect_gradients(const AttentionCase& test_case, const AttentionSetup& setup,
                      const reference::AttentionGradient& expected) {
  // Kernels that multiply in 16 bits, as those of GPUs do in f16 too, round to them by half a unit
  // in the last place: weights and slopes, and an upstream gradient that comes in f32.
  const double unit = test_case.dtype == DType::bf16                                  ? 0x1p-8
                      : test_case.dtype == DType::f16 && !is_host(setup.out.device()) ? 0x1p-11
                                                                                      : 0.0;
  const bool narrowed = setup.gradients.grad_out.dtype() == DType::f32;
  const double rounding = 1e-5 + (narrowed ? 2.0 : 1.0) * unit;
  const double storing = test_case.out_dtype == DType::bf16  ? 0x1p-8
                         : test_case.out_dtype == DType::f16 ? 0x1p-11
                                                             : 0.0;
  const auto check = [&](const char* name, const Tensor& tensor, const std::vector<double>& values,
                         const std::vector<double>& magnitudes) {
    const std::vector<double> found = values_of(tensor);
    ASSERT_EQ(found.size(), values.size());
    int wrong = 0;
    for (std::size_t i = 0; i < found.size() && wrong < 3; ++i) {
      const double tolerance = 1e-6 + rounding * magnitudes[i] + storing * std::abs(values[i]);
      if (std::abs(found[i] - values[i]) <= tolerance) continue;
      ++wrong;
      ADD_FAILURE() << name << " element " << i << ": " << found[i] << " should be " << values[i]
                    << " within " << tolerance;
    }
  };
  check("dq", setup.gradients.dq, expected.dq, expected.dq_magnitude);
  check("dk", setup.gradients.dk, expected.dk, expected.dk_magnitude);
  check("dv", setup.gradients.dv, expected.dv, expected.dv_magnitude);
}

void set_statistics(const AttentionSetup& setup, const reference::AttentionOutput& output,
                    const reference::AttentionGradient& gradient) {
  set_values(setup.gradients.log_sum_exp, output.log_sum_exp);
  set_values(setup.gradients.delta, gradient.delta);
}

namespace {

/// Calls `check(kernel, fresh setup)` for the kernels of a device that serve the case.
template <typename Kernel>
void for_serving_kernels(std::span<const std::unique_ptr<Kernel>> kernels,
                         const AttentionCase& test_case, Device device, const auto& check) {
  std::set<AttentionMethod> methods;
  for (const auto& kernel : kernels) {
    if (kernel->device() != device.kind) continue;
    const AttentionSetup setup = make_setup(test_case, device);
    if (!kernel->unsupported_reason(setup.problem).empty()) continue;
    SCOPED_TRACE(fmt::format("{} on {}", name_of(kernel->method()), name_of(device.kind)));
    methods.insert(kernel->method());
    check(*kernel, setup);
  }
  const bool blocks = test_case.mask.blocks != nullptr;
  EXPECT_TRUE(methods.contains(AttentionMethod::standard));
  EXPECT_TRUE(methods.contains(AttentionMethod::memory_efficient));
  EXPECT_TRUE(blocks || methods.contains(AttentionMethod::flash));
  EXPECT_EQ(methods.contains(AttentionMethod::block_sparse), blocks);
  EXPECT_TRUE(test_case.mask.window == 0 || blocks || methods.contains(AttentionMethod::window));
}

}  // namespace

void check_on_all_kernels(const AttentionCase& test_case) {
  SCOPED_TRACE(test_case.to_string());
  const AttentionSetup any = make_setup(test_case, {DeviceKind::serial, 0});
  const reference::AttentionOutput output = reference::attention(any.reference);
  const reference::AttentionGradient gradient =
      reference::attention_gradient(any.reference, any.grad_out);
  for (const auto& backend : registered_backends()) {
    const Device device = backend->device();
    for_serving_kernels(attention_forward_kernels(), test_case, device,
                        [&](const AttentionForwardKernel& kernel, const AttentionSetup& setup) {
                          kernel.forward(setup.problem, setup.out, setup.log_sum_exp);
                          expect_matches(test_case, setup, output);
                        });
    for_serving_kernels(attention_backward_kernels(), test_case, device,
                        [&](const AttentionBackwardKernel& kernel, const AttentionSetup& setup) {
                          set_statistics(setup, output, gradient);
                          kernel.backward(setup.problem, setup.gradients);
                          expect_gradients(test_case, setup, gradient);
                        });
  }
}

}  // namespace portolan::testing_support
