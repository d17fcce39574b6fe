// SPDX-License-Identifier: Apache-2.0
#include "apps/loaded_model.hpp"

#include "core/timer.hpp"

namespace portolan {

LoadedModel load_model(const Checkpoint& checkpoint, const CommonOptions& options,
                       std::int64_t longest, const Runtime& runtime) {
  const Stopwatch stopwatch;
  const ModelConfig& config = checkpoint.config();
  const ParallelLayout layout = choose_layout(options, runtime.world().size());
  LoadedModel loaded;
  loaded.context = std::make_unique<ParallelContext>(runtime.world(), layout);
  const std::unique_ptr<WeightSource> weights = make_checkpoint_weights(checkpoint);
  loaded.model =
      make_model({.plan = ModelPlan(config, layout),
                  .context = *loaded.context,
                  .weights = *weights,
                  .dtype = options.dtype.value_or(config.common().dtype.value_or(DType::f32)),
                  .device = runtime.device(),
                  .maximum_length = longest,
                  .quantization = options.quantization});
  loaded.seconds = stopwatch.seconds();
  return loaded;
}

}  // namespace portolan
