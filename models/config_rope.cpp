// SPDX-License-Identifier: Apache-2.0
#include "models/config_rope.hpp"

#include "core/error.hpp"
#include "models/config_fields.hpp"

namespace portolan {
namespace {

/// The kind of scaling: rope_type, which older files call type.
std::string read_kind(const JsonObject& rope) {
  if (!rope.has("type")) {
    if (rope.has("rope_type")) return rope.text("rope_type");
    // Without a kind there must be nothing to scale by.
    if (rope.has("factor")) rope.fail("rope_type", "default, linear or llama3");
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

RopeScaling read_scaling(const JsonObject& rope) {
  for (const auto& [name, value] : rope.members().items()) {
    // Other architectures give one set for each kind of layer.
    if (value.is_object()) rope.fail(name, "no parameters by kind of layer");
  }
  require_whole_heads(rope);
  const std::string kind = read_kind(rope);
  if (kind == "default") return NoRopeScaling{};
  if (kind == "linear") return LinearRopeScaling{rope.positive_number("factor")};
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
  rope.fail(rope.has("type") ? "type" : "rope_type", "default, linear or llama3");
}

}  // namespace

void read_rope(const JsonObject& config, LlamaConfig& result) {
  require_whole_heads(config);
  if (config.has("rope_theta")) result.rope_theta = config.positive_number("rope_theta");
  if (config.has("rope_scaling")) result.rope_scaling = read_scaling(config.object("rope_scaling"));
  if (!config.has("rope_parameters")) return;

  const JsonObject rope = config.object("rope_parameters");
  const RopeScaling scaling = read_scaling(rope);
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

}  // namespace portolan
