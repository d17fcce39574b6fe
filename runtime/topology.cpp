// SPDX-License-Identifier: Apache-2.0
#include "runtime/topology.hpp"

#include <hwloc.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <optional>
#include <set>

#include "core/error.hpp"
#include "runtime/bitmap.hpp"
#include "runtime/cpu_limits.hpp"

namespace portolan {

namespace {

/// Some virtual machines show processing units without cores: each then is a core of its own.
hwloc_obj_type_t core_type(hwloc_topology_t topology) {
  return hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE) > 0 ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU;
}

int count_cores(hwloc_topology_t topology) {
  return hwloc_get_nbobjs_by_type(topology, core_type(topology));
}

/// The processors of the memory nearest to a core: the smallest cpuset of a NUMA node that holds
/// the core, or null.
hwloc_const_cpuset_t nearest_memory(hwloc_topology_t topology, hwloc_const_cpuset_t core) {
  hwloc_const_cpuset_t nearest = nullptr;
  for (hwloc_obj_t node = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_NUMANODE, nullptr); node;
       node = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_NUMANODE, node)) {
    if (hwloc_bitmap_isincluded(core, node->cpuset) &&
        (nearest == nullptr || hwloc_bitmap_weight(node->cpuset) < hwloc_bitmap_weight(nearest))) {
      nearest = node->cpuset;
    }
  }
  return nearest;
}

NumaDomain domain_with_memory(hwloc_topology_t topology, hwloc_const_cpuset_t processors) {
  NumaDomain domain;
  for (hwloc_obj_t node = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_NUMANODE, nullptr);
       node && processors; node = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_NUMANODE, node)) {
    if (!hwloc_bitmap_isequal(node->cpuset, processors)) continue;
    domain.nodes.push_back(static_cast<int>(node->os_index));
    domain.memory_bytes += static_cast<std::int64_t>(node->attr->numanode.local_memory);
  }
  return domain;
}

/// Keeps the processors in the set, and all memory. False if no processor would be left.
bool restrict_to(hwloc_topology_t topology, const Bitmap& processors) {
  const Bitmap kept(hwloc_bitmap_dup(hwloc_topology_get_topology_cpuset(topology)));
  hwloc_bitmap_and(kept.get(), kept.get(), processors.get());
  return !hwloc_bitmap_iszero(kept.get()) && hwloc_topology_restrict(topology, kept.get(), 0) == 0;
}

/// The affinity mask that counts for this process (see Topology::detect), or nothing if the system
/// has none.
std::optional<Bitmap> inherited_mask(hwloc_topology_t topology, const std::string& known) {
  Bitmap mask = known.empty() ? Bitmap(hwloc_bitmap_alloc()) : Bitmap::from_list(known);
  if (known.empty() && hwloc_get_cpubind(topology, mask.get(), HWLOC_CPUBIND_THREAD) != 0) {
    return std::nullopt;
  }
  if (bound_by_default_of_launcher(process_environment())) {
    const Bitmap wider(hwloc_bitmap_alloc());
    const auto launcher = launcher_process();
    if (launcher && hwloc_get_proc_cpubind(topology, *launcher, wider.get(), 0) == 0) {
      hwloc_bitmap_or(mask.get(), mask.get(), wider.get());
    }
  }
  return mask;
}

std::string counted(std::int64_t count, const char* noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

}  // namespace

void DestroyHwlocTopology::operator()(hwloc_topology* topology) const noexcept {
  hwloc_topology_destroy(topology);
}

HwlocHandle new_hwloc_topology() {
  hwloc_topology_t topology = nullptr;
  if (hwloc_topology_init(&topology) != 0) throw Error("hwloc could not be initialised");
  return HwlocHandle(topology);
}

