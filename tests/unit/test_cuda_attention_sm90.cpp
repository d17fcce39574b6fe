// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "attention/cuda/sm90_backward_keys_block.hpp"
#include "attention/cuda/sm90_backward_queries_block.hpp"
#include "attention/cuda/sm90_forward_block.hpp"
#include "tests/reference/attention_reference.hpp"
#include "tests/unit/emulated_hopper_lane.hpp"

/// The sm_90a kernels' own code, block by block on emulated threads, against attention in f64.
namespace portolan {
namespace {

using cuda::AttentionElement;
using cuda::AttentionOutput;
using testing_support::EmulatedHopperLane;
using testing_support::EmulatedTensorMap;
using testing_support::HopperLiberties;

struct Case {
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
void PrintTo(const Case& shape, std::ostream* stream) { *stream << shape.name; }

std::vector<std::int32_t> offsets_of(const std::vector<int>& lengths) {
  std::vector<std::int32_t> offsets(1, 0);
  for (const int length : lengths) offsets.push_back(offsets.back() + length);
  return offsets;
}

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
  [[nodiscard]] std::vector<double> entry(std::size_t index) const {
    std::vector<double> values;
    for (std::int64_t i = offsets_[index] * row(); i < offsets_[index + 1] * row(); ++i) {
      values.push_back(value(static_cast<std::size_t>(i)));
    }
    return values;
  }
  [[nodiscard]] double value(std::size_t index) const {
    const std::uint16_t bits = data_[index];
    return element_ == AttentionElement::bf16 ? to_float(BFloat16{bits}) : to_float(Float16{bits});
  }
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
  [[nodiscard]] std::uint16_t rounded(float value) const {
    return element_ == AttentionElement::bf16 ? from_float<BFloat16>(value).bits
                                              : from_float<Float16>(value).bits;
  }

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
  explicit Attention(const Case& shape)
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
  static Rows queries_like(const Case& shape) {
    return {shape.element, shape.queries, shape.heads, shape.head_dim};
  }
  static Rows keys_like(const Case& shape) {
    return {shape.element, shape.keys, shape.key_heads, shape.head_dim};
  }
  [[nodiscard]] double scale() const { return 1.0 / std::sqrt(shape_.head_dim); }
  [[nodiscard]] std::int64_t statistics_stride() const {
    return shape_.packed ? query_offsets.back() : shape_.queries[0];
  }
  [[nodiscard]] std::size_t statistics() const {
    return static_cast<std::size_t>(query_offsets.back()) * static_cast<std::size_t>(shape_.heads);
  }

