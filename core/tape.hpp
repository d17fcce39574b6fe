// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "core/parameter.hpp"
#include "core/tensor.hpp"

/// Reverse-mode differentiation. A tape lists what a forward pass did, as nodes as large as the
/// model's own operations (a fused norm, a parallel product, attention, a collective); passing it
/// backwards gives every parameter its gradient. Inference has no tape and records nothing.
namespace portolan {

class Tape;

/// Where a variable's gradient goes: what a node's backward keeps of an input whose value it does
/// not need.
struct GradientTarget {
  Tape* tape = nullptr;  ///< null for a constant
  std::size_t slot = 0;
  Shape shape;
};

/// A tensor that a node's backward needs: kept, or computed again when asked for.
class SavedTensor {
 public:
  using Recipe = std::function<Tensor()>;

  explicit SavedTensor(Tensor tensor) : tensor_(std::move(tensor)) {}
  explicit SavedTensor(std::shared_ptr<const Recipe> recipe) : recipe_(std::move(recipe)) {}
  [[nodiscard]] Tensor get() const { return recipe_ ? (*recipe_)() : tensor_; }

 private:
  Tensor tensor_;
  std::shared_ptr<const Recipe> recipe_;
};

/// A tensor that a tape may know. Without a tape it is only the tensor, and functions of variables
/// may then work in place where that saves memory.
class Variable {
 public:
  Variable() = default;
  /// A constant, or any tensor in inference.
  Variable(Tensor value) : value_(std::move(value)) {}  // NOLINT(google-explicit-constructor)

  [[nodiscard]] const Tensor& value() const noexcept { return value_; }
  /// Null if no gradient is wanted.
  [[nodiscard]] Tape* tape() const noexcept { return target_.tape; }
  [[nodiscard]] const GradientTarget& target() const noexcept { return target_; }

  /// What a node's backward keeps of an input whose value it needs.
  [[nodiscard]] SavedTensor save() const {
    return recipe_ ? SavedTensor(recipe_) : SavedTensor(value_);
  }
  /// The same variable, whose value nodes do not keep: `recipe` gives its bits again. It may read
  /// what earlier nodes keep, and must not hold this value.
  [[nodiscard]] Variable recomputed_by(SavedTensor::Recipe recipe) const {
    Variable result = *this;
    result.recipe_ = std::make_shared<const SavedTensor::Recipe>(std::move(recipe));
    return result;
  }

 private:
  friend class Tape;
  Variable(Tensor value, Tape* tape, std::size_t slot)
      : value_(std::move(value)), target_{tape, slot, value_.shape()} {}

  Tensor value_;
  GradientTarget target_;
  std::shared_ptr<const SavedTensor::Recipe> recipe_;
};

/// The gradient of a node's output, as the node's backward receives it.
struct OutputGradient {
  Tensor value;  ///< undefined if nothing contributed to it
  /// Other nodes may hold the same memory.
  bool shared = false;

  /// The gradient in memory that may be overwritten.
  [[nodiscard]] Tensor exclusive() const;
};
/// In the order in which the outputs were recorded.
using OutputGradients = std::span<const OutputGradient>;

/// Nodes in the order of the forward pass. Each holds what its backward needs (saved tensors) until
/// backward() has passed it. Not thread-safe; every rank records and passes the same nodes in the
/// same order, so collectives in them match.
class Tape {
 public:
  using Backward = std::function<void(OutputGradients)>;

  Tape() = default;
  ~Tape();
  Tape(const Tape&) = delete;
  Tape& operator=(const Tape&) = delete;

  /// A tensor whose gradient is wanted in the end: gradient_of().
  [[nodiscard]] Variable input(Tensor value);

  /// Adds a node with the outputs `values`, that used `parameters`. `backward` is called at most
  /// once, with the outputs' gradients; it passes gradients on with contribute() and adds to those
  /// of the parameters. Not called if none of the outputs got a gradient.
  [[nodiscard]] std::vector<Variable> record(std::vector<Tensor> values,
                                             std::vector<ParameterPointer> parameters,
                                             Backward backward);
  [[nodiscard]] Variable record(Tensor value, std::vector<ParameterPointer> parameters,
                                Backward backward);

  /// From within a node's backward: adds to the gradient of one of its inputs. The tensor's memory
  /// is the tape's from then on, unless `shared`: then nobody changes it any more. Does nothing for
  /// a constant.
  void contribute(const GradientTarget& input, Tensor gradient, bool shared = false);

  /// Passes all nodes backwards from `root`, whose gradient is `seed`, and forgets them.
  void backward(const Variable& root, Tensor seed);

  /// The gradient of an input after backward(); undefined if nothing contributed.
  [[nodiscard]] const Tensor& gradient_of(const Variable& input) const;

  /// Runs `segment` without keeping what its nodes saved; its backward runs it once more, from the
  /// saved inputs, with the same bits (activation recomputation: Chen et al. 2016,
  /// arXiv:1604.06174). `segment` must depend on nothing else that changes.
  using Segment = std::function<std::vector<Variable>(std::span<const Variable>)>;
  [[nodiscard]] std::vector<Variable> checkpoint(const Segment& segment,
                                                 const std::vector<Variable>& inputs);

 private:
  /// What record() keeps: everything; only which parameters were used; everything but those, which
  /// an earlier run has counted.
  enum class Mode { keep, count_uses, recompute };

  struct Node {
    std::size_t first_output = 0;
    std::size_t outputs = 0;
    std::vector<ParameterPointer> parameters;
    Backward backward;
  };
  struct Slot {
    OutputGradient gradient;
    bool is_input = false;
  };

  explicit Tape(Mode mode) : mode_(mode) {}
  std::size_t add_slot();
  /// Inputs of this tape in place of another tape's variables.
  [[nodiscard]] std::vector<Variable> adopt(const std::vector<Variable>& variables);
  void pass_backwards();

  Mode mode_ = Mode::keep;
  std::vector<Node> nodes_;
  std::vector<Slot> slots_;
};

}  // namespace portolan
