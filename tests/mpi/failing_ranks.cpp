// SPDX-License-Identifier: Apache-2.0
// Helper of failures.py: ranks loop on collectives until the last one does what the argument says:
//   kill, stop  signals itself
//   error       throws an error of its own
// Each rank prints its process number first, and its error as a command would.
#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <string>

#include "core/error.hpp"
#include "parallel/transport/mpi/make_communicator.hpp"

namespace {

void run(portolan::Communicator& world, const std::string& what) {
  using portolan::DType;
  const portolan::Partition partition = portolan::Partition::even(200'000, world.size());
  const portolan::Tensor x = world.allocate({200'000}, DType::f32, portolan::Device{});
  const portolan::Tensor shard =
      world.allocate({partition.share(world.rank())}, DType::f32, portolan::Device{});
  for (int round = 0;; ++round) {
    world.all_reduce(x);
    world.reduce_scatter(x, shard, 0, partition);
    world.all_gather(shard, x, 0, partition);
    const auto rotation = world.rotate(shard.slice(0, 0, partition.share(world.size() - 1)));
    for (int step = 1; step < world.size(); ++step) {
      rotation->prefetch();
      if (round == 50 && world.rank() == world.size() - 1) {
        if (what == "kill") ::raise(SIGKILL);
        if (what == "stop") ::raise(SIGSTOP);
        if (what == "error") throw portolan::UsageError("this rank has had enough");
      }
      rotation->advance();
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  portolan::MpiSession session(argc, argv);
  fmt::print(stderr, "process {}\n", ::getpid());
  try {
    const auto world = portolan::make_mpi_communicator(session);
    run(*world, argc > 1 ? argv[1] : "");
  } catch (const portolan::Error& error) {
    fmt::print(stderr, "rank {} error: {}\n", session.rank(), error.what());
    session.abort(error.exit_code());
  }
}
