// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <variant>

/// How the frequencies of rotary position embeddings change for contexts longer than a model was
/// first trained for. Plain frequencies are theta^(-2i/D), i < D/2.
namespace portolan {

struct NoRopeScaling {
  bool operator==(const NoRopeScaling&) const = default;
};

/// All frequencies divided by `factor` (position interpolation, Chen et al. 2023,
/// arXiv:2306.15595).
struct LinearRopeScaling {
  double factor = 1.0;
  bool operator==(const LinearRopeScaling&) const = default;
};

/// Plain frequencies up to max_position_embeddings. Beyond, theta would grow with the sequence, and
/// with it the frequencies of keys that are cached already: longer sequences are refused.
struct DynamicRopeScaling {
  double factor = 1.0;
  bool operator==(const DynamicRopeScaling&) const = default;
};

/// LLaMA 3.1: wavelengths longer than original_max_position_embeddings / low_freq_factor are
/// stretched by `factor`, those shorter than original_max_position_embeddings / high_freq_factor
/// are kept, and those between are blended.
struct Llama3RopeScaling {
  double factor = 8.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  std::int64_t original_max_position_embeddings = 8192;
  bool operator==(const Llama3RopeScaling&) const = default;
};

/// YaRN (Peng et al. 2023, arXiv:2309.00071, section 3): frequencies that turn more than beta_fast
/// times within original_max_position_embeddings are kept, those that turn less than beta_slow
/// times are divided by `factor`, and those between are blended, linearly in i.
struct YarnRopeScaling {
  double factor = 1.0;
  std::int64_t original_max_position_embeddings = 0;
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  /// Whether the ends of the blend are rounded outwards to whole i.
  bool truncate = true;
  /// What cosines and sines are multiplied by: its square is the paper's inverse temperature of the
  /// softmax.
  double attention_factor = 1.0;
  bool operator==(const YarnRopeScaling&) const = default;
};

using RopeScaling = std::variant<NoRopeScaling, LinearRopeScaling, DynamicRopeScaling,
                                 Llama3RopeScaling, YarnRopeScaling>;

}  // namespace portolan
