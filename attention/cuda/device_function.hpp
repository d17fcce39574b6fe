// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Kernels are written over a `Lane`, one thread's view of its GPU: of CUDA in kernels, an
/// emulation in tests on machines without a GPU. So they have to compile as plain C++ too.
#if defined(__CUDACC__)
#define PORTOLAN_DEVICE __device__ __forceinline__
#define PORTOLAN_UNROLL _Pragma("unroll")
#else
#define PORTOLAN_DEVICE inline
#define PORTOLAN_UNROLL
#endif
