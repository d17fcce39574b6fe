// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "core/allocator.hpp"
#include "core/tensor.hpp"
#include "parallel/transport/shared/control_block.hpp"

namespace portolan {

/// The memory of one rank that its peers can map: segments, listed in its slot of the control
/// block, that grow in place, usually one. Nothing here waits for anybody. Tensors keep the window
/// alive, so they may outlive the communicator.
class Window : public std::enable_shared_from_this<Window> {
 public:
  /// `slot` lies in `control`; `ranks` share this machine.
  Window(std::shared_ptr<SharedSegment> control, RankSlot& slot, int ranks);

  /// Aligned to pages. Throws OutOfMemoryError.
  [[nodiscard]] Tensor allocate(const Shape& shape, DType dtype, Device device);
  [[nodiscard]] WindowPosition position_of(const Tensor& tensor) const;
  [[nodiscard]] MemoryCounters memory() const { return allocator_->counters(); }
  void reset_memory_peaks() { allocator_->reset_peaks(); }

 private:
  void* add_segment(std::size_t bytes);
  void remove_segment(const void* address);
  bool resize_segment(const void* address, std::size_t bytes);

  std::shared_ptr<SharedSegment> control_;
  RankSlot& slot_;
  std::size_t reserve_;
  /// By their index in the slot; indices are never used twice.
  std::vector<std::optional<SharedSegment>> segments_;
  std::unique_ptr<CachingAllocator> allocator_;
};

/// The windows of a group's ranks as this process maps them, segment by segment on first use.
class PeerWindows {
 public:
  explicit PeerWindows(int size) : mappings_(static_cast<std::size_t>(size)) {}

  /// Where that position is in this process. Throws CommunicationError if it cannot be mapped.
  [[nodiscard]] std::byte* address(const RankSlot& slot, int rank, const WindowPosition& position);

 private:
  std::vector<std::vector<std::optional<SharedSegment>>> mappings_;
};

}  // namespace portolan
