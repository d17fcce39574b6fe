// SPDX-License-Identifier: Apache-2.0
#include "core/backend.hpp"

#include <utility>
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

class RepeatedCall final : public RecordedWork {
 public:
  explicit RepeatedCall(std::function<void()> work) : work_(std::move(work)) {}
  void start() override { work_(); }

 private:
  std::function<void()> work_;
};

}  // namespace

std::unique_ptr<RecordedWork> repeated_call(std::function<void()> work) {
  return std::make_unique<RepeatedCall>(std::move(work));
}

std::unique_ptr<RecordedWork> Backend::run_and_record(std::function<void()> work) {
  work();
  return repeated_call(std::move(work));
}

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
