// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

/// What the attention kernels in CUDA C++ are given: device pointers and sizes. Plain C++.
///
/// Letters: B batch entries (or packed sequences), Sq and Sk tokens, H query heads, Hkv key/value
/// heads (H a multiple of Hkv; query head h reads key/value head h / (H / Hkv)), D head_dim.
namespace portolan::cuda {

enum class AttentionElement { bf16, f16 };

/// How a result is written: in the dtype of q, in f32, or added to the f32 that is there.
enum class AttentionOutput { element, f32, f32_sum };

/// Elements (not bytes) from one batch entry, token and head to the next; D is dense.
struct AttentionStrides {
  std::int64_t batch = 0;
  std::int64_t token = 0;
  std::int64_t head = 0;
};

/// Which keys a query sees: query i of an entry stands at position i + Sk - Sq of that entry's keys
/// (bottom-right aligned) and sees key j if (not causal or j <= position) and (window == 0 or
/// position - j < window).
struct AttentionShape {
  std::int64_t batch = 0;
  std::int64_t query_tokens = 0;  ///< per entry; the most of any entry if packed
  std::int64_t key_tokens = 0;
  std::int64_t heads = 0;
  std::int64_t key_heads = 0;
  std::int64_t head_dim = 0;
  AttentionElement element = AttentionElement::bf16;
  bool causal = true;
  std::int64_t window = 0;  ///< 0: none; else causal is implied
  float scale = 1.0F;
  /// Packed sequences of unequal lengths: device pointers to batch + 1 ascending offsets of rows,
  /// the strides' `batch` then unused. Null: entries of equal lengths. Both or neither.
  const std::int32_t* query_offsets = nullptr;
  const std::int32_t* key_offsets = nullptr;
  /// Rows [begin, end) of the keys and values of each entry that hold tokens, clamped to [0, Sk]:
  /// device pointer to [B, 2], read when kernels run, so that a recorded call may be started again
  /// with other rows. An entry's keys are then those rows and no others, and Sk is the most that it
  /// may have. Null: all Sk rows. Only for decoding.
  const std::int32_t* cached_rows = nullptr;
};

struct AttentionForwardArguments {
  AttentionShape shape;
  const void* q = nullptr;  ///< [B, Sq, H, D]; 16-byte aligned, strides multiples of 8 elements
  const void* k = nullptr;  ///< [B, Sk, Hkv, D]
  const void* v = nullptr;  ///< [B, Sk, Hkv, D]
  void* out = nullptr;      ///< [B, Sq, H, D], dtype of q or f32
  AttentionOutput output = AttentionOutput::element;  ///< of out; not f32_sum
  AttentionStrides q_strides;
  AttentionStrides k_strides;
  AttentionStrides v_strides;
  AttentionStrides out_strides;
  /// Natural logarithm of the sum of exp(scale * q.k) over the keys seen, f32, [B, H, Sq], or
  /// [H, rows] if packed; -infinity where no key is seen (out is 0 there). May be null.
  float* log_sum_exp = nullptr;
  std::int64_t log_sum_exp_stride =
      0;  ///< elements from one head to the next: Sq, or rows if packed
};

struct AttentionBackwardArguments {
  AttentionShape shape;
  const void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  const void* grad_out = nullptr;  ///< like out, dtype of q
  AttentionStrides q_strides;
  AttentionStrides k_strides;
  AttentionStrides v_strides;
  AttentionStrides grad_out_strides;
  const float* log_sum_exp = nullptr;  ///< as the forward pass left it
  const float* delta = nullptr;        ///< sum over D of out * grad_out, laid out like log_sum_exp
  std::int64_t log_sum_exp_stride = 0;
  void* dq = nullptr;  ///< [B, Sq, H, D], dtype of q or f32
  void* dk = nullptr;  ///< [B, Sk, Hkv, D], query heads of one key/value head summed in head order
  void* dv = nullptr;
  AttentionOutput output = AttentionOutput::element;  ///< of dq, dk and dv
  AttentionStrides dq_strides;
  AttentionStrides dk_strides;
  AttentionStrides dv_strides;
};

}  // namespace portolan::cuda
