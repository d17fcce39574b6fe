// SPDX-License-Identifier: Apache-2.0
#include "runtime/runtime.hpp"

#include <algorithm>
#include <cstdlib>
#include <exception>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#if defined(PORTOLAN_HAS_CUDA)
#include "backends/cuda/cuda_backend.hpp"
#endif

#if defined(PORTOLAN_HAS_NCCL)
#include "parallel/transport/nccl/nccl_collectives.hpp"
#endif

#include "attention/tiles.hpp"
#include "backends/compat/kokkos_runtime.hpp"
#include "core/backend.hpp"
#include "core/error.hpp"
#include "core/error_line.hpp"
#include "core/host_info.hpp"
#include "core/log.hpp"
#include "parallel/gather_values.hpp"
#include "parallel/transport/mpi/make_communicator.hpp"
#include "parallel/transport/mpi/mpi_session.hpp"
#include "runtime/cpu_limits.hpp"
#include "runtime/devices.hpp"
#include "runtime/gpu_mapping.hpp"
#include "runtime/openmp_team.hpp"
#include "runtime/placement.hpp"
#include "runtime/topology.hpp"
#include "runtime/version.hpp"

namespace portolan {
namespace {

/// Threads asked for by option or environment; 0: placement chooses.
int requested_threads(int option) {
  if (option > 0) return option;
  const char* text = std::getenv("OMP_NUM_THREADS");
  const int number = text == nullptr ? 0 : std::atoi(text);
  return std::max(0, number);
}

/// The ranks on this rank's node, and this rank's place among them.
struct NodeRanks {
  std::vector<std::size_t> ranks;
  int local_rank = 0;

