// SPDX-License-Identifier: Apache-2.0
#include "apps/compare_environment.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>

#include "core/printable.hpp"
#include "runtime/cpu_limits.hpp"
#include "runtime/version.hpp"

namespace portolan {

nlohmann::ordered_json describe_environment(const CompareSettings& settings, const Machine& machine,
                                            const std::string& launcher_version,
                                            const std::vector<std::string>& command,
                                            std::chrono::system_clock::time_point date) {
  nlohmann::ordered_json environment;
  const BuildInformation build = build_information();
  environment["date"] =
      fmt::format("{:%Y-%m-%dT%H:%M:%SZ}", fmt::gmtime(std::chrono::system_clock::to_time_t(date)));
  environment["command"] = printable(shell_text(command), 4096);

  auto& experiment = environment["experiment"];
  experiment = {{"preset", settings.preset},
                {"layers", settings.layers},
                {"batch", settings.batch},
                {"seq_lens", settings.seq_lens},
                {"modes", settings.modes},
                {"dtypes", settings.dtypes},
                {"ranks", settings.ranks},
                {"warmup", settings.warmup},
                {"repeat", settings.repeat},
                {"seed", settings.seed},
                {"emulated_link", settings.emulated_link},
                {"attention_tiles", settings.attention_tiles},
                {"device", settings.device},
                {"quick", settings.quick},
                {"oversubscribe", settings.oversubscribe}};
  auto& protocols = experiment["protocols"] = nlohmann::ordered_json::array();
  for (const Protocol protocol : settings.protocols) protocols.push_back(name_of(protocol));

  environment["machine"] = to_json(machine);
  environment["machine"]["cores_used"] = settings.cores;
  environment["portolan"] = to_json(build);
  environment["libraries"] = build.libraries;
  environment["launcher"] = launcher_version;
  auto& variables = environment["variables"] = nlohmann::ordered_json::object();
  auto entries = process_environment();
  std::sort(entries.begin(), entries.end());
  for (const std::string& entry : entries) {
    const std::size_t separator = entry.find('=');
    const std::string name = entry.substr(0, separator);
    if (separator == std::string::npos || !is_relevant_variable(name)) continue;
    variables[name] = printable(entry.substr(separator + 1), 256);
  }
  return environment;
}

bool is_relevant_variable(std::string_view name) {
  constexpr std::array<std::string_view, 14> kPrefixes{
      "OMP_",      "GOMP_", "KMP_",   "KOKKOS_", "ONEDNN_",   "DNNL_", "LIBXSMM_",
      "OMPI_MCA_", "UCX_",  "I_MPI_", "MPICH_",  "PORTOLAN_", "NCCL_", "MALLOC_"};
  constexpr std::array<std::string_view, 12> kNames{"USE_SEQUENCE_PARALLELISM",
                                                    "CUDA_VISIBLE_DEVICES",
                                                    "SLURM_JOB_ID",
                                                    "SLURM_JOB_NUM_NODES",
                                                    "SLURM_NTASKS",
                                                    "SLURM_CPUS_PER_TASK",
                                                    "SLURM_JOB_PARTITION",
                                                    "SLURM_JOB_NODELIST",
                                                    "SLURM_MPI_TYPE",
                                                    "LD_PRELOAD",
                                                    "GLIBC_TUNABLES",
                                                    "HWLOC_SYNTHETIC"};
  return std::any_of(kPrefixes.begin(), kPrefixes.end(),
                     [&](std::string_view prefix) { return name.starts_with(prefix); }) ||
         std::find(kNames.begin(), kNames.end(), name) != kNames.end();
}

std::string shell_text(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) {
    if (!text.empty()) text += ' ';
    const bool plain = !word.empty() && word.find_first_not_of(
                                            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                            "0123456789_-+=./,:@%") == std::string::npos;
    if (plain) {
      text += word;
      continue;
    }
    text += '\'';
    for (const char c : word) text += c == '\'' ? std::string("'\\''") : std::string(1, c);
    text += '\'';
  }
  return text;
}

}  // namespace portolan
