// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

#include "backends/portable/dispatch.hpp"
#include "backends/portable/rows.hpp"
#include "core/tensor.hpp"

/// Embedding, rotary position embedding and the merge of partial attention.
namespace portolan::portable {

template <class T>
struct EmbeddingRows {
  const std::int32_t* ids = nullptr;
  const T* table = nullptr;
  T* out = nullptr;
  std::int64_t ids_stride = 0;
  std::int64_t table_stride = 0;
  std::int64_t out_stride = 0;
  std::int64_t first_row = 0;
  std::int64_t table_rows = 0;

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t row, std::int64_t begin,
                                         std::int64_t end) const {
    const std::int64_t id = ids[row * ids_stride] - first_row;
    const bool here = id >= 0 && id < table_rows;
    for (std::int64_t column = begin; column < end; ++column) {
      out[row * out_stride + column] = here ? table[id * table_stride + column] : T{};
    }
  }
};

template <class Space>
void embedding(const Space& space, const Tensor& ids, const Tensor& table, std::int64_t first_row,
               const Tensor& out) {
  dispatch_floating(out.dtype(), [&](auto type) {
    using T = typename decltype(type)::type;
    for_rows(
        space, "Portolan::Embedding::lookup", out.dim(0), out.dim(1),
        EmbeddingRows<T>{ids.data<std::int32_t>(), table.data<T>(), out.data<T>(), ids.strides()[0],
                         table.strides()[0], out.strides()[0], first_row, table.dim(0)});
  });
}

template <class T>
struct EmbeddingBackwardColumns {
  const std::int32_t* ids = nullptr;
  const T* grad_out = nullptr;
  float* grad_table = nullptr;
  std::int64_t ids_stride = 0;
  std::int64_t grad_out_stride = 0;
  std::int64_t grad_table_stride = 0;
  std::int64_t first_row = 0;
  std::int64_t table_rows = 0;
  std::int64_t tokens = 0;

  /// A thread has some columns of all rows to itself: ids repeat, and their order must be kept.
  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t /*row*/, std::int64_t begin,
                                         std::int64_t end) const {
    for (std::int64_t token = 0; token < tokens; ++token) {
      const std::int64_t id = ids[token * ids_stride] - first_row;
      if (id < 0 || id >= table_rows) continue;
      const T* const from = grad_out + token * grad_out_stride;
      float* const to = grad_table + id * grad_table_stride;
      for (std::int64_t column = begin; column < end; ++column)
        to[column] += to_float(from[column]);
    }
  }
};

template <class Space>
void embedding_backward(const Space& space, const Tensor& ids, const Tensor& grad_out,
                        std::int64_t first_row, const Tensor& grad_table) {
  dispatch_floating(grad_out.dtype(), [&](auto type) {
    using T = typename decltype(type)::type;
    EmbeddingBackwardColumns<T> kernel;
    kernel.ids = ids.data<std::int32_t>();
    kernel.grad_out = grad_out.data<T>();
    kernel.grad_table = grad_table.data<float>();
    kernel.ids_stride = ids.strides()[0];
    kernel.grad_out_stride = grad_out.strides()[0];
    kernel.grad_table_stride = grad_table.strides()[0];
    kernel.first_row = first_row;
    kernel.table_rows = grad_table.dim(0);
    kernel.tokens = ids.dim(0);
    for_rows(space, "Portolan::Embedding::backward", 1, grad_out.dim(1), kernel);
  });
}

template <class T>
struct RotaryRows {
  T* x = nullptr;
  const std::int32_t* positions = nullptr;
  const float* cosines = nullptr;
  const float* sines = nullptr;
  std::int64_t token_stride = 0;
  std::int64_t head_stride = 0;
  std::int64_t heads = 0;
  std::int64_t half = 0;
  std::int64_t positions_stride = 0;
  std::int64_t cosine_stride = 0;
  std::int64_t sine_stride = 0;
  float direction = 1.0F;  // -1: by the negative angles

  KOKKOS_INLINE_FUNCTION void operator()(std::int64_t row, std::int64_t begin,
                                         std::int64_t end) const {
    const std::int64_t token = row / heads;
    const std::int64_t head = row - token * heads;
    const std::int64_t position = positions[token * positions_stride];
    const float* const cosine = cosines + position * cosine_stride;
    const float* const sine = sines + position * sine_stride;
    T* const first = x + token * token_stride + head * head_stride;
    T* const second = first + half;
    for (std::int64_t i = begin; i < end; ++i) {
      const float a = to_float(first[i]);
      const float b = to_float(second[i]);
      const float turn = direction * sine[i];
      first[i] = from_float<T>(a * cosine[i] - b * turn);
      second[i] = from_float<T>(b * cosine[i] + a * turn);
    }
  }
};

template <class Space>
void rotary_embedding(const Space& space, const Tensor& x, const Tensor& positions,
                      const Tensor& cosines, const Tensor& sines, bool inverse) {
  dispatch_floating(x.dtype(), [&](auto type) {
    using T = typename decltype(type)::type;
    RotaryRows<T> kernel;
    kernel.x = x.data<T>();
    kernel.positions = positions.data<std::int32_t>();
    kernel.cosines = cosines.data<float>();
    kernel.sines = sines.data<float>();
    kernel.token_stride = x.strides()[0];
    kernel.head_stride = x.strides()[1];
    kernel.heads = x.dim(1);
    kernel.half = x.dim(2) / 2;
    kernel.positions_stride = positions.strides()[0];
    kernel.cosine_stride = cosines.strides()[0];
    kernel.sine_stride = sines.strides()[0];
    kernel.direction = inverse ? -1.0F : 1.0F;
    for_rows(space, "Portolan::RotaryEmbedding::rotate", x.dim(0) * x.dim(1), kernel.half, kernel);
  });
}

