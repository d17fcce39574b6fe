// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/emulated_lane.hpp"

#include <algorithm>
#include <deque>
#include <exception>
#include <string>

#include "core/error.hpp"
#include "tests/unit/fibre.hpp"

namespace portolan::testing_support {
namespace {

constexpr int kLanes = 32;

/// Where a number of threads meet.
struct Meeting {
  int arrived = 0;
  int generation = 0;
  std::string instruction;            ///< that the first one came with
  std::array<void*, kLanes> slots{};  ///< what each lane of a warp brought
};

struct Copy {
  std::uint32_t offset = 0;
  std::array<std::byte, 16> bytes{};
  std::size_t count = 0;
};

}  // namespace

class EmulatedBlock {
 public:
  EmulatedBlock(int threads, std::size_t shared_bytes, EmulationOrder order,
                const std::function<void(const EmulatedLane&)>& body)
      : order_(order),
        shared_(shared_bytes, std::byte{0xFF}),
        warps_(static_cast<std::size_t>(threads / kLanes)),
        groups_(static_cast<std::size_t>(threads)) {
    for (int thread = 0; thread < threads; ++thread) {
      fibres_.push_back(std::make_unique<Fibre>([this, thread, &body] {
        const EmulatedLane lane(*this, thread);
        body(lane);
      }));
    }
  }

  void run() {
    while (running() > 0) {
      progress_ = false;
      for (std::size_t i = 0; i < warps_.size(); ++i) {
        run_warp(order_.last_warp_first ? warps_.size() - 1 - i : i);
      }
      if (!progress_) throw Error("threads wait for others that will not come");
    }
  }

  /// Of a warp: the last lane that arrives runs `operation` on what all have brought.
  template <typename Operation>
  void meet(int thread, const char* instruction, void* brought, const Operation& operation) {
    Meeting& warp = warps_[static_cast<std::size_t>(thread / kLanes)];
    warp.slots[static_cast<std::size_t>(thread % kLanes)] = brought;
    arrive(thread, warp, kLanes, instruction, [&] { operation(warp.slots); });
  }
  void block_barrier(int thread) {
    arrive(thread, block_, static_cast<int>(fibres_.size()), "block barrier", [] {});
  }

  void start(int thread, const Copy& copy) {
    if (!order_.late_copies) finish(copy);
    groups_[static_cast<std::size_t>(thread)].open.push_back(copy);
  }
  void close(int thread) {
    Groups& groups = groups_[static_cast<std::size_t>(thread)];
    groups.closed.push_back(std::move(groups.open));
    groups.open.clear();
  }
  void wait(int thread, std::size_t pending) {
    Groups& groups = groups_[static_cast<std::size_t>(thread)];
    while (groups.closed.size() > pending) {
      if (order_.late_copies) {
        for (const Copy& copy : groups.closed.front()) finish(copy);
      }
      groups.closed.pop_front();
    }
  }

  std::byte* shared(std::uint32_t offset, std::size_t bytes) {
    if (offset + bytes > shared_.size() || offset % bytes != 0) {
      throw Error(fmt::format("{} bytes at {} of {} bytes of shared memory", bytes, offset,
                              shared_.size()));
    }
    return shared_.data() + offset;
  }

 private:
  struct Groups {
    std::vector<Copy> open;
    std::deque<std::vector<Copy>> closed;
  };

  [[nodiscard]] std::ptrdiff_t running() const {
    return std::ranges::count_if(fibres_, [](const auto& fibre) { return !fibre->ended(); });
  }

  /// Lane after lane, until none can go on without another warp.
  void run_warp(std::size_t warp) {
    bool moved = true;
    while (moved) {
      moved = false;
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        Fibre& fibre = *fibres_[warp * kLanes + lane];
        if (fibre.ended()) continue;
        moved_ = false;
        current_ = &fibre;
        fibre.resume();
        if (fibre.error()) std::rethrow_exception(fibre.error());
        moved = moved || moved_ || fibre.ended();
      }
      progress_ = progress_ || moved;
    }
  }

  template <typename Operation>
  void arrive(int thread, Meeting& meeting, int expected, const char* instruction,
              const Operation& operation) {
    if (meeting.arrived == 0) meeting.instruction = instruction;
    if (meeting.instruction != instruction) {
      throw Error(fmt::format("thread {} is at '{}', others of its warp at '{}'", thread,
                              instruction, meeting.instruction));
    }
    moved_ = true;
    const int generation = meeting.generation;
    if (++meeting.arrived == expected) {
      operation();
      meeting.arrived = 0;
      ++meeting.generation;
      return;
    }
    Fibre& self = *current_;
    while (meeting.generation == generation) {
      self.yield();
      // Whoever was let go moves, who still waits does not.
      if (meeting.generation != generation) moved_ = true;
    }
  }

  void finish(const Copy& copy) {
    std::memcpy(shared(copy.offset, copy.count), copy.bytes.data(), copy.count);
  }

  EmulationOrder order_;
  std::vector<std::byte> shared_;
  std::vector<Meeting> warps_;
  Meeting block_;
  std::vector<Groups> groups_;
  std::vector<std::unique_ptr<Fibre>> fibres_;
  Fibre* current_ = nullptr;
  bool moved_ = false;
  bool progress_ = false;
};

void EmulatedLane::block_barrier() const { block_->block_barrier(thread_); }

void EmulatedLane::warp_barrier() const {
  block_->meet(thread_, "warp barrier", nullptr, [](const auto&) {});
}

