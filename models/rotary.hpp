// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.hpp"
#include "models/config.hpp"

namespace portolan {

/// Inverse frequencies theta^(-2i/D), i < D/2, after the config's scaling
/// (models/rope_scaling.hpp). In f64.
[[nodiscard]] std::vector<double> rotary_inverse_frequencies(const LlamaConfig& config);

/// Cosines and sines of position x inverse frequency, [length, D/2] f32 each, from exact f64
/// angles, and times YaRN's attention_factor.
struct RotaryTables {
  Tensor cosines;
  Tensor sines;
};
[[nodiscard]] RotaryTables make_rotary_tables(const LlamaConfig& config, std::int64_t length,
                                              Device device);

}  // namespace portolan
