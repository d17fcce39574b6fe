// SPDX-License-Identifier: Apache-2.0
#include "models/config_rope.hpp"

#include <cmath>

#include "core/error.hpp"
#include "models/config_fields.hpp"

namespace portolan {
namespace {

constexpr const char* kKinds = "default, linear, dynamic, llama3 or yarn";

/// The kind of scaling: rope_type, which older files call type.
std::string read_kind(const JsonObject& rope) {
  if (!rope.has("type")) {
    if (rope.has("rope_type")) return rope.text("rope_type");
    // Without a kind there must be nothing to scale by.
    if (rope.has("factor")) rope.fail("rope_type", kKinds);
    return "default";
  }
  const std::string kind = rope.text("type");
  if (rope.has("rope_type") && rope.text("rope_type") != kind) {
    rope.fail("rope_type", "the same as type (" + kind + ")");
  }
  return kind;
}

/// Whole heads are turned.
void require_whole_heads(const JsonObject& fields) {
  if (positive_or(fields, "partial_rotary_factor", 1.0) != 1.0) {
    fields.fail("partial_rotary_factor", "1 (the only form supported)");
  }
}

/// 0.1 m ln(factor) + 1, what YaRN's paper found by fitting for m = 1.
double yarn_attention_factor(double factor, double m) {
  return factor <= 1.0 ? 1.0 : 0.1 * m * std::log(factor) + 1.0;
}

/// Above 0; null, 0 and nothing are `absent`.
double nonzero_or(const JsonObject& fields, std::string_view name, double absent) {
  const bool zero = fields.has(name) && *fields.find(name) == 0;
  return zero ? absent : positive_or(fields, name, absent);
}

YarnRopeScaling read_yarn(const JsonObject& config, const JsonObject& rope,
                          std::int64_t max_position_embeddings) {
  YarnRopeScaling scaling;
  constexpr const char* kContext = "original_max_position_embeddings";
  scaling.original_max_position_embeddings =
      integer_or(config, kContext, 1, kMaximumPositions,
                 integer_or(rope, kContext, 1, kMaximumPositions, max_position_embeddings));
  scaling.factor = positive_or(rope, "factor",
                               static_cast<double>(max_position_embeddings) /
                                   static_cast<double>(scaling.original_max_position_embeddings));
  scaling.beta_fast = nonzero_or(rope, "beta_fast", scaling.beta_fast);
  scaling.beta_slow = nonzero_or(rope, "beta_slow", scaling.beta_slow);
  if (scaling.beta_fast < scaling.beta_slow) {
    rope.fail("beta_fast", fmt::format("at least beta_slow ({})", scaling.beta_slow));
  }
  scaling.truncate = rope.boolean("truncate", scaling.truncate);
  // Both or neither, as transformers reads them.
  const double scale = nonzero_or(rope, "mscale", 0.0);
  const double scale_of_all = nonzero_or(rope, "mscale_all_dim", 0.0);
  scaling.attention_factor = yarn_attention_factor(scaling.factor, 1.0);
  if (scale > 0.0 && scale_of_all > 0.0) {
    scaling.attention_factor = yarn_attention_factor(scaling.factor, scale) /
                               yarn_attention_factor(scaling.factor, scale_of_all);
  }
  scaling.attention_factor = positive_or(rope, "attention_factor", scaling.attention_factor);
  return scaling;
}

RopeScaling read_scaling(const JsonObject& config, const JsonObject& rope,
                         std::int64_t max_position_embeddings) {
  for (const auto& [name, value] : rope.members().items()) {
    // Other architectures give one set for each kind of layer.
    if (value.is_object()) rope.fail(name, "no parameters by kind of layer");
  }
  require_whole_heads(rope);
  const std::string kind = read_kind(rope);
  if (kind == "default") return NoRopeScaling{};
  if (kind == "linear") return LinearRopeScaling{rope.positive_number("factor")};
  if (kind == "dynamic") return DynamicRopeScaling{rope.positive_number("factor")};
  if (kind == "llama3") {
    Llama3RopeScaling scaling;
    scaling.factor = rope.positive_number("factor");
    scaling.low_freq_factor = rope.positive_number("low_freq_factor");
    scaling.high_freq_factor = rope.positive_number("high_freq_factor");
    if (scaling.high_freq_factor <= scaling.low_freq_factor) {
      rope.fail("high_freq_factor",
                fmt::format("more than low_freq_factor ({})", scaling.low_freq_factor));
    }
    scaling.original_max_position_embeddings =
        rope.integer("original_max_position_embeddings", 1, kMaximumPositions);
    return scaling;
  }
  if (kind == "yarn") return read_yarn(config, rope, max_position_embeddings);
  rope.fail(rope.has("type") ? "type" : "rope_type", kKinds);
}

using Fields = nlohmann::ordered_json;

Fields fields_of(const NoRopeScaling& /*scaling*/) { return Fields::object(); }
Fields fields_of(const LinearRopeScaling& scaling) {
  return {{"rope_type", "linear"}, {"factor", scaling.factor}};
}
Fields fields_of(const DynamicRopeScaling& scaling) {
  return {{"rope_type", "dynamic"}, {"factor", scaling.factor}};
}
Fields fields_of(const Llama3RopeScaling& scaling) {
  return {{"rope_type", "llama3"},
          {"factor", scaling.factor},
          {"low_freq_factor", scaling.low_freq_factor},
          {"high_freq_factor", scaling.high_freq_factor},
          {"original_max_position_embeddings", scaling.original_max_position_embeddings}};
}
Fields fields_of(const YarnRopeScaling& scaling) {
  return {{"rope_type", "yarn"},
          {"factor", scaling.factor},
          {"original_max_position_embeddings", scaling.original_max_position_embeddings},
          {"beta_fast", scaling.beta_fast},
          {"beta_slow", scaling.beta_slow},
          {"truncate", scaling.truncate},
          {"attention_factor", scaling.attention_factor}};
}

void read_theta_and_scaling(const JsonObject& config, LlamaConfig& result) {
  if (config.has("rope_theta")) result.rope_theta = config.positive_number("rope_theta");
  const auto scaling_of = [&](const JsonObject& rope) {
    return read_scaling(config, rope, result.max_position_embeddings);
  };
  if (config.has("rope_scaling")) result.rope_scaling = scaling_of(config.object("rope_scaling"));
  if (!config.has("rope_parameters")) return;

  const JsonObject rope = config.object("rope_parameters");
  const RopeScaling scaling = scaling_of(rope);
  if (config.has("rope_scaling") && scaling != result.rope_scaling) {
    config.refuse("rope_parameters", "contradicts rope_scaling");
  }
  result.rope_scaling = scaling;
  if (!rope.has("rope_theta")) return;
  const double theta = rope.positive_number("rope_theta");
  if (config.has("rope_theta") && theta != result.rope_theta) {
    rope.fail("rope_theta", fmt::format("the same as rope_theta ({})", result.rope_theta));
  }
  result.rope_theta = theta;
}

}  // namespace

void read_rope(const JsonObject& config, LlamaConfig& result) {
  require_whole_heads(config);
  read_theta_and_scaling(config, result);
  // YaRN looks for the frequency of a number of turns, which frequencies all alike do not have.
  if (std::holds_alternative<YarnRopeScaling>(result.rope_scaling) && result.rope_theta <= 1.0) {
    config.refuse("rope_theta",
                  fmt::format("expected more than 1 for yarn, found {}", result.rope_theta));
  }
}

nlohmann::ordered_json rope_scaling_fields(const RopeScaling& scaling) {
  return std::visit([](const auto& of_kind) { return fields_of(of_kind); }, scaling);
}

}  // namespace portolan