float EmulatedLane::shuffle_xor(float value, int mask) const {
  struct Exchange {
    float value;
    int mask;
    float received;
  } own{value, mask, 0.0F};
  block_->meet(thread_, "shuffle", &own, [](const auto& slots) {
    for (std::size_t lane = 0; lane < slots.size(); ++lane) {
      auto& exchange = *static_cast<Exchange*>(slots[lane]);
      const std::size_t other = lane ^ static_cast<std::size_t>(exchange.mask);
      exchange.received = static_cast<Exchange*>(slots[other])->value;
    }
  });
  return own.received;
}

/// PTX ISA, ldmatrix: lanes 8 i to 8 i + 7 point to the rows of matrix i; lane l receives elements
/// 2 (l % 4) and the next of row l / 4 of each matrix, or of its transpose.
void EmulatedLane::load_matrices(std::uint32_t (&out)[4], std::uint32_t offset,
                                 bool transposed) const {
  struct Request {
    const EmulatedLane* lane;
    std::uint32_t offset;
    std::uint32_t* out;
  } own{this, offset, out};
  block_->meet(thread_, transposed ? "ldmatrix.trans" : "ldmatrix", &own, [&](const auto& slots) {
    for (std::size_t matrix = 0; matrix < 4; ++matrix) {
      std::array<std::array<std::uint16_t, 8>, 8> rows{};
      for (std::size_t row = 0; row < 8; ++row) {
        const auto& request = *static_cast<const Request*>(slots[matrix * 8 + row]);
        std::memcpy(rows[row].data(), request.lane->shared(request.offset, 16), 16);
      }
      for (std::size_t lane = 0; lane < slots.size(); ++lane) {
        std::uint32_t value = 0;
        for (std::size_t half = 0; half < 2; ++half) {
          const std::size_t row = lane / 4;
          const std::size_t column = lane % 4 * 2 + half;
          const std::uint16_t element = transposed ? rows[column][row] : rows[row][column];
          value |= std::uint32_t{element} << (16 * half);
        }
        static_cast<const Request*>(slots[lane])->out[matrix] = value;
      }
    }
  });
}

/// PTX ISA, mma.m16n8k16 with 16-bit operands: with g = lane / 4 and t = lane % 4, a holds rows g
/// (registers 0 and 2) and g + 8 (1 and 3), columns 2 t and the next (0 and 1) and those plus 8 (2
/// and 3); b rows 2 t and the next (register 0) and those plus 8 (1) of column g; sums rows g (0,
/// 1) and g + 8 (2, 3), columns 2 t and the next.
void EmulatedLane::multiply_add(cuda::AttentionElement element, float (&sums)[4],
                                const std::uint32_t (&a)[4], std::uint32_t b0,
                                std::uint32_t b1) const {
  struct Operands {
    float* sums;
    const std::uint32_t* a;
    std::array<std::uint32_t, 2> b;
  } own{sums, a, {b0, b1}};
  block_->meet(thread_, "mma", &own, [&](const auto& slots) {
    std::array<std::array<float, 16>, 16> left{};
    std::array<std::array<float, 8>, 16> right{};
    for (int lane = 0; lane < kLanes; ++lane) {
      const auto& operands = *static_cast<const Operands*>(slots[static_cast<std::size_t>(lane)]);
      for (int i = 0; i < 4; ++i) {
        for (int half = 0; half < 2; ++half) {
          const auto row = static_cast<std::size_t>(lane / 4 + i % 2 * 8);
          const auto column = static_cast<std::size_t>(lane % 4 * 2 + half + i / 2 * 8);
          left[row][column] = value_of(element, half_of(operands.a[i], half));
        }
      }
      for (int i = 0; i < 2; ++i) {
        for (int half = 0; half < 2; ++half) {
          const auto row = static_cast<std::size_t>(lane % 4 * 2 + half + i * 8);
          right[row][static_cast<std::size_t>(lane / 4)] =
              value_of(element, half_of(operands.b[static_cast<std::size_t>(i)], half));
        }
      }
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      const auto& operands = *static_cast<const Operands*>(slots[static_cast<std::size_t>(lane)]);
      for (int i = 0; i < 4; ++i) {
        const auto row = static_cast<std::size_t>(lane / 4 + i / 2 * 8);
        const auto column = static_cast<std::size_t>(lane % 4 * 2 + i % 2);
        float sum = operands.sums[i];
        for (std::size_t d = 0; d < 16; ++d) sum += left[row][d] * right[d][column];
        operands.sums[i] = sum;
      }
    }
  });
}

void EmulatedLane::copy(std::uint32_t offset, const void* source, std::size_t bytes,
                        bool valid) const {
  Copy copy{.offset = offset, .bytes = {}, .count = bytes};
  if (reinterpret_cast<std::uintptr_t>(source) % bytes != 0) {
    throw Error(
        fmt::format("a copy of {} bytes from an address that is not aligned to them", bytes));
  }
  if (valid) std::memcpy(copy.bytes.data(), source, bytes);
  block_->start(thread_, copy);
}

void EmulatedLane::close_copies() const { block_->close(thread_); }

void EmulatedLane::wait_copies(std::size_t pending) const { block_->wait(thread_, pending); }

std::byte* EmulatedLane::shared(std::uint32_t offset, std::size_t bytes) const {
  return block_->shared(offset, bytes);
}

void run_emulated_block(int threads, std::size_t shared_bytes, EmulationOrder order,
                        const std::function<void(const EmulatedLane&)>& body) {
  require(threads > 0 && threads % kLanes == 0, "a block has whole warps, found {} threads",
          threads);
  EmulatedBlock(threads, shared_bytes, order, body).run();
}

}  // namespace portolan::testing_support
