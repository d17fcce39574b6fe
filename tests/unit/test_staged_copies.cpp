// SPDX-License-Identifier: Apache-2.0
// Copies through pinned buffers, on a device that does nothing before it has to.
#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <memory>
#include <vector>

#include "backends/cuda/staged_copies.hpp"

namespace portolan::cuda {
namespace {

/// Copies are made when the host waits for them, not earlier: whoever reads or overwrites memory
/// too soon gets the wrong bytes.
class LazyStream {
 public:
  void enqueue(void* destination, const void* source, std::size_t bytes) const {
    state_->pending.push_back([=] { std::memcpy(destination, source, bytes); });
    state_->longest = std::max(state_->longest, bytes);
  }
  [[nodiscard]] Event record() const {
    return Event(std::make_shared<std::size_t>(state_->pending.size()));
  }
  void wait_on_host(const Event& event) const {
    if (event.handle() != nullptr) run_until(*static_cast<const std::size_t*>(event.handle()));
  }
  void finish() const { run_until(state_->pending.size()); }
  [[nodiscard]] std::size_t unfinished() const { return state_->pending.size() - state_->done; }
  [[nodiscard]] std::size_t longest() const { return state_->longest; }

 private:
  struct State {
    std::vector<std::function<void()>> pending;
    std::size_t done = 0;
    std::size_t longest = 0;
  };

  void run_until(std::size_t end) const {
    for (; state_->done < end; ++state_->done) state_->pending[state_->done]();
  }

  std::shared_ptr<State> state_ = std::make_shared<State>();
};

std::vector<unsigned char> numbered(std::size_t bytes, unsigned char first) {
  std::vector<unsigned char> values(bytes);
  for (std::size_t i = 0; i < bytes; ++i) {
    values[i] = static_cast<unsigned char>(first + i * 7 + i / 4096);
  }
  return values;
}

class StagedCopies : public testing::TestWithParam<std::size_t> {
 protected:
  CachingAllocator pinned_{MemorySource{[](std::size_t bytes) { return std::malloc(bytes); },
                                        [](void* address, std::size_t) { std::free(address); }}};
  StagingBuffers buffers_{pinned_};
  LazyStream stream_;
};

constexpr std::size_t kBuffer = StagingBuffers::kBytes;
INSTANTIATE_TEST_SUITE_P(Bytes, StagedCopies,
                         testing::Values(1, 65'536, kBuffer - 1, kBuffer, kBuffer + 1, 2 * kBuffer,
                                         3 * kBuffer + 12'345));

TEST_P(StagedCopies, ToTheDeviceReadTheSourceBeforeTheyReturn) {
  std::vector<unsigned char> source = numbered(GetParam(), 1);
  const std::vector<unsigned char> expected = source;
  std::vector<unsigned char> device(source.size(), 0);
  copy_to_device(buffers_, stream_, device.data(), source.data(), source.size());
  EXPECT_GT(stream_.unfinished(), 0U) << "the host need not have waited for the last copy";
  std::fill(source.begin(), source.end(), static_cast<unsigned char>(0xEE));
  stream_.finish();
  EXPECT_EQ(device, expected);
  EXPECT_LE(stream_.longest(), kBuffer);
}

TEST_P(StagedCopies, ToTheHostAreThereWhenTheyReturn) {
  const std::vector<unsigned char> device = numbered(GetParam(), 3);
  std::vector<unsigned char> target(device.size(), 0);
  copy_to_host(buffers_, stream_, target.data(), device.data(), device.size());
  EXPECT_EQ(target, device);
}

TEST_P(StagedCopies, OneAfterTheOtherDoNotTakeEachOthersBuffers) {
  const std::vector<unsigned char> first = numbered(GetParam(), 5);
  const std::vector<unsigned char> second = numbered(GetParam() / 2 + 1, 9);
  std::vector<unsigned char> device_first(first.size(), 0);
  std::vector<unsigned char> device_second(second.size(), 0);
  std::vector<unsigned char> back(first.size(), 0);
  copy_to_device(buffers_, stream_, device_first.data(), first.data(), first.size());
  copy_to_device(buffers_, stream_, device_second.data(), second.data(), second.size());
  copy_to_host(buffers_, stream_, back.data(), device_first.data(), back.size());
  stream_.finish();
  EXPECT_EQ(device_first, first);
  EXPECT_EQ(device_second, second);
  EXPECT_EQ(back, first);
  EXPECT_EQ(pinned_.counters().allocated, static_cast<std::int64_t>(2 * kBuffer))
      << "two buffers serve all copies";
}

}  // namespace
}  // namespace portolan::cuda
