// SPDX-License-Identifier: Apache-2.0
#include "apps/options.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "apps/benchmark_samples.hpp"
#include "core/error.hpp"
#include "core/printable.hpp"

namespace portolan {
namespace {

constexpr int kMostThreads = 1 << 16;
constexpr std::int64_t kMostRepeats = 1000000;

template <typename Values>
std::string names_of(const Values& values) {
  std::vector<std::string_view> names;
  for (const auto value : values) names.push_back(name_of(value));
  return fmt::format("{}", fmt::join(names, ","));
}

template <typename Names>
void require_member(std::string_view option, std::string_view value, const Names& valid) {
  if (std::find(valid.begin(), valid.end(), value) == valid.end()) {
    throw UsageError(fmt::format("{}: '{}' is not one of {}", option, printable(value),
                                 fmt::join(valid.begin(), valid.end(), ", ")));
  }
}

/// How many ranks the options are about.
int planned_ranks(const CommonOptions& options) {
  if (options.tensor_parallel || options.context_parallel) {
    require(!options.planned_ranks,
            "--ranks gives all ranks to --parallel's axis: leave it out with --tp and --cp");
    const int tensor = options.tensor_parallel.value_or(1);
    const int context = options.context_parallel.value_or(1);
    require(tensor <= kMostRanks / context, "--tp {} x --cp {} is more than {} ranks", tensor,
            context, kMostRanks);
    return tensor * context;
  }
  const ParallelMode mode = options.parallel.value_or(ParallelMode::none);
  require(mode == ParallelMode::none || options.planned_ranks,
          "--parallel {} needs --ranks: this command starts none", name_of(mode));
  require(mode != ParallelMode::none || options.planned_ranks.value_or(1) == 1,
          "--ranks {} needs --parallel tp, sp or ring", options.planned_ranks.value_or(1));
  return options.planned_ranks.value_or(1);
}

}  // namespace

CLI::Option* add_text_option(CLI::App& command, const std::string& name, const std::string& help,
                             const std::string& value_name,
                             const std::function<void(const std::string&)>& store) {
  return command.add_option_function<std::string>(name, store, help)->type_name(value_name);
}

CLI::Option* add_texts_option(CLI::App& command, const std::string& name, const std::string& help,
                              const std::string& value_name, std::vector<std::string>& texts) {
  // CLI11 would otherwise take a text in brackets for a list of texts.
  return command.add_option(name, texts, help)
      ->type_name(value_name)
      ->expected(1)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->allow_extra_args(false);
}

void add_dtype_option(CLI::App& command, const std::string& help, std::optional<DType>& dtype) {
  add_text_option(command, "--dtype", help, "DTYPE", [&dtype](const std::string& text) {
    require_one_of("--dtype", text, {"f32", "bf16", "f16"});
    dtype = dtype_from_name(text);
  });
}

void add_dtypes_option(CLI::App& command, std::vector<DType>& dtypes) {
  add_text_option(
      command, "--dtypes", fmt::format("Of f32, bf16, f16 (default {})", names_of(dtypes)), "A,B,C",
      [&dtypes](const std::string& text) {
        dtypes.clear();
        for (const std::string& name : parse_names("--dtypes", text, {"f32", "bf16", "f16"})) {
          dtypes.push_back(dtype_from_name(name));
        }
      });
}

void add_quantizations_option(CLI::App& command, std::vector<Quantization>& quantizations) {
  add_text_option(
      command, "--quantize",
      fmt::format("Weights as they are or as integers: of none, int8, int4 (default {})",
                  names_of(quantizations)),
      "A,B,C", [&quantizations](const std::string& text) {
        quantizations.clear();
        for (const std::string& name : parse_names("--quantize", text, {"none", "int8", "int4"})) {
          quantizations.push_back(quantization_from_name(name));
        }
      });
}

void add_graph_option(CLI::App& command, std::optional<bool>& record) {
  add_text_option(command, "--graph",
                  "Record the pass of one token and repeat it: auto, on or off (default auto: on a "
                  "GPU, of one rank)",
                  "USE", [&record](const std::string& text) {
                    require_one_of("--graph", text, {"auto", "on", "off"});
                    record.reset();
                    if (text != "auto") record = text == "on";
                  });
}

void add_sample_options(CLI::App& command, SampleLimits& limits) {
  add_text_option(command, "--repeat",
                  fmt::format("Samples of a row, if --seconds allow (default {})", limits.repeat),
                  "N", [&limits](const std::string& text) {
                    limits.repeat =
                        static_cast<int>(parse_integer("--repeat", text, 1, kMostRepeats));
                  });
  add_text_option(
      command, "--seconds",
      fmt::format("No sample of a row starts later than that, except the first (default {})",
                  limits.seconds),
      "S", [&limits](const std::string& text) {
        limits.seconds = parse_positive_number("--seconds", text);
      });
}

void refuse_options(const CLI::App& command, std::initializer_list<const char*> options,
                    std::string_view reason) {
  for (const char* option : options) {
    require(command.get_option(option)->count() == 0, "{}: {}", option, reason);
  }
}

void add_device_options(CLI::App& command, CommonOptions& options) {
  add_text_option(command, "--device", "Where to compute: cpu, cuda or serial (default cpu)",
                  "DEVICE", [&options](const std::string& text) {
                    require_one_of("--device", text, {"cpu", "cuda", "serial"});
                    options.device = device_kind_from_name(text);
                  });
  add_text_option(command, "--seed", "Seed of all random numbers (default 0)", "N",
                  [&options](const std::string& text) {
                    options.seed = static_cast<std::uint64_t>(
                        parse_integer("--seed", text, 0, std::numeric_limits<std::int64_t>::max()));
                  });
  add_text_option(
      command, "--threads", "Threads per rank (default OMP_NUM_THREADS, else cores / local ranks)",
      "N", [&options](const std::string& text) {
        options.threads = static_cast<int>(parse_integer("--threads", text, 1, kMostThreads));
      });
}

void add_run_options(CLI::App& command, CommonOptions& options) {
  add_device_options(command, options);
  add_text_option(command, "--attention-tiles",
                  "Tile sizes that 'bench attention --tune' measured (default: built-in ones)",
                  "FILE", [&options](const std::string& text) { options.attention_tiles = text; });
}

void add_link_option(CLI::App& command, CommonOptions& options) {
  add_text_option(
      command, "--emulate-link",
      "Collectives take at least as long as on this link, as in "
      "bandwidth=12.5GB/s,latency=5us",
      "LINK", [&options](const std::string& text) { options.link = LinkEmulation::parse(text); });
}

void add_mesh_options(CLI::App& command, CommonOptions& options) {
  add_dtype_option(command, "f32, bf16 or f16 (default: the model's)", options.dtype);
  add_layout_options(command, options);
}

void add_planned_mesh_options(CLI::App& command, CommonOptions& options) {
  add_mesh_options(command, options);
  add_text_option(command, "--ranks", "With --parallel: the ranks of its axis", "N",
                  [&options](const std::string& text) {
                    options.planned_ranks =
                        static_cast<int>(parse_integer("--ranks", text, 1, kMostRanks));
                  });
}

void add_layout_options(CLI::App& command, CommonOptions& options) {
  add_text_option(command, "--parallel", "none, tp, sp or ring: the axis that all ranks go to",
                  "MODE", [&options](const std::string& text) {
                    require_one_of("--parallel", text, {"none", "tp", "sp", "ring"});
                    options.parallel = parallel_mode_from_name(text);
                  });
  add_text_option(command, "--tp", "Ranks that share each layer (tensor parallelism)", "N",
                  [&options](const std::string& text) {
                    options.tensor_parallel =
                        static_cast<int>(parse_integer("--tp", text, 1, kMostRanks));
                  });
  add_text_option(command, "--cp", "Ranks that share each sequence (ring attention)", "N",
                  [&options](const std::string& text) {
                    options.context_parallel =
                        static_cast<int>(parse_integer("--cp", text, 1, kMostRanks));
                  });
  command.add_flag("--sequence-parallel", options.sequence_parallel,
                   "With --tp: shard activations between the blocks along the sequence");
}

void add_quantize_option(CLI::App& command, CommonOptions& options) {
  add_text_option(command, "--quantize",
                  "Weights as integers: none, int8 or int4 (default none); made while loading",
                  "FORM", [&options](const std::string& text) {
                    require_one_of("--quantize", text, {"none", "int8", "int4"});
                    options.quantization = quantization_from_name(text);
                  });
}

void add_output_options(CLI::App& command, CommonOptions& options) {
  command.add_flag("--quiet,-q", options.quiet, "No progress on stderr");
  command.add_flag("--json", options.json, "One JSON document on stdout, and nothing else");
}

void add_model_options(CLI::App& command, CommonOptions& options) {
  add_run_options(command, options);
  add_link_option(command, options);
  add_mesh_options(command, options);
  add_output_options(command, options);
}

void add_inference_options(CLI::App& command, CommonOptions& options) {
  add_model_options(command, options);
  add_quantize_option(command, options);
}

void check_attention_tiles(const CommonOptions& options) {
  require(options.attention_tiles.empty() || options.device == DeviceKind::cpu,
          "--attention-tiles: only attention on device cpu takes tile sizes, found --device {}",
          name_of(options.device));
}

void check_run_options(const CommonOptions& options) {
  check_attention_tiles(options);
  require(options.threads.value_or(1) == 1 || options.device != DeviceKind::serial,
          "--threads {}: device serial computes on one thread", options.threads.value_or(1));
}

ParallelLayout choose_layout(const CommonOptions& options, int ranks) {
  const bool explicit_mesh = options.tensor_parallel || options.context_parallel;
  require(!(options.parallel && explicit_mesh),
          "--parallel gives all ranks to one axis: use either it or --tp and --cp");
  ParallelMode mode = options.parallel.value_or(ParallelMode::none);
  require(!options.sequence_parallel || options.tensor_parallel || mode == ParallelMode::tp ||
              mode == ParallelMode::sp,
          "--sequence-parallel shards what tensor parallelism keeps whole: it needs --tp or "
          "--parallel tp");
  ParallelLayout layout;
  if (explicit_mesh) {
    layout.mesh.tensor = options.tensor_parallel.value_or(1);
    layout.mesh.context = options.context_parallel.value_or(1);
    const std::int64_t size = std::int64_t{layout.mesh.tensor} * layout.mesh.context;
    require(size == ranks, "--tp {} x --cp {} is {} ranks, but {} {} started", layout.mesh.tensor,
            layout.mesh.context, size, ranks, ranks == 1 ? "was" : "were");
    layout.sequence_parallel =
        options.sequence_parallel ||
        apply_sequence_parallel_environment(ParallelMode::tp) == ParallelMode::sp;
  } else {
    require(mode != ParallelMode::none || ranks == 1,
            "{} ranks were started, but --parallel is none: say --parallel tp, sp or ring, or give "
            "--tp and --cp",
            ranks);
    if (options.sequence_parallel) mode = ParallelMode::sp;
    layout = ParallelLayout::of(apply_sequence_parallel_environment(mode), ranks);
  }
  layout.sequence_parallel = layout.sequence_parallel && layout.mesh.tensor > 1;
  return layout;
}

ParallelLayout choose_planned_layout(const CommonOptions& options) {
  return choose_layout(options, planned_ranks(options));
}

void require_one_of(std::string_view option, std::string_view value,
                    std::initializer_list<std::string_view> valid) {
  require_member(option, value, valid);
}

void require_one_of(std::string_view option, std::string_view value,
                    std::span<const std::string> valid) {
  require_member(option, value, valid);
}

std::vector<std::string> parse_list(std::string_view option, std::string_view text) {
  std::vector<std::string> items;
  for (std::size_t start = 0; start <= text.size();) {
    const std::size_t end = std::min(text.find(',', start), text.size());
    const std::string_view item = text.substr(start, end - start);
    require(!item.empty(), "{}: '{}' has an empty item", option, printable(text));
    require(std::find(items.begin(), items.end(), item) == items.end(), "{}: '{}' appears twice",
            option, printable(item));
    items.emplace_back(item);
    start = end + 1;
  }
  return items;
}

std::int64_t parse_integer(std::string_view option, std::string_view text, std::int64_t minimum,
                           std::int64_t maximum) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool is_number = error == std::errc() && end == text.data() + text.size();
  if (!is_number || value < minimum || value > maximum) {
    throw UsageError(maximum == std::numeric_limits<std::int64_t>::max()
                         ? fmt::format("{}: '{}' is not a whole number of at least {}", option,
                                       printable(text), minimum)
                         : fmt::format("{}: '{}' is not a whole number from {} to {}", option,
                                       printable(text), minimum, maximum));
  }
  return value;
}

