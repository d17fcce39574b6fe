// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "attention/portable/cached_rows.hpp"
#include "attention/portable/memory_efficient.hpp"
#include "attention/portable/plan.hpp"
#include "attention/portable/standard.hpp"
#include "attention/portable/tiled.hpp"
#include "core/backend.hpp"

/// Attention kernels over the functors of this folder; instantiated once per execution space.
namespace portolan::portable {

/// One run of a kernel: the problem where the execution space reads it, and the run's memory.
template <class Space>
class Run {
 public:
  Run(const AttentionProblem& problem, AttentionMethod method, AttentionPass pass)
      : problem_(problem),
        method_(method),
        shape_(tile_shape<Space>(pass, problem.q.dim(3))),
        tables_(problem, pass, is_tiled(method) ? shape_.own : 0),
        view_(problem) {
    if (!problem.cached_rows.defined()) {
      view_.query_run_count = std::ssize(tables_.query_runs);
      view_.key_run_count = std::ssize(tables_.key_runs);
      workspace_.add_table(tables_.query_runs, view_.query_runs);
      workspace_.add_table(tables_.key_runs, view_.key_runs);
    }
    if (!problem.mask.key_ranges.empty()) {
      workspace_.add_table(problem.mask.key_ranges, view_.key_ranges);
    }
    if (problem.mask.blocks) {
      add_blocks(*problem.mask.blocks, blocks_);
      if (pass == AttentionPass::backward) add_blocks(tables_.transposed_blocks, transposed_);
    }
    if (is_tiled(method)) {
      query_tiles_.count = std::ssize(tables_.query_tiles);
      key_tiles_.count = std::ssize(tables_.key_tiles);
      workspace_.add_table(tables_.query_tiles, query_tiles_.tiles);
      workspace_.add_table(tables_.key_tiles, key_tiles_.tiles);
    } else if (method == AttentionMethod::standard) {
      workspace_.add_memory(static_cast<std::size_t>(view_.batch * view_.heads *
                                                     view_.query_tokens * view_.key_tokens),
                            scores_);
    }
    if (is_tiled(method) && problem.statistics != nullptr) {
      workspace_.add_memory(team_counts(), counts_);
    }
  }
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  [[nodiscard]] std::size_t bytes() const { return workspace_.bytes(); }

  void forward(const Tensor& out, const Tensor& log_sum_exp) {
    allocate();
    if (method_ == AttentionMethod::standard) {
      Standard<Space>(view_, scores_).forward(out, log_sum_exp);
    } else if (method_ == AttentionMethod::memory_efficient) {
      MemoryEfficient<Space>(view_).forward(out, log_sum_exp);
    } else {
      TiledForward<Space>(view_, query_tiles_, counts_, out, log_sum_exp).launch();
    }
    count_tiles();
  }

  void backward(const AttentionGradients& gradients) {
    allocate();
    if (method_ == AttentionMethod::standard) {
      Standard<Space>(view_, scores_).backward(gradients);
    } else if (method_ == AttentionMethod::memory_efficient) {
      MemoryEfficient<Space>(view_).backward(gradients);
    } else {
      TiledQueryGradient<Space>(view_, query_tiles_, counts_, gradients).launch();
      TileCounts* const behind = counts_ == nullptr ? nullptr : counts_ + query_teams();
      TiledKeyGradient<Space>(view_, key_tiles_, behind, gradients).launch();
    }
    count_tiles();
  }

 private:
  struct BlockAddresses {
    const BlockMap* map = nullptr;
    const std::int32_t* row_begin = nullptr;
    const std::int32_t* columns = nullptr;

    [[nodiscard]] BlockView<Space> view() const {
      if (map == nullptr) return {};
      using Graph = BlockGraph<Space>;
      // The graph's entries are not const, but it does not write them.
      const typename Graph::entries_type entries(const_cast<std::int32_t*>(columns),
                                                 map->columns.size());
      const typename Graph::row_map_type row_map(row_begin, map->row_begin.size());
      return {Graph(entries, row_map), map->block_rows, map->block_queries, map->block_keys};
    }
  };

  void add_blocks(const BlockMap& map, BlockAddresses& addresses) {
    addresses.map = &map;
    workspace_.add_table(map.row_begin, addresses.row_begin);
    workspace_.add_table(map.columns, addresses.columns);
  }

