// SPDX-License-Identifier: Apache-2.0
#include "models/weight_source.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/error.hpp"
#include "core/ops.hpp"

namespace portolan {
namespace {

class RandomWeights final : public WeightSource {
 public:
  explicit RandomWeights(std::uint64_t seed) : seed_(seed) {}

  void read(const PlannedParameter& parameter, std::int64_t row_begin, std::int64_t column_begin,
            const Tensor& out) override {
    if (parameter.shape.rank() == 1) {
      ops::fill(out, parameter.tensor.ends_with(".bias") ? 0.0F : 1.0F);
      return;
    }
    constexpr float kStandardDeviation = 0.02F;
    constexpr float kSquareRootOf3 = 1.7320508F;
    ops::random_uniform(out, random_key(seed_, parameter.tensor),
                        {parameter.first_row + row_begin, column_begin, parameter.shape[1]}, 0.0F,
                        kStandardDeviation * kSquareRootOf3);
  }

 private:
  std::uint64_t seed_;
};

class CheckpointWeights final : public WeightSource {
 public:
  explicit CheckpointWeights(const Checkpoint& checkpoint) : checkpoint_(checkpoint) {}

  void read(const PlannedParameter& parameter, std::int64_t row_begin, std::int64_t column_begin,
            const Tensor& out) override {
    if (!is_host(out.device())) {
      const Tensor staged = Tensor::empty(out.shape(), out.dtype(), {DeviceKind::cpu, 0});
      read(parameter, row_begin, column_begin, staged);
      ops::copy(ops::to_device(staged, out.device()), out);
      return;
    }
    require(out.is_contiguous(), "checkpoint blocks are read into dense tensors");
    const std::int64_t first = parameter.first_row + row_begin;
    checkpoint_.read_block(parameter.tensor, first, first + out.dim(0), column_begin,
                           column_begin + out.dim(1), out.raw(), out.dtype());
  }

