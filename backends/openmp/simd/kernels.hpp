// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <string>

#include "core/backend.hpp"
#include "core/dtype.hpp"
#include "core/random.hpp"

/// Single-threaded SIMD kernels over ranges of rows or elements, compiled for every instruction set
/// that Highway knows on this architecture; the best one of the CPU is chosen at run time. Strides
/// are in elements. `stream` asks for stores that bypass the cache, for results too large for it.
///
/// The bits of a result depend on the instruction set (the width of partial sums) but not on how a
/// caller splits the range.
namespace portolan::simd {

/// Name of the instruction set in use, e.g. "AVX3".
[[nodiscard]] std::string target_name();

struct ConvertElements {
  DType source_dtype = DType::f32;
  DType out_dtype = DType::f32;
  const void* source = nullptr;
  void* out = nullptr;
  bool stream = false;
};
/// out[i] = source[i], rounded to nearest even, i in [begin, end). Equal dtypes copy.
void convert(const ConvertElements& arguments, std::int64_t begin, std::int64_t end);

struct SumElements {
  DType dtype = DType::f32;
  const void* const* inputs = nullptr;
  int input_count = 0;
  void* const* outs = nullptr;
  int out_count = 0;
  bool stream = false;
};
/// Each out[i] = inputs[0][i] + inputs[1][i] + ..., added in that order in f32, rounded once.
void sum(const SumElements& arguments, std::int64_t begin, std::int64_t end);

struct SwigluRows {
  DType dtype = DType::f32;
  const void* gate = nullptr;
  const void* up = nullptr;
  void* out = nullptr;
  std::int64_t gate_stride = 0;
  std::int64_t up_stride = 0;
  std::int64_t out_stride = 0;
  std::int64_t features = 0;
  bool stream = false;
};
void swiglu(const SwigluRows& arguments, std::int64_t begin, std::int64_t end);

struct RmsNormRows {
  DType dtype = DType::f32;
  DType weight_dtype = DType::f32;  ///< dtype or f32
  const void* x = nullptr;
  void* residual = nullptr;  ///< if not null: residual += x, then out = norm(residual)
  const void* weight = nullptr;
  void* out = nullptr;
  std::int64_t x_stride = 0;
  std::int64_t residual_stride = 0;
  std::int64_t out_stride = 0;
  std::int64_t features = 0;
  float epsilon = 0.0F;
  bool stream = false;
};
void rms_norm(const RmsNormRows& arguments, std::int64_t begin, std::int64_t end);

struct RotaryTokens {
  DType dtype = DType::f32;
  void* x = nullptr;
  const std::int32_t* positions = nullptr;
  const float* cosines = nullptr;
  const float* sines = nullptr;
  std::int64_t token_stride = 0;
  std::int64_t head_stride = 0;
  std::int64_t heads = 0;
  std::int64_t half = 0;  ///< head_dim / 2
  std::int64_t positions_stride = 0;
  std::int64_t cosine_stride = 0;
  std::int64_t sine_stride = 0;
  bool inverse = false;  ///< by the negative angles
};
void rotary_embedding(const RotaryTokens& arguments, std::int64_t begin, std::int64_t end);

struct MergeRows {
  const float* block_out = nullptr;
  const float* block_log_sum_exp = nullptr;
  float* out = nullptr;
  float* log_sum_exp = nullptr;
  std::int64_t tokens = 0;
  std::int64_t heads = 0;
  std::int64_t head_dim = 0;
};
/// Rows are (batch, token, head).
void merge_attention(const MergeRows& arguments, std::int64_t begin, std::int64_t end);

/// Rows of [batch, tokens, heads, head_dim], dense in the last dimension.
struct HeadRows {
  const void* data = nullptr;
  DType dtype = DType::f32;
  std::int64_t batch_stride = 0;
  std::int64_t token_stride = 0;
  std::int64_t head_stride = 0;
};
struct DeltaRows {
  HeadRows out;
  HeadRows grad_out;
  float* delta = nullptr;  ///< [batch, heads, tokens] by its strides
  std::int64_t delta_batch_stride = 0;
  std::int64_t delta_head_stride = 0;
  std::int64_t delta_token_stride = 0;
  std::int64_t tokens = 0;
  std::int64_t heads = 0;
  std::int64_t head_dim = 0;
};
/// Rows are (batch, token, head).
void attention_delta(const DeltaRows& arguments, std::int64_t begin, std::int64_t end);

struct UniformElements {
  DType dtype = DType::f32;
  RandomKey key;
  float mean = 0.0F;
  float scale = 0.0F;
  bool stream = false;
};
/// out[i] = mean + scale * u, u drawn at element first + i of the stream, i in [0, count).
void random_uniform(const UniformElements& arguments, void* out, std::uint64_t first,
                    std::int64_t count);

struct DropoutElements {
  DType dtype = DType::f32;
  RandomKey key;
  std::uint32_t threshold = 0;  ///< elements whose word is less are dropped
  float kept = 1.0F;            ///< what the others are multiplied with
};
/// x[i] is element first + i of the stream, i in [0, count).
void dropout(const DropoutElements& arguments, void* x, std::uint64_t first, std::int64_t count);

struct PackPanels {
  DType source_dtype = DType::f32;
  DType weight_dtype = DType::f32;
  const void* rows = nullptr;
  void* panels = nullptr;  ///< where row 0 goes
  std::int64_t row_stride = 0;
  std::int64_t row_count = 0;
  std::int64_t in_features = 0;
};
/// Writes panels [begin, end) of core/panels.hpp's layout, padding included.
void pack_panels(const PackPanels& arguments, std::int64_t begin, std::int64_t end);

struct PackColumns {
  DType source_dtype = DType::f32;
  DType weight_dtype = DType::f32;
  const void* source = nullptr;  ///< [in_features, out_features]
  void* panels = nullptr;
  std::int64_t row_stride = 0;
  std::int64_t in_features = 0;
  std::int64_t out_features = 0;
};
/// Writes 32-bit words [begin, end) (an input feature of f32, a pair of 16-bit ones) of all panels,
/// from a matrix that is the transpose of a weight.
void pack_columns(const PackColumns& arguments, std::int64_t begin, std::int64_t end);

struct QuantizePanels {
  DType source_dtype = DType::f32;
  Quantization quantization = Quantization::int8;
  const void* rows = nullptr;
  void* panels = nullptr;  ///< where row 0 goes
  std::int64_t row_stride = 0;
  std::int64_t row_count = 0;
  std::int64_t in_features = 0;
};
/// Writes panels [begin, end) of integers, padding included.
void quantize_panels(const QuantizePanels& arguments, std::int64_t begin, std::int64_t end);

struct WidenPanels {
  Quantization quantization = Quantization::int8;
  DType out_dtype = DType::f32;  ///< f32 or bf16
  const void* panels = nullptr;
  void* out = nullptr;
  std::int64_t in_features = 0;
};
/// Panels [begin, end) of integers as panels of out_dtype, exactly: factors of groups included,
/// scales of outputs left out.
void widen_panels(const WidenPanels& arguments, std::int64_t begin, std::int64_t end);

struct ScaledSums {
  DType out_dtype = DType::f32;
  const float* sums = nullptr;
  const float* scales = nullptr;
  void* out = nullptr;
  std::int64_t sums_stride = 0;
  std::int64_t out_stride = 0;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  bool accumulate = false;
};
/// out[r, c] = sums[r, c] * scales[c], or out += that.
void store_scaled(const ScaledSums& arguments);

struct PanelProduct {
  DType x_dtype = DType::f32;
  DType panel_dtype = DType::f32;  ///< f32 or bf16, unless quantized
  Quantization quantization = Quantization::none;
  DType out_dtype = DType::f32;
  const void* x = nullptr;
  const void* panel = nullptr;
  void* out = nullptr;  ///< the panel's first column
  std::int64_t x_stride = 0;
  std::int64_t out_stride = 0;
  std::int64_t rows = 0;
  std::int64_t in_features = 0;
  std::int64_t columns = 0;  ///< of the panel's 64 that are outputs
  bool accumulate = false;
};
/// out[rows, columns] = x[rows, in_features] times one panel, or out += that, in f32.
void multiply_panel(const PanelProduct& arguments);
/// True if registers hold the sums of all columns of a panel, so that multiply_panel reads it once
/// from its first byte to its last.
[[nodiscard]] bool holds_panel_width();

}  // namespace portolan::simd
