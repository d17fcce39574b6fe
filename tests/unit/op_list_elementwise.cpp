// SPDX-License-Identifier: Apache-2.0
#include <string>
#include <utility>

#include "core/ops.hpp"
#include "tests/unit/op_list.hpp"

namespace portolan::testing_support {
namespace {

/// One row, odd widths, widths that are not a multiple of any vector, several blocks of work.
std::vector<OpSize> matrix_sizes() {
  std::vector<OpSize> sizes;
  for (const bool strided : {false, true}) {
    sizes.push_back({1, 1, 1, strided});
    sizes.push_back({1, 33, 1, strided});
    sizes.push_back({3, 64, 1, strided});
    sizes.push_back({7, 77, 1, strided});
    sizes.push_back({5, 1029, 1, strided});
    sizes.push_back({130, 517, 1, strided});
  }
  return sizes;
}

const std::vector<OpSize> kLargeMatrices = {{256, 4096}, {1024, 4096}, {2048, 11008}};

OpInstance make_fill(const OpSize& size, DType dtype, Device device) {
  const TestMatrix out = constant_matrix(0.0, size.rows, size.columns, dtype, device, size.strided);
  OpInstance instance;
  instance.results = {out};
  instance.run = [out] { ops::fill(out.view, -2.5F); };
  instance.expected = [out]() -> std::vector<Expectation> {
    const auto elements = static_cast<std::size_t>(out.view.elements());
    return {{Values(elements, -2.5), Values(elements, 0.0)}};
  };
  instance.bytes = bytes_of(out);
  return instance;
}

/// Widening and equal dtypes are exact; narrowing rounds once.
OpInstance make_copy(const OpSize& size, DType from, DType to, Device device) {
  Generator generator(seed_of("copy", size));
  const TestMatrix source =
      random_matrix(generator, size.rows, size.columns, from, device, size.strided, 3.0);
  const TestMatrix out = constant_matrix(0.0, size.rows, size.columns, to, device, size.strided);
  OpInstance instance;
  instance.results = {out};
  instance.run = [=] { ops::copy(source.view, out.view); };
  instance.expected = [=]() -> std::vector<Expectation> {
    const Values expected = source.values();
    const bool exact = from == to || to == DType::f32;
    Values tolerance = exact ? Values(expected.size(), 0.0)
                             : tolerance_of(expected, Values(expected.size(), 0.0), 0.0, to);
    return {{expected, std::move(tolerance)}};
  };
  instance.bytes = bytes_of(source) + bytes_of(out);
  return instance;
}

/// Column r of the result is column 3 r of the source: no dimension of a copied piece is dense.
OpInstance make_column_copy(const OpSize& size, DType dtype, Device device) {
  Generator generator(seed_of("column copy", size));
  const TestMatrix source =
      random_matrix(generator, size.rows, size.columns * 3, dtype, device, size.strided);
  const TestMatrix out = constant_matrix(0.0, size.rows, size.columns, dtype, device, size.strided);
  OpInstance instance;
  instance.results = {out};
  instance.run = [=] {
    for (std::int64_t column = 0; column < size.columns; ++column) {
      ops::copy(source.view.slice(1, 3 * column, 3 * column + 1),
                out.view.slice(1, column, column + 1));
    }
  };
  instance.expected = [=]() -> std::vector<Expectation> {
    const Values all = source.values();
    Values expected(static_cast<std::size_t>(size.rows * size.columns));
    for (std::size_t i = 0; i < expected.size(); ++i) expected[i] = all[3 * i];
    return {{expected, Values(expected.size(), 0.0)}};
  };
  instance.bytes = 2.0 * bytes_of(out);
  return instance;
}

constexpr float kMean = 0.25F;
constexpr float kScale = 0.1F;
constexpr RandomKey kKey{0x0123456789ABCDEFULL, 0xFEDCBA9876543210ULL};

/// Random numbers are drawn for a block of a wider matrix whose rows start anywhere within the
/// groups of four that one call of the generator makes, or for whole rows.
MatrixBlock random_block(const OpSize& size, bool whole_rows) {
  if (whole_rows) return {.columns = size.columns};
  return {.row_begin = 3, .column_begin = 6, .columns = size.columns + 11};
}

/// The random word of each element of the block, row-major.
std::vector<std::uint32_t> random_words_of(const OpSize& size, const MatrixBlock& block) {
  std::vector<std::uint32_t> result;
  for (std::int64_t row = 0; row < size.rows; ++row) {
    for (std::int64_t column = 0; column < size.columns; ++column) {
      const auto index = static_cast<std::uint64_t>((block.row_begin + row) * block.columns +
                                                    block.column_begin + column);
      const auto half = [](std::uint64_t value, int shift) {
        return static_cast<std::uint32_t>(value >> shift);
      };
      const auto words = reference::philox(
          {half(index / 4, 0), half(index / 4, 32), half(kKey.stream, 0), half(kKey.stream, 32)},
          {half(kKey.seed, 0), half(kKey.seed, 32)});
      result.push_back(words[index % 4]);
    }
  }
  return result;
}

/// In f32 the result is known to the bit.
OpInstance make_random(const OpSize& size, bool whole_rows, DType dtype, Device device) {
  const MatrixBlock block = random_block(size, whole_rows);
  const TestMatrix out = constant_matrix(0.0, size.rows, size.columns, dtype, device, size.strided);
  OpInstance instance;
  instance.results = {out};
  instance.run = [=] { ops::random_uniform(out.view, kKey, block, kMean, kScale); };
  instance.expected = [=]() -> std::vector<Expectation> {
    Values expected;
    for (const std::uint32_t word : random_words_of(size, block)) {
      const double bits = word >> 8;
      const auto u = static_cast<float>(bits * 0x1p-23 - 1.0);
      const float scaled = kScale * u;
      expected.push_back(kMean + scaled);
    }
    Values tolerance = dtype == DType::f32
                           ? Values(expected.size(), 0.0)
                           : tolerance_of(expected, Values(expected.size(), 0.0), 0.0, dtype);
    return {{std::move(expected), std::move(tolerance)}};
  };
  instance.bytes = bytes_of(out);
  return instance;
}

OpInstance make_dropout(const OpSize& size, bool whole_rows, DType dtype, Device device) {
  constexpr float kProbability = 0.3F;
  Generator generator(seed_of("dropout", size));
  const MatrixBlock block = random_block(size, whole_rows);
  const TestMatrix x =
      random_matrix(generator, size.rows, size.columns, dtype, device, size.strided);
  const Values initial = snapshot(x);
  OpInstance instance;
  instance.results = {x};
  instance.run = [=] { ops::dropout(x.view, kProbability, kKey, block); };
  instance.expected = [=]() -> std::vector<Expectation> {
    const std::vector<std::uint32_t> words = random_words_of(size, block);
    Values expected(initial.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const bool dropped = static_cast<double>(words[i]) < kProbability * 0x1p32;
      expected[i] = dropped ? 0.0 : initial[i] / (1.0 - kProbability);
    }
    return {{expected, tolerance_of(expected, magnitudes_of(expected), 3.0, dtype)}};
  };
  instance.bytes = 2.0 * bytes_of(x);
  return instance;
}

/// `inputs` tensors into `outs`, the first input being the first out: in place.
OpInstance make_sum(const OpSize& size, int inputs, int outs, DType dtype, Device device) {
  Generator generator(seed_of("sum", size));
  std::vector<TestMatrix> terms;
  std::vector<Tensor> term_views;
  std::vector<Values> initial;
  for (int i = 0; i < inputs; ++i) {
    terms.push_back(random_matrix(generator, size.rows, size.columns, dtype, device, false));
    term_views.push_back(terms.back().view);
  }
  if (size.rows * size.columns < 1000000) {
    for (const TestMatrix& term : terms) initial.push_back(term.values());
  }
  std::vector<TestMatrix> results = {terms[0]};
  std::vector<Tensor> result_views = {terms[0].view};
  for (int i = 1; i < outs; ++i) {
    results.push_back(constant_matrix(0.0, size.rows, size.columns, dtype, device, false));
    result_views.push_back(results.back().view);
  }
  OpInstance instance;
  instance.results = results;
  instance.run = [=] { ops::sum(term_views, result_views); };
  instance.expected = [=] {
    const reference::Sums expected = reference::sum(initial);
    // One rounding for each term added.
    const Expectation each{expected.values,
                           tolerance_of(expected.values, expected.magnitudes, inputs - 1, dtype)};
    return std::vector<Expectation>(static_cast<std::size_t>(outs), each);
  };
  instance.bytes = bytes_of(terms[0]) * (inputs + outs);
  return instance;
}

OpInstance make_add(const OpSize& size, DType from, DType to, Device device) {
  Generator generator(seed_of("add", size));
  const TestMatrix x =
      random_matrix(generator, size.rows, size.columns, from, device, size.strided);
  const TestMatrix y = random_matrix(generator, size.rows, size.columns, to, device, size.strided);
  const Values initial = snapshot(y);
  OpInstance instance;
  instance.results = {y};
  instance.run = [=] { ops::add(x.view, y.view); };
  instance.expected = [=]() -> std::vector<Expectation> {
    const reference::Sums expected = reference::sum({initial, x.values()});
    return {{expected.values, tolerance_of(expected.values, expected.magnitudes, 1.0, to)}};
  };
  instance.bytes = bytes_of(x) + 2.0 * bytes_of(y);
  return instance;
}

OpInstance make_scale(const OpSize& size, DType dtype, Device device) {
  constexpr float kFactor = -0.3F;
  Generator generator(seed_of("scale", size));
  const TestMatrix x =
      random_matrix(generator, size.rows, size.columns, dtype, device, size.strided);
  const Values initial = snapshot(x);
  OpInstance instance;
  instance.results = {x};
  instance.run = [=] { ops::scale(x.view, kFactor); };
  instance.expected = [=]() -> std::vector<Expectation> {
    Values expected = initial;
    for (double& value : expected) value *= kFactor;
    return {{expected, tolerance_of(expected, magnitudes_of(expected), 1.0, dtype)}};
  };
  instance.bytes = 2.0 * bytes_of(x);
  return instance;
}

OpInstance make_swiglu(const OpSize& size, DType dtype, Device device) {
  Generator generator(seed_of("swiglu", size));
  // Wide enough that exp(-gate) reaches both ends of what f32 resolves beside 1.
  const TestMatrix gate =
      random_matrix(generator, size.rows, size.columns, dtype, device, size.strided, 30.0);
  const TestMatrix up =
      random_matrix(generator, size.rows, size.columns, dtype, device, size.strided, 2.0);
  const TestMatrix out = constant_matrix(0.0, size.rows, size.columns, dtype, device, size.strided);
  OpInstance instance;
  instance.results = {out};
  instance.run = [=] { ops::swiglu(gate.view, up.view, out.view); };
  instance.expected = [=]() -> std::vector<Expectation> {
    const Values expected = reference::swiglu(gate.values(), up.values());
    // The exponential within 2 units (4 roundings), then a sum, a division and a product; for bf16
    // both of the former may be as coarse as 2^-13.7 and 2^-14, a fifteenth of bf16's own error.
    const double roundings = dtype == DType::bf16 ? 2300.0 : 7.0;
    return {{expected, tolerance_of(expected, magnitudes_of(expected), roundings, dtype)}};
  };
  instance.bytes = 3.0 * bytes_of(out);
  return instance;
}

}  // namespace

std::vector<OpCase> elementwise_cases() {
  std::vector<OpCase> cases;
  cases.push_back({"fill", computed_dtypes(), matrix_sizes(), kLargeMatrices, make_fill});
  for (const DType to : computed_dtypes()) {
    cases.push_back({"copy_to_" + std::string(name_of(to)), computed_dtypes(), matrix_sizes(),
                     kLargeMatrices, [to](const OpSize& size, DType from, Device device) {
                       return make_copy(size, from, to, device);
                     }});
  }
  cases.push_back({"copy_columns",
                   computed_dtypes(),
                   {{1, 1}, {7, 5}, {517, 3}, {7, 5, 1, true}, {517, 3, 1, true}},
                   {},
                   make_column_copy});
  for (const DType from : computed_dtypes()) {
    cases.push_back({"add_" + std::string(name_of(from)),
                     computed_dtypes(),
                     matrix_sizes(),
                     {{1024, 4096}},
                     [from](const OpSize& size, DType to, Device device) {
                       return make_add(size, from, to, device);
                     }});
  }
  cases.push_back({"scale", computed_dtypes(), matrix_sizes(), {{1024, 4096}}, make_scale});
  for (const bool whole_rows : {false, true}) {
    cases.push_back({whole_rows ? "dropout" : "dropout_block", computed_dtypes(), matrix_sizes(),
                     whole_rows ? std::vector<OpSize>{{1024, 4096}} : std::vector<OpSize>{},
                     [whole_rows](const OpSize& size, DType dtype, Device device) {
                       return make_dropout(size, whole_rows, dtype, device);
                     }});
    cases.push_back({whole_rows ? "random_uniform" : "random_uniform_block", computed_dtypes(),
                     matrix_sizes(), whole_rows ? kLargeMatrices : std::vector<OpSize>{},
                     [whole_rows](const OpSize& size, DType dtype, Device device) {
                       return make_random(size, whole_rows, dtype, device);
                     }});
  }
  // Beyond 16 inputs the portable sum takes several launches.
  for (const auto& [inputs, outs] :
       {std::pair(1, 2), std::pair(2, 1), std::pair(2, 2), std::pair(5, 3), std::pair(37, 18)}) {
    const int input_count = inputs;
    const int out_count = outs;
    cases.push_back(
        {"sum_" + std::to_string(inputs) + "_to_" + std::to_string(outs),
         computed_dtypes(),
         {{1, 1}, {1, 33}, {7, 77}, {130, 517}},
         inputs == 2 ? std::vector<OpSize>{{1024, 4096}, {2048, 4096}} : std::vector<OpSize>{},
         [=](const OpSize& size, DType dtype, Device device) {
           return make_sum(size, input_count, out_count, dtype, device);
         }});
  }
  cases.push_back({"swiglu",
                   computed_dtypes(),
                   matrix_sizes(),
                   {{256, 11008}, {1024, 11008}, {2048, 11008}},
                   make_swiglu});
  return cases;
}

}  // namespace portolan::testing_support
