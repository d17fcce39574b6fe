// SPDX-License-Identifier: Apache-2.0
#include "backends/cuda/cuda_device.hpp"

#include <array>

#include "backends/cuda/cuda_backend.hpp"
#include "backends/cuda/cuda_status.hpp"
#include "core/error.hpp"
#include "core/log.hpp"

namespace portolan {

CudaDevices find_cuda_devices() {
  CudaDevices devices;
  const cudaError_t status = cudaGetDeviceCount(&devices.count);
  if (status != cudaSuccess) {
    static_cast<void>(cudaGetLastError());  // later calls shall not report it again
    return {.count = 0, .reason = cudaGetErrorString(status)};
  }
  if (devices.count == 0) devices.reason = "the driver offers none";
  return devices;
}

std::string cuda_device_identity(int index) {
  cudaDeviceProp device{};
  check_cuda(cudaGetDeviceProperties(&device, index), "asking for the identity of GPU {}", index);
  std::string digits;
  for (const char byte : device.uuid.bytes) {
    digits += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  }
  return digits;
}

std::string cuda_device_bus_id(int index) {
  std::array<char, 32> text{};
  check_cuda(cudaDeviceGetPCIBusId(text.data(), static_cast<int>(text.size()), index),
             "asking for the bus of GPU {}", index);
  return text.data();
}

CudaProperties cuda_properties(int index) {
  cudaDeviceProp device{};
  check_cuda(cudaGetDeviceProperties(&device, index), "asking for the properties of GPU {}", index);
  CudaProperties properties{.name = device.name,
                            .compute_major = device.major,
                            .compute_minor = device.minor,
                            .multiprocessors = device.multiProcessorCount,
                            .memory_bytes = device.totalGlobalMem};
  check_cuda(cudaDriverGetVersion(&properties.driver_version), "asking for the driver's version");
  check_cuda(cudaRuntimeGetVersion(&properties.runtime_version), "asking for CUDA's version");
  return properties;
}

MemorySource cuda_memory_source(int index) {
  const auto allocate = [index](std::size_t bytes) {
    check_cuda(cudaSetDevice(index), "selecting GPU {}", index);
    void* address = nullptr;
    const cudaError_t status = cudaMalloc(&address, bytes);
    if (status != cudaSuccess) {
      std::size_t free = 0;
      std::size_t total = 0;
      static_cast<void>(cudaMemGetInfo(&free, &total));  // zeros, should it fail too
      throw_cuda_error(
          status, fmt::format("taking {:.3f} GB of GPU {}, which has {:.3f} of {:.3f} GB free",
                              static_cast<double>(bytes) * 1e-9, index,
                              static_cast<double>(free) * 1e-9, static_cast<double>(total) * 1e-9));
    }
    return address;
  };
  const auto release = [index](void* address, std::size_t /*bytes*/) {
    const cudaError_t status = cudaFree(address);
    // An allocator gives back while it is destroyed, too, where nothing may be thrown.
    if (status != cudaSuccess) {
      log().warn("giving memory back to GPU {}: {}", index, cudaGetErrorString(status));
    }
  };
  return {.allocate = allocate, .release = release};
}

MemorySource pinned_memory_source(int index) {
  const auto allocate = [index](std::size_t bytes) {
    check_cuda(cudaSetDevice(index), "selecting GPU {}", index);
    void* address = nullptr;
    check_cuda(cudaMallocHost(&address, bytes), "pinning {} bytes of host memory", bytes);
    return address;
  };
  const auto release = [](void* address, std::size_t /*bytes*/) {
    const cudaError_t status = cudaFreeHost(address);
    // As of a GPU's memory, nothing may be thrown here.
    if (status != cudaSuccess) {
      log().warn("giving pinned memory back: {}", cudaGetErrorString(status));
    }
  };
  return {.allocate = allocate, .release = release};
}

bool is_pageable(const void* address) {
  cudaPointerAttributes attributes{};
  check_cuda(cudaPointerGetAttributes(&attributes, address), "asking what an address is");
  return attributes.type == cudaMemoryTypeUnregistered;
}

CudaStream::CudaStream(int index) {
  check_cuda(cudaSetDevice(index), "selecting GPU {}", index);
  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream on GPU {}",
             index);
  stream_.reset(stream);
}

Event record_event(cudaStream_t stream) {
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "making an event");
  std::shared_ptr<void> handle(
      event, [](void* made) { cudaEventDestroy(static_cast<cudaEvent_t>(made)); });
  check_cuda(cudaEventRecord(event, stream), "recording an event");
  return Event(std::move(handle));
}

void wait_for_event(cudaStream_t stream, const Event& event) {
  if (event.handle() == nullptr) return;  // already reached
  check_cuda(cudaStreamWaitEvent(stream, static_cast<cudaEvent_t>(event.handle()), 0),
             "waiting for an event");
}

void wait_on_host(const Event& event) {
  if (event.handle() == nullptr) return;
  check_cuda(cudaEventSynchronize(static_cast<cudaEvent_t>(event.handle())),
             "waiting for an event");
}

cudaStream_t cuda_stream(Device device, Queue queue) {
  const auto* const streams = dynamic_cast<const CudaStreams*>(&backend_of(device));
  if (streams == nullptr) {
    throw UnsupportedError(fmt::format("device {} has no streams of CUDA", name_of(device.kind)));
  }
  return streams->stream(queue);
}

}  // namespace portolan
