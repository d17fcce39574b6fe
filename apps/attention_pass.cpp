// SPDX-License-Identifier: Apache-2.0
#include "apps/attention_pass.hpp"

#include <algorithm>
#include <cmath>
#include <memory>

#include "apps/attention_error.hpp"
#include "apps/benchmark_work.hpp"
#include "attention/block_patterns.hpp"
#include "core/ops.hpp"

namespace portolan {
namespace {

/// The block-sparse pattern: a few blocks around the diagonal, and every so many of the others.
constexpr std::int64_t kNeighbours = 2;
constexpr std::int64_t kBlockStride = 8;

std::shared_ptr<const BlockMap> block_pattern(const AttentionBenchmarkCase& setting) {
  const BlockGrid grid{.heads = setting.heads,
                       .query_tokens = setting.length,
                       .key_tokens = setting.length,
                       .block_queries = setting.block,
                       .block_keys = setting.block};
  return std::make_shared<const BlockMap>(
      united(local_blocks(grid, kNeighbours), strided_blocks(grid, kBlockStride)));
}

/// Scores that a causal mask with a window or blocks leaves, of all heads of a batch entry.
double scores_of(const AttentionMask& mask, std::int64_t heads, std::int64_t length) {
  if (!mask.blocks) {
    return static_cast<double>(heads) * static_cast<double>(visible_scores(mask, length, length));
  }
  const BlockMap& map = *mask.blocks;
  std::int64_t scores = 0;
  for (std::int64_t head = 0; head < heads; ++head) {
    for (std::int64_t query = 0; query < length; ++query) {
      const auto row = static_cast<std::size_t>(head * map.block_rows + query / map.block_queries);
      for (auto at = map.row_begin[row]; at < map.row_begin[row + 1]; ++at) {
        const std::int64_t begin = map.columns[static_cast<std::size_t>(at)] * map.block_keys;
        scores += std::clamp<std::int64_t>(query + 1 - begin, 0, map.block_keys);
      }
    }
  }
  return static_cast<double>(scores);
}

Tensor empty_like(const Tensor& tensor) {
  return Tensor::empty(tensor.shape(), tensor.dtype(), tensor.device());
}

}  // namespace

AttentionBenchmarkPass::AttentionBenchmarkPass(const AttentionBenchmarkCase& setting, Device device)
    : setting_(setting) {
  const AttentionBenchmarkCase& s = setting;
  const Shape query_shape{s.batch, s.length, s.heads, s.head_dim};
  const Shape key_shape{s.batch, s.length, s.key_heads, s.head_dim};
  originals_ = {random_operand(query_shape, s.dtype, device, s.seed, "q"),
                random_operand(key_shape, s.dtype, device, s.seed, "k"),
                random_operand(key_shape, s.dtype, device, s.seed, "v")};
  problem_ = {.q = empty_like(originals_[0]),
              .k = empty_like(originals_[1]),
              .v = empty_like(originals_[2]),
              .mask = {},
              .scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(s.head_dim)))};
  if (s.method == AttentionMethod::window) problem_.mask.window = s.window;
  if (s.method == AttentionMethod::block_sparse) {
    problem_.mask.blocks = block_pattern(s);
  }
  write_operands();
  out_ = empty_like(problem_.q);
  log_sum_exp_ = Tensor::empty({s.batch, s.heads, s.length}, DType::f32, device);
  if (s.pass == AttentionPass::backward) prepare_backward(device);
}

double AttentionBenchmarkPass::computed_scores() const {
  return scores_of(problem_.mask, setting_.heads, setting_.length);
}

std::size_t AttentionBenchmarkPass::workspace_bytes() const {
  return attention_choice(problem_, setting_.pass, setting_.method).workspace_bytes;
}

void AttentionBenchmarkPass::write_operands() const {
  ops::copy(originals_[0], problem_.q);
  ops::copy(originals_[1], problem_.k);
  ops::copy(originals_[2], problem_.v);
}

void AttentionBenchmarkPass::run() const {
  if (setting_.pass == AttentionPass::forward) {
    attention_forward(problem_, out_, log_sum_exp_, setting_.method);
  } else {
    attention_backward(problem_, gradients_, setting_.method);
  }
}

double AttentionBenchmarkPass::error() const {
  const AttentionErrorSample sample(problem_);
  return setting_.pass == AttentionPass::forward ? sample.forward_error(out_)
                                                 : sample.backward_error(gradients_);
}

/// The forward pass that the gradients belong to, by whichever kernel is first.
void AttentionBenchmarkPass::prepare_backward(Device device) {
  const Tensor exact = Tensor::empty(problem_.q.shape(), DType::f32, device);
  attention_forward(problem_, exact, log_sum_exp_);
  gradients_ = {.grad_out = random_operand(problem_.q.shape(), problem_.q.dtype(), device,
                                           setting_.seed, "grad_out"),
                .log_sum_exp = log_sum_exp_,
                .delta = empty_like(log_sum_exp_),
                .dq = empty_like(problem_.q),
                .dk = empty_like(problem_.k),
                .dv = empty_like(problem_.v)};
  attention_delta(exact, gradients_.grad_out, gradients_.delta);
}

}  // namespace portolan
