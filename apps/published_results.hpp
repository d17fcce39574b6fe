// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

/// Figures that others have published for the experiment `portolan compare` repeats, as published.
namespace portolan {

/// One sequence length of a table: tensor parallelism (TP), and tensor + sequence parallelism (SP).
struct PublishedPoint {
  std::int64_t seq_len = 0;
  double tp_s = 0.0;
  double sp_s = 0.0;
  double tp_gigabytes = 0.0;
  double sp_gigabytes = 0.0;
  /// Of the allocator's pool; on GPUs only.
  std::optional<double> tp_reserved_gigabytes;
  std::optional<double> sp_reserved_gigabytes;
};

struct PublishedTable {
  std::string_view name;  ///< short, for legends
  std::string_view hardware;
  std::string_view experiment;  ///< model, sizes, transport
  std::string_view memory;      ///< what the memory columns hold
  std::span<const PublishedPoint> points;
};

/// LLaMA-7B dimensions, batch 2, f32, random weights and tokens, 2 ranks: the tests that came with
/// sequence parallelism for IBM's Foundation Model Stack,
/// github.com/foundation-model-stack/foundation-model-stack, pull request 455.
[[nodiscard]] std::span<const PublishedTable> published_sequence_parallel_tables();
inline constexpr std::string_view kSequenceParallelSource =
    "github.com/foundation-model-stack/foundation-model-stack, pull request 455";

/// Ring attention, LLaMA 3 8B, up to 6,998 tokens:
/// github.com/coms-6998-context-parallelism-project/foundation-model-stack.
struct PublishedRing {
  double one_gpu_ms = 6000.0;
  double four_gpus_ms = 4000.0;
  std::int64_t longest_prompt = 6998;
};
inline constexpr PublishedRing kPublishedRing{};
inline constexpr std::string_view kRingSource =
    "github.com/coms-6998-context-parallelism-project/foundation-model-stack";

}  // namespace portolan
