// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include "tests/cuda/device_array.cuh"

namespace portolan::cuda_bench {

using cuda_testing::check;

class TimingEvent {
 public:
  TimingEvent() { check(cudaEventCreate(&event_), "making an event"); }
  TimingEvent(const TimingEvent&) = delete;
  TimingEvent& operator=(const TimingEvent&) = delete;
  ~TimingEvent() { cudaEventDestroy(event_); }

  void record(cudaStream_t stream) const {
    check(cudaEventRecord(event_, stream), "recording an event");
  }
  [[nodiscard]] double seconds_since(const TimingEvent& start) const {
    check(cudaEventSynchronize(event_), "waiting for the GPU");
    float milliseconds = 0.0F;
    check(cudaEventElapsedTime(&milliseconds, start.event_, event_), "reading a time");
    return static_cast<double>(milliseconds) * 1e-3;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

struct Times {
  double median = 0.0;  ///< seconds
  double least = 0.0;
  double most = 0.0;
  int samples = 0;
};

/// Of `enqueue(i)`, which enqueues one run on the default stream; i counts runs, to choose among
/// several sets of operands. Runs shorter than 2 ms are timed several at a time.
inline Times measure(const std::function<void(int)>& enqueue, int samples = 15) {
  constexpr int kWarmUp = 3;
  // The GPU is idle when a sample starts, and waits 10 to 20 us for the host to enqueue the first
  // run: of a sample as long as this at most a hundredth.
  constexpr double kLeastSeconds = 2e-3;
  const TimingEvent start;
  const TimingEvent end;
  int index = 0;
  const auto time_of = [&](int repeats) {
    start.record(nullptr);
    for (int i = 0; i < repeats; ++i) enqueue(index++);
    end.record(nullptr);
    return end.seconds_since(start) / repeats;
  };
  static_cast<void>(time_of(kWarmUp));
  int repeats = kWarmUp;
  for (int estimate = 0; estimate < 2; ++estimate) {  // the first has too much of the host's time
    repeats = 1 + static_cast<int>(kLeastSeconds / std::max(time_of(repeats), 1e-7));
  }
  std::vector<double> seconds;
  for (int i = 0; i < samples; ++i) seconds.push_back(time_of(repeats));
  std::sort(seconds.begin(), seconds.end());
  check(cudaGetLastError(), "running what is measured");
  return {seconds[seconds.size() / 2], seconds.front(), seconds.back(), samples};
}

}  // namespace portolan::cuda_bench
