// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/op_list.hpp"

#include <cmath>

#include "core/dtype.hpp"
#include "core/ops.hpp"
#include "core/random.hpp"

namespace portolan::testing_support {
namespace {

/// Odd, so that rows start at every possible alignment.
constexpr std::int64_t kPadding = 5;
constexpr double kPaddingValue = 77.0;

const Device kHost{DeviceKind::serial, 0};

void write(const Tensor& tensor, std::int64_t index, double value) {
  const auto number = static_cast<float>(value);
  switch (tensor.dtype()) {
    case DType::f32:
      tensor.data<float>()[index] = number;
      break;
    case DType::bf16:
      tensor.data<BFloat16>()[index] = from_float<BFloat16>(number);
      break;
    default:
      tensor.data<Float16>()[index] = from_float<Float16>(number);
  }
}

double read(const Tensor& tensor, std::int64_t index) {
  switch (tensor.dtype()) {
    case DType::f32:
      return tensor.data<float>()[index];
    case DType::bf16:
      return to_float(tensor.data<BFloat16>()[index]);
    default:
      return to_float(tensor.data<Float16>()[index]);
  }
}

/// `value(row, column)` gives the elements in view.
template <class Value>
TestMatrix make_matrix(std::int64_t rows, std::int64_t columns, DType dtype, Device device,
                       bool strided, const Value& value) {
  const std::int64_t width = columns + (strided ? kPadding : 0);
  const Tensor host = Tensor::empty({rows, width}, dtype, is_host(device) ? device : kHost);
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t column = 0; column < width; ++column) {
      write(host, row * width + column, column < columns ? value() : kPaddingValue);
    }
  }
  TestMatrix result;
  result.whole = ops::to_device(host, device);
  result.view = result.whole.slice(1, 0, columns);
  return result;
}

}  // namespace

Values values_of(const Tensor& tensor) {
  const Tensor dense = ops::to_host(tensor);
  Values result(static_cast<std::size_t>(dense.elements()));
  for (std::size_t i = 0; i < result.size(); ++i) {
    result[i] = read(dense, static_cast<std::int64_t>(i));
  }
  return result;
}

Values TestMatrix::values() const {
  const Values all = values_of(whole);
  const std::int64_t width = whole.dim(1);
  Values result;
  result.reserve(static_cast<std::size_t>(view.elements()));
  for (std::int64_t row = 0; row < view.dim(0); ++row) {
    const auto begin = all.begin() + row * width;
    result.insert(result.end(), begin, begin + view.dim(1));
  }
  return result;
}

bool TestMatrix::padding_is_intact() const {
  const Values all = values_of(whole);
  for (std::int64_t row = 0; row < view.dim(0); ++row) {
    for (std::int64_t column = view.dim(1); column < whole.dim(1); ++column) {
      if (all[static_cast<std::size_t>(row * whole.dim(1) + column)] != kPaddingValue) return false;
    }
  }
  return true;
}

std::uint64_t Generator::word() {
  // splitmix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
  state_ += 0x9E3779B97F4A7C15ULL;
  std::uint64_t mixed = state_;
  mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9ULL;
  mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBULL;
  return mixed ^ (mixed >> 31);
}

double Generator::symmetric() {
  return static_cast<double>(static_cast<std::int64_t>(word()) >> 11) * 0x1p-52;
}

std::uint64_t seed_of(std::string_view name, const OpSize& size) {
  const auto part = [](std::int64_t extent, int shift) {
    return static_cast<std::uint64_t>(extent) << shift;
  };
  const std::uint64_t shape =
      part(size.rows, 0) ^ part(size.columns, 20) ^ part(size.extent, 40) ^ part(size.strided, 62);
  return random_key(shape, name).stream ^ shape;
}

TestMatrix random_matrix(Generator& generator, std::int64_t rows, std::int64_t columns, DType dtype,
                         Device device, bool strided, double spread) {
  return make_matrix(rows, columns, dtype, device, strided,
                     [&] { return spread * generator.symmetric(); });
}

TestMatrix constant_matrix(double value, std::int64_t rows, std::int64_t columns, DType dtype,
                           Device device, bool strided) {
  return make_matrix(rows, columns, dtype, device, strided, [&] { return value; });
}

TestMatrix matrix_of(const Values& values, std::int64_t rows, std::int64_t columns, DType dtype,
                     Device device) {
  std::size_t next = 0;
  return make_matrix(rows, columns, dtype, device, false, [&] { return values[next++]; });
}

Tensor index_tensor(const std::vector<std::int32_t>& values, Device device) {
  const Tensor host = Tensor::empty({static_cast<std::int64_t>(values.size())}, DType::i32,
                                    is_host(device) ? device : kHost);
  std::copy(values.begin(), values.end(), host.data<std::int32_t>());
  return ops::to_device(host, device);
}

Values snapshot(const TestMatrix& matrix) {
  return matrix.view.elements() < 1000000 ? matrix.values() : Values();
}

Tensor vector_of(const TestMatrix& row) { return row.whole.view({row.whole.dim(1)}); }

double bytes_of(const TestMatrix& matrix) { return static_cast<double>(matrix.view.bytes()); }

double unit_roundoff(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return 0x1p-24;
    case DType::bf16:
      return 0x1p-8;
    default:
      return 0x1p-11;
  }
}

Values magnitudes_of(const Values& values) {
  Values result(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) result[i] = std::abs(values[i]);
  return result;
}

Values tolerance_of(const Values& values, const Values& magnitudes, double roundings, DType dtype) {
  const double smallest_step = dtype == DType::f16 ? 0x1p-25 : 0x1p-134;
  Values result(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double arithmetic = roundings * unit_roundoff(DType::f32) * magnitudes[i];
    result[i] = arithmetic + smallest_step;
    if (dtype != DType::f32) {
      result[i] += unit_roundoff(dtype) * (std::abs(values[i]) + arithmetic);
    }
  }
  return result;
}

const std::vector<OpCase>& op_list() {
  static const std::vector<OpCase> cases = [] {
    std::vector<OpCase> all;
    for (std::vector<OpCase> part : {elementwise_cases(), transformer_cases(), gradient_cases(),
                                     training_cases(), matmul_cases(), quantized_cases()}) {
      for (OpCase& one : part) all.push_back(std::move(one));
    }
    return all;
  }();
  return cases;
}

}  // namespace portolan::testing_support
