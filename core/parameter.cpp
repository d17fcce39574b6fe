// SPDX-License-Identifier: Apache-2.0
#include "core/parameter.hpp"

#include <utility>

#include "core/error.hpp"
#include "core/ops.hpp"

namespace portolan {

Parameter::Parameter(std::vector<ParameterSegment> segments, Weight weight)
    : segments_(std::move(segments)), weight_(std::move(weight)) {
  if (weight_.layout() == WeightLayout::plain) value_ = weight_.storage();
}

Parameter::Parameter(std::vector<ParameterSegment> segments, const Tensor& value)
    : segments_(std::move(segments)), value_(value) {
  if (value.rank() == 2) weight_ = Weight::plain(value);
}

std::shared_ptr<Parameter> Parameter::trainable(std::vector<ParameterSegment> segments,
                                                const Tensor& master, DType compute_dtype) {
  require(master.dtype() == DType::f32, "the master of a trainable parameter must be f32, found {}",
          name_of(master.dtype()));
  const std::shared_ptr<Parameter> parameter(new Parameter());
  parameter->segments_ = std::move(segments);
  parameter->master_ = master;
  parameter->value_ = compute_dtype == DType::f32
                          ? master
                          : Tensor::empty(master.shape(), compute_dtype, master.device());
  if (master.rank() == 2) parameter->weight_ = Weight::plain(parameter->value_);
  parameter->refresh();
  return parameter;
}

const Weight& Parameter::weight() const {
  require(weight_.storage().defined(), "parameter {} is a vector, not a matrix",
          segments_.front().name);
  return weight_;
}

const Tensor& Parameter::value() const {
  require(value_.defined(), "parameter {} is packed", segments_.front().name);
  return value_;
}

std::int64_t Parameter::bytes() const {
  std::size_t bytes = value_.defined() ? value_.bytes() : weight_.bytes();
  if (is_trainable() && master_.dtype() != value_.dtype()) bytes += master_.bytes();
  return static_cast<std::int64_t>(bytes);
}

void Parameter::refresh() const {
  if (is_trainable() && master_.dtype() != value_.dtype()) ops::copy(master_, value_);
}

const Tensor& Parameter::gradient() {
  const Contribution next = contribution();
  if (!next.accumulate) ops::fill(next.gradient, 0.0F);
  return gradient_;
}

Parameter::Contribution Parameter::contribution() {
  require(is_trainable(), "parameter {} is frozen and has no gradient", segments_.front().name);
  const bool first = !gradient_.defined();
  if (first) gradient_ = Tensor::empty(master_.shape(), DType::f32, master_.device());
  return {gradient_, !first};
}

std::shared_ptr<const Parameter::Hook> Parameter::add_hook(Hook hook) {
  std::erase_if(hooks_, [](const std::weak_ptr<const Hook>& old) { return old.expired(); });
  auto added = std::make_shared<const Hook>(std::move(hook));
  hooks_.push_back(added);
  return added;
}

void Parameter::complete_use() {
  if (--pending_uses_ > 0) return;
  for (const std::weak_ptr<const Hook>& hook : hooks_) {
    if (const std::shared_ptr<const Hook> alive = hook.lock()) (*alive)(*this);
  }
}

}  // namespace portolan
