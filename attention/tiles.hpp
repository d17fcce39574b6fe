// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.hpp"

/// Sizes that decide how fast attention on CPUs is and change no bit of its results, and the file
/// that keeps those measured to be best.
namespace portolan {

inline constexpr std::int64_t kMaximumAttentionHeadDim = 256;

/// In tiles of queries and in bytes of keys with their values. The defaults are right for cores
/// with 1 MiB of level 2 cache.
struct AttentionTiles {
  /// Keys and values that are packed at a time and stay in the level 2 cache while the queries of a
  /// task run over them: half of it, which leaves room for those queries.
  std::int64_t block_kib = 512;
  /// Query tiles of a forward task at most. More pack the same keys less often; fewer leave more
  /// tasks to share out.
  std::int64_t forward_chunk = 64;
  /// Query tiles that visit a key tile of the backward pass together. Two, so that what is read of
  /// it serves twice while it is near.
  std::int64_t backward_chunk = 2;

  bool operator==(const AttentionTiles&) const = default;
  /// "block 512 KiB, chunks of 64 and 2 tiles".
  [[nodiscard]] std::string to_string() const;
};

/// Bounds of what a file may say.
inline constexpr std::int64_t kMostBlockKib = std::int64_t{1} << 20;
inline constexpr std::int64_t kMostChunkTiles = std::int64_t{1} << 12;

/// What was measured to be best on one processor.
class AttentionTileTable {
 public:
  struct Entry {
    DType dtype = DType::f32;
    std::int64_t head_dim = 0;
    AttentionTiles tiles = {};
  };

  AttentionTileTable() = default;
  AttentionTileTable(std::string cpu_model, std::vector<Entry> entries);

  /// From a file that write() wrote. Throws InputError naming file and field, and if it was
  /// measured on another processor than `cpu_model`.
  [[nodiscard]] static AttentionTileTable read(const std::filesystem::path& path,
                                               std::string_view cpu_model);
  [[nodiscard]] nlohmann::ordered_json to_json() const;

  /// The defaults for what is not in the table.
  [[nodiscard]] AttentionTiles find(DType dtype, std::int64_t head_dim) const;
  [[nodiscard]] std::span<const Entry> entries() const { return entries_; }

 private:
  std::string cpu_model_;
  std::vector<Entry> entries_;
};

}  // namespace portolan
