// SPDX-License-Identifier: Apache-2.0
#include "apps/compare_settings.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "core/error.hpp"
#include "core/printable.hpp"
#include "models/outline.hpp"

namespace portolan {
namespace {

constexpr std::int64_t kMostLayers = kMaximumLayers;
constexpr std::int64_t kMostTokens = kMaximumPositions;
constexpr std::int64_t kMostBatch = std::int64_t{1} << 20;
constexpr std::int64_t kMostRepeats = 1000000;

/// Rows whose logits are kept per length, besides each sequence's last.
constexpr int kSampleRows = 16;
constexpr int kFloorRepeats = 2;

void check_ranks(const CompareSettings& settings, int usable_cores) {
  std::vector<std::string> parallel;
  for (const std::string& mode : settings.modes) {
    if (mode != "none") parallel.push_back(mode);
  }
  const bool published = std::find(settings.protocols.begin(), settings.protocols.end(),
                                   Protocol::published) != settings.protocols.end();
  if (parallel.empty() && !published) return;
  const int most = settings.ranks.back();
  require(most > 1 || !published, "--ranks 1: the published experiment needs at least 2 ranks");
  require(most > 1, "--ranks 1: the modes {} need at least 2 ranks (one rank is --modes none)",
          fmt::join(parallel, ", "));
  const std::int64_t heads = preset_config(settings.preset).common().attention_heads;
  require(most <= heads, "--ranks {}: {} has {} query heads, and a rank needs at least one", most,
          settings.preset, heads);
  require(
      most <= usable_cores || settings.oversubscribe || settings.device == "cuda",
      "--ranks {}: there {} {} core{} for them, and ranks that share cores disturb each other's "
      "times: use fewer, or say --oversubscribe",
      most, usable_cores == 1 ? "is" : "are", usable_cores, usable_cores == 1 ? "" : "s");
}

/// What only the fair protocol heeds.
void check_protocols(const CompareOptions& options, const CompareSettings& settings) {
  if (std::ranges::find(settings.protocols, Protocol::fair) != settings.protocols.end()) return;
  for (const auto& [name, given] : {std::pair{"--modes", options.modes.has_value()},
                                    std::pair{"--warmup", options.warmup.has_value()},
                                    std::pair{"--repeat", options.repeat.has_value()}}) {
    require(!given,
            "{}: the published experiment is one cold forward each under sp and tp; --protocol "
            "fair,published does both",
            name);
  }
}

}  // namespace

CompareSettings resolve_settings(const CompareOptions& options, int usable_cores,
                                 const std::string& timestamp) {
  CompareSettings settings;
  const bool quick = options.quick;
  settings.quick = quick;

  settings.preset = options.preset.value_or("llama-7b");
  require_one_of("--preset", settings.preset, preset_names());
  settings.layers =
      parse_integer("--layers", options.layers.value_or(quick ? "1" : "2"), 1, kMostLayers);
  settings.batch =
      parse_integer("--batch", options.batch.value_or(quick ? "1" : "2"), 1, kMostBatch);
  settings.seq_lens = parse_integers(
      "--seq-lens", options.seq_lens.value_or(quick ? "128,256" : "256,512,1024"), kMostTokens);
  if (const auto longest = outline_of(preset_config(settings.preset)).longest_sequence) {
    if (!options.seq_lens) {
      std::erase_if(settings.seq_lens, [&](std::int64_t length) { return length > *longest; });
    }
    require(!settings.seq_lens.empty() && settings.seq_lens.back() <= *longest,
            "--seq-lens: the longest sequence of {} has {} tokens", settings.preset, *longest);
  }
  settings.modes = parse_names("--modes", options.modes.value_or("none,tp,sp,ring"),
                               {"none", "tp", "sp", "ring"});
  settings.dtypes =
      parse_names("--dtypes", options.dtypes.value_or("f32,bf16"), {"f32", "bf16", "f16"});
  for (const std::int64_t ranks :
       parse_integers("--ranks", options.ranks.value_or("2"), kMostRanks)) {
    settings.ranks.push_back(static_cast<int>(ranks));
  }
  settings.warmup =
      static_cast<int>(parse_integer("--warmup", options.warmup.value_or("1"), 0, kMostRepeats));
  settings.repeat = static_cast<int>(
      parse_integer("--repeat", options.repeat.value_or(quick ? "2" : "3"), 1, kMostRepeats));
  for (const std::string& name :
       parse_names("--protocol", options.protocol.value_or("fair"), {"fair", "published"})) {
    settings.protocols.push_back(protocol_from_name(name));
  }
  check_protocols(options, settings);
  settings.launcher = options.launcher.value_or("mpirun");
  require_one_of("--launcher", settings.launcher, {"mpirun", "srun"});
  settings.out = options.out.value_or("compare-" + timestamp);
  require(!settings.out.empty(), "--out: expected a folder, found an empty name");
  const std::string out = settings.out.string();
  // Jobs are told by JSON where their results go.
  require(printable(out, out.size()) == out,
          "--out: expected a name in UTF-8 without control characters, found {}", printable(out));
  settings.silence_limit_s = static_cast<double>(
      parse_integer("--timeout", options.timeout.value_or("1200"), 1, 1000000000));

  check_attention_tiles(options.common);
  settings.device = name_of(options.common.device);
  settings.seed = options.common.seed;
  settings.emulated_link = options.common.link.to_string();
  settings.attention_tiles = options.common.attention_tiles;
  settings.oversubscribe = options.oversubscribe;
  const int cores = options.common.threads.value_or(usable_cores);
  require(cores <= usable_cores || settings.oversubscribe,
          "--threads {}: this machine offers {} core{}: use fewer, or say --oversubscribe", cores,
          usable_cores, usable_cores == 1 ? "" : "s");
  check_ranks(settings, cores);
  settings.cores = equal_cores(cores, settings.ranks);
  return settings;
}

int equal_cores(int cores, const std::vector<int>& ranks) {
  std::int64_t multiple = 1;
  for (const int each : ranks) {
    multiple = std::lcm(multiple, std::int64_t{each});
    if (multiple > cores) return cores;
  }
  return static_cast<int>(cores / multiple * multiple);
}

std::string CompareJob::to_string() const {
  const std::string what = protocol == Protocol::published ? "published experiment" : mode;
  return fmt::format("{} {}, {} rank{} x {} thread{}", what, dtype, ranks, ranks == 1 ? "" : "s",
                     threads, threads == 1 ? "" : "s");
}

std::vector<std::string> CompareJob::row_modes() const {
  if (protocol == Protocol::published) return {"sp", "tp"};
  return {mode};
}

nlohmann::ordered_json job_specification(const CompareSettings& settings, const CompareJob& job,
                                         const std::filesystem::path& result,
                                         const std::filesystem::path& samples) {
  return {{"preset", settings.preset},
          {"layers", settings.layers},
          {"mode", job.mode},
          {"dtype", job.dtype},
          {"device", settings.device},
          {"batch", settings.batch},
          {"seq_lens", settings.seq_lens},
          {"warmup", settings.warmup},
          {"repeat", settings.repeat},
          {"seed", settings.seed},
          {"threads", job.threads},
          {"emulate_link", settings.emulated_link},
          {"attention_tiles", settings.attention_tiles},
          {"sample_rows", kSampleRows},
          {"floor_repeat", kFloorRepeats},
          {"protocol", name_of(job.protocol)},
          {"result", result.string()},
          {"samples", samples.string()}};
}

}  // namespace portolan