  Case shape_;
  std::vector<EmulatedTensorMap> maps_;
};

template <typename Block>
void run_blocks(const typename Block::Parameters& parameters, std::int64_t blocks,
                HopperLiberties liberties) {
  for (int index = 0; index < blocks; ++index) {
    testing_support::run_emulated_hopper_block(
        Block::kThreads, sizeof(typename Block::Shared), liberties, index, static_cast<int>(blocks),
        [&](const EmulatedHopperLane& lane, std::byte* shared) {
          Block(lane, parameters, *reinterpret_cast<typename Block::Shared*>(shared)).run();
        });
  }
}

template <AttentionElement kElement, int kHeadDim>
void run_forward(Attention& attention, HopperLiberties liberties, AttentionOutput output) {
  using Block = cuda::sm90::ForwardBlock<EmulatedHopperLane, kElement, kHeadDim>;
  const cuda::AttentionShape shape = attention.shape();
  int next_tile = 0;
  typename Block::Parameters parameters;
  parameters.problem = attention.problem({{&attention.q, Block::kQueries},
                                          {&attention.k, Block::kKeys},
                                          {&attention.v, Block::kKeys},
                                          {&attention.out, cuda::sm90::kWarpgroupRows}});
  parameters.order.query_tiles =
      cuda::sm90::divide_up(static_cast<int>(shape.query_tokens), Block::kQueries);
  parameters.order.heads = static_cast<int>(shape.batch * shape.heads);
  parameters.order.section_heads = static_cast<int>(shape.heads);
  parameters.next_tile = &next_tile;
  parameters.log_sum_exp = attention.log_sum_exp.data();
  parameters.out = attention.out.float_result(output);
  run_blocks<Block>(parameters, std::min(2, parameters.order.tiles()), liberties);
}

template <AttentionElement kElement, int kHeadDim>
void run_backward(Attention& attention, HopperLiberties liberties, AttentionOutput output) {
  const cuda::AttentionShape shape = attention.shape();
  {
    using Block = cuda::sm90::BackwardKeysBlock<EmulatedHopperLane, kElement, kHeadDim>;
    typename Block::Parameters parameters;
    parameters.problem = attention.problem({{&attention.q, Block::kQueries},
                                            {&attention.grad_out, Block::kQueries},
                                            {&attention.k, Block::kKeys},
                                            {&attention.v, Block::kKeys},
                                            {&attention.dk, cuda::sm90::kWarpgroupRows},
                                            {&attention.dv, cuda::sm90::kWarpgroupRows}});
    parameters.log_sum_exp = attention.log_sum_exp.data();
    parameters.delta = attention.delta.data();
    parameters.dk = attention.dk.float_result(output);
    parameters.dv = attention.dv.float_result(output);
    run_blocks<Block>(parameters, Block::blocks(shape), liberties);
  }
  using Block = cuda::sm90::BackwardQueriesBlock<EmulatedHopperLane, kElement, kHeadDim>;
  typename Block::Parameters parameters;
  parameters.problem = attention.problem({{&attention.q, Block::kQueries},
                                          {&attention.grad_out, Block::kQueries},
                                          {&attention.k, Block::kKeys},
                                          {&attention.v, Block::kKeys},
                                          {&attention.dq, cuda::sm90::kWarpgroupRows}});
  parameters.log_sum_exp = attention.log_sum_exp.data();
  parameters.delta = attention.delta.data();
  parameters.dq = attention.dq.float_result(output);
  run_blocks<Block>(parameters, Block::blocks(shape), liberties);
}

template <AttentionElement kElement>
void run_of(const Case& shape, Attention& attention, bool backward, HopperLiberties liberties,
            AttentionOutput output) {
  if (shape.head_dim > 64) {
    backward ? run_backward<kElement, 128>(attention, liberties, output)
             : run_forward<kElement, 128>(attention, liberties, output);
  } else {
    backward ? run_backward<kElement, 64>(attention, liberties, output)
             : run_forward<kElement, 64>(attention, liberties, output);
  }
}
void run(const Case& shape, Attention& attention, bool backward, HopperLiberties liberties,
         AttentionOutput output = AttentionOutput::element) {
  if (shape.element == AttentionElement::bf16) {
    run_of<AttentionElement::bf16>(shape, attention, backward, liberties, output);
  } else {
    run_of<AttentionElement::f16>(shape, attention, backward, liberties, output);
  }
}

/// By the norm of the difference; NaN never passes. What is 0 in f64 may be off by f32 rounding.
void expect_close(const std::vector<double>& values, const std::vector<double>& expected,
                  double bound, const std::string& what) {
  ASSERT_EQ(values.size(), expected.size()) << what;
  double difference = 0.0;
  double norm = 0.0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    difference += (values[i] - expected[i]) * (values[i] - expected[i]);
    norm += expected[i] * expected[i];
  }
  constexpr double kSmall = 1e-6;
  const double small = kSmall * std::sqrt(static_cast<double>(values.size()));
  EXPECT_LE(std::sqrt(difference), bound * std::sqrt(norm) + small) << what;
}

/// Rounding of one product's operands and of the result.
double bound_of(const Case& shape) { return shape.element == AttentionElement::bf16 ? 4e-3 : 5e-4; }

const HopperLiberties kOrders[] = {
    {.late_copies = false, .late_products = false, .last_warp_first = false},
    {.late_copies = false, .late_products = true, .last_warp_first = true},
    {.late_copies = true, .late_products = true, .last_warp_first = false},
};

class CudaAttentionSm90 : public ::testing::TestWithParam<Case> {};

TEST_P(CudaAttentionSm90, ForwardIsAttention) {
  const Case& shape = GetParam();
  Attention attention(shape);
  run(shape, attention, false, kOrders[0]);
  for (std::size_t entry = 0; entry < shape.queries.size(); ++entry) {
    const std::string where = "entry " + std::to_string(entry);
    const reference::AttentionOutput expected = reference::attention(attention.input(entry));
    expect_close(attention.out.entry(entry), expected.out, bound_of(shape), where);
    const auto rows = static_cast<std::size_t>(shape.queries[entry]);
    for (int head = 0; head < shape.heads; ++head) {
      for (std::size_t i = 0; i < rows; ++i) {
        const double sum = expected.log_sum_exp[static_cast<std::size_t>(head) * rows + i];
        const float found = attention.log_sum_exp[attention.statistics_offset(entry, head) + i];
        if (std::isinf(sum)) {
          ASSERT_EQ(found, -std::numeric_limits<float>::infinity()) << where << ", row " << i;
        } else {
          ASSERT_NEAR(found, sum, 2e-5 * (1.0 + std::abs(sum))) << where << ", row " << i;
        }
      }
    }
  }
}

TEST_P(CudaAttentionSm90, BackwardIsItsGradient) {
  const Case& shape = GetParam();
  Attention attention(shape);
  attention.set_statistics_from_reference();
  run(shape, attention, true, kOrders[0]);
  for (std::size_t entry = 0; entry < shape.queries.size(); ++entry) {
    const std::string where = "entry " + std::to_string(entry);
    const reference::AttentionGradient expected =
        reference::attention_gradient(attention.input(entry), attention.grad_out.entry(entry));
    expect_close(attention.dq.entry(entry), expected.dq, bound_of(shape), where + ", dq");
    expect_close(attention.dk.entry(entry), expected.dk, bound_of(shape), where + ", dk");
    expect_close(attention.dv.entry(entry), expected.dv, bound_of(shape), where + ", dv");
  }
}

TEST_P(CudaAttentionSm90, DoesNotDependOnTheOrderInWhichTheHardwareRunsThings) {
  const Case& shape = GetParam();
  Attention first(shape);
  first.set_statistics_from_reference();
  run(shape, first, true, kOrders[0]);
  run(shape, first, false, kOrders[0]);
  for (const HopperLiberties& order : {kOrders[1], kOrders[2]}) {
    Attention other(shape);
    other.set_statistics_from_reference();
    run(shape, other, true, order);
    run(shape, other, false, order);
    EXPECT_EQ(other.out.bits(), first.out.bits());
    EXPECT_EQ(other.dq.bits(), first.dq.bits());
    EXPECT_EQ(other.dk.bits(), first.dk.bits());
    EXPECT_EQ(other.dv.bits(), first.dv.bits());
    EXPECT_EQ(0, std::memcmp(other.log_sum_exp.data(), first.log_sum_exp.data(),
                             first.log_sum_exp.size() * sizeof(float)));
  }
}

TEST_P(CudaAttentionSm90, WritesOrAddsTheSameInSinglePrecision) {
  const Case& shape = GetParam();
  Attention attention(shape);
  attention.set_statistics_from_reference();
  run(shape, attention, true, kOrders[0]);
  run(shape, attention, false, kOrders[0]);
  for (const AttentionOutput output : {AttentionOutput::f32, AttentionOutput::f32_sum}) {
    attention.set_statistics_from_reference();  // the forward pass has written its own
    run(shape, attention, true, kOrders[0], output);
    // The forward pass does not add.
    run(shape, attention, false, kOrders[0], AttentionOutput::f32);
    for (const Rows* rows : {&attention.dq, &attention.dk, &attention.dv, &attention.out}) {
      const bool adds = output == AttentionOutput::f32_sum && rows != &attention.out;
      for (std::size_t i = 0; i < rows->floats().size(); ++i) {
        const float value = rows->floats()[i];
        if (adds) {
          // Of what was rounded once more by the addition no more than this can be said.
          const float element = static_cast<float>(rows->value(i));
          ASSERT_NEAR(value - Rows::kBefore, element, 1e-6 + std::abs(element) / 128.0) << i;
        } else {
          ASSERT_EQ(rows->rounded(value), rows->bits()[i]) << i;
        }
      }
    }
  }
}

const Case kCases[] = {
    {.name = "one_token", .queries = {1}, .keys = {1}},
    {.name = "causal", .queries = {300, 300}, .keys = {300, 300}, .heads = 2},
    {.name = "causal_f16_64",
     .element = AttentionElement::f16,
     .queries = {450},
     .keys = {450},
     .heads = 2,
     .head_dim = 64},
    {.name = "full", .queries = {200}, .keys = {333}, .causal = false},
    {.name = "full_64", .queries = {100}, .keys = {400}, .head_dim = 64, .causal = false},
    {.name = "shared_key_heads",
     .queries = {140},
     .keys = {200},
     .heads = 4,
     .key_heads = 2,
     .head_dim = 64},
    {.name = "shared_key_heads_f16",
     .element = AttentionElement::f16,
     .queries = {130},
     .keys = {70},
     .heads = 3,
     .key_heads = 1},
    {.name = "queries_without_keys", .queries = {400}, .keys = {130}},
    {.name = "window", .queries = {500}, .keys = {500}, .window = 100},
    {.name = "narrow_window", .queries = {129}, .keys = {400}, .head_dim = 64, .window = 1},
    {.name = "head_dim_96", .queries = {70}, .keys = {150}, .head_dim = 96},
    {.name = "head_dim_40", .queries = {70}, .keys = {150}, .head_dim = 40},
    {.name = "packed",
     .queries = {130, 1, 257, 64},
     .keys = {130, 1, 257, 200},
     .heads = 2,
     .key_heads = 1,
     .packed = true},
    {.name = "packed_64_full",
     .queries = {5, 200, 0, 70},
     .keys = {150, 3, 9, 70},
     .head_dim = 64,
     .causal = false,
     .packed = true},
};

INSTANTIATE_TEST_SUITE_P(Emulated, CudaAttentionSm90, ::testing::ValuesIn(kCases),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace portolan
