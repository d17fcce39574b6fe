// SPDX-License-Identifier: Apache-2.0
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "tests/cuda/reference.cuh"

namespace portolan::cuda_testing {
namespace {

using cuda::AttentionElement;
using cuda::AttentionShape;
using cuda::AttentionStrides;

constexpr int kThreads = 128;

struct Operand {
  const std::uint16_t* data = nullptr;
  AttentionStrides strides;
};

struct Problem {
  AttentionShape shape;
  Operand q, k, v, grad_out;
  std::int64_t rows = 0;          // of all entries
  double* weights = nullptr;      // [batch, heads, query_tokens, key_tokens]
  double* grad_scores = nullptr;  // the same
  double *out = nullptr, *log_sum_exp = nullptr, *delta = nullptr;
  double *dq = nullptr, *dk = nullptr, *dv = nullptr;
};

/// Where an entry begins, counted in rows, and its lengths.
struct Place {
  std::int64_t query_row, key_row;
  int queries, keys;
  int first_key = 0;  // of cached rows
};

__device__ Place place_of(const AttentionShape& shape, int entry) {
  if (shape.query_offsets != nullptr) {
    return {shape.query_offsets[entry], shape.key_offsets[entry],
            shape.query_offsets[entry + 1] - shape.query_offsets[entry],
            shape.key_offsets[entry + 1] - shape.key_offsets[entry]};
  }
  Place place{entry * shape.query_tokens, entry * shape.key_tokens,
              static_cast<int>(shape.query_tokens), static_cast<int>(shape.key_tokens)};
  if (shape.cached_rows == nullptr) return place;
  place.first_key = max(shape.cached_rows[2 * entry], 0);
  place.keys = max(min(shape.cached_rows[2 * entry + 1], place.keys) - place.first_key, 0);
  return place;
}

__device__ double value_at(const Operand& operand, const AttentionShape& shape, int entry,
                           std::int64_t packed_row, int token, int head, int d) {
  const AttentionStrides& s = operand.strides;
  const std::int64_t at = shape.query_offsets != nullptr
                              ? (packed_row + token) * s.token + head * s.head + d
                              : entry * s.batch + token * s.token + head * s.head + d;
  const std::uint16_t bits = operand.data[at];
  return shape.element == AttentionElement::bf16
             ? static_cast<double>(__bfloat162float(__ushort_as_bfloat16(bits)))
             : static_cast<double>(__half2float(__ushort_as_half(bits)));
}

__device__ bool sees(const AttentionShape& shape, const Place& place, int query, int key) {
  const int distance = query + place.keys - place.queries - key;
  if ((shape.causal || shape.window > 0) && distance < 0) return false;
  return shape.window == 0 || distance < shape.window;
}

__device__ std::int64_t score_row(const AttentionShape& shape, int entry, int head, int query) {
  return ((entry * shape.heads + head) * shape.query_tokens + query) * shape.key_tokens;
}

__device__ std::int64_t statistics_row(const Problem& p, const Place& place, int entry, int head,
                                       int query) {
  return p.shape.query_offsets != nullptr
             ? head * p.rows + place.query_row + query
             : (entry * p.shape.heads + head) * p.shape.query_tokens + query;
}

__device__ double block_reduce(double value, bool maximum) {
  __shared__ double values[kThreads];
  __syncthreads();
  values[threadIdx.x] = value;
  __syncthreads();
  double result = values[0];
  for (int i = 1; i < kThreads; ++i) {
    result = maximum ? fmax(result, values[i]) : result + values[i];
  }
  return result;
}

/// One block for each query of each head of each entry.
__global__ void forward_row(Problem p) {
  const AttentionShape& shape = p.shape;
  const int query = blockIdx.x, head = blockIdx.y, entry = blockIdx.z;
  const Place place = place_of(shape, entry);
  if (query >= place.queries) return;
  const int dims = static_cast<int>(shape.head_dim);
  const int key_head = head / static_cast<int>(shape.heads / shape.key_heads);
  double* weights = p.weights + score_row(shape, entry, head, query);
  double* grad_scores = p.grad_scores + score_row(shape, entry, head, query);
  const bool gradients = p.grad_out.data != nullptr;

  double maximum = -INFINITY;
  for (int key = threadIdx.x; key < place.keys; key += kThreads) {
    double score = 0.0;
    double grad_weight = 0.0;
    for (int d = 0; d < dims; ++d) {
      score += value_at(p.q, shape, entry, place.query_row, query, head, d) *
               value_at(p.k, shape, entry, place.key_row, place.first_key + key, key_head, d);
      if (gradients) {
        grad_weight +=
            value_at(p.grad_out, shape, entry, place.query_row, query, head, d) *
            value_at(p.v, shape, entry, place.key_row, place.first_key + key, key_head, d);
      }
    }
    weights[key] = sees(shape, place, query, key) ? score * shape.scale : -INFINITY;
    grad_scores[key] = grad_weight;
    maximum = fmax(maximum, weights[key]);
  }
  maximum = block_reduce(maximum, true);
  double sum = 0.0;
  for (int key = threadIdx.x; key < place.keys; key += kThreads) {
    weights[key] = maximum == -INFINITY ? 0.0 : exp(weights[key] - maximum);
    sum += weights[key];
  }
  sum = block_reduce(sum, false);
  double delta = 0.0;
  for (int key = threadIdx.x; key < place.keys; key += kThreads) {
    weights[key] = sum > 0.0 ? weights[key] / sum : 0.0;
    delta += weights[key] * grad_scores[key];
  }
  delta = block_reduce(delta, false);
  for (int key = threadIdx.x; key < place.keys; key += kThreads) {
    grad_scores[key] = weights[key] * (grad_scores[key] - delta) * shape.scale;
  }
  if (threadIdx.x == 0) {
    const std::int64_t row = statistics_row(p, place, entry, head, query);
    p.log_sum_exp[row] = sum > 0.0 ? maximum + log(sum) : -INFINITY;
    p.delta[row] = delta;
  }
  __syncthreads();
  const std::int64_t out_row = ((place.query_row + query) * shape.heads + head) * dims;
  for (int d = threadIdx.x; d < dims; d += kThreads) {
    double out = 0.0;
    double dq = 0.0;
    for (int key = 0; key < place.keys; ++key) {
      out += weights[key] *
             value_at(p.v, shape, entry, place.key_row, place.first_key + key, key_head, d);
      dq += grad_scores[key] *
            value_at(p.k, shape, entry, place.key_row, place.first_key + key, key_head, d);
    }
    p.out[out_row + d] = out;
    if (gradients) p.dq[out_row + d] = dq;
  }
}

/// One block for each key of each key/value head of each entry.
__global__ void backward_row(Problem p) {
  const AttentionShape& shape = p.shape;
  const int key = blockIdx.x, key_head = blockIdx.y, entry = blockIdx.z;
  const Place place = place_of(shape, entry);
  if (key >= place.keys) return;
  const int dims = static_cast<int>(shape.head_dim);
  const int group = static_cast<int>(shape.heads / shape.key_heads);
  const std::int64_t row =
      ((place.key_row + place.first_key + key) * shape.key_heads + key_head) * dims;
  for (int d = threadIdx.x; d < dims; d += kThreads) {
    double dk = 0.0;
    double dv = 0.0;
    for (int head = key_head * group; head < (key_head + 1) * group; ++head) {
      for (int query = 0; query < place.queries; ++query) {
        const std::int64_t score = score_row(shape, entry, head, query) + key;
        dk += p.grad_scores[score] * value_at(p.q, shape, entry, place.query_row, query, head, d);
        dv +=
            p.weights[score] * value_at(p.grad_out, shape, entry, place.query_row, query, head, d);
      }
    }
    p.dk[row + d] = dk;
    p.dv[row + d] = dv;
  }
}

__global__ void random_values(std::uint16_t* values, std::size_t size, AttentionElement element,
                              float amplitude, std::uint64_t seed) {
  const std::size_t i = static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= size) return;
  // The finalizer of SplitMix64.
  std::uint64_t z = seed + (i + 1) * 0x9E3779B97F4A7C15ULL;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ULL;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBULL;
  z ^= z >> 31;
  const float unit = static_cast<float>(z >> 40) * 0x1p-23F - 1.0F;
  values[i] = element == AttentionElement::bf16
                  ? __bfloat16_as_ushort(__float2bfloat16_rn(unit * amplitude))
                  : __half_as_ushort(__float2half_rn(unit * amplitude));
}

}  // namespace

