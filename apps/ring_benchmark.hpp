// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "core/dtype.hpp"
#include "models/config.hpp"
#include "parallel/link_emulation.hpp"
#include "runtime/runtime.hpp"

/// The published prompt sweep of ring attention: greedy tokens without a key/value cache, one whole
/// forward each, by ring attention on all ranks and by one rank alone.
namespace portolan {

/// LLaMA 3's pre-tokens of the prompt "0, 1, 2, ..., N-1": digits in groups of up to three, and a
/// comma and a space between numbers.
[[nodiscard]] std::int64_t numeric_prompt_tokens(std::int64_t numbers);

struct RingBenchmarkSettings {
  ModelConfig config;
  std::vector<std::int64_t> prompt_numbers;  ///< ascending; N of each prompt
  int tokens = 3;                            ///< generated, and timed, per prompt
  DType dtype = DType::f32;
  std::uint64_t seed = 0;
  LinkEmulation link = {};  ///< between the ranks
};

struct RingBenchmarkRow {
  std::int64_t prompt_number = 0;
  std::int64_t prompt_tokens = 0;
  std::vector<double> seconds;           ///< of each token, the slowest rank's
  std::vector<std::int32_t> ids;         ///< the tokens
  std::vector<std::int64_t> peak_bytes;  ///< allocated, of each rank, weights included
  std::vector<double> waiting_s;         ///< of each token: in the ring, the slowest rank's
  std::int64_t ring_messages = 0;        ///< that a rank receives for one token
  std::int64_t ring_bytes = 0;           ///< of these

  [[nodiscard]] double median_s() const;
  [[nodiscard]] double median_waiting_s() const;
};

struct RingBenchmarkResult {
  std::vector<RingBenchmarkRow> alone;  ///< on rank 0, while the others wait
  std::vector<RingBenchmarkRow> ring;
};

/// Collective; complete on rank 0.
[[nodiscard]] RingBenchmarkResult measure_ring(const RingBenchmarkSettings& settings,
                                               const Runtime& runtime);

}  // namespace portolan
