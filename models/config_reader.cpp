// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <string>

#include "core/error.hpp"
#include "core/json_file.hpp"
#include "core/mapped_file.hpp"
#include "core/printable.hpp"
#include "models/registry.hpp"

namespace portolan {
namespace {

/// "a, b, c" of what `name_of` gives of each registered architecture.
template <typename NameOf>
std::string list_of(NameOf name_of) {
  std::string text;
  for (const ModelArchitecture& each : model_architectures()) {
    text += (text.empty() ? "" : ", ") + name_of(each);
  }
  return text;
}

const ModelArchitecture& read_architecture(const JsonObject& config) {
  const ModelArchitecture* architecture = nullptr;
  const auto fail_type = [&config] {
    config.fail("model_type",
                "one of " + list_of([](const ModelArchitecture& each) { return each.name; }));
  };
  if (config.has("model_type")) {
    const std::string name = config.text("model_type");
    for (const ModelArchitecture& each : model_architectures()) {
      if (each.name == name) architecture = &each;
    }
    if (architecture == nullptr) fail_type();
  }
  if (config.has("architectures")) {
    const std::string expected = "a list of one of " + list_of([](const ModelArchitecture& each) {
                                   return each.classes.empty() ? each.name : each.classes.front();
                                 });
    const nlohmann::json& list = *config.find("architectures");
    if (!list.is_array()) config.fail("architectures", expected);
    for (const nlohmann::json& item : list) {
      const ModelArchitecture* named = nullptr;
      for (const ModelArchitecture& each : model_architectures()) {
        if (item.is_string() &&
            std::ranges::count(each.classes, item.get_ref<const std::string&>()) > 0) {
          named = &each;
        }
      }
      if (named == nullptr) {
        config.refuse("architectures",
                      fmt::format("expected {}, found {}", expected, describe(item)));
      }
      if (architecture != nullptr && architecture != named) {
        config.refuse("architectures", fmt::format("expected an architecture of model_type {}, "
                                                   "found {}",
                                                   architecture->name, describe(item)));
      }
      architecture = named;
    }
  }
  if (architecture == nullptr) fail_type();
  return *architecture;
}

}  // namespace

ModelConfig parse_model_config(std::string_view text, const std::string& source) {
  const nlohmann::json document = parse_json(text, source);
  const JsonObject config(document, source);
  return read_architecture(config).read_config(config);
}

ModelConfig read_model_config(const std::filesystem::path& path) {
  return parse_model_config(read_text_file(path, JsonLimits{}.bytes), printable_path(path));
}

}  // namespace portolan
