// SPDX-License-Identifier: Apache-2.0
#include "apps/forward_measurement.hpp"

#include <algorithm>

#include "apps/benchmark_samples.hpp"
#include "core/ops.hpp"

namespace portolan {
namespace {

std::uint64_t draw(RandomKey key, std::uint64_t index, std::int64_t bound) {
  return random_words(key, index / 4)[index % 4] % static_cast<std::uint64_t>(bound);
}

}  // namespace

std::vector<std::int32_t> random_token_ids(std::uint64_t seed, std::int64_t batch,
                                           std::int64_t length, std::int64_t vocabulary) {
  const RandomKey key = random_key(seed, "token ids");
  std::vector<std::int32_t> ids(static_cast<std::size_t>(batch * length));
  for (std::size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<std::int32_t>(draw(key, i, vocabulary));
  }
  return ids;
}

std::vector<std::int64_t> sampled_rows(std::uint64_t seed, std::int64_t batch, std::int64_t length,
                                       std::int64_t count) {
  const RandomKey key = random_key(seed, "sampled rows");
  std::vector<std::int64_t> rows;
  for (std::int64_t b = 0; b < batch; ++b) rows.push_back((b + 1) * length - 1);
  for (std::int64_t i = 0; i < count; ++i) {
    rows.push_back(
        static_cast<std::int64_t>(draw(key, static_cast<std::uint64_t>(i), batch * length)));
  }
  std::ranges::sort(rows);
  const auto repeated = std::ranges::unique(rows);
  rows.erase(repeated.begin(), repeated.end());
  return rows;
}

ForwardMeasurement::ForwardMeasurement(const Model& model, std::int64_t batch, std::int64_t length,
                                       std::uint64_t seed)
    : model_(model),
      batch_(batch),
      length_(length),
      ids_(random_token_ids(seed, batch, length, model.plan().dimensions().vocab_size)) {}

double ForwardMeasurement::forward() {
  logits_ = Tensor();  // its memory is the next result's
  return slowest_seconds(model_.context().world(), model_.device(),
                         [this] { logits_ = model_.forward(ids_, batch_); });
}

double ForwardMeasurement::floor() {
  const MeshShape& mesh = model_.plan().layout().mesh;
  const MeshCoordinates& at = model_.context().mesh().coordinates();
  const int rank = (at.data * mesh.context + at.context) * mesh.tensor + at.tensor;
  const std::int64_t m = batch_ * model_.plan().block_tokens(rank, length_);
  const std::vector<const Weight*> weights = model_.product_weights();
  std::int64_t widest_in = 1;
  std::int64_t widest_out = 1;
  for (const Weight* weight : weights) {
    widest_in = std::max(widest_in, weight->in_features());
    widest_out = std::max(widest_out, weight->out_features());
  }
  const Tensor in = Tensor::empty({m * widest_in}, model_.dtype(), model_.device());
  const Tensor out = Tensor::empty({m * widest_out}, model_.dtype(), model_.device());
  // Ordinary numbers: products of denormals or of NaN run at other speeds. And pages that were
  // never touched would cost the products what the forward's buffers no longer cost it.
  ops::fill(out, 0.0F);
  if (m > 0) {
    ops::random_uniform(in.view({m, widest_in}), random_key(0, "floor"), {0, 0, widest_in}, 0.0F,
                        1.0F);
  }
  return slowest_seconds(model_.context().world(), model_.device(), [&] {
    for (const Weight* weight : weights) {
      const std::int64_t k = weight->in_features();
      const std::int64_t n = weight->out_features();
      if (k == 0 || n == 0) continue;
      ops::matmul(in.slice(0, 0, m * k).view({m, k}), *weight, out.slice(0, 0, m * n).view({m, n}));
    }
  });
}

}  // namespace portolan
