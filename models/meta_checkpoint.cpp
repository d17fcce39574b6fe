// SPDX-License-Identifier: Apache-2.0
#include "models/meta_checkpoint.hpp"

#include <algorithm>
#include <set>
#include <system_error>

#include "core/error.hpp"
#include "core/printable.hpp"
#include "models/meta_config.hpp"
#include "models/meta_layout.hpp"

namespace portolan {
namespace {

namespace fs = std::filesystem;

constexpr const char* kEmbedding = "model.embed_tokens.weight";

bool is_shard_name(std::string_view name) {
  return name.starts_with("consolidated.") && name.ends_with(".pth");
}

}  // namespace

bool MetaCheckpoint::is_one(const fs::path& folder) {
  std::error_code error;
  return !fs::exists(folder / "config.json", error) && fs::exists(folder / kMetaConfigName, error);
}

MetaCheckpoint::MetaCheckpoint(const fs::path& folder)
    : config_(read_meta_config(folder / kMetaConfigName)) {
  std::set<std::string> names;
  for (const auto& each : fs::directory_iterator(folder)) {
    const std::string name = each.path().filename().string();
    if (is_shard_name(name)) names.insert(name);
  }
  const std::size_t count = std::max<std::size_t>(names.size(), 1);
  for (std::size_t i = 0; i < count; ++i) {
    const std::string name = meta_shard_name(static_cast<int>(i));
    if (!names.contains(name)) {
      throw InputError(fmt::format("{}: expected {}, found {} files consolidated.*.pth without it",
                                   printable_path(folder), name, names.size()));
    }
    shards_.push_back(std::make_unique<TorchFile>(folder / name));
  }
  complete_config();
}

void MetaCheckpoint::complete_config() {
  const StoredParameter embedding = find(kEmbedding);
  if (config_.vocab_size == 0) {
    config_.vocab_size = embedding.description.rows();
    if (config_.vocab_size < 1 || config_.vocab_size > kMaximumVocabSize) {
      throw InputError(fmt::format("{}: tensor '{}': expected from 1 to {} rows, found {}",
                                   shards_.front()->name(), meta_tensor(kEmbedding).name,
                                   kMaximumVocabSize, config_.vocab_size));
    }
  }
  config_.dtype = embedding.description.dtype;
  if (config_.dtype) config_.dtype_name = torch_name_of(*config_.dtype);
}

bool MetaCheckpoint::joins_columns(const std::string& parameter) const {
  const MetaTensor tensor = meta_tensor(parameter);
  if (tensor.sharding != MetaSharding::embedding) return tensor.sharding == MetaSharding::columns;
  return shards_.front()->at(tensor.name).columns() != config_.hidden_size;
}

StoredParameter MetaCheckpoint::find(const std::string& parameter) const {
  const MetaTensor tensor = meta_tensor(parameter);
  const TensorFile& first_file = *shards_.front();
  const TensorEntry& first = first_file.at(tensor.name);
  StoredParameter stored = StoredParameter::whole(first_file, first);
  stored.interleaved_head_dim = tensor.interleaved ? config_.head_dim : 0;
  const bool columns = joins_columns(parameter);
  const auto refuse = [&](const TensorFile& file, const TensorEntry& entry,
                          const std::string& expected) {
    throw InputError(fmt::format("{}: tensor '{}': expected {}, found {} {}", file.name(),
                                 tensor.name, expected, entry.dtype_name, shape_text(entry.shape)));
  };
  if (tensor.sharding != MetaSharding::replicated && first.shape.size() != 2) {
    refuse(first_file, first, "a matrix");
  }
  for (std::size_t i = 1; i < shards_.size(); ++i) {
    const TensorFile& file = *shards_[i];
    const TensorEntry& entry = file.at(tensor.name);
    const bool fits = entry.dtype_name == first.dtype_name &&
                      entry.shape.size() == first.shape.size() &&
                      (columns ? entry.rows() == first.rows() : entry.columns() == first.columns());
    if (!fits) {
      refuse(file, entry,
             fmt::format("a shard of {} {}", first.dtype_name, shape_text(first.shape)));
    }
    if (tensor.sharding == MetaSharding::replicated) continue;
    std::vector<std::int64_t>& shape = stored.description.shape;
    ParameterPiece piece{&file, &entry, 0, entry.rows(), 0, entry.columns(), 0, 0};
    std::int64_t& extent = shape[columns ? 1 : 0];
    (columns ? piece.column_begin : piece.row_begin) = extent;
    (columns ? piece.column_end : piece.row_end) += extent;
    extent += columns ? entry.columns() : entry.rows();
    stored.pieces.push_back(piece);
  }
  for (const ParameterPiece& piece : stored.pieces) {
    if (tensor.interleaved && piece.tensor->rows() % config_.head_dim != 0) {
      refuse(*piece.file, *piece.tensor, fmt::format("whole heads of {} rows", config_.head_dim));
    }
  }
  return stored;
}

}  // namespace portolan
