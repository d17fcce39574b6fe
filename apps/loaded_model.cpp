// SPDX-License-Identifier: Apache-2.0
#include "apps/loaded_model.hpp"

#include "apps/loading_progress.hpp"
#include "apps/memory_check.hpp"
#include "core/timer.hpp"

namespace portolan {
namespace {

/// A lower bound: matrices that stay in the model's dtype count as integers, too.
std::int64_t weight_bytes(const ModelPlan& plan, int rank, DType dtype, Quantization quantization) {
  if (quantization == Quantization::none) return plan.weight_bytes(rank, dtype);
  const std::int64_t bytes = plan.weight_bytes(rank, DType::u8);
  return quantization == Quantization::int4 ? bytes / 2 : bytes;
}

}  // namespace

LoadedModel load_model(const Checkpoint& checkpoint, const CommonOptions& options,
                       const ModelUse& use, const Runtime& runtime) {
  const Stopwatch stopwatch;
  const ModelConfig& config = checkpoint.config();
  const ParallelLayout layout = choose_layout(options, runtime.world().size());
  LoadedModel loaded;
  const ModelPlan plan(config, layout);
  const DType dtype = options.dtype.value_or(config.common().dtype.value_or(DType::f32));
  const int rank = runtime.world().rank();
  const std::int64_t longest = use.tokens + use.new_tokens;
  require_memory(
      runtime.world(), runtime.device(),
      {.weights = weight_bytes(plan, rank, dtype, options.quantization),
       .activations = plan.activation_bytes(rank, use.batch, use.tokens, dtype, use.last_only),
       .cache = plan.cache_bytes(rank, use.cached, longest, dtype)});
  loaded.context = std::make_unique<ParallelContext>(runtime.world(), layout);
  const std::unique_ptr<WeightSource> weights = make_checkpoint_weights(checkpoint);
  LoadingProgress loading(*weights, plan.parameters().elements(loaded.context->tensor().rank()),
                          options.quiet || rank != 0);
  loaded.model = make_model({.plan = plan,
                             .context = *loaded.context,
                             .weights = loading,
                             .dtype = dtype,
                             .device = runtime.device(),
                             .maximum_length = longest,
                             .quantization = options.quantization});
  loaded.seconds = stopwatch.seconds();
  return loaded;
}

}  // namespace portolan
