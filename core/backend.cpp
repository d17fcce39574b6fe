// SPDX-License-Identifier: Apache-2.0
#include "core/backend.hpp"

#include <vector>

#include "core/error.hpp"

namespace portolan {
namespace {

// Kokkos and MPI are initialised once per process, and so are the backends that stand on them.
std::vector<std::unique_ptr<Backend>>& registry() {
  static std::vector<std::unique_ptr<Backend>> backends;
  return backends;
}

Backend* find(Device device) {
  for (const auto& backend : registry()) {
    if (backend->device() == device) return backend.get();
  }
  return nullptr;
}

}  // namespace

Backend& backend_of(Device device) {
  if (Backend* backend = find(device)) return *backend;
  throw UnsupportedError(
      fmt::format("device '{}' is not available in this build or process", name_of(device.kind)));
}

bool has_backend(Device device) { return find(device) != nullptr; }

void register_backend(std::unique_ptr<Backend> backend) {
  registry().push_back(std::move(backend));
}

void unregister_backends() { registry().clear(); }

std::span<const std::unique_ptr<Backend>> registered_backends() { return registry(); }

}  // namespace portolan
