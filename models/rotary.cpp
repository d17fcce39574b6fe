// SPDX-License-Identifier: Apache-2.0
#include "models/rotary.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "models/upload.hpp"

namespace portolan {
namespace {

/// The scaled frequency of pair i of a head's features.
struct ScaledFrequency {
  const LlamaConfig& config;
  double i;
  double frequency;

  double operator()(const NoRopeScaling&) const { return frequency; }
  double operator()(const DynamicRopeScaling&) const { return frequency; }
  double operator()(const LinearRopeScaling& scaling) const { return frequency / scaling.factor; }
  double operator()(const Llama3RopeScaling& scaling) const;
  double operator()(const YarnRopeScaling& scaling) const;
};

double ScaledFrequency::operator()(const Llama3RopeScaling& scaling) const {
  const double wavelength = 2.0 * std::numbers::pi / frequency;
  const auto context = static_cast<double>(scaling.original_max_position_embeddings);
  if (wavelength < context / scaling.high_freq_factor) return frequency;
  if (wavelength > context / scaling.low_freq_factor) return frequency / scaling.factor;
  const double blend = (context / wavelength - scaling.low_freq_factor) /
                       (scaling.high_freq_factor - scaling.low_freq_factor);
  return (1.0 - blend) * frequency / scaling.factor + blend * frequency;
}

double ScaledFrequency::operator()(const YarnRopeScaling& scaling) const {
  const auto head_dim = static_cast<double>(config.head_dim);
  // The i, whole or not, of the frequency that turns so many times within the first context.
  const auto pair_of = [&](double turns) {
    const auto context = static_cast<double>(scaling.original_max_position_embeddings);
    return head_dim * std::log(context / (2.0 * std::numbers::pi * turns)) /
           (2.0 * std::log(config.rope_theta));
  };
  double begin = pair_of(scaling.beta_fast);
  double end = pair_of(scaling.beta_slow);
  if (scaling.truncate) {
    begin = std::floor(begin);
    end = std::ceil(end);
  }
  begin = std::max(begin, 0.0);
  end = std::min(end, head_dim - 1.0);
  constexpr double kLeastWidth = 0.001;  // of the blend, where its ends meet
  const double width = begin == end ? kLeastWidth : end - begin;
  const double interpolated = std::clamp((i - begin) / width, 0.0, 1.0);
  return frequency * (1.0 - interpolated) + frequency / scaling.factor * interpolated;
}

double table_factor(const LlamaConfig& config) {
  const auto* yarn = std::get_if<YarnRopeScaling>(&config.rope_scaling);
  return yarn != nullptr ? yarn->attention_factor : 1.0;
}

}  // namespace

std::vector<double> rotary_inverse_frequencies(const LlamaConfig& config) {
  std::vector<double> frequencies;
  for (std::int64_t i = 0; i < config.head_dim / 2; ++i) {
    const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim);
    const double frequency = std::pow(config.rope_theta, exponent);
    const ScaledFrequency scaled{config, static_cast<double>(i), frequency};
    frequencies.push_back(std::visit(scaled, config.rope_scaling));
  }
  return frequencies;
}

RotaryTables make_rotary_tables(const LlamaConfig& config, std::int64_t length, Device device) {
  const std::vector<double> frequencies = rotary_inverse_frequencies(config);
  const double factor = table_factor(config);
  const auto half = static_cast<std::int64_t>(frequencies.size());
  std::vector<float> cosines(static_cast<std::size_t>(length * half));
  std::vector<float> sines(cosines.size());
  for (std::int64_t position = 0; position < length; ++position) {
    for (std::int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(position) * frequencies[static_cast<std::size_t>(i)];
      const auto index = static_cast<std::size_t>(position * half + i);
      cosines[index] = static_cast<float>(factor * std::cos(angle));
      sines[index] = static_cast<float>(factor * std::sin(angle));
    }
  }
  const Shape shape{length, half};
  return {upload(cosines, shape, DType::f32, device), upload(sines, shape, DType::f32, device)};
}

}  // namespace portolan
