// SPDX-License-Identifier: Apache-2.0
#include "apps/compare_run.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <utility>

#include "apps/comparison_table.hpp"
#include "apps/output_file.hpp"
#include "apps/subprocess.hpp"
#include "core/error.hpp"
#include "core/json_file.hpp"
#include "core/log.hpp"
#include "core/printable.hpp"

namespace portolan {
namespace {

using nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kErrorLinesKept = 40;
constexpr std::size_t kLongestLine = 500;

/// What went wrong, in the worker's own words where it found some.
std::string failure_reason(const ProcessResult& process, const std::deque<std::string>& lines) {
  constexpr std::string_view kMark = "portolan: error: ";
  if (!process.timed_out && process.interrupted_by == 0) {
    for (const std::string& line : lines) {
      const std::size_t at = line.find(kMark);
      if (at != std::string::npos) return line.substr(at + kMark.size());
    }
  }
  return "the job failed: " + process.describe();
}

}  // namespace

struct ComparisonRun::JobState {
  JobState(const CompareJob& its_job, std::size_t its_number) : job(its_job), number(its_number) {}
  const CompareJob& job;
  std::size_t number;  ///< from 1
  Clock::time_point start = Clock::now();
  std::string step = "starting";
  std::deque<std::string> error_lines;
  std::vector<CompareRow> arrived;
};

ComparisonRun::ComparisonRun(const CompareSettings& settings, const Launcher& launcher,
                             std::string binary, Progress& progress)
    : settings_(settings), launcher_(launcher), binary_(std::move(binary)), progress_(progress) {}

ComparisonResult ComparisonRun::run() {
  const std::vector<CompareJob> jobs = plan_jobs(settings_);
  job_count_ = jobs.size();
  const TemporaryFolder folder(settings_.out, "compare");
  for (std::size_t i = 0; i < jobs.size() && result_.interruption.empty(); ++i) {
    run_job(jobs[i], i + 1, folder.path());
    compare_logits(result_.rows, samples_);
  }
  sort_rows(result_.rows);
  return std::move(result_);
}

void ComparisonRun::run_job(const CompareJob& job, std::size_t number,
                            const std::filesystem::path& folder) {
  JobState state(job, number);
  const std::string name = fmt::format("job-{}", number);
  const auto specification_path = folder / (name + ".json");
  const auto result_path = folder / (name + ".result.json");
  const auto samples_path = folder / (name + ".safetensors");
  write_file(specification_path,
             job_specification(settings_, job, result_path, samples_path).dump(2) + "\n");

  LaunchRequest launch;
  launch.ranks = job.ranks;
  launch.threads = job.threads;
  launch.oversubscribe = needs_oversubscription(job.ranks, settings_.cores);
  launch.command = {binary_, "compare-worker", "--spec", specification_path.string()};
  ProcessRequest request;
  request.arguments = launch_arguments(launcher_, launch);
  request.environment = launch_environment(launcher_, launch, ::geteuid() == 0);
  request.silence_limit_s = settings_.silence_limit_s;
  request.on_output = [&](std::string_view line) { handle_line(state, line); };
  request.on_error = [&](std::string_view line) {
    state.error_lines.push_back(printable(line, kLongestLine));
    if (state.error_lines.size() > kErrorLinesKept) state.error_lines.pop_front();
  };
  request.on_idle = [&] { show_activity(state); };
  if (!progress_.on_terminal()) {
    progress_.milestone(fmt::format("[{}/{}] {}", number, job_count_, job.to_string()));
  }
  show_activity(state);
  const ProcessResult process = run_process(request);
  progress_.clear();
  if (process.interrupted_by != 0) {
    result_.interruption =
        fmt::format("{} after {} of {} jobs", process.describe(), number - 1, job_count_);
    return;
  }

  std::string failure;
  if (process.succeeded()) {
    try {
      take_result(state, result_path);
      if (job.protocol == Protocol::fair) {
        samples_[{job.mode, job.dtype, job.ranks}] = samples_path;
      }
      for (const std::string& line : state.error_lines) progress_.milestone(line);
      return;
    } catch (const InputError& error) {
      failure = error.what();
    }
  } else {
    failure = failure_reason(process, state.error_lines);
  }
  take_failure(state, failure);
}

void ComparisonRun::handle_line(JobState& state, std::string_view line) {
  // Libraries may print on stdout as well: what is not one of our events is only logged.
  json event;
  if (line.starts_with('{')) event = json::parse(line, nullptr, false);
  if (!event.is_object() || !event.contains("event") || !event["event"].is_string()) {
    log().debug("job {}: {}", state.number, printable(line, kLongestLine));
    return;
  }
  const auto kind = event["event"].get<std::string>();
  const auto number_at = [&event](const char* name) {
    const auto found = event.find(name);
    return found != event.end() && found->is_number_integer() ? found->get<std::int64_t>() : 0;
  };
  if (kind == "start") {
    state.step = "making the model";
  } else if (kind == "model") {
    state.step = "model made";
  } else if (kind == "floor") {
    state.step = fmt::format("length {}: products alone", number_at("seq_len"));
  } else if (kind == "forward") {
    const std::int64_t repeat = number_at("repeat");
    state.step =
        fmt::format("length {}: {}", number_at("seq_len"),
                    repeat < 0 ? std::string("warmed up")
                               : fmt::format("forward {} of {}", repeat + 1, settings_.repeat));
  } else if (kind == "row") {
    try {
      CompareRow row = parse_row(event, fmt::format("row of job {}", state.number), {});
      row.protocol = state.job.protocol;
      check_row(row, state.job, settings_);
      progress_.milestone(fmt::format("[{}/{}] {}", state.number, job_count_, row_line(row)));
      state.arrived.push_back(std::move(row));
    } catch (const InputError& error) {
      log().debug("{}", error.what());  // the result file is what counts, and is checked again
    }
  }
  show_activity(state);
}

void ComparisonRun::show_activity(const JobState& state) {
  const std::chrono::duration<double> elapsed = Clock::now() - state.start;
  progress_.activity(fmt::format("[{}/{}] {}: {} ({})", state.number, job_count_,
                                 state.job.to_string(), state.step, clock_text(elapsed.count())));
}

void ComparisonRun::take_result(const JobState& state, const std::filesystem::path& result_path) {
  const json document = read_json_file(result_path);
  const std::string source = fmt::format("result of {}", state.job.to_string());
  const JsonObject object(document, source);
  const json* rows = object.find("rows");
  if (rows == nullptr || !rows->is_array()) object.fail("rows", "a list");
  std::vector<CompareRow> found;
  for (std::size_t i = 0; i < rows->size(); ++i) {
    CompareRow row = parse_row((*rows)[i], source, fmt::format("rows[{}]", i));
    row.protocol = state.job.protocol;
    check_row(row, state.job, settings_);
    found.push_back(std::move(row));
  }
  for (const std::string& mode : state.job.row_modes()) {
    for (const std::int64_t length : settings_.seq_lens) {
      const auto row = std::find_if(found.begin(), found.end(), [&](const CompareRow& each) {
        return each.mode == mode && each.seq_len == length;
      });
      result_.rows.push_back(row != found.end() ? *row
                                                : missing_row(state.job, mode, length, settings_,
                                                              "the job gave no such row"));
    }
  }
  nlohmann::ordered_json job = {{"job", state.job.to_string()}};
  if (object.has("environment")) {
    for (const auto& [name, value] : object.object("environment").members().items()) {
      job[name] = value;
    }
  }
  result_.jobs.push_back(std::move(job));
}

void ComparisonRun::take_failure(const JobState& state, const std::string& reason) {
  ++result_.failed_jobs;
  for (const std::string& line : state.error_lines) fmt::print(stderr, "  | {}\n", line);
  progress_.milestone(fmt::format("[{}/{}] {} failed: {}", state.number, job_count_,
                                  state.job.to_string(), reason));
  for (const std::string& mode : state.job.row_modes()) {
    for (const std::int64_t length : settings_.seq_lens) {
      const auto row = std::find_if(
          state.arrived.begin(), state.arrived.end(),
          [&](const CompareRow& each) { return each.mode == mode && each.seq_len == length; });
      CompareRow refused = row != state.arrived.end()
                               ? *row
                               : missing_row(state.job, mode, length, settings_, reason);
      if (refused.proven) refused.reason = reason;
      refused.proven = false;
      result_.rows.push_back(std::move(refused));
    }
  }
}

}  // namespace portolan
