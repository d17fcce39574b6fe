// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "attention/openmp/tile_operations.hpp"

namespace portolan::flash {

/// A tile of the backward pass, keys as rows: so the scores of a tile are an operand of the
/// products for dk and dv as they lie, and what belongs to queries is read as vectors.
struct GradientTile {
  float* scores = nullptr;         ///< [keys][stride] k q^T; becomes the weights if single
  float* weight_slopes = nullptr;  ///< [keys][stride] v grad_out^T; becomes dS if single
  /// Only for pairs. [keys][stride], columns paired by kPairDistance.
  void* pair_weights = nullptr;
  void* pair_slopes = nullptr;
  /// Only for pairs: dS [keys / 2][stride][2], rows paired by kPairDistance.
  void* packed_slopes = nullptr;
  int stride = 0;
  int keys = 0;     ///< a multiple of 32
  int queries = 0;  ///< a multiple of 32
  float scale = 1.0F;
  const float* log_sum_exp = nullptr;  ///< [queries] times -log2(e)
  const float* delta = nullptr;        ///< [queries] times -scale
  /// Rows of stride / 8 bytes with a bit for each query; null if all are seen, or kept.
  const std::uint8_t* seen = nullptr;
  const std::uint8_t* kept = nullptr;
  float kept_factor = 1.0F;
};

/// Turns scores into weights P = 2^(log2(e) * scale * score + log_sum_exp), and slopes into
/// dS = P * (scale * slope + delta). With dropout the weights and slopes of kept elements are
/// multiplied by kept_factor, the others by 0.
void gradient_tile(const GradientTile& tile, OperandFormat format);

}  // namespace portolan::flash
