// SPDX-License-Identifier: Apache-2.0
#include "backends/openmp/training_operations.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "backends/openmp/blocks.hpp"
#include "backends/openmp/simd/kernels.hpp"
#include "backends/openmp/simd/training_kernels.hpp"
#include "backends/portable/columns.hpp"
#include "backends/portable/optimizer.hpp"
#include "backends/portable/rows.hpp"

namespace portolan::openmp {
namespace {

std::int64_t row_bytes(const Tensor& matrix) {
  return matrix.dim(1) * static_cast<std::int64_t>(size_of(matrix.dtype()));
}

/// Calls body(begin, end) for blocks of rows of the size of blocks.hpp.
template <class Body>
void for_row_blocks(const Kokkos::OpenMP& space, const char* label, const Tensor& matrix,
                    const Body& body) {
  for_blocks(space, label, matrix.dim(0), block_items(row_bytes(matrix)), body);
}

/// Calls body(offsets, count) for stretches that are dense in every operand, none longer than a
/// block; offsets in elements. False, and nothing done, if there are none.
template <int kOperands, class Body>
bool for_stretches(const Kokkos::OpenMP& space, const char* label,
                   const portable::StridedRows<kOperands>& rows, const Body& body) {
  for (const std::int64_t stride : rows.column_stride) {
    if (stride != 1) return false;
  }
  const std::int64_t stretch = block_items(static_cast<std::int64_t>(sizeof(float)));
  const std::int64_t per_row = (rows.columns + stretch - 1) / stretch;
  const std::int64_t at_once = std::max<std::int64_t>(1, stretch / std::max(rows.columns, per_row));
  for_blocks(space, label, rows.rows * per_row, at_once, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t index = begin; index < end; ++index) {
      const std::int64_t row = index / per_row;
      const std::int64_t column = index % per_row * stretch;
      std::int64_t offsets[kOperands];
      for (int operand = 0; operand < kOperands; ++operand) {
        offsets[operand] = rows.offset(operand, row) + column;
      }
      body(offsets, std::min(stretch, rows.columns - column));
    }
  });
  return true;
}

std::byte* element(const Tensor& tensor, std::int64_t offset) {
  return tensor.raw() + offset * static_cast<std::int64_t>(size_of(tensor.dtype()));
}

}  // namespace

bool add(const Kokkos::OpenMP& space, const Tensor& x, const Tensor& y) {
  const auto rows = portable::strided_rows<2>(y.shape(), {&x.strides(), &y.strides()});
  return for_stretches(space, "Portolan::Elementwise::add", rows,
                       [&](const std::int64_t(&offsets)[2], std::int64_t count) {
                         simd::add({.x_dtype = x.dtype(),
                                    .y_dtype = y.dtype(),
                                    .x = element(x, offsets[0]),
                                    .y = element(y, offsets[1])},
                                   count);
                       });
}

bool scale(const Kokkos::OpenMP& space, const Tensor& x, float factor) {
  const auto rows = portable::strided_rows<1>(x.shape(), {&x.strides()});
  return for_stretches(
      space, "Portolan::Elementwise::scale", rows,
      [&](const std::int64_t(&offsets)[1], std::int64_t count) {
        simd::scale({.dtype = x.dtype(), .x = element(x, offsets[0]), .factor = factor}, count);
      });
}

void dropout(const Kokkos::OpenMP& space, const Tensor& x, float probability, RandomKey key,
             const MatrixBlock& block) {
  const simd::DropoutElements arguments{.dtype = x.dtype(),
                                        .key = key,
                                        .threshold = dropout_threshold(probability),
                                        .kept = 1.0F / (1.0F - probability)};
  for_row_blocks(space, "Portolan::Random::dropout", x, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const std::int64_t first = (block.row_begin + row) * block.columns + block.column_begin;
      simd::dropout(arguments, element(x, row * x.strides()[0]), static_cast<std::uint64_t>(first),
                    x.dim(1));
    }
  });
}

void add_bias(const Kokkos::OpenMP& space, const Tensor& x, const Tensor& bias) {
  for_row_blocks(space, "Portolan::Elementwise::add_bias", x,
                 [&](std::int64_t begin, std::int64_t end) {
                   for (std::int64_t row = begin; row < end; ++row) {
                     simd::add({.x_dtype = bias.dtype(),
                                .y_dtype = x.dtype(),
                                .x = bias.raw(),
                                .y = element(x, row * x.strides()[0])},
                               x.dim(1));
                   }
                 });
}

void embedding_backward(const Kokkos::OpenMP& space, const Tensor& ids, const Tensor& grad_out,
                        std::int64_t first_row, const Tensor& grad_table) {
  // A thread has some columns of all rows to itself: ids repeat, and their order must be kept.
  constexpr std::int64_t kColumns = 256;
  for_blocks(space, "Portolan::Embedding::backward", grad_out.dim(1), kColumns,
             [&](std::int64_t begin, std::int64_t end) {
               for (std::int64_t row = 0; row < ids.dim(0); ++row) {
                 const std::int64_t id =
                     ids.data<std::int32_t>()[row * ids.strides()[0]] - first_row;
                 if (id < 0 || id >= grad_table.dim(0)) continue;
                 simd::add({.x_dtype = grad_out.dtype(),
                            .y_dtype = DType::f32,
                            .x = element(grad_out, row * grad_out.strides()[0] + begin),
                            .y = element(grad_table, id * grad_table.strides()[0] + begin)},
                           end - begin);
               }
             });
}

