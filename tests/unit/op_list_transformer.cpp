// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <limits>
#include <utility>

#include "core/ops.hpp"
#include "tests/unit/op_list.hpp"

namespace portolan::testing_support {
namespace {

OpInstance make_embedding(const OpSize& size, DType dtype, Device device) {
  Generator generator(seed_of("embedding", size));
  constexpr std::int64_t kTableRows = 50;
  constexpr std::int64_t kFirstRow = 20;
  const TestMatrix table =
      random_matrix(generator, kTableRows, size.columns, dtype, device, size.strided);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(size.rows));
  // Some before and some after the rows that the table holds.
  for (std::int32_t& id : ids) id = static_cast<std::int32_t>(generator.word() % 90);
  ids[0] = kFirstRow;
  const Tensor id_tensor = index_tensor(ids, device);
  const TestMatrix out = constant_matrix(1.0, size.rows, size.columns, dtype, device, size.strided);
  OpInstance instance;
  instance.results = {out};
  instance.run = [=] { ops::embedding(id_tensor, table.view, kFirstRow, out.view); };
  instance.expected = [=]() -> std::vector<Expectation> {
    const Values expected = reference::embedding(ids, table.values(), kTableRows, kFirstRow);
    return {{expected, Values(expected.size(), 0.0)}};
  };
  instance.bytes = 2.0 * bytes_of(out);
  return instance;
}

constexpr float kEpsilon = 1e-5F;

/// The sum of squares has only positive terms: with at most 256 additions in a row its relative
/// error stays below some ten roundings, halved by the root; then a division and two products.
constexpr double kNormRoundings = 16.0;

struct NormInputs {
  TestMatrix x;
  TestMatrix weight;
  TestMatrix out;
};

NormInputs make_norm_inputs(const OpSize& size, DType dtype, DType weight_dtype, Device device) {
  Generator generator(seed_of("norm", size));
  NormInputs inputs;
  inputs.x = random_matrix(generator, size.rows, size.columns, dtype, device, size.strided, 4.0);
  inputs.weight = random_matrix(generator, 1, size.columns, weight_dtype, device, false, 2.0);
  inputs.out = constant_matrix(0.0, size.rows, size.columns, dtype, device, size.strided);
  return inputs;
}

OpInstance make_rms_norm(const OpSize& size, DType dtype, DType weight_dtype, Device device) {
  const NormInputs inputs = make_norm_inputs(size, dtype, weight_dtype, device);
  OpInstance instance;
  instance.results = {inputs.out};
  instance.run = [=] {
    ops::rms_norm(inputs.x.view, vector_of(inputs.weight), kEpsilon, inputs.out.view);
  };
  instance.expected = [=]() -> std::vector<Expectation> {
    const Values expected =
        reference::rms_norm(inputs.x.values(), inputs.weight.values(), kEpsilon, size.rows);
    return {{expected, tolerance_of(expected, magnitudes_of(expected), kNormRoundings, dtype)}};
  };
  instance.bytes = 2.0 * bytes_of(inputs.out);
  return instance;
}

OpInstance make_add_rms_norm(const OpSize& size, DType dtype, Device device) {
  const NormInputs inputs = make_norm_inputs(size, dtype, dtype, device);
  Generator generator(seed_of("residual", size));
  const TestMatrix residual =
      random_matrix(generator, size.rows, size.columns, dtype, device, size.strided, 4.0);
  const Values initial = snapshot(residual);
  OpInstance instance;
  instance.results = {residual, inputs.out};
  instance.run = [=] {
    ops::add_rms_norm(inputs.x.view, residual.view, vector_of(inputs.weight), kEpsilon,
                      inputs.out.view);
  };
  instance.expected = [=]() -> std::vector<Expectation> {
    const reference::Sums sums = reference::sum({initial, inputs.x.values()});
    // The norm is that of the residual as it was rounded and stored.
    const Values expected =
        reference::rms_norm(residual.values(), inputs.weight.values(), kEpsilon, size.rows);
    return {{sums.values, tolerance_of(sums.values, sums.magnitudes, 1.0, dtype)},
            {expected, tolerance_of(expected, magnitudes_of(expected), kNormRoundings, dtype)}};
  };
  instance.bytes = 4.0 * bytes_of(inputs.out);
  return instance;
}

OpInstance make_rotary(const OpSize& size, bool inverse, DType dtype, Device device) {
  Generator generator(seed_of("rotary", size));
  const std::int64_t heads = size.extent;
  const std::int64_t head_dim = size.columns;
  constexpr std::int64_t kLength = 64;
  const TestMatrix x =
      random_matrix(generator, size.rows, heads * head_dim, dtype, device, size.strided);
  const Tensor heads_of_x = x.view.split_last(heads);
  const TestMatrix cosines =
      random_matrix(generator, kLength, head_dim / 2, DType::f32, device, false);
  const TestMatrix sines =
      random_matrix(generator, kLength, head_dim / 2, DType::f32, device, false);
  std::vector<std::int32_t> positions(static_cast<std::size_t>(size.rows));
  for (std::int32_t& position : positions) {
    position = static_cast<std::int32_t>(generator.word() % kLength);
  }
  const Tensor position_tensor = index_tensor(positions, device);
  const Values initial = snapshot(x);
  OpInstance instance;
  instance.results = {x};
  instance.run = [=] {
    ops::rotary_embedding(heads_of_x, position_tensor, cosines.view, sines.view, inverse);
  };
  instance.expected = [=]() -> std::vector<Expectation> {
    Values turn = sines.values();
    for (double& sine : turn) sine = inverse ? -sine : sine;
    const reference::Sums expected =
        reference::rotary_embedding(initial, positions, cosines.values(), turn, heads, head_dim);
    // Two products and a sum.
    return {{expected.values, tolerance_of(expected.values, expected.magnitudes, 2.0, dtype)}};
  };
  instance.bytes = 2.0 * bytes_of(x);
  return instance;
}

/// rows tokens, extent heads, columns head_dim; batch 2. Rows that saw no key on one side or on
/// both are among them.
OpInstance make_merge(const OpSize& size, DType /*dtype*/, Device device) {
  constexpr std::int64_t kBatch = 2;
  const std::int64_t tokens = size.rows;
  const std::int64_t heads = size.extent;
  const std::int64_t head_dim = size.columns;
  Generator generator(seed_of("merge", size));
  const auto partial = [&](std::size_t empty_when) {
    const std::int64_t rows = kBatch * tokens * heads;
    const TestMatrix out = random_matrix(generator, rows, head_dim, DType::f32, device, false);
    Values sums = random_matrix(generator, 1, rows, DType::f32, device, false, 20.0).values();
    for (std::size_t i = 0; i < sums.size(); ++i) {
      if ((i & empty_when) == empty_when) sums[i] = -std::numeric_limits<double>::infinity();
    }
    return std::pair(out, matrix_of(sums, 1, rows, DType::f32, device));
  };
  const auto [out, log_sum_exp] = partial(1 + 2);
  const auto [block, block_log_sum_exp] = partial(2 + 4);
  const Values initial = out.values();
  const Values initial_log_sum_exp = log_sum_exp.values();
  OpInstance instance;
  instance.results = {out, log_sum_exp};
  instance.run = [=, &backend = backend_of(device)] {
    const Shape shape{kBatch, tokens, heads, head_dim};
    const Shape sums{kBatch, heads, tokens};
    backend.merge_attention(block.whole.view(shape), block_log_sum_exp.whole.view(sums),
                            out.whole.view(shape), log_sum_exp.whole.view(sums));
  };
  instance.expected = [=]() -> std::vector<Expectation> {
    const reference::PartialAttention expected = reference::merge_attention(
        {initial, initial_log_sum_exp}, {block.values(), block_log_sum_exp.values()}, kBatch,
        tokens, heads, head_dim);
    // Log-sum-exps of up to 20 lose 20 units in the last place when they are subtracted, and the
    // exponential turns that into as many relative ones; inputs are at most 1.
    Values out_magnitudes(expected.out.size(), 1.0);
    Values sum_magnitudes(expected.log_sum_exp.size(), 20.0);
    return {{expected.out, tolerance_of(expected.out, out_magnitudes, 48.0, DType::f32)},
            {expected.log_sum_exp,
             tolerance_of(expected.log_sum_exp, sum_magnitudes, 8.0, DType::f32)}};
  };
  instance.bytes = 3.0 * bytes_of(out);
  return instance;
}

std::vector<OpSize> norm_sizes() {
  std::vector<OpSize> sizes;
  for (const bool strided : {false, true}) {
    for (const OpSize& size : {OpSize{1, 1}, OpSize{1, 77}, OpSize{3, 64}, OpSize{5, 1029},
                               OpSize{67, 250}, OpSize{2, 4096}}) {
      sizes.push_back({size.rows, size.columns, 1, strided});
    }
  }
  return sizes;
}

}  // namespace