std::vector<std::int64_t> parse_integers(std::string_view option, std::string_view text,
                                         std::int64_t maximum) {
  std::vector<std::int64_t> numbers;
  for (const std::string& item : parse_list(option, text)) {
    numbers.push_back(parse_integer(option, item, 1, maximum));
  }
  std::sort(numbers.begin(), numbers.end());
  require(std::adjacent_find(numbers.begin(), numbers.end()) == numbers.end(),
          "{}: '{}' names a number twice", option, printable(text));
  return numbers;
}

std::vector<std::string> parse_names(std::string_view option, std::string_view text,
                                     std::initializer_list<std::string_view> valid) {
  std::vector<std::string> names = parse_list(option, text);
  for (const std::string& name : names) require_one_of(option, name, valid);
  return names;
}

std::uint64_t parse_byte_count(std::string_view option, std::string_view text) {
  constexpr std::pair<std::string_view, double> kUnits[] = {
      {"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"KB", 1e3}, {"B", 1.0}, {"", 1.0}};
  for (const auto& [unit, bytes] : kUnits) {
    if (!text.ends_with(unit)) continue;
    const std::string_view digits = text.substr(0, text.size() - unit.size());
    double value = 0.0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    constexpr double kMost = 1e18;
    if (error != std::errc() || end != digits.data() + digits.size() || !(value * bytes >= 1.0) ||
        value * bytes > kMost) {
      break;
    }
    return static_cast<std::uint64_t>(value * bytes);
  }
  throw UsageError(
      fmt::format("{}: '{}' is not a size such as 500MB or 5GB", option, printable(text)));
}

double parse_positive_number(std::string_view option, std::string_view text) {
  double value = 0.0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool is_number = error == std::errc() && end == text.data() + text.size();
  require(is_number && std::isfinite(value) && value > 0.0, "{}: '{}' is not a number above 0",
          option, printable(text));
  return value;
}

}  // namespace portolan
