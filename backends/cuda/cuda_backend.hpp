// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>

#include "core/backend.hpp"

/// The device `cuda`. No header of CUDA is needed to use it.
namespace portolan {

struct CudaDevices {
  int count = 0;
  /// Why there are none, as the driver says it; empty if there are some.
  std::string reason = {};
};

/// GPUs that this process may use. Never throws: a machine without a GPU or driver has none.
[[nodiscard]] CudaDevices find_cuda_devices();

/// 32 hexadecimal digits that no other GPU has, nor another part of a divided one: processes may
/// number GPUs differently. Throws Error.
[[nodiscard]] std::string cuda_device_identity(int index);

/// Where its slot is, "0000:3b:00.0". Throws Error.
[[nodiscard]] std::string cuda_device_bus_id(int index);

/// One GPU: operations through kernels of our own or Kokkos::Cuda, matrix products through
/// cuBLASLt. Kokkos must be initialised on the GPU `index` (KokkosSettings::device_id). Throws
/// Error or OutOfMemoryError.
///
/// Operations return before they are done; an Event's handle is a cudaEvent_t. Queue::compute is
/// the stream of Kokkos' default instance, so kernels that name no instance are ordered with
/// everything else; Queue::communication is a stream of its own. Memory goes back to the allocator
/// in the order of the host's calls, which is that of Queue::compute: what another queue still uses
/// must be waited for before its tensor goes.
[[nodiscard]] std::unique_ptr<Backend> make_cuda_backend(int index);

}  // namespace portolan