 private:
  const Checkpoint& checkpoint_;
};

}  // namespace

std::int64_t packing_rows(std::int64_t columns, DType dtype) {
  constexpr std::int64_t kScratchBytes = 4 << 20;
  const std::int64_t row_bytes =
      std::max<std::int64_t>(1, columns * static_cast<std::int64_t>(size_of(dtype)));
  return std::max<std::int64_t>(1, kScratchBytes / (row_bytes * kPanelWidth)) * kPanelWidth;
}

std::unique_ptr<WeightSource> make_random_weights(std::uint64_t seed) {
  return std::make_unique<RandomWeights>(seed);
}

std::unique_ptr<WeightSource> make_checkpoint_weights(const Checkpoint& checkpoint) {
  return std::make_unique<CheckpointWeights>(checkpoint);
}

ShardLoader::ShardLoader(const ResolvedPlan& plan, int rank, WeightSource& source, DType dtype,
                         Device device, ParameterUse use, Quantization quantization)
    : plan_(plan),
      rank_(rank),
      source_(source),
      dtype_(dtype),
      device_(device),
      use_(use),
      quantization_(quantization) {
  require(use == ParameterUse::inference || quantization == Quantization::none,
          "{} weights are for inference only: training needs them as they are",
          name_of(quantization));
}

void ShardLoader::read_rows(const std::string& name, const Tensor& out) const {
  const ShardRange& block = range(name);
  const std::int64_t step = packing_rows(block.columns(), out.dtype());
  for (std::int64_t row = 0; row < block.rows(); row += step) {
    const Tensor chunk = out.slice(0, row, std::min(row + step, block.rows()));
    source_.read(plan_.at(name), block.row_begin + row, block.column_begin, chunk);
  }
}

ParameterPointer ShardLoader::keep(std::vector<ParameterSegment> segments, const Tensor& value) {
  loaded_.push_back(use_ == ParameterUse::training
                        ? Parameter::trainable(std::move(segments), value, dtype_)
                        : std::make_shared<Parameter>(std::move(segments), value));
  return loaded_.back();
}

ParameterPointer ShardLoader::plain(const std::string& name) {
  const ShardRange& block = range(name);
  const Tensor matrix = Tensor::empty({block.rows(), block.columns()}, plain_dtype(), device_);
  read_rows(name, matrix);
  return keep({{name, 0, block.rows()}},
              plan_.at(name).shape.rank() == 1 ? matrix.view({block.rows()}) : matrix);
}

ParameterPointer ShardLoader::joined(const std::vector<std::string>& names) {
  std::vector<ParameterSegment> segments;
  std::int64_t rows = 0;
  for (const std::string& name : names) {
    segments.push_back({name, rows, rows + range(name).rows()});
    rows = segments.back().row_end;
  }
  const Tensor vector = Tensor::empty({rows, 1}, plain_dtype(), device_);
  for (const ParameterSegment& segment : segments) {
    read_rows(segment.name, vector.slice(0, segment.row_begin, segment.row_end));
  }
  return keep(std::move(segments), vector.view({rows}));
}

ParameterPointer ShardLoader::stacked(const std::vector<std::string>& names) {
  const std::int64_t columns = range(names.front()).columns();
  std::vector<ParameterSegment> segments;
  std::int64_t outputs = 0;
  for (const std::string& name : names) {
    require(range(name).columns() == columns,
            "matrices stacked for one product differ in width: {}", name);
    segments.push_back({name, outputs, outputs + range(name).rows()});
    outputs += range(name).rows();
  }
  const Weight weight = allocate_product(outputs, columns);
  read_stacked(names, weight);
  if (use_ == ParameterUse::training) {
    products_.push_back(keep(std::move(segments), weight.storage()));
    return products_.back();
  }
  products_.push_back(std::make_shared<Parameter>(std::move(segments), weight));
  loaded_.push_back(products_.back());
  return loaded_.back();
}

Weight ShardLoader::allocate_product(std::int64_t outputs, std::int64_t inputs) const {
  if (use_ == ParameterUse::inference && outputs > 0 && inputs > 0) {
    if (quantization_ != Quantization::none) {
      return Weight::quantized(outputs, inputs, quantization_, device_);
    }
    Backend& backend = backend_of(device_);
    if (backend.packed_layout(outputs, inputs, dtype_) == WeightLayout::panels) {
      return backend.allocate_packed(outputs, inputs, dtype_);
    }
  }
  return Weight::plain(Tensor::empty({outputs, inputs}, plain_dtype(), device_));
}

void ShardLoader::read_stacked(const std::vector<std::string>& names, const Weight& weight) const {
  const bool pack = weight.layout() == WeightLayout::panels;
  const std::int64_t outputs = weight.out_features();
  // Integers are made from the source's values, not from what the model's dtype leaves of them.
  const DType dtype = weight.is_quantized() ? DType::f32 : plain_dtype();
  const std::int64_t step = packing_rows(weight.in_features(), dtype);
  const Tensor scratch =
      pack ? Tensor::empty({std::min(step, outputs), weight.in_features()}, dtype, device_)
           : Tensor();

  for (std::int64_t begin = 0; begin < outputs; begin += step) {
    const std::int64_t end = std::min(begin + step, outputs);
    const Tensor chunk =
        pack ? scratch.slice(0, 0, end - begin) : weight.storage().slice(0, begin, end);
    std::int64_t first = 0;  // where the matrix starts in the stack
    for (const std::string& name : names) {
      const ShardRange& block = range(name);
      const std::int64_t from = std::max(begin, first);
      const std::int64_t to = std::min(end, first + block.rows());
      if (from < to) {
        source_.read(plan_.at(name), block.row_begin + from - first, block.column_begin,
                     chunk.slice(0, from - begin, to - begin));
      }
      first += block.rows();
    }
    if (pack) ops::pack_rows(chunk, begin, weight);
  }
}

}  // namespace portolan
