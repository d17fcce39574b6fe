// SPDX-License-Identifier: Apache-2.0
#include "models/registry.hpp"

#include <algorithm>
#include <utility>

#include "core/error.hpp"
#include "models/gpt_bigcode.hpp"
#include "models/llama.hpp"
#include "models/roberta.hpp"

namespace portolan {
namespace {

std::vector<ModelArchitecture>& registry() {
  static std::vector<ModelArchitecture> architectures{
      llama_architecture(),   mistral_architecture(),     gpt_bigcode_architecture(),
      roberta_architecture(), xlm_roberta_architecture(), bert_architecture()};
  return architectures;
}

std::vector<std::string> architecture_names() {
  std::vector<std::string> names;
  for (const ModelArchitecture& each : registry()) names.push_back(each.name);
  return names;
}

ModelConfig variant_config(std::string_view architecture, std::string_view variant) {
  std::vector<std::string> names;
  for (const ModelVariant& each : model_architecture(architecture).variants) {
    if (each.name == variant) return each.config;
    names.push_back(each.name);
  }
  throw UsageError(fmt::format("unknown variant '{}' of {}: expected one of {}", variant,
                               architecture, fmt::join(names, ", ")));
}

std::unique_ptr<Model> make(const ModelConfig& config, WeightSource& weights,
                            const ModelOptions& options) {
  return make_model({.plan = ModelPlan(config, options.context.layout(), options.rules),
                     .context = options.context,
                     .weights = weights,
                     .dtype = options.dtype.value_or(config.common().dtype.value_or(DType::f32)),
                     .device = options.device,
                     .maximum_length = options.maximum_length,
                     .use = options.use});
}

}  // namespace

void register_model(ModelArchitecture architecture) {
  require(architecture.read_config && architecture.write_config && architecture.outline &&
              architecture.make,
          "architecture '{}' lacks one of read_config, write_config, outline, make",
          architecture.name);
  for (const ModelArchitecture& known : registry()) {
    require(known.name != architecture.name, "architecture '{}' is registered already",
            architecture.name);
    for (const std::string& name : architecture.classes) {
      require(std::ranges::find(known.classes, name) == known.classes.end(),
              "class '{}' is registered already, for {}", name, known.name);
    }
    for (const ModelVariant& variant : architecture.variants) {
      require(std::ranges::find(known.variants, variant.preset, &ModelVariant::preset) ==
                  known.variants.end(),
              "preset '{}' is registered already, for {}", variant.preset, known.name);
    }
  }
  registry().push_back(std::move(architecture));
}

const std::vector<ModelArchitecture>& model_architectures() { return registry(); }

const ModelArchitecture& model_architecture(std::string_view name) {
  const auto found = std::ranges::find(registry(), name, &ModelArchitecture::name);
  require(found != registry().end(), "unknown architecture '{}': expected one of {}", name,
          fmt::join(architecture_names(), ", "));
  return *found;
}

std::unique_ptr<Model> make_model(const ModelSetup& setup) {
  return model_architecture(setup.plan.config().architecture).make(setup);
}

std::unique_ptr<Model> get_model(std::string_view architecture, std::string_view variant,
                                 const std::filesystem::path& path, std::string_view source,
                                 const ModelOptions& options) {
  require(source == "hf" || source == "meta",
          "unknown layout '{}' of a model's folder: expected hf or meta", source);
  if (path.empty()) {
    const std::unique_ptr<WeightSource> weights = make_random_weights(options.seed);
    return make(variant_config(architecture, variant), *weights, options);
  }
  const Checkpoint checkpoint(path);
  require((checkpoint.format() == CheckpointFormat::meta) == (source == "meta"),
          "{}: expected the layout {}, found the other", path.string(), source);
  const std::string& found = checkpoint.config().architecture;
  require(architecture.empty() || architecture == found,
          "{}: expected a model of architecture {}, found {}", path.string(), architecture, found);
  const std::unique_ptr<WeightSource> weights = make_checkpoint_weights(checkpoint);
  return make(checkpoint.config(), *weights, options);
}

std::vector<PlanRule> plan_rules(const ModelConfig& config) {
  std::vector<PlanRule> rules = model_architecture(config.architecture).rules;
  const std::vector<PlanRule> builtin = default_tensor_parallel_rules();
  rules.insert(rules.end(), builtin.begin(), builtin.end());
  return rules;
}

ModelOutline outline_of(const ModelConfig& config) {
  return model_architecture(config.architecture).outline(config);
}

}  // namespace portolan
