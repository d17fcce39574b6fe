// SPDX-License-Identifier: Apache-2.0
#include "parallel/transport/shared/window.hpp"

#include <algorithm>
#include <utility>

#include "core/error.hpp"

namespace portolan {
namespace {

constexpr std::size_t kPage = 4096;

}  // namespace

Window::Window(std::shared_ptr<SharedSegment> control, RankSlot& slot)
    : control_(std::move(control)), slot_(slot) {
  allocator_ = std::make_unique<CachingAllocator>(
      MemorySource{[this](std::size_t bytes) { return add_segment(bytes); },
                   [this](void* address, std::size_t /*bytes*/) { remove_segment(address); }});
}

void* Window::add_segment(std::size_t bytes) {
  if (segments_.size() == kMaximumSegments) {
    throw OutOfMemoryError(
        fmt::format("a rank can share {} memory segments, and all are used up", kMaximumSegments));
  }
  SharedSegment& segment = *segments_.emplace_back(SharedSegment::create(bytes));
  slot_.segments[segments_.size() - 1] = segment.name();
  return segment.data();
}

void Window::remove_segment(const void* address) {
  for (std::optional<SharedSegment>& segment : segments_) {
    if (segment && segment->data() == address) segment.reset();
  }
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
