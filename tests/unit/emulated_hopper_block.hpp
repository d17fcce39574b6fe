// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <vector>

#include "core/error.hpp"
#include "tests/unit/element_bits.hpp"
#include "tests/unit/emulated_hopper_lane.hpp"
#include "tests/unit/emulated_threads.hpp"

/// What the threads of an emulated block share: shared memory, barriers, products and copies under
/// way. EmulatedHopperLane's own.
namespace portolan::testing_support::hopper {

constexpr int kGroupThreads = 128;
constexpr std::size_t kAlignment = 1024;
constexpr int kBoxColumns = 64;
/// Of a multiprocessor.
constexpr int kRegisterFile = 65536;

using Product = EmulatedHopperLane::Product;

/// PTX ISA, swizzling mode 128 bytes: bits 4 to 6 of an address are xored with bits 7 to 9.
inline std::uint32_t swizzled(std::uint32_t address) {
  return address ^ (((address >> 7) & 7U) << 4);
}

/// PTX ISA, matrix descriptor of wgmma.
struct Descriptor {
  std::uint32_t start;
  std::uint32_t leading;
  std::uint32_t stride;

  explicit Descriptor(std::uint64_t bits)
      : start(static_cast<std::uint32_t>(bits & 0x3FFFU) << 4),
        leading(static_cast<std::uint32_t>(bits >> 16 & 0x3FFFU) << 4),
        stride(static_cast<std::uint32_t>(bits >> 32 & 0x3FFFU) << 4) {
    if (bits >> 62 != 1 || (bits >> 49 & 7U) != 0) throw Error("a descriptor of another swizzle");
  }
  /// Element (row, d) of an operand whose rows lie along d: eight rows of 128 bytes, then the next
  /// eight after `stride`.
  [[nodiscard]] std::uint32_t along_rows(std::uint32_t row, std::uint32_t d) const {
    return swizzled(start + row / 8 * stride + row % 8 * 128 + d * 2);
  }
  /// Element (d, column) of an operand whose rows lie across: 64 columns, then the next after
  /// `leading`; eight d, then the next after `stride`.
  [[nodiscard]] std::uint32_t across(std::uint32_t column, std::uint32_t d) const {
    return swizzled(start + column / 64 * leading + column % 64 * 2 + d / 8 * stride + d % 8 * 128);
  }
};

/// Where any number of threads meet.
struct NamedBarrier {
  int arrived = 0;
  int expected = 0;
  int generation = 0;
};

struct Barrier {
  int expected = 0;
  int missing = 0;
  std::int64_t missing_bytes = 0;
  std::uint32_t phase = 0;

  void check() {
    if (missing == 0 && missing_bytes == 0) {
      missing = expected;
      ++phase;
    }
  }
};

struct Box {
  const EmulatedTensorMap* map = nullptr;
  cuda::sm90::BoxOrigin origin;
  std::byte* shared = nullptr;
  Barrier* barrier = nullptr;
};

/// What one thread has under way.
struct Thread {
  std::vector<Product> open_products;
  std::deque<std::vector<Product>> groups;
  bool fenced = false;
  std::vector<Box> open_copies;
  std::vector<Box> closed_copies;
  bool unfenced_writes = false;
  int registers = 0;
};

class Block : public EmulatedThreads {
 public:
  Block(int threads, std::size_t shared_bytes, HopperLiberties liberties, int block_index,
        int blocks, const std::function<void(const EmulatedHopperLane&, std::byte*)>& body)
      : EmulatedThreads(threads, liberties.last_warp_first,
                        [this, block_index, blocks, &body](int thread) {
                          body(EmulatedHopperLane(*this, thread, block_index, blocks), shared_);
                        }),
        liberties_(liberties),
        memory_(shared_bytes + kAlignment, std::byte{0xFF}),
        shared_bytes_(shared_bytes),
        threads_(static_cast<std::size_t>(threads)),
        warpgroups_(static_cast<std::size_t>(threads / kGroupThreads)) {
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
    shared_ = memory_.data() + (kAlignment - address % kAlignment) % kAlignment;
  }

  void run() {
    EmulatedThreads::run();
    for (const Thread& thread : threads_) {
      if (!thread.open_copies.empty() || !thread.closed_copies.empty()) {
        throw Error("a thread ended while its copies may read shared memory");
      }
      if (!thread.open_products.empty() || !thread.groups.empty()) {
        throw Error("a thread ended before its products");
      }
    }
    for (const auto& [id, barrier] : named_) {
      if (barrier.arrived != 0) throw Error(fmt::format("named barrier {} is left half full", id));
    }
  }

