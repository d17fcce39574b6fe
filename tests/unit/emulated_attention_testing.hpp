// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <ostream>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "attention/cuda/attention_arguments.hpp"
#include "attention/cuda/sm90_entry.hpp"
#include "tests/cuda/cases.hpp"
#include "tests/reference/attention_reference.hpp"
#include "tests/unit/element_bits.hpp"
#include "tests/unit/emulated_hopper_lane.hpp"

/// Attention problems for the emulated sm_90a kernels.
namespace portolan::testing_support {

using cuda::AttentionElement;
using cuda_testing::offsets_of;

struct CudaAttentionCase {
  const char* name = "";
  AttentionElement element = AttentionElement::bf16;
  std::vector<int> queries;  ///< of each entry; equal numbers unless packed
  std::vector<int> keys;
  int heads = 1;
  int key_heads = 1;
  int head_dim = 128;
  bool causal = true;
  int window = 0;
  bool packed = false;
};

/// gtest prints it.
inline void PrintTo(const CudaAttentionCase& shape, std::ostream* stream) { *stream << shape.name; }

/// A tensor [rows of all entries, heads, head_dim] of 16-bit elements.
class Rows {
 public:
  Rows(AttentionElement element, const std::vector<int>& lengths, int heads, int head_dim)
      : element_(element),
        lengths_(lengths),
        offsets_(offsets_of(lengths)),
        heads_(heads),
        head_dim_(head_dim),
        // All bits set: a NaN that nobody has written over.
        data_(static_cast<std::size_t>(offsets_.back()) * static_cast<std::size_t>(row()), 0xFFFF) {
  }

  void fill(std::mt19937& generator) {
    std::normal_distribution<float> normal;
    for (std::uint16_t& bits : data_) {
      bits = rounded(normal(generator));
    }
  }
  void set(std::size_t index, float value) { data_[index] = rounded(value); }
  [[nodiscard]] std::vector<double> entry(std::size_t index) const {
    std::vector<double> values;
    for (std::int64_t i = offsets_[index] * row(); i < offsets_[index + 1] * row(); ++i) {
      values.push_back(value(static_cast<std::size_t>(i)));
    }
    return values;
  }
  [[nodiscard]] double value(std::size_t index) const { return value_of(element_, data_[index]); }
  /// Of one sequence if packed, else of all entries.
  [[nodiscard]] EmulatedTensorMap map(bool packed, std::size_t sequence, int box_rows) {
    EmulatedTensorMap map;
    map.data = data_.data() + (packed ? offsets_[sequence] * row() : 0);
    map.sizes = {head_dim_, heads_, lengths_[packed ? sequence : 0],
                 packed ? 1 : static_cast<std::int64_t>(lengths_.size())};
    map.strides = {1, head_dim_, row(), lengths_[0] * row()};
    map.box_rows = box_rows;
    return map;
  }
  [[nodiscard]] const std::vector<std::uint16_t>& bits() const { return data_; }

  /// The same tensor in f32, for results that are written as such.
  [[nodiscard]] cuda::sm90::FloatResult float_result(cuda::AttentionOutput output) {
    floats_.assign(data_.size(), kBefore);
    return {floats_.data(), output, {lengths_[0] * row(), row(), head_dim_}};
  }
  /// What float_result() holds before.
  static constexpr float kBefore = 0.75F;
  [[nodiscard]] const std::vector<float>& floats() const { return floats_; }
  [[nodiscard]] std::uint16_t rounded(float value) const { return bits_of(element_, value); }

 private:
  [[nodiscard]] std::int64_t row() const { return std::int64_t{heads_} * head_dim_; }

  AttentionElement element_;
  std::vector<int> lengths_;
  std::vector<std::int32_t> offsets_;
  int heads_;
  int head_dim_;
  std::vector<std::uint16_t> data_;
  std::vector<float> floats_;
};

/// The tensors of a case and what f64 makes of them, entry by entry.
class Attention {
 public:
  explicit Attention(const CudaAttentionCase& shape)
      : q(queries_like(shape)),
        k(keys_like(shape)),
        v(keys_like(shape)),
        out(queries_like(shape)),
        grad_out(queries_like(shape)),
        dq(queries_like(shape)),
        dk(keys_like(shape)),
        dv(keys_like(shape)),
        query_offsets(offsets_of(shape.queries)),
        key_offsets(offsets_of(shape.keys)),
        shape_(shape) {
    std::mt19937 generator(7);
    for (Rows* rows : {&q, &k, &v, &grad_out}) rows->fill(generator);
    log_sum_exp.assign(statistics(), std::numeric_limits<float>::quiet_NaN());
    delta = log_sum_exp;
  }

