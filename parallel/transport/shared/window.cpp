// SPDX-License-Identifier: Apache-2.0
#include "parallel/transport/shared/window.hpp"

#include <algorithm>
#include <utility>

#include "core/error.hpp"
#include "core/memory_info.hpp"

namespace portolan {
namespace {

constexpr std::size_t kPage = 4096;
// Each rank maps the windows of all; together they should leave most of the 128 TiB of addresses
// that a process has to others.
constexpr std::size_t kMappedByProcess = std::size_t{8} << 40;

/// How far a window's segment may grow.
std::size_t window_reserve(int ranks) {
  return std::min(physical_memory(), kMappedByProcess / static_cast<std::size_t>(ranks)) / kPage *
         kPage;
}

}  // namespace

Window::Window(std::shared_ptr<SharedSegment> control, RankSlot& slot, int ranks)
    : control_(std::move(control)), slot_(slot), reserve_(window_reserve(ranks)) {
  allocator_ = std::make_unique<CachingAllocator>(
      MemorySource{[this](std::size_t bytes) { return add_segment(bytes); },
                   [this](void* address, std::size_t /*bytes*/) { remove_segment(address); },
                   [this](void* address, std::size_t /*bytes*/, std::size_t new_bytes) {
                     return resize_segment(address, new_bytes);
                   }});
}

void* Window::add_segment(std::size_t bytes) {
  if (segments_.size() == kMaximumSegments) {
    throw OutOfMemoryError(
        fmt::format("a rank can share {} memory segments, and all are used up", kMaximumSegments));
  }
  SharedSegment& segment = *segments_.emplace_back(SharedSegment::create(bytes, reserve_));
  slot_.segments[segments_.size() - 1] = segment.name();
  return segment.data();
}

void Window::remove_segment(const void* address) {
  for (std::optional<SharedSegment>& segment : segments_) {
    if (segment && segment->data() == address) segment.reset();
  }
}

bool Window::resize_segment(const void* address, std::size_t bytes) {
  for (std::optional<SharedSegment>& segment : segments_) {
    // Peers that map it keep the pages, so making it smaller gives nothing back.
    if (segment && segment->data() == address) {
      return bytes > segment->bytes() && segment->extend(bytes);
    }
  }
  return false;
}

Tensor Window::allocate(const Shape& shape, DType dtype, Device device) {
  const auto bytes = static_cast<std::size_t>(shape.elements()) * size_of(dtype);
  const std::size_t pages = (std::max<std::size_t>(bytes, 1) + kPage - 1) / kPage * kPage;
  BlockReference block = allocator_->allocate(pages);
  std::byte* data = block.get()->data();
  const auto release = [window = shared_from_this(), block = std::move(block)]() mutable {
    block = BlockReference();  // before the window, whose allocator it returns to
  };
  return Tensor(BlockReference::borrow(data, pages, release), 0, shape, dtype, device);
}

WindowPosition Window::position_of(const Tensor& tensor) const {
  if (tensor.elements() == 0) return {WindowPosition::kNoElements, 0};
  for (std::size_t i = 0; i < segments_.size(); ++i) {
    if (segments_[i] && segments_[i]->contains(tensor.raw())) {
      return {static_cast<std::int32_t>(i),
              static_cast<std::uint64_t>(tensor.raw() - segments_[i]->data())};
    }
  }
  return {};
}

std::byte* PeerWindows::address(const RankSlot& slot, int rank, const WindowPosition& position) {
  if (position.segment < 0) return nullptr;
  auto& mappings = mappings_[static_cast<std::size_t>(rank)];
  const auto index = static_cast<std::size_t>(position.segment);
  if (mappings.size() <= index) mappings.resize(index + 1);
  if (!mappings[index]) mappings[index] = SharedSegment::open(slot.segments[index]);
  return mappings[index]->data() + position.offset;
}

}  // namespace portolan
