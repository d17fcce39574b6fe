// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/backend.hpp"
#include "core/tensor.hpp"
#include "tests/reference/ops_reference.hpp"

/// Every operation of a Backend once: how to make inputs, run it, and know what must come out. Unit
/// tests run the list on each device at odd sizes, the benchmark at large ones.
namespace portolan::testing_support {

using reference::Values;

/// A matrix on a device whose rows may be padded. The padding holds a value that must survive.
struct TestMatrix {
  Tensor whole;  ///< [rows, columns + padding], dense
  Tensor view;   ///< [rows, columns]

  /// Row-major, without the padding.
  [[nodiscard]] Values values() const;
  [[nodiscard]] bool padding_is_intact() const;
};

/// What one of an operation's results should be.
struct Expectation {
  Values values;
  Values tolerance;  ///< largest |difference|, element by element
};

/// Inputs made for one size, dtype and device.
struct OpInstance {
  std::function<void()> run;
  /// What run() writes.
  std::vector<TestMatrix> results;
  /// For each result. To be called after run(); computes the reference from the inputs. Only for
  /// the sizes of tests: large instances keep no copy of what they overwrite.
  std::function<std::vector<Expectation>()> expected;
  double bytes = 0.0;  ///< that have to be read and written, each once
  double flops = 0.0;  ///< 0 where bytes are the limit
};

struct OpSize {
  std::int64_t rows = 1;
  std::int64_t columns = 1;
  std::int64_t extent = 1;  ///< heads of a rotary embedding, outputs of a product
  bool strided = false;     ///< pads the rows of every matrix
};

struct OpCase {
  std::string name;
  std::vector<DType> dtypes;
  std::vector<OpSize> sizes;        ///< for tests
  std::vector<OpSize> large_sizes;  ///< for benchmarks
  std::function<OpInstance(const OpSize& size, DType dtype, Device device)> make;
};

[[nodiscard]] const std::vector<OpCase>& op_list();

/// The cases of one subject, which op_list() joins.
[[nodiscard]] std::vector<OpCase> elementwise_cases();
[[nodiscard]] std::vector<OpCase> transformer_cases();
[[nodiscard]] std::vector<OpCase> gradient_cases();
[[nodiscard]] std::vector<OpCase> training_cases();
[[nodiscard]] std::vector<OpCase> matmul_cases();
[[nodiscard]] std::vector<OpCase> quantized_cases();

/// Numbers that depend on the seed alone.
class Generator {
 public:
  explicit Generator(std::uint64_t seed) : state_(seed) {}
  [[nodiscard]] std::uint64_t word();
  /// Uniform on [-1, 1).
  [[nodiscard]] double symmetric();

 private:
  std::uint64_t state_;
};

/// Seed of a case's inputs.
[[nodiscard]] std::uint64_t seed_of(std::string_view name, const OpSize& size);

/// Uniform on [-spread, spread), rounded to the dtype.
[[nodiscard]] TestMatrix random_matrix(Generator& generator, std::int64_t rows,
                                       std::int64_t columns, DType dtype, Device device,
                                       bool strided, double spread = 1.0);
/// Of any dtype the engine computes in, every element `value`.
[[nodiscard]] TestMatrix constant_matrix(double value, std::int64_t rows, std::int64_t columns,
                                         DType dtype, Device device, bool strided);
/// Row-major values, rounded to the dtype.
[[nodiscard]] TestMatrix matrix_of(const Values& values, std::int64_t rows, std::int64_t columns,
                                   DType dtype, Device device);
[[nodiscard]] Tensor index_tensor(const std::vector<std::int32_t>& values, Device device);
/// Of any shape and strides, in row-major order.
[[nodiscard]] Values values_of(const Tensor& tensor);
/// What an operation is about to overwrite; empty for the sizes of benchmarks.
[[nodiscard]] Values snapshot(const TestMatrix& matrix);
/// A single dense row as a vector.
[[nodiscard]] Tensor vector_of(const TestMatrix& row);
/// Bytes of the elements in view.
[[nodiscard]] double bytes_of(const TestMatrix& matrix);

/// Half a unit in the last place relative to the value: 2^-24 for f32, 2^-8 for bf16, 2^-11 for
/// f16.
[[nodiscard]] double unit_roundoff(DType dtype);

/// What rounding explains: `roundings` roundings in f32 of quantities as large as `magnitudes`,
/// then one to the dtype (whose smallest steps are absolute).
[[nodiscard]] Values tolerance_of(const Values& values, const Values& magnitudes, double roundings,
                                  DType dtype);
[[nodiscard]] Values magnitudes_of(const Values& values);

/// What a product of `size` overwrites, or adds to if it accumulates: rows by extent.
[[nodiscard]] TestMatrix product_result(Generator& generator, const OpSize& size, DType dtype,
                                        Device device, bool accumulate);
/// x, rows by columns, and the result of its product with a weight of extent outputs.
struct LinearOperands {
  TestMatrix x;
  TestMatrix out;
};
[[nodiscard]] LinearOperands linear_operands(Generator& generator, const OpSize& size, DType dtype,
                                             DType out_dtype, Device device, bool accumulate);
[[nodiscard]] double product_flops(const OpSize& size);

/// Of a product whose elements are sums of `terms` terms of random sign, in `dtype`.
[[nodiscard]] Expectation product_expectation(const reference::Sums& expected, std::int64_t terms,
                                              DType dtype);

inline const std::vector<DType>& computed_dtypes() {
  static const std::vector<DType> dtypes = {DType::f32, DType::bf16, DType::f16};
  return dtypes;
}

}  // namespace portolan::testing_support
