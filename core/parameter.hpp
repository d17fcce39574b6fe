// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/tensor.hpp"
#include "core/weight.hpp"

namespace portolan {

/// Rows of a parameter that are one tensor of a checkpoint. Several lie in one parameter where a
/// product takes them together (q, k and v; gate and up).
struct ParameterSegment {
  std::string name;
  std::int64_t row_begin = 0;
  std::int64_t row_end = 0;
};

/// A model's parameter as one rank holds it, in the one form that its use needs:
///
///  - frozen, for inference: the compute form only, a Weight that may be packed;
///  - trainable: an f32 master that the optimizer updates, the compute form made from it (the
///    master itself if the model computes in f32, else a copy in the compute dtype), and, while and
///    after a backward pass, an f32 gradient.
///
/// Norm weights and embedding tables are plain in either form.
class Parameter {
 public:
  using Hook = std::function<void(Parameter&)>;

  /// Frozen.
  Parameter(std::vector<ParameterSegment> segments, Weight weight);
  /// Frozen and plain: [features] or [rows, columns].
  Parameter(std::vector<ParameterSegment> segments, const Tensor& value);
  /// Trainable. `master` f32 [features] or [rows, columns]; computes in `compute_dtype`.
  [[nodiscard]] static std::shared_ptr<Parameter> trainable(std::vector<ParameterSegment> segments,
                                                            const Tensor& master,
                                                            DType compute_dtype);

  [[nodiscard]] const std::vector<ParameterSegment>& segments() const noexcept { return segments_; }
  /// Compute form, for products. Throws UsageError for a vector.
  [[nodiscard]] const Weight& weight() const;
  /// Compute form as a plain tensor. Throws UsageError for a packed weight.
  [[nodiscard]] const Tensor& value() const;
  /// Bytes of all forms that are held, the gradient left out.
  [[nodiscard]] std::int64_t bytes() const;

  [[nodiscard]] bool is_trainable() const noexcept { return master_.defined(); }
  [[nodiscard]] const Tensor& master() const noexcept { return master_; }
  /// Call when the master has changed: makes the compute form anew.
  void refresh() const;

  /// f32, shape of the master; zero before the first contribution since clear_gradient(). Backward
  /// passes add to it.
  [[nodiscard]] const Tensor& gradient();
  /// The gradient, and whether a contribution adds to it or, being the first, overwrites it: saves
  /// writing zeros that a product would read again.
  struct Contribution {
    Tensor gradient;
    bool accumulate = false;
  };
  [[nodiscard]] Contribution contribution();
  [[nodiscard]] bool has_gradient() const noexcept { return gradient_.defined(); }
  /// The next contribution starts from zero.
  void clear_gradient() { gradient_ = Tensor(); }

  /// Called, in the order added, each time a backward pass has added its last contribution to the
  /// gradient, for as long as the result of this function lives. Where gradients are summed over
  /// ranks, and where data parallelism will start its reductions.
  [[nodiscard]] std::shared_ptr<const Hook> add_hook(Hook hook);

 private:
  friend class Tape;

  Parameter() = default;
  void complete_use();

  std::vector<ParameterSegment> segments_;
  Weight weight_;
  Tensor value_;
  Tensor master_;
  Tensor gradient_;
  std::vector<std::weak_ptr<const Hook>> hooks_;
  int pending_uses_ = 0;  // recorded, and not yet passed by the backward pass
};

using ParameterPointer = std::shared_ptr<Parameter>;

}  // namespace portolan
