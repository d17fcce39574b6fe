// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "apps/comparison.hpp"
#include "apps/options.hpp"

/// What `portolan compare` is asked to do, and the jobs that follow from it.
namespace portolan {

/// The options as they were typed; empty or absent where they were not.
struct CompareOptions {
  CommonOptions common;
  std::optional<std::string> preset, layers, seq_lens, batch, modes, dtypes, ranks, warmup, repeat;
  std::optional<std::string> protocol, launcher, out, timeout;
  bool quick = false;
  bool oversubscribe = false;
};

/// The options, checked and completed.
struct CompareSettings {
  std::string preset = "llama-7b";
  std::int64_t layers = 2;
  std::int64_t batch = 2;
  std::vector<std::int64_t> seq_lens;  ///< ascending
  std::vector<std::string> modes;
  std::vector<std::string> dtypes;
  std::vector<int> ranks;  ///< ascending
  int warmup = 1;
  int repeat = 3;
  std::vector<Protocol> protocols;
  std::string launcher = "mpirun";
  std::filesystem::path out;
  std::string device = "cpu";
  std::uint64_t seed = 0;
  std::string emulated_link;    ///< as --emulate-link takes it; empty: none
  std::string attention_tiles;  ///< a file; empty: none
  int cores = 1;                ///< in total, the same for every job
  bool oversubscribe = false;
  bool quick = false;
  double silence_limit_s = 1200.0;  ///< a job that says nothing for so long is ended
};

/// Checks the options against each other, the preset and the machine. Throws UsageError, in one
/// line. `usable_cores` are the cores of this machine that this process may use; `timestamp` names
/// the default output folder.
[[nodiscard]] CompareSettings resolve_settings(const CompareOptions& options, int usable_cores,
                                               const std::string& timestamp);

/// The most cores, up to `cores`, that every number of ranks divides, so that each job has the same
/// number; `cores` itself where there is no such number.
[[nodiscard]] int equal_cores(int cores, const std::vector<int>& ranks);

/// One fresh set of processes: a mode, a dtype, a number of ranks.
struct CompareJob {
  std::string mode;  ///< under the published protocol "sp": sequence, then tensor parallelism
  std::string dtype;
  Protocol protocol = Protocol::fair;
  int ranks = 1;
  int threads = 1;  ///< per rank

  /// "sp bf16, 2 ranks x 4 threads".
  [[nodiscard]] std::string to_string() const;
  /// The modes that its rows have, in the order they are run.
  [[nodiscard]] std::vector<std::string> row_modes() const;
};

/// All jobs, in an order shuffled by the seed, so that a machine that warms up or is disturbed does
/// not favour a mode. A job of the cheapest dtype comes first, so that a first row comes early.
[[nodiscard]] std::vector<CompareJob> plan_jobs(const CompareSettings& settings);

/// The job's specification for the worker: preset, mode, sizes, and where its results go.
[[nodiscard]] nlohmann::ordered_json job_specification(const CompareSettings& settings,
                                                       const CompareJob& job,
                                                       const std::filesystem::path& result,
                                                       const std::filesystem::path& samples);

}  // namespace portolan
