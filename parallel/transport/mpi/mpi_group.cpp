// SPDX-License-Identifier: Apache-2.0
#include "parallel/transport/mpi/mpi_group.hpp"

#include <sched.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <thread>
#include <utility>

#include "core/error.hpp"
#include "parallel/transport/mpi/mpi_world.hpp"

namespace portolan {
namespace {

using Clock = std::chrono::steady_clock;

// Longer messages travel in pieces: MPI counts in int, and a piece that arrives shows that the peer
// is alive, however slow the network or busy the machine.
constexpr std::int64_t kPieceBytes = std::int64_t{64} << 20;
// Rounds of asking MPI before letting others have the core, about 20 microseconds.
constexpr int kSpins = 100;
constexpr std::chrono::milliseconds kYieldTime{10};
constexpr std::chrono::microseconds kSleep{50};
constexpr std::chrono::milliseconds kFailureCheckInterval{10};

}  // namespace

MpiGroup MpiGroup::all(const std::shared_ptr<MpiWorld>& world, std::chrono::milliseconds deadline) {
  std::vector<int> members(static_cast<std::size_t>(world->size));
  std::iota(members.begin(), members.end(), 0);
  // Ranks may have used up different numbers of tags in groups of their own; splitting makes them
  // agree on a new one.
  const MpiGroup first(world, deadline, std::move(members), world->rank, MpiWorld::kFirstTag);
  return first.split(0, world->rank);
}

MpiGroup::MpiGroup(std::shared_ptr<MpiWorld> world, std::chrono::milliseconds deadline,
                   std::vector<int> members, int rank, int tag)
    : world_(std::move(world)),
      deadline_(deadline),
      members_(std::move(members)),
      rank_(rank),
      tag_(tag) {}

MpiGroup::Batch::Batch(const MpiGroup& group, std::string_view operation,
                       std::initializer_list<Tensor> memory)
    : group_(group), operation_(operation), messages_(std::make_unique<MpiMessages>()) {
  messages_->memory = memory;
}

MpiGroup::Batch::~Batch() { group_.world_->abandon(*messages_); }

void MpiGroup::Batch::send(const std::byte* data, std::int64_t bytes, int peer) {
  MpiWorld& world = *group_.world_;
  const std::lock_guard lock(world.mutex);
  do {  // also a message without bytes is one
    const std::int64_t piece = std::min(bytes, kPieceBytes);
    MpiMessages::Message& message = messages_->messages.emplace_back();
    message.peer = peer;
    check_mpi(MPI_Isend(data, static_cast<int>(piece), MPI_BYTE, group_.world_rank(peer),
                        group_.tag_, world.communicator, &message.request),
              operation_);
    data += piece;
    bytes -= piece;
  } while (bytes > 0);
}

void MpiGroup::Batch::receive(std::byte* data, std::int64_t bytes, int peer) {
  MpiWorld& world = *group_.world_;
  const std::lock_guard lock(world.mutex);
  do {
    const std::int64_t piece = std::min(bytes, kPieceBytes);
    MpiMessages::Message& message = messages_->messages.emplace_back();
    message.peer = peer;
    message.receives = true;
    check_mpi(MPI_Irecv(data, static_cast<int>(piece), MPI_BYTE, group_.world_rank(peer),
                        group_.tag_, world.communicator, &message.request),
              operation_);
    data += piece;
    bytes -= piece;
  } while (bytes > 0);
}

void MpiGroup::Batch::progress_in_background() { group_.world_->progress(*messages_); }

void MpiGroup::Batch::wait() {
  MpiWorld& world = *group_.world_;
  world.release(*messages_);
  const auto test = [&] {
    const std::lock_guard lock(world.mutex);
    return messages_->test();
  };
  Clock::time_point start;
  Clock::time_point last_check;
  std::size_t unfinished = messages_->messages.size() + 1;
  for (int round = 0;; ++round) {
    const std::size_t left = test();
    if (left == 0) break;
    if (round < kSpins) continue;
    const Clock::time_point now = Clock::now();
    if (round == kSpins) last_check = now;
    if (left < unfinished) {
      unfinished = left;
      start = now;
    }
    if (now - last_check >= kFailureCheckInterval) {
      last_check = now;
      const std::string failure = world.failure();
      if (!failure.empty()) {
        throw CommunicationError(fmt::format("{} on rank {} of {}: given up, {}", operation_,
                                             group_.rank(), group_.size(), failure));
      }
    }
    if (now - start >= group_.deadline_) {
      fail(fmt::format("no answer within {:g} s from {}",
                       std::chrono::duration<double>(group_.deadline_).count(),
                       unfinished_peers()));
    }
    if (now - start < kYieldTime) {
      ::sched_yield();
    } else {
      std::this_thread::sleep_for(kSleep);
    }
  }
  if (!messages_->error.empty()) fail(fmt::format("MPI reports: {}", messages_->error));
}

std::string MpiGroup::Batch::unfinished_peers() const {
  std::vector<int> peers;
  for (const MpiMessages::Message& message : messages_->messages) {
    if (message.request != MPI_REQUEST_NULL) peers.push_back(message.peer);
  }
  std::sort(peers.begin(), peers.end());
  peers.erase(std::unique(peers.begin(), peers.end()), peers.end());
  std::string text;
  for (const int peer : peers) text += fmt::format("{}rank {}", text.empty() ? "" : ", ", peer);
  return text;
}

void MpiGroup::Batch::fail(const std::string& reason) {
  const std::string message =
      fmt::format("{} on rank {} of {}: {}", operation_, group_.rank(), group_.size(), reason);
  group_.give_up(message);
  throw CommunicationError(message);
}

std::vector<std::byte> MpiGroup::exchange(std::span<const std::byte> own,
                                          std::string_view operation) const {
  std::vector<std::byte> all(own.size() * static_cast<std::size_t>(size()));
  const auto bytes = static_cast<std::int64_t>(own.size());
  Batch batch(*this, operation);
  for (int peer = 0; peer < size(); ++peer) {
    if (peer != rank()) batch.receive(all.data() + peer * bytes, bytes, peer);
  }
  std::memcpy(all.data() + rank() * bytes, own.data(), own.size());
  for (int i = 1; i < size(); ++i) batch.send(own.data(), bytes, (rank() + i) % size());
  batch.wait();
  return all;
}

MpiGroup MpiGroup::split(int color, int key) const {
  struct Choice {
    int color;
    int key;
    int tag;
  };
  const Choice own{color, key, world_->next_tag};
  const std::vector<std::byte> bytes = exchange(std::as_bytes(std::span(&own, 1)), "split");
  std::vector<Choice> choices(static_cast<std::size_t>(size()));
  std::memcpy(choices.data(), bytes.data(), bytes.size());

  // No rank of this group has used a tag from here on, so messages of the new groups meet no
  // others.
  int tag = 0;
  for (const Choice& choice : choices) tag = std::max(tag, choice.tag);
  if (tag > world_->highest_tag) {
    throw CommunicationError(
        fmt::format("split: this MPI can tell {} groups of ranks apart, and all are used up",
                    world_->highest_tag));
  }
  world_->next_tag = tag + 1;

  std::vector<int> ranks;
  for (int peer = 0; peer < size(); ++peer) {
    if (choices[static_cast<std::size_t>(peer)].color == color) ranks.push_back(peer);
  }
  std::stable_sort(ranks.begin(), ranks.end(), [&](int a, int b) {
    return choices[static_cast<std::size_t>(a)].key < choices[static_cast<std::size_t>(b)].key;
  });
  const auto new_rank =
      static_cast<int>(std::find(ranks.begin(), ranks.end(), rank()) - ranks.begin());
  std::vector<int> members;
  members.reserve(ranks.size());
  for (const int peer : ranks) members.push_back(world_rank(peer));
  return {world_, deadline_, std::move(members), new_rank, tag};
}

void MpiGroup::give_up(const std::string& reason) const noexcept {
  world_->announce_failure(reason);
}

}  // namespace portolan
