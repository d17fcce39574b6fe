// SPDX-License-Identifier: Apache-2.0
#include "parallel/transport/shared/shared_group.hpp"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <thread>
#include <utility>

#include "core/error.hpp"

namespace portolan {
namespace {

using Clock = std::chrono::steady_clock;

// Some 20 microseconds, longer than a small collective takes when every rank has a core: it ends
// without a system call. With fewer cores than ranks, spinning only keeps the awaited peer waiting.
constexpr int kSpins = 1000;
// A wait this long means that peers have other work; a sleep then costs little of it and frees the
// core.
constexpr std::chrono::milliseconds kYieldTime{10};
constexpr std::chrono::microseconds kSleep{50};
constexpr std::chrono::milliseconds kPeerCheckInterval{50};

void pause_briefly() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");
#endif
}

}  // namespace

SharedSegment SharedGroup::make_control(int size) {
  SharedSegment control = SharedSegment::create(ControlBlock::bytes(size));
  ControlBlock::construct(control.data(), size);
  return control;
}

SharedGroup::SharedGroup(std::shared_ptr<SharedSegment> control, int rank, int size,
                         std::chrono::milliseconds deadline)
    : control_(std::move(control)),
      rank_(rank),
      size_(size),
      deadline_(deadline),
      spins_(::sysconf(_SC_NPROCESSORS_ONLN) >= size ? kSpins : 0),
      exceptions_at_start_(std::uncaught_exceptions()) {
  slot(rank_).identity = this_process();
  slot(rank_).presence.store(RankSlot::kPresent, std::memory_order_release);
}

SharedGroup::~SharedGroup() {
  if (std::uncaught_exceptions() > exceptions_at_start_) {
    give_up(fmt::format("rank {} stopped because of an error of its own", rank_));
  }
  slot(rank_).presence.store(RankSlot::kLeft, std::memory_order_release);
}

void SharedGroup::step(const StepDescriptor& descriptor) {
  check_failure(descriptor);
  ++sequence_;
  RankSlot& own = slot(rank_);
  own.descriptors[sequence_ % 2] = descriptor;
  own.progress.store(sequence_, std::memory_order_release);
  wait(descriptor);
  check_agreement(descriptor);
}

void SharedGroup::wait(const StepDescriptor& descriptor) {
  int next = 0;  // ranks before it have arrived
  const auto all_arrived = [&] {
    while (next < size_ && slot(next).progress.load(std::memory_order_acquire) >= sequence_) ++next;
    return next == size_;
  };
  for (int spin = 0; spin < spins_; ++spin) {
    if (all_arrived()) return;
    pause_briefly();
  }
  const Clock::time_point start = Clock::now();
  Clock::time_point last_check = start;
  while (!all_arrived()) {
    check_failure(descriptor);
    const Clock::time_point now = Clock::now();
    if (now - last_check >= kPeerCheckInterval) {
      check_peers(descriptor);
      last_check = now;
    }
    if (now - start >= deadline_) fail_past_deadline(descriptor);
    if (now - start < kYieldTime) {
      ::sched_yield();
    } else {
      std::this_thread::sleep_for(kSleep);
    }
  }
}

std::vector<int> SharedGroup::missing_ranks() {
  std::vector<int> missing;
  for (int rank = 0; rank < size_; ++rank) {
    if (slot(rank).progress.load(std::memory_order_acquire) < sequence_) missing.push_back(rank);
  }
  return missing;
}

std::string SharedGroup::describe(const StepDescriptor& descriptor) const {
  return fmt::format("{} on rank {} of {}", name_of(descriptor.collective), rank_, size_);
}

void SharedGroup::check_failure(const StepDescriptor& descriptor) {
  if (block().failure.load(std::memory_order_acquire) != ControlBlock::kFailed) return;
  throw CommunicationError(
      fmt::format("{}: given up, {}", describe(descriptor), block().message.data()));
}

void SharedGroup::check_peers(const StepDescriptor& descriptor) {
  for (const int rank : missing_ranks()) {
    // To have left or ended is final, but the step may have been taken just before.
    const RankSlot& peer = slot(rank);
    const std::uint32_t presence = peer.presence.load(std::memory_order_acquire);
    if (presence == RankSlot::kAbsent) continue;
    const bool ended = state_of(peer.identity) == ProcessState::ended;
    if (presence != RankSlot::kLeft && !ended) continue;
    if (peer.progress.load(std::memory_order_acquire) >= sequence_) continue;
    check_failure(descriptor);
    fail(fmt::format("{}: rank {} (process {}) has {}", describe(descriptor), rank,
                     peer.identity.process, ended ? "ended" : "left"));
  }
}

void SharedGroup::fail_past_deadline(const StepDescriptor& descriptor) {
  std::string peers;
  for (const int rank : missing_ranks()) {
    const RankSlot& peer = slot(rank);
    peers += fmt::format("{}rank {}", peers.empty() ? "" : ", ", rank);
    if (peer.presence.load(std::memory_order_acquire) == RankSlot::kAbsent) {
      peers += " (not started)";
    } else {
      peers +=
          fmt::format(" (process {}, {})", peer.identity.process, name_of(state_of(peer.identity)));
    }
  }
  fail(fmt::format("{}: no answer within {:g} s from {}", describe(descriptor),
                   std::chrono::duration<double>(deadline_).count(), peers));
}

void SharedGroup::check_agreement(const StepDescriptor& descriptor) {
  for (int rank = 0; rank < size_; ++rank) {
    const StepDescriptor& other = brought(rank);
    if (other.collective == descriptor.collective && other.dtype == descriptor.dtype &&
        other.root == descriptor.root && other.bytes == descriptor.bytes) {
      continue;
    }
    fail(
        fmt::format("{} ({} bytes of {}) met {} ({} bytes of {}) of rank {}: ranks must call the "
                    "same collectives in the same order",
                    describe(descriptor), descriptor.bytes, name_of(descriptor.dtype),
                    name_of(other.collective), other.bytes, name_of(other.dtype), rank));
  }
}

void SharedGroup::give_up(const std::string& reason) noexcept {
  ControlBlock& shared = block();
  std::uint32_t expected = 0;
  if (!shared.failure.compare_exchange_strong(expected, ControlBlock::kClaimed)) return;
  const std::size_t length = std::min(reason.size(), shared.message.size() - 1);
  std::memcpy(shared.message.data(), reason.data(), length);
  shared.message[length] = '\0';
  shared.failure.store(ControlBlock::kFailed, std::memory_order_release);
}

void SharedGroup::fail(const std::string& reason) {
  give_up(reason);
  throw CommunicationError(reason);
}

void SharedGroup::fail_because_of(int peer, const std::string& reason) {
  const ProcessIdentity identity = slot(peer).identity;
  fail(fmt::format("{}: rank {} (process {}) has {}: {}", describe(brought(rank_)), peer,
                   identity.process, state_of(identity) == ProcessState::ended ? "ended" : "failed",
                   reason));
}

}  // namespace portolan
