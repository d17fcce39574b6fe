// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

/// What programs that run kernels without the engine need of CUDA.
namespace portolan::cuda_testing {

/// Ends the program with a line that names the action unless the call succeeded.
inline void check(cudaError_t status, const char* action) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s, %s\n", action, cudaGetErrorName(status),
               cudaGetErrorString(status));
  std::exit(1);
}

/// An array in the GPU's memory.
template <typename T>
class DeviceArray {
 public:
  DeviceArray() = default;
  explicit DeviceArray(std::size_t size) : size_(size) {
    if (size > 0) check(cudaMalloc(&data_, size * sizeof(T)), "taking device memory");
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    if (size_ == 0) return;
    check(cudaMemcpy(data_, values.data(), bytes(), cudaMemcpyHostToDevice), "copying to the GPU");
  }
  DeviceArray(DeviceArray&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  DeviceArray& operator=(DeviceArray&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { cudaFree(data_); }

  [[nodiscard]] T* data() const { return data_; }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::size_t bytes() const { return size_ * sizeof(T); }

  /// All bits set: NaN in every floating-point format.
  void poison() {
    if (size_ > 0) check(cudaMemset(data_, 0xFF, bytes()), "poisoning device memory");
  }
  [[nodiscard]] std::vector<T> download() const {
    std::vector<T> values(size_);
    if (size_ > 0) {
      check(cudaMemcpy(values.data(), data_, bytes(), cudaMemcpyDeviceToHost),
            "copying from the GPU");
    }
    return values;
  }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace portolan::cuda_testing
