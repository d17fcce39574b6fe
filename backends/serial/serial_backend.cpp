// SPDX-License-Identifier: Apache-2.0
#include "backends/serial/serial_backend.hpp"

#include "backends/compat/kokkos_runtime.hpp"
#include "backends/portable/host_memory.hpp"
#include "backends/portable/portable_backend.hpp"

namespace portolan {
namespace {

class SerialBackend final : public HostBackend<Kokkos::Serial> {
 public:
  SerialBackend() : HostBackend({DeviceKind::serial, 0}, host_memory_source()) {}

  [[nodiscard]] std::string description() const override {
    return fmt::format("Kokkos {} Serial, {}, 1 thread", kokkos_version(), compat::kGemmLibrary);
  }
};

}  // namespace

std::unique_ptr<Backend> make_serial_backend() { return std::make_unique<SerialBackend>(); }

}  // namespace portolan