void load_hwloc_topology(hwloc_topology* topology,
                         const std::optional<std::filesystem::path>& xml) {
  const bool is_set = !xml || hwloc_topology_set_xml(topology, xml->c_str()) == 0;
  if (is_set && hwloc_topology_load(topology) == 0) return;
  if (!xml) {
    throw Error(fmt::format("hwloc could not examine the machine: {}", std::strerror(errno)));
  }
  throw InputError(fmt::format("{}: expected a topology saved by lstopo as XML", xml->string()));
}

Topology Topology::whole(HwlocHandle handle) {
  const int machine_cores = count_cores(handle.get());
  return Topology(std::move(handle), machine_cores);
}

Topology Topology::detect(const std::string& mask) {
  HwlocHandle handle = new_hwloc_topology();
  // The whole machine first, to be able to say which part of it is ours.
  hwloc_topology_set_flags(handle.get(), HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED);
  load_hwloc_topology(handle.get());
  const int machine_cores = count_cores(handle.get());
  const Bitmap nodes(hwloc_bitmap_dup(hwloc_topology_get_allowed_nodeset(handle.get())));
  const Bitmap processors(hwloc_bitmap_dup(hwloc_topology_get_allowed_cpuset(handle.get())));
  if (const auto inherited = inherited_mask(handle.get(), mask)) {
    const Bitmap both(hwloc_bitmap_dup(processors.get()));
    hwloc_bitmap_and(both.get(), both.get(), inherited->get());
    if (!hwloc_bitmap_iszero(both.get())) hwloc_bitmap_copy(processors.get(), both.get());
  }
  if (!restrict_to(handle.get(), processors) ||
      hwloc_topology_restrict(handle.get(), nodes.get(), HWLOC_RESTRICT_FLAG_BYNODESET) != 0) {
    throw Error(fmt::format("hwloc could not restrict the machine to the allowed part: {}",
                            std::strerror(errno)));
  }
  return Topology(std::move(handle), machine_cores);
}

Topology Topology::synthetic(const std::string& description) {
  HwlocHandle handle = new_hwloc_topology();
  require(hwloc_topology_set_synthetic(handle.get(), description.c_str()) == 0,
          "a synthetic topology must be in hwloc's notation, as \"package:2 [numa] core:4 pu:2\"; "
          "found \"{}\"",
          description);
  load_hwloc_topology(handle.get());
  return whole(std::move(handle));
}

Topology Topology::from_xml(const std::filesystem::path& path) {
  HwlocHandle handle = new_hwloc_topology();
  load_hwloc_topology(handle.get(), path);
  return whole(std::move(handle));
}

Topology Topology::restricted_to(const std::string& processing_units) const {
  const Bitmap wanted = Bitmap::from_list(processing_units);
  hwloc_topology_t copy = nullptr;
  if (hwloc_topology_dup(&copy, handle_.get()) != 0) throw Error("hwloc could not copy a topology");
  HwlocHandle handle(copy);
  require(hwloc_bitmap_isincluded(wanted.get(), hwloc_topology_get_topology_cpuset(handle.get())) ==
                  1 &&
              restrict_to(handle.get(), wanted),
          "processing units must be among {} of this topology, found \"{}\"", mask_,
          processing_units);
  return Topology(std::move(handle), machine_cores_);
}

