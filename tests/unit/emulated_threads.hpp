// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.hpp"
#include "tests/unit/fibre.hpp"

namespace portolan::testing_support {

inline constexpr int kWarpThreads = 32;

[[nodiscard]] constexpr int first_of_warp(int thread) { return thread - thread % kWarpThreads; }

/// Where a number of threads meet.
struct Meeting {
  int arrived = 0;
  int generation = 0;
  std::string_view instruction;  ///< that the first one came with
};

/// The threads of an emulated block of a GPU, each a fibre, and how they wait for each other.
/// Throws Error where threads that should do the same do not, and where all wait for others.
class EmulatedThreads {
 public:
  /// `body(thread)` is what each does.
  EmulatedThreads(int threads, bool last_warp_first, std::function<void(int)> body)
      : last_warp_first_(last_warp_first),
        body_(std::move(body)),
        states_(static_cast<std::size_t>(threads)),
        warps_(static_cast<std::size_t>(threads / kWarpThreads)) {
    for (int thread = 0; thread < threads; ++thread) {
      state(thread).fibre = std::make_unique<Fibre>([this, thread] { body_(thread); });
    }
  }
  EmulatedThreads(const EmulatedThreads&) = delete;
  EmulatedThreads& operator=(const EmulatedThreads&) = delete;

  /// To their ends. Each warp in turn goes as far as it can, so that a barrier left out shows.
  void run() {
    while (!all_ended()) {
      bool moved = false;
      for (std::size_t i = 0; i < warps_.size(); ++i) {
        moved = run_warp(last_warp_first_ ? warps_.size() - 1 - i : i) || moved;
      }
      if (moved) continue;
      if (late_.empty()) throw Error(fmt::format("threads wait forever:{}", waiting()));
      const std::function<void()> operation = std::move(late_.front());
      late_.pop_front();
      operation();
    }
    if (!late_.empty()) throw Error("all threads ended before what they had started");
  }

  /// `operation` runs when no thread can go on without it.
  void postpone(std::function<void()> operation) { late_.push_back(std::move(operation)); }

  /// Lets other threads run until `ready`.
  void wait(int index, const char* what, std::function<bool()> ready) {
    if (ready()) return;
    State& self = state(index);
    self.ready = std::move(ready);
    self.waits_for = what;
    self.fibre->yield();
  }

  /// Of `expected` threads that do the same: the last one runs `operation` on what all have
  /// brought. If `late`, it runs when no thread can go on without it.
  template <typename Operation>
  void meet(int index, Meeting& meeting, int expected, const char* instruction, void* brought,
            const Operation& operation, bool late = false) {
    if (meeting.arrived == 0) meeting.instruction = instruction;
    if (meeting.instruction != instruction) {
      throw Error(
          fmt::format("thread {} is at {}, others at {}", index, instruction, meeting.instruction));
    }
    state(index).brought = brought;
    const int generation = meeting.generation;
    if (++meeting.arrived == expected) {
      const auto finish = [operation, &meeting] {
        operation();
        meeting.arrived = 0;
        ++meeting.generation;
      };
      if (!late) {
        finish();
        return;
      }
      postpone(finish);
    }
    wait(index, instruction, [&meeting, generation] { return meeting.generation != generation; });
  }
  template <typename Operation>
  void meet_warp(int index, const char* instruction, void* brought, const Operation& operation) {
    meet(index, warps_[static_cast<std::size_t>(index / kWarpThreads)], kWarpThreads, instruction,
         brought, operation);
  }
  void meet_warp(int index) {
    meet_warp(index, "warp barrier", nullptr, [] {});
  }
  void meet_block(int index) {
    meet(index, block_, static_cast<int>(states_.size()), "block barrier", nullptr, [] {});
  }
  /// What a thread brought to the meeting that it is at.
  template <typename T>
  [[nodiscard]] T& brought(int index) {
    return *static_cast<T*>(state(index).brought);
  }

  /// PTX ISA, shfl.sync.bfly: what the lane brought whose number differs by `mask`.
  [[nodiscard]] float shuffle_xor(int index, float value, int mask) {
    struct Exchange {
      float value;
      int mask;
      float received;
    } own{value, mask, 0.0F};
    const int first = first_of_warp(index);
    meet_warp(index, "shuffle", &own, [&] {
      for (int lane = 0; lane < kWarpThreads; ++lane) {
        auto& exchange = brought<Exchange>(first + lane);
        exchange.received = brought<Exchange>(first + (lane ^ exchange.mask)).value;
      }
    });
    return own.received;
  }

 private:
  /// Of a thread.
  struct State {
    std::unique_ptr<Fibre> fibre;
    std::function<bool()> ready;  ///< empty: it can go on
    const char* waits_for = "";
    void* brought = nullptr;
  };

  [[nodiscard]] State& state(int thread) { return states_[static_cast<std::size_t>(thread)]; }
  [[nodiscard]] bool all_ended() const {
    return std::ranges::all_of(states_, [](const State& state) { return state.fibre->ended(); });
  }

  /// Lane after lane, until none can go on. Whether one could.
  bool run_warp(std::size_t warp) {
    bool moved = false;
    for (bool again = true; again;) {
      again = false;
      for (std::size_t lane = 0; lane < kWarpThreads; ++lane) {
        again = run_thread(states_[warp * kWarpThreads + lane]) || again;
      }
      moved = moved || again;
    }
    return moved;
  }
  static bool run_thread(State& state) {
    Fibre& fibre = *state.fibre;
    if (fibre.ended() || (state.ready && !state.ready())) return false;
    state.ready = nullptr;
    fibre.resume();
    if (fibre.error()) std::rethrow_exception(fibre.error());
    return true;
  }
  [[nodiscard]] std::string waiting() const {
    std::map<std::string, int> counts;
    for (const State& state : states_) {
      if (!state.fibre->ended()) ++counts[state.waits_for];
    }
    std::string text;
    for (const auto& [what, count] : counts) text += fmt::format(" {} at {};", count, what);
    return text;
  }

  bool last_warp_first_;
  std::function<void(int)> body_;
  std::vector<State> states_;
  std::vector<Meeting> warps_;
  Meeting block_;
  std::deque<std::function<void()>> late_;  ///< run when no thread can go on
};

}  // namespace portolan::testing_support
