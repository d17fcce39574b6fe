// SPDX-License-Identifier: Apache-2.0
#include "models/config.hpp"

#include <numeric>

#include "core/error.hpp"
#include "models/config_fields.hpp"
#include "models/registry.hpp"

namespace portolan {

const CommonConfig& ModelConfig::common() const {
  return std::visit([](const auto& each) -> const CommonConfig& { return each; }, parameters);
}

CommonConfig& ModelConfig::common() {
  return std::visit([](auto& each) -> CommonConfig& { return each; }, parameters);
}

ModelConfig ModelConfig::with_layers(std::optional<std::int64_t> count) const {
  ModelConfig config = *this;
  if (!count) return config;
  require(*count >= 1 && *count <= kMaximumLayers, "expected 1 to {} layers, found {}",
          kMaximumLayers, *count);
  config.common().layers = *count;
  return config;
}

void ModelConfig::refuse_family() const {
  throw UnsupportedError(fmt::format(
      "a model of architecture {} is not of the family that is needed here", architecture));
}

std::string config_text(const ModelConfig& config) {
  const ModelArchitecture& architecture = model_architecture(config.architecture);
  nlohmann::ordered_json json;
  if (!architecture.classes.empty()) json["architectures"] = {architecture.classes.front()};
  json["model_type"] = architecture.name;
  architecture.write_config(config, json);
  write_dtype_and_tokens(config.common(), json);
  return json.dump(2) + "\n";
}

ModelConfig preset_config(std::string_view name) {
  const ModelVariant* by_variant = nullptr;
  bool ambiguous = false;
  for (const ModelArchitecture& architecture : model_architectures()) {
    for (const ModelVariant& variant : architecture.variants) {
      if (variant.preset == name) return variant.config;
      if (variant.name != name) continue;
      ambiguous = by_variant != nullptr;
      by_variant = &variant;
    }
  }
  if (by_variant != nullptr && !ambiguous) return by_variant->config;
  throw UsageError(fmt::format("unknown preset '{}': expected one of {}", name,
                               fmt::join(preset_names(), ", ")));
}

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const ModelArchitecture& architecture : model_architectures()) {
    for (const ModelVariant& variant : architecture.variants) names.push_back(variant.preset);
  }
  return names;
}

std::int64_t ParameterShape::elements() const {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

std::vector<ParameterShape> parameter_shapes(const ModelConfig& config) {
  return outline_of(config).parameters;
}

std::int64_t parameter_count(const ModelConfig& config) {
  std::int64_t total = 0;
  for (const ParameterShape& parameter : parameter_shapes(config)) total += parameter.elements();
  return total;
}

std::string ModelOutline::in_layer(std::int64_t index, std::string_view name) const {
  return fmt::format("{}{}.{}", layers, index, name);
}

void add_with_bias(std::vector<ParameterShape>& shapes, const std::string& name,
                   const std::vector<std::int64_t>& shape) {
  shapes.push_back({name + ".weight", shape});
  shapes.push_back({name + ".bias", {shape.front()}});
}

std::string_view torch_name_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "float32";
    case DType::bf16:
      return "bfloat16";
    case DType::f16:
      return "float16";
    case DType::f64:
      return "float64";
    case DType::i32:
      return "int32";
    case DType::i64:
      return "int64";
    case DType::u8:
      return "uint8";
  }
  return "";
}

}  // namespace portolan
