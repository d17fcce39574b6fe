// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

namespace portolan {

/// What another process of this machine needs to map a segment. Plain data: it travels through
/// control blocks and messages.
struct SegmentName {
  std::int64_t process = 0;
  std::int64_t descriptor = -1;
  /// Proof that the descriptor opened is the one meant, whatever happened to process numbers.
  std::uint64_t inode = 0;
  /// How much is mapped: as far as the segment may grow.
  std::uint64_t reserved = 0;
};

/// Memory that several processes map. It has no name in any file system: peers open it through the
/// owner's descriptor (/proc/<process>/fd), so nothing is left behind however a process ends, and
/// the size of /dev/shm does not limit it. Children of fork() inherit the mapping.
class SharedSegment {
 public:
  /// Zeroed memory, touched by the calling thread so that it lies on this thread's NUMA node, which
  /// may grow to `reserve` bytes if that is more. Throws OutOfMemoryError, or UnsupportedError
  /// where the system has no anonymous files.
  [[nodiscard]] static SharedSegment create(std::size_t bytes, std::size_t reserve = 0);
  /// Maps a peer's segment as far as it may grow. Throws CommunicationError.
  [[nodiscard]] static SharedSegment open(const SegmentName& name);

  SharedSegment(SharedSegment&& other) noexcept;
  SharedSegment& operator=(SharedSegment&& other) noexcept;
  SharedSegment(const SharedSegment&) = delete;
  SharedSegment& operator=(const SharedSegment&) = delete;
  ~SharedSegment();

  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  /// Of memory, where this process created the segment.
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
  /// Makes a segment of this process larger where it lies; peers need not map it again. False if
  /// there is no room or no memory.
  [[nodiscard]] bool extend(std::size_t bytes);
  /// For peers, valid while this object of the process that created it lives.
  [[nodiscard]] const SegmentName& name() const noexcept { return name_; }
  [[nodiscard]] bool contains(const void* address) const noexcept {
    const auto* byte = static_cast<const std::byte*>(address);
    return byte >= data_ && byte < data_ + name_.reserved;
  }

 private:
  SharedSegment(std::byte* data, std::size_t bytes, const SegmentName& name,
                int owned_descriptor) noexcept
      : data_(data), bytes_(bytes), name_(name), owned_descriptor_(owned_descriptor) {}

  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
  SegmentName name_;
  int owned_descriptor_ = -1;
};

}  // namespace portolan
