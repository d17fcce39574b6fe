// SPDX-License-Identifier: Apache-2.0
#include "apps/bench_attention_tune.hpp"

#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>
#include <utility>

#include "apps/attention_tuning.hpp"
#include "apps/collective_run.hpp"
#include "apps/json_text.hpp"
#include "apps/output_file.hpp"
#include "core/error.hpp"
#include "core/host_info.hpp"

namespace portolan {
namespace {

using nlohmann::ordered_json;

void print_search(DType dtype, std::int64_t head_dim, const TileSearch& search) {
  for (const TileCandidate& candidate : search.candidates) {
    fmt::print("{:<4} head_dim {:>3}  {:<40} {:>6.3f}\n", name_of(dtype), head_dim,
               candidate.tiles.to_string(), candidate.relative_time);
  }
  fmt::print("{:<4} head_dim {:>3}  best: {}\n", name_of(dtype), head_dim, search.best.to_string());
  std::fflush(stdout);  // the next takes minutes
}

/// The search's candidates, as the entries of the file with the time of each.
ordered_json candidates_json(DType dtype, std::int64_t head_dim, const TileSearch& search) {
  std::vector<AttentionTileTable::Entry> entries;
  for (const TileCandidate& candidate : search.candidates) {
    entries.push_back({.dtype = dtype, .head_dim = head_dim, .tiles = candidate.tiles});
  }
  ordered_json list = AttentionTileTable("", std::move(entries)).to_json()["attention_tiles"];
  for (std::size_t i = 0; i < list.size(); ++i) {
    list[i]["relative_time"] = search.candidates[i].relative_time;
  }
  return list;
}

}  // namespace

void tune_attention(const TuneRequest& request) {
  const CommonOptions& common = request.common;
  require(common.device == DeviceKind::cpu,
          "--tune: only attention on device cpu takes tile sizes, found --device {}",
          name_of(common.device));
  prepare_output_file(request.file);
  AttentionTileTable table;
  ordered_json candidates = ordered_json::array();
  run_collectively(runtime_options(common), [&](Runtime& runtime) {
    static_cast<void>(choose_layout(common, runtime.world().size()));  // one rank only
    std::vector<AttentionTileTable::Entry> entries;
    for (const DType dtype : request.dtypes) {
      for (const std::int64_t head_dim : request.head_dims) {
        AttentionBenchmarkCase shape = request.shape;
        shape.dtype = dtype;
        shape.head_dim = head_dim;
        shape.seed = common.seed;
        const TileSearch search =
            search_attention_tiles(shape, request.lengths, request.rounds, runtime.device());
        entries.push_back({.dtype = dtype, .head_dim = head_dim, .tiles = search.best});
        if (!common.json) print_search(dtype, head_dim, search);
        for (ordered_json& item : candidates_json(dtype, head_dim, search)) {
          candidates.push_back(std::move(item));
        }
      }
    }
    table = AttentionTileTable(host_info().cpu_model, std::move(entries));
  });
  ordered_json document = table.to_json();
  write_file(request.file, json_text(document));
  if (!common.json) return;
  document["candidates"] = std::move(candidates);
  fmt::print("{}", json_text(document));
}

}  // namespace portolan
