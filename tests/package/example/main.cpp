// SPDX-License-Identifier: Apache-2.0
// A program of one's own: builds a small LLaMA with random weights, runs one forward pass over all
// ranks it is started with, and prints the likeliest next token.
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "models/llama.hpp"
#include "runtime/runtime.hpp"
#include "runtime/version.hpp"

int main() {
  portolan::Runtime runtime({});
  portolan::Communicator& world = runtime.world();
  const auto mode = world.size() == 1 ? portolan::ParallelMode::none : portolan::ParallelMode::tp;
  const auto layout = portolan::ParallelLayout::of(mode, world.size());
  const portolan::ParallelContext context(world, layout);
  const portolan::LlamaPlan plan(portolan::preset_config("tiny"), layout);
  const auto weights = portolan::make_random_weights(1);
  const portolan::Llama model(plan, context, *weights, portolan::DType::f32, runtime.device(), 16);

  const std::vector<std::int32_t> ids{1, 2, 3, 5, 8};
  const portolan::Tensor logits = model.forward(ids, 1);
  const std::vector<std::int64_t> last{4};
  const portolan::Tensor row = model.gather_logits(logits, last, 5);
  std::int64_t best = 0;
  for (std::int64_t token = 1; token < row.elements(); ++token) {
    if (row.data<float>()[token] > row.data<float>()[best]) best = token;
  }
  if (world.rank() == 0) {
    std::printf("Portolan %s: %lld parameters, next token %lld\n",
                std::string(portolan::build_information().version).c_str(),
                static_cast<long long>(portolan::parameter_count(plan.config())),
                static_cast<long long>(best));
  }
}
