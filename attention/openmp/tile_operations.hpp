// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include "core/dtype.hpp"

/// What a flash kernel does to tiles between their products, in vector instructions chosen at run
/// time for the CPU. Layouts are those in which libxsmm's products want their operands.
///
/// A product of `Single` operands reads f32. One of `Pair` operands reads bf16 in pairs along the
/// summed dimension ("VNNI"): keys pair elements d and d + 1 of a row, values pair rows r and r +
/// 16 of each 32, so that weights can be narrowed without moving them between lanes.
namespace portolan::flash {

/// Queries of a tile in the forward pass.
inline constexpr int kQueryTile = 16;
/// Keys of a tile.
inline constexpr int kKeyTile = 128;
/// Queries of a tile in the backward pass.
inline constexpr int kGradientQueryTile = 64;
inline constexpr int kMaximumQueryTile = 64;
inline constexpr int kMaximumTileRows = 128;
/// Partial sums kept for each row: an AVX-512 register.
inline constexpr int kSumLanes = 16;
/// Values pair with the row this far on.
inline constexpr int kPairDistance = 16;

enum class OperandFormat : std::uint8_t { single, pair };

/// Rows of `head_dim` elements, wherever they are.
struct SourceRows {
  void* const* rows = nullptr;
  DType dtype = DType::f32;
  int count = 0;
  int head_dim = 0;

  /// Rows [begin, end).
  [[nodiscard]] SourceRows slice(int begin, int end) const {
    return {rows + begin, dtype, end - begin, head_dim};
  }
};

/// True if this CPU runs the vector code of this file; the rest of the functions need that.
[[nodiscard]] bool has_vector_operations();

/// Transposes rows. single: f32 [head_dim][stride]; pair: bf16 [ceil(head_dim / 2)][stride][2].
/// Columns from `count` to its next multiple of 32 are zeroed. Formats: single takes every dtype,
/// pair takes bf16.
void pack_transposed(const SourceRows& source, OperandFormat format, int stride, void* out);

/// single: f32 [count][padded_dim]; pair: bf16 [count / 2][padded_dim][2], row r paired with r +
/// kPairDistance. padded_dim is a multiple of 16; padding, and rows from `count` to its next
/// multiple of 32, are zeroed.
void pack_values(const SourceRows& values, OperandFormat format, int padded_dim, void* out);

/// Copies rows to f32 or bf16 [count][padded_dim] times `sign`, which is 1, -1 or 0; zeroes
/// padding.
void load_rows(const SourceRows& source, OperandFormat format, int padded_dim, float sign,
               void* out);

/// Narrows f32 [rows][stride] to bf16 [rows][stride] with columns c and c + kPairDistance of each
/// 32 side by side, for as many columns, a multiple of 32.
void pair_columns(const float* from, int rows, int columns, int stride, void* out);

/// One tile of scores and the running state of its rows.
struct SoftmaxTile {
  float* scores = nullptr;       ///< [rows][stride]; becomes the weights if the format is single
  void* pair_weights = nullptr;  ///< bf16 [rows][stride], paired by kPairDistance
  int stride = 0;
  int rows = 0;
  int columns = 0;  ///< a multiple of 16
  /// Multiplies scores; exponentials are taken to base 2, so it contains log2(e).
  float scale = 1.0F;
  /// Rows of kKeyTile / 8 bytes with a bit for each column; null if all are seen, or kept.
  const std::uint8_t* seen = nullptr;
  const std::uint8_t* kept = nullptr;
  float* maximum = nullptr;  ///< [rows] reference exponent, at start lowest float
  float* sums = nullptr;     ///< [rows][kSumLanes] of weights, at start 0
  float* out = nullptr;      ///< [rows][padded_dim] accumulated so far, in units of 2^maximum
  int padded_dim = 0;
};

/// Turns scores into weights 2^(scale * score - maximum), adds them to the sums, and where scores
/// have outgrown the reference exponent by more than 8 raises it and rescales the row's state.
/// Rescaling only then is exact, since numerator and denominator share the reference, and rare.
/// Weights that are not kept are 0 afterwards, but count in the sums.
void softmax_tile(const SoftmaxTile& tile, OperandFormat format);

/// Writes out[row][:] * factor[row] to rows of the given dtype.
void store_rows(const float* accumulated, int padded_dim, const float* factors, int count,
                int head_dim, DType dtype, void* const* rows);

/// Adds accumulated[row][:] to f32 rows.
void add_rows(const float* accumulated, int padded_dim, int count, int head_dim, void* const* rows);

/// totals[row] = sum of the kSumLanes partial sums of a row.
void add_lanes(const float* sums, int rows, float* totals);

}  // namespace portolan::flash
