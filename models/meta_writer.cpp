// SPDX-License-Identifier: Apache-2.0
#include "core/error.hpp"
#include "core/output_file.hpp"
#include "core/torch_file.hpp"
#include "models/conversion_steps.hpp"
#include "models/meta_config.hpp"
#include "models/meta_layout.hpp"

namespace portolan {
namespace {

/// A tensor of Meta's format and the parameter that it is made from.
struct Source {
  MetaTensor tensor;
  const StoredParameter* parameter = nullptr;
  bool columns = false;  ///< dealt along them
};

void require_divisible(const LlamaConfig& config, std::int64_t shards) {
  const auto require = [shards](std::int64_t extent, const char* what) {
    if (extent % shards == 0) return;
    throw UnsupportedError(fmt::format(
        "{} shards cannot share {} {} evenly, as Meta's format has it", shards, extent, what));
  };
  require(config.attention_heads, "query heads");
  require(config.kv_heads, "key/value heads");
  require(config.intermediate_size, "features of the MLP");
  require(config.vocab_size, "rows of the vocabulary");
  if (!deals_vocabulary(config)) require(config.hidden_size, "features of the embedding");
}

std::vector<Source> sources_of(const Checkpoint& source, const LlamaConfig& config) {
  // There is no way to say that the output matrix is the embedding, so it is written twice.
  LlamaConfig untied = config;
  untied.tie_word_embeddings = false;
  std::vector<Source> sources;
  for (const ParameterShape& parameter : parameter_shapes(untied)) {
    const bool is_tied_head = config.tie_word_embeddings && parameter.name == "lm_head.weight";
    const MetaTensor tensor = meta_tensor(parameter.name);
    sources.push_back(
        {tensor, &source.stored(is_tied_head ? "model.embed_tokens.weight" : parameter.name),
         tensor.sharding == MetaSharding::columns ||
             (tensor.sharding == MetaSharding::embedding && !deals_vocabulary(config))});
  }
  return sources;
}

/// What shard `shard` of `shards` holds.
ParameterBlock block_of(const Source& source, int shard, int shards) {
  ParameterBlock block = ParameterBlock::whole(*source.parameter);
  if (source.tensor.sharding == MetaSharding::replicated) return block;
  const auto cut = [&](std::int64_t& begin, std::int64_t& end) {
    const std::int64_t share = end / shards;
    begin = shard * share;
    end = begin + share;
  };
  if (source.columns) {
    cut(block.column_begin, block.column_end);
  } else {
    cut(block.row_begin, block.row_end);
  }
  return block;
}

std::vector<TensorDescription> describe(const std::vector<Source>& sources, int shard,
                                        const ConversionOptions& options) {
  std::vector<TensorDescription> tensors;
  for (const Source& source : sources) {
    const ParameterBlock block = block_of(source, shard, options.shards);
    std::vector<std::int64_t> shape{block.row_end - block.row_begin};
    if (source.parameter->description.shape.size() > 1) {
      shape.push_back(block.column_end - block.column_begin);
    }
    tensors.push_back(
        {source.tensor.name, written_dtype(*source.parameter, options), std::move(shape)});
  }
  return tensors;
}

}  // namespace

void write_meta_checkpoint(const Checkpoint& source, const std::filesystem::path& folder,
                           const ConversionOptions& options, const ConversionProgress& progress) {
  const LlamaConfig& config = source.config().llama();
  require_divisible(config, options.shards);
  const std::string params = meta_config_text(config);
  const std::vector<Source> sources = sources_of(source, config);
  std::uint64_t all = 0;
  for (int shard = 0; shard < options.shards; ++shard) {
    for (const TensorDescription& tensor : describe(sources, shard, options)) {
      all += tensor.checked_size(folder.string());
    }
  }
  ProgressCounter counter(progress, all);
  for (int shard = 0; shard < options.shards; ++shard) {
    const std::vector<TensorDescription> tensors = describe(sources, shard, options);
    TorchFileWriter writer(folder / meta_shard_name(shard), tensors);
    for (std::size_t i = 0; i < sources.size(); ++i) {
      stream_block(*sources[i].parameter, block_of(sources[i], shard, options.shards),
                   tensors[i].dtype, sources[i].tensor.interleaved ? config.head_dim : 0,
                   [&](std::span<const std::byte> bytes) {
                     writer.append(bytes);
                     counter.add(bytes.size());
                   });
    }
    writer.finish();
  }
  write_file(folder / kMetaConfigName, params);
}

}  // namespace portolan
