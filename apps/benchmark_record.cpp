// SPDX-License-Identifier: Apache-2.0
#include "apps/benchmark_record.hpp"

#include <fmt/format.h>

#include <filesystem>

#include "apps/collective_run.hpp"
#include "apps/json_text.hpp"
#include "apps/output_file.hpp"

namespace portolan {

nlohmann::ordered_json environment_of(const Machine& machine, const Runtime& runtime,
                                      const CommonOptions& options) {
  return {{"machine", to_json(machine)},
          {"runtime", runtime.description()},
          {"ranks", runtime.world().size()},
          {"threads_per_rank", runtime.threads()},
          {"transport", runtime.world().description()},
          {"seed", options.seed},
          {"emulated_link", options.link.to_string()}};
}

std::string team_text(const Runtime& runtime) {
  const int ranks = runtime.world().size();
  return fmt::format("{} rank{} x {} thread{}", ranks, ranks == 1 ? "" : "s", runtime.threads(),
                     runtime.threads() == 1 ? "" : "s");
}

std::string_view weights_text(DType dtype, Quantization quantization) {
  return quantization == Quantization::none ? name_of(dtype) : name_of(quantization);
}

void prepare_record(Communicator& world, const std::optional<std::string>& folder) {
  if (folder) check_on_first_rank(world, [&folder] { prepare_output_folder(*folder); });
}

void publish(const std::string& name, const nlohmann::ordered_json& document,
             const std::string& csv, const std::optional<std::string>& folder, bool json) {
  const std::string text = json_text(document);
  if (folder) {
    const std::filesystem::path path(*folder);
    write_file(path / (name + ".json"), text);
    write_file(path / (name + ".csv"), csv);
  }
  if (json) {
    fmt::print("{}", text);
  } else if (folder) {
    fmt::print("wrote {}/{}.csv and {}.json\n", *folder, name, name);
  }
}

}  // namespace portolan
