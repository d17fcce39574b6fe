// SPDX-License-Identifier: Apache-2.0
#include "runtime/openmp_team.hpp"

#include <vector>

#include "runtime/topology.hpp"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace portolan {

#ifdef _OPENMP

void run_on_openmp_team(int threads, const std::function<void(int)>& body) {
#pragma omp parallel num_threads(threads)
  body(omp_get_thread_num());
}

std::string openmp_places() {
  std::vector<int> all;
  for (int place = 0; place < omp_get_num_places(); ++place) {
    std::vector<int> units(static_cast<std::size_t>(omp_get_place_num_procs(place)));
    omp_get_place_proc_ids(place, units.data());
    all.insert(all.end(), units.begin(), units.end());
  }
  return index_list(all);
}

#else

void run_on_openmp_team(int, const std::function<void(int)>& body) { body(0); }

std::string openmp_places() { return {}; }

#endif

}  // namespace portolan