  /// Of values of all ranks, those of these.
  template <typename T>
  [[nodiscard]] std::vector<T> of(const std::vector<T>& values) const {
    std::vector<T> own;
    for (const std::size_t rank : ranks) own.push_back(values[rank]);
    return own;
  }
};

NodeRanks find_node_ranks(Communicator& world) {
  const std::string host = host_info().host_name;
  const std::vector<std::string> hosts = gather_texts(world, host);
  NodeRanks node;
  for (std::size_t rank = 0; rank < hosts.size(); ++rank) {
    if (hosts[rank] != host) continue;
    if (static_cast<int>(rank) == world.rank()) {
      node.local_rank = static_cast<int>(node.ranks.size());
    }
    node.ranks.push_back(rank);
  }
  return node;
}

/// GPUs that ranks of this node may use, none in a build without CUDA. Kokkos with CUDA starts
/// nowhere else than beside a GPU, and ends the process where there is none, so that has to be
/// found out before.
int count_gpus(DeviceKind device) {
#if defined(PORTOLAN_HAS_CUDA)
  const CudaDevices gpus = find_cuda_devices();
  if (gpus.count == 0) {
    throw UnsupportedError(fmt::format(
        "{}no CUDA device was found: {}",
        device == DeviceKind::cuda ? "" : "this build starts only where there is a GPU, and ",
        gpus.reason));
  }
  return gpus.count;
#else
  static_cast<void>(device);
  return 0;
#endif
}

/// Of each rank, none in a build without CUDA. Collective.
std::vector<std::string> gather_gpu_identities(Communicator& world, int gpu) {
#if defined(PORTOLAN_HAS_CUDA)
  return gather_texts(world, cuda_device_identity(gpu));
#else
  static_cast<void>(world);
  static_cast<void>(gpu);
  return {};
#endif
}

/// The GPU of this rank, of `count`; negative in a build without CUDA. Collective.
int choose_gpu(Communicator& world, const NodeRanks& node, const Placement& placement, int count) {
#if defined(PORTOLAN_HAS_CUDA)
  std::string identities;
  std::vector<std::string> buses;
  for (int gpu = 0; gpu < count; ++gpu) {
    identities += cuda_device_identity(gpu);
    buses.push_back(cuda_device_bus_id(gpu));
  }
  const double own = placement.numa_nodes.empty() ? -1.0 : placement.numa_nodes.front();
  const std::vector<double> nearest = node.of(gather_values(world, own));
  const std::vector<std::string> seen = node.of(gather_texts(world, identities));
  // A launcher may have dealt the GPUs to groups of ranks, which number those that they see.
  std::vector<int> group_nodes;
  std::size_t place = 0;
  for (std::size_t rank = 0; rank < seen.size(); ++rank) {
    if (seen[rank] != identities) continue;
    if (static_cast<int>(rank) == node.local_rank) place = group_nodes.size();
    group_nodes.push_back(static_cast<int>(nearest[rank]));
  }
  if (count == 1) return 0;  // looking for where it is attached takes its time
  return deal_gpus(group_nodes, numa_nodes_of_pci_devices(buses))[place];
#else
  static_cast<void>(world);
  static_cast<void>(node);
  static_cast<void>(placement);
  static_cast<void>(count);
  return -1;
#endif
}

void warn_of_shared_gpus(const std::vector<std::string>& identities) {
  const std::set<std::string> distinct(identities.begin(), identities.end());
  if (distinct.size() < identities.size()) {
    log().warn("{} ranks share {} GPU{}: their times say little", identities.size(),
               distinct.size(), distinct.size() == 1 ? "" : "s");
  }
}

/// Whether this build can exchange tensors between GPUs without the host.
constexpr bool kHasNccl =
#if defined(PORTOLAN_HAS_NCCL)
    true;
#else
    false;
#endif

/// The communicator whose collectives between GPUs do not pass through the host. Collective.
std::unique_ptr<Communicator> join_gpus(std::unique_ptr<Communicator> host, Device device,
                                        std::chrono::milliseconds deadline,
                                        std::function<void(const std::string&)> lost) {
#if defined(PORTOLAN_HAS_NCCL)
  return make_nccl_communicator(std::move(host), device, deadline, std::move(lost));
#else
  static_cast<void>(device);
  static_cast<void>(deadline);
  [[maybe_unused]] const auto nobody_asks = std::move(lost);
  return host;
#endif
}

int exit_code_of(const std::exception& error) {
  const auto* own = dynamic_cast<const Error*>(&error);
  return own == nullptr ? 1 : own->exit_code();
}

}  // namespace

struct Runtime::State {
  explicit State(const RuntimeOptions& options)
      : gpus(count_gpus(options.device)), device{options.device, 0} {
    if (MpiSession::launched()) {
      int argument_count = 0;
      char** arguments = nullptr;
      session.emplace(argument_count, arguments);
    }
    try {
      start(options);
    } catch (const std::exception& error) {
      if (!session) throw;
      // Unwinding would end the job before anybody could print the reason.
      abort(error);
    }
  }

  /// Of a job of several ranks. Peers that wait for this one learn that they need not.
  [[noreturn]] void abort(const std::exception& error) noexcept {
    const int exit_code = exit_code_of(error);
    const bool is_common = exit_code == 2;  // bad options and bad files
    if (!is_common) print_error(error.what());
    if (world) {
      world->give_up(fmt::format("rank {} stopped because of an error of its own", world->rank()));
    }
    session->abort(exit_code, is_common ? error.what() : "");
  }

  void start(const RuntimeOptions& options) {
    TransportOptions transport = TransportOptions::from_environment();
    transport.deadline = std::max(transport.deadline, options.least_deadline);
    world = session ? make_mpi_communicator(*session, transport) : make_single_communicator();
    set_log_rank(world->rank(), world->size());
    place(options);
    const bool joins_gpus = uses_nccl({.choice = transport.choice,
                                       .nccl_is_built = kHasNccl,
                                       .device = options.device,
                                       .gpus = gpu_identities,
                                       .emulates_link = options.link.active()},
                                      world->size());
    kokkos.emplace(KokkosSettings{.threads = threads, .device_id = gpu});
    if (options.device == DeviceKind::cpu) {
      bind_threads(*topology, placement, [this](const std::function<void(int)>& body) {
        run_on_openmp_team(threads, body);
      });
    }
    if (!options.attention_tiles.empty()) {
      tiles = AttentionTileTable::read(options.attention_tiles, host_info().cpu_model);
    }
    devices.emplace(gpu, tiles);
    static_cast<void>(backend_of(device));  // says so if this build has no such device
    if (joins_gpus) {
      world = join_gpus(std::move(world), device, transport.deadline,
                        [this](const std::string& reason) { abort(CommunicationError(reason)); });
    }
    world->emulate_link(options.link);
  }

