// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "bench/cuda/timing.cuh"
#include "core/dtype.hpp"
#include "tests/cuda/device_array.cuh"
#include "tests/reference/ops_reference.hpp"

/// What programs that check kernels on a GPU share: memory, numbers, and a report of one line per
/// case.
namespace portolan::cuda {

using reference::Sums;
using reference::Values;

using cuda_testing::check;

[[nodiscard]] inline const char* text(DType dtype) {
  return dtype == DType::f32 ? "f32" : dtype == DType::bf16 ? "bf16" : "f16";
}

[[nodiscard]] inline std::vector<std::byte> encode(const Values& values, DType dtype) {
  std::vector<std::byte> bytes(values.size() * size_of(dtype));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto value = static_cast<float>(values[i]);
    const auto put = [&](const auto& element) {
      std::memcpy(bytes.data() + i * sizeof(element), &element, sizeof(element));
    };
    if (dtype == DType::f32) put(value);
    if (dtype == DType::bf16) put(from_float<BFloat16>(value));
    if (dtype == DType::f16) put(from_float<Float16>(value));
  }
  return bytes;
}

[[nodiscard]] inline Values decode(const std::vector<std::byte>& bytes, DType dtype) {
  Values values(bytes.size() / size_of(dtype));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto get = [&](auto element) {
      std::memcpy(&element, bytes.data() + i * sizeof(element), sizeof(element));
      return static_cast<double>(to_float(element));
    };
    values[i] = dtype == DType::f32    ? get(float{})
                : dtype == DType::bf16 ? get(BFloat16{})
                                       : get(Float16{});
  }
  return values;
}

/// Memory of the GPU, cleared.
class Buffer {
 public:
  explicit Buffer(std::size_t bytes) : memory_(bytes) {
    check(cudaMemset(memory_.data(), 0, bytes), "clearing memory");
  }
  explicit Buffer(const std::vector<std::byte>& contents) : memory_(contents) {}

  void write(const std::vector<std::byte>& contents) {
    check(cudaMemcpy(get(), contents.data(), contents.size(), cudaMemcpyHostToDevice),
          "copying to the GPU");
  }
  [[nodiscard]] std::vector<std::byte> read() const { return memory_.download(); }
  [[nodiscard]] void* get() const { return memory_.data(); }

 private:
  cuda_testing::DeviceArray<std::byte> memory_;
};

/// Uniform on [-4, 4), rounded to the dtype.
[[nodiscard]] inline Values random_values(std::size_t count, DType dtype, std::uint64_t seed) {
  Values values(count);
  std::uint64_t state = seed * 0x9E3779B97F4A7C15U + 1;
  for (double& value : values) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    value = static_cast<double>(static_cast<std::int64_t>(state >> 11)) * 0x1p-50 - 4.0;
  }
  return decode(encode(values, dtype), dtype);
}

/// Median seconds of a launch, warm.
[[nodiscard]] inline double seconds_of(const std::function<cudaError_t()>& launch) {
  return cuda_bench::measure([&](int) { check(launch(), "a launch"); }).median;
}

class Report {
 public:
  Report() {
    constexpr std::size_t kBytes = std::size_t{1} << 30;
    const Buffer from(kBytes);
    const Buffer to(kBytes);
    copy_rate_ = 2.0 * kBytes / seconds_of([&] {
                   return cudaMemcpyAsync(to.get(), from.get(), kBytes, cudaMemcpyDeviceToDevice);
                 });
    std::printf("copy %.0f GB/s\n", copy_rate_ * 1e-9);
  }

  /// One rounding to the dtype, besides `roundings` in f32 of quantities as large as the
  /// magnitudes.
  void compare(const std::string& name, DType dtype, const Values& found, const Sums& expected,
               double roundings) {
    const double unit = dtype == DType::f32 ? 0x1p-24 : dtype == DType::bf16 ? 0x1p-8 : 0x1p-11;
    double worst = 0.0;  // in units of what is allowed
    for (std::size_t i = 0; i < expected.values.size(); ++i) {
      const double error_before = roundings * 0x1p-24 * expected.magnitudes[i];
      const double allowed =
          error_before + unit * (std::abs(expected.values[i]) + error_before) + 0x1p-25;
      const double off = std::abs(found[i] - expected.values[i]) / allowed;
      worst = off <= worst ? worst : off;  // NaN becomes the worst, and stays
    }
    line(name, worst <= 1.0, "error " + std::to_string(worst) + " of what rounding explains");
  }
  void compare(const std::string& name, DType dtype, const Values& found, const Values& expected,
               double roundings) {
    Sums sums{expected, expected};
    for (double& value : sums.magnitudes) value = std::abs(value);
    compare(name, dtype, found, sums, roundings);
  }
  void same_bits(const std::string& name, const std::vector<std::byte>& first,
                 const std::vector<std::byte>& second) {
    if (first != second) line(name, false, "other bits at the second run");
  }
  void speed(const std::string& name, double bytes, const std::function<cudaError_t()>& launch) {
    const double seconds = seconds_of(launch);
    std::printf("      %-44s %9.1f us %7.0f GB/s, %3.0f %% of a copy\n", name.c_str(),
                seconds * 1e6, bytes / seconds * 1e-9, bytes / seconds / copy_rate_ * 100.0);
  }
  [[nodiscard]] int failures() const { return failures_; }

 private:
  void line(const std::string& name, bool good, const std::string& detail) {
    std::printf("%-5s %-44s %s\n", good ? "ok" : "FAIL", name.c_str(), detail.c_str());
    if (!good) ++failures_;
  }

  double copy_rate_ = 0.0;
  int failures_ = 0;
};

[[nodiscard]] inline std::string name_of(const char* kernel, DType dtype, std::int64_t rows,
                                         std::int64_t columns) {
  return std::string(kernel) + " " + text(dtype) + " " + std::to_string(rows) + " x " +
         std::to_string(columns);
}

}  // namespace portolan::cuda
