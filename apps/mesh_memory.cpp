// SPDX-License-Identifier: Apache-2.0
#include "apps/mesh_memory.hpp"

#include <fmt/format.h>

#include "core/error.hpp"

namespace portolan {
namespace {

double gigabytes(std::int64_t bytes) { return static_cast<double>(bytes) / 1e9; }

}  // namespace

void check_forward(const ForwardSize& size) {
  require(size.batch > 0 && size.sequence_length > 0 &&
              size.batch <= kMaximumPositions / size.sequence_length,
          "--batch {} x --seq-len {}: a forward has from 1 to {} tokens", size.batch,
          size.sequence_length, kMaximumPositions);
}

MeshMemory memory_of_mesh(const ModelPlan& plan, DType dtype,
                          const std::optional<ForwardSize>& forward) {
  MeshMemory memory{plan.layout(), dtype, {}, forward, {}};
  for (int rank = 0; rank < plan.layout().mesh.ranks(); ++rank) {
    memory.weight_bytes.push_back(plan.weight_bytes(rank, dtype));
    if (!forward) continue;
    memory.activation_bytes.push_back(
        plan.activation_bytes(rank, forward->batch, forward->sequence_length, dtype));
  }
  return memory;
}

nlohmann::ordered_json to_json(const MeshMemory& memory) {
  nlohmann::ordered_json out{{"mesh", memory.layout.mesh.to_string()},
                             {"sequence_parallel", memory.layout.sequence_parallel},
                             {"ranks", memory.layout.mesh.ranks()},
                             {"dtype", name_of(memory.dtype)},
                             {"weight_bytes_per_rank", memory.weight_bytes}};
  if (memory.forward) {
    out["batch"] = memory.forward->batch;
    out["seq_len"] = memory.forward->sequence_length;
    out["activation_bytes_per_rank"] = memory.activation_bytes;
  }
  return out;
}

std::string to_text(const MeshMemory& memory) {
  std::string text = fmt::format(
      "\nmemory per rank in {}, {}{}, GB{}\n", name_of(memory.dtype),
      memory.layout.mesh.to_string(), memory.layout.sequence_parallel ? ", sequence parallel" : "",
      memory.forward ? fmt::format(", for a forward of {} x {} tokens", memory.forward->batch,
                                   memory.forward->sequence_length)
                     : "");
  text += fmt::format("  {:<10}{:>12}", "rank", "weights");
  if (memory.forward) text += fmt::format("{:>14}{:>12}", "activations", "together");
  text += '\n';
  for (std::size_t rank = 0; rank < memory.weight_bytes.size(); ++rank) {
    const std::int64_t weights = memory.weight_bytes[rank];
    text += fmt::format("  {:<10}{:>12.6f}", rank, gigabytes(weights));
    if (memory.forward) {
      const std::int64_t activations = memory.activation_bytes[rank];
      text += fmt::format("{:>14.6f}{:>12.6f}", gigabytes(activations),
                          gigabytes(weights + activations));
    }
    text += '\n';
  }
  return text;
}

}  // namespace portolan
