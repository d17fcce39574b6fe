// SPDX-License-Identifier: Apache-2.0
#include "parallel/transport/mpi/make_communicator.hpp"

#include <array>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/error.hpp"
#include "core/log.hpp"
#include "parallel/transport/mpi/hierarchical_communicator.hpp"
#include "parallel/transport/mpi/mpi_communicator.hpp"
#include "parallel/transport/mpi/mpi_group.hpp"
#include "parallel/transport/mpi/mpi_world.hpp"
#include "parallel/transport/shared/shared_communicator.hpp"

namespace portolan {
namespace {

/// Makes communicators of groups, also later when they are split.
struct Factory {
  TransportOptions options;
  std::vector<int> node_of;  ///< by rank in the job

  [[nodiscard]] std::unique_ptr<Communicator> make(const MpiGroup& group) const;
  [[nodiscard]] std::unique_ptr<Communicator> make_within_node(const MpiGroup& group) const;
};

/// Whether a step of setting up worked on every rank, else why not on the first where it did not.
std::string first_problem(const MpiGroup& group, const std::string& own) {
  std::array<char, 256> text{};
  std::strncpy(text.data(), own.c_str(), text.size() - 1);
  const std::vector<std::byte> all =
      group.exchange(std::as_bytes(std::span(text)), "setting up shared memory");
  for (int rank = 0; rank < group.size(); ++rank) {
    std::string problem(
        reinterpret_cast<const char*>(all.data() + static_cast<std::size_t>(rank) * text.size()));
    if (!problem.empty()) return problem;
  }
  return {};
}

/// What went wrong in `attempt`, or nothing.
std::string problem_of(const std::function<void()>& attempt) {
  try {
    attempt();
    return {};
  } catch (const Error& error) {
    return error.what();
  }
}

/// Null, with the reason on every rank, if some rank cannot share memory with the others.
std::unique_ptr<Communicator> make_shared(const MpiGroup& group, std::string& problem) {
  std::shared_ptr<SharedSegment> control;
  SegmentName name;
  std::string own = problem_of([&] {
    if (group.rank() != 0) return;
    control = std::make_shared<SharedSegment>(make_shared_control(group.size()));
    name = control->name();
  });
  const std::vector<std::byte> names =
      group.exchange(std::as_bytes(std::span(&name, 1)), "setting up shared memory");
  if (group.rank() != 0) {
    std::memcpy(&name, names.data(), sizeof(name));
    own = problem_of([&] {
      // The first rank says itself why it has none.
      if (name.reserved > 0) control = std::make_shared<SharedSegment>(SharedSegment::open(name));
    });
  }
  problem = first_problem(group, own);
  if (!problem.empty()) return nullptr;
  std::unique_ptr<Communicator> communicator;
  own = problem_of([&] {
    communicator = make_shared_communicator(control, group.rank(), group.size(), group.deadline());
  });
  problem = first_problem(group, own);
  if (!problem.empty()) return nullptr;
  return communicator;
}

std::unique_ptr<Communicator> Factory::make_within_node(const MpiGroup& group) const {
  if (group.size() == 1) return make_single_communicator();
  std::string problem;
  std::unique_ptr<Communicator> communicator = make_shared(group, problem);
  if (communicator) return communicator;
  if (options.choice == TransportChoice::shared) {
    throw UnsupportedError(fmt::format("ranks cannot share memory: {}", problem));
  }
  if (group.rank() == 0) log().warn("ranks use MPI within the node: {}", problem);
  return make_mpi_communicator_over(group);
}

std::unique_ptr<Communicator> Factory::make(const MpiGroup& group) const {
  if (group.size() == 1) return make_single_communicator();
  if (options.choice == TransportChoice::mpi) return make_mpi_communicator_over(group);
  std::map<int, std::vector<int>> members;
  for (int rank = 0; rank < group.size(); ++rank) {
    members[node_of[static_cast<std::size_t>(group.world_rank(rank))]].push_back(rank);
  }
  if (members.size() == 1) return make_within_node(group);
  if (options.choice == TransportChoice::shared) {
    throw UnsupportedError(
        fmt::format("{} ranks on {} nodes cannot share memory", group.size(), members.size()));
  }
  if (members.size() == static_cast<std::size_t>(group.size())) {
    return make_mpi_communicator_over(group);
  }
  std::vector<std::vector<int>> nodes;
  int own_node = 0;
  int local_rank = 0;
  for (const auto& [node, ranks] : members) {
    for (std::size_t local = 0; local < ranks.size(); ++local) {
      if (ranks[local] != group.rank()) continue;
      own_node = static_cast<int>(nodes.size());
      local_rank = static_cast<int>(local);
    }
    nodes.push_back(ranks);
  }
  std::unique_ptr<Communicator> node = make_within_node(group.split(own_node, group.rank()));
  const MpiGroup peers = group.split(local_rank, own_node);
  std::unique_ptr<Communicator> across =
      peers.size() == 1 ? make_single_communicator() : make_mpi_communicator_over(peers);
  return make_hierarchical_communicator(
      {group, std::move(nodes), std::move(node), std::move(across),
       [factory = *this](const MpiGroup& part) { return factory.make(part); }});
}

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(const MpiSession& session,
                                                    const TransportOptions& options) {
  const MpiWorld& world = *session.world();
  Factory factory{options, {}};
  // Nodes in the order of their first ranks; an emulated node is a part of a real one.
  std::map<std::pair<int, int>, int> numbers;
  for (std::size_t rank = 0; rank < world.node_leader.size(); ++rank) {
    const int part =
        options.ranks_per_node == 0 ? 0 : world.local_rank[rank] / options.ranks_per_node;
    const auto number = static_cast<int>(numbers.size());
    factory.node_of.push_back(
        numbers.try_emplace({world.node_leader[rank], part}, number).first->second);
  }
  return factory.make(MpiGroup::all(session.world(), options.deadline));
}

}  // namespace portolan
