// SPDX-License-Identifier: Apache-2.0
#include "training/sharded_gradients.hpp"

#include <algorithm>
#include <cmath>

#include "core/ops.hpp"
#include "parallel/gather_values.hpp"

namespace portolan {
namespace {

bool same_columns(const ShardRange& a, const ShardRange& b) {
  return a.column_begin == b.column_begin && a.column_end == b.column_end;
}

/// Whether some, but not all, of a tensor's rows are held by several ranks.
bool rows_overlap(const PlannedParameter& parameter) {
  const std::vector<ShardRange>& ranges = parameter.ranges;
  for (std::size_t i = 1; i < ranges.size(); ++i) {
    if (ranges[i].rows() > 0 && same_columns(ranges[i - 1], ranges[i]) &&
        ranges[i].row_begin < ranges[i - 1].row_end) {
      return true;
    }
  }
  return false;
}

Tensor as_matrix(const Tensor& tensor) {
  return tensor.rank() == 1 ? tensor.view({tensor.dim(0), 1}) : tensor;
}

}  // namespace

ShardedGradients::ShardedGradients(const Model& model) : model_(model) {
  const auto rank = static_cast<std::size_t>(model.context().tensor().rank());
  for (const ParameterPointer& parameter : model.parameters()) {
    add_hooks(*parameter);
    for (const ParameterSegment& segment : parameter->segments()) {
      const PlannedParameter& planned = model.plan().parameters().at(segment.name);
      OwnedRows rows{parameter, &planned, planned.ranges[rank], segment.row_begin, 0, 0};
      std::int64_t begin = rows.range.row_begin;
      for (std::size_t lower = 0; lower < rank; ++lower) {
        if (same_columns(planned.ranges[lower], rows.range)) {
          begin = std::max(begin, planned.ranges[lower].row_end);
        }
      }
      rows.begin = std::min(begin - rows.range.row_begin, rows.range.rows());
      rows.end = rows.range.rows();
      owned_.push_back(std::move(rows));
    }
  }
}

void ShardedGradients::add_hooks(Parameter& parameter) {
  const ParallelContext& context = model_.context();
  Communicator& ring = context.mesh().context();
  if (ring.size() > 1) {
    hooks_.push_back(
        parameter.add_hook([&ring](Parameter& own) { ring.all_reduce(own.gradient()); }));
  }
  const TensorParallelGroup& group = context.tensor();
  if (group.size() == 1) return;
  for (const ParameterSegment& segment : parameter.segments()) {
    const PlannedParameter& planned = model_.plan().parameters().at(segment.name);
    if (planned.between_blocks) {
      if (!group.sequence_parallel()) continue;
      hooks_.push_back(parameter.add_hook(
          [&group](Parameter& own) { group.communicator().all_reduce(own.gradient()); }));
      continue;
    }
    // What is replicated inside a block belongs to one that every rank computes whole.
    if (planned.style == ShardStyle::replicate || !rows_overlap(planned)) continue;
    hooks_.push_back(parameter.add_hook(
        [this, segment](Parameter& own) { sum_shared_rows(own.gradient(), segment); }));
  }
}

void ShardedGradients::sum_shared_rows(const Tensor& gradient,
                                       const ParameterSegment& segment) const {
  const PlannedParameter& planned = model_.plan().parameters().at(segment.name);
  Communicator& communicator = model_.context().tensor().communicator();
  const ShardRange& range = planned.ranges[static_cast<std::size_t>(communicator.rank())];
  const Tensor whole =
      communicator.allocate({planned.shape[0], range.columns()}, DType::f32, gradient.device());
  ops::fill(whole, 0.0F);
  const Tensor own = as_matrix(gradient).slice(0, segment.row_begin, segment.row_end);
  const Tensor place = whole.slice(0, range.row_begin, range.row_end);
  ops::copy(own, place);
  communicator.all_reduce(whole);
  ops::copy(place, own);
}

double ShardedGradients::norm() const {
  double squares = 0.0;
  for (const OwnedRows& rows : owned_) {
    if (rows.begin == rows.end || !rows.parameter->has_gradient()) continue;
    squares += ops::sum_of_squares(
        rows.parameter->gradient().slice(0, rows.first + rows.begin, rows.first + rows.end));
  }
  double total = 0.0;
  for (const double part : gather_values(model_.context().tensor().communicator(), squares)) {
    total += part;
  }
  return std::sqrt(total);
}

void ShardedGradients::clear() const {
  for (const OwnedRows& rows : owned_) rows.parameter->clear_gradient();
}

void ShardedGradients::visit(const std::function<Tensor(Parameter&)>& tensor_of,
                             const Visitor& visit) const {
  Communicator& communicator = model_.context().tensor().communicator();
  for (auto rows = owned_.begin(); rows != owned_.end();) {
    const std::string& name = rows->planned->tensor;
    const Shape& shape = rows->planned->tensor_shape;
    const Tensor whole =
        Tensor::empty({shape[0], shape.rank() == 1 ? 1 : shape[1]}, DType::f32, model_.device());
    ops::fill(whole, 0.0F);
    // The parts of a fused tensor follow each other.
    for (; rows != owned_.end() && rows->planned->tensor == name; ++rows) {
      if (rows->begin == rows->end) continue;
      const ShardRange& range = rows->range;
      const std::int64_t first = rows->planned->first_row + range.row_begin;
      ops::copy(as_matrix(tensor_of(*rows->parameter))
                    .slice(0, rows->first + rows->begin, rows->first + rows->end),
                whole.slice(0, first + rows->begin, first + rows->end)
                    .slice(1, range.column_begin, range.column_end));
    }
    // Adding zeros is exact, so a sum is a gather that knows nothing of who holds what.
    communicator.all_reduce(whole);
    visit(name, ops::to_host(whole).view(shape));
  }
}

void ShardedGradients::visit_gradients(const Visitor& visit) const {
  this->visit([](Parameter& parameter) { return parameter.gradient(); }, visit);
}

void ShardedGradients::visit_parameters(const Visitor& visit) const {
  this->visit([](Parameter& parameter) { return parameter.master(); }, visit);
}

}  // namespace portolan