  Thread& thread(int index) { return threads_[static_cast<std::size_t>(index)]; }
  [[nodiscard]] HopperLiberties liberties() const { return liberties_; }

  /// If `late`, the operation runs when no thread can go on without it.
  template <typename Operation>
  void meet_warpgroup(int index, const char* instruction, const Operation& operation, bool late) {
    meet(index, warpgroups_[static_cast<std::size_t>(index / kGroupThreads)], kGroupThreads,
         instruction, nullptr, operation, late);
  }

  /// Returns the generation to wait for the end of.
  int come_to_named(int id, int expected, NamedBarrier*& barrier) {
    if (id < 1 || id > 15) throw Error(fmt::format("there is no named barrier {}", id));
    barrier = &named_[id];
    if (barrier->arrived > 0 && barrier->expected != expected) {
      throw Error(fmt::format("named barrier {} is told of {} and of {} threads", id,
                              barrier->expected, expected));
    }
    barrier->expected = expected;
    const int generation = barrier->generation;
    if (++barrier->arrived == expected) {
      barrier->arrived = 0;
      ++barrier->generation;
    }
    return generation;
  }

  Barrier& barrier(std::uint64_t& word) {
    const auto found = barriers_.find(&word);
    if (found == barriers_.end()) throw Error("a barrier that is not initialised");
    return found->second;
  }
  void init_barrier(std::uint64_t& word, int arrivals) {
    offset_of(&word, sizeof(word));
    barriers_[&word] = {.expected = arrivals, .missing = arrivals};
  }

  std::uint32_t offset_of(const void* pointer, std::size_t bytes) const {
    const std::ptrdiff_t offset = static_cast<const std::byte*>(pointer) - shared_;
    if (offset < 0 || static_cast<std::size_t>(offset) + bytes > shared_bytes_) {
      throw Error("an address outside of shared memory");
    }
    return static_cast<std::uint32_t>(offset);
  }
  std::uint16_t& element(std::uint32_t offset) {
    if (offset + 2 > shared_bytes_) throw Error("an offset outside of shared memory");
    return *reinterpret_cast<std::uint16_t*>(shared_ + offset);
  }

  void start_copy_in(const Box& box) {
    if (liberties_.late_copies) {
      postpone([this, box] { copy_in(box); });
    } else {
      copy_in(box);
    }
  }
  void copy_out(const Box& box) {
    for_each_element(box, [&](std::int64_t offset, std::uint16_t& shared) {
      if (offset >= 0) box.map->data[offset] = shared;
    });
  }

  /// The oldest groups of a warpgroup's threads, all but `pending`.
  void run_groups(int any_thread, std::size_t pending) {
    const int first = any_thread / kGroupThreads * kGroupThreads;
    const std::size_t count = thread(first).groups.size();
    for (int i = first; i < first + kGroupThreads; ++i) {
      if (thread(i).groups.size() != count) {
        throw Error("threads of a warpgroup closed different numbers of groups");
      }
    }
    for (std::size_t done = 0; done + pending < count; ++done) {
      const std::size_t products = thread(first).groups.front().size();
      for (std::size_t product = 0; product < products; ++product) run_product(first, product);
      for (int i = first; i < first + kGroupThreads; ++i) thread(i).groups.pop_front();
    }
  }

  void check_registers() const {
    int sum = 0;
    for (const Thread& thread : threads_) {
      if (thread.registers == 0) return;  // not all have said yet
      sum += thread.registers;
    }
    // What the block is started with: a multiple of 8 for each thread.
    const int start = kRegisterFile / static_cast<int>(threads_.size()) / 8 * 8;
    if (sum > start * static_cast<int>(threads_.size())) {
      throw Error(
          fmt::format("{} registers for a block that starts with {} for each thread", sum, start));
    }
  }

