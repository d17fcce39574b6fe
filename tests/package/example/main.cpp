// SPDX-License-Identifier: Apache-2.0
// A program of one's own: builds small models with random weights, one of them of an architecture
// that the library does not know, continues a prompt with each over all ranks it is started with,
// and prints the likeliest tokens.
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "models/generation/generator.hpp"
#include "models/layer_loader.hpp"
#include "models/registry.hpp"
#include "runtime/runtime.hpp"
#include "runtime/version.hpp"

namespace {

using portolan::functional::NormedSum;

/// A decoder whose attention and MLP read the same norm and are added together, as in GPT-J, from
/// the library's layers.
class ParallelBlock final : public portolan::Model {
 public:
  explicit ParallelBlock(const portolan::ModelSetup& setup) : Model(setup, NormPlace::before) {
    constexpr auto kNone = portolan::LayerLoader::Bias::none;
    constexpr double kEpsilon = 1e-5;
    portolan::LayerLoader load(setup);
    embedding_ = load.embedding();
    for (std::int64_t index = 0; index < plan().dimensions().layers; ++index) {
      const auto name = [&](const char* suffix) {
        return plan().outline().in_layer(index, suffix);
      };
      const portolan::functional::Norm norm = load.rms_norm(name("norm"), kEpsilon);
      const auto qkv = load.column({name("q.weight"), name("k.weight"), name("v.weight")}, kNone);
      const auto out = load.row(name("o.weight"), plan().attention_is_sharded(), kNone);
      const auto gate_up = load.column({name("gate.weight"), name("up.weight")}, kNone);
      const auto down = load.row(name("down.weight"), plan().mlp_is_sharded(), kNone);
      layers_.push_back(
          {norm,
           portolan::AttentionBlock(plan(), load.rank(), index, qkv, out),
           {},
           std::make_unique<portolan::GatedMlp>(gate_up, down, plan().mlp_is_sharded())});
    }
    final_norm_ = load.rms_norm("norm", kEpsilon);
    head_ = load.head(embedding_);
    adopt(load.shards());
  }

