// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "apps/compare_guard.hpp"
#include "apps/compare_settings.hpp"
#include "apps/comparison.hpp"
#include "apps/launch.hpp"
#include "apps/progress.hpp"

namespace portolan {

/// The rows of all jobs, and what went wrong.
struct ComparisonResult {
  std::vector<CompareRow> rows;
  /// For each job what its worker said of itself: transport, binding, backend, ...
  nlohmann::ordered_json jobs = nlohmann::ordered_json::array();
  int failed_jobs = 0;
  /// "interrupted by signal 2 (Interrupt) after 3 of 8 jobs", or empty when all jobs had their
  /// turn.
  std::string interruption;
};

/// Runs the jobs one after the other, each in fresh processes, and checks what they measure. A job
/// that fails gives refused rows, and the next one follows. An interrupt ends the present job,
/// gives it no rows, and leaves those of the jobs before it.
class ComparisonRun {
 public:
  /// `binary` is the program that knows `compare-worker`. The references must outlive the object.
  ComparisonRun(const CompareSettings& settings, const Launcher& launcher, std::string binary,
                Progress& progress);

  [[nodiscard]] ComparisonResult run();

 private:
  struct JobState;
  void run_job(const CompareJob& job, std::size_t number, const std::filesystem::path& folder);
  void handle_line(JobState& state, std::string_view line);
  void show_activity(const JobState& state);
  /// Takes the rows of a finished job's result file; throws InputError if that is not as agreed.
  void take_result(const JobState& state, const std::filesystem::path& result_path);
  void take_failure(const JobState& state, const std::string& reason);

  const CompareSettings& settings_;
  const Launcher& launcher_;
  std::string binary_;
  Progress& progress_;
  std::size_t job_count_ = 0;
  SampleFiles samples_;
  ComparisonResult result_;
};

}  // namespace portolan
