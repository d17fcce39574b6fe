// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Every attention method, forward and backward, on any Kokkos execution space. Kokkos must be
/// initialised when kernels run.
namespace portolan {

/// Registers the methods for device `serial`, the preferred first: flash, window, block-sparse,
/// memory-efficient, standard.
void register_portable_attention_serial();
/// The same for device `cpu` (Kokkos::OpenMP); in builds with Portolan_ENABLE_OPENMP.
void register_portable_attention_openmp();
/// The same for device `cuda` (the default instance of Kokkos::Cuda); in builds with
/// Portolan_ENABLE_CUDA.
void register_portable_attention_cuda();

}  // namespace portolan
