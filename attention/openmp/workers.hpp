// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <omp.h>

namespace portolan::flash {

/// Calls body(worker) for workers [0, workers) side by side, or on the caller if there is one. More
/// of them are part of the whole team, the rest of which does nothing: OpenMP libraries end the
/// threads that a smaller team leaves out, and starting them anew takes the next region far longer
/// than waking them. At most omp_get_max_threads() workers.
template <class Body>
void run_workers(int workers, const Body& body) {
  if (workers == 1) {
    body(0);
    return;
  }
#pragma omp parallel
  {
    const int worker = omp_get_thread_num();
    if (worker < workers) body(worker);
  }
}

}  // namespace portolan::flash
