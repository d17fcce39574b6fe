// SPDX-License-Identifier: Apache-2.0
#pragma once

#if defined(PORTOLAN_HAS_KOKKOS_KERNELS)
#include <KokkosBlas3_gemm.hpp>
#endif

#include "backends/compat/kokkos.hpp"
#include "backends/compat/tiled_gemm.hpp"

namespace portolan::compat {

/// What multiplies, for records.
#if defined(PORTOLAN_HAS_KOKKOS_KERNELS)
inline constexpr const char* kGemmLibrary = "Kokkos Kernels";
#else
inline constexpr const char* kGemmLibrary = "own products";
#endif

/// C = op(A) op(B) + beta C in f32, of row-major views. Kokkos Kernels takes the execution space
/// from 3.6 on; before, it ran on the views' default instance, which is the only one that Serial
/// and OpenMP have. Builds with CUDA may be without it.
template <class Space, class AView, class BView, class CView>
void gemm(const Space& space, bool transpose_a, bool transpose_b, const AView& a, const BView& b,
          float beta, const CView& c) {
#if defined(PORTOLAN_HAS_KOKKOS_KERNELS)
  const char* const mode_a = transpose_a ? "T" : "N";
  const char* const mode_b = transpose_b ? "T" : "N";
#if KOKKOS_VERSION >= 30600
  if (!transpose_b && c.extent(1) == 1) {
    // Kokkos Kernels 4 takes a single column for a dense vector, whatever its stride, unless the
    // layout is strided by type.
    const Kokkos::View<float**, Kokkos::LayoutStride, typename CView::device_type,
                       Kokkos::MemoryTraits<Kokkos::Unmanaged>>
        column(c.data(), Kokkos::LayoutStride(c.extent(0), c.stride(0), 1, 1));
    KokkosBlas::gemm(space, mode_a, mode_b, 1.0F, a, b, beta, column);
    return;
  }
  KokkosBlas::gemm(space, mode_a, mode_b, 1.0F, a, b, beta, c);
#else
  static_cast<void>(space);
  KokkosBlas::gemm(mode_a, mode_b, 1.0F, a, b, beta, c);
#endif
#else
  TiledGemm<Space> kernel;
  kernel.a = a.data();
  kernel.b = b.data();
  kernel.c = c.data();
  kernel.rows = static_cast<std::int64_t>(c.extent(0));
  kernel.columns = static_cast<std::int64_t>(c.extent(1));
  kernel.inner = static_cast<std::int64_t>(a.extent(transpose_a ? 0 : 1));
  kernel.a_stride = static_cast<std::int64_t>(a.stride(0));
  kernel.b_stride = static_cast<std::int64_t>(b.stride(0));
  kernel.c_stride = static_cast<std::int64_t>(c.stride(0));
  kernel.transpose_a = transpose_a;
  kernel.transpose_b = transpose_b;
  kernel.beta = beta;
  kernel.launch(space);
#endif
}

}  // namespace portolan::compat
