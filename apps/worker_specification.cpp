// SPDX-License-Identifier: Apache-2.0
#include "apps/worker.hpp"
#include "core/error.hpp"
#include "core/json_file.hpp"

namespace portolan {
namespace {

constexpr std::int64_t kLargestCount = 1 << 20;

}  // namespace

WorkerSpecification read_worker_specification(const std::string& path) {
  const nlohmann::json document = read_json_file(path);
  const JsonObject fields(document, path);
  WorkerSpecification specification;
  specification.preset = fields.text("preset");
  specification.config =
      preset_config(specification.preset).with_layers(fields.integer("layers", 1, kMaximumLayers));
  specification.mode = parallel_mode_from_name(fields.text("mode"));
  specification.dtype = dtype_from_name(fields.text("dtype"));
  specification.device = device_kind_from_name(fields.text("device"));
  specification.batch = fields.integer("batch", 1, kLargestCount);
  const nlohmann::json* lengths = fields.find("seq_lens");
  if (lengths == nullptr || !lengths->is_array() || lengths->empty()) {
    fields.fail("seq_lens", "a list of lengths");
  }
  for (const nlohmann::json& length : *lengths) {
    if (!length.is_number_integer() || length.get<std::int64_t>() < 1) {
      fields.fail("seq_lens", "lengths of at least 1");
    }
    specification.sequence_lengths.push_back(length.get<std::int64_t>());
  }
  specification.warmup = static_cast<int>(fields.integer("warmup", 0, kLargestCount));
  specification.repeat = static_cast<int>(fields.integer("repeat", 1, kLargestCount));
  specification.floor_repeat = static_cast<int>(fields.integer("floor_repeat", 0, kLargestCount));
  specification.seed = static_cast<std::uint64_t>(fields.integer("seed", 0, INT64_MAX));
  specification.threads = static_cast<int>(fields.integer("threads", 0, kLargestCount));
  const std::string link = fields.text("emulate_link");
  if (!link.empty()) specification.link = LinkEmulation::parse(link);
  specification.attention_tiles = fields.text("attention_tiles");
  specification.sample_rows = fields.integer("sample_rows", 0, kLargestCount);
  specification.published_protocol = fields.text("protocol") == "published";
  specification.result = fields.text("result");
  specification.samples = fields.text("samples");
  return specification;
}

}  // namespace portolan
