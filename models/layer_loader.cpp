// SPDX-License-Identifier: Apache-2.0
#include "models/layer_loader.hpp"

namespace portolan {
namespace {

std::string bias_of(std::string weight) {
  constexpr std::string_view kWeight = ".weight";
  return weight.replace(weight.rfind(kWeight), kWeight.size(), ".bias");
}

}  // namespace

LayerLoader::LayerLoader(const ModelSetup& setup)
    : setup_(setup),
      shards_(setup.plan.parameters(), setup.context.tensor().rank(), setup.weights, setup.dtype,
              setup.device, setup.use, setup.quantization) {}

VocabularyParallelEmbedding LayerLoader::embedding() {
  const std::string& table = setup_.plan.outline().embedding;
  return {shards_.plain(table), shards_.range(table).row_begin, setup_.context.tensor(),
          setup_.plan.embedding_is_sharded()};
}

functional::Norm LayerLoader::rms_norm(const std::string& name, double epsilon) {
  return {shards_.plain(name + ".weight"), nullptr, static_cast<float>(epsilon)};
}

functional::Norm LayerLoader::layer_norm(const std::string& name, double epsilon) {
  // In this order: braces evaluate from left to right.
  return {shards_.plain(name + ".weight"), shards_.plain(name + ".bias"),
          static_cast<float>(epsilon)};
}

ParameterPointer LayerLoader::biases(const std::vector<std::string>& weights, Bias bias) {
  if (bias == Bias::none) return nullptr;
  std::vector<std::string> names;
  for (const std::string& weight : weights) names.push_back(bias_of(weight));
  return shards_.joined(names);
}

ColumnParallelLinear LayerLoader::column(const std::vector<std::string>& weights, Bias bias) {
  ParameterPointer matrix = shards_.stacked(weights);
  return ColumnParallelLinear(std::move(matrix), biases(weights, bias));
}

RowParallelLinear LayerLoader::row(const std::string& weight, bool sharded, Bias bias) {
  ParameterPointer matrix = shards_.stacked({weight});
  return {std::move(matrix), biases({weight}, bias), setup_.context.tensor(), sharded};
}

ColumnParallelLinear LayerLoader::head(const VocabularyParallelEmbedding& embedding) {
  const ModelOutline& outline = setup_.plan.outline();
  return ColumnParallelLinear(outline.head == outline.embedding ? embedding.table()
                                                                : shards_.stacked({outline.head}));
}

}  // namespace portolan
