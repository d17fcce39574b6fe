// SPDX-License-Identifier: Apache-2.0
#include "attention/attention.hpp"

#include <utility>

#include "core/backend.hpp"
#include "core/error.hpp"
#include "core/shape_format.hpp"

namespace portolan {
namespace {

void require_operand(const Tensor& tensor, const char* name) {
  require(tensor.defined(), "attention: {} is an empty tensor", name);
  require(tensor.rank() == 4, "attention: {} must be [batch, tokens, heads, head_dim], found {}",
          name, tensor.shape());
  require(tensor.dim(3) <= 1 || tensor.strides()[3] == 1,
          "attention: the last dimension of {} must be dense", name);
}

void require_like_query(const Tensor& q, const Tensor& tensor, const char* name) {
  require_operand(tensor, name);
  require(tensor.device() == q.device(), "attention: q is on '{}', {} on '{}'",
          name_of(q.device().kind), name, name_of(tensor.device().kind));
  require(tensor.dim(0) == q.dim(0) && tensor.dim(3) == q.dim(3),
          "attention: q {} and {} {} must have equal batch and head_dim", q.shape(), name,
          tensor.shape());
}

void require_runs(const std::vector<TokenRun>& runs, std::int64_t tokens, const char* name) {
  if (runs.empty()) return;
  std::int64_t total = 0;
  for (const TokenRun& run : runs) {
    require(run.length >= 0, "attention: a run of {} has {} tokens", name, run.length);
    total += run.length;
  }
  require(total == tokens, "attention: the runs of {} have {} tokens, the tensor {}", name, total,
          tokens);
}

void require_features(const AttentionProblem& problem) {
  const AttentionMask& mask = problem.mask;
  const std::int64_t batch = problem.q.dim(0);
  const std::int64_t keys = problem.k.dim(1);
  require(mask.key_ranges.empty() || std::ssize(mask.key_ranges) == batch,
          "attention: {} key ranges for a batch of {}", mask.key_ranges.size(), batch);
  for (const KeyRange& range : mask.key_ranges) {
    require(range.begin >= 0 && range.begin <= range.end && range.end <= keys,
            "attention: key range [{}, {}) does not lie in {} keys", range.begin, range.end, keys);
  }
  const float probability = problem.dropout.probability;
  require(probability >= 0.0F && probability < 1.0F,
          "attention: the dropout probability must lie in [0, 1), found {}", probability);
  if (!mask.blocks) return;
  const BlockMap& map = *mask.blocks;
  const auto blocks = [](std::int64_t tokens, std::int64_t block) {
    return (tokens + block - 1) / block;
  };
  require(map.block_queries > 0 && map.block_keys > 0,
          "attention: blocks of the block map must not be empty, found {} x {}", map.block_queries,
          map.block_keys);
  require(map.heads == problem.q.dim(2) &&
              map.block_rows == blocks(problem.q.dim(1), map.block_queries) &&
              map.block_columns == blocks(keys, map.block_keys),
          "attention: the block map must be [{}, {}, {}], found [{}, {}, {}]", problem.q.dim(2),
          blocks(problem.q.dim(1), map.block_queries), blocks(keys, map.block_keys), map.heads,
          map.block_rows, map.block_columns);
  require(std::ssize(map.row_begin) == map.heads * map.block_rows + 1 &&
              map.row_begin.front() == 0 && map.row_begin.back() == std::ssize(map.columns),
          "attention: the block map's {} rows and {} blocks need as many bounds of rows and one "
          "more, from 0 to the number of blocks, found {}",
          map.heads * map.block_rows, map.columns.size(), map.row_begin.size());
}

void require_cached_rows(const AttentionProblem& problem) {
  const Tensor& rows = problem.cached_rows;
  if (!rows.defined()) return;
  const Shape expected{problem.q.dim(0), 2};
  require(rows.shape() == expected && rows.dtype() == DType::i32,
          "attention: the cached rows must be i32 {}, found {} {}", expected, name_of(rows.dtype()),
          rows.shape());
  require(rows.device() == problem.q.device(), "attention: q is on '{}', the cached rows on '{}'",
          name_of(problem.q.device().kind), name_of(rows.device().kind));
  require(rows.is_contiguous(), "attention: the cached rows must be contiguous, found strides {}",
          rows.strides());
  const AttentionMask& mask = problem.mask;
  const char* found = !mask.query_runs.empty()             ? "runs of queries"
                      : !mask.key_runs.empty()             ? "runs of keys"
                      : !mask.key_ranges.empty()           ? "key ranges"
                      : mask.blocks != nullptr             ? "a block map"
                      : problem.dropout.probability > 0.0F ? "dropout"
                                                           : nullptr;
  require(found == nullptr, "attention: a problem with cached rows has {} as well", found);
}

void require_problem(const AttentionProblem& problem) {
  const Tensor& q = problem.q;
  require_operand(q, "q");
  require(is_floating(q.dtype()), "attention: q must be f32, bf16 or f16, found {}",
          name_of(q.dtype()));
  for (const auto& [tensor, name] : {std::pair(&problem.k, "k"), std::pair(&problem.v, "v")}) {
    require_like_query(q, *tensor, name);
    require(tensor->dtype() == q.dtype(), "attention: q is {}, {} is {}", name_of(q.dtype()), name,
            name_of(tensor->dtype()));
  }
  require(problem.k.shape() == problem.v.shape(), "attention: k {} and v {} must have one shape",
          problem.k.shape(), problem.v.shape());
  require(problem.k.dim(2) > 0 && q.dim(2) % problem.k.dim(2) == 0,
          "attention: {} query heads must be a multiple of {} key/value heads", q.dim(2),
          problem.k.dim(2));
  require(q.dim(3) >= 1 && q.dim(3) <= kMaximumAttentionHeadDim,
          "attention: head_dim must lie in 1 to {}, found {}", kMaximumAttentionHeadDim, q.dim(3));
  require(problem.mask.window >= 0, "attention: the window must not be negative, found {}",
          problem.mask.window);
  require_runs(problem.mask.query_runs, q.dim(1), "q");
  require_runs(problem.mask.key_runs, problem.k.dim(1), "k");
  require_features(problem);
  require_cached_rows(problem);
}

void require_out(const AttentionProblem& problem, const Tensor& out) {
  const Tensor& q = problem.q;
  require_like_query(q, out, "out");
  require(out.shape() == q.shape(), "attention: out {} must have the shape of q {}", out.shape(),
          q.shape());
  require(out.dtype() == q.dtype() || out.dtype() == DType::f32,
          "attention: out must be {} or f32, found {}", name_of(q.dtype()), name_of(out.dtype()));
}

void require_log_sum_exp(const Tensor& out, const Tensor& log_sum_exp) {
  const Shape expected{out.dim(0), out.dim(2), out.dim(1)};
  require(log_sum_exp.defined() && log_sum_exp.shape() == expected &&
              log_sum_exp.dtype() == DType::f32 && log_sum_exp.device() == out.device(),
          "attention: log_sum_exp must be f32 {} on the device of out", expected);
}

void run(const AttentionProblem& problem, const Tensor& out, const Tensor& log_sum_exp,
         std::optional<AttentionMethod> method) {
  if (out.elements() == 0) return;
  const AttentionForwardKernel& kernel = select_attention_forward(problem, method);
  const ProfilingRegion region(problem.q.device(), "Portolan::Attention::forward");
  kernel.forward(problem, out, log_sum_exp);
}

void require_gradients(const AttentionProblem& problem, const AttentionGradients& gradients) {
  require_out(problem, gradients.grad_out);
  require_log_sum_exp(gradients.grad_out, gradients.log_sum_exp);
  require_log_sum_exp(gradients.grad_out, gradients.delta);
  const auto check = [&](const Tensor& gradient, const Tensor& operand, const char* name) {
    require_operand(gradient, name);
    require(gradient.shape() == operand.shape() && gradient.device() == operand.device(),
            "attention: {} {} must have the shape and device of its operand {}", name,
            gradient.shape(), operand.shape());
    require(gradient.dtype() == DType::f32 ||
                (gradient.dtype() == operand.dtype() && !gradients.accumulate),
            "attention: {} must be {}{}f32, found {}", name,
            gradients.accumulate ? "" : name_of(operand.dtype()),
            gradients.accumulate ? "" : " or ", name_of(gradient.dtype()));
  };
  check(gradients.dq, problem.q, "dq");
  check(gradients.dk, problem.k, "dk");
  check(gradients.dv, problem.v, "dv");
}

}  // namespace

void attention_forward(const AttentionProblem& problem, const Tensor& out,
                       const Tensor& log_sum_exp, std::optional<AttentionMethod> method) {
  require_problem(problem);
  require_out(problem, out);
  if (log_sum_exp.defined()) require_log_sum_exp(out, log_sum_exp);
  run(problem, out, log_sum_exp, method);
}

void attention_partial(const AttentionProblem& problem, const Tensor& out,
                       const Tensor& log_sum_exp, std::optional<AttentionMethod> method) {
  require_problem(problem);
  require_out(problem, out);
  require(out.dtype() == DType::f32, "attention: a partial result must be f32, found {}",
          name_of(out.dtype()));
  require_log_sum_exp(out, log_sum_exp);
  run(problem, out, log_sum_exp, method);
}

void attention_backward(const AttentionProblem& problem, const AttentionGradients& gradients,
                        std::optional<AttentionMethod> method) {
  require_problem(problem);
  require(!problem.cached_rows.defined(),
          "attention: a problem with cached rows has no backward pass");
  require_gradients(problem, gradients);
  if (problem.q.elements() == 0 && problem.k.elements() == 0) return;
  const AttentionBackwardKernel& kernel = select_attention_backward(problem, method);
  const ProfilingRegion region(problem.q.device(), "Portolan::Attention::backward");
  kernel.backward(problem, gradients);
}

void attention_delta(const Tensor& out, const Tensor& grad_out, const Tensor& delta) {
  require_operand(out, "out");
  require_like_query(out, grad_out, "grad_out");
  require(is_floating(out.dtype()) && is_floating(grad_out.dtype()),
          "attention: out and grad_out must be f32, bf16 or f16, found {} and {}",
          name_of(out.dtype()), name_of(grad_out.dtype()));
  require(grad_out.shape() == out.shape(), "attention: out {} and grad_out {} must have one shape",
          out.shape(), grad_out.shape());
  require_log_sum_exp(out, delta);
  if (out.elements() == 0) return;
  backend_of(out.device()).attention_delta(out, grad_out, delta);
}

void attention_merge(const Tensor& block_out, const Tensor& block_log_sum_exp, const Tensor& out,
                     const Tensor& log_sum_exp) {
  for (const auto& [tensor, name] : {std::pair(&block_out, "block_out"), std::pair(&out, "out")}) {
    require_operand(*tensor, name);
    require(tensor->dtype() == DType::f32 && tensor->is_contiguous(),
            "attention: {} must be dense f32 for merging", name);
  }
  require(block_out.shape() == out.shape() && block_out.device() == out.device(),
          "attention: block_out {} and out {} must have one shape and device", block_out.shape(),
          out.shape());
  for (const Tensor* tensor : {&block_log_sum_exp, &log_sum_exp}) {
    require_log_sum_exp(out, *tensor);
    require(tensor->is_contiguous(), "attention: log_sum_exp must be dense for merging");
  }
  if (out.elements() == 0) return;
  const ProfilingRegion region(out.device(), "Portolan::Attention::merge");
  backend_of(out.device()).merge_attention(block_out, block_log_sum_exp, out, log_sum_exp);
}

}  // namespace portolan
