// SPDX-License-Identifier: Apache-2.0
#include "apps/launch.hpp"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string_view>

#include "apps/subprocess.hpp"
#include "core/error.hpp"

namespace portolan {
namespace {

/// A variable that holds a number from 0 on; -1 when it is absent or something else.
int environment_number(const char* name) {
  const char* text = std::getenv(name);
  if (text == nullptr) return -1;
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  return end == text || *end != '\0' || value < 0 || value > 1 << 30 ? -1 : static_cast<int>(value);
}

std::string counted_ranks(std::string_view launcher, int ranks) {
  return fmt::format("{} with {} rank{}", launcher, ranks, ranks == 1 ? "" : "s");
}

}  // namespace

int launched_rank() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK"}) {
    if (const int rank = environment_number(name); rank >= 0) return rank;
  }
  // A batch script has a SLURM_PROCID too; only the tasks of a step have a step's size.
  const bool in_step = environment_number("SLURM_STEP_NUM_TASKS") > 1;
  return in_step ? std::max(environment_number("SLURM_PROCID"), 0) : 0;
}

std::string enclosing_launch() {
  if (const int ranks = environment_number("OMPI_COMM_WORLD_SIZE"); ranks >= 1) {
    return counted_ranks("mpirun", ranks);
  }
  if (const int ranks = environment_number("PMI_SIZE"); ranks > 1) {
    return counted_ranks("mpirun", ranks);
  }
  if (const int ranks = environment_number("SLURM_STEP_NUM_TASKS");
      ranks > 1 && environment_number("SLURM_PROCID") >= 0) {
    return counted_ranks("srun", ranks);
  }
  return {};
}

Launcher find_launcher(const std::string& name) {
  Launcher launcher;
  launcher.program = find_program(name);
  if (launcher.program.empty()) {
    throw UnsupportedError(
        name == "srun"
            ? "--launcher srun: there is no srun on PATH: run inside Slurm, or use mpirun"
            : fmt::format("{} is not on PATH: scripts/setup installs it (Debian package "
                          "openmpi-bin), or load your cluster's MPI module",
                          name));
  }
  std::string text;
  ProcessRequest request;
  request.arguments = {launcher.program, "--version"};
  request.on_output = [&text](std::string_view line) { text.append(line).push_back('\n'); };
  request.silence_limit_s = 30.0;
  const ProcessResult result = run_process(request);
  if (!result.succeeded()) {
    throw UnsupportedError(
        fmt::format("{} --version failed: {}", launcher.program, result.describe()));
  }
  const bool open_mpi =
      text.find("Open MPI") != std::string::npos || text.find("OpenRTE") != std::string::npos;
  launcher.version = text.substr(0, text.find('\n'));
  launcher.kind = name == "srun" ? Launcher::Kind::srun
                  : open_mpi     ? Launcher::Kind::open_mpi
                                 : Launcher::Kind::mpirun;
  return launcher;
}

bool needs_oversubscription(int ranks, int cores) {
  const int tasks = environment_number("SLURM_NTASKS");
  return ranks > cores || (tasks >= 0 && ranks > tasks);
}

std::vector<std::string> launch_arguments(const Launcher& launcher, const LaunchRequest& request) {
  std::vector<std::string> arguments{launcher.program, "-n", std::to_string(request.ranks)};
  switch (launcher.kind) {
    case Launcher::Kind::open_mpi:
      arguments.insert(arguments.end(), {"--bind-to", "none"});
      if (request.oversubscribe) arguments.emplace_back("--oversubscribe");
      // Ranks on other nodes get only the variables that are named.
      for (const auto& [name, value] : launch_environment(launcher, request, false)) {
        arguments.insert(arguments.end(), {"-x", name});
      }
      break;
    case Launcher::Kind::mpirun:
      arguments.insert(arguments.end(), {"-bind-to", "none"});
      break;
    case Launcher::Kind::srun:
      arguments.insert(arguments.end(), {fmt::format("--cpus-per-task={}", request.threads),
                                         "--cpu-bind=none", "--kill-on-bad-exit=1"});
      if (request.oversubscribe) arguments.emplace_back("--overcommit");
      break;
  }
  arguments.insert(arguments.end(), request.command.begin(), request.command.end());
  return arguments;
}

std::map<std::string, std::string> launch_environment(const Launcher& launcher,
                                                      const LaunchRequest& request, bool is_root) {
  std::map<std::string, std::string> variables{
      {"OMP_NUM_THREADS", std::to_string(request.threads)},
      // Ranks bind their threads by hwloc; OpenMP's own binding would put all ranks on the same
      // cores.
      {"OMP_PROC_BIND", "false"},
  };
  if (is_root && launcher.kind == Launcher::Kind::open_mpi) {
    variables.emplace("OMPI_ALLOW_RUN_AS_ROOT", "1");
    variables.emplace("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1");
  }
  return variables;
}

std::string own_path() {
  std::error_code error;
  const auto path = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) throw Error("/proc/self/exe: cannot be read: " + error.message());
  return path.string();
}

std::string find_program(const std::string& name) {
  if (name.find('/') != std::string::npos) {
    return ::access(name.c_str(), X_OK) == 0 ? std::filesystem::absolute(name).string()
                                             : std::string{};
  }
  const char* variable = std::getenv("PATH");
  const std::string_view path = variable == nullptr ? "/usr/bin:/bin" : variable;
  for (std::size_t start = 0; start <= path.size();) {
    const std::size_t end = std::min(path.find(':', start), path.size());
    const auto folder = std::filesystem::path(path.substr(start, end - start));
    const auto candidate = folder / name;
    std::error_code error;
    if (std::filesystem::is_regular_file(candidate, error) &&
        ::access(candidate.c_str(), X_OK) == 0) {
      return std::filesystem::absolute(candidate).string();
    }
    start = end + 1;
  }
  return {};
}

}  // namespace portolan
