// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/emulated_lane.hpp"

#include <deque>
#include <utility>

#include "core/error.hpp"
#include "tests/unit/emulated_threads.hpp"

namespace portolan::testing_support {
namespace {

struct Copy {
  std::uint32_t offset = 0;
  std::array<std::byte, 16> bytes{};
  std::size_t count = 0;
};

}  // namespace

class EmulatedBlock : public EmulatedThreads {
 public:
  EmulatedBlock(int threads, std::size_t shared_bytes, EmulationOrder order,
                const std::function<void(const EmulatedLane&)>& body)
      : EmulatedThreads(threads, order.last_warp_first,
                        [this, &body](int thread) { body(EmulatedLane(*this, thread)); }),
        order_(order),
        shared_(shared_bytes, std::byte{0xFF}),
        groups_(static_cast<std::size_t>(threads)) {}

  void start(int thread, const Copy& copy) {
    if (!order_.late_copies) finish(copy);
    groups_[static_cast<std::size_t>(thread)].open.push_back(copy);
  }
  void close(int thread) {
    Groups& groups = groups_[static_cast<std::size_t>(thread)];
    groups.closed.push_back(std::move(groups.open));
    groups.open.clear();
  }
  void wait_copies(int thread, std::size_t pending) {
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

  void finish(const Copy& copy) {
    std::memcpy(shared(copy.offset, copy.count), copy.bytes.data(), copy.count);
  }

  EmulationOrder order_;
  std::vector<std::byte> shared_;
  std::vector<Groups> groups_;
};

void EmulatedLane::block_barrier() const { block_->meet_block(thread_); }

void EmulatedLane::warp_barrier() const { block_->meet_warp(thread_); }

float EmulatedLane::shuffle_xor(float value, int mask) const {
  return block_->shuffle_xor(thread_, value, mask);
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
  const int first = first_of_warp(thread_);
  block_->meet_warp(thread_, transposed ? "ldmatrix.trans" : "ldmatrix", &own, [&] {
    for (int matrix = 0; matrix < 4; ++matrix) {
      std::array<std::array<std::uint16_t, 8>, 8> rows{};
      for (int row = 0; row < 8; ++row) {
        const auto& request = block_->brought<Request>(first + matrix * 8 + row);
        std::memcpy(rows[static_cast<std::size_t>(row)].data(),
                    request.lane->shared(request.offset, 16), 16);
      }
      for (int lane = 0; lane < kWarpThreads; ++lane) {
        std::uint32_t value = 0;
        for (int half = 0; half < 2; ++half) {
          const auto row = static_cast<std::size_t>(lane / 4);
          const auto column = static_cast<std::size_t>(lane % 4 * 2 + half);
          const std::uint16_t element = transposed ? rows[column][row] : rows[row][column];
          value |= std::uint32_t{element} << (16 * half);
        }
        block_->brought<Request>(first + lane).out[matrix] = value;
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
  const int first = first_of_warp(thread_);
  block_->meet_warp(thread_, "mma", &own, [&] {
    std::array<std::array<float, 16>, 16> left{};
    std::array<std::array<float, 8>, 16> right{};
    for (int lane = 0; lane < kWarpThreads; ++lane) {
      const auto& operands = block_->brought<Operands>(first + lane);
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
    for (int lane = 0; lane < kWarpThreads; ++lane) {
      const auto& operands = block_->brought<Operands>(first + lane);
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

void EmulatedLane::wait_copies(std::size_t pending) const { block_->wait_copies(thread_, pending); }

std::byte* EmulatedLane::shared(std::uint32_t offset, std::size_t bytes) const {
  return block_->shared(offset, bytes);
}

void run_emulated_block(int threads, std::size_t shared_bytes, EmulationOrder order,
                        const std::function<void(const EmulatedLane&)>& body) {
  require(threads > 0 && threads % kWarpThreads == 0, "a block has whole warps, found {} threads",
          threads);
  EmulatedBlock(threads, shared_bytes, order, body).run();
}

}  // namespace portolan::testing_support