void norm_backward(const Kokkos::OpenMP& space, CachingAllocator& allocator, const char* label,
                   const Tensor& x, const Tensor& weight, float epsilon,
                   const portable::NormGradients& gradients) {
  const std::int64_t features = x.dim(1);
  const bool centred = gradients.grad_bias != nullptr;
  simd::NormBackwardRows arguments;
  arguments.centred = centred;
  arguments.dtype = x.dtype();
  arguments.weight_dtype = weight.dtype();
  arguments.grad_out_dtype = gradients.grad_out.dtype();
  arguments.grad_x_dtype = gradients.grad_x.dtype();
  arguments.x = x.raw();
  arguments.weight = weight.raw();
  arguments.grad_out = gradients.grad_out.raw();
  arguments.grad_x = gradients.grad_x.raw();
  arguments.x_stride = x.strides()[0];
  arguments.grad_out_stride = gradients.grad_out.strides()[0];
  arguments.grad_x_stride = gradients.grad_x.strides()[0];
  arguments.features = features;
  arguments.epsilon = epsilon;
  arguments.accumulate = gradients.accumulate_x;

  // One partial sum of the parameters' gradients for each block of rows, added up in order.
  constexpr std::int64_t kRows = portable::kColumnSumRows;
  const std::int64_t blocks = (x.dim(0) + kRows - 1) / kRows;
  const std::int64_t partial = features * blocks;
  const auto bytes = static_cast<std::size_t>(centred ? 2 * partial : partial) * sizeof(float);
  const BlockReference scratch = allocator.allocate(bytes);
  auto* const weight_partials = reinterpret_cast<float*>(scratch.get()->data());
  float* const bias_partials = centred ? weight_partials + partial : nullptr;
  for_blocks(space, label, x.dim(0), kRows, [&](std::int64_t begin, std::int64_t end) {
    float* const own_weight = weight_partials + begin / kRows * features;
    float* const own_bias = centred ? bias_partials + begin / kRows * features : nullptr;
    std::fill_n(own_weight, features, 0.0F);
    if (centred) std::fill_n(own_bias, features, 0.0F);
    simd::norm_backward(arguments, begin, end, own_weight, own_bias);
  });
  const auto add_up = [&](const float* partials, const Tensor& sums) {
    portable::for_rows(space, label, 1, features,
                       portable::AddPartials{partials, sums.data<float>(), blocks, features});
  };
  add_up(weight_partials, gradients.grad_weight);
  if (centred) add_up(bias_partials, *gradients.grad_bias);
}

void layer_norm(const Kokkos::OpenMP& space, const char* label, const Tensor& x,
                const Tensor* x_bias, const Tensor* residual, const Tensor& weight,
                const Tensor& bias, float epsilon, const Tensor& out) {
  simd::LayerNormRows arguments;
  arguments.dtype = x.dtype();
  arguments.parameter_dtype = weight.dtype();
  arguments.x = x.raw();
  if (residual != nullptr) {
    if (x_bias->defined()) arguments.x_bias = x_bias->raw();
    arguments.residual = residual->raw();
    arguments.residual_stride = residual->strides()[0];
  }
  arguments.weight = weight.raw();
  arguments.bias = bias.raw();
  arguments.out = out.raw();
  arguments.x_stride = x.strides()[0];
  arguments.out_stride = out.strides()[0];
  arguments.features = x.dim(1);
  arguments.epsilon = epsilon;
  for_row_blocks(space, label, x, [&](std::int64_t begin, std::int64_t end) {
    simd::layer_norm(arguments, begin, end);
  });
}

void swiglu_backward(const Kokkos::OpenMP& space, const Tensor& gate, const Tensor& up,
                     const Tensor& grad_out, const Tensor& grad_gate, const Tensor& grad_up) {
  const simd::SwigluBackwardRows arguments{.dtype = gate.dtype(),
                                           .gate = gate.raw(),
                                           .up = up.raw(),
                                           .grad_out = grad_out.raw(),
                                           .grad_gate = grad_gate.raw(),
                                           .grad_up = grad_up.raw(),
                                           .gate_stride = gate.strides()[0],
                                           .up_stride = up.strides()[0],
                                           .grad_out_stride = grad_out.strides()[0],
                                           .grad_gate_stride = grad_gate.strides()[0],
                                           .grad_up_stride = grad_up.strides()[0],
                                           .features = gate.dim(1)};
  for_row_blocks(
      space, "Portolan::Elementwise::swiglu_backward", gate,
      [&](std::int64_t begin, std::int64_t end) { simd::swiglu_backward(arguments, begin, end); });
}

