// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "attention/attention.hpp"

/// One pass of attention over random operands, to be run again and again.
namespace portolan {

/// Causal self-attention of random operands.
struct AttentionBenchmarkCase {
  AttentionMethod method = AttentionMethod::flash;
  AttentionPass pass = AttentionPass::forward;
  DType dtype = DType::f32;
  std::int64_t batch = 1;
  std::int64_t heads = 1;
  std::int64_t key_heads = 1;
  std::int64_t head_dim = 64;
  std::int64_t length = 256;
  std::int64_t window = 256;  ///< of the window method
  std::int64_t block = 64;    ///< rows and columns of a block of the block-sparse method
  std::uint64_t seed = 0;     ///< of the operands
};

/// Operands, results and scratch of a case, and the pass over them.
class AttentionBenchmarkPass {
 public:
  AttentionBenchmarkPass(const AttentionBenchmarkCase& setting, Device device);

  [[nodiscard]] const AttentionProblem& problem() const { return problem_; }
  /// Scores that the mask leaves, of all heads of a batch entry.
  [[nodiscard]] double computed_scores() const;
  [[nodiscard]] std::size_t workspace_bytes() const;

  /// What the kernel takes from now on instead of its own sizes.
  void set_tiles(const AttentionTiles& tiles) { problem_.tiles = tiles; }
  /// As the layer before does: else samples after others would find operands in other caches.
  void write_operands() const;
  void run() const;
  /// Of sampled elements, against f64.
  [[nodiscard]] double error() const;

 private:
  void prepare_backward(Device device);

  AttentionBenchmarkCase setting_;
  std::array<Tensor, 3> originals_;
  AttentionProblem problem_;
  Tensor out_;
  Tensor log_sum_exp_;
  AttentionGradients gradients_;
};

}  // namespace portolan