ReferenceResults reference_attention(const cuda::AttentionBackwardArguments& arguments,
                                     std::int64_t rows, std::int64_t key_rows) {
  const AttentionShape& shape = arguments.shape;
  const auto array = [](std::int64_t size) {
    DeviceArray<double> made(static_cast<std::size_t>(size));
    made.poison();
    return made;
  };
  const auto out = array(rows * shape.heads * shape.head_dim);
  const auto log_sum_exp = array(rows * shape.heads);
  const auto delta = array(rows * shape.heads);
  const auto dq = array(rows * shape.heads * shape.head_dim);
  const auto dk = array(key_rows * shape.key_heads * shape.head_dim);
  const auto dv = array(key_rows * shape.key_heads * shape.head_dim);
  const std::int64_t scores = shape.batch * shape.heads * shape.query_tokens * shape.key_tokens;
  const auto weights = array(scores);
  const auto grad_scores = array(scores);
  const Problem problem{.shape = shape,
                        .q = {static_cast<const std::uint16_t*>(arguments.q), arguments.q_strides},
                        .k = {static_cast<const std::uint16_t*>(arguments.k), arguments.k_strides},
                        .v = {static_cast<const std::uint16_t*>(arguments.v), arguments.v_strides},
                        .grad_out = {static_cast<const std::uint16_t*>(arguments.grad_out),
                                     arguments.grad_out_strides},
                        .rows = rows,
                        .weights = weights.data(),
                        .grad_scores = grad_scores.data(),
                        .out = out.data(),
                        .log_sum_exp = log_sum_exp.data(),
                        .delta = delta.data(),
                        .dq = dq.data(),
                        .dk = dk.data(),
                        .dv = dv.data()};
  const auto grid = [&](std::int64_t tokens, std::int64_t heads) {
    return dim3(static_cast<unsigned>(tokens), static_cast<unsigned>(heads),
                static_cast<unsigned>(shape.batch));
  };
  if (shape.query_tokens > 0) {
    forward_row<<<grid(shape.query_tokens, shape.heads), kThreads>>>(problem);
    check(cudaGetLastError(), "starting the reference's forward pass");
  }
  const bool gradients = arguments.grad_out != nullptr;
  if (gradients && shape.key_tokens > 0) {
    backward_row<<<grid(shape.key_tokens, shape.key_heads), kThreads>>>(problem);
    check(cudaGetLastError(), "starting the reference's backward pass");
  }
  check(cudaDeviceSynchronize(), "running the reference");
  ReferenceResults results{
      .out = out.download(), .log_sum_exp = log_sum_exp.download(), .delta = delta.download()};
  if (gradients) {
    results.dq = dq.download();
    results.dk = dk.download();
    results.dv = dv.download();
  }
  return results;
}

void fill_random(std::uint16_t* values, std::size_t size, AttentionElement element, float amplitude,
                 std::uint64_t seed) {
  if (size == 0) return;
  constexpr unsigned kFillThreads = 256;
  const auto blocks = static_cast<unsigned>((size + kFillThreads - 1) / kFillThreads);
  random_values<<<blocks, kFillThreads>>>(values, size, element, amplitude, seed);
  check(cudaGetLastError(), "drawing random numbers");
}

}  // namespace portolan::cuda_testing
