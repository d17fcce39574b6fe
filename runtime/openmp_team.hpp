// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <string>

/// What placement needs of OpenMP. Without OpenMP in the build, a team is the calling thread.
namespace portolan {

/// Runs body(i) once on each thread i of an OpenMP team of `threads`. The body must not throw.
void run_on_openmp_team(int threads, const std::function<void(int)>& body);

/// The processing units of all OpenMP places, "0-79", or an empty text if there are none. With
/// OMP_PROC_BIND, OMP_PLACES or GOMP_CPU_AFFINITY set, the OpenMP library binds the first thread to
/// one place before main() starts, and only this still tells which mask the process was given: pass
/// it to Topology::detect.
[[nodiscard]] std::string openmp_places();

}  // namespace portolan
