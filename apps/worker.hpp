// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/device.hpp"
#include "core/dtype.hpp"
#include "models/config.hpp"
#include "models/parallel_context.hpp"

/// One job of a comparison: what a fresh process per (mode, dtype, ranks) measures.
namespace portolan {

/// What the orchestrator asks of the ranks of one job, as a JSON file.
struct WorkerSpecification {
  ModelConfig config;
  std::string preset;
  ParallelMode mode = ParallelMode::none;
  DType dtype = DType::f32;
  DeviceKind device = DeviceKind::cpu;
  std::int64_t batch = 1;
  std::vector<std::int64_t> sequence_lengths;
  int warmup = 1;
  int repeat = 3;
  int floor_repeat = 1;
  std::uint64_t seed = 0;
  int threads = 0;
  LinkEmulation link = {};
  std::string attention_tiles;  ///< a file; empty: none
  std::int64_t sample_rows = 16;
  bool published_protocol = false;
  std::string result;   ///< path of the JSON result
  std::string samples;  ///< path of the sampled logits
};

/// Throws InputError naming the field that is wrong.
[[nodiscard]] WorkerSpecification read_worker_specification(const std::string& path);

/// Runs the job on this rank; rank 0 prints progress as JSON Lines and writes the files.
/// Collective.
void run_worker(const WorkerSpecification& specification);

}  // namespace portolan
