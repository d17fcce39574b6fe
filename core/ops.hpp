// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <span>

#include "core/backend.hpp"
#include "core/tensor.hpp"
#include "core/weight.hpp"

/// The operations that models and parallel code call. Each checks shapes, dtypes and devices
/// (throws UsageError naming the rule and what was found), then asks the tensor's device for its
/// Backend. Semantics are documented at the Backend's functions of the same names.
namespace portolan::ops {

void fill(const Tensor& out, float value);
void copy(const Tensor& source, const Tensor& out);
void random_uniform(const Tensor& out, RandomKey key, const MatrixBlock& block, float mean,
                    float scale);
void sum(std::span<const Tensor> inputs, std::span<const Tensor> outs);
void embedding(const Tensor& ids, const Tensor& table, std::int64_t first_row, const Tensor& out);
void rms_norm(const Tensor& x, const Tensor& weight, float epsilon, const Tensor& out);
void add_rms_norm(const Tensor& x, const Tensor& residual, const Tensor& weight, float epsilon,
                  const Tensor& out);
void rotary_embedding(const Tensor& x, const Tensor& positions, const Tensor& cosines,
                      const Tensor& sines);
void swiglu(const Tensor& gate, const Tensor& up, const Tensor& out);
void pack_rows(const Tensor& rows, std::int64_t first_row, const Weight& weight);
void matmul(const Tensor& x, const Weight& weight, const Tensor& out, bool accumulate = false);

/// A dense copy on the host device `cpu` or `serial`, of another dtype if asked.
[[nodiscard]] Tensor to_host(const Tensor& tensor);
[[nodiscard]] Tensor to_dtype(const Tensor& tensor, DType dtype);
/// Moves a dense host tensor to a device.
[[nodiscard]] Tensor to_device(const Tensor& tensor, Device device);

}  // namespace portolan::ops