  [[nodiscard]] cuda::AttentionShape shape() const {
    cuda::AttentionShape shape;
    shape.batch = static_cast<std::int64_t>(shape_.queries.size());
    shape.query_tokens = std::ranges::max(shape_.queries);
    shape.key_tokens = std::ranges::max(shape_.keys);
    shape.heads = shape_.heads;
    shape.key_heads = shape_.key_heads;
    shape.head_dim = shape_.head_dim;
    shape.element = shape_.element;
    shape.causal = shape_.causal;
    shape.window = shape_.window;
    shape.scale = static_cast<float>(scale());
    if (shape_.packed) {
      shape.query_offsets = query_offsets.data();
      shape.key_offsets = key_offsets.data();
    }
    return shape;
  }

  /// Maps of tensors, with the rows of their boxes; the sequences' are kept here.
  [[nodiscard]] cuda::sm90::Problem<EmulatedTensorMap> problem(
      const std::vector<std::pair<Rows*, int>>& tensors) {
    cuda::sm90::Problem<EmulatedTensorMap> problem;
    problem.shape = shape();
    problem.statistics_stride = statistics_stride();
    problem.tensors.count = static_cast<int>(tensors.size());
    maps_.clear();
    for (std::size_t entry = 0; entry < shape_.queries.size(); ++entry) {
      for (std::size_t i = 0; i < tensors.size(); ++i) {
        const EmulatedTensorMap map =
            tensors[i].first->map(shape_.packed, entry, tensors[i].second);
        // What a kernel must not use where sequences are packed has no data.
        if (!shape_.packed) problem.tensors.maps[i] = map;
        maps_.push_back(map);
      }
    }
    if (shape_.packed) problem.tensors.of_sequences = maps_.data();
    return problem;
  }

  [[nodiscard]] reference::AttentionInput input(std::size_t entry) const {
    reference::AttentionInput input;
    input.query_tokens = shape_.queries[entry];
    input.key_tokens = shape_.keys[entry];
    input.heads = shape_.heads;
    input.key_heads = shape_.key_heads;
    input.head_dim = shape_.head_dim;
    input.scale = scale();
    input.causal = shape_.causal || shape_.window > 0;
    input.window = shape_.window;
    input.query_positions.resize(static_cast<std::size_t>(input.query_tokens));
    std::iota(input.query_positions.begin(), input.query_positions.end(),
              input.key_tokens - input.query_tokens);
    input.key_positions.resize(static_cast<std::size_t>(input.key_tokens));
    std::iota(input.key_positions.begin(), input.key_positions.end(), 0);
    input.q = q.entry(entry);
    input.k = k.entry(entry);
    input.v = v.entry(entry);
    return input;
  }
  /// Of log_sum_exp and delta.
  [[nodiscard]] std::size_t statistics_offset(std::size_t entry, int head) const {
    const auto first = static_cast<std::size_t>(query_offsets[entry]);
    const auto stride = static_cast<std::size_t>(statistics_stride());
    const auto index = static_cast<std::size_t>(head);
    return shape_.packed ? index * stride + first
                         : (entry * static_cast<std::size_t>(shape_.heads) + index) * stride;
  }
  void set_statistics_from_reference() {
    for (std::size_t entry = 0; entry < shape_.queries.size(); ++entry) {
      const reference::AttentionInput values = input(entry);
      const auto rows = static_cast<std::size_t>(values.query_tokens);
      const std::vector<double> sums = reference::attention(values).log_sum_exp;
      const std::vector<double> deltas =
          reference::attention_gradient(values, grad_out.entry(entry)).delta;
      for (int head = 0; head < shape_.heads; ++head) {
        for (std::size_t i = 0; i < rows; ++i) {
          const std::size_t from = static_cast<std::size_t>(head) * rows + i;
          log_sum_exp[statistics_offset(entry, head) + i] = static_cast<float>(sums[from]);
          delta[statistics_offset(entry, head) + i] = static_cast<float>(deltas[from]);
        }
      }
    }
  }

  Rows q, k, v, out, grad_out, dq, dk, dv;
  std::vector<std::int32_t> query_offsets;
  std::vector<std::int32_t> key_offsets;
  std::vector<float> log_sum_exp;
  std::vector<float> delta;

 private:
  static Rows queries_like(const CudaAttentionCase& shape) {
    return {shape.element, shape.queries, shape.heads, shape.head_dim};
  }
  static Rows keys_like(const CudaAttentionCase& shape) {
    return {shape.element, shape.keys, shape.key_heads, shape.head_dim};
  }
  [[nodiscard]] double scale() const { return 1.0 / std::sqrt(shape_.head_dim); }
  [[nodiscard]] std::int64_t statistics_stride() const {
    return shape_.packed ? query_offsets.back() : shape_.queries[0];
  }
  [[nodiscard]] std::size_t statistics() const {
    return static_cast<std::size_t>(query_offsets.back()) * static_cast<std::size_t>(shape_.heads);
  }

  CudaAttentionCase shape_;
  std::vector<EmulatedTensorMap> maps_;
};

}  // namespace portolan::testing_support