template <class Space>
struct MergeTeams {
  const float* block_out = nullptr;
  const float* block_log_sum_exp = nullptr;
  float* out = nullptr;
  float* log_sum_exp = nullptr;
  std::int64_t tokens = 0;
  std::int64_t heads = 0;
  std::int64_t head_dim = 0;

  KOKKOS_INLINE_FUNCTION void operator()(const typename RowTeams<Space>::member_type& team) const {
    const auto row = static_cast<std::int64_t>(team.league_rank());  // (batch, token, head)
    const std::int64_t head = row % heads;
    const std::int64_t token = row / heads % tokens;
    const std::int64_t batch = row / heads / tokens;
    float& stored = log_sum_exp[(batch * heads + head) * tokens + token];
    const float mine = stored;
    const float other = block_log_sum_exp[(batch * heads + head) * tokens + token];
    // Neither side has seen a key: nothing to merge, and the differences below would be NaN.
    if (mine == -HUGE_VALF && other == -HUGE_VALF) return;
    const float largest = mine > other ? mine : other;
    const float my_part = compat::exp(mine - largest);
    const float other_part = compat::exp(other - largest);
    const float total = my_part + other_part;
    const float my_weight = my_part / total;
    const float other_weight = other_part / total;
    Kokkos::parallel_for(Kokkos::TeamVectorRange(team, head_dim), [&](const std::int64_t d) {
      const std::int64_t i = row * head_dim + d;
      out[i] = out[i] * my_weight + block_out[i] * other_weight;
    });
    team.team_barrier();
    Kokkos::single(Kokkos::PerTeam(team), [&]() { stored = largest + compat::log(total); });
  }
};

struct ThreeStrides {
  std::int64_t first = 0;
  std::int64_t second = 0;
  std::int64_t third = 0;

  ThreeStrides() = default;
  explicit ThreeStrides(const Tensor& tensor)
      : first(tensor.strides()[0]), second(tensor.strides()[1]), third(tensor.strides()[2]) {}
  [[nodiscard]] KOKKOS_INLINE_FUNCTION std::int64_t offset(std::int64_t i, std::int64_t j,
                                                           std::int64_t k) const {
    return i * first + j * second + k * third;
  }
};

template <class Space, class T, class G>
struct DeltaTeams {
  const T* out = nullptr;
  const G* grad_out = nullptr;
  float* delta = nullptr;
  ThreeStrides out_strides;
  ThreeStrides grad_strides;
  ThreeStrides delta_strides;
  std::int64_t tokens = 0;
  std::int64_t heads = 0;
  std::int64_t head_dim = 0;

  KOKKOS_INLINE_FUNCTION void operator()(const typename RowTeams<Space>::member_type& team) const {
    const auto row = static_cast<std::int64_t>(team.league_rank());
    const std::int64_t head = row % heads;
    const std::int64_t token = row / heads % tokens;
    const std::int64_t batch = row / heads / tokens;
    const T* const values = out + out_strides.offset(batch, token, head);
    const G* const gradients = grad_out + grad_strides.offset(batch, token, head);
    const float sum = row_sum<Space>(team, head_dim, [&](std::int64_t d) {
      return to_float(values[d]) * to_float(gradients[d]);
    });
    float* const stored = delta + delta_strides.offset(batch, head, token);
    Kokkos::single(Kokkos::PerTeam(team), [&]() { *stored = sum; });
  }
};

template <class Space>
void attention_delta(const Space& space, const Tensor& out, const Tensor& grad_out,
                     const Tensor& delta) {
  dispatch_floating(out.dtype(), grad_out.dtype(), [&](auto type, auto grad_type) {
    using T = typename decltype(type)::type;
    using G = typename decltype(grad_type)::type;
    DeltaTeams<Space, T, G> kernel;
    kernel.out = out.data<T>();
    kernel.grad_out = grad_out.data<G>();
    kernel.delta = delta.data<float>();
    kernel.out_strides = ThreeStrides(out);
    kernel.grad_strides = ThreeStrides(grad_out);
    kernel.delta_strides = ThreeStrides(delta);
    kernel.tokens = out.dim(1);
    kernel.heads = out.dim(2);
    kernel.head_dim = out.dim(3);
    for_row_teams(space, "Portolan::Attention::delta", out.dim(0) * out.dim(1) * out.dim(2),
                  kernel);
  });
}

template <class Space>
void merge_attention(const Space& space, const Tensor& block_out, const Tensor& block_log_sum_exp,
                     const Tensor& out, const Tensor& log_sum_exp) {
  MergeTeams<Space> kernel;
  kernel.block_out = block_out.data<float>();
  kernel.block_log_sum_exp = block_log_sum_exp.data<float>();
  kernel.out = out.data<float>();
  kernel.log_sum_exp = log_sum_exp.data<float>();
  kernel.tokens = out.dim(1);
  kernel.heads = out.dim(2);
  kernel.head_dim = out.dim(3);
  for_row_teams(space, "Portolan::Attention::merge", out.dim(0) * out.dim(1) * out.dim(2), kernel);
}

}  // namespace portolan::portable
