// SPDX-License-Identifier: Apache-2.0
#include "core/tape.hpp"

#include <algorithm>
#include <memory>
#include <utility>

#include "core/error.hpp"
#include "core/ops.hpp"
#include "core/shape_format.hpp"

namespace portolan {

Tensor OutputGradient::exclusive() const {
  if (!shared) return value;
  const Tensor own = Tensor::empty(value.shape(), value.dtype(), value.device());
  ops::copy(value, own);
  return own;
}

Tape::~Tape() {
  // Uses that no backward pass will complete.
  if (mode_ == Mode::recompute) return;
  for (const Node& node : nodes_) {
    for (const ParameterPointer& parameter : node.parameters) --parameter->pending_uses_;
  }
}

std::size_t Tape::add_slot() {
  slots_.emplace_back();
  return slots_.size() - 1;
}

Variable Tape::input(Tensor value) {
  const std::size_t slot = add_slot();
  slots_[slot].is_input = true;
  return {std::move(value), this, slot};
}

std::vector<Variable> Tape::record(std::vector<Tensor> values,
                                   std::vector<ParameterPointer> parameters, Backward backward) {
  std::erase_if(parameters, [](const ParameterPointer& parameter) {
    return parameter == nullptr || !parameter->is_trainable();
  });
  if (mode_ != Mode::recompute) {
    for (const ParameterPointer& parameter : parameters) ++parameter->pending_uses_;
  }
  Node node{slots_.size(), values.size(), std::move(parameters), {}};
  if (mode_ != Mode::count_uses) node.backward = std::move(backward);
  std::vector<Variable> outputs;
  for (Tensor& value : values) outputs.push_back(Variable(std::move(value), this, add_slot()));
  nodes_.push_back(std::move(node));
  return outputs;
}

Variable Tape::record(Tensor value, std::vector<ParameterPointer> parameters, Backward backward) {
  return record(std::vector<Tensor>{std::move(value)}, std::move(parameters),
                std::move(backward))[0];
}

void Tape::contribute(const GradientTarget& input, Tensor gradient, bool shared) {
  if (input.tape == nullptr) return;
  require(input.tape == this, "a gradient was contributed to a variable of another tape");
  require(gradient.shape() == input.shape,
          "a gradient must have the shape of its variable {}, found {}", input.shape,
          gradient.shape());
  OutputGradient& sum = slots_[input.slot].gradient;
  if (!sum.value.defined()) {
    sum = {std::move(gradient), shared};
    return;
  }
  if (sum.shared && !shared) {
    std::swap(sum.value, gradient);
  } else {
    sum.value = sum.exclusive();
  }
  sum.shared = false;
  ops::add(gradient, sum.value);
}

void Tape::backward(const Variable& root, Tensor seed) {
  contribute(root.target(), std::move(seed));
  pass_backwards();
}

void Tape::pass_backwards() {
  while (!nodes_.empty()) {
    // Listed until it has run: if it throws, ~Tape() gives the uses of its parameters back.
    Node& node = nodes_.back();
    std::vector<OutputGradient> gradients;
    bool any = false;
    for (std::size_t i = 0; i < node.outputs; ++i) {
      gradients.push_back(std::exchange(slots_[node.first_output + i].gradient, {}));
      any = any || gradients.back().value.defined();
    }
    if (any) node.backward(gradients);
    const std::vector<ParameterPointer> parameters = std::move(node.parameters);
    nodes_.pop_back();
    if (mode_ == Mode::recompute) continue;
    for (const ParameterPointer& parameter : parameters) parameter->complete_use();
  }
}

const Tensor& Tape::gradient_of(const Variable& input) const {
  require(input.tape() == this && slots_[input.target().slot].is_input,
          "only an input of this tape has a gradient that is kept");
  return slots_[input.target().slot].gradient.value;
}

std::vector<Variable> Tape::adopt(const std::vector<Variable>& variables) {
  std::vector<Variable> adopted;
  for (const Variable& variable : variables) {
    adopted.push_back(variable.tape() == nullptr ? variable : input(variable.value_));
  }
  return adopted;
}

std::vector<Variable> Tape::checkpoint(const Segment& segment,
                                       const std::vector<Variable>& inputs) {
  if (mode_ == Mode::count_uses) return segment(inputs);

  Tape counting(Mode::count_uses);
  std::vector<Tensor> values;
  for (const Variable& output : segment(counting.adopt(inputs))) values.push_back(output.value_);
  std::vector<ParameterPointer> parameters;
  for (Node& node : counting.nodes_) {
    parameters.insert(parameters.end(), node.parameters.begin(), node.parameters.end());
  }
  // This tape's node counts each use; the recomputing tape completes none.
  return record(std::move(values), std::move(parameters),
                [this, segment, inputs](OutputGradients gradients) {
                  Tape again(Mode::recompute);
                  const std::vector<Variable> adopted = again.adopt(inputs);
                  const std::vector<Variable> outputs = segment(adopted);
                  for (std::size_t i = 0; i < outputs.size(); ++i) {
                    const auto& [value, shared] = gradients[i];
                    if (value.defined()) again.contribute(outputs[i].target(), value, shared);
                  }
                  again.pass_backwards();
                  for (std::size_t i = 0; i < inputs.size(); ++i) {
                    if (inputs[i].tape() == nullptr) continue;
                    // Two inputs may have got the same memory as their gradient.
                    const auto& [value, shared] = again.slots_[adopted[i].target().slot].gradient;
                    if (value.defined()) contribute(inputs[i].target(), value, shared);
                  }
                });
}

}  // namespace portolan
