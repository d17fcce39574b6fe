// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>

#include "parallel/communicator.hpp"
#include "parallel/transport/shared/process_state.hpp"
#include "parallel/transport/shared/shared_segment.hpp"

/// The memory through which the ranks of a node meet. Everything in it is plain data or a lock-free
/// atomic; what one rank writes for others is published by the release store of its `progress`.
namespace portolan {

/// Two cache lines: processors fetch lines in pairs.
inline constexpr std::size_t kLinePair = 128;
/// Segments that a rank can add to its window in its life. Segments are reused, so few are needed.
inline constexpr int kMaximumSegments = 512;

/// Where a tensor lies in its rank's window.
struct WindowPosition {
  static constexpr std::int32_t kOutside = -1;     ///< in no window
  static constexpr std::int32_t kNoElements = -2;  ///< nowhere, and nobody will ask
  std::int32_t segment = kOutside;
  std::uint64_t offset = 0;

  [[nodiscard]] bool readable() const noexcept { return segment != kOutside; }
};

/// What a rank tells its peers at a step. All but the positions must be the same on every rank.
struct StepDescriptor {
  Collective collective = Collective::barrier;
  DType dtype = DType::u8;
  std::int32_t root = 0;   ///< of a broadcast
  std::int64_t bytes = 0;  ///< of the whole tensor
  WindowPosition source{};
  WindowPosition target{};
};

struct RankSlot {
  static constexpr std::uint32_t kAbsent = 0;
  static constexpr std::uint32_t kPresent = 1;
  static constexpr std::uint32_t kLeft = 2;

  /// Steps that this rank has arrived at.
  alignas(kLinePair) std::atomic<std::uint64_t> progress{0};
  /// Of the steps with even and odd numbers: a rank reaches step n + 2 only after all have done
  /// with reading step n.
  alignas(kLinePair) std::array<StepDescriptor, 2> descriptors{};
  /// kAbsent until the rank has written its identity, kLeft after its communicator's end.
  alignas(kLinePair) std::atomic<std::uint32_t> presence{0};
  ProcessIdentity identity{};
  std::array<SegmentName, kMaximumSegments> segments{};
};

struct ControlBlock {
  static constexpr std::uint32_t kClaimed = 1;
  static constexpr std::uint32_t kFailed = 2;

  /// 0, or kClaimed while the first rank to fail writes `message`, then kFailed for good.
  alignas(kLinePair) std::atomic<std::uint32_t> failure{0};
  std::array<char, 512> message{};

  [[nodiscard]] static std::size_t bytes(int size) {
    return sizeof(ControlBlock) + static_cast<std::size_t>(size) * sizeof(RankSlot);
  }
  /// Makes the objects in zeroed memory, once, before any other rank looks at it.
  static void construct(std::byte* memory, int size) {
    new (memory) ControlBlock;
    for (int rank = 0; rank < size; ++rank) {
      new (memory + sizeof(ControlBlock) + static_cast<std::size_t>(rank) * sizeof(RankSlot))
          RankSlot;
    }
  }
  [[nodiscard]] RankSlot& slot(int rank) noexcept {
    auto* slots =
        reinterpret_cast<RankSlot*>(reinterpret_cast<std::byte*>(this) + sizeof(ControlBlock));
    return slots[rank];
  }
};

static_assert(std::atomic<std::uint64_t>::is_always_lock_free &&
              std::atomic<std::uint32_t>::is_always_lock_free);
static_assert(sizeof(ControlBlock) % kLinePair == 0 && sizeof(RankSlot) % kLinePair == 0);

}  // namespace portolan
