// SPDX-License-Identifier: Apache-2.0
#include "parallel/transport/mpi/mpi_world.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "core/error.hpp"

namespace portolan {
namespace {

// Often enough for a network's pipeline, seldom enough to take about 1 % of a core that computes.
constexpr std::chrono::microseconds kProgressInterval{100};

std::string text_of(int code) {
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  if (MPI_Error_string(code, text.data(), &length) != MPI_SUCCESS) return "unknown error";
  return {text.data(), static_cast<std::size_t>(length)};
}

}  // namespace

void check_mpi(int code, std::string_view operation) {
  if (code != MPI_SUCCESS) {
    throw CommunicationError(fmt::format("{}: MPI reports: {}", operation, text_of(code)));
  }
}

std::size_t MpiMessages::test() {
  std::size_t unfinished = 0;
  for (Message& message : messages) {
    if (message.request == MPI_REQUEST_NULL) continue;
    int flag = 0;
    const int code = MPI_Test(&message.request, &flag, MPI_STATUS_IGNORE);
    if (code != MPI_SUCCESS && error.empty()) error = text_of(code);
    if (flag == 0) ++unfinished;
  }
  return error.empty() ? unfinished : 0;
}

bool MpiMessages::abandon() noexcept {
  bool unfinished = false;
  for (Message& message : messages) {
    if (message.request == MPI_REQUEST_NULL) continue;
    if (message.receives) MPI_Cancel(&message.request);
    MPI_Request_free(&message.request);
    unfinished = true;
  }
  messages.clear();
  return unfinished;
}

MpiWorld::MpiWorld(bool background_progress) : background_progress_(background_progress) {
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &communicator), "start of MPI");
  check_mpi(MPI_Comm_set_errhandler(communicator, MPI_ERRORS_RETURN), "start of MPI");
  MPI_Comm_rank(communicator, &rank);
  MPI_Comm_size(communicator, &size);
  int* bound = nullptr;
  int known = 0;
  MPI_Comm_get_attr(communicator, MPI_TAG_UB, static_cast<void*>(&bound), &known);
  if (known != 0) highest_tag = *bound;

  MPI_Comm node = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(communicator, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &node),
            "start of MPI");
  std::array<int, 2> own{rank, 0};
  MPI_Comm_rank(node, &own[1]);
  check_mpi(MPI_Bcast(own.data(), 1, MPI_INT, 0, node), "start of MPI");
  MPI_Comm_free(&node);
  std::vector<int> all(2 * static_cast<std::size_t>(size));
  check_mpi(MPI_Allgather(own.data(), 2, MPI_INT, all.data(), 2, MPI_INT, communicator),
            "start of MPI");
  for (std::size_t i = 0; i < all.size(); i += 2) {
    node_leader.push_back(all[i]);
    local_rank.push_back(all[i + 1]);
  }
  end_codes.assign(static_cast<std::size_t>(size), kGoesOn);
}

MpiWorld::~MpiWorld() = default;

void MpiWorld::close() {
  progress_thread_ = {};  // asks it to stop and waits
  const std::lock_guard lock(mutex);
  if (communicator != MPI_COMM_NULL) MPI_Comm_free(&communicator);
}

void MpiWorld::progress(MpiMessages& messages) {
  if (!background_progress_) return;
  {
    const std::lock_guard lock(mutex);
    in_background_ = &messages;
  }
  if (!progress_thread_.joinable()) {
    progress_thread_ = std::jthread([this](const std::stop_token& stop) { run_progress(stop); });
  }
  progress_wanted_.notify_one();
}

void MpiWorld::release(MpiMessages& messages) noexcept {
  const std::lock_guard lock(mutex);
  if (in_background_ == &messages) in_background_ = nullptr;
}

void MpiWorld::abandon(MpiMessages& messages) noexcept {
  const std::lock_guard lock(mutex);
  if (in_background_ == &messages) in_background_ = nullptr;
  if (!messages.abandon()) return;
  abandoned_memory_.insert(abandoned_memory_.end(), messages.memory.begin(), messages.memory.end());
}

void MpiWorld::run_progress(const std::stop_token& stop) {
  std::unique_lock lock(mutex);
  while (progress_wanted_.wait(lock, stop, [this] { return in_background_ != nullptr; })) {
    if (in_background_->test() == 0) {
      in_background_ = nullptr;
      continue;
    }
    lock.unlock();
    std::this_thread::sleep_for(kProgressInterval);
    lock.lock();
  }
}

void MpiWorld::announce_failure(const std::string& reason) noexcept {
  const std::lock_guard lock(mutex);
  if (announced_ || communicator == MPI_COMM_NULL) return;
  announced_ = true;
  if (!failure_.empty()) return;  // the rank that failed first tells everybody
  const std::size_t length = std::min(reason.size(), announcement_.size() - 1);
  std::memcpy(announcement_.data(), reason.data(), length);
  failure_.assign(announcement_.data());
  send_to_all(announcement_.data(), announcement_.size(), kFailureTag);
}

void MpiWorld::send_to_all(const void* data, std::size_t bytes, int tag) noexcept {
  for (int peer = 0; peer < size; ++peer) {
    if (peer == rank) continue;
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_Isend(data, static_cast<int>(bytes), MPI_BYTE, peer, tag, communicator, &request);
    if (request != MPI_REQUEST_NULL) MPI_Request_free(&request);
  }
}

void MpiWorld::exchange_ends(int exit_code) noexcept {
  const std::unique_lock lock(mutex, std::try_to_lock);
  if (!lock || communicator == MPI_COMM_NULL) return;
  int& own = end_codes[static_cast<std::size_t>(rank)];
  if (own == kGoesOn) {
    own = exit_code;
    send_to_all(&own, sizeof own, kEndTag);
  }
  int found = 1;
  while (found != 0) {
    MPI_Status status;
    if (MPI_Iprobe(MPI_ANY_SOURCE, kEndTag, communicator, &found, &status) != MPI_SUCCESS) return;
    if (found == 0) return;
    MPI_Recv(&end_codes[static_cast<std::size_t>(status.MPI_SOURCE)], sizeof own, MPI_BYTE,
             status.MPI_SOURCE, kEndTag, communicator, MPI_STATUS_IGNORE);
  }
}

std::string MpiWorld::failure() {
  const std::lock_guard lock(mutex);
  if (!failure_.empty() || communicator == MPI_COMM_NULL) return failure_;
  int found = 0;
  MPI_Status status;
  MPI_Iprobe(MPI_ANY_SOURCE, kFailureTag, communicator, &found, &status);
  if (found == 0) return failure_;
  std::array<char, kFailureBytes> text{};
  MPI_Recv(text.data(), static_cast<int>(text.size()), MPI_BYTE, status.MPI_SOURCE, kFailureTag,
           communicator, MPI_STATUS_IGNORE);
  text.back() = '\0';
  failure_ = text.data();
  return failure_;
}

}  // namespace portolan