 private:
  void copy_in(const Box& box) {
    for_each_element(box, [&](std::int64_t offset, std::uint16_t& shared) {
      shared = offset >= 0 ? box.map->data[offset] : std::uint16_t{0};
    });
    box.barrier->missing_bytes -= std::int64_t{box.map->box_rows} * kBoxColumns * 2;
    box.barrier->check();
  }
  /// Of a box: calls `visit` with the offset in the tensor, or -1 where it is outside of it.
  template <typename Visit>
  void for_each_element(const Box& box, const Visit& visit) {
    const std::uint32_t base =
        offset_of(box.shared, static_cast<std::size_t>(box.map->box_rows) * kBoxColumns * 2);
    if (base % 128 != 0) throw Error("a box at an address that is no multiple of 128");
    const auto& sizes = box.map->sizes;
    const auto& strides = box.map->strides;
    for (int row = 0; row < box.map->box_rows; ++row) {
      for (int column = 0; column < kBoxColumns; ++column) {
        const std::array<std::int64_t, 4> at = {box.origin.column + column, box.origin.head,
                                                box.origin.token + row, box.origin.entry};
        std::int64_t offset = 0;
        for (std::size_t i = 0; i < at.size(); ++i) {
          if (at[i] < 0 || at[i] >= sizes[i]) {
            offset = -1;
            break;
          }
          offset += at[i] * strides[i];
        }
        visit(offset, element(swizzled(base + static_cast<std::uint32_t>(row * 128 + column * 2))));
      }
    }
  }

  /// PTX ISA, wgmma with 16-bit operands. Warp w of the group has rows 16 w to 16 w + 15. With
  /// g = lane / 4 and t = lane % 4: register r of A holds row g + 8 (r % 2), columns 2 t + 8 (r /
  /// 2) and the next; accumulator i row g + 8 ((i / 2) % 2), column 8 (i / 4) + 2 t + i % 2.
  void run_product(int first, std::size_t index) {
    const Product& model = thread(first).groups.front().at(index);
    std::array<std::array<float, 16>, 64> left{};
    std::vector<std::array<float, 16>> right(static_cast<std::size_t>(model.columns));
    for (int i = 0; i < kGroupThreads; ++i) {
      const Product& own = thread(first + i).groups.front().at(index);
      if (own.a != model.a || own.b != model.b || own.columns != model.columns ||
          own.accumulate != model.accumulate ||
          (own.a_registers == nullptr) != (model.a_registers == nullptr)) {
        throw Error("threads of a warpgroup start different products");
      }
      if (own.a_registers == nullptr) continue;
      const int g = i % 32 / 4;
      const int t = i % 4;
      for (int r = 0; r < 4; ++r) {
        auto& row = left[static_cast<std::size_t>(i / 32 * 16 + g + 8 * (r % 2))];
        for (int half = 0; half < 2; ++half) {
          row[static_cast<std::size_t>(2 * t + 8 * (r / 2) + half)] =
              value_of(own.element, half_of(own.a_registers[r], half));
        }
      }
    }
    const Descriptor b(model.b);
    for (std::uint32_t d = 0; d < 16; ++d) {
      if (model.a_registers == nullptr) {
        const Descriptor a(model.a);
        for (std::uint32_t row = 0; row < 64; ++row) {
          left[row][d] = value_of(model.element, element(a.along_rows(row, d)));
        }
      }
      for (std::uint32_t column = 0; column < right.size(); ++column) {
        const std::uint32_t offset =
            model.a_registers == nullptr ? b.along_rows(column, d) : b.across(column, d);
        right[column][d] = value_of(model.element, element(offset));
      }
    }
    for (int i = 0; i < kGroupThreads; ++i) {
      const Product& own = thread(first + i).groups.front().at(index);
      const int g = i % 32 / 4;
      const int t = i % 4;
      for (int j = 0; j < model.columns / 2; ++j) {
        const auto& row = left[static_cast<std::size_t>(i / 32 * 16 + g + 8 * (j / 2 % 2))];
        const auto& column = right[static_cast<std::size_t>(j / 4 * 8 + 2 * t + j % 2)];
        float sum = model.accumulate ? own.sums[j] : 0.0F;
        for (std::size_t d = 0; d < 16; ++d) sum += row[d] * column[d];
        own.sums[j] = sum;
      }
    }
  }

  HopperLiberties liberties_;
  std::vector<std::byte> memory_;
  std::byte* shared_ = nullptr;
  std::size_t shared_bytes_;
  std::vector<Thread> threads_;
  std::vector<Meeting> warpgroups_;
  std::map<int, NamedBarrier> named_;
  std::map<std::uint64_t*, Barrier> barriers_;
};

}  // namespace portolan::testing_support::hopper
