// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "core/json_file.hpp"
#include "models/model.hpp"
#include "models/outline.hpp"

/// The architectures that this process knows. Everything outside models/ asks here and names none.
namespace portolan {

/// A published size of an architecture.
struct ModelVariant {
  std::string name;    ///< within the architecture: "7b"
  std::string preset;  ///< among all: "llama-7b"
  ModelConfig config;
};

/// All that is to be known of an architecture.
struct ModelArchitecture {
  std::string name;                       ///< model_type of config.json
  std::vector<std::string> classes = {};  ///< what `architectures` of config.json calls it
  std::vector<ModelVariant> variants = {};
  /// How its parameters are dealt to ranks, where the built-in table does not say it.
  std::vector<PlanRule> rules = {};
  /// Throws InputError naming the field that is wrong.
  std::function<ModelConfig(const JsonObject&)> read_config;
  /// Adds the fields that read_config reads, but for model_type, architectures, dtype and tokens.
  std::function<void(const ModelConfig&, nlohmann::ordered_json&)> write_config;
  std::function<ModelOutline(const ModelConfig&)> outline;
  /// Collective.
  std::function<std::unique_ptr<Model>(const ModelSetup&)> make;
};

/// Adds an architecture of one's own. Not while other threads use the registry. Throws UsageError
/// if its name, a class or a preset is taken.
void register_model(ModelArchitecture architecture);

/// The built-in ones first. UsageError for an unknown name.
[[nodiscard]] const ModelArchitecture& model_architecture(std::string_view name);
[[nodiscard]] const std::vector<ModelArchitecture>& model_architectures();

/// Loads this rank's shards of a model of a registered architecture. What `setup` refers to must
/// outlive it. Collective.
[[nodiscard]] std::unique_ptr<Model> make_model(const ModelSetup& setup);

/// How get_model makes a model.
struct ModelOptions {
  const ParallelContext& context;
  Device device;
  std::int64_t maximum_length = 1024;
  /// Absent: the config's, else f32.
  std::optional<DType> dtype = {};
  ParameterUse use = ParameterUse::inference;
  std::optional<std::vector<PlanRule>> rules = {};  ///< absent: plan_rules
  std::uint64_t seed = 0;                           ///< of random weights
};

/// A model by the names of its architecture and variant, with random weights; or from the folder
/// `path`, whose config.json then decides, and which must be of `architecture` unless that is
/// empty. `source` is the layout of the folder: "hf" or "meta". Throws UsageError for unknown
/// names and InputError for what is wrong in the folder. Collective.
[[nodiscard]] std::unique_ptr<Model> get_model(std::string_view architecture,
                                               std::string_view variant,
                                               const std::filesystem::path& path,
                                               std::string_view source,
                                               const ModelOptions& options);

}  // namespace portolan
