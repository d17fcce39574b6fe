// SPDX-License-Identifier: Apache-2.0
#include <string>

#include "core/ops.hpp"
#include "tests/reference/quantization_reference.hpp"
#include "tests/unit/op_list.hpp"

namespace portolan::testing_support {
namespace {

struct QuantizedKind {
  Quantization quantization = Quantization::int8;
  bool accumulate = false;
  bool f32_out = false;
};

/// rows by columns inputs and extent outputs. The result has to be as exact as if the weight were
/// what its integers stand for, and inputs of bf16 what 15 bits and a sign make of them.
OpInstance make_quantized_matmul(const OpSize& size, const QuantizedKind& kind, DType dtype,
                                 Device device) {
  const std::int64_t in_features = size.columns;
  const std::int64_t out_features = size.extent;
  Generator generator(seed_of("quantized matmul", size));
  const DType out_dtype = kind.f32_out ? DType::f32 : dtype;
  const LinearOperands operands =
      linear_operands(generator, size, dtype, out_dtype, device, kind.accumulate);
  const TestMatrix& x = operands.x;
  const TestMatrix& out = operands.out;
  const TestMatrix rows =
      random_matrix(generator, out_features, in_features, dtype, device, size.strided);
  const Weight weight = Weight::quantized(out_features, in_features, kind.quantization, device);
  // In pieces, the last one first: panels may be filled in any order.
  for (std::int64_t end = out_features; end > 0;) {
    const std::int64_t begin = (end - 1) / (2 * kPanelWidth) * 2 * kPanelWidth;
    ops::pack_rows(rows.view.slice(0, begin, end), begin, weight);
    end = begin;
  }
  const Values initial = kind.accumulate ? snapshot(out) : Values();
  OpInstance instance;
  instance.results = {out};
  instance.run = [=] { ops::matmul(x.view, weight, out.view, kind.accumulate); };
  instance.expected = [=]() -> std::vector<Expectation> {
    const reference::QuantizedMatrix matrix = reference::quantize(
        rows.values(), out_features, in_features, kind.quantization == Quantization::int4 ? 4 : 8);
    const reference::Sums expected =
        reference::matmul(x.values(), matrix.values, size.rows, in_features, out_features, initial);
    Expectation expectation = product_expectation(expected, in_features, out_dtype);
    if (dtype == DType::bf16) {
      const reference::Sums allowed =
          reference::matmul(reference::integer_rounding(x.values(), in_features), matrix.values,
                            size.rows, in_features, out_features, {});
      for (std::size_t i = 0; i < allowed.magnitudes.size(); ++i) {
        expectation.tolerance[i] += allowed.magnitudes[i];
      }
    }
    return {expectation};
  };
  instance.bytes = bytes_of(x) + bytes_of(out) + static_cast<double>(weight.bytes());
  instance.flops = product_flops(size);
  return instance;
}

}  // namespace

std::vector<OpCase> quantized_cases() {
  std::vector<OpSize> sizes;
  for (const bool strided : {false, true}) {
    sizes.push_back({1, 1, 1, strided});
    sizes.push_back({1, 64, 64, strided});
    sizes.push_back({2, 77, 100, strided});
    sizes.push_back({5, 515, 193, strided});
    sizes.push_back({12, 530, 70, strided});
    sizes.push_back({64, 100, 70, strided});
    sizes.push_back({1, 1100, 70, strided});  // more inputs than are quantized at a time
    sizes.push_back({16, 300, 333, strided});
    sizes.push_back({33, 96, 130, strided});
    sizes.push_back({128, 33, 66, strided});
    sizes.push_back({530, 40, 66, strided});   // more rows than have their sums in scratch
    sizes.push_back({17, 48, 1100, strided});  // more panels than are widened at a time
  }
  const std::vector<OpSize> large = {{1, 4096, 4096},  {1, 4096, 11008}, {4, 4096, 4096},
                                     {16, 4096, 4096}, {64, 4096, 4096}, {512, 4096, 4096}};
  std::vector<OpCase> cases;
  for (const Quantization quantization : {Quantization::int8, Quantization::int4}) {
    const auto add = [&](const std::string& suffix, bool accumulate, bool f32_out,
                         std::vector<DType> dtypes, std::vector<OpSize> timed) {
      const QuantizedKind kind{quantization, accumulate, f32_out};
      cases.push_back({"matmul_" + std::string(name_of(quantization)) + suffix, std::move(dtypes),
                       sizes, std::move(timed),
                       [kind](const OpSize& size, DType dtype, Device device) {
                         return make_quantized_matmul(size, kind, dtype, device);
                       }});
    };
    add("", false, false, computed_dtypes(), large);
    add("_accumulate", true, false, computed_dtypes(), {});
    add("_accumulate_f32", true, true, {DType::bf16, DType::f16}, {});
  }
  return cases;
}

}  // namespace portolan::testing_support
