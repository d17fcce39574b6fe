// SPDX-License-Identifier: Apache-2.0
#include "core/ops.hpp"

#include "core/ops_checks.hpp"

namespace portolan::ops {
namespace {

void require_norm(const Tensor& x, const Tensor& weight, const Tensor& out) {
  require_rows(x, "x");
  require_parameters(weight, x, "a norm weight");
  require_like(out, x, "out", "x");
}

void require_matmul(const Tensor& x, const Weight& weight, const Tensor& out) {
  require_rows(x, "x");
  require_rows(out, "out");
  require(x.dim(1) == weight.in_features() && out.dim(1) == weight.out_features() &&
              out.dim(0) == x.dim(0),
          "x {} times a weight [{}, {}] transposed does not give out {}", x.shape(),
          weight.out_features(), weight.in_features(), out.shape());
  require(out.dtype() == x.dtype() || out.dtype() == DType::f32,
          "the product of {} tensors is {} or f32, found {}", name_of(x.dtype()),
          name_of(x.dtype()), name_of(out.dtype()));
  require_defined(weight.storage(), "weight");
  require_device(weight.device(), x, "weight");
  require_device(out.device(), x, "out");
}

void require_rotation(const Tensor& x, const Tensor& positions, const Tensor& cosines,
                      const Tensor& sines) {
  require_rank(x, 3, "x");
  require_rank(cosines, 2, "cosines");
  require_floating(x, "x");
  require_rows_dense(x, "x");
  require(x.dim(2) % 2 == 0, "rotary embedding needs an even head_dim, found {}", x.dim(2));
  require_indices(positions, x, x.dim(0), "positions");
  require(cosines.dim(1) * 2 == x.dim(2) && cosines.dtype() == DType::f32,
          "head_dim {} needs f32 tables of {} columns, found {} {}", x.dim(2), x.dim(2) / 2,
          name_of(cosines.dtype()), cosines.dim(1));
  require_same(cosines, sines, "cosines", "sines");
  require_device(cosines.device(), x, "cosines");
}

/// That tokens [B * s, heads, D] fit a cache.
void require_cache(const CacheRows& cache, const Tensor& tokens) {
  require_rank(cache.keys, 4, "cache.keys");
  require_rank(cache.rows, 2, "cache.rows");
  require_like(cache.values, cache.keys, "cache.values", "cache.keys");
  require_rows_dense(cache.keys, "cache.keys");
  require_device(cache.keys.device(), tokens, "cache.keys");
  require_device(cache.rows.device(), tokens, "cache.rows");
  const std::int64_t batch = cache.keys.dim(0);
  require(cache.keys.dtype() == tokens.dtype() && cache.keys.dim(3) == tokens.dim(2),
          "tokens {} {} do not fit a cache {} {}", name_of(tokens.dtype()), tokens.shape(),
          name_of(cache.keys.dtype()), cache.keys.shape());
  require(cache.rows.shape() == Shape({batch, 2}) && cache.rows.dtype() == DType::i32 &&
              cache.rows.is_contiguous(),
          "the rows of a cache {} must be i32 [{}, 2], found {} {}", cache.keys.shape(), batch,
          name_of(cache.rows.dtype()), cache.rows.shape());
  require(batch > 0 && tokens.dim(0) % batch == 0, "{} tokens are no whole number for {} entries",
          tokens.dim(0), batch);
}

}  // namespace

void fill(const Tensor& out, float value) {
  require_floating(out, "out");
  if (out.elements() == 0) return;
  backend(out).fill(out, value);
}

void copy(const Tensor& source, const Tensor& out) {
  require_defined(source, "source");
  require_defined(out, "out");
  require(source.shape() == out.shape(), "cannot copy shape {} to {}", source.shape(), out.shape());
  require_device(source.device(), out, "source");
  require(
      source.dtype() == out.dtype() || (is_floating(source.dtype()) && is_floating(out.dtype())),
      "cannot convert {} to {}", name_of(source.dtype()), name_of(out.dtype()));
  if (source.elements() == 0) return;
  backend(out).copy(source, out);
}

void random_uniform(const Tensor& out, RandomKey key, const MatrixBlock& block, float mean,
                    float scale) {
  require_rows(out, "out");
  require_block(out, block);
  if (out.elements() == 0) return;
  backend(out).random_uniform(out, key, block, mean, scale);
}

void sum(std::span<const Tensor> inputs, std::span<const Tensor> outs) {
  require(!inputs.empty() && !outs.empty(), "a sum needs at least one input and one output");
  require_floating(outs[0], "out");
  for (const std::span<const Tensor> tensors : {inputs, outs}) {
    for (const Tensor& tensor : tensors) {
      require_same(tensor, outs[0], "each tensor of a sum", "out");
      require(tensor.is_contiguous(), "a sum needs contiguous tensors");
    }
  }
  if (outs[0].elements() == 0) return;
  backend(outs[0]).sum(inputs, outs);
}

void add(const Tensor& x, const Tensor& y) {
  require_floating(x, "x");
  require_floating(y, "y");
  require(x.shape() == y.shape(), "cannot add shape {} to {}", x.shape(), y.shape());
  require_device(x.device(), y, "x");
  if (y.elements() == 0) return;
  backend(y).add(x, y);
}

void scale(const Tensor& x, float factor) {
  require_floating(x, "x");
  if (x.elements() == 0) return;
  backend(x).scale(x, factor);
}

void embedding(const Tensor& ids, const Tensor& table, std::int64_t first_row, const Tensor& out) {
  require_rows(table, "table");
  require_rows(out, "out");
  require_indices(ids, out, out.dim(0), "ids");
  require(out.dim(1) == table.dim(1) && out.dtype() == table.dtype(),
          "rows of a table {} {} do not fit out {} {}", name_of(table.dtype()), table.shape(),
          name_of(out.dtype()), out.shape());
  require_device(table.device(), out, "table");
  if (out.elements() == 0) return;
  backend(out).embedding(ids, table, first_row, out);
}

void rms_norm(const Tensor& x, const Tensor& weight, float epsilon, const Tensor& out) {
  require_norm(x, weight, out);
  if (x.elements() == 0) return;
  backend(x).rms_norm(x, weight, epsilon, out);
}

void add_rms_norm(const Tensor& x, const Tensor& residual, const Tensor& weight, float epsilon,
                  const Tensor& out) {
  require_norm(x, weight, out);
  require_like(residual, x, "residual", "x");
  if (x.elements() == 0) return;
  backend(x).add_rms_norm(x, residual, weight, epsilon, out);
}

void rotary_embedding(const Tensor& x, const Tensor& positions, const Tensor& cosines,
                      const Tensor& sines, bool inverse) {
  require_rotation(x, positions, cosines, sines);
  if (x.elements() == 0) return;
  backend(x).rotary_embedding(x, positions, cosines, sines, inverse);
}

void store_cache_rows(const Tensor& k, const Tensor& v, const CacheRows& cache) {
  require_rank(k, 3, "k");
  require_like(v, k, "v", "k");
  require_rows_dense(k, "k");
  require_cache(cache, k);
  require(k.dim(1) == cache.keys.dim(2), "k {} has other heads than a cache {}", k.shape(),
          cache.keys.shape());
  if (k.elements() == 0) return;
  backend(k).store_cache_rows(k, v, cache);
}

void rotary_store_cache_rows(const Tensor& x, const Tensor& positions, const Tensor& cosines,
                             const Tensor& sines, const CacheRows& cache) {
  require_rotation(x, positions, cosines, sines);
  require_cache(cache, x);
  require(x.dim(1) > 2 * cache.keys.dim(2),
          "x {} has no queries beside keys and values of a cache {}", x.shape(),
          cache.keys.shape());
  if (x.elements() == 0) return;
  backend(x).rotary_store_cache_rows(x, positions, cosines, sines, cache);
}

void swiglu(const Tensor& gate, const Tensor& up, const Tensor& out) {
  require_rows(gate, "gate");
  require_like(up, gate, "up", "gate");
  require_like(out, gate, "out", "gate");
  if (gate.elements() == 0) return;
  backend(gate).swiglu(gate, up, out);
}

void pack_rows(const Tensor& rows, std::int64_t first_row, const Weight& weight) {
  require_rows(rows, "rows");
  require_device(weight.device(), rows, "weight");
  require(weight.layout() == WeightLayout::panels, "only packed weights are filled row by row");
  require(rows.dim(1) == weight.in_features(), "rows of {} features do not fit a weight of {}",
          rows.dim(1), weight.in_features());
  const std::int64_t end = first_row + rows.dim(0);
  require(first_row >= 0 && first_row % kPanelWidth == 0 && end <= weight.out_features() &&
              (end % kPanelWidth == 0 || end == weight.out_features()),
          "rows [{}, {}) are not whole panels of {} of a weight with {} outputs", first_row, end,
          kPanelWidth, weight.out_features());
  backend(rows).pack_rows(rows, first_row, weight);
}

void matmul(const Tensor& x, const Weight& weight, const Tensor& out, bool accumulate) {
  require_matmul(x, weight, out);
  if (out.elements() == 0) return;
  if (x.dim(1) == 0) {
    if (!accumulate) fill(out, 0.0F);
    return;
  }
  backend(x).matmul(x, weight, out, accumulate);
}

void matmul_bias(const Tensor& x, const Weight& weight, const Tensor& bias, const Tensor& out) {
  require_matmul(x, weight, out);
  require_parameters(bias, out, "a bias");
  if (out.elements() == 0) return;
  if (x.dim(1) == 0) {
    fill(out, 0.0F);
    add_bias(out, bias);
    return;
  }
  backend(x).matmul_bias(x, weight, bias, out);
}

void product(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b,
             const Tensor& out, bool accumulate) {
  require_rows(a, "a");
  require_rows(b, "b");
  require_rows(out, "out");
  const auto extents = [](const Tensor& matrix, bool transpose) {
    return Shape{matrix.dim(transpose ? 1 : 0), matrix.dim(transpose ? 0 : 1)};
  };
  const Shape left = extents(a, transpose_a);
  const Shape right = extents(b, transpose_b);
  require(left[1] == right[0] && out.dim(0) == left[0] && out.dim(1) == right[1],
          "{} times {} does not give out {}", left, right, out.shape());
  require(out.dtype() == a.dtype() || out.dtype() == DType::f32,
          "the product of {} tensors is {} or f32, found {}", name_of(a.dtype()),
          name_of(a.dtype()), name_of(out.dtype()));
  require_device(a.device(), out, "a");
  require_device(b.device(), out, "b");
  if (out.elements() == 0) return;
  if (left[1] == 0) {
    if (!accumulate) fill(out, 0.0F);
    return;
  }
  backend(out).product(a, transpose_a, b, transpose_b, out, accumulate);
}

void choose_tokens(const Tensor& logits, const Tensor& seen, const TokenChoice& choice,
                   const Tensor& sequences, std::int64_t step, const Tensor& ids) {
  choice.check();
  require_rows(logits, "logits");
  require(logits.dtype() == DType::f32, "tokens are chosen from logits in f32, found {}",
          name_of(logits.dtype()));
  require(logits.dim(1) > 0 && logits.dim(1) <= kMostChoiceTokens,
          "a token is chosen from 1 to {} logits, found {}", kMostChoiceTokens, logits.dim(1));
  if (seen.defined()) {
    require(seen.shape() == logits.shape() && seen.dtype() == DType::u8,
            "seen must be u8 of shape {}, found {} {}", logits.shape(), name_of(seen.dtype()),
            seen.shape());
    require_rows_dense(seen, "seen");
    require_device(seen.device(), logits, "seen");
  }
  require_indices(sequences, logits, logits.dim(0), "sequences");
  require_indices(ids, logits, logits.dim(0), "ids");
  if (logits.elements() == 0) return;
  backend(logits).choose_tokens(logits, seen, choice, sequences, step, ids);
}

Tensor to_dtype(const Tensor& tensor, DType dtype) {
  Tensor result = Tensor::empty(tensor.shape(), dtype, tensor.device());
  copy(tensor, result);
  return result;
}

Tensor to_host(const Tensor& tensor) {
  Tensor dense = tensor;
  if (!dense.is_contiguous()) dense = to_dtype(tensor, tensor.dtype());
  Backend& source = backend(dense);
  if (is_host(dense.device())) {
    source.synchronize();
    return dense;
  }
  const Device host{has_backend({DeviceKind::cpu, 0}) ? DeviceKind::cpu : DeviceKind::serial, 0};
  Tensor result = Tensor::empty(dense.shape(), dense.dtype(), host);
  source.copy_bytes(result.raw(), dense.raw(), dense.bytes(), Queue::compute);
  source.synchronize();
  return result;
}

Tensor to_device(const Tensor& tensor, Device device) {
  if (tensor.device() == device) return tensor;
  require(is_host(tensor.device()) && tensor.is_contiguous(),
          "only dense host tensors move to a device");
  Tensor result = Tensor::empty(tensor.shape(), tensor.dtype(), device);
  Backend& target = backend_of(device);
  target.copy_bytes(result.raw(), tensor.raw(), tensor.bytes(), Queue::compute);
  target.synchronize();
  return result;
}

}  // namespace portolan::ops
