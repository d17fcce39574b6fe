// SPDX-License-Identifier: Apache-2.0
// Collectives against the MPI library's own, on the same buffers and in the same run:
//
//   mpirun -n 2 bench_collectives [--bytes 8192,1048576,33554432] [--samples 51] [--staged]
//
// A sample is the longest time over the ranks of as many calls as take about 1 ms, or one; ours and
// MPI's samples alternate. --staged uses tensors that are in no window. PORTOLAN_TRANSPORT and
// PORTOLAN_RANKS_PER_NODE choose the transport. Speed is the tensor's bytes over the time, in GB/s.
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <fmt/format.h>
#include <mpi.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backends/compat/kokkos_runtime.hpp"
#include "core/backend.hpp"
#include "core/error.hpp"
#include "core/samples.hpp"
#include "parallel/transport/mpi/make_communicator.hpp"
#if defined(PORTOLAN_HAS_OPENMP)
#include "backends/openmp/openmp_backend.hpp"
#else
#include "backends/serial/serial_backend.hpp"
#endif

namespace {

using portolan::Communicator;
using portolan::Tensor;

struct Options {
  std::vector<std::int64_t> bytes{8 * 1024, 1 << 20, 32 << 20};
  int samples = 51;
  bool staged = false;
};

double seconds_of(const std::function<void()>& call, int calls) {
  MPI_Barrier(MPI_COMM_WORLD);
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < calls; ++i) call();
  double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() / calls;
  MPI_Allreduce(MPI_IN_PLACE, &seconds, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
  return seconds;
}

void compare(const Communicator& world, const Options& options, const char* name,
             std::int64_t bytes, const std::function<void()>& ours,
             const std::function<void()>& mpi) {
  const auto calls_for = [](const std::function<void()>& call) {
    constexpr double kSampleSeconds = 0.001;
    seconds_of(call, 3);
    return std::max(1, static_cast<int>(kSampleSeconds / seconds_of(call, 3)));
  };
  const int our_calls = calls_for(ours);
  const int mpi_calls = calls_for(mpi);
  std::vector<double> our_samples;
  std::vector<double> mpi_samples;
  for (int sample = 0; sample < options.samples; ++sample) {
    our_samples.push_back(seconds_of(ours, our_calls));
    mpi_samples.push_back(seconds_of(mpi, mpi_calls));
  }
  if (world.rank() != 0) return;
  const portolan::SampleSummary a = portolan::summary_of(our_samples);
  const portolan::SampleSummary b = portolan::summary_of(mpi_samples);
  fmt::print(
      "{:<15}{:>10}  {:>9.1f} [{:.1f}, {:.1f}] us {:>6.2f} GB/s   {:>9.1f} [{:.1f}, {:.1f}] us "
      "{:>6.2f} GB/s   {:.2f}x\n",
      name, bytes, a.median * 1e6, a.minimum * 1e6, a.maximum * 1e6,
      static_cast<double>(bytes) / a.median * 1e-9, b.median * 1e6, b.minimum * 1e6,
      b.maximum * 1e6, static_cast<double>(bytes) / b.median * 1e-9, b.median / a.median);
  std::fflush(stdout);
}

void run(Communicator& world, const Options& options, portolan::Device device) {
  const auto make = [&](std::int64_t elements) {
    Tensor tensor = options.staged
                        ? portolan::allocate_private({elements}, portolan::DType::f32, device)
                        : world.allocate({elements}, portolan::DType::f32, device);
    std::memset(tensor.raw(), 0, tensor.bytes());  // sums of zeros stay zeros
    return tensor;
  };
  for (const std::int64_t wanted : options.bytes) {
    const std::int64_t share = wanted / 4 / world.size();
    const std::int64_t elements = share * world.size();
    const std::int64_t bytes = elements * 4;
    const auto partition = portolan::Partition::even(elements, world.size());
    const Tensor full = make(elements);
    const Tensor shard = make(share);
    const auto count = static_cast<int>(elements);
    const auto part = static_cast<int>(share);
    compare(
        world, options, "all_reduce", bytes, [&] { world.all_reduce(full); },
        [&] {
          MPI_Allreduce(MPI_IN_PLACE, full.raw(), count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
        });
    compare(
        world, options, "reduce_scatter", bytes,
        [&] { world.reduce_scatter(full, shard, 0, partition); },
        [&] {
          MPI_Reduce_scatter_block(full.raw(), shard.raw(), part, MPI_FLOAT, MPI_SUM,
                                   MPI_COMM_WORLD);
        });
    compare(
        world, options, "all_gather", bytes, [&] { world.all_gather(shard, full, 0, partition); },
        [&] {
          MPI_Allgather(shard.raw(), part, MPI_FLOAT, full.raw(), part, MPI_FLOAT, MPI_COMM_WORLD);
        });
    compare(
        world, options, "broadcast", bytes, [&] { world.broadcast(full, 0); },
        [&] { MPI_Bcast(full.raw(), count, MPI_FLOAT, 0, MPI_COMM_WORLD); });
  }
  compare(
      world, options, "barrier", 0, [&] { world.barrier(); }, [] { MPI_Barrier(MPI_COMM_WORLD); });
}

}  // namespace

int main(int argc, char** argv) {
  portolan::MpiSession session(argc, argv);
  Options options;
  CLI::App app("Collectives against the MPI library's own");
  app.add_option("--bytes", options.bytes, "sizes of the whole tensor")->delimiter(',');
  app.add_option("--samples", options.samples, "samples per row");
  app.add_flag("--staged", options.staged, "use tensors outside windows");
  CLI11_PARSE(app, argc, argv);
  try {
    const portolan::KokkosRuntime kokkos({.threads = 1});
#if defined(PORTOLAN_HAS_OPENMP)
    portolan::register_backend(portolan::make_openmp_backend());
    const portolan::Device device{portolan::DeviceKind::cpu, 0};
#else
    portolan::register_backend(portolan::make_serial_backend());
    const portolan::Device device{portolan::DeviceKind::serial, 0};
#endif
    {
      const std::unique_ptr<Communicator> world = portolan::make_mpi_communicator(session);
      if (session.rank() == 0) {
        std::vector<char> version(MPI_MAX_LIBRARY_VERSION_STRING);
        int length = 0;
        MPI_Get_library_version(version.data(), &length);
        fmt::print("{} ranks, {}; {}\n{}\n{:<15}{:>10}  {:<44}{:<44}{}\n", session.size(),
                   world->description(), std::string(version.data()).substr(0, 40),
                   portolan::backend_of(device).description(), "collective", "bytes",
                   "Portolan: median [min, max]", "MPI: median [min, max]", "speed-up");
      }
      run(*world, options, device);
    }
    portolan::unregister_backends();
  } catch (const portolan::Error& error) {
    fmt::print(stderr, "rank {}: {}\n", session.rank(), error.what());
    session.abort(error.exit_code());
  }
}
