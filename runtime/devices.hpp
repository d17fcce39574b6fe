// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention/tiles.hpp"

namespace portolan {

/// The backends and attention kernels of every device that this build has, registered for the
/// lifetime of the object: serial, cpu if built with OpenMP, cuda if built with CUDA. Make one per
/// process, while Kokkos runs.
class RegisteredDevices {
 public:
  /// `gpu` is the index of the GPU that device `cuda` is, the one Kokkos was initialised on; builds
  /// without CUDA do not look at it. `tiles` are of attention on CPUs. Throws what the making of a
  /// backend throws.
  RegisteredDevices(int gpu, const AttentionTileTable& tiles);
  ~RegisteredDevices();
  RegisteredDevices(const RegisteredDevices&) = delete;
  RegisteredDevices& operator=(const RegisteredDevices&) = delete;

 private:
  /// Nothing is registered yet; what is when registration throws goes with the object.
  RegisteredDevices() = default;
};

}  // namespace portolan
