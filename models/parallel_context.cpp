// SPDX-License-Identifier: Apache-2.0
#include "models/parallel_context.hpp"

#include <array>
#include <cstdlib>
#include <utility>

#include "core/error.hpp"

namespace portolan {
namespace {

constexpr std::array<std::pair<ParallelMode, std::string_view>, 4> kModeNames{
    {{ParallelMode::none, "none"},
     {ParallelMode::tp, "tp"},
     {ParallelMode::sp, "sp"},
     {ParallelMode::ring, "ring"}}};

}  // namespace

std::string_view name_of(ParallelMode mode) {
  for (const auto& [candidate, name] : kModeNames) {
    if (candidate == mode) return name;
  }
  return "unknown";
}

ParallelMode parallel_mode_from_name(std::string_view name) {
  for (const auto& [mode, candidate] : kModeNames) {
    if (candidate == name) return mode;
  }
  throw UsageError(fmt::format("unknown mode '{}': expected none, tp, sp or ring", name));
}

ParallelLayout ParallelLayout::of(ParallelMode mode, int ranks) {
  require(mode != ParallelMode::none || ranks == 1,
          "--parallel none runs on one rank, found {}: choose tp, sp or ring", ranks);
  ParallelLayout layout;
  (mode == ParallelMode::ring ? layout.mesh.context : layout.mesh.tensor) = ranks;
  layout.sequence_parallel = mode == ParallelMode::sp;
  return layout;
}

ParallelMode apply_sequence_parallel_environment(ParallelMode mode) {
  const char* value = std::getenv("USE_SEQUENCE_PARALLELISM");
  const bool wanted = value != nullptr && std::string_view(value) == "true";
  return wanted && mode == ParallelMode::tp ? ParallelMode::sp : mode;
}

ParallelContext::ParallelContext(Communicator& world, const ParallelLayout& layout)
    : layout_(layout),
      mesh_(world, layout.mesh),
      tensor_(mesh_.tensor(), layout.sequence_parallel),
      attention_(make_ring_attention(mesh_.context())) {}

std::array<Communicator*, 3> ParallelContext::axes() const {
  return {&mesh_.tensor(), &mesh_.context(), &mesh_.data()};
}

CommunicationCounters ParallelContext::communication() const {
  CommunicationCounters total{};
  for (const Communicator* axis : axes()) {
    for (int i = 0; i < kCollectiveCount; ++i) {
      const CollectiveCounters& counters = axis->counters()[static_cast<std::size_t>(i)];
      CollectiveCounters& sum = total[static_cast<std::size_t>(i)];
      sum.calls += counters.calls;
      sum.bytes += counters.bytes;
      sum.seconds += counters.seconds;
    }
  }
  return total;
}

void ParallelContext::reset_communication() {
  for (Communicator* axis : axes()) axis->reset_counters();
}

MemoryCounters ParallelContext::communication_memory() const {
  MemoryCounters total;
  for (const Communicator* axis : axes()) total += axis->memory();
  return total;
}

void ParallelContext::reset_communication_memory_peaks() {
  for (Communicator* axis : axes()) axis->reset_memory_peaks();
}

}  // namespace portolan
