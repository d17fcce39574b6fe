// SPDX-License-Identifier: Apache-2.0
#include "models/rotary.hpp"

#include <cmath>
#include <numbers>

#include "core/ops.hpp"

namespace portolan {
namespace {

double scale_frequency(double frequency, const NoRopeScaling& /*scaling*/) { return frequency; }

double scale_frequency(double frequency, const LinearRopeScaling& scaling) {
  return frequency / scaling.factor;
}

double scale_frequency(double frequency, const Llama3RopeScaling& scaling) {
  const double wavelength = 2.0 * std::numbers::pi / frequency;
  const auto context = static_cast<double>(scaling.original_max_position_embeddings);
  if (wavelength < context / scaling.high_freq_factor) return frequency;
  if (wavelength > context / scaling.low_freq_factor) return frequency / scaling.factor;
  const double blend = (context / wavelength - scaling.low_freq_factor) /
                       (scaling.high_freq_factor - scaling.low_freq_factor);
  return (1.0 - blend) * frequency / scaling.factor + blend * frequency;
}

}  // namespace

std::vector<double> rotary_inverse_frequencies(const LlamaConfig& config) {
  std::vector<double> frequencies;
  for (std::int64_t i = 0; i < config.head_dim / 2; ++i) {
    const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim);
    const double frequency = std::pow(config.rope_theta, exponent);
    frequencies.push_back(
        std::visit([frequency](const auto& scaling) { return scale_frequency(frequency, scaling); },
                   config.rope_scaling));
  }
  return frequencies;
}

RotaryTables make_rotary_tables(const LlamaConfig& config, std::int64_t length, Device device) {
  const std::vector<double> frequencies = rotary_inverse_frequencies(config);
  const auto half = static_cast<std::int64_t>(frequencies.size());
  std::vector<float> cosines(static_cast<std::size_t>(length * half));
  std::vector<float> sines(cosines.size());
  for (std::int64_t position = 0; position < length; ++position) {
    for (std::int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(position) * frequencies[static_cast<std::size_t>(i)];
      const auto index = static_cast<std::size_t>(position * half + i);
      cosines[index] = static_cast<float>(std::cos(angle));
      sines[index] = static_cast<float>(std::sin(angle));
    }
  }
  RotaryTables tables{Tensor::empty({length, half}, DType::f32, device),
                      Tensor::empty({length, half}, DType::f32, device)};
  Backend& backend = backend_of(device);
  backend.copy_bytes(tables.cosines.raw(), cosines.data(), tables.cosines.bytes(), Queue::compute);
  backend.copy_bytes(tables.sines.raw(), sines.data(), tables.sines.bytes(), Queue::compute);
  backend.synchronize();
  return tables;
}

}  // namespace portolan
