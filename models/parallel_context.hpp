// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <memory>
#include <string>
#include <string_view>

#include "parallel/context_parallel.hpp"
#include "parallel/mesh.hpp"
#include "parallel/tensor_parallel.hpp"

namespace portolan {

/// The ways to use all ranks for one model, as `--parallel` names them.
enum class ParallelMode { none, tp, sp, ring };
[[nodiscard]] std::string_view name_of(ParallelMode mode);
/// Throws UsageError for an unknown name.
[[nodiscard]] ParallelMode parallel_mode_from_name(std::string_view name);

/// A mesh and whether tensor parallelism shards activations along the sequence.
struct ParallelLayout {
  MeshShape mesh;
  bool sequence_parallel = false;

  /// The layout of a mode over `ranks` ranks. Throws UsageError for `none` with several.
  [[nodiscard]] static ParallelLayout of(ParallelMode mode, int ranks);
};

/// Turns tp into sp if the environment has USE_SEQUENCE_PARALLELISM=true, as the published
/// experiment's switch does.
[[nodiscard]] ParallelMode apply_sequence_parallel_environment(ParallelMode mode);

/// What a model needs to know of the other ranks. Making it is collective.
class ParallelContext {
 public:
  /// `world` must outlive the context.
  ParallelContext(Communicator& world, const ParallelLayout& layout);

  [[nodiscard]] const ParallelLayout& layout() const noexcept { return layout_; }
  [[nodiscard]] const DeviceMesh& mesh() const noexcept { return mesh_; }
  [[nodiscard]] Communicator& world() const noexcept { return mesh_.world(); }
  [[nodiscard]] const TensorParallelGroup& tensor() const noexcept { return tensor_; }
  [[nodiscard]] const AttentionStrategy& attention() const noexcept { return *attention_; }

  /// Counters of the axes added up.
  [[nodiscard]] CommunicationCounters communication() const;
  void reset_communication();
  /// What the axes' communicators hold for collectives, outside the devices' allocators.
  [[nodiscard]] MemoryCounters communication_memory() const;
  void reset_communication_memory_peaks();

 private:
  [[nodiscard]] std::array<Communicator*, 3> axes() const;

  ParallelLayout layout_;
  DeviceMesh mesh_;
  TensorParallelGroup tensor_;
  std::unique_ptr<AttentionStrategy> attention_;
};

}  // namespace portolan