void gelu(const Kokkos::OpenMP& space, const Tensor& x, const Tensor* grad_out, const Tensor& out,
          GeluKind kind) {
  simd::GeluRows arguments;
  arguments.dtype = x.dtype();
  arguments.kind = kind;
  arguments.x = x.raw();
  arguments.out = out.raw();
  arguments.x_stride = x.strides()[0];
  arguments.out_stride = out.strides()[0];
  arguments.features = x.dim(1);
  if (grad_out != nullptr) {
    arguments.grad_out = grad_out->raw();
    arguments.grad_out_stride = grad_out->strides()[0];
  }
  for_row_blocks(
      space,
      grad_out == nullptr ? "Portolan::Elementwise::gelu" : "Portolan::Elementwise::gelu_backward",
      x, [&](std::int64_t begin, std::int64_t end) { simd::gelu(arguments, begin, end); });
}

void softmax(const Kokkos::OpenMP& space, const Tensor& x, const Tensor& out,
             const Tensor& log_sum_exp) {
  const simd::SoftmaxRows arguments{.dtype = x.dtype(),
                                    .x = x.raw(),
                                    .out = out.raw(),
                                    .log_sum_exp = log_sum_exp.data<float>(),
                                    .x_stride = x.strides()[0],
                                    .out_stride = out.strides()[0],
                                    .columns = x.dim(1)};
  for_row_blocks(space, "Portolan::Softmax::forward", x, [&](std::int64_t begin, std::int64_t end) {
    simd::softmax(arguments, begin, end);
  });
}

void cross_entropy_rows(const Kokkos::OpenMP& space, const Tensor& logits, const Tensor& labels,
                        std::int64_t first_column, std::int32_t ignore_label, const Tensor& maximum,
                        const Tensor& sum, const Tensor& target) {
  const simd::CrossEntropyRows arguments{.dtype = logits.dtype(),
                                         .logits = logits.raw(),
                                         .labels = labels.data<std::int32_t>(),
                                         .maximum = maximum.data<float>(),
                                         .sum = sum.data<float>(),
                                         .target = target.data<float>(),
                                         .stride = logits.strides()[0],
                                         .columns = logits.dim(1),
                                         .first_column = first_column,
                                         .ignore_label = ignore_label};
  for_row_blocks(
      space, "Portolan::CrossEntropy::rows", logits,
      [&](std::int64_t begin, std::int64_t end) { simd::cross_entropy(arguments, begin, end); });
}

void cross_entropy_backward(const Kokkos::OpenMP& space, const Tensor& logits, const Tensor& labels,
                            std::int64_t first_column, std::int32_t ignore_label,
                            const Tensor& log_sum_exp, float scale, const Tensor& grad_logits) {
  const simd::CrossEntropyBackwardRows arguments{.dtype = logits.dtype(),
                                                 .logits = logits.raw(),
                                                 .labels = labels.data<std::int32_t>(),
                                                 .log_sum_exp = log_sum_exp.data<float>(),
                                                 .grad_logits = grad_logits.raw(),
                                                 .stride = logits.strides()[0],
                                                 .grad_stride = grad_logits.strides()[0],
                                                 .columns = logits.dim(1),
                                                 .first_column = first_column,
                                                 .ignore_label = ignore_label,
                                                 .scale = scale};
  for_row_blocks(space, "Portolan::CrossEntropy::backward", logits,
                 [&](std::int64_t begin, std::int64_t end) {
                   simd::cross_entropy_backward(arguments, begin, end);
                 });
}

void adamw(const Kokkos::OpenMP& space, const Tensor& param, const Tensor& grad,
           const Tensor& first_moment, const Tensor& second_moment, const AdamWStep& step,
           const Tensor& copy) {
  const simd::AdamWElements arguments{.copy_dtype = copy.defined() ? copy.dtype() : DType::f32,
                                      .param = param.data<float>(),
                                      .grad = grad.data<float>(),
                                      .first_moment = first_moment.data<float>(),
                                      .second_moment = second_moment.data<float>(),
                                      .copy = copy.defined() ? copy.raw() : nullptr,
                                      .step = step};
  for_blocks(space, "Portolan::Optimizer::adamw", param.elements(),
             block_items(static_cast<std::int64_t>(sizeof(float))),
             [&](std::int64_t begin, std::int64_t end) { simd::adamw(arguments, begin, end); });
}

double sum_of_squares(const Kokkos::OpenMP& space, const Tensor& x) {
  constexpr std::int64_t kBlock = portable::kSquaresBlock;
  std::vector<double> partials(static_cast<std::size_t>(portable::squares_blocks(x)));
  const simd::SquaresOf arguments{.dtype = x.dtype(), .x = x.raw()};
  for_blocks(space, "Portolan::Optimizer::sum_of_squares", x.elements(), kBlock,
             [&](std::int64_t begin, std::int64_t end) {
               partials[static_cast<std::size_t>(begin / kBlock)] =
                   simd::sum_of_squares(arguments, begin, end);
             });
  return std::accumulate(partials.begin(), partials.end(), 0.0);
}

}  // namespace portolan::openmp
