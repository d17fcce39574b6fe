// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/random.hpp"
#include "core/tensor.hpp"
#include "core/weight.hpp"

namespace portolan {

/// y = x W^T: x [rows, inputs], W [outputs, inputs], as in a linear layer.
struct MatmulCase {
  std::string name = {};  ///< of the product in a model; may be empty
  std::int64_t rows = 1;
  std::int64_t outputs = 1;
  std::int64_t inputs = 1;
  DType dtype = DType::f32;
  Quantization quantization = Quantization::none;  ///< of W
  std::uint64_t seed = 0;                          ///< of x and W

  [[nodiscard]] double flops() const {
    return 2.0 * static_cast<double>(rows) * static_cast<double>(outputs) *
           static_cast<double>(inputs);
  }
};

/// Operands and result of a product, and the product by the engine's own packed weights. Values of
/// x are uniform on [-1, 1), those of W so that y has a variance of 1, whatever the sizes.
class MatmulWork {
 public:
  MatmulWork(const MatmulCase& setting, Device device);

  /// At the least: of W as it is held, x twice and y.
  [[nodiscard]] static std::int64_t bytes(const MatmulCase& setting);
  [[nodiscard]] std::int64_t weight_bytes() const {
    return static_cast<std::int64_t>(weight_.bytes());
  }

  /// x, as the layer before does.
  void write_input() const;
  void run() const;
  /// Of y at sampled places, against the product in f64 by W before it was made into integers.
  [[nodiscard]] double error() const;

 private:
  /// Rows [first, first + rows.dim(0)) of W.
  void write_weight(const Tensor& rows, std::int64_t first) const;

  MatmulCase setting_;
  Device device_;
  Tensor original_;
  Tensor x_;
  Weight weight_;
  Tensor out_;
};

/// Largest |difference| of out = x W^T from the product in f64, at sampled outputs of sampled rows,
/// the last ones among them. `weight_row` gives the values of an output of W. Places are a pure
/// function of the shapes.
[[nodiscard]] double sampled_product_error(
    const Tensor& x, const Tensor& out,
    const std::function<std::vector<float>(std::int64_t output)>& weight_row);

}  // namespace portolan
