// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "apps/commands.hpp"
#include "apps/json_text.hpp"
#include "apps/launch.hpp"
#include "apps/options.hpp"
#include "apps/output_file.hpp"
#include "apps/progress.hpp"
#include "core/error.hpp"
#include "core/printable.hpp"
#include "core/timer.hpp"
#include "models/conversion.hpp"

namespace portolan {
namespace {

namespace fs = std::filesystem;

constexpr int kMostShards = 1024;

struct ConvertOptions {
  std::string from;
  std::string to;
  std::string in;
  std::string out;
  std::optional<int> shards;
  std::optional<std::uint64_t> maximum_file_bytes;
  std::optional<DType> dtype;
  CommonOptions common;  ///< --quiet, --json
};

/// Portolan's own format of weights is Hugging Face's.
CheckpointFormat format_of(std::string_view name) {
  return name == "meta" ? CheckpointFormat::meta : CheckpointFormat::hugging_face;
}

std::string_view name_of(CheckpointFormat format) {
  return format == CheckpointFormat::meta ? "meta" : "hf";
}

ConversionOptions conversion_options(const ConvertOptions& options) {
  const CheckpointFormat format = format_of(options.to);
  require(format == CheckpointFormat::meta || !options.shards,
          "--shards is about --to meta: the size of other files is --max-shard-size");
  require(format != CheckpointFormat::meta || !options.maximum_file_bytes,
          "--max-shard-size does not go with --to meta: the number of its files is --shards");
  ConversionOptions result;
  result.format = format;
  result.dtype = options.dtype;
  result.shards = options.shards.value_or(result.shards);
  result.maximum_file_bytes = options.maximum_file_bytes.value_or(result.maximum_file_bytes);
  return result;
}

/// "convert/out/" names the same folder as "convert/out".
fs::path without_trailing_slash(const fs::path& path) {
  return path.has_filename() ? path : path.parent_path();
}

void require_new(const fs::path& out) {
  std::error_code error;
  require(!fs::exists(fs::symlink_status(out, error)), "{}: it exists already; OUT is created",
          printable(out.string()));
  const fs::path parent = fs::absolute(out).parent_path();
  require(fs::is_directory(parent, error), "{}: expected an existing folder to create it in",
          printable(out.string()));
}

/// The finished folder gets its name, unless somebody has taken it meanwhile.
void publish(const fs::path& temporary, const fs::path& out) {
  const mode_t mask = ::umask(0);  // to be read, it has to be set
  ::umask(mask);
  constexpr mode_t kAll = S_IRWXU | S_IRWXG | S_IRWXO;
  const bool good =
      ::chmod(temporary.c_str(), kAll & ~mask) == 0 &&
      ::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, out.c_str(), RENAME_NOREPLACE) == 0;
  if (good) return;
  // Some network file systems do not know the flag; a folder that holds something is safe anyway.
  if (errno == EINVAL && ::rename(temporary.c_str(), out.c_str()) == 0) return;
  throw Error(
      fmt::format("{}: cannot be created: {}", printable(out.string()), std::strerror(errno)));
}

nlohmann::ordered_json describe(const fs::path& folder) {
  nlohmann::ordered_json files = nlohmann::ordered_json::array();
  std::vector<fs::path> paths;
  for (const auto& each : fs::directory_iterator(folder)) paths.push_back(each.path());
  std::sort(paths.begin(), paths.end());
  for (const fs::path& path : paths) {
    files.push_back({{"name", path.filename().string()}, {"bytes", fs::file_size(path)}});
  }
  return files;
}

void run_convert(const ConvertOptions& options) {
  // Under a launcher the ranks would all do the same: the first does it.
  if (launched_rank() != 0) return;
  const fs::path out = without_trailing_slash(options.out);
  const ConversionOptions conversion = conversion_options(options);
  require_new(out);
  const Checkpoint source(options.in);
  require(options.from.empty() || format_of(options.from) == source.format(),
          "{}: expected a folder of format {}, found one of format {}", options.in, options.from,
          name_of(source.format()));

  Progress progress(options.common.quiet);
  const Stopwatch stopwatch;
  double shown = 0.0;
  std::uint64_t written = 0;
  const TemporaryFolder temporary(fs::absolute(out).parent_path(), out.filename().string());
  convert_checkpoint(
      source, options.in, temporary.path(), conversion, [&](std::uint64_t done, std::uint64_t all) {
        written = done;
        constexpr double kInterval = 0.1;
        const double now = stopwatch.seconds();
        if (now < shown + kInterval) return;
        shown = now;
        progress.activity(fmt::format(
            "{:.2f} of {:.2f} GB written, {:.2f} GB/s", static_cast<double>(done) * 1e-9,
            static_cast<double>(all) * 1e-9, static_cast<double>(done) * 1e-9 / now));
      });
  publish(temporary.path(), out);
  progress.clear();
  const nlohmann::ordered_json report = {{"from", name_of(source.format())},
                                         {"to", name_of(conversion.format)},
                                         {"parameters", parameter_count(source.config())},
                                         {"weight_bytes", written},
                                         {"unused_tensors", source.unused_tensors()},
                                         {"seconds", stopwatch.seconds()},
                                         {"files", describe(out)}};
  if (options.common.json) {
    fmt::print("{}", json_text(report));
  } else {
    fmt::print("{}: {} parameters, {:.6f} GB of weights in {} files, {:.1f} s\n",
               printable(out.string()), report["parameters"].get<std::int64_t>(),
               static_cast<double>(written) * 1e-9, report["files"].size(), stopwatch.seconds());
  }
}

}  // namespace

