// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "apps/options.hpp"

namespace portolan {

struct TrainRequest {
  CommonOptions common;
  std::optional<std::string> model;   ///< --model: a folder
  std::optional<std::string> preset;  ///< --preset, with random weights
  std::optional<std::int64_t> layers;
  std::optional<std::string> data;   ///< --data: text
  std::optional<std::string> batch;  ///< --batch: a safetensors file
  std::int64_t batch_size = 8;
  std::int64_t sequence_length = 256;
  std::int64_t steps = 0;
  std::string optimizer = "adamw";
  double learning_rate = 1e-3;
  std::vector<double> betas = {0.9, 0.95};
  double epsilon = 1e-8;
  double momentum = 0.0;
  double weight_decay = 0.1;
  bool decay_all = false;
  std::optional<double> clip_norm;
  std::string schedule = "constant";
  std::int64_t warmup = 0;
  double dropout = 0.0;
  std::string recompute = "none";
  std::optional<std::string> save_gradients;
  std::optional<std::string> out;
};

/// Trains a model and prints one JSON object per step. Collective.
void run_train(const TrainRequest& request);

}  // namespace portolan