  ~State() {
    world.reset();  // its windows may be tensors' memory, so it goes before the backends
    devices.reset();
    kokkos.reset();
  }

  void place(const RuntimeOptions& options) {
    topology.emplace(Topology::detect(openmp_places()));
    const NodeRanks node = find_node_ranks(*world);
    const MaskGroup group =
        mask_group(node.of(gather_texts(*world, topology->mask())), node.local_rank);
    const bool one_core = options.device == DeviceKind::serial;
    if (group.overlaps_others) {
      log().warn(
          "this rank may use cores that other ranks of its node may use too, but not the same "
          "set: threads may collide");
    }
    PlacementPolicy policy;
    if (const auto quota = cpu_quota()) {
      const auto local_ranks = static_cast<double>(node.ranks.size());
      policy.max_threads = std::max(1, static_cast<int>(*quota / local_ranks));
    }
    placement = plan_placement(*topology, group.rank, group.ranks,
                               one_core ? 1 : requested_threads(options.threads), policy);
    if (!placement.warning.empty() && world->rank() == 0) {
      log().warn("{}", placement.warning);
    }
    apply_placement(*topology, placement);
    threads = placement.threads;
    binding = binding_string(*topology, placement);
    gpu = choose_gpu(*world, node, placement, gpus);
    if (options.device == DeviceKind::cuda && gpu >= 0) {
      device.index = gpu;
      gpu_identities = gather_gpu_identities(*world, gpu);
      if (world->rank() == 0) warn_of_shared_gpus(gpu_identities);
    }
  }

  int gpus = 0;
  std::optional<MpiSession> session;
  Device device;
  std::unique_ptr<Communicator> world;
  std::optional<Topology> topology;
  Placement placement;
  int threads = 1;
  int gpu = -1;                             // of this rank; negative: this build has no CUDA
  std::vector<std::string> gpu_identities;  // of all ranks, if they compute on GPUs
  std::string binding;
  AttentionTileTable tiles;
  std::optional<KokkosRuntime> kokkos;
  std::optional<RegisteredDevices> devices;
};

Runtime::Runtime(const RuntimeOptions& options) : state_(std::make_unique<State>(options)) {}
Runtime::~Runtime() = default;

Communicator& Runtime::world() const noexcept { return *state_->world; }
Device Runtime::device() const noexcept { return state_->device; }
int Runtime::threads() const noexcept { return state_->threads; }
const std::string& Runtime::binding() const noexcept { return state_->binding; }

nlohmann::ordered_json Runtime::description() const {
  nlohmann::ordered_json description = to_json(build_information());
  description["transport"] = state_->world->description();
  description["kokkos"] = kokkos_version();
  description["kokkos_execution_spaces"] = kokkos_execution_spaces();
  description["backend"] = backend_of(state_->device).description();
  if (!state_->tiles.entries().empty()) {
    description["attention_tiles"] = state_->tiles.to_json()["attention_tiles"];
  }
  description["topology"] = state_->topology->to_json();
  return description;
}

bool Runtime::launched() const noexcept { return state_->session.has_value(); }

void Runtime::abort_job(const std::exception& error) noexcept {
  if (state_->session) state_->abort(error);
  print_error(error.what());
  std::_Exit(exit_code_of(error));
}

}  // namespace portolan
