// SPDX-License-Identifier: Apache-2.0
#include "attention/tiles.hpp"

#include <algorithm>
#include <utility>

#include "core/error.hpp"
#include "core/json_file.hpp"

namespace portolan {
namespace {

AttentionTileTable::Entry read_entry(const JsonObject& fields) {
  const std::string dtype = fields.text("dtype");
  if (dtype != "f32" && dtype != "bf16" && dtype != "f16") {
    fields.fail("dtype", "f32, bf16 or f16");
  }
  return {.dtype = dtype_from_name(dtype),
          .head_dim = fields.integer("head_dim", 1, kMaximumAttentionHeadDim),
          .tiles = {.block_kib = fields.integer("block_kib", 1, kMostBlockKib),
                    .forward_chunk = fields.integer("forward_chunk", 1, kMostChunkTiles),
                    .backward_chunk = fields.integer("backward_chunk", 1, kMostChunkTiles)}};
}

}  // namespace

std::string AttentionTiles::to_string() const {
  return fmt::format("block {} KiB, chunks of {} and {} tiles", block_kib, forward_chunk,
                     backward_chunk);
}

AttentionTileTable::AttentionTileTable(std::string cpu_model, std::vector<Entry> entries)
    : cpu_model_(std::move(cpu_model)), entries_(std::move(entries)) {}

AttentionTileTable AttentionTileTable::read(const std::filesystem::path& path,
                                            std::string_view cpu_model) {
  const nlohmann::json document = read_json_file(path);
  const JsonObject fields(document, path.string());
  if (fields.text("cpu") != cpu_model) {
    fields.fail("cpu", fmt::format("this machine's processor, \"{}\"", cpu_model));
  }
  std::vector<Entry> entries;
  for (const JsonObject& entry : fields.objects("attention_tiles")) {
    entries.push_back(read_entry(entry));
  }
  return {std::string(cpu_model), std::move(entries)};
}

nlohmann::ordered_json AttentionTileTable::to_json() const {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const Entry& entry : entries_) {
    list.push_back({{"dtype", name_of(entry.dtype)},
                    {"head_dim", entry.head_dim},
                    {"block_kib", entry.tiles.block_kib},
                    {"forward_chunk", entry.tiles.forward_chunk},
                    {"backward_chunk", entry.tiles.backward_chunk}});
  }
  return {{"cpu", cpu_model_}, {"attention_tiles", std::move(list)}};
}

AttentionTiles AttentionTileTable::find(DType dtype, std::int64_t head_dim) const {
  const auto found = std::ranges::find_if(entries_, [&](const Entry& entry) {
    return entry.dtype == dtype && entry.head_dim == head_dim;
  });
  return found == entries_.end() ? AttentionTiles{} : found->tiles;
}

}  // namespace portolan