  void allocate() {
    workspace_.allocate(problem_.q.device());
    view_.blocks = blocks_.view();
    view_.transposed_blocks = transposed_.view();
  }

  [[nodiscard]] std::size_t query_teams() const {
    return static_cast<std::size_t>(view_.batch * view_.heads * query_tiles_.count);
  }
  [[nodiscard]] std::size_t team_counts() const {
    return query_teams() +
           static_cast<std::size_t>(view_.batch * view_.key_heads * key_tiles_.count);
  }

  void count_tiles() const {
    if (counts_ == nullptr) return;
    std::vector<TileCounts> counts(team_counts());
    Backend& backend = backend_of(problem_.q.device());
    backend.copy_bytes(counts.data(), counts_, counts.size() * sizeof(TileCounts), Queue::compute);
    backend.synchronize();
    AttentionStatistics& statistics = *problem_.statistics;
    for (const TileCounts& count : counts) {
      statistics.tiles_visited += count.visited;
      statistics.tiles_compared += count.compared;
    }
    statistics.query_tile = shape_.own;
    statistics.key_tile = shape_.other;
  }

  const AttentionProblem& problem_;
  AttentionMethod method_;
  TileShape shape_;
  Tables tables_;
  ProblemView<Space> view_;
  TileTable query_tiles_;
  TileTable key_tiles_;
  BlockAddresses blocks_;
  BlockAddresses transposed_;
  float* scores_ = nullptr;
  TileCounts* counts_ = nullptr;
  Workspace workspace_;
};

template <class Space, DeviceKind kDevice>
class ForwardKernel final : public AttentionForwardKernel {
 public:
  explicit ForwardKernel(AttentionMethod method) : method_(method) {}
  [[nodiscard]] DeviceKind device() const override { return kDevice; }
  [[nodiscard]] AttentionMethod method() const override { return method_; }
  [[nodiscard]] std::string unsupported_reason(const AttentionProblem& problem) const override {
    return portable::unsupported_reason(method_, AttentionPass::forward, problem);
  }
  [[nodiscard]] std::size_t workspace_bytes(const AttentionProblem& problem) const override {
    if (goes_by_cached_rows(method_, problem)) return 0;
    return Run<Space>(problem, method_, AttentionPass::forward).bytes();
  }
  void forward(const AttentionProblem& problem, const Tensor& out,
               const Tensor& log_sum_exp) const override {
    if (goes_by_cached_rows(method_, problem)) {
      CachedRowsForward<Space>(problem, out, log_sum_exp).launch();
      return;
    }
    Run<Space>(problem, method_, AttentionPass::forward).forward(out, log_sum_exp);
  }

 private:
  AttentionMethod method_;
};

template <class Space, DeviceKind kDevice>
class BackwardKernel final : public AttentionBackwardKernel {
 public:
  explicit BackwardKernel(AttentionMethod method) : method_(method) {}
  [[nodiscard]] DeviceKind device() const override { return kDevice; }
  [[nodiscard]] AttentionMethod method() const override { return method_; }
  [[nodiscard]] std::string unsupported_reason(const AttentionProblem& problem) const override {
    return portable::unsupported_reason(method_, AttentionPass::backward, problem);
  }
  [[nodiscard]] std::size_t workspace_bytes(const AttentionProblem& problem) const override {
    return Run<Space>(problem, method_, AttentionPass::backward).bytes();
  }
  void backward(const AttentionProblem& problem,
                const AttentionGradients& gradients) const override {
    Run<Space>(problem, method_, AttentionPass::backward).backward(gradients);
  }

 private:
  AttentionMethod method_;
};

/// All methods, in order of preference.
template <class Space, DeviceKind kDevice>
void register_kernels() {
  for (const AttentionMethod method :
       {AttentionMethod::flash, AttentionMethod::window, AttentionMethod::block_sparse,
        AttentionMethod::memory_efficient, AttentionMethod::standard}) {
    register_attention_kernel(std::make_unique<ForwardKernel<Space, kDevice>>(method));
    register_attention_kernel(std::make_unique<BackwardKernel<Space, kDevice>>(method));
  }
}

}  // namespace portolan::portable