void add_convert_command(CLI::App& application) {
  CLI::App* command = application.add_subcommand(
      "convert", "Write a model folder in another format, data type or number of files");
  const auto options = std::make_shared<ConvertOptions>();
  const auto add_format = [command](const std::string& name, std::string& value,
                                    const std::string& help) {
    return add_text_option(*command, name, help, "FORMAT", [name, &value](const std::string& text) {
      require_one_of(name, text, {"hf", "meta", "portolan"});
      value = text;
    });
  };
  add_format("--from", options->from, "hf, meta or portolan (default: what is found)");
  add_format("--to", options->to,
             "hf: config.json and safetensors; meta: params.json and consolidated.NN.pth; "
             "portolan: as hf")
      ->required();
  command->add_option("IN", options->in, "The model's folder")->type_name("")->required();
  command->add_option("OUT", options->out, "The folder to create")->type_name("")->required();
  add_text_option(*command, "--shards", "With --to meta: model-parallel shards (default 1)", "N",
                  [options](const std::string& text) {
                    options->shards =
                        static_cast<int>(parse_integer("--shards", text, 1, kMostShards));
                  });
  add_text_option(*command, "--max-shard-size",
                  "With --to hf: largest file, as in 500MB or 5GB (default 5GB); a larger tensor "
                  "has a file of its own",
                  "SIZE", [options](const std::string& text) {
                    options->maximum_file_bytes = parse_byte_count("--max-shard-size", text);
                  });
  add_dtype_option(*command, "f32, bf16 or f16 (default: each tensor's own, bit by bit)",
                   options->dtype);
  add_output_options(*command, options->common);
  command->footer(
      "The tokenizer's files and generation_config.json are copied. OUT appears when it is "
      "complete, or not at all;\n"
      "until then its files are in a hidden folder, which the next convert to OUT removes if this "
      "one is killed.\n"
      "\n"
      "Examples:\n"
      "  portolan convert --from meta --to hf ~/llama-2-7b llama-2-7b-hf\n"
      "  portolan convert --to hf --max-shard-size 2GB --dtype bf16 IN OUT\n"
      "  portolan convert --to meta --shards 8 IN OUT");
  command->callback([options] { run_convert(*options); });
}

}  // namespace portolan