std::vector<OpCase> transformer_cases() {
  const std::vector<OpSize> large = {{1, 4096}, {256, 4096}, {1024, 4096}, {2048, 4096}};
  std::vector<OpCase> cases;
  cases.push_back({"embedding", computed_dtypes(), norm_sizes(), large, make_embedding});
  cases.push_back({"rms_norm", computed_dtypes(), norm_sizes(), large,
                   [](const OpSize& size, DType dtype, Device device) {
                     return make_rms_norm(size, dtype, dtype, device);
                   }});
  cases.push_back({"rms_norm_f32_weight",
                   {DType::bf16, DType::f16},
                   norm_sizes(),
                   {},
                   [](const OpSize& size, DType dtype, Device device) {
                     return make_rms_norm(size, dtype, DType::f32, device);
                   }});
  cases.push_back({"add_rms_norm", computed_dtypes(), norm_sizes(), large, make_add_rms_norm});
  std::vector<OpSize> rotary_sizes;
  for (const bool strided : {false, true}) {
    rotary_sizes.push_back({1, 2, 1, strided});
    rotary_sizes.push_back({3, 22, 5, strided});
    rotary_sizes.push_back({70, 64, 3, strided});
    rotary_sizes.push_back({9, 128, 4, strided});
  }
  for (const bool inverse : {false, true}) {
    cases.push_back(
        {inverse ? "rotary_embedding_inverse" : "rotary_embedding", computed_dtypes(), rotary_sizes,
         inverse ? std::vector<OpSize>{}
                 : std::vector<OpSize>{{256, 128, 32}, {1024, 128, 32}, {2048, 128, 32}},
         [inverse](const OpSize& size, DType dtype, Device device) {
           return make_rotary(size, inverse, dtype, device);
         }});
  }
  cases.push_back({"merge_attention",
                   {DType::f32},
                   {{1, 1, 1}, {3, 21, 5}, {17, 64, 4}, {5, 130, 33}},
                   {{512, 128, 32}},
                   make_merge});
  return cases;
}

}  // namespace portolan::testing_support