Topology::Topology(HwlocHandle handle, int machine_cores)
    : handle_(std::move(handle)), machine_cores_(machine_cores) {
  hwloc_topology_t topology = handle_.get();
  const hwloc_obj_type_t type = core_type(topology);
  std::map<std::string, std::size_t> positions;  // of domains, by their nearest memory
  std::vector<std::vector<Core>> cores_of_domain;
  std::set<int> packages;
  for (hwloc_obj_t object = hwloc_get_next_obj_by_type(topology, type, nullptr); object;
       object = hwloc_get_next_obj_by_type(topology, type, object)) {
    Core core;
    const hwloc_obj_t package = hwloc_get_ancestor_obj_by_type(topology, HWLOC_OBJ_PACKAGE, object);
    core.package = package ? static_cast<int>(package->os_index) : 0;
    packages.insert(core.package);
    for (int unit = hwloc_bitmap_first(object->cpuset); unit >= 0;
         unit = hwloc_bitmap_next(object->cpuset, unit)) {
      core.processing_units.push_back(unit);
    }
    const hwloc_const_cpuset_t memory = nearest_memory(topology, object->cpuset);
    const std::string key =
        memory ? Bitmap::list_of(memory) : fmt::format("package {}", core.package);
    const auto [entry, is_new] = positions.try_emplace(key, domains_.size());
    if (is_new) {
      domains_.push_back(domain_with_memory(topology, memory));
      domains_.back().package = core.package;
      cores_of_domain.emplace_back();
    }
    core.numa_domain = static_cast<int>(entry->second);
    cores_of_domain[entry->second].push_back(std::move(core));
  }
  for (std::size_t i = 0; i < domains_.size(); ++i) {
    domains_[i].first_core = static_cast<int>(cores_.size());
    domains_[i].cores = static_cast<int>(cores_of_domain[i].size());
    for (Core& core : cores_of_domain[i]) cores_.push_back(std::move(core));
  }
  if (cores_.empty()) throw Error("hwloc found no processor that may be used");
  packages_ = static_cast<int>(packages.size());
  memory_bytes_ = static_cast<std::int64_t>(hwloc_get_root_obj(topology)->total_memory);
  mask_ = Bitmap::list_of(hwloc_topology_get_topology_cpuset(topology));
}

int Topology::processing_units() const noexcept {
  std::size_t units = 0;
  for (const Core& core : cores_) units += core.processing_units.size();
  return static_cast<int>(units);
}

int Topology::threads_per_core() const noexcept {
  std::size_t most = 1;
  for (const Core& core : cores_) most = std::max(most, core.processing_units.size());
  return static_cast<int>(most);
}

bool Topology::is_this_machine() const noexcept {
  return hwloc_topology_is_thissystem(handle_.get()) == 1;
}

std::string Topology::summary() const {
  std::string text = fmt::format("{}, {}, {}, {}, {:.1f} GB", counted(packages_, "package"),
                                 counted(static_cast<std::int64_t>(domains_.size()), "NUMA domain"),
                                 counted(static_cast<std::int64_t>(cores_.size()), "core"),
                                 counted(processing_units(), "processing unit"),
                                 static_cast<double>(memory_bytes_) / 1e9);
  if (machine_cores_ > static_cast<int>(cores_.size())) {
    text += fmt::format(" (of the machine's {})", counted(machine_cores_, "core"));
  }
  return text;
}

nlohmann::ordered_json Topology::to_json() const {
  nlohmann::ordered_json domains = nlohmann::ordered_json::array();
  for (const NumaDomain& domain : domains_) {
    std::vector<int> units;
    for (int i = domain.first_core; i < domain.first_core + domain.cores; ++i) {
      const Core& core = cores_[static_cast<std::size_t>(i)];
      units.insert(units.end(), core.processing_units.begin(), core.processing_units.end());
    }
    domains.push_back({{"package", domain.package},
                       {"nodes", domain.nodes},
                       {"cores", domain.cores},
                       {"processing_units", index_list(units)},
                       {"memory_bytes", domain.memory_bytes}});
  }
  return {{"packages", packages_},
          {"numa_domains", std::move(domains)},
          {"cores", cores_.size()},
          {"machine_cores", machine_cores_},
          {"processing_units", processing_units()},
          {"threads_per_core", threads_per_core()},
          {"memory_bytes", memory_bytes_},
          {"mask", mask_}};
}

std::string index_list(std::span<const int> indices) {
  const Bitmap bitmap(hwloc_bitmap_alloc());
  for (const int index : indices) hwloc_bitmap_set(bitmap.get(), static_cast<unsigned>(index));
  return Bitmap::list_of(bitmap.get());
}

}  // namespace portolan
