// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "core/backend.hpp"
#include "core/error.hpp"
#include "core/ops.hpp"
#include "tests/unit/op_list.hpp"

/// What operations refuse, and what they do with tensors without elements.
namespace portolan::testing_support {
namespace {

constexpr Device kSerial{DeviceKind::serial, 0};

Tensor tensor(const Shape& shape, DType dtype = DType::f32, Device device = kSerial) {
  return Tensor::empty(shape, dtype, device);
}

TEST(OpsChecks, AnUndefinedTensorIsRefusedByName) {
  const Tensor none;
  const Tensor rows = tensor({2, 4});
  const Tensor row = tensor({4});
  const Tensor scores = tensor({2});
  const Tensor ids = tensor({2}, DType::i32);
  const Weight weight = Weight::plain(rows);
  const std::vector<std::function<void()>> calls = {
      [&] { ops::fill(none, 1.0F); },
      [&] { ops::copy(none, rows); },
      [&] { ops::copy(rows, none); },
      [&] { ops::random_uniform(none, {}, {.columns = 4}, 0.0F, 1.0F); },
      [&] { ops::sum(std::vector{none}, std::vector{rows}); },
      [&] { ops::sum(std::vector{rows}, std::vector{none}); },
      [&] { ops::add(none, rows); },
      [&] { ops::add(rows, none); },
      [&] { ops::scale(none, 2.0F); },
      [&] { ops::add_bias(rows, none); },
      [&] { ops::add_bias_backward(rows, none); },
      [&] { ops::embedding(none, rows, 0, rows); },
      [&] { ops::embedding(ids, none, 0, rows); },
      [&] { ops::embedding_backward(none, rows, 0, rows); },
      [&] { ops::rms_norm(rows, none, 1e-5F, rows); },
      [&] { ops::rms_norm(rows, row, 1e-5F, none); },
      [&] { ops::add_rms_norm(rows, none, row, 1e-5F, rows); },
      [&] { ops::rms_norm_backward(rows, row, 1e-5F, rows, rows, none); },
      [&] { ops::layer_norm(rows, row, none, 1e-5F, rows); },
      [&] { ops::swiglu(rows, none, rows); },
      [&] { ops::swiglu_backward(rows, rows, none, rows, rows); },
      [&] { ops::gelu(rows, none, GeluKind::erf); },
      [&] { ops::softmax(rows, rows, none); },
      [&] { ops::softmax_backward(rows, none, rows); },
      [&] { ops::cross_entropy_rows(rows, none, 0, -1, scores, scores, scores); },
      [&] { ops::cross_entropy_rows(rows, ids, 0, -1, none, scores, scores); },
      [&] { ops::cross_entropy_backward(rows, ids, 0, -1, none, 1.0F, rows); },
      [&] { ops::adamw(rows, none, rows, rows, {}); },
      [&] { ops::sgd(rows, none, {}, {}); },
      [&] { static_cast<void>(ops::sum_of_squares(none)); },
      [&] { ops::pack_rows(none, 0, Weight()); },
      [&] { ops::matmul(none, weight, rows); },
      [&] { ops::matmul(rows, weight, none); },
      [&] {
        ops::matmul_bias(rows, weight, none, tensor({2, 2}));
      },
      [&] {
        ops::product(rows, false, none, true, tensor({2, 2}));
      }};
  for (std::size_t i = 0; i < calls.size(); ++i) EXPECT_THROW(calls[i](), UsageError) << i;
}

TEST(OpsChecks, OperandsOfTwoDevicesAreRefused) {
  float memory[8] = {};
  std::int32_t numbers[2] = {};
  const Device elsewhere{DeviceKind::serial, 1};
  const Tensor rows = tensor({2, 4});
  const Tensor row = tensor({4});
  const Tensor scores = tensor({2});
  const Tensor far_rows = Tensor::borrow(memory, {2, 4}, DType::f32, elsewhere);
  const Tensor far_row = Tensor::borrow(memory, {4}, DType::f32, elsewhere);
  const Tensor far_scores = Tensor::borrow(memory, {2}, DType::f32, elsewhere);
  const Tensor far_ids = Tensor::borrow(numbers, {2}, DType::i32, elsewhere);
  const Tensor ids = tensor({2}, DType::i32);
  const Weight far_weight = Weight::plain(far_rows);
  const std::vector<std::function<void()>> calls = {
      [&] { ops::copy(far_rows, rows); },
      [&] {
        ops::sum(std::vector{rows, far_rows}, std::vector{rows});
      },
      [&] { ops::add(far_rows, rows); },
      [&] { ops::add_bias(rows, far_row); },
      [&] { ops::add_bias_backward(rows, far_row); },
      [&] { ops::embedding(far_ids, rows, 0, rows); },
      [&] { ops::embedding(ids, far_rows, 0, rows); },
      [&] { ops::embedding_backward(ids, rows, 0, far_rows); },
      [&] { ops::rms_norm(rows, far_row, 1e-5F, rows); },
      [&] { ops::rms_norm_backward(rows, row, 1e-5F, rows, rows, far_row); },
      [&] { ops::layer_norm(rows, row, far_row, 1e-5F, rows); },
      [&] { ops::swiglu(rows, far_rows, rows); },
      [&] { ops::softmax(rows, rows, far_scores); },
      [&] { ops::cross_entropy_rows(rows, far_ids, 0, -1, scores, scores, scores); },
      [&] { ops::cross_entropy_rows(rows, ids, 0, -1, scores, scores, far_scores); },
      [&] {
        ops::matmul(rows, far_weight, tensor({2, 2}));
      },
      [&] {
        ops::product(rows, false, far_rows, true, tensor({2, 2}));
      }};
  for (std::size_t i = 0; i < calls.size(); ++i) EXPECT_THROW(calls[i](), UsageError) << i;
}

TEST(OpsChecks, BlocksOfRandomNumbersLieInTheirMatrix) {
  const Tensor x = tensor({2, 4});
  for (const MatrixBlock& block :
       {MatrixBlock{.row_begin = -1, .columns = 4}, MatrixBlock{.column_begin = -1, .columns = 4},
        MatrixBlock{.column_begin = 1, .columns = 4}, MatrixBlock{.columns = 3}}) {
    EXPECT_THROW(ops::random_uniform(x, {}, block, 0.0F, 1.0F), UsageError);
    EXPECT_THROW(ops::dropout(x, 0.5F, {}, block), UsageError);
  }
}

TEST(OpsChecks, RowsArePackedAsWholePanelsOfFloats) {
  const Weight weight = Weight::quantized(130, 8, Quantization::int8, kSerial);
  EXPECT_NO_THROW(ops::pack_rows(tensor({64, 8}), 64, weight));
  EXPECT_NO_THROW(ops::pack_rows(tensor({66, 8}), 64, weight));
  EXPECT_THROW(ops::pack_rows(tensor({64, 8}), -64, weight), UsageError);
  EXPECT_THROW(ops::pack_rows(tensor({64, 8}), 128, weight), UsageError);
  EXPECT_THROW(ops::pack_rows(tensor({63, 8}), 0, weight), UsageError);
  EXPECT_THROW(ops::pack_rows(tensor({64, 8}), 1, weight), UsageError);
  EXPECT_THROW(ops::pack_rows(tensor({64, 7}), 0, weight), UsageError);
  EXPECT_THROW(ops::pack_rows(tensor({64, 8}, DType::i32), 0, weight), UsageError);
  EXPECT_THROW(ops::pack_rows(tensor({64, 8}), 0, Weight::plain(tensor({64, 8}))), UsageError);
}

/// Sums of no terms are 0, whatever the weight's layout.
TEST(OpsChecks, ProductsWithoutInputsAreZero) {
  constexpr std::int64_t kRows = 3;
  constexpr std::int64_t kOut = 70;
  const Values zeros(kRows * kOut, 0.0);
  for (const auto& backend : registered_backends()) {
    const Device device = backend->device();
    SCOPED_TRACE(name_of(device.kind));
    for (const DType dtype : computed_dtypes()) {
      const Tensor x = tensor({kRows, 0}, dtype, device);
      const Tensor bias = tensor({kOut}, dtype, device);
      ops::fill(bias, 2.0F);
      for (const Weight& weight : {Weight::plain(tensor({kOut, 0}, dtype, device)),
                                   backend->allocate_packed(kOut, 0, dtype),
                                   Weight::quantized(kOut, 0, Quantization::int8, device),
                                   Weight::quantized(kOut, 0, Quantization::int4, device)}) {
        const Tensor out = tensor({kRows, kOut}, dtype, device);
        ops::fill(out, 77.0F);
        ops::matmul(x, weight, out, true);
        EXPECT_EQ(values_of(out), Values(zeros.size(), 77.0)) << "nothing is added";
        ops::matmul(x, weight, out);
        EXPECT_EQ(values_of(out), zeros);
        ops::fill(out, 77.0F);
        ops::matmul_bias(x, weight, bias, out);
        EXPECT_EQ(values_of(out), Values(zeros.size(), 2.0));
      }
      const Tensor out = tensor({kRows, kOut}, dtype, device);
      ops::fill(out, 77.0F);
      ops::product(x, false, tensor({kOut, 0}, dtype, device), true, out);
      EXPECT_EQ(values_of(out), zeros);
    }
  }
}

/// As of a row of -inf alone: the sum of no exponentials is 0.
TEST(OpsChecks, TheSoftmaxOfNoColumnsHasNoSum) {
  for (const auto& backend : registered_backends()) {
    const Device device = backend->device();
    const Tensor x = tensor({3, 0}, DType::f32, device);
    const Tensor log_sum_exp = tensor({3}, DType::f32, device);
    ops::fill(log_sum_exp, 77.0F);
    ops::softmax(x, x, log_sum_exp);
    EXPECT_EQ(values_of(log_sum_exp), Values(3, -std::numeric_limits<double>::infinity()))
        << name_of(device.kind);
  }
}

}  // namespace
}  // namespace portolan::testing_support
