// SPDX-License-Identifier: Apache-2.0
#include "tests/mpi/forked_ranks.hpp"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdio>
#include <exception>
#include <new>
#include <numeric>
#include <stdexcept>
#include <thread>

#include "core/error.hpp"
#include "parallel/transport/shared/shared_communicator.hpp"

namespace portolan {
namespace {

using Counter = std::atomic<int>;

int run(const std::shared_ptr<SharedSegment>& control, int rank, int size,
        std::chrono::milliseconds deadline, const ForkedRanks::Body& body, Counter& started) {
  try {
    const std::unique_ptr<Communicator> world =
        make_shared_communicator(control, rank, size, deadline);
    ++started;
    body(*world);
    return RankOutcome::kOk;
  } catch (const CommunicationError& error) {
    std::fprintf(stderr, "CommunicationError: %s\n", error.what());
    return RankOutcome::kCommunicationError;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return RankOutcome::kOtherError;
  }
}

}  // namespace

ForkedRanks::ForkedRanks(int size, std::chrono::milliseconds deadline, const Body& body)
    : started_(SharedSegment::create(sizeof(Counter))), children_(static_cast<std::size_t>(size)) {
  auto& started = *new (started_.data()) Counter(0);
  const auto control = std::make_shared<SharedSegment>(make_shared_control(size));
  std::fflush(nullptr);
  for (int rank = 0; rank < size; ++rank) {
    std::array<int, 2> ends{};
    if (::pipe(ends.data()) != 0) throw std::runtime_error("no pipe");
    const pid_t process = ::fork();
    if (process < 0) throw std::runtime_error("no process");
    if (process == 0) {
      ::dup2(ends[1], STDERR_FILENO);
      const int code = run(control, rank, size, deadline, body, started);
      std::fflush(stderr);
      ::_exit(code);  // without what the parent registered for its own end
    }
    ::close(ends[1]);
    Child& child = children_[static_cast<std::size_t>(rank)];
    child.process = process;
    child.standard_error = ends[0];
  }
}

ForkedRanks::~ForkedRanks() {
  for (Child& child : children_) {
    if (!child.ended) {
      ::kill(child.process, SIGKILL);
      ::waitpid(child.process, nullptr, 0);
    }
    ::close(child.standard_error);
  }
}

void ForkedRanks::wait_until_running() const {
  const auto& started = *reinterpret_cast<const Counter*>(started_.data());
  while (started < static_cast<int>(children_.size())) {
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
}

void ForkedRanks::signal(int rank, int signal_number) const {
  ::kill(children_[static_cast<std::size_t>(rank)].process, signal_number);
}

void ForkedRanks::collect(Child& child, int status, bool in_time) {
  child.ended = true;
  child.outcome.in_time = in_time;
  if (WIFEXITED(status)) child.outcome.exit_code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) child.outcome.signal = WTERMSIG(status);
  std::array<char, 4096> buffer{};
  for (;;) {
    const ssize_t count = ::read(child.standard_error, buffer.data(), buffer.size());
    if (count <= 0) break;
    child.outcome.standard_error.append(buffer.data(), static_cast<std::size_t>(count));
  }
}

std::vector<RankOutcome> ForkedRanks::wait(std::chrono::milliseconds patience,
                                           const std::vector<int>& ranks) {
  std::vector<int> wanted = ranks;
  if (wanted.empty()) {
    wanted.resize(children_.size());
    std::iota(wanted.begin(), wanted.end(), 0);
  }
  const auto end = std::chrono::steady_clock::now() + patience;
  std::vector<RankOutcome> outcomes;
  for (const int rank : wanted) {
    Child& child = children_[static_cast<std::size_t>(rank)];
    while (!child.ended) {
      int status = 0;
      if (::waitpid(child.process, &status, WNOHANG) == child.process) {
        collect(child, status, true);
      } else if (std::chrono::steady_clock::now() >= end) {
        ::kill(child.process, SIGKILL);
        ::waitpid(child.process, &status, 0);
        collect(child, status, false);
      } else {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    }
    outcomes.push_back(child.outcome);
  }
  return outcomes;
}

}  // namespace portolan
