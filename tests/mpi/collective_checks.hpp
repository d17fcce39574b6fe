// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "parallel/communicator.hpp"

/// What every transport must do, as functions that all ranks of a communicator call together. They
/// throw std::runtime_error with what was expected and found, so that they serve both under a test
/// framework and in forked processes.
namespace portolan::checks {

struct Setting {
  Device device;
  /// Tensors from allocate() or from elsewhere.
  bool windows = true;
  /// Ranks whose sums are rounded before they are added up: one list if the transport has one
  /// level.
  std::vector<std::vector<int>> nodes;
};

/// Sums of `elements` values: the bits of f32 sums in rank order (per node, then over nodes), near
/// the sum in f64, and the same on every rank.
void all_reduce(Communicator& communicator, const Setting& setting, DType dtype,
                std::int64_t elements);
/// Of a tensor [outer, partition, inner] along dimension 1; also that `full` is left as it was.
void reduce_scatter(Communicator& communicator, const Setting& setting, DType dtype,
                    std::int64_t outer, const Partition& partition, std::int64_t inner);
void all_gather(Communicator& communicator, const Setting& setting, DType dtype, std::int64_t outer,
                const Partition& partition, std::int64_t inner);
void broadcast(Communicator& communicator, const Setting& setting, DType dtype,
               std::int64_t elements);
/// `advances` steps, with and without prefetch, twice round if there are more than ranks.
void rotation(Communicator& communicator, const Setting& setting, DType dtype,
              std::int64_t elements, int advances);
/// No rank leaves a barrier before all have entered it.
void barrier(Communicator& communicator);
/// The counters' documented closed forms.
void counters(Communicator& communicator, const Setting& setting);
/// Halves, reversed order, one rank each; collectives in parts while other parts do others.
void split(Communicator& communicator, const Setting& setting);
/// All of the above on many shapes and dtypes; counters last.
void everything(Communicator& communicator, const Setting& setting);

}  // namespace portolan::checks
