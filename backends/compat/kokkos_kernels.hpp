// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <KokkosBlas3_gemm.hpp>

#include "backends/compat/kokkos.hpp"

namespace portolan::compat {

/// C = A op(B) + beta C in f32. Kokkos Kernels takes the execution space from 3.6 on; before, it
/// ran on the views' default instance, which is the only one that Serial and OpenMP have.
template <class Space, class AView, class BView, class CView>
void gemm(const Space& space, bool transpose_b, const AView& a, const BView& b, float beta,
          const CView& c) {
  const char* const mode_b = transpose_b ? "T" : "N";
#if KOKKOS_VERSION >= 30600
  KokkosBlas::gemm(space, "N", mode_b, 1.0F, a, b, beta, c);
#else
  static_cast<void>(space);
  KokkosBlas::gemm("N", mode_b, 1.0F, a, b, beta, c);
#endif
}

}  // namespace portolan::compat