 protected:
  [[nodiscard]] Stream block(std::size_t index, const Stream& stream,
                             const portolan::ForwardPass& pass) const override {
    const Layer& layer = layers_[index];
    const bool last = index + 1 == layers_.size();
    const auto mlp = layer.mlp->forward(stream.normed, pass);
    // Both sums end in a norm; that of the first is not wanted.
    const NormedSum first =
        portolan::functional::add_normed(layer.attention.forward(stream.normed, pass), nullptr,
                                         stream.residual, layer.attention_norm, pass.selective);
    const NormedSum both = portolan::functional::add_normed(
        mlp, nullptr, first.sum, last ? final_norm_ : layers_[index + 1].attention_norm,
        pass.selective);
    return {both.normed, both.sum};
  }
};

portolan::ExternalConfig small_config() {
  portolan::ExternalConfig config;
  config.hidden_size = 64;
  config.intermediate_size = 96;
  config.layers = 2;
  config.attention_heads = config.kv_heads = 4;
  config.head_dim = 16;
  config.vocab_size = 128;
  config.max_position_embeddings = 256;
  return config;
}

portolan::ModelConfig read(const portolan::JsonObject& json) {
  portolan::ExternalConfig config = small_config();
  config.layers = json.integer("layers", 1, portolan::kMaximumLayers);
  config.vocab_size = json.integer("vocabulary", 1, portolan::kMaximumVocabSize);
  return {"parallel_block", config};
}

void write(const portolan::ModelConfig& config, nlohmann::ordered_json& json) {
  json["layers"] = config.common().layers;
  json["vocabulary"] = config.common().vocab_size;
}

portolan::ModelOutline outline(const portolan::ModelConfig& config) {
  portolan::ModelOutline result{.parameters = {},
                                .layers = "layers.",
                                .embedding = "tokens.weight",
                                .head = "tokens.weight",
                                .query = "q.weight",
                                .key = "k.weight",
                                .attention_out = "o.weight",
                                .mlp_in = {"gate.weight", "up.weight"},
                                .mlp_out = "down.weight"};
  const portolan::CommonConfig& sizes = config.common();
  const std::int64_t hidden = sizes.hidden_size;
  auto& shapes = result.parameters;
  shapes.push_back({result.embedding, {sizes.vocab_size, hidden}});
  for (std::int64_t layer = 0; layer < sizes.layers; ++layer) {
    shapes.push_back({result.in_layer(layer, "norm.weight"), {hidden}, true});
    for (const char* matrix : {"q.weight", "k.weight", "v.weight", "o.weight"}) {
      shapes.push_back({result.in_layer(layer, matrix), {hidden, hidden}});
    }
    for (const char* matrix : {"gate.weight", "up.weight"}) {
      shapes.push_back({result.in_layer(layer, matrix), {sizes.intermediate_size, hidden}});
    }
    shapes.push_back({result.in_layer(layer, "down.weight"), {hidden, sizes.intermediate_size}});
  }
  shapes.push_back({"norm.weight", {hidden}, true});
  return result;
}

portolan::ModelArchitecture parallel_block_architecture() {
  portolan::ModelArchitecture architecture;
  architecture.name = "parallel_block";
  architecture.classes = {"ParallelBlockForCausalLM"};
  architecture.variants = {{"small", "parallel-block-small", {"parallel_block", small_config()}}};
  using portolan::ShardStyle;
  architecture.rules = {{R"(tokens\.weight)", ShardStyle::vocabulary, "vocabulary"},
                        {R"(layers\.\d+\.q\.weight)", ShardStyle::column, "query_heads"},
                        {R"(layers\.\d+\.[kv]\.weight)", ShardStyle::column, "key_value_heads"},
                        {R"(layers\.\d+\.o\.weight)", ShardStyle::row, "query_heads"},
                        {R"(layers\.\d+\.(gate|up)\.weight)", ShardStyle::column, "intermediate"},
                        {R"(layers\.\d+\.down\.weight)", ShardStyle::row, "intermediate"}};
  architecture.read_config = read;
  architecture.write_config = write;
  architecture.outline = outline;
  architecture.make = [](const portolan::ModelSetup& setup) {
    return std::make_unique<ParallelBlock>(setup);
  };
  return architecture;
}

/// The likeliest tokens behind a prompt, with a key/value cache.
portolan::TokenIds continuation(const portolan::Model& model) {
  const std::vector<portolan::TokenIds> prompts{{1, 2, 3, 5, 8}};
  constexpr std::int64_t kNewTokens = 3;
  const auto scorer = portolan::make_scorer(model, std::ssize(prompts.front()) + kNewTokens);
  return portolan::generate(*scorer, prompts, {.max_new_tokens = kNewTokens}).front().ids;
}

}  // namespace

int main() {
  portolan::Runtime runtime({});
  portolan::register_model(parallel_block_architecture());
  portolan::Communicator& world = runtime.world();
  const auto mode = world.size() == 1 ? portolan::ParallelMode::none : portolan::ParallelMode::tp;
  const portolan::ParallelContext context(world, portolan::ParallelLayout::of(mode, world.size()));

  const portolan::ModelOptions options{
      .context = context, .device = runtime.device(), .maximum_length = 16};
  for (const auto& [architecture, variant] :
       {std::pair("llama", "tiny"), std::pair("parallel_block", "small")}) {
    const std::unique_ptr<portolan::Model> model =
        portolan::get_model(architecture, variant, "", "hf", options);
    const portolan::TokenIds tokens = continuation(*model);
    if (world.rank() == 0) {
      std::printf("Portolan %s: %s %s, %lld parameters, next tokens",
                  std::string(portolan::build_information().version).c_str(), architecture, variant,
                  static_cast<long long>(portolan::parameter_count(model->plan().config())));
      for (const std::int32_t token : tokens) std::printf(" %d", static_cast<int>(token));
      std::printf("\n");
    }
  }
}
