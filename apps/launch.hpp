// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <map>
#include <string>
#include <vector>

/// How processes of this one are started under mpirun or srun, and how a process knows that it was.
namespace portolan {

/// Rank that a launcher (Open MPI, MPICH, Slurm) gave this process in its environment; 0 without
/// one.
[[nodiscard]] int launched_rank();

/// The name of the launcher and its number of ranks, e.g. "mpirun with 2 ranks", when this process
/// is one of several, or one that Open MPI started (which cannot start others inside); else empty.
[[nodiscard]] std::string enclosing_launch();

/// Which program starts ranks.
struct Launcher {
  enum class Kind { open_mpi, mpirun, srun };
  Kind kind = Kind::open_mpi;
  std::string program;  ///< absolute path
  std::string version;  ///< "mpirun (Open MPI) 4.1.4"
};

/// Finds `name` ("mpirun" or "srun") on PATH and asks it which MPI it belongs to. Throws
/// UnsupportedError, one line saying what to install, when it is not there.
[[nodiscard]] Launcher find_launcher(const std::string& name);

struct LaunchRequest {
  int ranks = 1;
  int threads = 1;             ///< per rank
  bool oversubscribe = false;  ///< more ranks than the launcher would allow by itself
  std::vector<std::string> command;
};

/// Whether the launcher must be told to start that many ranks: they exceed the cores, or a Slurm
/// allocation that has fewer tasks (whose cores one task may still have) limits them.
[[nodiscard]] bool needs_oversubscription(int ranks, int cores);

/// The command line that starts the ranks. Ranks are left unbound: each binds itself by hwloc.
[[nodiscard]] std::vector<std::string> launch_arguments(const Launcher& launcher,
                                                        const LaunchRequest& request);

/// Variables to set for the launcher and the ranks; `is_root` for Open MPI, which needs to be told
/// that starting ranks as root is meant.
[[nodiscard]] std::map<std::string, std::string> launch_environment(const Launcher& launcher,
                                                                    const LaunchRequest& request,
                                                                    bool is_root);

/// Absolute path of the file that is running.
[[nodiscard]] std::string own_path();

/// Absolute path of an executable by the rules of PATH; empty when there is none.
[[nodiscard]] std::string find_program(const std::string& name);

}  // namespace portolan
