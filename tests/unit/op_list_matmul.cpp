// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <string>
#include <utility>

#include "core/ops.hpp"
#include "tests/reference/training_reference.hpp"
#include "tests/unit/op_list.hpp"

namespace portolan::testing_support {
namespace {

struct ProductKind {
  bool packed = true;
  bool accumulate = false;
  bool f32_out = false;
  bool bias = false;  ///< of the dtype of x, or f32 where that of the result is
};

/// rows by columns inputs and extent outputs.
OpInstance make_matmul(const OpSize& size, const ProductKind& kind, DType dtype, Device device) {
  const std::int64_t in_features = size.columns;
  const std::int64_t out_features = size.extent;
  const bool large = in_features * out_features > 1000000;
  Generator generator(seed_of("matmul", size));
  const DType out_dtype = kind.f32_out ? DType::f32 : dtype;
  const LinearOperands operands =
      linear_operands(generator, size, dtype, out_dtype, device, kind.accumulate);
  const TestMatrix& x = operands.x;
  const TestMatrix& out = operands.out;
  Weight weight;
  TestMatrix plain;
  if (kind.packed) {
    weight = backend_of(device).allocate_packed(out_features, in_features, dtype);
    // In pieces, the last one first: panels may be filled in any order.
    std::int64_t end = out_features;
    std::vector<Values> pieces;
    while (end > 0) {
      const std::int64_t begin = (end - 1) / (2 * kPanelWidth) * 2 * kPanelWidth;
      const TestMatrix piece =
          random_matrix(generator, end - begin, in_features, dtype, device, size.strided);
      ops::pack_rows(piece.view, begin, weight);
      if (!large) pieces.insert(pieces.begin(), piece.values());
      end = begin;
    }
    if (!large) {
      // Kept as a matrix for the reference.
      Values all;
      for (const Values& piece : pieces) all.insert(all.end(), piece.begin(), piece.end());
      plain = matrix_of(all, out_features, in_features, DType::f32, device);
    }
  } else {
    plain = random_matrix(generator, out_features, in_features, dtype, device, size.strided);
    weight = Weight::plain(plain.view);
  }
  const TestMatrix bias = random_matrix(generator, 1, out_features, out_dtype, device, false, 8.0);
  Values initial = kind.accumulate ? snapshot(out) : Values();
  if (kind.bias && !large) {
    const Values row = bias.values();
    for (std::int64_t i = 0; i < size.rows; ++i)
      initial.insert(initial.end(), row.begin(), row.end());
  }
  OpInstance instance;
  instance.results = {out};
  instance.run = [=] {
    if (kind.bias) {
      ops::matmul_bias(x.view, weight, vector_of(bias), out.view);
    } else {
      ops::matmul(x.view, weight, out.view, kind.accumulate);
    }
  };
  instance.expected = [=]() -> std::vector<Expectation> {
    const reference::Sums expected = reference::matmul(x.values(), plain.values(), size.rows,
                                                       in_features, out_features, initial);
    Expectation result = product_expectation(expected, in_features, out_dtype);
    if (kind.bias) {
      // The product may be rounded before the bias is added.
      for (std::size_t i = 0; i < initial.size(); ++i) {
        result.tolerance[i] +=
            unit_roundoff(out_dtype) * (std::abs(expected.values[i]) + std::abs(initial[i]));
      }
    }
    return {result};
  };
  instance.bytes = bytes_of(x) + bytes_of(out) + static_cast<double>(weight.bytes());
  instance.flops = product_flops(size);
  return instance;
}

struct GeneralKind {
  bool transpose_a = false;
  bool transpose_b = false;
  bool accumulate = false;
  bool f32_out = false;
  bool f32_b = false;  ///< b in f32 whatever a is
};

/// rows by columns by extent: m, k, n.
OpInstance make_product(const OpSize& size, const GeneralKind& kind, DType dtype, Device device) {
  Generator generator(seed_of("product", size));
  const auto operand = [&](std::int64_t rows, std::int64_t columns, bool transpose, DType type) {
    if (transpose) std::swap(rows, columns);
    return random_matrix(generator, rows, columns, type, device, size.strided);
  };
  const TestMatrix a = operand(size.rows, size.columns, kind.transpose_a, dtype);
  const TestMatrix b =
      operand(size.columns, size.extent, kind.transpose_b, kind.f32_b ? DType::f32 : dtype);
  const DType out_dtype = kind.f32_out ? DType::f32 : dtype;
  const TestMatrix out = product_result(generator, size, out_dtype, device, kind.accumulate);
  const Values initial = kind.accumulate ? snapshot(out) : Values();
  OpInstance instance;
  instance.results = {out};
  instance.run = [=] {
    ops::product(a.view, kind.transpose_a, b.view, kind.transpose_b, out.view, kind.accumulate);
  };
  instance.expected = [=]() -> std::vector<Expectation> {
    const Values left =
        kind.transpose_a ? reference::transposed(a.values(), size.columns, size.rows) : a.values();
    const Values right = kind.transpose_b
                             ? b.values()
                             : reference::transposed(b.values(), size.columns, size.extent);
    return {product_expectation(
        reference::matmul(left, right, size.rows, size.columns, size.extent, initial), size.columns,
        out_dtype)};
  };
  instance.bytes = bytes_of(a) + bytes_of(b) + bytes_of(out);
  instance.flops = product_flops(size);
  return instance;
}

/// The layout as core/panels.hpp states it, padding included: rows are outputs, columns inputs.
OpInstance make_pack(const OpSize& size, DType dtype, Device device) {
  Generator generator(seed_of("pack", size));
  const TestMatrix rows =
      random_matrix(generator, size.rows, size.columns, dtype, device, size.strided);
  const Weight weight = backend_of(device).allocate_packed(size.rows, size.columns, dtype);
  ops::fill(weight.storage(), NAN);
  TestMatrix panels;
  panels.whole = panels.view = weight.storage().view({1, weight.storage().elements()});
  OpInstance instance;
  instance.results = {panels};
  instance.run = [=] { ops::pack_rows(rows.view, 0, weight); };
  instance.expected = [=]() -> std::vector<Expectation> {
    const Values values = rows.values();
    const std::int64_t pair = weight.dtype() == DType::f32 ? 1 : 2;
    const std::int64_t group = weight.dtype() == DType::f32 ? 16 : 32;
    const std::int64_t inputs = (size.columns + group - 1) / group * group;
    Values expected(static_cast<std::size_t>((size.rows + 63) / 64 * 64 * inputs), 0.0);
    for (std::int64_t row = 0; row < size.rows; ++row) {
      for (std::int64_t k = 0; k < size.columns; ++k) {
        const std::int64_t position =
            row / 64 * 64 * inputs + (k / pair * 64 + row % 64) * pair + k % pair;
        expected.at(static_cast<std::size_t>(position)) =
            values[static_cast<std::size_t>(row * size.columns + k)];
      }
    }
    Values tolerance(expected.size(), 0.0);
    return {{std::move(expected), std::move(tolerance)}};
  };
  instance.bytes = bytes_of(rows) + bytes_of(panels);
  return instance;
}

}  // namespace

TestMatrix product_result(Generator& generator, const OpSize& size, DType dtype, Device device,
                          bool accumulate) {
  return accumulate ? random_matrix(generator, size.rows, size.extent, dtype, device, size.strided)
                    : constant_matrix(NAN, size.rows, size.extent, dtype, device, size.strided);
}

LinearOperands linear_operands(Generator& generator, const OpSize& size, DType dtype,
                               DType out_dtype, Device device, bool accumulate) {
  LinearOperands operands;
  operands.x = random_matrix(generator, size.rows, size.columns, dtype, device, size.strided);
  operands.out = product_result(generator, size, out_dtype, device, accumulate);
  return operands;
}

double product_flops(const OpSize& size) {
  return 2.0 * static_cast<double>(size.rows) * static_cast<double>(size.columns) *
         static_cast<double>(size.extent);
}

Expectation product_expectation(const reference::Sums& expected, std::int64_t terms, DType dtype) {
  const auto count = static_cast<double>(terms);
  // Rounding errors of a sum of n terms of random sign grow like the root of n; four times that
  // leaves no chance outcome beyond it among the thousands of elements here.
  const double roundings = 4.0 * std::sqrt(count) + 2.0;
  Values magnitudes(expected.values.size());
  for (std::size_t i = 0; i < magnitudes.size(); ++i) {
    // Partial sums are of the size of the root of the sum of the squares of the terms.
    magnitudes[i] = std::abs(expected.values[i]) + expected.magnitudes[i] / std::sqrt(count);
  }
  return {expected.values, tolerance_of(expected.values, magnitudes, roundings, dtype)};
}

std::vector<OpCase> matmul_cases() {
  std::vector<OpSize> sizes;
  for (const bool strided : {false, true}) {
    sizes.push_back({1, 1, 1, strided});
    sizes.push_back({1, 64, 64, strided});
    sizes.push_back({7, 77, 100, strided});
    sizes.push_back({3, 515, 193, strided});
    sizes.push_back({1, 300, 333, strided});
    sizes.push_back({2, 300, 333, strided});
    sizes.push_back({65, 96, 130, strided});
    // More rows than are converted at a time.
    sizes.push_back({530, 33, 66, strided});
  }
  const std::vector<OpSize> large = {{1, 4096, 4096},    {256, 4096, 4096},  {512, 4096, 11008},
                                     {512, 11008, 4096}, {1024, 4096, 4096}, {256, 4096, 32000}};
  const auto make = [](const ProductKind& kind) {
    return [kind](const OpSize& size, DType dtype, Device device) {
      return make_matmul(size, kind, dtype, device);
    };
  };
  std::vector<OpCase> cases;
  cases.push_back({"pack_rows",
                   computed_dtypes(),
                   {{1, 1}, {64, 32}, {65, 33}, {130, 270, 1, true}, {200, 16}, {63, 515, 1, true}},
                   {{4096, 4096}, {11008, 4096}},
                   make_pack});
  cases.push_back({"matmul", computed_dtypes(), sizes, large, make({})});
  cases.push_back({"matmul_accumulate", computed_dtypes(), sizes, {}, make({.accumulate = true})});
  cases.push_back({"matmul_bias", computed_dtypes(), sizes, large, make({.bias = true})});
  cases.push_back(
      {"matmul_bias_plain", computed_dtypes(), sizes, {}, make({.packed = false, .bias = true})});
  cases.push_back({"matmul_bias_to_f32",
                   {DType::bf16, DType::f16},
                   sizes,
                   {},
                   make({.f32_out = true, .bias = true})});
  cases.push_back({"matmul_to_f32", {DType::bf16, DType::f16}, sizes, {}, make({.f32_out = true})});
  cases.push_back({"matmul_accumulate_f32",
                   {DType::bf16, DType::f16},
                   sizes,
                   {},
                   make({.accumulate = true, .f32_out = true})});
  cases.push_back({"matmul_plain", computed_dtypes(), sizes, {}, make({.packed = false})});
  cases.push_back({"matmul_plain_accumulate",
                   computed_dtypes(),
                   sizes,
                   {},
                   make({.packed = false, .accumulate = true})});
  const auto add_product = [&](const std::string& name, const GeneralKind& kind,
                               std::vector<DType> dtypes, std::vector<OpSize> timed) {
    std::vector<OpSize> all = sizes;
    all.push_back({40, 2500, 30});  // more terms than are added up at a time
    // Large enough for B to be packed first, where products are timed.
    if (!timed.empty()) all.push_back({385, 1030, 1030, true});
    cases.push_back({name, std::move(dtypes), std::move(all), std::move(timed),
                     [kind](const OpSize& size, DType dtype, Device device) {
                       return make_product(size, kind, dtype, device);
                     }});
  };
  // The gradients of a linear layer of 1024 tokens: grad_x = grad_out W, grad_w += grad_out^T x.
  const std::vector<OpSize> grad_x = {{1024, 512, 512},   {1024, 1376, 512}, {1024, 512, 1376},
                                      {1024, 8192, 512},  {1024, 512, 8192}, {1024, 4096, 11008},
                                      {1024, 11008, 4096}};
  const std::vector<OpSize> grad_w = {{512, 1024, 512},   {1376, 1024, 512}, {512, 1024, 1376},
                                      {8192, 1024, 512},  {512, 1024, 8192}, {4096, 1024, 11008},
                                      {11008, 1024, 4096}};
  add_product("product", {}, computed_dtypes(), grad_x);
  add_product("product_accumulate", {.accumulate = true}, computed_dtypes(), {});
  add_product("product_b_transposed", {.transpose_b = true}, computed_dtypes(), {});
  add_product("product_a_transposed", {.transpose_a = true}, computed_dtypes(), {});
  add_product("product_a_transposed_accumulate_f32",
              {.transpose_a = true, .accumulate = true, .f32_out = true}, computed_dtypes(),
              grad_w);
  add_product("product_both_transposed", {.transpose_a = true, .transpose_b = true},
              computed_dtypes(), {});
  add_product("product_of_two_dtypes", {.transpose_b = true, .accumulate = true, .f32_b = true},
              {DType::bf16, DType::f16}, {});
  return cases;
}

}  // namespace portolan::testing_support
