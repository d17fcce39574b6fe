// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>

#include "core/allocator.hpp"
#include "core/backend.hpp"

/// Copies between a device and host memory that its copy engine cannot reach at full speed, through
/// two buffers that it can: the host fills or empties one while the other travels. No header of
/// CUDA, so that the order of the steps can be checked without a GPU.
namespace portolan::cuda {

/// Two pieces of pinned memory, taken at the first use and used in turn.
class StagingBuffers {
 public:
  /// Of one buffer: long enough that starting a copy does not count, short beside what is copied.
  static constexpr std::size_t kBytes = std::size_t{4} << 20;

  /// `pinned` outlives the buffers.
  explicit StagingBuffers(CachingAllocator& pinned) : pinned_(pinned) {}

  struct Buffer {
    BlockReference memory;
    Event done;  ///< where the device's last copy from or to it ends

    [[nodiscard]] std::byte* data() const noexcept { return memory.get()->data(); }
  };

  /// The one that was used longest ago.
  [[nodiscard]] Buffer& next() {
    Buffer& buffer = buffers_[turn_];
    turn_ = 1 - turn_;
    if (!buffer.memory) buffer.memory = pinned_.allocate(kBytes);
    return buffer;
  }

 private:
  CachingAllocator& pinned_;
  std::array<Buffer, 2> buffers_;
  std::size_t turn_ = 0;
};

/// `Stream` orders copies of pinned memory: enqueue(destination, source, bytes), record() to an
/// Event of all enqueued so far, and wait_on_host(event). When the call returns the source may
/// change; the last copies may still be under way.
template <class Stream>
void copy_to_device(StagingBuffers& buffers, const Stream& stream, void* destination,
                    const void* source, std::size_t bytes) {
  for (std::size_t begin = 0; begin < bytes; begin += StagingBuffers::kBytes) {
    const std::size_t length = std::min(StagingBuffers::kBytes, bytes - begin);
    StagingBuffers::Buffer& buffer = buffers.next();
    stream.wait_on_host(buffer.done);
    std::memcpy(buffer.data(), static_cast<const std::byte*>(source) + begin, length);
    stream.enqueue(static_cast<std::byte*>(destination) + begin, buffer.data(), length);
    buffer.done = stream.record();
  }
}

/// When the call returns the bytes are there.
template <class Stream>
void copy_to_host(StagingBuffers& buffers, const Stream& stream, void* destination,
                  const void* source, std::size_t bytes) {
  struct Piece {
    StagingBuffers::Buffer* buffer = nullptr;
    std::size_t begin = 0;
    std::size_t length = 0;
  };
  const auto take = [&](const Piece& piece) {
    if (piece.buffer == nullptr) return;
    stream.wait_on_host(piece.buffer->done);
    std::memcpy(static_cast<std::byte*>(destination) + piece.begin, piece.buffer->data(),
                piece.length);
  };
  Piece travelling;
  for (std::size_t begin = 0; begin < bytes; begin += StagingBuffers::kBytes) {
    const Piece piece{&buffers.next(), begin, std::min(StagingBuffers::kBytes, bytes - begin)};
    // What an earlier copy to the device read from the buffer is ordered before this one only on
    // the same stream.
    stream.wait_on_host(piece.buffer->done);
    stream.enqueue(piece.buffer->data(), static_cast<const std::byte*>(source) + begin,
                   piece.length);
    piece.buffer->done = stream.record();
    take(travelling);
    travelling = piece;
  }
  take(travelling);
}

}  // namespace portolan::cuda
